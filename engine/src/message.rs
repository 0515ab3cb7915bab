//! Every message, in one table.
//!
//! | message | from | to | guarded by | said again |
//! |---|---|---|---|---|
//! | `Submit` | client; proposer, for a signed retry | leader; on retry all proposers and learners | authenticator in the bundle | by the client; to the leader, every T0 while it is tracked |
//! | `Propose` | leader(r) | acceptors, learners | link MAC; the value is the body's digest | when acks are overdue, every T0/4 at the latest, until n_l − f acks |
//! | `Accepted` | acceptor | learners | link MAC | every T0/4 to each learner until its ack or low ≥ d |
//! | `Replies`, `RepliesDigest` | learner | client | link MAC | never: a retry is answered with `Found` |
//! | `Found` | learner | client | link MAC | when the client retries |
//! | `Ack` | learner | leader; acceptors, proposers | link MAC | to the leader at the end of each turn in which something was learned, to all others within T0/8; every `Status` says the same |
//! | `Checkpoint` | learner | all | signature (mode C: link MAC) | every T0/4 until a certificate ≥ c |
//! | `Certificate` | anyone | who is behind | the signatures inside | when a `Status` shows a lower low |
//! | `Status` | node | all | link MAC | every T0, idle or not |
//! | `Pull`, `Fetch` | learner | learners, anyone | link MAC | while there is a gap that should have closed by itself, every T0/4 at the latest |
//! | `Pulled`, `Fetched` | learner, anyone | who asked | link MAC; the body's digest | when asked |
//! | `AskSettled` | proposer that does not learn | learners | link MAC | every T0/4 while something is tracked |
//! | `Settled` | learner | who asked | link MAC; f+1 equal answers count | when asked |
//! | `Busy` | node | client | link MAC | for every bundle that found no room, and for every first try at a node that does not lead |
//! | `Vote` | proposer | proposers | signature | until cur ≥ it |
//! | `Proof` | anyone | all | the signatures inside | when a `Status` shows a lower cur |
//! | `Gather` | leader(r) | acceptors | the proof inside | until n − f reports |
//! | `Report` | acceptor | leader(r) | signature | when gathered again |
//! | `NewRegency` | leader(r), then anyone | acceptors | the signatures inside | until `plan held` |
//! | `Denied` | acceptor | proposer | the proof inside | for every stale message, at most once per T0/4 |
//! | `NackAuth` | acceptor | acceptors, proposers | link MAC | when the doubted proposal comes again |
//! | `AckAuth` | acceptor | who doubts | link MAC | for every `NackAuth` |
//! | `WantSignature` | leader(r) | client | link MAC | when doubted again, at most once per T0/4; for every tagged bundle of a client on signatures |
//! | `Recall` | node without its disk | all | link MAC | every T0/4 until enough answered |
//! | `Recalled` | node with its disk | who asked | the signatures inside; mode C: link MAC | when asked |
//! | `BundleSignature` | client, then the leader | leader; acceptors, proposers | the signature inside | when asked again; when doubted again |
//! | `Snapshot` | learner | learners | signature (mode C: link MAC) | every T0/4 until a snapshot ≥ s is certified |
//! | `SnapshotCertificate` | learner | learner that is behind | the signatures inside | for every `Pull` below the log, every `AskSnapshot`, and whatever shows an older one, at most once per T0/4 |
//! | `AskSnapshot` | learner that diverged, or receives one | learners | link MAC | every T0 until it is installed |
//! | `FetchChunk` | learner | learner that holds it | link MAC | to another one after T0 |
//! | `Chunk` | learner | who asked | link MAC; its digest, under the signed root | when asked |
//!
//! The six from `Vote` to `Denied` belong to the leader change (PROTOCOL.md sections 3 and 4), the four from `NackAuth` on to bundles
//! that some acceptors cannot verify (section 5.1; [`crate::doubt`]). The five from `Snapshot` on are the state transfer
//! (section 5.4; [`crate::snapshot`], [`crate::transfer`]).
//! A [`Message`] borrows the receive buffer for its small parts; a body is a counted handle to pooled memory.

mod names;
mod replies;
mod snapshots;

use thiserror::Error;
use twostep_crypto::{Context, Signable, Signature, Signed};
use twostep_net::pool::Body;

pub use names::{NAME_BYTES, RequestNames};
pub use replies::{Outcome, Reply, ReplyEntries, reply_digest};
pub use snapshots::{Snapshot, SnapshotCertificate, SnapshotClaim, SnapshotVoice};

