//! A leader that proposes something else to everybody, for every decree of the window, and then stops: nothing can
//! be learned in its regency, and one leader change heals the whole window at once (PROTOCOL.md section 6, L9 and L10).

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use twostep_engine::batch::{Batch, Bundle, BundleWriter, Malformed, Request, RequestKind};
use twostep_engine::configuration::Limits;
use twostep_engine::machine::{Effects, Event, Input, Machine};
use twostep_engine::message::Message;
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::types::{Decree, NodeId, NodeSet, Regency, Seq, SessionId, Time};
use twostep_net::pool::{Body, Pool};
use twostep_tests::plan::Plan;
use twostep_tests::topology::{Topology, client_identity};
use twostep_tests::workload;
use twostep_tests::world::{Cast, Observed, Sight, World};

const UNIT_NS: u64 = 1_000_000;
const LIAR: NodeId = NodeId(0);
const WRITER: NodeId = NodeId(2);

/// The first leader may say anything. What it says first, to open the client's session, is written down by another node.
#[derive(Default)]
struct LyingLeader {
    first: Rc<RefCell<Option<Body>>>,
}

impl Cast for LyingLeader {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let writes = setup.me == WRITER;
        let inner = Replica::new(setup).expect("the simulator's keys are sound");
        if !writes {
            return Box::new(inner);
        }
        let first = Rc::clone(&self.first);
        Box::new(Writer { inner, first })
    }

    fn byzantine(&self) -> NodeSet {
        NodeSet::one(LIAR)
    }
}

struct Writer {
    inner: Replica,
    first: Rc<RefCell<Option<Body>>>,
}

impl Machine for Writer {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        if let Input::Message {
            message: Message::Propose { body, .. },
            ..
        } = &input
        {
            self.first.borrow_mut().get_or_insert_with(|| body.clone());
        }
        self.inner.step(now, input, fx);
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

/// A batch that no other number of copies makes: the same signed bundle so many times.
fn batch(world: &World<'_>, copies: usize) -> Batch {
    let scope = world.configuration().scope();
    let client = client_identity(0);
    let mut writer = BundleWriter::new(client.public().client_id());
    let operation = workload::increment(7);
    let request = Request {
        kind: RequestKind::Operation,
        session: SessionId {
            decree: Decree(1_000_000),
            index: 0,
        },
        seq: Seq(1),
        operation: &operation,
    };
    assert!(writer.push(&request));
    let bytes = Body::from_vec(writer.finish_signed(&scope, client.signing()).to_vec());
    let bundle = Bundle::parse(bytes, &scope, world.configuration().limits()).expect("well formed");
    let mut bundles: VecDeque<Bundle> = std::iter::repeat_n(bundle, copies).collect();
    Batch::assemble(&Pool::default(), &scope, &mut bundles, usize::MAX)
}

/// Poisons the window of W decrees, lets the leader stop, and gives how long after its proof of leadership the next
/// leader's learners knew the whole window, in units. With `bound`, all but the next leader were told one value, the client's
/// first request once more, which therefore binds, and whose body the next leader must fetch; without it nothing binds.
fn healed_after(window: u64, bound: bool) -> u64 {
    let limits = Limits {
        window,
        checkpoint_every: window / 2,
        snapshot_every: window / 2,
        ..Limits::default()
    };
    let mut plan = Plan::unit(FaultModel::Fab, 1, Topology::Shared, UNIT_NS);
    plan.limits = limits;
    // The next leader hears of the call before anybody suspects it.
    plan.clients.retry = plan.tuning.t0 / 2;
    plan.clients.retry_max = plan.tuning.t0 / 2;
    let cast = LyingLeader::default();
    let mut world = World::new(plan, 1, &cast, false);
    world.set_clients_busy(false);
    let long = Time(u64::MAX);
    assert!(world.run(long, World::sessions_open).expect("clean"));
    let first = world.decrees().next();
    assert_eq!(world.certified(), Decree::NONE, "the window begins at 0");

    world.keep_observed();
    let batches: Vec<Batch> = (1..=5).map(|copies| batch(&world, copies)).collect();
    let opened = cast.first.borrow().clone().expect("decree 1 was proposed");
    let opened = Batch::parse(
        opened,
        &world.configuration().scope(),
        world.configuration().limits(),
        |_, _| Ok::<(), Malformed>(()),
    )
    .expect("well formed");
    for decree in (first.0..=window).map(Decree) {
        for node in 1..=5 {
            let batch = if bound && node > 1 {
                &opened
            } else {
                &batches[usize::from(node) - 1]
            };
            let message = Message::Propose {
                regency: Regency(0),
                decree,
                value: batch.value(),
                body: batch.body().clone(),
            };
            world.forge(LIAR, NodeSet::one(NodeId(node)), &message);
        }
    }
    let soon = Time(world.now().0 + 10 * UNIT_NS);
    assert!(
        !world
            .run(soon, |world| world.decrees() >= first)
            .expect("clean"),
        "nothing is learned"
    );
    let voted = world.take_observed();
    let votes = voted
        .iter()
        .filter(|seen| matches!(seen.what, Sight::Event(_, Event::Voted { .. })));
    let decrees = usize::try_from(window - first.0 + 1).expect("small");
    assert_eq!(
        votes.count(),
        5 * decrees,
        "every acceptor fell for it, all over the window"
    );
    world.stop(LIAR).expect("clean");

    world.ask(0, 1);
    let later = Time(world.now().0 + 20_000 * UNIT_NS);
    assert!(
        world
            .run(later, |world| world.committed() == 1)
            .expect("clean"),
        "it goes on"
    );
    measure(&world.take_observed(), Decree(window))
}

fn measure(observed: &[Observed], last: Decree) -> u64 {
    let regencies: BTreeSet<Regency> = observed
        .iter()
        .filter_map(|seen| match seen.what {
            Sight::Event(_, Event::Regency { regency }) => Some(regency),
            _ => None,
        })
        .collect();
    assert_eq!(regencies, [Regency(1)].into(), "one leader change, no more");
    let proved = observed
        .iter()
        .find(|seen| matches!(seen.what, Sight::Event(NodeId(1), Event::Regency { .. })));
    let learned: Vec<Time> = observed
        .iter()
        .filter_map(|seen| match seen.what {
            Sight::Event(_, Event::Learned { decree, .. }) if decree <= last => Some(seen.at),
            _ => None,
        })
        .collect();
    let end = learned.iter().max().expect("the window was learned");
    (end.0 - proved.expect("the next one led").at.0) / UNIT_NS
}

#[test]
fn one_leader_change_heals_a_poisoned_window_in_four_message_delays() {
    for window in [8, 64, 256] {
        assert_eq!(healed_after(window, false), 4, "W = {window}");
    }
}

#[test]
fn bodies_that_must_be_fetched_take_two_more() {
    for window in [8, 64, 256] {
        assert_eq!(healed_after(window, true), 6, "W = {window}");
    }
}
