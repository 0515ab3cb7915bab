//! Who is served, and when: a client whom leaders ignore, and everybody after a long partition (PROTOCOL.md section 4).

use std::time::Duration;

use twostep_engine::configuration::Limits;
use twostep_engine::machine::Event;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{NodeId, NodeSet, Time};
use twostep_tests::actors::troupe::{Actor, Troupe};
use twostep_tests::plan::Plan;
use twostep_tests::topology::{Topology, client_identity};
use twostep_tests::world::{Honest, Sight, World};

const UNIT: Duration = Duration::from_millis(1);
const T0_UNITS: u32 = 100;
const WINDOW: u64 = 16;
const CLIENTS: usize = 4;

fn plan(f: usize, topology: Topology) -> Plan {
    let unit_ns = u64::try_from(UNIT.as_nanos()).expect("a small number");
    let mut plan = Plan::unit(FaultModel::Fab, f, topology, unit_ns);
    plan.tuning.t0 = UNIT * T0_UNITS;
    plan.limits = Limits {
        window: WINDOW,
        checkpoint_every: WINDOW / 2,
        snapshot_every: WINDOW / 2,
        ..Limits::default()
    };
    plan.clients.count = CLIENTS;
    plan.clients.retry = UNIT * T0_UNITS;
    // One retry must do: later ones come too late to be of help.
    plan.clients.retry_max = UNIT * T0_UNITS * 1000;
    plan
}

/// How long it takes until every client has its session when the first f leaders ignore half of them. Their Opens are
/// the calls that are censored; with `others_call`, those who are served keep calling meanwhile.
fn ignored_for(f: usize, topology: Topology, others_call: bool) -> Duration {
    let ignored =
        |client: &usize| client_identity(*client).public().client_id().0[0].is_multiple_of(2);
    let count = (0..CLIENTS).filter(ignored).count();
    assert!(
        (1..CLIENTS).contains(&count),
        "some are ignored and some are served"
    );
    let liar = |node| Actor {
        node: NodeId(node),
        strategies: vec!["censoring-leader"],
    };
    let liars = u16::try_from(f).expect("few nodes");
    let troupe = Troupe::new((0..liars).map(liar).collect(), 1);
    let mut world = World::new(plan(f, topology), 1, &troupe, false);
    world.set_clients_busy(others_call);
    let start = world.now();
    let long = start + UNIT * T0_UNITS * 1000;
    assert!(
        world.run(long, World::sessions_open).expect("clean"),
        "f = {f}: never served"
    );
    world.now().since(start)
}

#[test]
fn an_ignored_client_is_served_within_one_retry_and_one_time_out_per_leader() {
    for f in [1, 2] {
        for topology in [Topology::Shared, Topology::Separate] {
            for others_call in [false, true] {
                let took = ignored_for(f, topology, others_call);
                let leaders = u32::try_from(f + 1).expect("few faults");
                let (retry, timeout) = (UNIT * T0_UNITS, UNIT * T0_UNITS);
                let bound = leaders * (retry + timeout + UNIT * 6);
                let case = format!("f = {f}, {topology:?}, others call: {others_call}");
                assert!(took > retry, "{case}: {took:?}, so nobody was ignored");
                assert!(took <= bound, "{case}: {took:?} is above {bound:?}");
            }
        }
    }
}

#[test]
fn time_outs_fall_back_after_a_long_partition() {
    let mut world = World::new(plan(1, Topology::Shared), 1, &Honest, false);
    assert!(
        world
            .run(Time(u64::MAX), World::sessions_open)
            .expect("clean")
    );
    // Three proposers stay together and change leaders, but three acceptors are too few to follow any.
    let nodes = |range: std::ops::Range<u16>| range.map(NodeId).collect::<NodeSet>();
    let lasting = UNIT * T0_UNITS * 200;
    world.cut(nodes(0..3), nodes(3..6), lasting);
    world.cut(nodes(3..6), nodes(0..3), lasting);
    world.keep_observed();
    let healed = world.now() + lasting;
    world.run(healed, |_| false).expect("clean");
    let mut timeouts = [UNIT * T0_UNITS; 4];
    follow(&mut world, &mut timeouts);
    let longest = timeouts.iter().max().expect("four proposers");
    assert_eq!(*longest, UNIT * T0_UNITS * 64, "Tmax is reached");

    let decrees = world.decrees();
    let served = |world: &World<'_>| world.decrees().since(decrees) >= 8 * WINDOW;
    let later = world.now() + UNIT * T0_UNITS * 1000;
    assert!(
        world.run(later, served).expect("clean"),
        "the order goes on"
    );
    follow(&mut world, &mut timeouts);
    assert_eq!(
        timeouts,
        [UNIT * T0_UNITS; 4],
        "T0 again, at every proposer"
    );
}

/// Takes in what the proposers' time-outs are now.
fn follow(world: &mut World<'_>, timeouts: &mut [Duration; 4]) {
    for seen in world.take_observed() {
        if let Sight::Event(NodeId(node), Event::Timeout { timeout }) = seen.what {
            timeouts[usize::from(node)] = timeout;
        }
    }
    world.keep_observed();
}
