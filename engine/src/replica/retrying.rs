//! No censorship: what becomes of a client's retry at a proposer (PROTOCOL.md section 4).
//!
//! ```text
//! client ──signed retry──► every proposer ── new to it ──► all other proposers
//!                              │ tracks it (crate::tracking)
//!                              ├─ leads: orders it
//!                              ├─ a regency is entered, and each T0: the kept bundle goes to the leader
//!                              ├─ learns: asks its own session table whether it is settled
//!                              └─ does not learn, or lags: asks the learners every T0/4
//! ```
//!
//! So a new leader has all that any correct proposer knows to be waiting one message delay after the proof of its
//! leadership, and no client has to retry for it. A bundle that is kept was checked: the same digest again costs no
//! signature check.

use super::{Replica, Step};
use crate::batch::{Authenticator, Bundle};
use crate::configuration::Admission;
use crate::machine::{Question, Refusal, To};
use crate::message::{Message, RequestNames};
use crate::rules::Rules;
use crate::tracking::News;
use crate::types::{Decree, NodeId, NodeSet, Time};

impl<R: Rules> Replica<R> {
    /// A client's retry: it is tracked until it is known to be executed, and passed on to the leader and all proposers,
    /// so that no leader can censor it.
    pub(super) fn take_retry(
        &mut self,
        bundle: Bundle,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let bundle = match self.kept(&bundle) {
            Some(kept) => kept,
            None => self.checked(bundle)?,
        };
        if self.answers_questions() {
            step.fx.ask(Question::Retried(bundle.clone()));
        }
        let news = self.track(&bundle, self.me, step);
        if news.relayer {
            relay(&bundle, self.other_proposers(), step);
        }
        self.order_retry(bundle, news, step.now)
    }

    /// A retry that another proposer passes on. Only signed ones are, since only those convince everybody. It goes on to
    /// the leader if it is new here: whoever passed it on may have left the leader out.
    pub(super) fn take_relay(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.election.is_none() || !self.configuration.proposers().contains(&from) {
            return Err(Refusal::Role);
        }
        if self.peers.has_spent_checks(from, step.now, self.tuning.t0) {
            return Err(Refusal::Share);
        }
        let bundle = Bundle::parse(
            self.pool.copy(bytes),
            &self.scope,
            self.configuration.limits(),
        )?;
        if !self.is_signed(&bundle) {
            return Err(Refusal::Unauthentic);
        }
        let bundle = match self.kept(&bundle) {
            Some(kept) => kept,
            None if !self.peers.may_check_relay(from, step.now, self.tuning.t0) => {
                return Err(Refusal::Share);
            }
            None => self.checked(bundle).inspect_err(|why| {
                if *why == Refusal::Unauthentic {
                    self.peers.showed_bad_signature(from, step.now);
                }
            })?,
        };
        let news = self.track(&bundle, from, step);
        if news.requests {
            relay(&bundle, self.leader_besides_me(), step);
        }
        self.order_retry(bundle, news, step.now)
    }

    /// Whether anybody can check who made it.
    fn is_signed(&self, bundle: &Bundle) -> bool {
        match bundle.view().authenticator {
            Authenticator::Signature(_) => true,
            Authenticator::Mac(_) => false,
            Authenticator::None => self.configuration.admission() == Admission::Link,
        }
    }

    fn leader_besides_me(&self) -> NodeSet {
        let leader = NodeSet::one(self.configuration.leader(self.regency));
        leader.minus(NodeSet::one(self.me))
    }

    /// The kept bundle of the same digest, whose signature was checked.
    fn kept(&self, bundle: &Bundle) -> Option<Bundle> {
        let tracking = &self.election.as_ref()?.tracking;
        let kept = tracking.kept(bundle.view().client, &bundle.digest());
        kept.cloned()
    }

    fn checked(&self, bundle: Bundle) -> Result<Bundle, Refusal> {
        self.gate.check(&bundle.view(), &bundle.digest())?;
        Ok(bundle)
    }

    /// Tracks the requests of a bundle that was checked. Only signed requests count. It may be a late copy of what was
    /// executed long ago, so the own session table is asked.
    fn track(&mut self, bundle: &Bundle, relayer: NodeId, step: &mut Step<'_>) -> News {
        let (signed, answers) = (self.is_signed(bundle), self.answers_questions());
        let Some(election) = self.election.as_mut().filter(|_| signed) else {
            return News::default();
        };
        let progress = election.progress;
        let news = election.tracking.track(bundle, relayer, step.now, progress);
        if news.requests && answers {
            let client = bundle.view().client;
            step.fx.ask(Question::Settled {
                asker: self.me,
                client,
                names: election.tracking.names_of(client),
            });
        }
        news
    }

