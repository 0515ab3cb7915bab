//! From decided to executed: what the learner of a node delivers, answers and certifies.

use super::{Replica, Say, Step};
use crate::batch::Batch;
use crate::checkpoint::Agreement;
use crate::learner::{Learner, chain};
use crate::machine::{Event, Record, Refusal, Replies, To};
use crate::message::{Certificate, Checkpoint, CheckpointClaim, Message};
use crate::rules::Rules;
use crate::types::{Decree, Digest, NodeId, NodeSet, Party, Regency};

impl<R: Rules> Replica<R> {
    pub(super) fn keep_body(
        &mut self,
        regency: Regency,
        decree: Decree,
        batch: Batch,
        step: &mut Step<'_>,
    ) {
        if let Some(learner) = &mut self.learner {
            learner.keep(regency, decree, batch);
            self.learn(step);
        }
    }

    /// Learns and delivers whatever is next, at most a window ahead of execution.
    pub(super) fn learn(&mut self, step: &mut Step<'_>) {
        let limits = *self.configuration.limits();
        loop {
            if self.snapshots.is_installing() || !self.deliver_again(step) {
                return;
            }
            let Some(learner) = &mut self.learner else {
                return;
            };
            let behind = self.execution.executed.min(self.trouble.logged);
            if learner.learned().since(behind) >= limits.window {
                return;
            }
            let Some(learned) = learner.advance() else {
                if self.own_body() {
                    continue;
                }
                return;
            };
            let (decree, value) = (learned.decree, learned.batch.value());
            let chain = learner.chain();
            self.record_learned(step);
            step.fx.observe(Event::Learned {
                decree,
                value,
                path: learned.path,
            });
            self.acks.take(self.me, decree);
            let checkpoint = decree.0.is_multiple_of(limits.checkpoint_every);
            if self.execution.diverged.is_some() {
                self.skip_execution(decree, checkpoint.then_some(chain), step);
                continue;
            }
            if checkpoint {
                self.execution.chains.push_back((decree, chain));
            }
            self.execution.delivered = decree;
            step.fx.deliver(decree, &learned.batch);
        }
    }

    /// Delivers what was learned before a snapshot below it was installed, at most a window ahead of execution; whether
    /// everything that is learned is delivered.
    fn deliver_again(&mut self, step: &mut Step<'_>) -> bool {
        let limits = *self.configuration.limits();
        let Some(learner) = &self.learner else {
            return false;
        };
        let execution = &mut self.execution;
        while execution.delivered < learner.learned() {
            if execution.delivered.since(execution.executed) >= limits.window {
                return false;
            }
            let decree = execution.delivered.next();
            let batch = learner.log().get(decree);
            let batch = batch.expect("the log holds what is not executed");
            execution.chain = chain(&self.scope, execution.chain, decree, batch.value());
            if decree.0.is_multiple_of(limits.checkpoint_every) {
                execution.chains.push_back((decree, execution.chain));
            }
            execution.delivered = decree;
            step.fx.deliver(decree, batch);
        }
        true
    }

    /// Takes the body that the learner waits for from another role of this node; true if one had it.
    fn own_body(&mut self) -> bool {
        let Some((decree, value)) = self.learner.as_ref().and_then(Learner::waits_for_body) else {
            return false;
        };
        let Some(batch) = self.held_body(decree, value).cloned() else {
            return false;
        };
        if let Some(learner) = &mut self.learner {
            learner.keep(self.regency, decree, batch);
        }
        true
    }

    /// A learner that diverged executes no more, but the order goes on: it learns, acknowledges, and signs the chain
    /// without a statement about results (PROTOCOL.md section 5.4).
    fn skip_execution(&mut self, decree: Decree, chain: Option<Digest>, step: &mut Step<'_>) {
        (self.execution.executed, self.execution.delivered) = (decree, decree);
        if let Some(learner) = &mut self.learner {
            learner.release(decree.min(self.trouble.logged));
        }
        if let Some(chain) = chain {
            self.claim_checkpoint(
                Checkpoint {
                    decree,
                    chain,
                    results: Digest::ZERO,
                },
                step,
            );
        }
    }

    /// Signs a checkpoint, unless it is certified already, or this node signed it before: nothing is signed
    /// differently twice, also after a restart.
    pub(super) fn claim_checkpoint(&mut self, checkpoint: Checkpoint, step: &mut Step<'_>) {
        let decree = checkpoint.decree;
        if !self.keeps_records() {
            self.trouble.postpone(checkpoint);
        } else if decree >= self.checkpoints.low() && decree > self.claimed {
            self.claimed = decree;
            self.made.checkpoints += u64::from(!self.crash_only());
            let claim = self
                .checkpoints
                .sign(checkpoint, self.me, self.identity.signing());
            self.recorded.0 += 1;
            step.fx.store(self.recorded, &Record::Checkpoint(&claim));
            self.hold(Say::Checkpoint(claim), step);
        }
    }

