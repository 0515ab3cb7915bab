//! What a node does while its journal keeps nothing: full, failed, or hung (DESIGN section 5).
//!
//! | event | rule |
//! |---|---|
//! | `Full`, `Failed`, or nothing stored for 4·T0 | a leader votes r + 1, once, and proposes nothing; clients are told `busy` |
//! | until then | it learns, executes and answers, at most a window ahead of its journal; it says what it said before |
//! | no record can be written | no vote, promise, checkpoint or window moves: what needs a record is not said, and waits here |
//! | `Ok`, or `Slow` | what waits is recorded, in its order, then said; a leader that nobody deposed goes on |
//!
//! In mode C a leader just falls silent: the next one takes over when its time-out fires. Bounded: nothing is kept for
//! later but what the window holds anyway, and the checkpoints and snapshots of one window.

use super::{Replica, Say, Step};
use crate::acceptor::Acceptor;
use crate::machine::{JournalState, Record};
use crate::message::{Checkpoint, SnapshotClaim};
use crate::proposer::Proposer;
use crate::recovery::Lead;
use crate::rules::Rules;
use crate::types::{Decree, Regency, Time};

/// How long nothing may be stored before the journal counts as hung. In T0.
const HUNG_T0: u32 = 4;

/// How the journal fares, as far as a replica can see.
#[derive(Debug)]
pub(super) struct Trouble {
    /// What its host says.
    pub(super) state: JournalState,
    /// Since when something waits to be stored; none if nothing does.
    waits_since: Option<Time>,
    /// Whether it was in trouble at the end of the last turn.
    was: bool,
    /// Everything learned up to this is recorded.
    pub(super) logged: Decree,
    /// The regency that a proposer which is no acceptor recorded last.
    pub(super) entered: Regency,
    /// Checkpoints that were executed and not signed.
    unsigned: Vec<Checkpoint>,
    /// Snapshots that stand on what is not recorded.
    unsaid: Vec<SnapshotClaim>,
}

impl Default for Trouble {
    fn default() -> Trouble {
        Trouble {
            state: JournalState::Ok,
            waits_since: None,
            was: false,
            logged: Decree::NONE,
            entered: Regency(0),
            unsigned: Vec::new(),
            unsaid: Vec::new(),
        }
    }
}

impl Trouble {
    /// Something was stored, and something else waits or does not.
    pub(super) fn stored(&mut self, now: Time, more: bool) {
        self.waits_since = more.then_some(now);
    }

    /// Something waits to be stored.
    pub(super) fn waits(&mut self, now: Time) {
        self.waits_since.get_or_insert(now);
    }

    /// A checkpoint waits for its turn to be signed.
    pub(super) fn postpone(&mut self, checkpoint: Checkpoint) {
        self.unsigned.push(checkpoint);
    }

    /// A snapshot waits until what it stands on is recorded.
    pub(super) fn postpone_snapshot(&mut self, claim: SnapshotClaim) {
        self.unsaid.push(claim);
    }
}

impl<R: Rules> Replica<R> {
    /// Whether records can be written.
    pub(super) fn keeps_records(&self) -> bool {
        matches!(self.trouble.state, JournalState::Ok | JournalState::Slow)
    }

    /// Whether this node should not lead.
    pub(super) fn in_trouble(&self, now: Time) -> bool {
        let patience = self.tuning.t0 * HUNG_T0;
        let hung = |since| now.since(since) >= patience;
        !self.keeps_records() || self.trouble.waits_since.is_some_and(hung)
    }

    /// At the end of every turn: steps back when trouble begins.
    pub(super) fn watch_journal(&mut self, step: &mut Step<'_>) {
        let trouble = self.in_trouble(step.now);
        let began = trouble && !self.trouble.was;
        self.trouble.was = trouble;
        if began && self.leads() && !self.crash_only() {
            self.suspect(step);
        }
    }

    /// The journal says how it fares.
    pub(super) fn journal(&mut self, state: JournalState, step: &mut Step<'_>) {
        let kept = self.keeps_records();
        self.trouble.state = state;
        if !kept && self.keeps_records() {
            self.catch_up_records(step);
        }
    }

    /// Records what was put off, in the order in which it would have been.
    fn catch_up_records(&mut self, step: &mut Step<'_>) {
        self.record_learned(step);
        let newest = self.checkpoints.newest().map(|newest| newest.decree);
        let held = self.held.iter().filter_map(|(_, say)| match say {
            Say::Low(certificate) => Some(certificate.decree),
            _ => None,
        });
        if newest > held.max().max(Some(self.low)) {
            self.store_low(step);
        }
        for checkpoint in std::mem::take(&mut self.trouble.unsigned) {
            self.claim_checkpoint(checkpoint, step);
        }
        for claim in std::mem::take(&mut self.trouble.unsaid) {
            self.hold(Say::Snapshot(claim), step);
        }
        let acceptor = self.acceptor.as_ref();
        let promised = acceptor.map_or(self.trouble.entered, Acceptor::promised);
        if promised < self.regency {
            self.promise(self.regency, step);
        }
        if matches!(self.lead, Lead::Gathering(_)) {
            self.record_lead(step);
            self.lead_if_ready(step);
        }
        if self.proposes() {
            let proposals = self.proposer.as_ref().map(Proposer::proposals);
            for (decree, batch) in proposals.into_iter().flatten() {
                self.own_proposal(self.regency, decree, batch, step);
            }
        }
        self.follow_votes(step);
        self.learn(step);
    }

    /// Records what was learned, as far as that can be done.
    pub(super) fn record_learned(&mut self, step: &mut Step<'_>) {
        if !self.keeps_records() {
            return;
        }
        let Some(learner) = &mut self.learner else {
            return;
        };
        let logged = self.trouble.logged.max(learner.log().base());
        for decree in (logged.0 + 1..=learner.learned().0).map(Decree) {
            let batch = learner
                .log()
                .get(decree)
                .expect("kept until it is recorded");
            self.recorded.0 += 1;
            step.fx
                .store(self.recorded, &Record::Learned { decree, batch });
        }
        self.trouble.logged = learner.learned();
        learner.release(self.execution.executed.min(self.trouble.logged));
    }
}
