//! How the order loop tells a lane things.
//!
//! | what | if the lane has no room |
//! |---|---|
//! | outputs | lost, as on a slow link; the protocol says it again |
//! | closes, reports, faults, the end of faults | kept, and tried again in every turn, before new outputs |
//!
//! Nobody says the second kind again: a lost question for a report would end `status` for ever, a lost close leaves two links to a node.
//! A lane that takes something out of a full queue wakes the order loop, so what is kept waits for no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use twostep_net::{LinkId, queue};

use super::lane::ToLane;
use super::output::Output;
use crate::node::control::Fault;

/// Faults that may be kept for a lane; the node refuses further ones.
const FAULTS_MAX: usize = 64;

/// The order loop's end of the queue into one lane.
pub(super) struct Teller {
    told: queue::Sender<ToLane>,
    /// Oldest first. Bounded: one report, a close for each link to a node, [`FAULTS_MAX`] faults and one end of them.
    kept: VecDeque<ToLane>,
}

impl Teller {
    pub fn new(told: queue::Sender<ToLane>) -> Teller {
        Teller {
            told,
            kept: VecDeque::new(),
        }
    }

    /// Gives the lane an output if it has room; whether it had.
    pub fn output(&self, output: &Arc<Output>) -> bool {
        self.told.send(ToLane::Output(Arc::clone(output))).is_ok()
    }

    /// Makes the lane close a link.
    pub fn close(&mut self, link: LinkId) {
        self.closed(link);
        self.keep(ToLane::Close(link));
    }

    /// A link is closed: nobody needs to close it any more.
    pub fn closed(&mut self, link: LinkId) {
        self.kept
            .retain(|told| !matches!(told, ToLane::Close(other) if *other == link));
    }

    /// Asks for the report of a round, in place of those of older ones.
    pub fn ask_report(&mut self, round: u64) {
        self.kept.retain(|told| !matches!(told, ToLane::Report(_)));
        self.keep(ToLane::Report(round));
    }

    /// Whether there is room for one more fault.
    pub fn may_fault(&self) -> bool {
        let faults = self.kept.iter();
        faults
            .filter(|told| matches!(told, ToLane::Fault(_)))
            .count()
            < FAULTS_MAX
    }

    /// Injects a fault, after those before it.
    ///
    /// # Panics
    /// If there is no room for it ([`Teller::may_fault`]).
    pub fn fault(&mut self, fault: Fault) {
        assert!(self.may_fault(), "the node refuses what does not fit");
        self.keep(ToLane::Fault(fault));
    }

    /// Ends all faults, also those that the lane has not heard of yet.
    pub fn heal(&mut self) {
        self.kept
            .retain(|told| !matches!(told, ToLane::Fault(_) | ToLane::Heal));
        self.keep(ToLane::Heal);
    }

    /// Tells the lane what was kept, as far as it has room.
    pub fn retry(&mut self) {
        while let Some(told) = self.kept.pop_front() {
            match self.told.send(told) {
                Ok(()) => {}
                Err(queue::SendError::Full(told)) => return self.kept.push_front(told),
                // The node is ending.
                Err(queue::SendError::Closed(_)) => self.kept.clear(),
            }
        }
    }

    fn keep(&mut self, told: ToLane) {
        self.kept.push_back(told);
        self.retry();
    }
}