use crate::types::{ClientId, Decree, Digest, NodeId, Regency, Value};

/// Anything that travels between two parties. See the table at the top of this module.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// A client hands over a bundle.
    Submit {
        /// The client got no answer in time: learners that executed it answer from the session table.
        retry: bool,
        /// One bundle (see [`crate::batch`]), not yet checked.
        bundle: &'a [u8],
    },
    /// The leader proposes a batch.
    Propose {
        /// The regency of the leader.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// The digest of the body.
        value: Value,
        /// The batch (see [`crate::batch`]), not yet checked.
        body: Body,
    },
    /// An acceptor voted.
    Accepted {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// For what.
        value: Value,
    },
    /// A learner has every decree up to this one, bodies included.
    Ack {
        /// The highest such decree.
        learned: Decree,
    },
    /// A learner executed up to a multiple of K.
    Checkpoint(CheckpointClaim),
    /// Enough equal checkpoints to move the window.
    Certificate(Certificate),
    /// Where a node stands.
    Status(Status),
    /// A learner asks for decided values.
    Pull {
        /// The first decree it lacks.
        first: Decree,
        /// How many it asks for.
        count: u32,
    },
    /// The values of consecutive decrees, as far as the answering learner has them.
    Pulled {
        /// The decree of the first value.
        first: Decree,
        /// The values.
        values: Values<'a>,
    },
    /// A node asks for the body of a value.
    Fetch {
        /// Where it is needed.
        decree: Decree,
        /// Its digest.
        value: Value,
    },
    /// The body of a value.
    Fetched {
        /// Where it was asked for.
        decree: Decree,
        /// Its digest.
        value: Value,
        /// The batch, not yet checked.
        body: Body,
    },
    /// `Executed?` of PROTOCOL.md section 4: a proposer asks which of these requests a leader need not order any more.
    AskSettled {
        /// How far a learner must have executed to answer: one that is behind may take for too far ahead what is not.
        executed: Decree,
        /// Those that it tracks of one client.
        names: RequestNames<'a>,
    },
    /// Those of them that are settled here: executed, or never to be executed.
    Settled {
        /// Their names.
        names: RequestNames<'a>,
    },
    /// What a decree made of a client's requests: all of them, or as many as a message holds. Learners that are correct
    /// say the same of the same decree, so that one comparison does for all entries.
    Replies {
        /// The regency of the answering learner: f+1 of these tell a client who leads.
        regency: Regency,
        /// One entry per request.
        entries: ReplyEntries<'a>,
    },
    /// The same, as a digest: `full_replies` learners say it in full.
    RepliesDigest {
        /// As in `Replies`.
        regency: Regency,
        /// The [`ReplyEntries::digest`] of the entries.
        digest: Digest,
    },
    /// What became of requests that a client retried, so far as the learner knows. Learners may know of different ones.
    Found {
        /// As in `Replies`.
        regency: Regency,
        /// One entry per request.
        entries: ReplyEntries<'a>,
    },
    /// The leader has no room for a bundle, or the node does not lead.
    Busy {
        /// The regency of the answering node.
        regency: Regency,
        /// When to try again. Milliseconds.
        retry_after_ms: u32,
    },
    /// A proposer wants this regency or a higher one.
    Vote(Signed<RegencyVote>),
    /// A regency is proved.
    Proof(ProofOfLeadership),
    /// A new leader asks for reports.
    Gather {
        /// Which regency.
        regency: Regency,
        /// Why it leads.
        proof: ProofOfLeadership,
    },
    /// An acceptor's votes and its promise.
    Report(Box<Signed<Report>>),
    /// A new leader shows what it was told; plans follow from it.
    NewRegency(Box<NewRegency>),
    /// An acceptor is in a higher regency.
    Denied(ProofOfLeadership),
    /// An acceptor cannot verify that a client made a bundle of a proposal, and so does not vote for it.
    NackAuth {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// Whose bundle it says to be.
        client: ClientId,
        /// The digest of the bundle.
        bundle: Digest,
    },
    /// An acceptor that does not vote either, because of other bundles, verified this one.
    AckAuth {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// The digest of the bundle.
        bundle: Digest,
    },
    /// A client is to sign a bundle that it sent with tags.
    WantSignature {
        /// The regency of the node that asks.
        regency: Regency,
        /// The digest of the bundle.
        bundle: Digest,
    },
    /// A client's signature of a bundle (see [`crate::batch::BundleClaim`]): as good as tags for everyone.
    BundleSignature {
        /// Who signed.
        client: ClientId,
        /// The digest of the bundle.
        bundle: Digest,
        /// Not yet checked.
        signature: Signature,
    },
    /// A learner has a snapshot.
    Snapshot(SnapshotClaim),
    /// f+1 learners have the same one; the sender likely holds its chunks.
    SnapshotCertificate(SnapshotCertificate),
    /// A learner looks for a snapshot.
    AskSnapshot {
        /// After a later decree than this one.
        above: Decree,
    },
    /// A learner asks for a piece of a certified snapshot.
    FetchChunk {
        /// Which snapshot.
        decree: Decree,
        /// 0 for its manifest, i + 1 for chunk i.
        place: u32,
    },
    /// A piece of a certified snapshot.
    Chunk {
        /// Which snapshot.
        decree: Decree,
        /// As in `FetchChunk`.
        place: u32,
        /// Not yet checked.
        bytes: Body,
    },
    /// A node lost its disk and asks what the others remember (see [`crate::recall`]).
    Recall,
    /// What a node remembers that bears on what the one who asks may have promised.
    Recalled(Box<Recalled>),
}

