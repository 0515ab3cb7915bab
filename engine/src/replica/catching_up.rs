//! Whoever is ahead answers with what is missing: status, pull and fetch.

use twostep_net::pool::Body;

use super::{Replica, Step};
use crate::batch::Batch;
use crate::learner::Learner;
use crate::machine::{Again, ArchiveNews, ArchiveTask, Event, Question, Refusal, To};
use crate::message::{Message, ProofOfLeadership, Status, Values};
use crate::pull::{PULL_MAX, Pull};
use crate::quorum::FaultModel;
use crate::recovery::Lead;
use crate::rules::Rules;
use crate::types::{Decree, NodeId, NodeSet, Time, Value};

impl<R: Rules> Replica<R> {
    pub(super) fn take_status(
        &mut self,
        from: NodeId,
        status: Status,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        self.peers.heard(from, status, step.now);
        self.acks.take(from, status.learned);
        let crash_only = self.configuration.model() == FaultModel::Crash;
        if crash_only && status.regency > self.regency {
            self.enter(status.regency, ProofOfLeadership::default(), step);
        }
        let to = To::Nodes(NodeSet::one(from));
        let behind = status.regency < self.regency && !self.proof.votes.is_empty();
        let planless = status.regency == self.regency && !status.plan_held;
        let shown = self.shown.as_ref().filter(|_| planless);
        let lower = self
            .checkpoints
            .newest()
            .filter(|newest| status.low < newest.decree);
        if (behind || shown.is_some() || lower.is_some())
            && self.peers.may_answer(from, step.now, self.tuning.t0)
        {
            if behind {
                step.fx.send(to, &Message::Proof(self.proof.clone()));
            }
            if let Some(shown) = shown {
                step.fx
                    .send(to, &Message::NewRegency(Box::new((**shown).clone())));
            }
            if let Some(certificate) = lower {
                step.fx.send(to, &Message::Certificate(certificate.clone()));
            }
        }
        Ok(())
    }

    /// Answers a proposal outside the window: whoever is behind is told, at most once per T0/4.
    pub(super) fn answer_outside(&mut self, from: NodeId, decree: Decree, step: &mut Step<'_>) {
        if !self.peers.may_answer(from, step.now, self.tuning.t0) {
            return;
        }
        match self.checkpoints.newest() {
            Some(certificate) if decree <= certificate.decree => {
                step.fx.send(
                    To::Nodes(NodeSet::one(from)),
                    &Message::Certificate(certificate.clone()),
                );
            }
            _ => self.tell_status(NodeSet::one(from), step),
        }
    }

