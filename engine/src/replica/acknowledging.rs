//! Whom a learner tells what it has learned, and when.
//!
//! | to | when | why |
//! |---|---|---|
//! | the leader | at the end of each turn in which something was learned | it frees slots, and ends its retransmission |
//! | a new leader | when its regency is entered | the same |
//! | all other acceptors and proposers | the same, but at most once in T0/8 | they need it before they would say votes again, after T0/4, or judge their leader, after T0/2 at the earliest |
//!
//! An acknowledgement is cumulative, so one of them stands for all decrees of those T0/8. In a cluster of six with
//! f = 1 a decree alone has 30 other messages and 4 learners × 5 others = 20 acknowledgements; of a busy one's only the
//! 3 to the leader are left. Whatever is lost is in the next one, or in the `Status` of every T0.

use super::{Replica, Step};
use crate::machine::To;
use crate::message::Message;
use crate::rules::Rules;
use crate::types::{Decree, NodeId, NodeSet, Time};

/// What the others were told of what this node learned.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The leader that was told last, and up to where.
    leader: (Option<NodeId>, Decree),
    /// Up to where all others were, and from when on they may be told more.
    others: (Decree, Time),
    /// When they are to be told; none while they know everything.
    pub(super) due: Option<Time>,
}

impl<R: Rules> Replica<R> {
    /// Acknowledges at the end of a turn what is due.
    pub(super) fn acknowledge(&mut self, step: &mut Step<'_>) {
        let learned = self.learned();
        let leader = self.configuration.leader(self.regency);
        let mut receivers = NodeSet::default();
        if learned > Decree::NONE && self.told.leader != (Some(leader), learned) {
            self.told.leader = (Some(leader), learned);
            receivers = NodeSet::one(leader);
        }
        let (told, again_at) = self.told.others;
        self.told.due = (learned > told).then_some(again_at.max(step.now));
        if self.told.due == Some(step.now) {
            let proposers: NodeSet = self.configuration.proposers().iter().copied().collect();
            receivers = self.configuration.acceptors().union(proposers);
            self.told.others = (learned, step.now + self.tuning.t0 / 8);
            self.told.due = None;
        }
        let receivers = receivers.minus(NodeSet::one(self.me));
        if !receivers.is_empty() {
            step.fx
                .send(To::Nodes(receivers), &Message::Ack { learned });
        }
    }
}
