//! Liars that hold up what they can, each against the bound that PROTOCOL.md lets them have.

use std::time::Duration;

use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, NodeId, NodeSet, Time};
use twostep_tests::actors::troupe::{Actor, Troupe};
use twostep_tests::plan::Plan;
use twostep_tests::topology::Topology;
use twostep_tests::world::World;

/// One message delay. Nanoseconds.
const UNIT_NS: u64 = 1_000_000;

fn played_by(nodes: &[u16], strategy: &'static str) -> Vec<Actor> {
    let actor = |node: &u16| Actor {
        node: NodeId(*node),
        strategies: vec![strategy],
    };
    nodes.iter().map(actor).collect()
}

fn everybody_has(world: &World<'_>, decree: Decree) -> bool {
    let learners = world.correct_learners();
    learners
        .iter()
        .all(|node| world.delivered_by(node) >= decree)
}

#[test]
fn one_learner_and_its_favourers_are_no_progress() {
    // A proposer, an acceptor and a learner: with one correct learner they make f+1 acknowledgements.
    let actors = played_by(&[0, 4, 10], "favouring-leader");
    let mut plan = Plan::unit(FaultModel::Fab, 1, Topology::Separate, UNIT_NS);
    plan.clients.count = 3;
    plan.actors.clone_from(&actors);
    let troupe = Troupe::new(actors, 1);
    let mut world = World::new(plan, 1, &troupe, false);
    let favoured = |world: &World<'_>| world.decrees() >= Decree(1);
    assert_eq!(world.run(Time(20 * UNIT_NS), favoured), Ok(true));
    assert!(!everybody_has(&world, Decree(1)), "one learner has it");
    let until = world.now() + world.progress_bound();
    let done = world.run(until, |world| everybody_has(world, Decree(1)));
    assert_eq!(done, Ok(true), "the others wait for a whole window");
    assert!(world.regency_changes() > 0);
}

#[test]
fn a_learner_catches_up_though_bodies_are_withheld() {
    let actors = played_by(&[1], "body-withholder");
    let mut plan = Plan::unit(FaultModel::Fab, 1, Topology::Shared, UNIT_NS);
    plan.limits.window = 14;
    plan.limits.checkpoint_every = 4;
    plan.limits.snapshot_every = 24;
    plan.tuning.t0 = Duration::from_nanos(15 * UNIT_NS);
    plan.tuning.in_flight_max = 10;
    plan.clients.count = 5;
    plan.clients.pipeline = 7;
    plan.actors.clone_from(&actors);
    let troupe = Troupe::new(actors, 1);
    let mut world = World::new(plan, 1, &troupe, false);
    let cut_off = NodeSet::one(NodeId(3));
    let others = world.configuration().nodes().minus(cut_off);
    world.cut(others, cut_off, Duration::from_nanos(200 * UNIT_NS));
    assert_eq!(world.run(Time(200 * UNIT_NS), |_| false), Ok(false));
    let top = world.decrees();
    assert!(top >= Decree(40), "{top} decrees of which it has none");
    let until = world.now() + world.progress_bound();
    let done = world.run(until, |world| everybody_has(world, top.next()));
    assert_eq!(done, Ok(true), "n3 is at {}", world.delivered_by(NodeId(3)));
}
