//! What a replica says about itself.

use super::{Replica, Standing};
use crate::learner::Learner;
use crate::machine::JournalState;
use crate::message::Status;
use crate::proposer::Proposer;
use crate::recall::{Floor, Recall};
use crate::rules::Rules;
use crate::signatures::Signatures;
use crate::types::{Decree, Digest, NodeId, NodeSet, Regency, Time};

/// What a replica says about itself, for status pages and tests.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// The regency it is in.
    pub regency: Regency,
    /// Who leads it.
    pub leader: NodeId,
    /// Whether it abstains since it lost its disk.
    pub abstaining: bool,
    /// Until when; none if it does not abstain, or too few others have told it what they remember.
    pub abstains_until: Option<Floor>,
    /// How its journal fares, and whether it steps back from leading because of it.
    pub journal: JournalState,
    /// Those that say that they have lost their disks, itself included. More than f of them cannot come back.
    pub without_disks: NodeSet,
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
    /// The newest certified snapshot that it holds.
    pub snapshot: Decree,
    /// The snapshot that it receives, and how many chunks of how many it holds, if that is known.
    pub transfer: Option<(Decree, Option<(usize, usize)>)>,
    /// As leader: the highest decree proposed.
    pub proposed: Decree,
    /// As leader: the bundles that wait.
    pub waiting: usize,
    /// The signatures that it made: votes, reports and checkpoints.
    pub made: Signatures,
    /// The signatures that it checked, valid or not.
    pub checked: Signatures,
    /// What each other node last said of itself, and when.
    pub peers: Vec<(NodeId, Option<(Status, Time)>)>,
}

impl<R: Rules> Replica<R> {
    /// What it says about itself.
    #[must_use]
    pub fn report(&self) -> ReplicaReport {
        let others = self.others();
        ReplicaReport {
            regency: self.regency,
            leader: self.configuration.leader(self.regency),
            abstaining: self.standing == Standing::LostDisk,
            abstains_until: self.recall.as_ref().and_then(Recall::found),
            journal: self.trouble.state,
            without_disks: self.without_disks(),
            low: self.low,
            learned: self.learned(),
            chain: self.learner.as_ref().map_or(Digest::ZERO, Learner::chain),
            executed: self.execution.executed,
            diverged: self.execution.diverged,
            snapshot: self.snapshots.held(),
            transfer: self.snapshots.transfer(),
            proposed: self
                .proposer
                .as_ref()
                .map_or(Decree::NONE, Proposer::proposed),
            waiting: self.proposer.as_ref().map_or(0, Proposer::waiting),
            made: self.made,
            checked: self
                .gate
                .checked()
                .plus(self.examiner.checked())
                .plus(self.checkpoints.checked())
                .plus(self.snapshots.checked()),
            peers: others
                .iter()
                .map(|node| (node, self.peers.last(node)))
                .collect(),
        }
    }
}
