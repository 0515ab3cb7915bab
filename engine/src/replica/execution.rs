//! From decided to executed: what the learner of a node delivers, answers and certifies.

use super::{Replica, Say, Step};
use crate::acceptor::Rules;
use crate::batch::Batch;
use crate::checkpoint::Agreement;
use crate::machine::{Event, Record, Refusal, Replies, To};
use crate::message::{Certificate, Checkpoint, CheckpointClaim, Message};
use crate::types::{Decree, Digest, Party};

impl<R: Rules> Replica<R> {
    pub(super) fn keep_body(&mut self, decree: Decree, batch: Batch, step: &mut Step<'_>) {
        if let Some(learner) = &mut self.learner {
            learner.keep(decree, batch);
            self.learn(step);
        }
    }

    /// Learns and delivers whatever is next, at most a window ahead of execution.
    pub(super) fn learn(&mut self, step: &mut Step<'_>) {
        let limits = self.configuration.limits();
        let Some(learner) = &mut self.learner else {
            return;
        };
        while learner.learned().since(self.execution.executed) < limits.window {
            let Some(learned) = learner.advance() else {
                break;
            };
            let (decree, value) = (learned.decree, learned.batch.value());
            self.recorded.0 += 1;
            step.fx.store(
                self.recorded,
                &Record::Learned {
                    decree,
                    batch: &learned.batch,
                },
            );
            step.fx.observe(Event::Learned {
                decree,
                value,
                path: learned.path,
            });
            if decree.0.is_multiple_of(limits.checkpoint_every) {
                self.execution.chains.push_back((decree, learner.chain()));
            }
            if self.execution.diverged.is_none() {
                step.fx.deliver(decree, &learned.batch);
            }
            self.acks.take(self.me, decree);
        }
    }

    pub(super) fn executed(
        &mut self,
        decree: Decree,
        replies: &Replies,
        results: Digest,
        step: &mut Step<'_>,
    ) {
        assert_eq!(
            decree,
            self.execution.executed.next(),
            "the host executes in order, each decree once"
        );
        self.execution.executed = decree;
        if let Some(learner) = &mut self.learner {
            learner.release(decree);
        }
        self.answer(replies, step);
        if let Some((at, chain)) = self.execution.chains.pop_front_if(|(at, _)| *at == decree)
            && at >= self.checkpoints.low()
        {
            let checkpoint = Checkpoint {
                decree,
                chain,
                results,
            };
            let claim = self
                .checkpoints
                .sign(checkpoint, self.me, self.identity.signing());
            self.hold(Say::Checkpoint(claim), step);
        }
        self.learn(step);
    }

    pub(super) fn answer(&self, replies: &Replies, step: &mut Step<'_>) {
        if self.execution.diverged.is_some() {
            return;
        }
        for (client, entries) in replies.groups() {
            step.fx.send(
                To::Client(client),
                &Message::Replies {
                    regency: self.regency,
                    entries,
                },
            );
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
        if self.checkpoints.certificate(certificate)? {
            self.store_low(step);
        }
        Ok(())
    }

    pub(super) fn store_low(&mut self, step: &mut Step<'_>) {
        let certificate = self
            .checkpoints
            .newest()
            .expect("a checkpoint was just certified");
        self.recorded.0 += 1;
        step.fx.store(self.recorded, &Record::Low(certificate));
        let low = certificate.decree;
        self.hold(Say::Low(low), step);
    }

    pub(super) fn compare_results(&mut self, decree: Decree, step: &mut Step<'_>) {
        let diverged = self.checkpoints.agreement(self.me, decree) == Agreement::Diverged;
        if diverged && self.execution.diverged.is_none() {
            self.execution.diverged = Some(decree);
            step.fx.observe(Event::Diverged { decree });
        }
    }
}
