//! Nodes that lose their disks: each comes back by itself, also in an idle cluster, one after the other in all; more than
//! f at once do not, and say so (PROTOCOL.md section 5.5).

use std::time::Duration;

use twostep_engine::machine::{Event, Machine};
use twostep_engine::message::Checkpoint;
use twostep_engine::quorum::FaultModel;
use twostep_engine::record::OwnedRecord;
use twostep_engine::replica::{Execute, Replica, RestoreError, Setup};
use twostep_engine::types::{Decree, NodeId, NodeSet};
use twostep_tests::checkers::{Property, Violation};
use twostep_tests::disk::Fate;
use twostep_tests::plan::{Fault, FaultKind, Plan};
use twostep_tests::rules::S12Literal;
use twostep_tests::topology::Topology;
use twostep_tests::world::{Cast, Honest, Sight, World};

const UNIT_NS: u64 = 1_000_000;

fn plan(model: FaultModel, faults: Vec<Fault>) -> Plan {
    let mut plan = Plan::unit(model, 1, Topology::Shared, UNIT_NS);
    (
        plan.limits.window,
        plan.limits.checkpoint_every,
        plan.limits.snapshot_every,
    ) = (16, 4, 4);
    plan.tuning.t0 = Duration::from_nanos(UNIT_NS * 20);
    plan.clients.retry = plan.tuning.t0 * 2;
    plan.clients.retry_max = plan.tuning.t0 * 4;
    plan.faults = faults;
    plan
}

fn loss(at: u64, node: u16) -> Fault {
    let (node, after) = (NodeId(node), Duration::from_nanos(UNIT_NS));
    Fault {
        at,
        what: FaultKind::Loss { node, after },
    }
}

/// Who takes part again among what was observed since the last time.
fn rejoined(world: &mut World<'_>) -> NodeSet {
    let observed = world.take_observed().into_iter();
    let rejoined = observed.filter_map(|seen| match seen.what {
        Sight::Event(node, Event::Rejoined { .. }) => Some(node),
        _ => None,
    });
    rejoined.collect()
}

#[test]
fn an_idle_cluster_heals() {
    for model in [FaultModel::Fab, FaultModel::Crash] {
        for node in 0..3 {
            let plan = plan(model, vec![loss(30, node)]);
            let t0 = plan.tuning.t0;
            let mut world = World::new(plan, 7, &Honest, false);
            world.keep_observed();
            let until = world.now() + t0 * 1000;
            let struck = world.run(until, |world| world.committed() >= 30).unwrap();
            assert!(struck, "{model:?}");
            world.set_clients_busy(false);
            let bound = world.now() + world.rest_bound() + t0 * 8;
            world.run(bound, |_| false).unwrap();
            assert_eq!(
                rejoined(&mut world),
                NodeSet::one(NodeId(node)),
                "{model:?} n{node}"
            );
            world.compare_states().unwrap();
        }
    }
}

#[test]
fn every_node_may_lose_its_disk_in_turn() {
    for model in [FaultModel::Fab, FaultModel::Crash] {
        let nodes = if model == FaultModel::Fab { 6 } else { 3 };
        let losses = (0..nodes).map(|node| loss(40 + 400 * u64::from(node), node));
        let plan = plan(model, losses.collect());
        let t0 = plan.tuning.t0;
        let mut world = World::new(plan, 9, &Honest, false);
        world.keep_observed();
        let until = world.now() + t0 * 20_000;
        let enough = 400 * (u64::from(nodes) + 1);
        assert!(
            world
                .run(until, |world| world.committed() >= enough)
                .unwrap()
        );
        world.set_clients_busy(false);
        let bound = world.now() + world.rest_bound() + t0 * 8;
        world.run(bound, |_| false).unwrap();
        let all: NodeSet = (0..nodes).map(NodeId).collect();
        assert_eq!(rejoined(&mut world), all, "{model:?}");
        world.compare_states().unwrap();
    }
}

#[test]
fn more_than_f_at_once_stay_out() {
    for model in [FaultModel::Fab, FaultModel::Crash] {
        let lost = |node| Fault {
            at: 30,
            what: FaultKind::Crash {
                node: NodeId(node),
                fate: Fate::AllLost,
                rejoin_after: Some(Duration::from_nanos(UNIT_NS)),
            },
        };
        let plan = plan(model, vec![lost(1), lost(2)]);
        let t0 = plan.tuning.t0;
        let mut world = World::new(plan, 7, &Honest, false);
        world.keep_observed();
        let until = world.now() + t0 * 400;
        world.run(until, |_| false).unwrap();
        let rejoined = rejoined(&mut world);
        assert_eq!(rejoined, NodeSet::EMPTY, "{model:?}: nobody knows enough");
        assert!(world.committed() < 60, "{model:?}: and nothing goes on");
    }
}

/// Nodes that follow the printed rule: "ignore until d + α".
struct Literal;

impl Cast for Literal {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        Box::new(Replica::with_rules(setup, S12Literal::default()).unwrap())
    }

    fn restored(
        &self,
        setup: Setup,
        base: Option<&Checkpoint>,
        records: Vec<OwnedRecord>,
        execute: Execute<'_>,
    ) -> Result<Box<dyn Machine>, RestoreError> {
        let rules = S12Literal::default();
        let replica = Replica::restore_with_rules(setup, rules, base, records, execute)?;
        Ok(Box::new(replica))
    }
}

/// Acceptors 3 and 4 decide while 5 is more than a window behind. Only learner 6 hears of the last decree. Then 4 loses its
/// disk and hears of 5 first, and whoever knows better falls silent. Gives who takes part again.
fn behind_and_forgetful(cast: &dyn Cast) -> Result<NodeSet, Violation> {
    let mut plan = plan(FaultModel::Crash, Vec::new());
    plan.topology = Topology::Separate;
    let (t0, long) = (plan.tuning.t0, plan.tuning.t0 * 1000);
    let nodes = |nodes: &[u16]| -> NodeSet { nodes.iter().copied().map(NodeId).collect() };
    let (all, behind, forgetful) = (0..9, nodes(&[5]), nodes(&[4]));
    let all: NodeSet = all.map(NodeId).collect();
    let mut world = World::new(plan, 7, cast, false);
    world.keep_observed();
    let until = world.now() + long;
    world.run(until, |world| world.committed() >= 30)?;
    let mut last: Option<Decree> = None;
    while last.is_none_or(|last| world.delivered_by(NodeId(6)) < last) {
        world.cut(all.minus(behind), behind, t0 / 2);
        let until = world.now() + t0 / 4;
        world.run(until, |_| false)?;
        if world.committed() >= 100 && last.is_none() {
            world.cut(nodes(&[3, 4]), nodes(&[7, 8]), long);
            last = Some(world.decrees().plus(2));
        }
    }
    let knowing = nodes(&[0, 3, 6]);
    world.cut(knowing, all.minus(knowing), long);
    world.cut(all.minus(behind).minus(forgetful), nodes(&[4, 5]), t0 * 4);
    world.restart(NodeId(4), Fate::AllLost, Duration::from_nanos(UNIT_NS))?;
    let until = world.now() + t0 * 100;
    world.run(until, |_| false)?;
    Ok(rejoined(&mut world))
}

#[test]
fn a_window_is_not_enough_for_what_was_forgotten() {
    // PROTOCOL.md section 6, S12.
    let found = behind_and_forgetful(&Literal).expect_err("it votes twice");
    assert_eq!(found.property, Property::Anchoring, "{found}");
    let back = behind_and_forgetful(&Honest).expect("it does not vote");
    assert_eq!(back, NodeSet::EMPTY, "those that know are not heard");
}
