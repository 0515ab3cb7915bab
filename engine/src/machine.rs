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

use std::time::Duration;

use thiserror::Error;
use twostep_net::pool::Body;

use crate::batch::{Batch, Bundle, Malformed};
use crate::message::{Message, RequestNames, SnapshotCertificate};
pub use crate::record::Record;
use crate::types::{
    ClientId, Decree, Digest, NodeId, NodeSet, Party, RecordSeq, Regency, Time, Value,
};

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
        /// What became of its requests.
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

/// What a peer asks for that was learned and is in the log no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveTask {
    /// Consecutive values.
    Values {
        /// Which peer.
        asker: NodeId,
        /// The first decree.
        first: Decree,
        /// How many at most.
        count: u64,
    },
    /// The body of a decree.
    Body {
        /// Which peer.
        asker: NodeId,
        /// Which decree.
        decree: Decree,
        /// What was learned, as the peer says.
        value: Value,
    },
}

/// What the journal holds of it.
#[derive(Clone, Debug, PartialEq)]
pub enum ArchiveNews {
    /// Consecutive values.
    Values {
        /// Which peer asked.
        asker: NodeId,
        /// The first decree.
        first: Decree,
        /// As [`Values`](crate::message::Values) carry them; empty if there is none.
        values: Vec<u8>,
    },
    /// A body.
    Body {
        /// Which peer asked.
        asker: NodeId,
        /// Of which decree.
        decree: Decree,
        /// What was learned.
        value: Value,
        /// Its bytes; whoever asked holds them against the value.
        body: Body,
    },
}

/// What the host's snapshots are to do ([`crate::snapshot::Keeper`]).
#[derive(Clone, Debug)]
pub enum SnapshotTask {
    /// This one is certified: it is worth keeping.
    Certified(Box<SnapshotCertificate>),
    /// Give a peer a piece.
    Serve {
        /// Which peer.
        asker: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
    },
    /// Make ready to take in this one; what is held of it already is to be told.
    Receive(Box<SnapshotCertificate>),
    /// Take in a piece, if it is the right one.
    Keep {
        /// Who gave it.
        from: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
        /// Not yet checked.
        bytes: Body,
    },
    /// All pieces are held: take up the state.
    Install {
        /// Which snapshot.
        decree: Decree,
    },
    /// It is of no use.
    Discard {
        /// Which snapshot.
        decree: Decree,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotNews {
    /// The image of the state after this decree is hashed and stored.
    Imaged {
        /// Which decree, a multiple of S.
        decree: Decree,
        /// The digest of its manifest.
        root: Digest,
    },
    /// There is no image after this decree: no room, or too little time since the one before.
    Failed {
        /// Which decree.
        decree: Decree,
    },
    /// A certified snapshot is whole and can be served.
    Held(Box<SnapshotCertificate>),
    /// It is gone: a newer one took its place, or it was damaged.
    Dropped {
        /// Which snapshot.
        decree: Decree,
    },
    /// A piece for a peer.
    Chunk {
        /// Which peer.
        asker: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
        /// Its bytes.
        bytes: Body,
    },
    /// A snapshot is being taken in.
    Receiving {
        /// Which snapshot.
        decree: Decree,
        /// By chunk, whether it is held; none while the manifest is not.
        held: Option<Vec<bool>>,
    },
    /// A piece was taken in, or refused.
    Kept {
        /// Who gave it.
        from: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
        /// Whether it was the right one.
        good: bool,
    },
    /// State and sessions are those of this snapshot.
    Installed(Box<SnapshotCertificate>),
    /// They are not, and cannot be executed on if they were touched.
    NotInstalled {
        /// Which snapshot.
        decree: Decree,
    },
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

/// Something worth counting or checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The leader proposed a batch.
    Proposed {
        /// For which decree.
        decree: Decree,
        /// What.
        value: Value,
        /// How many bundles it holds.
        bundles: u32,
        /// How long the first of them waited; zero for what a plan made it propose.
        waited: Duration,
    },
    /// The acceptor voted.
    Voted {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// For what.
        value: Value,
    },
    /// The learner learned a decree.
    Learned {
        /// Which one.
        decree: Decree,
        /// What.
        value: Value,
        /// How.
        path: Path,
    },
    /// A regency was entered.
    Regency {
        /// Which one.
        regency: Regency,
    },
    /// The proposer suspects its leader, and votes or takes this regency.
    Suspected {
        /// The regency that it wants.
        regency: Regency,
    },
    /// The proposer judges its leader by another time-out now: it entered a regency, or was served well.
    Timeout {
        /// T of PROTOCOL.md section 4.
        timeout: Duration,
    },
    /// The node had lost its disk and takes part again.
    Rejoined {
        /// In which regency.
        regency: Regency,
    },
    /// The window moved.
    Low {
        /// The newest certified checkpoint.
        decree: Decree,
    },
    /// Something a peer or client said was refused.
    Refused {
        /// Who said it.
        from: Party,
        /// Why it was refused.
        why: Refusal,
    },
    /// The acceptor cannot verify some bundles of a proposal that it would vote for, and waits for others to vouch
    /// for them or for their signatures (PROTOCOL.md section 5.1).
    Doubted {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
    },
    /// The proposer refuses tagged bundles of a client from now on: until the next regency, or for good.
    OnSignatures {
        /// Whose.
        client: ClientId,
        /// Whether it is for good.
        for_good: bool,
    },
    /// A message was sent again because no answer came in time.
    SentAgain(Again),
    /// The results of this learner differ from f+1 equal ones (PROTOCOL.md section 5.4): its state machine is
    /// not deterministic, or its memory is damaged. It stopped executing and answering.
    Diverged {
        /// At which checkpoint.
        decree: Decree,
    },
    /// A snapshot of this learner is certified, or one of others is known to be.
    SnapshotCertified {
        /// After which decree it was taken.
        decree: Decree,
    },
    /// No image of the state after this decree could be made: this learner signs and serves no snapshot of it.
    SnapshotFailed {
        /// Which decree.
        decree: Decree,
    },
    /// This learner lacks what its peers no longer have in their logs, or has diverged: it receives a snapshot.
    TransferBegun {
        /// Which one.
        decree: Decree,
    },
    /// Its state is that of a certified snapshot, and it learns on from there.
    Installed {
        /// Which one.
        decree: Decree,
    },
}

/// What was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// A proposal.
    Propose,
    /// A vote.
    Accepted,
    /// A checkpoint.
    Checkpoint,
    /// A pull.
    Pull,
    /// A fetch.
    Fetch,
    /// A claim of a snapshot.
    Snapshot,
    /// A question for a snapshot.
    AskSnapshot,
    /// A vote for a regency.
    Vote,
    /// A gather.
    Gather,
    /// A question for what others remember.
    Recall,
}

/// How a decree was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A learn quorum of equal votes: two steps.
    Votes,
    /// Equal answers of other learners.
    Pull,
}

