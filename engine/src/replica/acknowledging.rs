//! Whom a learner tells what it has learned, and when.
//!
//! | to | when | why |
//! |---|---|---|
//! | the leader | at the end of each turn in which something was learned | it frees slots, and ends its retransmission |
//! | the same, of a decree with several requests | with the next vote that is told to it, after T0/128 at the latest | where requests gather, the cores are busy, and another decree follows: a packet less, and for the leader a wake-up less |
//! | a new leader | when its regency is entered | the same |
//! | all other acceptors and proposers | the same, but at most once in T0/8 | they need it before they would say votes again, after T0/4, or judge their leader, after T0/2 at the earliest |
//!
//! An acknowledgement is cumulative, so one of them stands for all decrees of those T0/8. In a cluster of six with
//! f = 1 a decree alone has 30 other messages and 4 learners × 5 others = 20 acknowledgements; of a busy one's only the
//! 3 to the leader are left. Whatever is lost is in the next one, or in the `Status` of every T0.
//!
//! *A leader with few slots* proposes nothing before it is acknowledged: then no vote follows, and the acknowledgement waits
//! in vain, but hardly ever (`wager.rs`).

use std::time::Duration;

use super::{Replica, Step};
use crate::batch::Batch;
use crate::machine::{To, earlier};
use crate::message::Message;
use crate::rules::Rules;
use crate::types::{Decree, NodeId, NodeSet, Time};
use crate::wager::Wager;

/// What the others were told of what this node learned.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The leader that was told last, and up to where.
    leader: (Option<NodeId>, Decree),
    /// Up to where all others were, and from when on they may be told more.
    others: (Decree, Time),
    /// When they are to be told; none while they know everything.
    due: Option<Time>,
    /// Since when one to the leader waits for a vote that it can travel with.
    waits_since: Option<Time>,
    /// Whether one is to wait.
    wager: Wager,
}

impl Told {
    /// When there is something to acknowledge at the latest.
    pub(super) fn deadline(&self, t0: Duration) -> Option<Time> {
        earlier(self.due, self.waits_until(t0))
    }

    fn waits_until(&self, t0: Duration) -> Option<Time> {
        self.waits_since.map(|since| since + t0 / 128)
    }

    /// Whether an acknowledgement waits that could travel with a vote.
    fn waits(&mut self, now: Time, t0: Duration) -> bool {
        match self.waits_until(t0) {
            None if self.wager.waits() => {
                self.waits_since = Some(now);
                true
            }
            None => false,
            Some(until) if until <= now => {
                self.waits_since = None;
                self.wager.in_vain();
                false
            }
            Some(_) => true,
        }
    }
}

impl<R: Rules> Replica<R> {
    /// Acknowledges at the end of a turn what is due.
    pub(super) fn acknowledge(&mut self, step: &mut Step<'_>) {
        let learned = self.learned();
        let leader = self.configuration.leader(self.regency);
        let mut receivers = NodeSet::default();
        let news = learned > Decree::NONE && self.told.leader != (Some(leader), learned);
        if news && !self.waits_for_vote(leader, learned, step.now) {
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
            self.told.leader = (Some(leader), learned);
            self.told.waits_since = None;
        }
        let receivers = receivers.minus(NodeSet::one(self.me));
        if !receivers.is_empty() {
            step.fx
                .send(To::Nodes(receivers), &Message::Ack { learned });
        }
    }

    /// Whether an acknowledgement to the leader can wait for a vote to it.
    fn waits_for_vote(&mut self, leader: NodeId, learned: Decree, now: Time) -> bool {
        let known = self.told.leader.0 == Some(leader) && leader != self.me;
        let votes = self.acceptor.is_some() && self.configuration.learners().contains(leader);
        let batch = || self.learner.as_ref()?.log().get(learned);
        if known && votes && batch().is_some_and(Batch::has_several_requests) {
            return self.told.waits(now, self.tuning.t0);
        }
        self.told.waits_since = None;
        false
    }

    /// All learners are told of a vote: what waits to be acknowledged travels with it.
    pub(super) fn acknowledge_along(&mut self, step: &mut Step<'_>) {
        let (leader, learned) = (self.configuration.leader(self.regency), self.learned());
        if self.told.waits_since.take().is_some() {
            self.told.wager.came();
            self.told.leader = (Some(leader), learned);
            step.fx
                .send(To::Nodes(NodeSet::one(leader)), &Message::Ack { learned });
        }
    }
}
