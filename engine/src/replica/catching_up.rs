//! Whoever is ahead answers with what is missing: status, pull and fetch.

use twostep_net::pool::Body;

use super::{PULL_MAX, Pull, Replica, Step};
use crate::acceptor::Rules;
use crate::batch::Batch;
use crate::learner::Learner;
use crate::machine::{Again, Event, Refusal, To, retransmission};
use crate::message::{Message, Status, Values};
use crate::types::{Decree, NodeId, NodeSet, Value};

impl<R: Rules> Replica<R> {
    pub(super) fn take_status(
        &mut self,
        from: NodeId,
        status: Status,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        self.peers.heard(from, status, step.now);
        self.acks.take(from, status.learned);
        if status.low < self.low
            && let Some(certificate) = self.checkpoints.newest()
            && self.peers.may_answer(from, step.now, self.tuning.t0)
        {
            step.fx.send(
                To::Nodes(NodeSet::one(from)),
                &Message::Certificate(certificate.clone()),
            );
        }
        Ok(())
    }

    pub(super) fn serve_pull(
        &mut self,
        from: NodeId,
        first: Decree,
        count: u32,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let learner = self.learner.as_ref().ok_or(Refusal::Role)?;
        self.values.clear();
        for step in 0..u64::from(count).min(PULL_MAX) {
            let Some(batch) = learner.log().get(first.plus(step)) else {
                break;
            };
            self.values.extend_from_slice(&batch.value().0.0);
        }
        if let Some(values) = Values::new(&self.values).filter(|values| !values.is_empty()) {
            step.fx.send(
                To::Nodes(NodeSet::one(from)),
                &Message::Pulled { first, values },
            );
        }
        Ok(())
    }

    pub(super) fn pulled(
        &mut self,
        from: NodeId,
        first: Decree,
        values: Values<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        let learner = self.learner.as_mut().ok_or(Refusal::Role)?;
        let mut decree = first;
        for value in values.iter() {
            if learner.pulled(from, decree, value) && learner.body(decree, value).is_none() {
                step.fx.send(
                    To::Nodes(NodeSet::one(from)),
                    &Message::Fetch { decree, value },
                );
            }
            decree = decree.next();
        }
        self.learn(step);
        Ok(())
    }

    pub(super) fn serve_fetch(
        &mut self,
        from: NodeId,
        decree: Decree,
        value: Value,
        step: &mut Step<'_>,
    ) {
        let learned = self
            .learner
            .as_ref()
            .and_then(|learner| learner.body(decree, value));
        let voted = self
            .acceptor
            .as_ref()
            .and_then(|acceptor| acceptor.body(decree, value));
        let proposed = self
            .proposer
            .as_ref()
            .and_then(|proposer| proposer.body(decree, value));
        if let Some(batch) = learned.or(voted).or(proposed) {
            let message = Message::Fetched {
                decree,
                value,
                body: batch.body().clone(),
            };
            step.fx.send(To::Nodes(NodeSet::one(from)), &message);
        }
    }

    pub(super) fn fetched(
        &mut self,
        decree: Decree,
        value: Value,
        body: Body,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let learner = self.learner.as_ref().ok_or(Refusal::Unasked)?;
        if !learner.lacks_body(decree, value) {
            // The answer to a repeated question may come twice.
            return if learner.open(decree) || decree > learner.learned() {
                Err(Refusal::Unasked)
            } else {
                Ok(())
            };
        }
        let batch = Batch::parse(body, &self.scope, self.configuration.limits(), |_, _| {
            Ok::<(), Refusal>(())
        })?;
        if batch.value() != value {
            return Err(Refusal::WrongBody);
        }
        self.keep_body(decree, batch, step);
        if self.learned() >= self.pull.up_to && self.pull.at.is_some() {
            // The last question is answered in full: while there is more to catch up with, ask on at once.
            self.pull.at = Some(step.now);
        }
        Ok(())
    }

    /// The highest decree that is known to be learned elsewhere or decided here. What this learner has itself
    /// acknowledged cannot raise the answer above its own `learned`.
    pub(super) fn known(&self) -> Decree {
        let decided = self
            .learner
            .as_ref()
            .map_or(Decree::NONE, Learner::highest_decided);
        let learned = self.acks.reached_by(self.configuration.quorums().pull);
        decided.max(learned).max(self.checkpoints.low())
    }

    /// Keeps the time of the next pull, and pulls if it has come.
    pub(super) fn pull_if_due(&mut self, step: &mut Step<'_>) {
        let (learned, known, t0) = (self.learned(), self.known(), self.tuning.t0);
        if self.learner.is_none() || known <= learned {
            self.pull = Pull::default();
            return;
        }
        let asked_on = self.pull.at.is_some_and(|at| at <= step.now);
        if self.pull.at.is_none() || (self.pull.learned < learned && !asked_on) {
            self.pull.at = Some(step.now + t0 / 4);
            self.pull.learned = learned;
            self.pull.times = 0;
            return;
        }
        if asked_on {
            self.pull_now(learned, known, step);
        }
    }

    pub(super) fn pull_now(&mut self, learned: Decree, known: Decree, step: &mut Step<'_>) {
        let learner = self.learner.as_ref().expect("only a learner pulls");
        let me = NodeSet::one(self.me);
        let count = known
            .since(learned)
            .min(PULL_MAX)
            .min(self.configuration.limits().window);
        let others = self.configuration.learners().minus(me);
        let message = Message::Pull {
            first: learned.next(),
            count: u32::try_from(count).expect("at most PULL_MAX"),
        };
        step.fx.send(To::Nodes(others), &message);
        step.fx.observe(Event::SentAgain(Again::Pull));
        for (decree, value) in learner
            .lacking_bodies()
            .take(usize::try_from(PULL_MAX).expect("a small number"))
        {
            // Each time somebody else: a liar may withhold a body, but cannot do so for everyone. Those that
            // answered a pull have it for sure, but all of them may have stopped: every other time anyone is asked.
            let others = self.others();
            let holders: NodeSet = learner.answered(decree, value).collect();
            let holders = holders.minus(me);
            let sure = self.pull.times.is_multiple_of(2) && !holders.is_empty();
            let holders = if sure { holders } else { others };
            let turn = (u64::from(self.pull.times / 2) + decree.0) % holders.len().max(1) as u64;
            let Some(holder) = holders
                .iter()
                .nth(usize::try_from(turn).expect("below the number of nodes"))
            else {
                continue;
            };
            step.fx.send(
                To::Nodes(NodeSet::one(holder)),
                &Message::Fetch { decree, value },
            );
            step.fx.observe(Event::SentAgain(Again::Fetch));
        }
        let wait = retransmission(self.tuning.t0, self.pull.times);
        self.pull.up_to = learned.plus(count);
        self.pull.learned = learned;
        self.pull.times = self.pull.times.saturating_add(1);
        self.pull.at = Some(step.now + wait);
    }
}
