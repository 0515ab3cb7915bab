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

mod acknowledging;
mod catching_up;
mod changing;
mod doubting;
mod execution;
mod hearing;
mod ordering;
mod past;
mod rejoining;
mod reporting;
mod restoring;
mod retrying;
mod saying;
mod snapshotting;
mod suspecting;
#[cfg(test)]
pub(crate) mod testing;
mod transferring;
mod trouble;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use twostep_crypto::{Identity, Scope, Signed, Verified, WeakKey};
use twostep_net::pool::{Body, Pool};

use self::acknowledging::Told;
use self::doubting::Doubting;
pub use self::past::{Contradiction, RestoreError};
use self::rejoining::Filling;
pub use self::reporting::ReplicaReport;
pub use self::restoring::Execute;
use self::restoring::Waking;
use self::snapshotting::Snapshots;
use self::suspecting::Election;
use self::trouble::Trouble;
use crate::acceptor::Acceptor;
use crate::acks::Acks;
use crate::admission::{ClientDirectory, Gate};
use crate::batch::Batch;
use crate::checkpoint::Checkpoints;
use crate::configuration::{Configuration, Tuning};
use crate::election::{Ballots, Pacemaker};
use crate::learner::Learner;
use crate::log::Log;
use crate::machine::{Effects, Event, Input, Machine, To, earlier};
use crate::message::{
    Certificate, CheckpointClaim, Message, NewRegency, ProofOfLeadership, RegencyVote, Report,
    SnapshotClaim,
};
use crate::peers::{Peers, Readiness};
use crate::prechecked::{Horizon, Precheck};
use crate::proposer::Proposer;
use crate::pull::Pull;
use crate::recall::Recall;
use crate::recovery::Lead;
use crate::resend::{Pace, Resend};
use crate::rules::{Rules, Standard};
use crate::signatures::Signatures;
use crate::tracking::Tracking;
use crate::types::{Decree, Digest, NodeId, NodeSet, RecordSeq, Regency, Time, Value};
use crate::voucher::{Examiner, Plan};
use crate::window::{Reset, Window};

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
    /// It knows all that it ever promised: nothing yet, or what its journal tells from its birth on.
    Born,
    /// It does not know what it promised: it learns, but neither votes, reports nor proposes, and counts among f, until
    /// the others have told it enough ([`crate::recall`]).
    LostDisk,
    /// It had lost its disk, and knows for sure by now that it does not break what it may have promised.
    Rejoined,
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
    trouble: Trouble,
    gate: Arc<Gate>,

    regency: Regency,
    /// Why that regency was entered; empty in regency 0 and in mode C.
    proof: ProofOfLeadership,
    /// What its leader showed, for whoever lacks it.
    shown: Option<Arc<NewRegency>>,
    /// The own report of this regency, once it is stored.
    own_report: Option<Box<Signed<Report>>>,
    lead: Lead,
    /// The newest regency for which the record is written that this node leads it.
    led: Option<Regency>,
    election: Option<Election>,
    examiner: Examiner,
    kept: Window<Kept>,
    doubting: Doubting,
    /// The newest certified checkpoint whose record is stored.
    low: Decree,
    /// Its certificate.
    stored_low: Option<Certificate>,
    proposer: Option<Proposer>,
    acceptor: Option<Acceptor>,
    learner: Option<Learner>,
    execution: Execution,
    checkpoints: Checkpoints,
    claim: Option<OwnClaim>,
    /// The newest checkpoint that it signed.
    claimed: Decree,
    snapshots: Snapshots,
    acks: Acks,
    peers: Peers,

    recorded: RecordSeq,
    stored: RecordSeq,
    held: VecDeque<(RecordSeq, Say)>,

    /// What the others were told of what it learned.
    told: Told,
    /// The time-out that was observed last.
    timeout: Duration,
    status_at: Time,
    pull: Pull,
    /// How soon it pulls, by how fast gaps close by themselves.
    pull_pace: Pace,
    values: Vec<u8>,
    /// The signatures that it made.
    made: Signatures,
    /// What its first step does after a restart.
    waking: Option<Box<Waking>>,
    /// What others remember, while this node has lost its disk.
    recall: Option<Recall>,
    filling: Filling,
}

/// One call of [`Machine::step`]: when it is, and where effects go.
struct Step<'f> {
    now: Time,
    fx: &'f mut dyn Effects,
}

