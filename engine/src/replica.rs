//! The roles of one node behind one [`Machine::step`].
//!
//! ```text
//!               ┌───────────────────────────── replica ─────────────────────────────┐
//!  Submit ─────►│ gate ─► proposer ──Proposal──► (stored) ──► Propose ───────────────┼──► acceptors, learners
//!  Propose ────►│ vote rule ─► acceptor ──Vote──► (stored) ──► Accepted ─────────────┼──► learners
//!  Accepted ───►│ learner ─► deliver ───────────────────────────────────────────────┼──► host executes
//!  Executed ───►│ ─► Replies; every K: Checkpoint after (stored) ────────────────────┼──► clients; all
//!  Tick ───────►│ next batch, Ack, Status, whatever is due again ────────────────────┼──► everyone
//!               └────────────── own messages reach own roles when they are said ────┘
//! ```
//!
//! Two steps in the common case: `Propose`, `Accepted`. Roles are rules over their own state that return small
//! data; only the replica sends. What rests on a record waits in `held` until the record is stored; then it is said
//! to everyone it concerns, this node's own roles included, which so take the same road as all others.

use std::collections::VecDeque;
use std::sync::Arc;

use twostep_crypto::{Identity, Scope, WeakKey};
use twostep_net::pool::{Body, Pool};

use crate::acceptor::{Acceptor, Rules, Standard, Verdict};
use crate::acks::Acks;
use crate::admission::{ClientDirectory, Gate};
use crate::batch::{Batch, Bundle};
use crate::checkpoint::{Agreement, Checkpoints};
use crate::configuration::{Configuration, Tuning};
use crate::learner::Learner;
use crate::log::Log;
use crate::machine::{
    Again, Effects, Event, Input, JournalState, Machine, Record, Refusal, Replies, To, earlier,
    retransmission,
};
use crate::message::{Certificate, Checkpoint, CheckpointClaim, Message, Status, Values};
use crate::peers::{Peers, Readiness};
use crate::proposer::Proposer;
use crate::types::{
    ClientId, Decree, Digest, NodeId, NodeSet, Party, RecordSeq, Regency, Time, Value,
};

/// The most values in one answer to a pull, and the most bodies asked for at once.
const PULL_MAX: u64 = 256;

/// How long a client waits before it tries a node again that was full. Milliseconds.
const BUSY_RETRY_MS: u32 = 20;

/// What a replica is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The cluster.
    pub configuration: Arc<Configuration>,
    /// Which member this is.
    pub me: NodeId,
    /// Its keys.
    pub identity: Arc<Identity>,
    /// The clients that it takes requests from.
    pub clients: Arc<ClientDirectory>,
    /// What it may choose for itself.
    pub tuning: Tuning,
    /// Where bodies live.
    pub pool: Pool,
    /// Whether it starts for the first time.
    pub standing: Standing,
}

/// Whether a node may keep the promises of an acceptor and proposer (PROTOCOL.md section 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It starts for the first time: it has never promised anything.
    Born,
    /// It does not know what it promised: it learns, but never votes, reports or proposes, and counts among f.
    LostDisk,
}

/// One node's protocol state. `R` is [`Standard`] except in tests of wrong rules.
pub struct Replica<R: Rules = Standard> {
    rules: R,
    configuration: Arc<Configuration>,
    scope: Scope,
    me: NodeId,
    identity: Arc<Identity>,
    tuning: Tuning,
    pool: Pool,
    standing: Standing,
    journal: JournalState,
    gate: Gate,

    regency: Regency,
    /// The newest certified checkpoint whose record is stored.
    low: Decree,
    proposer: Option<Proposer>,
    acceptor: Option<Acceptor>,
    learner: Option<Learner>,
    execution: Execution,
    checkpoints: Checkpoints,
    claim: Option<OwnClaim>,
    acks: Acks,
    peers: Peers,

    recorded: RecordSeq,
    stored: RecordSeq,
    held: VecDeque<(RecordSeq, Say)>,

    acked: Decree,
    status_at: Time,
    pull: Pull,
    values: Vec<u8>,
}

/// Something that may be said once a record is stored.
#[derive(Debug)]
enum Say {
    Propose(Regency, Decree, Batch),
    Accepted(Regency, Decree, Value),
    Checkpoint(CheckpointClaim),
    Low(Decree),
}