    fn order_retry(&mut self, bundle: Bundle, news: News, now: Time) -> Result<(), Refusal> {
        let can_order = self.can_order(now);
        let (Some(election), Some(proposer)) = (
            &mut self.election,
            self.proposer.as_mut().filter(|_| can_order),
        ) else {
            return Ok(());
        };
        if news.requests && proposer.forget(&bundle.digest()) {
            // It was ordered before in this regency. If the session table does not say that it is settled, it is
            // ordered again at the end of the turn.
            election.unordered = true;
            return Ok(());
        }
        let taken = proposer.submit_once(bundle, &self.tuning);
        election.unordered |= taken.is_err();
        taken
    }

    fn can_order(&self, now: Time) -> bool {
        self.proposes() && !self.in_trouble(now)
    }

    /// Orders what is tracked and was not ordered in this regency, as far as there is room.
    pub(super) fn order_tracked(&mut self, now: Time) {
        let can_order = self.can_order(now);
        if let Some(election) = &mut self.election
            && let Some(proposer) = self.proposer.as_mut().filter(|_| can_order)
        {
            let mut bundles = election.tracking.bundles();
            election.unordered =
                bundles.any(|bundle| proposer.submit_once(bundle.clone(), &self.tuning).is_err());
        }
    }

    /// A regency was entered: its leader gets what waits.
    pub(super) fn relay_tracked(&mut self, step: &mut Step<'_>) {
        let to = self.leader_besides_me();
        if let Some(election) = self.election.as_mut().filter(|_| !to.is_empty()) {
            election.relay_at = Some(step.now + self.tuning.t0);
            for bundle in election.tracking.bundles() {
                relay(bundle, to, step);
            }
        }
    }

    /// Says again to the leader what waits: a relay may be lost.
    pub(super) fn relay_again(&mut self, step: &mut Step<'_>) {
        let Some(election) = &mut self.election else {
            return;
        };
        if election.tracking.is_empty() {
            election.relay_at = None;
        } else if *election
            .relay_at
            .get_or_insert(step.now + self.tuning.t0 / 2)
            <= step.now
        {
            election.relay_at = Some(step.now + self.tuning.t0);
            self.relay_tracked(step);
        }
    }

    /// Whether this node has a session table that can be asked.
    pub(super) fn answers_questions(&self) -> bool {
        self.learner.is_some() && self.execution.diverged.is_none()
    }

    /// `Executed?`: a proposer that does not see what is executed, or sees it later than others, asks those who do.
    pub(super) fn ask_learners(&mut self, step: &mut Step<'_>) {
        let executed = self.execution.executed;
        let answers = self.answers_questions();
        let learners = self.configuration.learners().minus(NodeSet::one(self.me));
        let Some(election) = &mut self.election else {
            return;
        };
        let sees = answers && executed >= election.progress;
        if sees || election.tracking.is_empty() {
            election.ask_at = None;
            return;
        }
        let next = step.now + self.tuning.t0 / 4;
        let (due, progress) = *election.ask_at.get_or_insert((next, election.progress));
        if due > step.now {
            return;
        }
        election.ask_at = Some((next, election.progress));
        for (client, names) in election.tracking.names() {
            let names = RequestNames::new(client, &names).expect("they were written as names");
            let message = Message::AskSettled {
                executed: progress,
                names,
            };
            step.fx.send(To::Nodes(learners), &message);
        }
    }

    /// A proposer asks; the session table answers.
    pub(super) fn take_ask(
        &mut self,
        from: NodeId,
        executed: Decree,
        names: RequestNames<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.proposers().contains(&from) || !self.answers_questions() {
            return Err(Refusal::Role);
        }
        if self.execution.executed < executed {
            // What is too far ahead for a learner that is behind may not be so for the others.
            return Ok(());
        }
        let bytes = names.bytes().len();
        if !self.peers.may_serve(from, bytes, step.now, self.tuning.t0) {
            return Err(Refusal::Share);
        }
        step.fx.ask(Question::Settled {
            asker: from,
            client: names.client,
            names: names.bytes().to_vec(),
        });
        Ok(())
    }

    /// The own session table answers.
    pub(super) fn end_settled(&mut self, names: RequestNames<'_>) {
        if let Some(election) = &mut self.election {
            election.tracking.settled(self.me, names, 1);
        }
    }

    /// A learner answers: what f+1 say is waited for no more.
    pub(super) fn take_settled(
        &mut self,
        from: NodeId,
        names: RequestNames<'_>,
    ) -> Result<(), Refusal> {
        let quorum = self.configuration.quorums().pull;
        match &mut self.election {
            Some(election) if self.configuration.learners().contains(from) => {
                election.tracking.settled(from, names, quorum);
                Ok(())
            }
            _ => Err(Refusal::Role),
        }
    }
}

/// Passes a signed retry on.
fn relay(bundle: &Bundle, to: NodeSet, step: &mut Step<'_>) {
    if !to.is_empty() {
        let message = Message::Submit {
            retry: true,
            bundle: bundle.bytes(),
        };
        step.fx.send(To::Nodes(to), &message);
    }
}