impl Message<'_> {
    /// How many signatures of nodes it carries: what it can cost to find out that it is not true. Those of clients
    /// are not among them.
    #[must_use]
    pub fn signatures(&self) -> usize {
        let of = |report: &Signed<Report>| {
            let low = report.content.low.as_ref();
            1 + low.map_or(0, |certificate| certificate.voices.len())
        };
        match self {
            Message::Vote(_) | Message::Checkpoint(_) | Message::Snapshot(_) => 1,
            Message::Certificate(certificate) => certificate.voices.len(),
            Message::SnapshotCertificate(certificate) => certificate.voices.len(),
            Message::Proof(proof) | Message::Denied(proof) | Message::Gather { proof, .. } => {
                proof.votes.len()
            }
            Message::Recalled(recalled) => {
                let low = recalled.low.as_ref().map_or(0, |low| low.voices.len());
                recalled.proof.votes.len() + recalled.support.len() + low
            }
            Message::Report(report) => of(report),
            Message::NewRegency(shown) => {
                shown.proof.votes.len() + shown.voucher.iter().map(of).sum::<usize>()
            }
            Message::Submit { .. }
            | Message::Propose { .. }
            | Message::Accepted { .. }
            | Message::Ack { .. }
            | Message::Status(_)
            | Message::Pull { .. }
            | Message::Pulled { .. }
            | Message::Fetch { .. }
            | Message::Fetched { .. }
            | Message::NackAuth { .. }
            | Message::AckAuth { .. }
            | Message::WantSignature { .. }
            | Message::BundleSignature { .. }
            | Message::Recall
            | Message::AskSettled { .. }
            | Message::Settled { .. }
            | Message::AskSnapshot { .. }
            | Message::FetchChunk { .. }
            | Message::Chunk { .. }
            | Message::Replies { .. }
            | Message::RepliesDigest { .. }
            | Message::Found { .. }
            | Message::Busy { .. } => 0,
        }
    }
}

/// Where a node stands; the receiver answers with what is missing (PROTOCOL.md section 3, "Nothing is said only once").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The regency it is in.
    pub regency: Regency,
    /// Whether it holds the plan of that regency.
    pub plan_held: bool,
    /// Whether it lost its disk and so neither votes nor reports.
    pub abstaining: bool,
    /// Its newest certified checkpoint.
    pub low: Decree,
    /// The highest decree up to which it learned everything, bodies included.
    pub learned: Decree,
}

/// What a learner says at a multiple of K (PROTOCOL.md section 5.4). Running digests: O(1) per decree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The decree c.
    pub decree: Decree,
    /// The digest of the order up to c.
    pub chain: Digest,
    /// The digest of the results up to c: carried and signed, but not compared for the window.
    pub results: Digest,
}

impl Signable for Checkpoint {
    const CONTEXT: Context = Context::Checkpoint;
    fn write_signable(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.decree.0.to_le_bytes());
        out.extend_from_slice(&self.chain.0);
        out.extend_from_slice(&self.results.0);
    }
}