/// What the host has executed of what was delivered.
#[derive(Debug)]
struct Execution {
    executed: Decree,
    /// The chain at multiples of K that are learned and not yet executed. At most W/K + 1 entries.
    chains: VecDeque<(Decree, Digest)>,
    diverged: Option<Decree>,
}

/// This learner's newest checkpoint, said again until it is certified.
#[derive(Debug)]
struct OwnClaim {
    claim: CheckpointClaim,
    again_at: Time,
    times: u32,
}

/// The periodic pull of a learner with a gap.
#[derive(Debug, Default)]
struct Pull {
    /// When to ask next; none while there is no gap.
    at: Option<Time>,
    /// Up to where values were asked for last.
    up_to: Decree,
    times: u32,
    /// What was learned when the time was set: progress postpones a pull.
    learned: Decree,
}

/// What a replica says about itself, for status pages and tests.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// The regency it is in.
    pub regency: Regency,
    /// Who leads it.
    pub leader: NodeId,
    /// Whether it abstains since it lost its disk.
    pub abstaining: bool,
    /// The newest certified checkpoint.
    pub low: Decree,
    /// The highest decree up to which everything is learned.
    pub learned: Decree,
    /// The running digest of the order up to `learned`.
    pub chain: Digest,
    /// The highest decree that the host executed.
    pub executed: Decree,
    /// The checkpoint at which its results stood against the others'.
    pub diverged: Option<Decree>,
    /// As leader: the highest decree proposed.
    pub proposed: Decree,
    /// As leader: the bundles that wait.
    pub waiting: usize,
    /// What each other node last said of itself, and when.
    pub peers: Vec<(NodeId, Option<(Status, Time)>)>,
}

impl Replica<Standard> {
    /// A replica with the rules of PROTOCOL.md.
    ///
    /// # Errors
    /// [`WeakKey`] if a client's public key is unusable.
    pub fn new(setup: Setup) -> Result<Replica<Standard>, WeakKey> {
        Replica::with_rules(setup, Standard)
    }
}

impl<R: Rules> Replica<R> {
    /// A replica with other rules: for tests that show what the right ones prevent.
    ///
    /// # Errors
    /// [`WeakKey`] if a client's public key is unusable.
    ///
    /// # Panics
    /// If `me` is no member of the configuration.
    pub fn with_rules(setup: Setup, rules: R) -> Result<Replica<R>, WeakKey> {
        let Setup {
            configuration,
            me,
            identity,
            clients,
            tuning,
            pool,
            standing,
        } = setup;
        let roles = configuration
            .member(me)
            .expect("a replica is a member of its configuration")
            .roles;
        let (limits, quorums) = (*configuration.limits(), *configuration.quorums());
        let scope = configuration.scope();
        let gate = Gate::new(&configuration, me, &identity, &clients)?;
        let promises = standing == Standing::Born;
        let log = Log::new(tuning.log_decrees_max, tuning.log_bytes_max);
        let learner = || {
            let counts = (rules.learn(&quorums), quorums.pull);
            Learner::new(
                &scope,
                limits.window,
                configuration.members().len(),
                counts,
                log,
            )
        };
        Ok(Replica {
            regency: Regency(0),
            low: Decree::NONE,
            proposer: (roles.proposer && promises).then(|| Proposer::new(limits.window)),
            acceptor: (roles.acceptor && promises).then(|| Acceptor::new(limits.window)),
            learner: roles.learner.then(learner),
            execution: Execution {
                executed: Decree::NONE,
                chains: VecDeque::new(),
                diverged: None,
            },
            checkpoints: Checkpoints::new(&configuration),
            claim: None,
            acks: Acks::new(configuration.learners()),
            peers: Peers::new(&configuration, me),
            recorded: RecordSeq(0),
            stored: RecordSeq(0),
            held: VecDeque::new(),
            acked: Decree::NONE,
            status_at: Time(0),
            pull: Pull::default(),
            values: Vec::new(),
            journal: JournalState::Ok,
            rules,
            configuration,
            scope,
            me,
            identity,
            tuning,
            pool,
            standing,
            gate,
        })
    }

    /// What it says about itself.
    #[must_use]
    pub fn report(&self) -> ReplicaReport {
        let others = self.others();
        ReplicaReport {
            regency: self.regency,
            leader: self.configuration.leader(self.regency),
            abstaining: self.standing == Standing::LostDisk,
            low: self.low,
            learned: self.learned(),
            chain: self.learner.as_ref().map_or(Digest::ZERO, Learner::chain),
            executed: self.execution.executed,
            diverged: self.execution.diverged,
            proposed: self
                .proposer
                .as_ref()
                .map_or(Decree::NONE, Proposer::proposed),
            waiting: self.proposer.as_ref().map_or(0, Proposer::waiting),
            peers: others
                .iter()
                .map(|node| (node, self.peers.last(node)))
                .collect(),
        }
    }

