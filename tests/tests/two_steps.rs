//! The promise in the name: `Propose`, `Accepted`, learned. With every link one unit long and no load, a decree
//! is learned two units after its leader sends it, and a client holds its quorum of replies four units after
//! its call: Submit, Propose, Accepted, Replies.

use std::collections::BTreeMap;

use twostep_engine::machine::{Event, Path};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, NodeId, Regency, Time};
use twostep_tests::network::End;
use twostep_tests::plan::Plan;
use twostep_tests::topology::Topology;
use twostep_tests::world::{Honest, Intercept, Observed, Sight, World};

const UNIT_NS: u64 = 1_000_000;
const CALLS: usize = 20;

/// What one calm run took, in nanoseconds: from each proposal to each learner, from each call to its answer.
struct Steps {
    to_learners: Vec<u64>,
    to_clients: Vec<u64>,
}

fn steps(model: FaultModel, f: usize, topology: Topology) -> Steps {
    steps_in(model, f, topology, Regency(0))
}

/// The same once the cluster has changed its leader so often that the regency is at least `from`.
fn steps_in(model: FaultModel, f: usize, topology: Topology, from: Regency) -> Steps {
    let plan = Plan::unit(model, f, topology, UNIT_NS);
    let mut world = World::new(plan, 1, &Honest, false);
    world.set_clients_busy(false);
    let long = Time(u64::MAX);
    assert!(world.run(long, World::sessions_open).expect("clean"));
    world.keep_observed();
    change_leaders(&mut world, from);
    let before = world.committed();
    for call in before + 1..=before + CALLS as u64 {
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

/// Deafens everyone to the leader's proposals, again and again, until the regency is at least `from`; then waits until
/// nothing is left of that.
fn change_leaders(world: &mut World<'_>, from: Regency) {
    let mut regency = Regency(0);
    while regency < from {
        let nodes = || world.configuration().nodes();
        let intercept = Intercept {
            from: vec![End::Node(world.configuration().leader(regency))],
            to: nodes().iter().map(End::Node).collect(),
            kind: "Propose".to_owned(),
            times: u32::MAX,
            copies: 0,
        };
        world.add_intercept(intercept);
        world.ask(0, 1);
        let before = regency;
        while regency == before {
            assert!(world.step().expect("clean"));
            let entered = world.take_observed().into_iter().filter_map(entered);
            regency = entered
                .map(|(_, entered)| entered)
                .fold(regency, Regency::max);
        }
        world.clear_intercepts();
        let idle = |world: &World<'_>| world.unresolved() == 0;
        let long = Time(u64::MAX);
        assert!(
            world.run(long, idle).expect("clean"),
            "the next leader serves"
        );
        let quiet = world.now() + world.plan().tuning.t0 * 40;
        world.run(quiet, |_| false).expect("clean");
        let entered = world.take_observed().into_iter().filter_map(entered);
        regency = entered
            .map(|(_, entered)| entered)
            .fold(regency, Regency::max);
    }
}

fn entered(seen: Observed) -> Option<(NodeId, Regency)> {
    match seen.what {
        Sight::Event(node, Event::Regency { regency }) => Some((node, regency)),
        _ => None,
    }
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
            Sight::Event(node, Event::Regency { regency }) => {
                panic!("nobody suspects in a calm world, but {node:?} entered {regency}")
            }
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

#[test]
fn after_a_leader_change_it_is_two_steps_again() {
    for (model, f) in [
        (FaultModel::Fab, 1),
        (FaultModel::Fab, 2),
        (FaultModel::Crash, 1),
        (FaultModel::Crash, 2),
    ] {
        for regency in [1, 5] {
            let steps = steps_in(model, f, Topology::Shared, Regency(regency));
            assert!(
                steps.to_learners.iter().all(|ns| *ns <= 2 * UNIT_NS),
                "{model} f = {f} from regency {regency}: {:?}",
                steps.to_learners
            );
            assert!(
                steps.to_clients.iter().all(|ns| *ns <= 4 * UNIT_NS),
                "{model} f = {f} from regency {regency}: {:?}",
                steps.to_clients
            );
        }
    }
}
