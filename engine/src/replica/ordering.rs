//! From a bundle to a vote: what the proposer and the acceptor of a node do.

use std::time::Duration;

use twostep_net::pool::Body;

use super::{BUSY_RETRY_MS, Replica, Say, Standing, Step};
use crate::batch::{Batch, Bundle};
use crate::machine::{Event, Question, Record, Refusal, To};
use crate::message::{Message, ProofOfLeadership};
use crate::prechecked::CheckedBatch;
use crate::quorum::FaultModel;
use crate::rules::{Rules, Verdict};
use crate::types::{ClientId, Decree, NodeId, NodeSet, Regency, Value};

/// A proposal as it arrives.
pub(super) struct Proposal {
    pub(super) regency: Regency,
    pub(super) decree: Decree,
    pub(super) value: Value,
    pub(super) body: Body,
    /// What another loop found out about the body; none if nobody looked.
    pub(super) checked: Option<CheckedBatch>,
}

impl<R: Rules> Replica<R> {
    /// A client's bundle: it waits at the leader; a retried one is also looked up by learners.
    pub(super) fn submit(
        &mut self,
        client: ClientId,
        retry: bool,
        bytes: &[u8],
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let bundle = Bundle::parse(
            self.pool.copy(bytes),
            &self.scope,
            self.configuration.limits(),
        )?;
        self.submit_bundle(client, retry, bundle, None, step)
    }

    /// The same for a parsed bundle; `authentic` is the gate's verdict on it, if another loop asked for it.
    pub(super) fn submit_bundle(
        &mut self,
        client: ClientId,
        retry: bool,
        bundle: Bundle,
        authentic: Option<Result<(), Refusal>>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if bundle.view().client != client {
            return Err(Refusal::ForeignBundle);
        }
        if retry && self.election.is_some() {
            self.must_sign(&bundle, step)?;
            return self.take_retry(bundle, step);
        }
        if retry && self.answers_questions() {
            step.fx.ask(Question::Retried(bundle.clone()));
        }
        let (proposes, in_trouble) = (self.proposes(), self.in_trouble(step.now));
        if proposes {
            self.must_sign(&bundle, step)?;
        }
        let Some(proposer) = self.proposer.as_mut().filter(|_| proposes) else {
            // A retry goes to everyone by rule; a first try that comes here learns who leads.
            return if retry {
                Ok(())
            } else {
                Err(self.busy(client, Refusal::NotLeader, step))
            };
        };
        authentic.unwrap_or_else(|| self.gate.check(&bundle.view(), &bundle.digest()))?;
        let taken = if in_trouble {
            Err(Refusal::Full)
        } else {
            proposer.submit(bundle, step.now, &self.tuning)
        };
        taken.map_err(|why| self.busy(client, why, step))
    }

    fn busy(&self, client: ClientId, why: Refusal, step: &mut Step<'_>) -> Refusal {
        let message = Message::Busy {
            regency: self.regency,
            retry_after_ms: BUSY_RETRY_MS,
        };
        step.fx.send(To::Client(client), &message);
        why
    }

    /// A proposal, and what it says about its leader if it is refused.
    pub(super) fn judged_proposal(
        &mut self,
        from: NodeId,
        proposal: Proposal,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let regency = proposal.regency;
        let judged = self.propose(from, proposal, step);
        if let Err(why) = &judged {
            self.judge_leader(from, regency, why, step);
        }
        judged
    }

