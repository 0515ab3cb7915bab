//! Who is served, and when: a client whom leaders ignore, and everybody after a long partition (PROTOCOL.md section 4).

use std::time::Duration;

use twostep_crypto::{MacKey, authenticator_key};
use twostep_engine::batch::{BundleWriter, Request, RequestKind};
use twostep_engine::configuration::Limits;
use twostep_engine::machine::Event;
use twostep_engine::message::Message;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, NodeId, NodeSet, Seq, SessionId, Time};
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

/// What a lying proposer may pass on as a client's retry.
#[derive(Clone, Copy, Debug)]
enum Junk {
    /// Signed and executed before.
    Replayed,
    /// Signed and new, but not told to the leader.
    KeptFromTheLeader,
    /// With tags that only some nodes can verify.
    Tagged,
    /// Signed, for a session that cannot exist yet.
    OfNoSession,
}

#[test]
fn a_proposer_deposes_nobody_by_what_it_passes_on() {
    let kinds = [
        Junk::Replayed,
        Junk::KeptFromTheLeader,
        Junk::Tagged,
        Junk::OfNoSession,
    ];
    for (topology, model) in [
        (Topology::Shared, FaultModel::Fab),
        (Topology::Separate, FaultModel::Fab),
        (Topology::Shared, FaultModel::Crash),
    ] {
        for junk in kinds {
            pass_on(junk, topology, model);
        }
    }
}

/// The last proposer passes junk on, again and again, while the client calls now and then; nobody changes the leader.
fn pass_on(junk: Junk, topology: Topology, model: FaultModel) {
    let mut plan = plan(1, topology);
    plan.model = model;
    let mut world = World::new(plan, 1, &Honest, false);
    world.set_clients_busy(false);
    assert!(
        world
            .run(Time(u64::MAX), World::sessions_open)
            .expect("clean")
    );
    let proposers: NodeSet = world.configuration().proposers().iter().copied().collect();
    let liar = proposers.iter().last().expect("some proposer");
    let leader = NodeSet::one(NodeId(0));
    let others = proposers.minus(leader).minus(NodeSet::one(liar));
    for round in 0..20 {
        let to = match junk {
            Junk::Replayed if round == 0 => proposers,
            Junk::Tagged | Junk::OfNoSession => proposers,
            Junk::Replayed | Junk::KeptFromTheLeader => others,
        };
        let bundle = junk_bundle(&world, junk, round);
        world.allow(&bundle);
        let message = Message::Submit {
            retry: true,
            bundle: &bundle,
        };
        world.forge(liar, to, &message);
        let committed = world.committed();
        world.ask(0, 1);
        let next = world.now() + UNIT * T0_UNITS * 3;
        world.run(next, |_| false).expect("clean");
        let case = format!("{junk:?}, {topology:?}, {model:?}, round {round}");
        assert_eq!(world.regency_changes(), 0, "{case}");
        assert_eq!(world.committed(), committed + 1, "{case}");
    }
}

fn junk_bundle(world: &World<'_>, junk: Junk, round: u64) -> Vec<u8> {
    let (scope, client) = (world.configuration().scope(), client_identity(0));
    let (session, kind) = match junk {
        Junk::OfNoSession => (u64::MAX, RequestKind::Operation),
        Junk::Tagged => (1, RequestKind::Operation),
        Junk::Replayed | Junk::KeptFromTheLeader => (0, RequestKind::Open),
    };
    let nonce = match junk {
        Junk::Replayed => 7_777,
        _ => 8_888 + round,
    };
    let mut writer = BundleWriter::new(client.public().client_id());
    assert!(writer.push(&Request {
        kind,
        session: SessionId {
            decree: Decree(session),
            index: 0,
        },
        seq: Seq(nonce),
        operation: b"",
    }));
    let bytes = match (junk, world.plan().model) {
        (_, FaultModel::Crash) => writer.finish_bare(&scope),
        (Junk::Tagged, _) => {
            // Only the leader can verify it.
            let leader = world.configuration().member(NodeId(0)).expect("a member");
            let id = client.public().client_id();
            let key = authenticator_key(&scope, &client, &leader.public, id, NodeId(0));
            let mut keys = vec![MacKey::from_bytes([0; 32]); world.configuration().voting().len()];
            keys[0] = key.expect("no key is weak");
            writer.finish_mac(&scope, &keys)
        }
        _ => writer.finish_signed(&scope, client.signing()),
    };
    bytes.to_vec()
}
