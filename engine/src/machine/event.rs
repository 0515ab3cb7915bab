//! What a machine lets be observed: for metrics, status and tests.

use std::time::Duration;

use super::Refusal;
use crate::types::{ClientId, Decree, Party, Regency, Value};

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
