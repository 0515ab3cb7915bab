//! No censorship: what becomes of a client's retry at a proposer (PROTOCOL.md section 4).
//!
//! ```text
//! client ──signed retry──► every proposer ── new to it ──► all other proposers
//!                              │ tracks it (crate::tracking)
//!                              ├─ leads: orders it
//!                              ├─ a regency is entered: the kept bundle goes to its leader
//!                              └─ does not learn: asks the learners every T0/4 which are settled
//! ```
//!
//! So a new leader has all that any correct proposer knows to be waiting one message delay after the proof of its
//! leadership, and no client has to retry for it. A bundle that is kept was checked: the same digest again costs no
//! signature check.

use super::{Replica, Step};
use crate::batch::{Authenticator, Bundle};
use crate::configuration::Admission;
use crate::machine::{JournalState, Question, Refusal, To};
use crate::message::{Message, RequestNames};
use crate::rules::Rules;
use crate::types::{NodeId, NodeSet};

impl<R: Rules> Replica<R> {
    /// A client's retry: it is tracked until it is known to be executed, and passed on to the leader and all proposers,
    /// so that no leader can censor it.
    pub(super) fn take_retry(
        &mut self,
        bundle: Bundle,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let bundle = self.checked(bundle)?;
        if self.track(&bundle, self.me, step) {
            let message = Message::Submit {
                retry: true,
                bundle: bundle.bytes(),
            };
            step.fx.send(To::Nodes(self.other_proposers()), &message);
        }
        self.order_retry(bundle)
    }

    /// A retry that another proposer passes on. It is not passed on again.
    pub(super) fn take_relay(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.election.is_none() || !self.configuration.proposers().contains(&from) {
            return Err(Refusal::Role);
        }
        let bundle = Bundle::parse(
            self.pool.copy(bytes),
            &self.scope,
            self.configuration.limits(),
        )?;
        let bundle = self.checked(bundle)?;
        self.track(&bundle, from, step);
        self.order_retry(bundle)
    }

    /// The kept bundle of the same digest, whose signature was checked; else this one, once it is checked.
    fn checked(&self, bundle: Bundle) -> Result<Bundle, Refusal> {
        let (view, digest) = (bundle.view(), bundle.digest());
        let kept = self
            .election
            .as_ref()
            .and_then(|election| election.tracking.kept(view.client, &digest));
        if let Some(kept) = kept {
            return Ok(kept.clone());
        }
        self.gate.check(&view, &digest)?;
        Ok(bundle)
    }

    /// Tracks the requests of a bundle that was checked; true if some are new. Only signed requests count.
    fn track(&mut self, bundle: &Bundle, relayer: NodeId, step: &mut Step<'_>) -> bool {
        let proved = match bundle.view().authenticator {
            Authenticator::Signature(_) => true,
            Authenticator::Mac(_) => false,
            Authenticator::None => self.configuration.admission() == Admission::Link,
        };
        match &mut self.election {
            Some(election) if proved => {
                let progress = election.progress;
                election.tracking.track(bundle, relayer, step.now, progress)
            }
            _ => false,
        }
    }

    fn order_retry(&mut self, bundle: Bundle) -> Result<(), Refusal> {
        let proposes = self.proposes();
        let (Some(proposer), JournalState::Ok | JournalState::Slow) =
            (self.proposer.as_mut().filter(|_| proposes), self.journal)
        else {
            return Ok(());
        };
        let taken = proposer.submit_once(bundle, &self.tuning);
        if let Some(election) = &mut self.election {
            election.unordered |= taken.is_err();
        }
        taken
    }

    /// Orders what is tracked and was not ordered in this regency, as far as there is room.
    pub(super) fn order_tracked(&mut self) {
        let proposes = self.proposes();
        if let Some(election) = &mut self.election
            && let Some(proposer) = self.proposer.as_mut().filter(|_| proposes)
        {
            let mut bundles = election.tracking.bundles();
            election.unordered =
                bundles.any(|bundle| proposer.submit_once(bundle.clone(), &self.tuning).is_err());
        }
    }

    /// A regency was entered: its leader gets what waits.
    pub(super) fn relay_tracked(&mut self, step: &mut Step<'_>) {
        let leader = NodeSet::one(self.configuration.leader(self.regency));
        let to = leader.minus(NodeSet::one(self.me));
        let Some(election) = self.election.as_ref().filter(|_| !to.is_empty()) else {
            return;
        };
        for bundle in election.tracking.bundles() {
            let message = Message::Submit {
                retry: true,
                bundle: bundle.bytes(),
            };
            step.fx.send(To::Nodes(to), &message);
        }
    }

    /// Whether this node itself sees what is executed.
    fn sees_execution(&self) -> bool {
        self.learner.is_some() && self.execution.diverged.is_none()
    }

    /// `Executed?`: a proposer that does not see what is executed asks those who do.
    pub(super) fn ask_learners(&mut self, step: &mut Step<'_>) {
        let sees = self.sees_execution();
        let learners = self.configuration.learners().minus(NodeSet::one(self.me));
        let Some(election) = &mut self.election else {
            return;
        };
        if sees || election.tracking.is_empty() {
            election.ask_at = None;
            return;
        }
        let next = Some(step.now + self.tuning.t0 / 4);
        if election.ask_at.get_or_insert(step.now + self.tuning.t0 / 4) > &mut step.now {
            return;
        }
        election.ask_at = next;
        for (client, names) in election.tracking.names() {
            let names = RequestNames::new(client, &names).expect("they were written as names");
            step.fx
                .send(To::Nodes(learners), &Message::AskSettled { names });
        }
    }

    /// A proposer asks; the session table answers.
    pub(super) fn take_ask(
        &mut self,
        from: NodeId,
        names: RequestNames<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.proposers().contains(&from) || !self.sees_execution() {
            return Err(Refusal::Role);
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
