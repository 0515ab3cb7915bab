//! The promise in the name: `Propose`, `Accepted`, learned. With every link one unit long and no load, a decree
//! is learned two units after its leader sends it, and a client holds its quorum of replies four units after
//! its call: Submit, Propose, Accepted, Replies.

use std::collections::BTreeMap;

use twostep_engine::machine::{Event, Path};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, Time};
use twostep_tests::plan::Plan;
use twostep_tests::topology::Topology;
use twostep_tests::world::{Honest, Observed, Sight, World};

const UNIT_NS: u64 = 1_000_000;
const CALLS: usize = 20;

/// What one calm run took, in nanoseconds: from each proposal to each learner, from each call to its answer.
struct Steps {
    to_learners: Vec<u64>,
    to_clients: Vec<u64>,
}

fn steps(model: FaultModel, f: usize, topology: Topology) -> Steps {
    let plan = Plan::unit(model, f, topology, UNIT_NS);
    let mut world = World::new(plan, 1, &Honest, false);
    world.set_clients_busy(false);
    let long = Time(u64::MAX);
    assert!(world.run(long, World::sessions_open).expect("clean"));
    world.keep_observed();
    for call in 1..=CALLS as u64 {
        let learned_everywhere = |world: &World<'_>| {
            world
                .correct_learners()
                .iter()
                .all(|node| world.delivered_by(node) == world.decrees())
        };
        world.ask(0, 1);
        let done = |world: &World<'_>| world.committed() == call && learned_everywhere(world);
        assert!(world.run(long, done).expect("clean"));
    }
    measure(&world.take_observed(), world.correct_learners().len())
}

fn measure(observed: &[Observed], learners: usize) -> Steps {
    let mut proposed: BTreeMap<Decree, Time> = BTreeMap::new();
    let mut steps = Steps {
        to_learners: Vec::new(),
        to_clients: Vec::new(),
    };
    for Observed { at, what } in observed {
        match what {
            Sight::Event(_, Event::Proposed { decree, .. }) => {
                proposed.insert(*decree, *at);
            }
            Sight::Event(_, Event::Learned { decree, path, .. }) => {
                assert_eq!(*path, Path::Votes, "nobody needs to ask in a calm world");
                // The decrees that opened the sessions were proposed before anyone looked.
                if let Some(proposed) = proposed.get(decree) {
                    steps.to_learners.push(at.0 - proposed.0);
                }
            }
            Sight::Committed { called, .. } => steps.to_clients.push(at.0 - called.0),
            Sight::Event(..) => {}
        }
    }
    assert_eq!(proposed.len(), CALLS, "one decree per call");
    assert_eq!(
        steps.to_learners.len(),
        CALLS * learners,
        "every learner learned every decree"
    );
    assert_eq!(steps.to_clients.len(), CALLS);
    steps
}

#[test]
fn separate_roles_take_exactly_two_units_and_four_to_the_client() {
    for model in [FaultModel::Fab, FaultModel::Crash] {
        for f in 1..=3 {
            let steps = steps(model, f, Topology::Separate);
            assert!(
                steps.to_learners.iter().all(|ns| *ns == 2 * UNIT_NS),
                "{model} f = {f}: {:?}",
                steps.to_learners
            );
            assert!(
                steps.to_clients.iter().all(|ns| *ns == 4 * UNIT_NS),
                "{model} f = {f}: {:?}",
                steps.to_clients
            );
        }
    }
}

#[test]
fn shared_roles_are_never_later() {
    for model in [FaultModel::Fab, FaultModel::Crash] {
        for f in 1..=3 {
            let steps = steps(model, f, Topology::Shared);
            assert!(
                steps.to_learners.iter().all(|ns| *ns <= 2 * UNIT_NS),
                "{model} f = {f}: {:?}",
                steps.to_learners
            );
            assert!(
                steps.to_clients.iter().all(|ns| *ns <= 4 * UNIT_NS),
                "{model} f = {f}: {:?}",
                steps.to_clients
            );
        }
    }
}
