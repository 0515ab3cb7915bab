//! The contract between the protocol and its host: inputs, effects, records, refusals.
//!
//! The core computes; the host does I/O. A [`Machine`] is told what happened ([`Input`]) and when, and says
//! what is to be done ([`Effects`]). It has no socket, clock, thread or randomness of its own, so the same
//! code runs in the simulator and over real links.
//!
//! *Persist, then say* (PROTOCOL.md section 5.5): what rests on a record is sent only after [`Input::Stored`]
//! has covered the record. A host that keeps nothing on disk answers `Stored` at once; then a restart is a
//! lost disk.
//!
//! The host gives one [`Input::Tick`] after each batch of inputs ("the end of a turn") and whenever
//! [`Machine::deadline`] has passed. What can be coalesced is sent there: a batch of all bundles that arrived
//! in the turn, one cumulative acknowledgement. Nothing waits longer than the turn.

mod event;
mod refusal;
mod replies;
mod tasks;

pub use event::{Again, Event, Path};
pub use refusal::Refusal;
pub use replies::Replies;
pub use tasks::{ArchiveNews, ArchiveTask, SnapshotNews, SnapshotTask};

use crate::batch::{Batch, Bundle};
use crate::message::{Message, RequestNames};
pub use crate::record::Record;
use crate::types::{ClientId, Decree, Digest, NodeId, NodeSet, Party, RecordSeq, Time};

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A message arrived over an authenticated link.
    Message {
        /// Who stands at the other end of the link.
        from: Party,
        /// What it says.
        message: Message<'a>,
    },
    /// Every record up to this one is durable.
    Stored(RecordSeq),
    /// The host executed a delivered decree. Decrees are executed in order, each once per run.
    Executed {
        /// Which one.
        decree: Decree,
        /// What became of its requests, [sealed](Replies::seal).
        replies: &'a Replies,
        /// The running digest of all results up to this decree.
        results: Digest,
    },
    /// The session table answers [`Question::Retried`]: what became of those requests that were executed.
    Found(&'a Replies),
    /// The session table answers [`Question::Settled`].
    Settled {
        /// Which proposer wants to know.
        asker: NodeId,
        /// Those that are settled.
        names: RequestNames<'a>,
    },
    /// What came of the snapshots that the host makes, keeps and receives.
    Snapshot(SnapshotNews),
    /// What the journal holds of that which the log holds no more: the answer to [`Question::Archive`].
    Archive(ArchiveNews),
    /// The journal changed its state.
    Journal(JournalState),
    /// The turn ends, or the deadline has passed.
    Tick,
}

/// How the journal fares (DESIGN section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalState {
    /// It keeps up.
    Ok,
    /// Syncs take long.
    Slow,
    /// No space is left.
    Full,
    /// A write or sync failed: what it holds is unknown.
    Failed,
}

/// What the session table, which the host keeps with the state machine, is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// What became of the requests of a retried bundle?
    Retried(Bundle),
    /// Which of these requests need a proposer not wait for any more?
    Settled {
        /// Which proposer wants to know.
        asker: NodeId,
        /// Whose requests.
        client: ClientId,
        /// As [`RequestNames`] carry them.
        names: Vec<u8>,
    },
    /// The host's snapshots are to do this; what comes of it is [`SnapshotNews`], sooner or later, or never.
    Snapshot(SnapshotTask),
    /// What does the journal hold? The answer is [`ArchiveNews`], sooner or later, or never. A host without a journal has no bodies, and
    /// no values.
    Archive(ArchiveTask),
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// These nodes. Never contains the sender: own messages go through the replica's loop-back.
    Nodes(NodeSet),
    /// One client, over every link it has to this node.
    Client(ClientId),
}

/// What is to be done. A sink; infallible: the host reserves room before [`Machine::step`] and drops what
/// retransmission will repair.
pub trait Effects {
    /// Send a message.
    fn send(&mut self, to: To, message: &Message<'_>);
    /// Make a record durable, then answer [`Input::Stored`].
    fn store(&mut self, seq: RecordSeq, record: &Record<'_>);
    /// Execute a decree, then answer [`Input::Executed`]. Contiguous, once per run.
    fn deliver(&mut self, decree: Decree, batch: &Batch);
    /// Ask the session table, then hand over what it answers ([`crate::executor::Executor::answer`]), if anything.
    fn ask(&mut self, question: Question);
    /// For metrics and tests.
    fn observe(&mut self, _event: Event) {}
}

/// Something that takes inputs and has effects: the [`crate::replica::Replica`], or a strategy that wraps one.
pub trait Machine {
    /// Takes one input at a time that never falls.
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects);
    /// When it wants the next [`Input::Tick`] at the latest.
    fn deadline(&self) -> Option<Time>;
}

/// The earlier of two optional deadlines.
#[must_use]
pub fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
