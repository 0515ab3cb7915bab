//! State transfer: a learner that lacks what no log holds any more, or that diverged, takes up a certified snapshot.
//!
//! ```text
//! pull in vain ──► SnapshotCertificate ──► FetchChunk, to all that offered it ──► Chunk … ──► installed at s ──► pull above s
//! diverged ──► AskSnapshot ─┘
//! ```
//!
//! The certificate proves itself, so one offer is enough; a pull that moves on makes it unnecessary. After it the learner goes on
//! at s: what it pulls above is checked by the chain of certified checkpoints, and by f+1 equal answers above the newest.

use twostep_net::pool::Body;

use super::{Replica, Step};
use crate::machine::{Again, Event, Question, Refusal, SnapshotTask, To};
use crate::message::{Checkpoint, Message, SnapshotCertificate};
use crate::pull::Pull;
use crate::rules::Rules;
use crate::transfer::Transfer;
use crate::types::{Decree, NodeId, NodeSet, Party};

/// A transfer that has not moved for so many T0 gives way to a newer snapshot: those that had it may have dropped it.
pub(super) const STALLED_T0: u32 = 2;

impl<R: Rules> Replica<R> {
    /// This learner has diverged: it asks for a snapshot until it has one.
    pub(super) fn look_for_snapshot(&mut self, step: &mut Step<'_>) {
        self.snapshots.ask_at = Some(step.now);
    }

    /// A learner offers a snapshot.
    pub(super) fn take_offer(
        &mut self,
        from: NodeId,
        certificate: SnapshotCertificate,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.learner.is_none() || !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        let before = self.snapshots.certification.decree();
        if self.snapshots.certification.certificate(&certificate)? {
            self.snapshot_certified(before, step);
        } else {
            self.snapshots.certification.prove(&certificate)?;
        }
        if certificate.snapshot.decree < self.snapshots.certification.decree() {
            self.tell_certificate(from, step);
        }
        let (decree, learned) = (certificate.snapshot.decree, self.learned());
        if !self.needs(decree) {
            return Ok(());
        }
        if let Some(transfer) = &mut self.snapshots.transfer {
            let same = transfer.certificate().snapshot == certificate.snapshot;
            let stalled = step.now.since(transfer.moved_at()) >= self.tuning.t0 * STALLED_T0;
            let newer = decree > transfer.decree() && stalled && !transfer.is_installing();
            if same {
                transfer.offered_by(from);
            }
            if newer {
                self.begin_transfer(certificate, NodeSet::one(from), step);
            }
            return Ok(());
        }
        let mut holders = NodeSet::one(from);
        match &mut self.snapshots.offer {
            Some((offered, known, _)) if offered.snapshot == certificate.snapshot => {
                known.insert(from);
                holders = *known;
            }
            Some((offered, _, _)) if offered.snapshot.decree > decree => return Ok(()),
            offer => *offer = Some((certificate.clone(), holders, learned)),
        }
        // f+1 have it in no log any more: one of them is correct, so no pull will bring it.
        let vain = holders.len() >= self.configuration.quorums().pull;
        if vain || self.execution.diverged.is_some() {
            self.begin_transfer(certificate, holders, step);
        }
        Ok(())
    }

    /// Whether a snapshot after `decree` brings this learner forward: it is above what is learned, or the state diverged and
    /// the log leads from there on.
    fn needs(&self, decree: Decree) -> bool {
        let Some(learner) = &self.learner else {
            return false;
        };
        let continued = decree > learner.learned() || decree >= learner.log().base();
        decree > learner.learned() || (self.execution.diverged.is_some() && continued)
    }

    fn begin_transfer(
        &mut self,
        certificate: SnapshotCertificate,
        holders: NodeSet,
        step: &mut Step<'_>,
    ) {
        let decree = certificate.snapshot.decree;
        self.snapshots.offer = None;
        self.snapshots.ask_at = Some(step.now + self.tuning.t0);
        step.fx.observe(Event::TransferBegun { decree });
        step.fx
            .ask(Question::Snapshot(SnapshotTask::Receive(Box::new(
                certificate.clone(),
            ))));
        self.snapshots.transfer = Some(Transfer::new(certificate, holders, step.now));
    }

    /// A pull is due, and the last one brought nothing: what was offered meanwhile is received.
    pub(super) fn transfer_instead(&mut self, learned: Decree, step: &mut Step<'_>) {
        let vain = |(offered, _, then): &mut (SnapshotCertificate, NodeSet, Decree)| {
            *then == learned && offered.snapshot.decree > learned
        };
        if let Some((certificate, holders, _)) = self.snapshots.offer.take_if(vain)
            && self.snapshots.transfer.is_none()
        {
            self.begin_transfer(certificate, holders, step);
        }
    }

    /// Asks for what is lacking, and for newer snapshots and more holders.
    pub(super) fn transfer_on(&mut self, step: &mut Step<'_>) {
        let (learned, t0) = (self.learned(), self.tuning.t0);
        self.snapshots
            .offer
            .take_if(|(offered, _, then)| *then < learned && offered.snapshot.decree <= learned);
        let transfer = self.snapshots.transfer.as_ref();
        let decree = transfer.map(Transfer::decree);
        let idle = transfer.is_some_and(|transfer| !transfer.is_installing());
        if let Some(decree) = decree
            && idle
            && !self.needs(decree)
        {
            // The log was enough after all, or leads no more from there to here.
            self.snapshots.transfer = None;
            step.fx
                .ask(Question::Snapshot(SnapshotTask::Discard { decree }));
        }
        self.ask_for_snapshot(step);
        let others = self.other_learners();
        let Some(transfer) = &mut self.snapshots.transfer else {
            return;
        };
        let decree = transfer.decree();
        if transfer.completes() {
            step.fx
                .ask(Question::Snapshot(SnapshotTask::Install { decree }));
            return;
        }
        for (node, place) in transfer.asks(others, step.now, t0) {
            let message = Message::FetchChunk { decree, place };
            step.fx.send(To::Nodes(NodeSet::one(node)), &message);
        }
    }