    /// A proposal: the acceptor judges it before anything is spent on its body, the learner keeps the body.
    pub(super) fn propose(
        &mut self,
        from: NodeId,
        proposal: Proposal,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let Proposal {
            regency,
            decree,
            value,
            body,
            checked,
        } = proposal;
        if self.configuration.leader(regency) != from {
            return Err(Refusal::NotLeader);
        }
        if regency > self.regency && self.configuration.model() == FaultModel::Crash {
            // Mode C: the leader's plan is believed (PROTOCOL.md section 2).
            self.enter(regency, ProofOfLeadership::default(), step);
        }
        if decree <= self.low || decree > self.low.plus(self.configuration.limits().window) {
            self.answer_outside(from, decree, step);
        }
        let verdict = self
            .acceptor
            .as_ref()
            .map(|acceptor| acceptor.judge(&self.rules, regency, decree, value));
        match verdict {
            Some(Ok(Verdict::Again)) => self.accept_again(regency, decree, value, step),
            None if self.standing == Standing::LostDisk && self.learner.is_none() => {
                return Err(Refusal::Abstaining);
            }
            None if self.learner.is_none() => return Err(Refusal::Role),
            Some(Err(Refusal::NoPlan)) => {
                let proposal = Proposal {
                    regency,
                    decree,
                    value,
                    body,
                    checked: None,
                };
                self.keep_proposal(from, proposal, step);
                return Ok(());
            }
            Some(Err(Refusal::OldRegency)) => self.deny(from, step),
            // A repeated proposal for what is certified already.
            Some(Err(Refusal::OutsideWindow)) if decree <= self.low => return Ok(()),
            _ => {}
        }
        let voting = verdict == Some(Ok(Verdict::Vote))
            && self.keeps_records()
            && !self.doubts_still(regency, decree, value, &body, step);
        // Under Must(v) at least f+1 correct acceptors voted v, and the first of them made the check; otherwise one bad
        // authenticator could block a recovery for ever (PROTOCOL.md section 3).
        let checking = voting
            && !self
                .acceptor
                .as_ref()
                .is_some_and(|acceptor| acceptor.bound(decree));
        let current = regency == self.regency;
        let wanted = self
            .learner
            .as_ref()
            .is_some_and(|learner| current && learner.wants(regency, decree, value));
        if voting || wanted {
            let (batch, authentic) = self.parse_proposal(body, checked, checking)?;
            if batch.value() != value {
                return Err(Refusal::WrongBody);
            }
            // What is decided must be executed whatever this node's own tag says, so the learner keeps the
            // body even if the acceptor refuses to vote for it.
            if wanted {
                self.keep_body(regency, decree, batch.clone(), step);
            }
            if voting {
                if let Err(why) = authentic {
                    self.doubt(regency, decree, batch, step);
                    return Err(why);
                }
                self.vote(regency, decree, batch, step);
            }
        }
        match verdict {
            Some(Err(why)) => Err(why),
            _ => Ok(()),
        }
    }

    /// The batch of a body, and whether its bundles are authentic if `checking`.
    fn parse_proposal(
        &self,
        body: Body,
        checked: Option<CheckedBatch>,
        checking: bool,
    ) -> Result<(Batch, Result<(), Refusal>), Refusal> {
        match checked {
            Some(checked) if !checking => return Ok((checked.batch, Ok(()))),
            Some(CheckedBatch {
                batch,
                authentic: Some(authentic),
            }) => return Ok((batch, authentic)),
            Some(_) | None => {}
        }
        let mut checker = self.gate.checker();
        let limits = self.configuration.limits();
        let batch = Batch::parse(body, &self.scope, limits, |bundle, digest| {
            if checking {
                checker.see(bundle, digest);
            }
            Ok::<(), Refusal>(())
        })?;
        Ok((batch, checker.finish()))
    }

    pub(super) fn vote(
        &mut self,
        regency: Regency,
        decree: Decree,
        batch: Batch,
        step: &mut Step<'_>,
    ) {
        let acceptor = self
            .acceptor
            .as_mut()
            .expect("only an acceptor judges proposals");
        let value = batch.value();
        self.recorded.0 += 1;
        step.fx.store(
            self.recorded,
            &Record::Vote {
                regency,
                decree,
                batch: &batch,
            },
        );
        step.fx.observe(Event::Voted {
            regency,
            decree,
            value,
        });
        acceptor.vote(regency, decree, batch);
        self.end_doubt(decree);
        self.hold(Say::Accepted(regency, decree, value), step);
    }

