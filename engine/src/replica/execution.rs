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
        for ((client, entries), digest) in replies.groups().zip(replies.digests()) {
            let message = if in_full || entries.bytes().len() <= digest.0.len() {
                Message::Replies { regency, entries }
            } else {
                let digest = *digest;
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
mod tests {
    use std::sync::Arc;

    use twostep_crypto::{ClientId, Identity};
    use twostep_net::pool::Pool;

    use super::replies_in_full;
    use crate::admission::ClientDirectory;
    use crate::batch::Batch;
    use crate::configuration::{Admission, Configuration, Limits, Member, Roles, Tuning};
    use crate::machine::{Effects, Input, Machine, Question, Record, Replies, To};
    use crate::message::{Message, Outcome, Reply};
    use crate::quorum::FaultModel;
    use crate::replica::{Replica, Setup, Standing};
    use crate::types::{Decree, NodeId, NodeSet, RecordSeq, Seq, SessionId, Time};
    use crate::wire::{Bounds, encode};

    /// The encoded messages to clients, and how many entries they hold.
    #[derive(Default)]
    struct Sent {
        lengths: Vec<usize>,
        entries: usize,
    }

    impl Effects for Sent {
        fn send(&mut self, to: To, message: &Message<'_>) {
            if let (To::Client(_), Message::Found { entries, .. }) = (to, message) {
                let mut bytes = Vec::new();
                encode(message, &mut bytes);
                self.lengths.push(bytes.len());
                self.entries += entries.iter().filter(Result::is_ok).count();
            }
        }
        fn store(&mut self, _: RecordSeq, _: &Record<'_>) {}
        fn deliver(&mut self, _: Decree, _: &Batch) {}
        fn ask(&mut self, _: Question) {}
    }

    #[test]
    fn so_many_learners_reply_in_full_and_take_turns() {
        let learners: NodeSet = [2, 3, 5, 11].map(NodeId).into_iter().collect();
        let mut turns = [0; 12];
        for decree in 1..=40 {
            let in_full = |node: &NodeId| replies_in_full(learners, *node, Decree(decree), 3);
            let full: Vec<NodeId> = learners.iter().filter(in_full).collect();
            assert_eq!(full.len(), 3, "{decree}");
            full.iter().for_each(|node| turns[usize::from(node.0)] += 1);
        }
        assert_eq!([2, 3, 5, 11].map(|node| turns[node]), [30; 4]);
    }

    #[test]
    fn large_replies_go_in_messages_that_a_link_carries() {
        let identities: Vec<_> = (1..=3)
            .map(|seed| Identity::from_seed([seed; 32]))
            .collect();
        let members = identities.iter().map(|identity| Member {
            roles: Roles::ALL,
            public: identity.public(),
        });
        let limits = Limits {
            body_bytes_max: 1 << 16,
            request_bytes_max: 1 << 12,
            ..Limits::default()
        };
        let (model, admission) = (FaultModel::Crash, Admission::Link);
        let configuration =
            Configuration::new(model, 1, members.collect(), limits, admission, [1; 16]);
        let configuration = Arc::new(configuration.expect("a consistent configuration"));
        let mut replica = Replica::new(Setup {
            configuration: Arc::clone(&configuration),
            me: NodeId(0),
            identity: Arc::new(Identity::from_seed([1; 32])),
            clients: Arc::new(ClientDirectory::new([])),
            tuning: Tuning::default(),
            pool: Pool::default(),
            standing: Standing::Born,
        })
        .expect("no key is weak");

        let bounds = Bounds::of(&configuration);
        let mut replies = Replies::default();
        replies.begin(bounds.replies_bytes_max());
        let answer = vec![7; limits.reply_bytes_max as usize];
        for seq in 1..=20 {
            let (session, decree) = (
                SessionId {
                    decree: Decree(1),
                    index: 0,
                },
                Decree(2),
            );
            let reply = Reply {
                session,
                seq: Seq(seq),
                decree,
                outcome: Outcome::Executed(&answer),
            };
            replies.push(ClientId([9; 16]), &reply);
        }
        let mut sent = Sent::default();
        replica.step(Time(1), Input::Found(&replies), &mut sent);
        let bytes_max = bounds.message_bytes_max();
        assert!(
            replies.bytes().len() > bytes_max,
            "one message would not do"
        );
        assert!(
            sent.lengths.iter().all(|length| *length <= bytes_max),
            "{:?}",
            sent.lengths
        );
        assert_eq!(sent.entries, 20, "every entry is sent once");
    }
}
