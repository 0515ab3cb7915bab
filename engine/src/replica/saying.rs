//! Persist, then say; and say again until it is acknowledged.

use super::{OwnClaim, Replica, Say, Standing, Step};
use crate::acceptor::Acceptor;
use crate::machine::{Again, Event, To};
use crate::message::{Message, Status};
use crate::resend::Resend;
use crate::rules::Rules;
use crate::types::{NodeSet, RecordSeq, Time};

impl<R: Rules> Replica<R> {
    pub(super) fn hold(&mut self, say: Say, step: &mut Step<'_>) {
        if self.stored == self.recorded {
            self.say(say, step);
        } else {
            self.trouble.waits(step.now);
            self.held.push_back((self.recorded, say));
        }
    }

    pub(super) fn stored(&mut self, seq: RecordSeq, step: &mut Step<'_>) {
        assert!(
            seq <= self.recorded,
            "the journal stored a record that was never written"
        );
        self.stored = self.stored.max(seq);
        self.trouble.stored(step.now, self.stored < self.recorded);
        while let Some((_, say)) = self.held.pop_front_if(|(needs, _)| *needs <= seq) {
            self.say(say, step);
        }
    }

    pub(super) fn say(&mut self, say: Say, step: &mut Step<'_>) {
        let (me, t0) = (NodeSet::one(self.me), self.tuning.t0);
        match say {
            // It was made of a state that a snapshot took the place of meanwhile.
            Say::Checkpoint(claim) if claim.checkpoint.decree <= self.execution.mended => {}
            Say::Snapshot(claim) if claim.snapshot.decree <= self.execution.mended => {}
            Say::Propose(regency, decree, batch) => {
                let receivers = self
                    .configuration
                    .acceptors()
                    .union(self.configuration.learners());
                let message = Message::Propose {
                    regency,
                    decree,
                    value: batch.value(),
                    body: batch.body().clone(),
                };
                step.fx.send(To::Nodes(receivers.minus(me)), &message);
                // A proposal of a regency that is over is not said again.
                let current = regency == self.regency;
                if let Some(proposer) = self.proposer.as_mut().filter(|_| current) {
                    proposer.said(decree, step.now);
                }
                // Already done unless this is a proposal of before a restart.
                self.own_proposal(regency, decree, batch, step);
            }
            Say::Accepted(regency, decree, value) => {
                let message = Message::Accepted {
                    regency,
                    decree,
                    value,
                };
                step.fx
                    .send(To::Nodes(self.configuration.learners().minus(me)), &message);
                self.acknowledge_along(step);
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.said(regency, decree, step.now, t0);
                }
                if let Some(learner) = &mut self.learner
                    && learner.accepted(&self.rules, self.me, regency, decree, value)
                {
                    self.learn(step);
                }
            }
            Say::Checkpoint(claim) => {
                step.fx
                    .send(To::Nodes(self.others()), &Message::Checkpoint(claim));
                self.claim = Some(OwnClaim {
                    claim,
                    resend: Resend::said(step.now, t0),
                });
                // Outside the window only if a certificate above it came first; then nobody needs it.
                let _ = self.take_claim(claim, step);
            }
            Say::Snapshot(claim) => self.say_snapshot(claim, step),
            Say::Vote(vote) => self.say_vote(vote, step),
            Say::Report(report) => self.say_report(report, step),
            Say::NewRegency(shown, plan) => self.say_new_regency(shown, plan, step),
            Say::Low(certificate) => {
                let low = certificate.decree;
                if low <= self.low {
                    return;
                }
                // The certificate of exactly this low: a report must name the base of its votes, and a newer
                // certificate may be known by now whose record is not stored.
                self.low = low;
                self.stored_low = Some(certificate);
                self.kept.advance(low);
                self.doubting.advance(low);
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.advance(low);
                }
                if let Some(proposer) = &mut self.proposer {
                    proposer.advance(low);
                }
                step.fx.observe(Event::Low { decree: low });
                self.lead_if_ready(step);
            }
        }
    }

    pub(super) fn say_again(&mut self, step: &mut Step<'_>) {
        let (me, t0, regency) = (NodeSet::one(self.me), self.tuning.t0, self.regency);
        let due = |deadline: Option<Time>| deadline.is_some_and(|at| at <= step.now);
        let acknowledged = self.acks.reached_by(self.configuration.quorums().ack);
        if let Some(proposer) = &mut self.proposer {
            proposer.acknowledged(acknowledged, step.now);
        }
        if let Some(proposer) = self
            .proposer
            .as_mut()
            .filter(|proposer| due(proposer.deadline()))
        {
            let done = acknowledged.max(self.low);
            let acceptors = self.configuration.acceptors();
            proposer.say_again(step.now, done, |decree, batch| {
                let receivers = acceptors.union(self.acks.lacking(decree)).minus(me);
                let message = Message::Propose {
                    regency,
                    decree,
                    value: batch.value(),
                    body: batch.body().clone(),
                };
                step.fx.send(To::Nodes(receivers), &message);
                step.fx.observe(Event::SentAgain(Again::Propose));
            });
        }
        if let Some(acceptor) = self
            .acceptor
            .as_mut()
            .filter(|acceptor| due(acceptor.deadline()))
        {
            let acks = &self.acks;
            let mut own = Vec::new();
            acceptor.say_again(
                step.now,
                t0,
                |decree| acks.lacking(decree).is_empty(),
                |decree, vote| {
                    let lacking = acks.lacking(decree);
                    let message = Message::Accepted {
                        regency: vote.psn,
                        decree,
                        value: vote.value,
                    };
                    step.fx.send(To::Nodes(lacking.minus(me)), &message);
                    step.fx.observe(Event::SentAgain(Again::Accepted));
                    if !lacking.minus(lacking.minus(me)).is_empty() {
                        own.push((decree, vote));
                    }
                },
            );
            // The own learner is no exception: it may have been too far behind to take the vote at first.
            let mut decided = false;
            for (decree, vote) in own {
                let learner = self.learner.as_mut();
                decided |= learner.is_some_and(|learner| {
                    learner.accepted(&self.rules, self.me, vote.psn, decree, vote.value)
                });
            }
            if decided {
                self.learn(step);
            }
        }
        let low = self.checkpoints.low();
        self.claim.take_if(|own| own.claim.checkpoint.decree <= low);
        let others = self.others();
        if let Some(own) = &mut self.claim
            && own.resend.due(step.now, t0)
        {
            step.fx
                .send(To::Nodes(others), &Message::Checkpoint(own.claim));
            step.fx.observe(Event::SentAgain(Again::Checkpoint));
        }
        self.say_snapshot_again(step);
    }

    pub(super) fn say_status(&mut self, step: &mut Step<'_>) {
        self.tell_status(self.others(), step);
        // Until everybody was heard once, nodes are still starting: meeting quickly costs little.
        let every = if self.peers.all_heard() {
            self.tuning.t0
        } else {
            self.tuning.t0 / 4
        };
        self.status_at = step.now + every;
    }

    pub(super) fn tell_status(&self, nodes: NodeSet, step: &mut Step<'_>) {
        let status = Status {
            regency: self.regency,
            plan_held: self.acceptor.as_ref().is_none_or(Acceptor::plan_held),
            abstaining: self.standing == Standing::LostDisk,
            low: self.low,
            learned: self.learned(),
        };
        step.fx.send(To::Nodes(nodes), &Message::Status(status));
    }
}