/// Why something was refused. Each has a name under which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A batch or bundle is not well-formed.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The sender does not hold the role that says such things.
    #[error("the sender does not hold the role for this message")]
    Role,
    /// A proposal from somebody who does not lead the regency.
    #[error("the sender does not lead this regency")]
    NotLeader,
    /// A regency below the promised one.
    #[error("the regency is below the one that was promised")]
    OldRegency,
    /// A regency whose plan is not held.
    #[error("the plan of this regency is not held")]
    NoPlan,
    /// A decree that is not open.
    #[error("the decree is outside the window")]
    OutsideWindow,
    /// A second value in one regency.
    #[error("another value was voted for in this regency")]
    SecondValue,
    /// A value that the plan excludes.
    #[error("the plan binds this decree to another value")]
    AgainstPlan,
    /// A body that does not hash to its value.
    #[error("the body does not hash to the value")]
    WrongBody,
    /// A client that the node does not know.
    #[error("the client is not known here")]
    UnknownClient,
    /// A request that its client did not authenticate for this node.
    #[error("the client's authenticator does not verify")]
    Unauthentic,
    /// A bundle with tags of a client whose tags are doubted; it was asked for its signature.
    #[error("the client's tags are doubted: it must sign")]
    MustSign,
    /// A bundle from another client than the link's.
    #[error("the bundle belongs to another client")]
    ForeignBundle,
    /// A checkpoint or certificate that does not verify.
    #[error("the checkpoint does not verify")]
    BadCheckpoint,
    /// A snapshot or its certificate that does not verify.
    #[error("the snapshot does not verify")]
    BadSnapshot,
    /// A piece of a snapshot that is not the one that was asked for.
    #[error("the piece is not the one under the signed root")]
    WrongChunk,
    /// A body or value that nobody asked for.
    #[error("nobody asked for this")]
    Unasked,
    /// The node lost its disk and abstains from this.
    #[error("the node abstains since it lost its disk")]
    Abstaining,
    /// Too many bundles wait already.
    #[error("too many bundles wait")]
    Full,
    /// More questions than one peer gets answered, or more signatures than it gets checked.
    #[error("the peer takes more than its share")]
    Share,
    /// A signature that does not verify.
    #[error("the signature does not verify")]
    BadSignature,
    /// A proof of leadership without enough distinct voters.
    #[error("the votes prove no such regency")]
    BadProof,
    /// A report that contradicts itself or its regency.
    #[error("the report is not one for this regency")]
    BadReport,
    /// A voucher without exactly n − f distinct reporters.
    #[error("the voucher does not hold exactly n − f reports of distinct acceptors")]
    BadVoucher,
}