/// Something that may be said once a record is stored.
#[derive(Debug)]
enum Say {
    Propose(Regency, Decree, Batch),
    Accepted(Regency, Decree, Value),
    Checkpoint(CheckpointClaim),
    Snapshot(SnapshotClaim),
    Low(Certificate),
    Vote(Verified<RegencyVote>),
    Report(Box<Signed<Report>>),
    NewRegency(Arc<NewRegency>, Plan),
}

/// A proposal that came before the plan of its regency.
#[derive(Debug, Default)]
struct Kept(Option<(Regency, Value, Body)>);

impl Reset for Kept {
    fn reset(&mut self) {
        self.0 = None;
    }
}

/// What the host has executed of what was delivered.
#[derive(Debug)]
struct Execution {
    executed: Decree,
    /// What was given to the host; below what is learned only after a snapshot was installed below it.
    delivered: Decree,
    /// The digest of the order up to `delivered`, while that is below what is learned.
    chain: Digest,
    /// Checkpoints up to here may have been signed for a state that a snapshot took the place of.
    mended: Decree,
    /// The chain at multiples of K that are learned and not yet executed. At most W/K + 1 entries.
    chains: VecDeque<(Decree, Digest)>,
    diverged: Option<Decree>,
}

/// This learner's newest checkpoint, said again until it is certified.
#[derive(Debug)]
struct OwnClaim {
    claim: CheckpointClaim,
    resend: Resend,
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
        let gate = Arc::new(Gate::new(&configuration, me, &identity, &clients)?);
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
        let mut replica = Replica {
            regency: Regency(0),
            proof: ProofOfLeadership::default(),
            shown: None,
            own_report: None,
            lead: Lead::Following,
            led: None,
            election: None,
            examiner: Examiner::new(&configuration),
            doubting: Doubting::new(&configuration, false),
            kept: Window::new(Decree::NONE, limits.window, Kept::default),
            low: Decree::NONE,
            stored_low: None,
            proposer: None,
            acceptor: None,
            learner: roles.learner.then(learner),
            execution: Execution {
                executed: Decree::NONE,
                delivered: Decree::NONE,
                chain: Digest::ZERO,
                mended: Decree::NONE,
                chains: VecDeque::new(),
                diverged: None,
            },
            checkpoints: Checkpoints::new(&configuration),
            claim: None,
            claimed: Decree::NONE,
            snapshots: Snapshots::new(&configuration),
            acks: Acks::new(configuration.learners()),
            peers: Peers::new(&configuration, me),
            recorded: RecordSeq(0),
            stored: RecordSeq(0),
            held: VecDeque::new(),
            told: Told::default(),
            timeout: tuning.t0,
            status_at: Time(0),
            pull: Pull::default(),
            pull_pace: Pace::new(tuning.t0),
            values: Vec::new(),
            made: Signatures::default(),
            waking: None,
            recall: None,
            filling: Filling::default(),
            trouble: Trouble::default(),
            rules,
            configuration,
            scope,
            me,
            identity,
            tuning,
            pool,
            standing,
            gate,
        };
        if standing == Standing::Born {
            replica.take_part();
            if replica.leads() {
                replica.lead = Lead::Leading;
            }
        }
        Ok(replica)
    }

    /// Takes the roles up that a node without its disk abstains from, having promised nothing.
    fn take_part(&mut self) {
        let roles = self
            .configuration
            .member(self.me)
            .map(|member| member.roles);
        let roles = roles.expect("a replica is a member of its configuration");
        let (window, quorums) = (
            self.configuration.limits().window,
            self.configuration.quorums(),
        );
        if roles.proposer {
            let nodes = self.configuration.members().len();
            let ballots = quorums.leadership.map(|_| Ballots::new(quorums, nodes));
            let tracking = Tracking::new(self.tuning.waiting_bytes_max, quorums.f + 1);
            let pacemaker = Pacemaker::new(self.tuning.t0, window);
            self.election = Some(Election::new(pacemaker, ballots, tracking));
            self.doubting = Doubting::new(&self.configuration, true);
            self.doubting.advance(self.low);
            let mut proposer = Proposer::new(window, self.tuning.t0);
            proposer.advance(self.low);
            self.proposer = Some(proposer);
        }
        if roles.acceptor {
            let mut acceptor = Acceptor::new(window);
            acceptor.advance(self.low);
            self.acceptor = Some(acceptor);
        }
    }

    /// Whether a peer has shown so many signatures lately, or a bad one, that what shows more need not even be read
    /// (see [`Peers::may_check`]).
    #[must_use]
    pub fn has_spent_checks(&self, node: NodeId, now: Time) -> bool {
        self.peers.has_spent_checks(node, now, self.tuning.t0)
    }

    /// The highest decree whose records none of its roles needs any more: an acceptor needs those above its low, a learner those
    /// above the last but one certified snapshot that it holds.
    #[must_use]
    pub fn prunable(&self) -> Decree {
        let log = self.learner.as_ref().map(|_| self.snapshots.covered());
        let votes = self.acceptor.as_ref().map(|_| self.low);
        log.into_iter().chain(votes).min().unwrap_or(self.low)
    }

    /// What makes checks for it on another loop.
    #[must_use]
    pub fn precheck(&self) -> Precheck {
        let gate = Arc::clone(&self.gate);
        Precheck::new(
            Arc::clone(&self.configuration),
            self.me,
            gate,
            self.pool.clone(),
        )
    }

    /// How far the order has come: what such a loop goes by.
    #[must_use]
    pub fn horizon(&self) -> Horizon {
        Horizon {
            regency: self.regency,
            low: self.low,
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

    /// Whether it may propose: nothing is proposed before Leading.
    fn proposes(&self) -> bool {
        self.leads() && matches!(self.lead, Lead::Leading)
    }

    fn tick(&mut self, step: &mut Step<'_>) {
        self.watch_journal(step);
        self.recall_on(step);
        self.keep_time(step);
        self.propose_next(step);
        self.acknowledge(step);
        self.say_again(step);
        self.pull_if_due(step);
        self.transfer_on(step);
        self.hold_log(step);
        if self.status_at <= step.now {
            self.say_status(step);
        }
        if let Some(election) = &self.election {
            let timeout = election.pacemaker.timeout();
            if timeout != self.timeout {
                self.timeout = timeout;
                step.fx.observe(Event::Timeout { timeout });
            }
        }
    }
}

impl<R: Rules> Machine for Replica<R> {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        let step = &mut Step { now, fx };
        if let Some(waking) = self.waking.take() {
            self.wake(*waking, step);
        }
        match input {
            Input::Message { from, message } => {
                if let Err(why) = self.message(from, message, step) {
                    step.fx.observe(Event::Refused { from, why });
                }
            }
            Input::Stored(seq) => self.stored(seq, step),
            Input::Executed {
                decree,
                replies,
                results,
            } => self.executed(decree, replies, results, step),
            Input::Found(found) => self.answer_retry(found, step),
            Input::Settled { asker, names } if asker == self.me => self.end_settled(names),
            Input::Settled { asker, names } => step
                .fx
                .send(To::Nodes(NodeSet::one(asker)), &Message::Settled { names }),
            Input::Snapshot(news) => self.take_news(news, step),
            Input::Archive(news) => self.say_archived(news, step),
            Input::Journal(state) => self.journal(state, step),
            Input::Tick => self.tick(step),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let proposer = self.proposer.as_ref().and_then(Proposer::deadline);
        let acceptor = self.acceptor.as_ref().and_then(Acceptor::deadline);
        let claim = self.claim.as_ref().and_then(|own| own.resend.at());
        let election = self
            .election
            .as_ref()
            .and_then(|election| election.deadline(self.regency));
        let doubts = self
            .election
            .as_ref()
            .and_then(|election| self.doubting.deadline(election.pacemaker.timeout() / 2));
        let gathering = match &self.lead {
            Lead::Gathering(gathering) => gathering.resend.at(),
            Lead::Following | Lead::Leading => None,
        };
        let recall = self
            .recall
            .as_ref()
            .filter(|recall| recall.found().is_none() && self.keeps_records());
        [
            recall.and_then(|recall| recall.resend.at()),
            proposer,
            acceptor,
            claim,
            election,
            gathering,
            doubts,
            self.told.deadline(self.tuning.t0),
            self.pull.at,
            self.snapshots.deadline(self.tuning.t0),
        ]
        .into_iter()
        .fold(Some(self.status_at), earlier)
    }
}