    /// Whether every quorum answers.
    #[must_use]
    pub fn readiness(&self, now: Time) -> Readiness {
        let leader = self.configuration.leader(self.regency);
        let abstaining = self.standing == Standing::LostDisk;
        self.peers
            .readiness(&self.configuration, leader, abstaining, now, self.tuning.t0)
    }

    fn learned(&self) -> Decree {
        self.learner.as_ref().map_or(Decree::NONE, Learner::learned)
    }

    fn others(&self) -> NodeSet {
        self.configuration.nodes().minus(NodeSet::one(self.me))
    }

    fn leads(&self) -> bool {
        self.configuration.leader(self.regency) == self.me
    }

    // ---- messages ----

    fn message(
        &mut self,
        now: Time,
        from: Party,
        message: Message<'_>,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        match (from, message) {
            (Party::Client(client), Message::Submit { retry, bundle }) => {
                self.submit(client, retry, bundle, fx)
            }
            (Party::Client(_), _) => Err(Refusal::Role),
            (Party::Node(node), message) => self.node_message(now, node, message, fx),
        }
    }

    fn node_message(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message<'_>,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        match message {
            Message::Propose {
                regency,
                decree,
                value,
                body,
            } => self.propose(now, from, regency, decree, value, body, fx),
            Message::Accepted {
                regency,
                decree,
                value,
            } => self.accepted(from, regency, decree, value, fx),
            Message::Ack { learned } => self.ack(from, learned),
            Message::Checkpoint(claim) if claim.learner == from => self.take_claim(now, claim, fx),
            Message::Checkpoint(_) => Err(Refusal::BadCheckpoint),
            Message::Certificate(certificate) => self.take_certificate(now, certificate, fx),
            Message::Status(status) => self.take_status(now, from, status, fx),
            Message::Pull { first, count } => self.serve_pull(from, first, count, fx),
            Message::Pulled { first, values } => self.pulled(from, first, values, fx),
            Message::Fetch { decree, value } => {
                self.serve_fetch(from, decree, value, fx);
                Ok(())
            }
            Message::Fetched {
                decree,
                value,
                body,
            } => self.fetched(now, decree, value, body, fx),
            Message::Vote(_)
            | Message::Proof(_)
            | Message::Gather { .. }
            | Message::Report(_)
            | Message::NewRegency(_)
            | Message::Denied(_) => Err(Refusal::Election),
            Message::Submit { .. } | Message::Replies { .. } | Message::Busy { .. } => {
                Err(Refusal::Role)
            }
        }
    }

    /// A client's bundle: it waits at the leader; a retried one is also looked up by learners.
    fn submit(
        &mut self,
        client: ClientId,
        retry: bool,
        bytes: &[u8],
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        let bundle = Bundle::parse(
            self.pool.copy(bytes),
            &self.scope,
            self.configuration.limits(),
        )?;
        if bundle.view().client != client {
            return Err(Refusal::ForeignBundle);
        }
        if retry && self.learner.is_some() && self.execution.diverged.is_none() {
            fx.lookup(&bundle);
        }
        let leads = self.leads();
        let regency = self.regency;
        let busy = |fx: &mut dyn Effects| {
            let message = Message::Busy {
                regency,
                retry_after_ms: BUSY_RETRY_MS,
            };
            fx.send(To::Client(client), &message);
        };
        let Some(proposer) = self.proposer.as_mut().filter(|_| leads) else {
            // A retry goes to everyone by rule; a first try that comes here learns who leads.
            if retry {
                return Ok(());
            }
            busy(fx);
            return Err(Refusal::NotLeader);
        };
        self.gate.check(&bundle.view(), &bundle.digest())?;
        if matches!(self.journal, JournalState::Full | JournalState::Failed) {
            busy(fx);
            return Err(Refusal::Full);
        }
        proposer
            .submit(bundle, &self.tuning)
            .inspect_err(|_| busy(fx))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one message, its sender and the two arguments of every step"
    )]
    fn propose(
        &mut self,
        now: Time,
        from: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
        body: Body,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        if self.configuration.leader(regency) != from {
            return Err(Refusal::NotLeader);
        }
        let verdict = match &self.acceptor {
            Some(acceptor) => acceptor.judge(&self.rules, regency, decree, value),
            None if self.learner.is_some() => Err(Refusal::Role),
            None if self.standing == Standing::LostDisk => Err(Refusal::Abstaining),
            None => Err(Refusal::Role),
        };
        if verdict == Ok(Verdict::Again) {
            self.accept_again(regency, decree, value, fx);
        }
        let wanted = self
            .learner
            .as_ref()
            .is_some_and(|learner| learner.wants(decree, value));
        if verdict != Ok(Verdict::Vote) && !wanted {
            // A learner that has the decree already has no quarrel with a repeated proposal.
            let learned = self
                .learner
                .as_ref()
                .is_some_and(|learner| !learner.open(decree) || verdict.is_ok());
            return match verdict {
                Err(why) if !(learned && why == Refusal::Role) => Err(why),
                _ => Ok(()),
            };
        }
        let mut authentic = Ok(());
        let gate = &self.gate;
        let check = verdict == Ok(Verdict::Vote);
        let batch = Batch::parse(
            body,
            &self.scope,
            self.configuration.limits(),
            |bundle, digest| {
                if check && authentic.is_ok() {
                    authentic = gate.check(bundle, digest);
                }
                Ok::<(), Refusal>(())
            },
        )?;
        if batch.value() != value {
            return Err(Refusal::WrongBody);
        }
        if wanted {
            self.keep_body(decree, batch.clone(), fx);
        }
        if check {
            authentic?;
            self.vote(now, regency, decree, batch, fx);
        }
        verdict.map(|_| ()).or_else(|why| {
            if why == Refusal::Role {
                Ok(())
            } else {
                Err(why)
            }
        })
    }

    fn vote(
        &mut self,
        now: Time,
        regency: Regency,
        decree: Decree,
        batch: Batch,
        fx: &mut dyn Effects,
    ) {
        let acceptor = self
            .acceptor
            .as_mut()
            .expect("only an acceptor judges proposals");
        let value = batch.value();
        self.recorded.0 += 1;
        fx.store(
            self.recorded,
            &Record::Vote {
                regency,
                decree,
                batch: &batch,
            },
        );
        fx.observe(Event::Voted {
            regency,
            decree,
            value,
        });
        acceptor.vote(regency, decree, batch);
        self.hold(now, Say::Accepted(regency, decree, value), fx);
    }

    fn accept_again(
        &mut self,
        regency: Regency,
        decree: Decree,
        value: Value,
        fx: &mut dyn Effects,
    ) {
        let said = self
            .acceptor
            .as_ref()
            .is_some_and(|acceptor| acceptor.has_said(decree));
        let lacking = self.acks.lacking(decree).minus(NodeSet::one(self.me));
        if said && !lacking.is_empty() {
            fx.send(
                To::Nodes(lacking),
                &Message::Accepted {
                    regency,
                    decree,
                    value,
                },
            );
        }
    }

    fn accepted(
        &mut self,
        from: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        if !self.configuration.acceptors().contains(from) {
            return Err(Refusal::Role);
        }
        let learner = self.learner.as_mut().ok_or(Refusal::Role)?;
        if !learner.open(decree) {
            // Votes beyond the learn quorum arrive after the decision: that is no fault.
            return if decree <= learner.learned() {
                Ok(())
            } else {
                Err(Refusal::OutsideWindow)
            };
        }
        if learner.accepted(from, regency, decree, value) {
            self.learn(fx);
        }
        Ok(())
    }

    fn ack(&mut self, from: NodeId, learned: Decree) -> Result<(), Refusal> {
        if !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        self.acks.take(from, learned);
        Ok(())
    }

    // ---- learning and executing ----

    fn keep_body(&mut self, decree: Decree, batch: Batch, fx: &mut dyn Effects) {
        if let Some(learner) = &mut self.learner {
            learner.keep(decree, batch);
            self.learn(fx);
        }
    }

    /// Learns and delivers whatever is next, at most a window ahead of execution.
    fn learn(&mut self, fx: &mut dyn Effects) {
        let limits = self.configuration.limits();
        let Some(learner) = &mut self.learner else {
            return;
        };
        while learner.learned().since(self.execution.executed) < limits.window {
            let Some(learned) = learner.advance() else {
                break;
            };
            let (decree, value) = (learned.decree, learned.batch.value());
            self.recorded.0 += 1;
            fx.store(
                self.recorded,
                &Record::Learned {
                    decree,
                    batch: &learned.batch,
                },
            );
            fx.observe(Event::Learned {
                decree,
                value,
                path: learned.path,
            });
            if decree.0.is_multiple_of(limits.checkpoint_every) {
                self.execution.chains.push_back((decree, learner.chain()));
            }
            if self.execution.diverged.is_none() {
                fx.deliver(decree, &learned.batch);
            }
            self.acks.take(self.me, decree);
        }
    }

    fn executed(
        &mut self,
        now: Time,
        decree: Decree,
        replies: &Replies,
        results: Digest,
        fx: &mut dyn Effects,
    ) {
        assert_eq!(
            decree,
            self.execution.executed.next(),
            "the host executes in order, each decree once"
        );
        self.execution.executed = decree;
        if let Some(learner) = &mut self.learner {
            learner.release(decree);
        }
        self.answer(replies, fx);
        if let Some((at, chain)) = self.execution.chains.pop_front_if(|(at, _)| *at == decree)
            && at >= self.checkpoints.low()
        {
            let checkpoint = Checkpoint {
                decree,
                chain,
                results,
            };
            let claim = self
                .checkpoints
                .sign(checkpoint, self.me, self.identity.signing());
            self.hold(now, Say::Checkpoint(claim), fx);
        }
        self.learn(fx);
    }

    fn answer(&self, replies: &Replies, fx: &mut dyn Effects) {
        if self.execution.diverged.is_some() {
            return;
        }
        for (client, entries) in replies.groups() {
            fx.send(
                To::Client(client),
                &Message::Replies {
                    regency: self.regency,
                    entries,
                },
            );
        }
    }

    // ---- checkpoints ----

    fn take_claim(
        &mut self,
        now: Time,
        claim: CheckpointClaim,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        let refused = |node| {
            fx.observe(Event::Refused {
                from: Party::Node(node),
                why: Refusal::BadCheckpoint,
            });
        };
        let moved = self.checkpoints.claim(claim, refused)?.is_some();
        if moved {
            self.store_low(now, fx);
        }
        self.compare_results(claim.checkpoint.decree, fx);
        Ok(())
    }

    fn take_certificate(
        &mut self,
        now: Time,
        certificate: Certificate,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        if self.checkpoints.certificate(certificate)? {
            self.store_low(now, fx);
        }
        Ok(())
    }

    fn store_low(&mut self, now: Time, fx: &mut dyn Effects) {
        let certificate = self
            .checkpoints
            .newest()
            .expect("a checkpoint was just certified");
        self.recorded.0 += 1;
        fx.store(self.recorded, &Record::Low(certificate));
        let low = certificate.decree;
        self.hold(now, Say::Low(low), fx);
    }

    fn compare_results(&mut self, decree: Decree, fx: &mut dyn Effects) {
        let diverged = self.checkpoints.agreement(self.me, decree) == Agreement::Diverged;
        if diverged && self.execution.diverged.is_none() {
            self.execution.diverged = Some(decree);
            fx.observe(Event::Diverged { decree });
        }
    }

    // ---- saying what is stored ----

    fn hold(&mut self, now: Time, say: Say, fx: &mut dyn Effects) {
        if self.stored == self.recorded {
            self.say(now, say, fx);
        } else {
            self.held.push_back((self.recorded, say));
        }
    }

    fn stored(&mut self, now: Time, seq: RecordSeq, fx: &mut dyn Effects) {
        assert!(
            seq <= self.recorded,
            "the journal stored a record that was never written"
        );
        self.stored = self.stored.max(seq);
        while let Some((_, say)) = self.held.pop_front_if(|(needs, _)| *needs <= seq) {
            self.say(now, say, fx);
        }
    }

    fn say(&mut self, now: Time, say: Say, fx: &mut dyn Effects) {
        let (me, t0) = (NodeSet::one(self.me), self.tuning.t0);
        match say {
            Say::Propose(regency, decree, batch) => {
                let receivers = self
                    .configuration
                    .acceptors()
                    .union(self.configuration.learners());
                let message = Message::Propose {
                    regency,
                    decree,
                    value: batch.value(),
                    body: batch.body().clone(),
                };
                fx.send(To::Nodes(receivers.minus(me)), &message);
                if let Some(proposer) = &mut self.proposer {
                    proposer.said(decree, now, t0);
                }
                self.own_proposal(now, regency, decree, batch, fx);
            }
            Say::Accepted(regency, decree, value) => {
                let message = Message::Accepted {
                    regency,
                    decree,
                    value,
                };
                fx.send(To::Nodes(self.configuration.learners().minus(me)), &message);
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.said(decree, now, t0);
                }
                if let Some(learner) = &mut self.learner
                    && learner.accepted(self.me, regency, decree, value)
                {
                    self.learn(fx);
                }
            }
            Say::Checkpoint(claim) => {
                fx.send(To::Nodes(self.others()), &Message::Checkpoint(claim));
                self.claim = Some(OwnClaim {
                    claim,
                    again_at: now + retransmission(t0, 0),
                    times: 0,
                });
                // Outside the window only if a certificate above it came first; then nobody needs it.
                let _ = self.take_claim(now, claim, fx);
            }
            Say::Low(low) => {
                self.low = self.low.max(low);
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.advance(low);
                }
                if let Some(proposer) = &mut self.proposer {
                    proposer.advance(low);
                }
                fx.observe(Event::Low { decree: low });
            }
        }
    }

    /// The leader's own acceptor and learner see its proposal as everybody's do; its bundles were checked
    /// when they were submitted.
    fn own_proposal(
        &mut self,
        now: Time,
        regency: Regency,
        decree: Decree,
        batch: Batch,
        fx: &mut dyn Effects,
    ) {
        let value = batch.value();
        if self
            .learner
            .as_ref()
            .is_some_and(|learner| learner.wants(decree, value))
        {
            self.keep_body(decree, batch.clone(), fx);
        }
        let verdict = self
            .acceptor
            .as_ref()
            .map(|acceptor| acceptor.judge(&self.rules, regency, decree, value));
        if verdict == Some(Ok(Verdict::Vote)) {
            self.vote(now, regency, decree, batch, fx);
        }
    }

    // ---- catching up ----

    fn take_status(
        &mut self,
        now: Time,
        from: NodeId,
        status: Status,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        self.peers.heard(from, status, now);
        self.acks.take(from, status.learned);
        if status.low < self.low
            && let Some(certificate) = self.checkpoints.newest()
            && self.peers.may_answer(from, now, self.tuning.t0)
        {
            fx.send(
                To::Nodes(NodeSet::one(from)),
                &Message::Certificate(certificate.clone()),
            );
        }
        Ok(())
    }

    fn serve_pull(
        &mut self,
        from: NodeId,
        first: Decree,
        count: u32,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        let learner = self.learner.as_ref().ok_or(Refusal::Role)?;
        self.values.clear();
        for step in 0..u64::from(count).min(PULL_MAX) {
            let Some(batch) = learner.log().get(first.plus(step)) else {
                break;
            };
            self.values.extend_from_slice(&batch.value().0.0);
        }
        if let Some(values) = Values::new(&self.values).filter(|values| !values.is_empty()) {
            fx.send(
                To::Nodes(NodeSet::one(from)),
                &Message::Pulled { first, values },
            );
        }
        Ok(())
    }

    fn pulled(
        &mut self,
        from: NodeId,
        first: Decree,
        values: Values<'_>,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        if !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        let learner = self.learner.as_mut().ok_or(Refusal::Role)?;
        let mut decree = first;
        for value in values.iter() {
            if learner.pulled(from, decree, value) && learner.body(decree, value).is_none() {
                fx.send(
                    To::Nodes(NodeSet::one(from)),
                    &Message::Fetch { decree, value },
                );
            }
            decree = decree.next();
        }
        self.learn(fx);
        Ok(())
    }

    fn serve_fetch(&mut self, from: NodeId, decree: Decree, value: Value, fx: &mut dyn Effects) {
        let learned = self
            .learner
            .as_ref()
            .and_then(|learner| learner.body(decree, value));
        let voted = self
            .acceptor
            .as_ref()
            .and_then(|acceptor| acceptor.body(decree, value));
        let proposed = self
            .proposer
            .as_ref()
            .and_then(|proposer| proposer.body(decree, value));
        if let Some(batch) = learned.or(voted).or(proposed) {
            let message = Message::Fetched {
                decree,
                value,
                body: batch.body().clone(),
            };
            fx.send(To::Nodes(NodeSet::one(from)), &message);
        }
    }

    fn fetched(
        &mut self,
        now: Time,
        decree: Decree,
        value: Value,
        body: Body,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        let learner = self.learner.as_ref().ok_or(Refusal::Unasked)?;
        if !learner.lacks_body(decree, value) {
            // The answer to a repeated question may come twice.
            return if learner.open(decree) || decree > learner.learned() {
                Err(Refusal::Unasked)
            } else {
                Ok(())
            };
        }
        let batch = Batch::parse(body, &self.scope, self.configuration.limits(), |_, _| {
            Ok::<(), Refusal>(())
        })?;
        if batch.value() != value {
            return Err(Refusal::WrongBody);
        }
        self.keep_body(decree, batch, fx);
        if self.learned() >= self.pull.up_to && self.pull.at.is_some() {
            // The last question is answered in full: while there is more to catch up with, ask on at once.
            self.pull.at = Some(now);
        }
        Ok(())
    }

    /// The highest decree that is known to be learned elsewhere or decided here. What this learner has itself
    /// acknowledged cannot raise the answer above its own `learned`.
    fn known(&self) -> Decree {
        let decided = self
            .learner
            .as_ref()
            .map_or(Decree::NONE, Learner::highest_decided);
        let learned = self.acks.reached_by(self.configuration.quorums().pull);
        decided.max(learned).max(self.checkpoints.low())
    }

    /// Keeps the time of the next pull, and pulls if it has come.
    fn pull_if_due(&mut self, now: Time, fx: &mut dyn Effects) {
        let (learned, known, t0) = (self.learned(), self.known(), self.tuning.t0);
        if self.learner.is_none() || known <= learned {
            self.pull = Pull::default();
            return;
        }
        let asked_on = self.pull.at.is_some_and(|at| at <= now);
        if self.pull.at.is_none() || (self.pull.learned < learned && !asked_on) {
            self.pull.at = Some(now + t0 / 4);
            self.pull.learned = learned;
            self.pull.times = 0;
            return;
        }
        if asked_on {
            self.pull_now(now, learned, known, fx);
        }
    }

    fn pull_now(&mut self, now: Time, learned: Decree, known: Decree, fx: &mut dyn Effects) {
        let learner = self.learner.as_ref().expect("only a learner pulls");
        let me = NodeSet::one(self.me);
        let count = known
            .since(learned)
            .min(PULL_MAX)
            .min(self.configuration.limits().window);
        let others = self.configuration.learners().minus(me);
        let message = Message::Pull {
            first: learned.next(),
            count: u32::try_from(count).expect("at most PULL_MAX"),
        };
        fx.send(To::Nodes(others), &message);
        fx.observe(Event::SentAgain(Again::Pull));
        for (decree, value) in learner
            .lacking_bodies()
            .take(usize::try_from(PULL_MAX).expect("a small number"))
        {
            // Each time somebody else: a liar may withhold a body, but cannot do so for everyone.
            let holders: NodeSet = learner.answered(decree, value).collect();
            let holders = if holders.is_empty() {
                self.others()
            } else {
                holders.minus(me)
            };
            let turn = (u64::from(self.pull.times) + decree.0) % holders.len().max(1) as u64;
            let Some(holder) = holders
                .iter()
                .nth(usize::try_from(turn).expect("below the number of nodes"))
            else {
                continue;
            };
            fx.send(
                To::Nodes(NodeSet::one(holder)),
                &Message::Fetch { decree, value },
            );
            fx.observe(Event::SentAgain(Again::Fetch));
        }
        let wait = retransmission(self.tuning.t0, self.pull.times);
        self.pull.up_to = learned.plus(count);
        self.pull.learned = learned;
        self.pull.times = self.pull.times.saturating_add(1);
        self.pull.at = Some(now + wait);
    }

    // ---- the end of a turn ----

    fn tick(&mut self, now: Time, fx: &mut dyn Effects) {
        self.propose_next(now, fx);
        self.acknowledge(fx);
        self.say_again(now, fx);
        self.pull_if_due(now, fx);
        if self.status_at <= now {
            self.say_status(now, fx);
        }
    }

    fn propose_next(&mut self, now: Time, fx: &mut dyn Effects) {
        if !self.leads() {
            return;
        }
        let bytes_max = self.configuration.limits().body_bytes_max as usize;
        loop {
            let progress = self.acks.reached_by(self.configuration.quorums().progress);
            let Some(proposer) = &mut self.proposer else {
                return;
            };
            let Some((decree, batch)) = proposer.next(
                progress,
                self.tuning.in_flight_max,
                bytes_max,
                &self.pool,
                &self.scope,
            ) else {
                return;
            };
            let regency = self.regency;
            self.recorded.0 += 1;
            fx.store(
                self.recorded,
                &Record::Proposal {
                    regency,
                    decree,
                    batch: &batch,
                },
            );
            fx.observe(Event::Proposed {
                decree,
                value: batch.value(),
                bundles: batch.len(),
            });
            self.hold(now, Say::Propose(regency, decree, batch), fx);
        }
    }

    fn acknowledge(&mut self, fx: &mut dyn Effects) {
        let learned = self.learned();
        if learned > self.acked {
            self.acked = learned;
            let proposers: NodeSet = self.configuration.proposers().iter().copied().collect();
            let receivers = self
                .configuration
                .acceptors()
                .union(proposers)
                .minus(NodeSet::one(self.me));
            fx.send(To::Nodes(receivers), &Message::Ack { learned });
        }
    }

    fn say_again(&mut self, now: Time, fx: &mut dyn Effects) {
        let (me, t0, regency) = (NodeSet::one(self.me), self.tuning.t0, self.regency);
        let due = |deadline: Option<Time>| deadline.is_some_and(|at| at <= now);
        if let Some(proposer) = self
            .proposer
            .as_mut()
            .filter(|proposer| due(proposer.deadline()))
        {
            let done = self
                .acks
                .reached_by(self.configuration.quorums().ack)
                .max(self.low);
            let acceptors = self.configuration.acceptors();
            proposer.say_again(now, t0, done, |decree, batch| {
                let receivers = acceptors.union(self.acks.lacking(decree)).minus(me);
                let message = Message::Propose {
                    regency,
                    decree,
                    value: batch.value(),
                    body: batch.body().clone(),
                };
                fx.send(To::Nodes(receivers), &message);
                fx.observe(Event::SentAgain(Again::Propose));
            });
        }
        if let Some(acceptor) = self
            .acceptor
            .as_mut()
            .filter(|acceptor| due(acceptor.deadline()))
        {
            let acks = &self.acks;
            let lacking = |decree| acks.lacking(decree).minus(me);
            acceptor.say_again(
                now,
                t0,
                |decree| lacking(decree).is_empty(),
                |decree, vote| {
                    let message = Message::Accepted {
                        regency: vote.psn,
                        decree,
                        value: vote.value,
                    };
                    fx.send(To::Nodes(lacking(decree)), &message);
                    fx.observe(Event::SentAgain(Again::Accepted));
                },
            );
        }
        let low = self.checkpoints.low();
        self.claim.take_if(|own| own.claim.checkpoint.decree <= low);
        let others = self.others();
        if let Some(own) = self.claim.as_mut().filter(|own| own.again_at <= now) {
            fx.send(To::Nodes(others), &Message::Checkpoint(own.claim));
            fx.observe(Event::SentAgain(Again::Checkpoint));
            own.times = own.times.saturating_add(1);
            own.again_at = now + retransmission(t0, own.times);
        }
    }

    fn say_status(&mut self, now: Time, fx: &mut dyn Effects) {
        let status = Status {
            regency: self.regency,
            plan_held: self.acceptor.as_ref().is_none_or(Acceptor::plan_held),
            abstaining: self.standing == Standing::LostDisk,
            low: self.low,
            learned: self.learned(),
        };
        fx.send(To::Nodes(self.others()), &Message::Status(status));
        // Until everybody was heard once, nodes are still starting: meeting quickly costs little.
        let every = if self.peers.all_heard() {
            self.tuning.t0
        } else {
            self.tuning.t0 / 4
        };
        self.status_at = now + every;
    }
}

impl<R: Rules> Machine for Replica<R> {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        match input {
            Input::Message { from, message } => {
                if let Err(why) = self.message(now, from, message, fx) {
                    fx.observe(Event::Refused { from, why });
                }
            }
            Input::Stored(seq) => self.stored(now, seq, fx),
            Input::Executed {
                decree,
                replies,
                results,
            } => self.executed(now, decree, replies, results, fx),
            Input::Found(replies) => self.answer(replies, fx),
            Input::Journal(state) => self.journal = state,
            Input::Tick => self.tick(now, fx),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let proposer = self.proposer.as_ref().and_then(Proposer::deadline);
        let acceptor = self.acceptor.as_ref().and_then(Acceptor::deadline);
        let claim = self.claim.as_ref().map(|own| own.again_at);
        [proposer, acceptor, claim, self.pull.at]
            .into_iter()
            .fold(Some(self.status_at), earlier)
    }
}
