//! Broken on purpose: each mutant must be found by the checkers, or the checkers check nothing.

use twostep_engine::batch::Batch;
use twostep_engine::configuration::Configuration;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Effects, Event, Input, Machine, Question, Record, Refusal, To};
use twostep_engine::message::Message;
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::rules::{Ballot, Rules, Verdict};
use twostep_engine::types::{Decree, NodeId, NodeSet, Party, RecordSeq, Regency, Time, Value};
use twostep_tests::mutants::MUTANTS;
use twostep_tests::plan::{Plan, SimOptions};
use twostep_tests::rules::LearnQuorumLessOne;
use twostep_tests::runner::run_plan;
use twostep_tests::world::{Cast, Honest, World};

/// How many seeds a mutant may survive.
const SEEDS: u64 = 40;

/// Runs seeds until a violation whose text contains `expected` is found.
#[track_caller]
fn is_found(model: FaultModel, cast: &dyn Cast, expected: &str) {
    let options = SimOptions {
        model: Some(model),
        ..SimOptions::default()
    };
    for seed in 0..SEEDS {
        let plan = Plan::draw(&options, seed);
        assert!(
            run_plan(plan.clone(), seed, &Honest).is_clean(),
            "the seed itself is clean"
        );
        if let Some(violation) = run_plan(plan, seed, cast).violation {
            assert!(
                violation.contains(expected),
                "seed {seed} found something else: {violation}"
            );
            return;
        }
    }
    panic!("the mutant survived {SEEDS} seeds");
}

fn with_rules<R: Rules + 'static>(setup: Setup, rules: R) -> Box<dyn Machine> {
    Box::new(Replica::with_rules(setup, rules).expect("the simulator's keys are sound"))
}

/// Decides with one vote too few.
struct EagerLearner;

impl Cast for EagerLearner {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        with_rules(setup, LearnQuorumLessOne)
    }
}

#[test]
fn a_learn_quorum_that_is_too_small_is_found() {
    is_found(FaultModel::Fab, &EagerLearner, "without a learn quorum");
    is_found(FaultModel::Crash, &EagerLearner, "without a learn quorum");
}

/// Hears every vote twice: once from its acceptor, once as if from the next one.
struct DoubleCounter {
    inner: Replica,
    acceptors: Vec<NodeId>,
}

impl Machine for DoubleCounter {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        if let Input::Message {
            from: Party::Node(from),
            message:
                Message::Accepted {
                    regency,
                    decree,
                    value,
                },
        } = input
        {
            let place = self
                .acceptors
                .iter()
                .position(|acceptor| *acceptor == from)
                .expect("an acceptor speaks");
            let next = self.acceptors[(place + 1) % self.acceptors.len()];
            for voice in [from, next] {
                let message = Message::Accepted {
                    regency,
                    decree,
                    value,
                };
                self.inner.step(
                    now,
                    Input::Message {
                        from: Party::Node(voice),
                        message,
                    },
                    fx,
                );
            }
        } else {
            self.inner.step(now, input, fx);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

struct DoubleCounting;

impl Cast for DoubleCounting {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let acceptors = setup.configuration.acceptors().iter().collect();
        Box::new(DoubleCounter {
            inner: Replica::new(setup).expect("the simulator's keys are sound"),
            acceptors,
        })
    }
}

#[test]
fn a_vote_that_counts_twice_is_found() {
    is_found(FaultModel::Fab, &DoubleCounting, "without a learn quorum");
}

/// Takes every record for stored the moment it is handed over.
struct HastySpeaker {
    inner: Replica,
}

struct Unsynced<'a> {
    outer: &'a mut dyn Effects,
    last: Option<RecordSeq>,
}

impl Effects for Unsynced<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        self.outer.send(to, message);
    }
    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.last = Some(seq);
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

impl Machine for HastySpeaker {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        let mut unsynced = Unsynced {
            outer: fx,
            last: None,
        };
        self.inner.step(now, input, &mut unsynced);
        while let Some(seq) = unsynced.last.take() {
            self.inner.step(now, Input::Stored(seq), &mut unsynced);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

struct SendBeforeStored;

impl Cast for SendBeforeStored {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        Box::new(HastySpeaker {
            inner: Replica::new(setup).expect("the simulator's keys are sound"),
        })
    }
}

#[test]
fn sending_before_stored_is_found() {
    is_found(FaultModel::Fab, &SendBeforeStored, "without a durable");
    is_found(FaultModel::Crash, &SendBeforeStored, "without a durable");
}

/// Executes whatever is ordered, however often.
struct NoSessions;

impl Cast for NoSessions {
    fn executor(&self, configuration: &Configuration) -> Executor<KeyValue> {
        Executor::without_sessions(configuration, KeyValue::new())
    }
}

#[test]
fn a_missing_session_table_is_found() {
    is_found(FaultModel::Fab, &NoSessions, "ExactlyOnce");
    is_found(FaultModel::Crash, &NoSessions, "ExactlyOnce");
}

/// One learner whose state machine is not like the others'.
struct OneDiffers {
    node: NodeId,
}

struct Forgetful {
    inner: Replica,
    dropped: bool,
}

impl Machine for Forgetful {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        let mut skipping = Skipping {
            outer: fx,
            dropped: &mut self.dropped,
        };
        self.inner.step(now, input, &mut skipping);
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

/// Delivers the batch of decree 3 as decree 2.
struct Skipping<'a> {
    outer: &'a mut dyn Effects,
    dropped: &'a mut bool,
}

impl Effects for Skipping<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        self.outer.send(to, message);
    }
    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.outer.store(seq, record);
    }
    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        if decree == Decree(2) {
            *self.dropped = true;
        } else if *self.dropped {
            self.outer.deliver(Decree(decree.0 - 1), batch);
        } else {
            self.outer.deliver(decree, batch);
        }
    }
    fn ask(&mut self, question: Question) {
        self.outer.ask(question);
    }
}