    pub(super) fn accept_again(
        &mut self,
        regency: Regency,
        decree: Decree,
        value: Value,
        step: &mut Step<'_>,
    ) {
        let said = self
            .acceptor
            .as_ref()
            .is_some_and(|acceptor| acceptor.has_said(decree));
        let lacking = self.acks.lacking(decree).minus(NodeSet::one(self.me));
        if said && !lacking.is_empty() {
            step.fx.send(
                To::Nodes(lacking),
                &Message::Accepted {
                    regency,
                    decree,
                    value,
                },
            );
        }
    }

    pub(super) fn accepted(
        &mut self,
        from: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.acceptors().contains(from) {
            return Err(Refusal::Role);
        }
        let vouched = self.hear_vote(from, regency, decree, value, step);
        let Some(learner) = self.learner.as_mut() else {
            return self.answered(vouched, decree);
        };
        if !learner.open(decree) {
            // Votes beyond the learn quorum arrive after the decision: that is no fault.
            return if decree <= learner.learned() {
                Ok(())
            } else {
                Err(Refusal::OutsideWindow)
            };
        }
        if learner.accepted(&self.rules, from, regency, decree, value) {
            if learner.holds_another_body(decree, value) {
                // The leader told this learner something else: there is nothing to wait for.
                step.fx.send(
                    To::Nodes(NodeSet::one(from)),
                    &Message::Fetch { decree, value },
                );
            }
            self.learn(step);
        }
        Ok(())
    }

    pub(super) fn ack(&mut self, from: NodeId, learned: Decree) -> Result<(), Refusal> {
        if !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        self.acks.take(from, learned);
        Ok(())
    }

    /// The leader's own acceptor and learner see its proposal as everybody's do; its bundles were checked
    /// when they were submitted.
    pub(super) fn own_proposal(
        &mut self,
        regency: Regency,
        decree: Decree,
        batch: Batch,
        step: &mut Step<'_>,
    ) {
        let value = batch.value();
        if self
            .learner
            .as_ref()
            .is_some_and(|learner| learner.wants(regency, decree, value))
        {
            self.keep_body(regency, decree, batch.clone(), step);
        }
        let verdict = self
            .acceptor
            .as_ref()
            .map(|acceptor| acceptor.judge(&self.rules, regency, decree, value));
        if verdict == Some(Ok(Verdict::Vote)) && self.keeps_records() {
            self.vote(regency, decree, batch, step);
        }
    }

    pub(super) fn propose_next(&mut self, step: &mut Step<'_>) {
        if !self.proposes() || self.in_trouble(step.now) {
            return;
        }
        if self
            .election
            .as_ref()
            .is_some_and(|election| election.unordered)
        {
            self.order_tracked(step.now);
        }
        let bytes_max = self.configuration.limits().body_bytes_max as usize;
        let progress = self.acks.reached_by(self.configuration.quorums().progress);
        loop {
            let Some(proposer) = &mut self.proposer else {
                return;
            };
            let Some((decree, batch, since)) = proposer.next(
                step.now,
                progress,
                self.tuning.in_flight_max,
                bytes_max,
                &self.pool,
                &self.scope,
            ) else {
                self.fill(progress, step);
                return;
            };
            let waited = step.now.since(since);
            self.log_proposal(decree, batch, waited, step);
        }
    }

    /// Logs a proposal, the first of whose bundles waited so long; then says it: one value per (r, d), ever.
    pub(super) fn log_proposal(
        &mut self,
        decree: Decree,
        batch: Batch,
        waited: Duration,
        step: &mut Step<'_>,
    ) {
        let regency = self.regency;
        self.record_lead(step);
        self.recorded.0 += 1;
        step.fx.store(
            self.recorded,
            &Record::Proposal {
                regency,
                decree,
                batch: &batch,
            },
        );
        step.fx.observe(Event::Proposed {
            decree,
            value: batch.value(),
            bundles: batch.len(),
            waited,
        });
        self.hold(Say::Propose(regency, decree, batch.clone()), step);
        // Its own vote, which nobody hears of before the proposal is stored, is stored with it: one sync for both.
        self.own_proposal(regency, decree, batch, step);
    }
}
