//! Nodes that lose their disks: each comes back by itself, also in an idle cluster, one after the other in all; more than
//! f at once do not, and say so (PROTOCOL.md section 5.5).

use std::time::Duration;

use twostep_engine::machine::Event;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{NodeId, NodeSet};
use twostep_tests::disk::Fate;
use twostep_tests::plan::{Fault, FaultKind, Plan};
use twostep_tests::topology::Topology;
use twostep_tests::world::{Honest, Sight, World};

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
