//! More liars than f: what nobody bears, and what the checkers must report. A checker that is silent here is blind. Beside
//! every story stands the same one with f liars, which is borne.

use std::cell::RefCell;
use std::rc::Rc;

use twostep_crypto::{Signable, Signed};
use twostep_engine::batch::{Batch, Bundle, BundleWriter, Request, RequestKind};
use twostep_engine::configuration::{Configuration, Limits};
use twostep_engine::machine::{Effects, Event, Input, Machine, Question, Record, Refusal, To};
use twostep_engine::message::{
    Message, NewRegency, Outcome, ProofOfLeadership, RegencyVote, Reply, ReplyEntries, Report,
    Values,
};
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::types::{
    Decree, NodeId, NodeSet, Party, RecordSeq, Regency, Seq, SessionId, Time, Value,
};
use twostep_net::pool::{Body, Pool};
use twostep_tests::actors::learning::other_replies;
use twostep_tests::checkers::{Property, Violation};
use twostep_tests::plan::Plan;
use twostep_tests::topology::{Topology, client_identity, node_identity};
use twostep_tests::workload;
use twostep_tests::world::{Cast, Sight, World};

const UNIT_NS: u64 = 1_000_000;

fn set(nodes: &[u16]) -> NodeSet {
    nodes.iter().copied().map(NodeId).collect()
}

// Acceptors: puppets that do what the test does in their names, and keep what others tell them.

#[derive(Debug, Default)]
struct Heard {
    votes: Vec<Signed<RegencyVote>>,
    reports: Vec<Signed<Report>>,
}

struct Puppets {
    nodes: NodeSet,
    heard: Rc<RefCell<Heard>>,
}

struct Puppet(Rc<RefCell<Heard>>);

impl Machine for Puppet {
    fn step(&mut self, _: Time, input: Input<'_>, _: &mut dyn Effects) {
        let Input::Message { message, .. } = input else {
            return;
        };
        let heard = &mut *self.0.borrow_mut();
        match message {
            Message::Vote(vote) => heard.votes.push(vote),
            Message::Report(report) => heard.reports.push(*report),
            _ => {}
        }
    }

    fn deadline(&self) -> Option<Time> {
        None
    }
}

impl Cast for Puppets {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        if self.nodes.contains(setup.me) {
            Box::new(Puppet(Rc::clone(&self.heard)))
        } else {
            Box::new(Replica::new(setup).expect("the simulator's keys are sound"))
        }
    }

    fn byzantine(&self) -> NodeSet {
        self.nodes
    }
}

impl Puppets {
    fn new(nodes: &[u16]) -> Puppets {
        Puppets {
            nodes: set(nodes),
            heard: Rc::default(),
        }
    }

    /// Waits until so many correct proposers voted for regency 1, and makes its proof with the puppets' own votes.
    fn prove(&self, world: &mut World<'_>, votes: usize) -> ProofOfLeadership {
        let regency = Regency(1);
        let heard = Rc::clone(&self.heard);
        let enough = |_: &World<'_>| heard.borrow().votes.len() >= votes;
        let soon = world.now() + world.plan().tuning.t0 * 20;
        assert!(world.run(soon, enough).expect("clean"), "they suspect");
        let own = self
            .nodes
            .iter()
            .map(|node| sign(world, node, RegencyVote { regency }));
        let mut proof: Vec<_> = own.chain(heard.borrow().votes.iter().cloned()).collect();
        proof.sort_by_key(|vote| vote.signer.node());
        proof.dedup_by_key(|vote| vote.signer.node());
        proof.truncate(3);
        assert!(proof.iter().all(|vote| vote.content.regency == regency));
        ProofOfLeadership { votes: proof }
    }

    /// Waits until these nodes reported for regency 1.
    fn reports(&self, world: &mut World<'_>, of: NodeSet) -> Vec<Signed<Report>> {
        let heard = Rc::clone(&self.heard);
        let is_of =
            |report: &&Signed<Report>| report.signer.node().is_some_and(|node| of.contains(node));
        let enough =
            |_: &World<'_>| heard.borrow().reports.iter().filter(is_of).count() >= of.len();
        assert!(world.run(units(world, 10), enough).expect("clean"));
        let told = self.heard.borrow();
        told.reports.iter().filter(is_of).cloned().collect()
    }
}

fn units(world: &World<'_>, units: u64) -> Time {
    Time(world.now().0 + units * UNIT_NS)
}

fn sign<T: Signable>(world: &World<'_>, node: NodeId, content: T) -> Signed<T> {
    let identity = node_identity(usize::from(node.0));
    let (scope, signer) = (world.configuration().scope(), Party::Node(node));
    let signed = identity.signing().sign(&scope, signer, content);
    signed.into_signed()
}