    pub(super) fn executed(
        &mut self,
        decree: Decree,
        replies: &Replies,
        results: Digest,
        step: &mut Step<'_>,
    ) {
        if self.execution.diverged.is_some() {
            // Delivered before the divergence was known: what came of it is not to be told.
            return;
        }
        assert_eq!(
            decree,
            self.execution.executed.next(),
            "the host executes in order, each decree once"
        );
        self.execution.executed = decree;
        if let Some(learner) = &mut self.learner {
            learner.release(decree.min(self.trouble.logged));
        }
        self.end_tracking(replies);
        self.answer(decree, replies, step);
        if let Some((_, chain)) = self.execution.chains.pop_front_if(|(at, _)| *at == decree) {
            self.note_image(decree, chain, results);
            self.claim_checkpoint(
                Checkpoint {
                    decree,
                    chain,
                    results,
                },
                step,
            );
        }
        self.learn(step);
    }

    /// What was executed is not waited for any more.
    fn end_tracking(&mut self, replies: &Replies) {
        if let Some(election) = self
            .election
            .as_mut()
            .filter(|election| !election.tracking.is_empty())
        {
            for (client, entries) in replies.groups() {
                election.tracking.done(client, entries);
            }
        }
    }

    /// Answers what a decree executed: in full, or with the digest where that is shorter and others answer in full.
    fn answer(&self, decree: Decree, replies: &Replies, step: &mut Step<'_>) {
        let regency = self.regency;
        let learners = self.configuration.learners();
        let full = self.configuration.quorums().full_replies;
        let in_full = replies_in_full(learners, self.me, decree, full);
        for (client, entries, digest) in replies.sealed() {
            let message = if in_full || entries.bytes().len() <= digest.0.len() {
                Message::Replies { regency, entries }
            } else {
                Message::RepliesDigest { regency, digest }
            };
            step.fx.send(To::Client(client), &message);
        }
    }

    /// Answers a retry with what the session table holds of it.
    pub(super) fn answer_retry(&mut self, found: &Replies, step: &mut Step<'_>) {
        self.end_tracking(found);
        if self.execution.diverged.is_some() {
            return;
        }
        let regency = self.regency;
        for (client, entries) in found.groups() {
            step.fx
                .send(To::Client(client), &Message::Found { regency, entries });
        }
    }

    pub(super) fn take_claim(
        &mut self,
        claim: CheckpointClaim,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let refused = |node| {
            step.fx.observe(Event::Refused {
                from: Party::Node(node),
                why: Refusal::BadCheckpoint,
            });
        };
        let moved = self.checkpoints.claim(claim, refused)?.is_some();
        if moved {
            self.store_low(step);
        }
        self.compare_results(claim.checkpoint.decree, step);
        Ok(())
    }

    pub(super) fn take_certificate(
        &mut self,
        certificate: Certificate,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let decree = certificate.decree;
        if self.checkpoints.certificate(certificate)? {
            self.store_low(step);
            self.compare_results(decree, step);
        }
        Ok(())
    }

    pub(super) fn store_low(&mut self, step: &mut Step<'_>) {
        if !self.keeps_records() {
            return;
        }
        let certificate = self
            .checkpoints
            .newest()
            .expect("a checkpoint was just certified");
        self.recorded.0 += 1;
        step.fx.store(self.recorded, &Record::Low(certificate));
        let certificate = certificate.clone();
        self.hold(Say::Low(certificate), step);
    }

    pub(super) fn compare_results(&mut self, decree: Decree, step: &mut Step<'_>) {
        if decree <= self.execution.mended {
            // What was said there was said of another state.
            return;
        }
        let diverged = self.checkpoints.agreement(self.me, decree) == Agreement::Diverged;
        if diverged {
            self.diverge(decree, step);
        }
    }

    /// The state of this learner is not that of the others: it executes and answers no more, and looks for a snapshot.
    pub(super) fn diverge(&mut self, decree: Decree, step: &mut Step<'_>) {
        if self.execution.diverged.is_none() {
            self.execution.diverged = Some(decree);
            self.look_for_snapshot(step);
            step.fx.observe(Event::Diverged { decree });
            for (decree, chain) in std::mem::take(&mut self.execution.chains) {
                self.claim_checkpoint(
                    Checkpoint {
                        decree,
                        chain,
                        results: Digest::ZERO,
                    },
                    step,
                );
            }
            let learned = self.learned();
            self.skip_execution(learned, None, step);
            self.learn(step);
        }
    }
}

/// Whether `me` is among the `full` learners that reply to a decree in full: from one decree to the next the first of
/// them leaves off and another one begins.
fn replies_in_full(learners: NodeSet, me: NodeId, decree: Decree, full: usize) -> bool {
    let all = learners.len() as u64;
    let place = learners.iter().take_while(|node| *node < me).count() as u64;
    (place + all - decree.0 % all) % all < full as u64
}

#[cfg(test)]
#[path = "execution_tests.rs"]
mod tests;