    pub(super) fn serve_pull(
        &mut self,
        from: NodeId,
        first: Decree,
        count: u32,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let learner = self.learner.as_ref().ok_or(Refusal::Role)?;
        let asked = u64::from(count).min(PULL_MAX);
        let bytes = usize::try_from(asked)
            .unwrap_or(usize::MAX)
            .saturating_mul(32);
        if !self.peers.may_serve(from, bytes, step.now, self.tuning.t0) {
            return Err(Refusal::Share);
        }
        if first <= learner.log().base() {
            // What it lacks is in the log no more, but in a snapshot, or in the journal, which begins below the newest one and
            // those that are taken in.
            if first <= self.snapshots.held() && !self.goes_on_above(from, first) {
                self.offer_snapshot(from, first, step);
            } else {
                step.fx.ask(Question::Archive(ArchiveTask::Values {
                    asker: from,
                    first,
                    count: asked,
                }));
            }
            return Ok(());
        }
        let below = Decree(first.0.saturating_sub(1));
        self.peers.needs_above(from, below, step.now);
        self.values.clear();
        for place in 0..asked {
            let Some(batch) = learner.log().get(first.plus(place)) else {
                break;
            };
            self.values.extend_from_slice(&batch.value().0.0);
        }
        say_values(from, first, &self.values, step);
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
                let shy = self.pull.shy;
                let willing = learner
                    .answered(decree, value)
                    .find(|node| !shy.contains(*node));
                let holder = if shy.contains(from) {
                    willing.unwrap_or(from)
                } else {
                    from
                };
                self.pull.asked.insert(decree, (holder, step.now));
                step.fx.send(
                    To::Nodes(NodeSet::one(holder)),
                    &Message::Fetch { decree, value },
                );
            }
            decree = decree.next();
        }
        self.learn(step);
        Ok(())
    }

    /// Keeps more of the log than usual while others catch up, or this node is to execute again what follows a snapshot.
    pub(super) fn hold_log(&mut self, step: &Step<'_>) {
        let others = self.peers.needed_above(step.now, self.tuning.t0);
        let diverged = self.execution.diverged.is_some();
        let own = self.snapshots.transfer().filter(|_| diverged);
        let own = own.map(|(decree, _)| decree);
        if let Some(learner) = &mut self.learner {
            learner.hold(others.into_iter().chain(own).min());
        }
    }

    /// A body that some role of this node holds.
    pub(super) fn held_body(&self, decree: Decree, value: Value) -> Option<&Batch> {
        let learned = self
            .learner
            .as_ref()
            .and_then(|learner| learner.body(decree, value));
        let voted = || self.acceptor.as_ref()?.body(decree, value);
        let proposed = || self.proposer.as_ref()?.body(decree, value);
        let gathered = || match &self.lead {
            Lead::Gathering(gathering) => gathering
                .body(decree)
                .filter(|batch| batch.value() == value),
            Lead::Following | Lead::Leading => None,
        };
        learned.or_else(voted).or_else(proposed).or_else(gathered)
    }

    pub(super) fn serve_fetch(
        &mut self,
        from: NodeId,
        decree: Decree,
        value: Value,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let held = self.held_body(decree, value);
        let Some(body) = held.map(|batch| batch.body().clone()) else {
            let learner = self.learner.as_ref();
            if learner.is_some_and(|learner| decree <= learner.log().base()) {
                return self.ask_archive(from, decree, value, step);
            }
            return Ok(());
        };
        if !self
            .peers
            .may_serve(from, body.len(), step.now, self.tuning.t0)
        {
            return Err(Refusal::Share);
        }
        say_body(from, decree, value, body, step);
        Ok(())
    }

    /// What was asked for is in the log no more; the journal may hold it.
    fn ask_archive(
        &mut self,
        from: NodeId,
        decree: Decree,
        value: Value,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        // How long it is shows when it is read.
        if !self.peers.may_serve(from, 0, step.now, self.tuning.t0) {
            return Err(Refusal::Share);
        }
        step.fx.ask(Question::Archive(ArchiveTask::Body {
            asker: from,
            decree,
            value,
        }));
        Ok(())
    }

    /// The journal held what a peer asked for.
    pub(super) fn say_archived(&mut self, news: ArchiveNews, step: &mut Step<'_>) {
        match news {
            ArchiveNews::Values {
                asker,
                first,
                values,
            } => {
                if !say_values(asker, first, &values, step) {
                    self.offer_snapshot(asker, first, step);
                }
            }
            ArchiveNews::Body {
                asker,
                decree,
                value,
                body,
            } => {
                // It was read, so it is sent; what it takes is held against the asker's next questions.
                let t0 = self.tuning.t0;
                self.peers.may_serve(asker, body.len(), step.now, t0);
                say_body(asker, decree, value, body, step);
            }
        }
    }

    pub(super) fn fetched(
        &mut self,
        decree: Decree,
        value: Value,
        body: Body,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let lacked = self
            .learner
            .as_ref()
            .is_some_and(|learner| learner.lacks_body(decree, value));
        let gathered =
            matches!(&self.lead, Lead::Gathering(gathering) if gathering.lacks(decree, value));
        if !lacked && !gathered {
            // The answer to a repeated question may come twice.
            let held = self.held_body(decree, value).is_some() || decree <= self.learned();
            return if held { Ok(()) } else { Err(Refusal::Unasked) };
        }
        let batch = Batch::parse(body, &self.scope, self.configuration.limits(), |_, _| {
            Ok::<(), Refusal>(())
        })?;
        if batch.value() != value {
            return Err(Refusal::WrongBody);
        }
        if gathered {
            self.gathered_body(decree, &batch, step);
        }
        if lacked {
            self.keep_body(self.regency, decree, batch, step);
        }
        if self.learned() >= self.pull.up_to && self.pull.at.is_some() {
            let (known, learned) = (self.known(), self.learned());
            self.pull.ask_on(step.now, known, learned);
        } else if let Some(at) = &mut self.pull.at {
            // While bodies come, the others are on their way as well, but nobody is waited for longer than T0/4.
            let soon = step.now + self.pull_pace.wait(0);
            *at = (*at).max(soon.min(self.pull.said + self.tuning.t0 / 4));
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
        let (learned, known) = (self.learned(), self.known());
        if self.learner.is_none() || known <= learned {
            if self.pull.at.is_some() && self.pull.times == 0 {
                self.pull_pace.answered(self.pull.since, step.now);
            }
            self.pull = Pull::default();
            return;
        }
        let asked_on = self.pull.at.is_some_and(|at| at <= step.now);
        let progressed = self.pull.learned < learned;
        if self.pull.at.is_none() || (progressed && !asked_on) {
            if self.pull.at.is_some() && self.pull.times == 0 {
                self.pull_pace.answered(self.pull.since, step.now);
            }
            self.pull.at = Some(step.now + self.pull_pace.wait(0));
            self.pull.since = step.now;
            self.pull.learned = learned;
            self.pull.times = 0;
            return;
        }
        if asked_on {
            self.transfer_instead(learned, step);
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
        // Whoever was asked long ago and did not answer withholds bodies, or has stopped.
        let long_ago = |(_, at): &(NodeId, Time)| step.now.since(*at) >= self.tuning.t0 / 4;
        let asked = std::mem::take(&mut self.pull.asked);
        let lacking: Vec<(Decree, Value)> = learner
            .lacking_bodies()
            .take(usize::try_from(PULL_MAX).expect("a small number"))
            .collect();
        let in_vain = lacking.iter().filter_map(|(decree, _)| asked.get(decree));
        for (node, _) in in_vain.filter(|asked| long_ago(asked)) {
            self.pull.shy.insert(*node);
        }
        for (decree, value) in lacking {
            // f+1 at a time, one of which is correct, and each time others, the shy ones too: an answer may have been
            // lost, and everybody else may have stopped. Those that answered a pull have the body
            // for sure, but all of them may have stopped: every other time anyone is asked.
            let others = self.others();
            let holders: NodeSet = learner.answered(decree, value).collect();
            let holders = holders.minus(me);
            let sure = self.pull.times.is_multiple_of(2) && !holders.is_empty();
            let holders = if sure { holders } else { others };
            let turn = (u64::from(self.pull.times / 2) + decree.0) % holders.len().max(1) as u64;
            let turn = usize::try_from(turn).expect("below the number of nodes");
            let count = self.configuration.quorums().pull.min(holders.len());
            let twice = holders.iter().chain(holders.iter());
            let chosen: NodeSet = twice.skip(turn).take(count).collect();
            step.fx
                .send(To::Nodes(chosen), &Message::Fetch { decree, value });
            step.fx.observe(Event::SentAgain(Again::Fetch));
        }
        let wait = self.pull_pace.wait(self.pull.times);
        self.pull.ask(step.now, known, learned, count, wait);
    }
}

/// Answers a pull; false if there is nothing to say.
fn say_values(to: NodeId, first: Decree, values: &[u8], step: &mut Step<'_>) -> bool {
    let Some(values) = Values::new(values).filter(|values| !values.is_empty()) else {
        return false;
    };
    let to = To::Nodes(NodeSet::one(to));
    step.fx.send(to, &Message::Pulled { first, values });
    true
}

/// Answers a fetch.
fn say_body(to: NodeId, decree: Decree, value: Value, body: Body, step: &mut Step<'_>) {
    let fetched = Message::Fetched {
        decree,
        value,
        body,
    };
    step.fx.send(To::Nodes(NodeSet::one(to)), &fetched);
}