impl Cast for OneDiffers {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let me = setup.me;
        let inner = Replica::new(setup).expect("the simulator's keys are sound");
        if me == self.node {
            Box::new(Forgetful {
                inner,
                dropped: false,
            })
        } else {
            Box::new(inner)
        }
    }
}

#[test]
fn a_learner_that_delivers_another_order_is_found() {
    // Whichever learner is first to deliver decree 2, the other one disagrees with it, or no quorum voted so.
    let cast = OneDiffers { node: NodeId(2) };
    let options = SimOptions {
        model: Some(FaultModel::Crash),
        topology: Some(twostep_tests::topology::Topology::Shared),
        ..SimOptions::default()
    };
    let violation = run_plan(Plan::draw(&options, 1), 1, &cast)
        .violation
        .expect("it is found");
    assert!(
        violation.contains("Agreement") || violation.contains("Chosen"),
        "{violation}"
    );
}

/// Votes for whatever it is told, also a second value.
struct Promiscuous;

impl Rules for Promiscuous {
    fn vote(&self, _ballot: &Ballot, _regency: Regency, _value: Value) -> Result<Verdict, Refusal> {
        Ok(Verdict::Vote)
    }
}

/// A leader that says another value to some acceptors, and acceptors that vote for both.
struct TwoFaced {
    inner: Replica,
    noop: Batch,
    acceptors: NodeSet,
}

impl Machine for TwoFaced {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        let mut lying = Lying {
            outer: fx,
            noop: &self.noop,
            acceptors: self.acceptors,
        };
        self.inner.step(now, input, &mut lying);
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

struct Lying<'a> {
    outer: &'a mut dyn Effects,
    noop: &'a Batch,
    acceptors: NodeSet,
}

impl Effects for Lying<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        if let Message::Propose {
            regency, decree, ..
        } = message
        {
            let noop = Message::Propose {
                regency: *regency,
                decree: *decree,
                value: self.noop.value(),
                body: self.noop.body().clone(),
            };
            self.outer.send(To::Nodes(self.acceptors), &noop);
        }
        self.outer.send(to, message);
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

struct Equivocation {
    acceptors_check: bool,
}

impl Cast for Equivocation {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        if setup.me == NodeId(0) {
            let noop = Batch::noop(&setup.configuration.scope());
            let acceptors = setup
                .configuration
                .acceptors()
                .minus(NodeSet::one(setup.me));
            let inner = Replica::new(setup).expect("the simulator's keys are sound");
            Box::new(TwoFaced {
                inner,
                noop,
                acceptors,
            })
        } else if self.acceptors_check {
            Box::new(Replica::new(setup).expect("the simulator's keys are sound"))
        } else {
            with_rules(setup, Promiscuous)
        }
    }

    fn byzantine(&self) -> NodeSet {
        NodeSet::one(NodeId(0))
    }
}

#[test]
fn acceptors_that_vote_twice_are_found() {
    let options = SimOptions {
        model: Some(FaultModel::Fab),
        ..SimOptions::default()
    };
    let cast = Equivocation {
        acceptors_check: false,
    };
    let violation =
        (0..SEEDS).find_map(|seed| run_plan(Plan::draw(&options, seed), seed, &cast).violation);
    let violation = violation.expect("two votes in one regency are found");
    assert!(violation.contains("OneValue"), "{violation}");
}

#[test]
fn acceptors_that_vote_once_bear_a_two_faced_leader() {
    let options = SimOptions {
        model: Some(FaultModel::Fab),
        ..SimOptions::default()
    };
    let cast = Equivocation {
        acceptors_check: true,
    };
    for seed in 0..10 {
        let plan = Plan::draw(&options, seed);
        let long = Time(0) + plan.tuning.t0 * 100;
        let mut world = World::new(plan, seed, &cast, false);
        // Such a leader can stop the order until it is replaced; it cannot split it.
        world.run(long, |_| false).expect("agreement holds");
    }
}

/// A violating seed of every wrong rule, and the same cluster with the right rules, in which nothing is violated.
#[test]
fn every_wrong_rule_is_found_and_nothing_else() {
    for mutant in &MUTANTS {
        let found = mutant.hunt(0..SEEDS, || {});
        let found = found.unwrap_or_else(|| panic!("{} survived {SEEDS} seeds", mutant.name));
        let (seed, what) = (found.seed, found.violation.expect("it is what was found"));
        println!("{}: seed {seed}: {what}", mutant.name);
        let cured = mutant.cured().run(seed);
        assert!(
            cured.is_clean(),
            "{} at seed {seed}: {cured:?}",
            mutant.name
        );
    }
}