/// A request that client 0 signed.
fn batch(configuration: &Configuration) -> Batch {
    let scope = configuration.scope();
    let client = client_identity(0);
    let mut writer = BundleWriter::new(client.public().client_id());
    let operation = workload::increment(7);
    assert!(writer.push(&Request {
        kind: RequestKind::Operation,
        session: SessionId {
            decree: Decree(1),
            index: 0,
        },
        seq: Seq(9),
        operation: &operation,
    }));
    let bytes = Body::from_vec(writer.finish_signed(&scope, client.signing()).to_vec());
    let bundle = Bundle::parse(bytes, &scope, configuration.limits()).expect("well formed");
    Batch::assemble(&Pool::default(), &scope, &mut [bundle].into(), usize::MAX)
}

fn propose(regency: u64, batch: &Batch) -> Message<'static> {
    Message::Propose {
        regency: Regency(regency),
        decree: Decree(1),
        value: batch.value(),
        body: batch.body().clone(),
    }
}

/// Shows a voucher in which the liars say that they voted for nothing, and proposes the other value.
fn lead(world: &mut World<'_>, leader: NodeId, shown: NewRegency, other: &Batch, to: NodeSet) {
    world.forge(leader, to, &Message::NewRegency(Box::new(shown)));
    world.forge(leader, to, &propose(1, other));
}

fn nothing(regency: u64) -> Report {
    Report {
        regency: Regency(regency),
        low: None,
        votes: Vec::new(),
    }
}

#[test]
fn two_lying_acceptors_that_lead_two_regencies_are_reported() {
    // n0 leads regency 0, n1 regency 1; both accept, so with f = 1 they are one too many.
    let puppets = Puppets::new(&[0, 1]);
    let plan = Plan::unit(FaultModel::Fab, 1, Topology::Shared, UNIT_NS);
    let mut world = World::new(plan, 1, &puppets, false);
    let configuration = world.configuration().clone();
    let (chosen, other) = (Batch::noop(&configuration.scope()), batch(&configuration));

    // Three correct acceptors and two liars are 4f+1: n2 learns what n3, n4 and n2 voted for.
    world.forge(NodeId(0), set(&[2, 3, 4]), &propose(0, &chosen));
    for liar in [0, 1] {
        let vote = Message::Accepted {
            regency: Regency(0),
            decree: Decree(1),
            value: chosen.value(),
        };
        world.forge(NodeId(liar), set(&[2]), &vote);
    }
    let end = units(&world, 5);
    world.run(end, |_| false).expect("one outcome so far");
    assert_eq!(world.delivered_by(NodeId(2)), Decree(1));
    assert_eq!(world.delivered_by(NodeId(3)), Decree::NONE);

    // Nobody serves the client: n2 and n3 vote for regency 1, one of them is enough with the liars.
    let proof = puppets.prove(&mut world, 1);
    let correct = set(&[2, 3, 4, 5]);
    let gather = Message::Gather {
        regency: Regency(1),
        proof: proof.clone(),
    };
    world.forge(NodeId(1), correct, &gather);
    // Two that voted, one that did not, and two liars: two equal reports of five bind nothing.
    let mut voucher = vec![
        sign(&world, NodeId(0), nothing(1)),
        sign(&world, NodeId(1), nothing(1)),
    ];
    voucher.extend(puppets.reports(&mut world, set(&[3, 4, 5])));
    voucher.sort_by_key(|report| report.signer.node());
    let shown = NewRegency {
        regency: Regency(1),
        proof,
        voucher,
    };
    lead(&mut world, NodeId(1), shown, &other, correct);
    let end = units(&world, 10);
    let violation = world.run(end, |_| false).expect_err("it is reported");
    assert_eq!(violation.property, Property::Anchoring, "{violation}");
}

#[test]
fn one_lying_acceptor_that_leads_is_borne() {
    let puppets = Puppets::new(&[1]);
    let plan = Plan::unit(FaultModel::Fab, 1, Topology::Shared, UNIT_NS);
    let mut world = World::new(plan, 1, &puppets, false);
    world.set_clients_busy(false);
    let open = world.run(Time(u64::MAX), World::sessions_open);
    assert!(open.expect("clean"), "decree 1 is decided");
    let other = Batch::noop(&world.configuration().scope());

    // n0 is not heard for a while; n2 and n3 suspect it, and with n1 they are a proof.
    let others = world.configuration().nodes().minus(set(&[0]));
    let long = world.plan().tuning.t0 * 20;
    world.cut(set(&[0]), others, long);
    world.ask(0, 1);
    let proof = puppets.prove(&mut world, 2);
    let correct = set(&[2, 3, 4, 5]);
    let gather = Message::Gather {
        regency: Regency(1),
        proof: proof.clone(),
    };
    world.forge(NodeId(1), correct, &gather);
    // Of five reports one is a lie: four bind the chosen value.
    let mut voucher = vec![sign(&world, NodeId(1), nothing(1))];
    voucher.extend(puppets.reports(&mut world, correct));
    let shown = NewRegency {
        regency: Regency(1),
        proof,
        voucher,
    };
    world.keep_observed();
    lead(&mut world, NodeId(1), shown, &other, correct);
    let end = units(&world, 10);
    world.run(end, |_| false).expect("nothing is violated");
    let refused = world.take_observed().into_iter().filter(|seen| {
        let why = Refusal::AgainstPlan;
        let from = Party::Node(NodeId(1));
        matches!(seen.what, Sight::Event(_, event) if event == Event::Refused { from, why })
    });
    assert_eq!(refused.count(), 4, "no correct acceptor votes for it");
}