/// A checkpoint with the learner that says it. Signed in Byzantine modes; mode C trusts the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointClaim {
    /// What is said.
    pub checkpoint: Checkpoint,
    /// Who says it.
    pub learner: NodeId,
    /// The proof; all zero in mode C.
    pub signature: Signature,
}

/// Equal (decree, chain) from a checkpoint quorum of learners: transferable, and moves `low`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The decree c.
    pub decree: Decree,
    /// The digest of the order up to c.
    pub chain: Digest,
    /// The learners, ascending, with the results that each signed and its signature (all zero in mode C).
    pub voices: Vec<Voice>,
}

/// One learner's part of a [`Certificate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Who.
    pub learner: NodeId,
    /// The results that it signed with the rest.
    pub results: Digest,
    /// Its signature over the whole checkpoint.
    pub signature: Signature,
}

impl Certificate {
    /// The claims that it is made of.
    pub fn claims(&self) -> impl Iterator<Item = CheckpointClaim> {
        self.voices.iter().map(|voice| CheckpointClaim {
            checkpoint: Checkpoint {
                decree: self.decree,
                chain: self.chain,
                results: voice.results,
            },
            learner: voice.learner,
            signature: voice.signature,
        })
    }
}

/// A proposer's vote for a regency: it will follow this one or a higher one (PROTOCOL.md section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegencyVote {
    /// The regency.
    pub regency: Regency,
}

impl Signable for RegencyVote {
    const CONTEXT: Context = Context::Vote;
    fn write_signable(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.regency.0.to_le_bytes());
    }
}

/// `Pol(r)`: 2f+1 signed votes of distinct proposers for a regency ≥ r. Empty for regency 0 and in mode C.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProofOfLeadership {
    /// The votes, ascending by signer.
    pub votes: Vec<Signed<RegencyVote>>,
}

/// An acceptor's statement when it enters a regency: its votes above its low, and the promise never to vote
/// in a lower regency. Exactly one per (acceptor, regency), ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The regency that it enters.
    pub regency: Regency,
    /// Its newest checkpoint certificate; none before the first.
    pub low: Option<Certificate>,
    /// Its votes for decrees in `(low, low + W]`, strictly ascending.
    pub votes: Vec<ReportedVote>,
}

/// One vote in a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedVote {
    /// For which decree.
    pub decree: Decree,
    /// In which regency.
    pub psn: Regency,
    /// For what.
    pub value: Value,
}

/// What a new leader shows to everyone: why it leads, and a voucher of n − f reports of distinct acceptors.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRegency {
    /// The regency.
    pub regency: Regency,
    /// Why it leads.
    pub proof: ProofOfLeadership,
    /// The reports, ascending by signer.
    pub voucher: Vec<Signed<Report>>,
}

/// What a node remembers: its answer to `Recall`. What is not proved does not count.
#[derive(Clone, Debug, PartialEq)]
pub struct Recalled {
    /// The regency that it is in.
    pub regency: Regency,
    /// Why; empty in regency 0 and in mode C.
    pub proof: ProofOfLeadership,
    /// The highest regency that it voted for; its own regency if that is higher, or if it does not vote.
    pub voted: Regency,
    /// f+1 votes for that or higher ones, ascending by signer, if it is more than one above its regency.
    pub support: Vec<Signed<RegencyVote>>,
    /// Its newest certified checkpoint.
    pub low: Option<Certificate>,
}

/// Consecutive values, still in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// Takes bytes whose length is a multiple of 32.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Values<'a>> {
        bytes.len().is_multiple_of(32).then_some(Values(bytes))
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / 32
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + use<'a> {
        self.0
            .as_chunks::<32>()
            .0
            .iter()
            .map(|chunk| Value(Digest(*chunk)))
    }
}

/// Why bytes are no message: what was expected, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// No message has this tag.
    #[error("{0} is the tag of no message")]
    Tag(u8),
    /// The bytes end too early.
    #[error("the bytes end in the middle of {0}")]
    Truncated(&'static str),
    /// Bytes stand behind the message.
    #[error("{0} bytes stand behind the message")]
    Trailing(usize),
    /// A count or length above what the message can carry.
    #[error("{what}: {found} is above the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A byte that should name a case and does not.
    #[error("{found} is no {what}")]
    Case {
        /// Of what.
        what: &'static str,
        /// What was found.
        found: u8,
    },
    /// Entries that should be strictly ascending and are not.
    #[error("{0} are not strictly ascending")]
    Order(&'static str),
}