    fn ask_for_snapshot(&mut self, step: &mut Step<'_>) {
        let wants = self.execution.diverged.is_some() || self.snapshots.transfer.is_some();
        if !wants {
            self.snapshots.ask_at = None;
            return;
        }
        if *self.snapshots.ask_at.get_or_insert(step.now) > step.now {
            return;
        }
        self.snapshots.ask_at = Some(step.now + self.tuning.t0);
        if self.snapshots.is_installing() {
            return;
        }
        let above = self.snapshots.transfer.as_ref().map(Transfer::decree);
        let base = self.learner.as_ref().map(|learner| learner.log().base());
        let above = above.or(base).unwrap_or_default();
        // The one that is being received, too: more may hold it by now.
        let above = Decree(above.0.saturating_sub(1));
        let others = self.other_learners();
        step.fx
            .send(To::Nodes(others), &Message::AskSnapshot { above });
        step.fx.observe(Event::SentAgain(Again::AskSnapshot));
    }

    /// A piece came; the host checks and stores it.
    pub(super) fn take_chunk(
        &mut self,
        from: NodeId,
        decree: Decree,
        place: u32,
        bytes: Body,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let transfer = self.snapshots.transfer.as_mut();
        let asked = transfer
            .filter(|transfer| transfer.decree() == decree)
            .is_some_and(|transfer| transfer.came(from, place));
        if !asked {
            return Err(Refusal::Unasked);
        }
        step.fx.ask(Question::Snapshot(SnapshotTask::Keep {
            from,
            decree,
            place,
            bytes,
        }));
        Ok(())
    }

    pub(super) fn receiving(
        &mut self,
        decree: Decree,
        held: Option<Vec<bool>>,
        step: &mut Step<'_>,
    ) {
        let transfer = self.snapshots.transfer.as_mut();
        if let Some(transfer) = transfer.filter(|transfer| transfer.decree() == decree) {
            transfer.receiving(held, step.now);
            self.transfer_on(step);
        }
    }

    pub(super) fn kept_chunk(
        &mut self,
        from: NodeId,
        decree: Decree,
        place: u32,
        good: bool,
        step: &mut Step<'_>,
    ) {
        let t0 = self.tuning.t0;
        let transfer = self.snapshots.transfer.as_mut();
        let Some(transfer) = transfer.filter(|transfer| transfer.decree() == decree) else {
            return;
        };
        transfer.kept(from, place, good, step.now, t0);
        if !good {
            step.fx.observe(Event::Refused {
                from: Party::Node(from),
                why: Refusal::WrongChunk,
            });
        }
        self.transfer_on(step);
    }

    /// State and sessions are those of a certified snapshot: the learner goes on above it.
    pub(super) fn installed(&mut self, certificate: &SnapshotCertificate, step: &mut Step<'_>) {
        let snapshot = certificate.snapshot;
        let decree = snapshot.decree;
        let learner = self.learner.as_mut().expect("only a learner installs");
        let learned = learner.learned();
        if decree < learner.log().base() {
            // The bounds of the log dropped what comes next while the pieces came: only a newer one mends this node.
            self.snapshots.transfer = None;
            self.snapshots.ask_at = Some(step.now + self.tuning.t0);
            return;
        }
        // What stood at another state is not signed again.
        self.claimed = self.claimed.max(learned);
        self.execution.mended = self.claimed;
        if decree > learned {
            learner.resume(decree, snapshot.chain);
            self.acks.take(self.me, decree);
            self.trouble.logged = self.trouble.logged.max(decree);
            self.pull = Pull::default();
        }
        self.execution.executed = decree;
        self.execution.delivered = decree;
        self.execution.chain = snapshot.chain;
        self.execution.chains.clear();
        self.claim = None;
        self.execution.diverged = None;
        self.snapshots.transfer = None;
        self.snapshots.ask_at = None;
        self.snapshots.forget_own();
        step.fx.observe(Event::Installed { decree });
        if decree > learned {
            // Its own word may be the one that a certificate lacks: those below were signed by others, or by nobody.
            let checkpoint = Checkpoint {
                decree,
                chain: snapshot.chain,
                results: snapshot.results,
            };
            self.claim_checkpoint(checkpoint, step);
        }
        self.learn(step);
    }

    /// The host could not take the snapshot up: it is received once more, from the beginning.
    pub(super) fn not_installed(&mut self, decree: Decree, step: &mut Step<'_>) {
        let transfer = self.snapshots.transfer.as_ref();
        if transfer.is_none_or(|transfer| transfer.decree() != decree) {
            return;
        }
        let touched = self.snapshots.is_installing();
        self.snapshots.transfer = None;
        step.fx
            .ask(Question::Snapshot(SnapshotTask::Discard { decree }));
        if touched {
            // The state may be anything now.
            self.diverge(decree, step);
        }
        self.snapshots.ask_at = Some(step.now + self.tuning.t0);
    }
}