// Learners: replicas that tell everybody the same untruth.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Every reply to an operation has another result.
    Replies,
    /// Every decree was the empty batch.
    Pulls,
}

struct Liars {
    nodes: NodeSet,
    lie: Lie,
}

struct LyingLearner {
    inner: Replica,
    lie: Lie,
    noop: Batch,
}

impl Cast for Liars {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let (me, noop) = (setup.me, Batch::noop(&setup.configuration.scope()));
        let inner = Replica::new(setup).expect("the simulator's keys are sound");
        if !self.nodes.contains(me) {
            return Box::new(inner);
        }
        let lie = self.lie;
        Box::new(LyingLearner { inner, lie, noop })
    }

    fn byzantine(&self) -> NodeSet {
        self.nodes
    }
}

impl Machine for LyingLearner {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        if let Input::Message {
            from: Party::Node(from),
            message: Message::Fetch { decree, value },
        } = input
            && value == self.noop.value()
        {
            let body = self.noop.body().clone();
            let fetched = Message::Fetched {
                decree,
                value,
                body,
            };
            fx.send(To::Nodes(NodeSet::one(from)), &fetched);
            return;
        }
        let (lie, value) = (self.lie, self.noop.value());
        let outer = fx;
        self.inner.step(now, input, &mut Lips { outer, lie, value });
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

struct Lips<'a> {
    outer: &'a mut dyn Effects,
    lie: Lie,
    value: Value,
}

impl Effects for Lips<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        match (self.lie, message) {
            (Lie::Replies, Message::Replies { regency, entries }) => {
                let is_result = |reply: Reply<'_>| matches!(reply.outcome, Outcome::Executed(_));
                let bytes = if entries.iter().all(|reply| reply.is_ok_and(is_result)) {
                    other_replies(*entries)
                } else {
                    entries.bytes().to_vec()
                };
                let (regency, entries) = (*regency, ReplyEntries::new(&bytes));
                self.outer.send(to, &Message::Replies { regency, entries });
            }
            (Lie::Pulls, Message::Pulled { first, values }) => {
                let bytes = self.value.0.0.repeat(values.len());
                let values = Values::new(&bytes).expect("whole values");
                let first = *first;
                self.outer.send(to, &Message::Pulled { first, values });
            }
            _ => self.outer.send(to, message),
        }
    }

    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.outer.store(seq, record);
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.outer.deliver(decree, batch);
    }

    fn ask(&mut self, question: Question) {
        self.outer.ask(question);
    }

    fn observe(&mut self, event: Event) {
        self.outer.observe(event);
    }
}

/// Every role on a node of its own: n10 to n13 learn. Small windows, so that a learner that missed much must pull.
fn learners(
    liars: &[u16],
    lie: Lie,
    story: impl Fn(&mut World<'_>) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let cast = Liars {
        nodes: set(liars),
        lie,
    };
    let mut plan = Plan::unit(FaultModel::Fab, 1, Topology::Separate, UNIT_NS);
    plan.limits = Limits {
        window: 8,
        checkpoint_every: 4,
        snapshot_every: 4,
        ..Limits::default()
    };
    plan.tuning.t0 = std::time::Duration::from_nanos(100 * UNIT_NS);
    let mut world = World::new(plan, 1, &cast, false);
    world.set_clients_busy(false);
    assert!(world.run(Time(u64::MAX), World::sessions_open)?);
    story(&mut world)
}

fn one_call(world: &mut World<'_>) -> Result<(), Violation> {
    world.ask(0, 1);
    let end = units(world, 10);
    assert!(world.run(end, |world| world.committed() == 1)?);
    Ok(())
}

#[test]
fn equal_wrong_replies_of_two_learners_are_reported() {
    let violation = learners(&[10, 11], Lie::Replies, one_call).expect_err("it is reported");
    assert_eq!(violation.property, Property::ExactlyOnce, "{violation}");
    learners(&[10], Lie::Replies, one_call).expect("one is borne");
}

/// n13 hears nothing while the others pass a checkpoint; then it has to ask.
fn miss_much(world: &mut World<'_>) -> Result<(), Violation> {
    let (late, lasting) = (NodeId(13), world.plan().tuning.t0 * 11 / 10);
    let others = world.configuration().nodes().minus(NodeSet::one(late));
    world.cut(others, NodeSet::one(late), lasting);
    world.ask(0, 6);
    let end = units(world, 400);
    assert!(world.run(end, |world| world.delivered_by(late) == Decree(7))?);
    Ok(())
}

#[test]
fn equal_wrong_answers_of_two_learners_to_a_pull_are_reported() {
    let violation = learners(&[10, 11], Lie::Pulls, miss_much).expect_err("it is reported");
    let seen = [Property::Chosen, Property::Agreement];
    assert!(seen.contains(&violation.property), "{violation}");
    learners(&[10], Lie::Pulls, miss_much).expect("one is borne");
}