impl Refusal {
    /// The name under which it is counted.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::Role => "role",
            Refusal::NotLeader => "not_leader",
            Refusal::OldRegency => "old_regency",
            Refusal::NoPlan => "no_plan",
            Refusal::OutsideWindow => "outside_window",
            Refusal::SecondValue => "second_value",
            Refusal::AgainstPlan => "against_plan",
            Refusal::WrongBody => "wrong_body",
            Refusal::UnknownClient => "unknown_client",
            Refusal::Unauthentic => "unauthentic",
            Refusal::MustSign => "must_sign",
            Refusal::ForeignBundle => "foreign_bundle",
            Refusal::BadCheckpoint => "bad_checkpoint",
            Refusal::BadSnapshot => "bad_snapshot",
            Refusal::WrongChunk => "wrong_chunk",
            Refusal::Unasked => "unasked",
            Refusal::Abstaining => "abstaining",
            Refusal::Full => "full",
            Refusal::Share => "share",
            Refusal::BadSignature => "bad_signature",
            Refusal::BadProof => "bad_proof",
            Refusal::BadReport => "bad_report",
            Refusal::BadVoucher => "bad_voucher",
        }
    }
}

/// How much memory [`Replies`] keep when they are cleared. Bytes, and groups of 24 bytes.
const REPLIES_KEPT_BYTES: usize = 1 << 20;
const REPLIES_KEPT_GROUPS: usize = 1 << 14;

/// What became of the requests of one decree, in their order: entries in wire form, grouped by client.
/// Reused from decree to decree, so it allocates nothing once warm; what an unusual decree needed beyond a
/// megabyte is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies {
    groups: Vec<(ClientId, usize)>,
    bytes: Vec<u8>,
}

impl Replies {
    /// Forgets everything, and gives memory above what is usual back.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.groups.shrink_to(REPLIES_KEPT_GROUPS);
        self.bytes.clear();
        self.bytes.shrink_to(REPLIES_KEPT_BYTES);
    }

    /// Adds one entry for `client`; entries of one client in a row form a group.
    pub fn push(&mut self, client: ClientId, reply: &crate::message::Reply<'_>) {
        crate::wire::write_reply(reply, &mut self.bytes);
        match self.groups.last_mut() {
            Some((last, end)) if *last == client => *end = self.bytes.len(),
            _ => self.groups.push((client, self.bytes.len())),
        }
    }

    /// The groups in order, each as the entries of one message to its client.
    pub fn groups(&self) -> impl Iterator<Item = (ClientId, crate::message::ReplyEntries<'_>)> {
        let mut start = 0;
        self.groups.iter().map(move |(client, end)| {
            let entries = crate::message::ReplyEntries(&self.bytes[start..*end]);
            start = *end;
            (*client, entries)
        })
    }

    /// All entries in wire form: what the results digest covers.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The earlier of two optional deadlines.
#[must_use]
pub fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Outcome, Reply};
    use crate::types::{Seq, SessionId};

    #[test]
    fn an_unusual_decree_keeps_no_memory() {
        let mut replies = Replies::default();
        let large = vec![0; 4 * REPLIES_KEPT_BYTES];
        let reply = Reply {
            session: SessionId::NONE,
            seq: Seq(1),
            decree: Decree(1),
            outcome: Outcome::Executed(&large),
        };
        replies.push(ClientId([1; 16]), &reply);
        replies.clear();
        assert!(replies.bytes.capacity() < 2 * REPLIES_KEPT_BYTES);
    }
}
