//! Bundles that some acceptors cannot verify: what the acceptor and the proposer of a node do about them
//! (PROTOCOL.md section 5.1). The rules are in [`crate::doubt`] and [`crate::complaint`].
//!
//! ```text
//!  leader(r)          doubting acceptor      other acceptors       client
//!     │     Propose         │                      │                  │
//!     ├────────────────────►│       NackAuth       │                  │
//!     │◄────────────────────┼─────────────────────►│                  │
//!     │                     │◄── Accepted, AckAuth ┤   f+1: vote      │
//!     │   f+1 NackAuth:     │     WantSignature    │                  │
//!     ├─────────────────────┼──────────────────────┼─────────────────►│
//!     │◄────────────────────┼─── BundleSignature ──┼──────────────────┤
//!     ├────────────────────►│         vote         │                  │
//! ```
//!
//! Nothing of this happens, and nothing is looked up, while every check succeeds.

use std::time::Duration;

use twostep_crypto::Signature;
use twostep_net::pool::Body;

use super::{Replica, Step};
use crate::batch::{Authenticator, Batch, Bundle};
use crate::complaint::{Complaints, Consequence, Named};
use crate::configuration::{Admission, Configuration};
use crate::doubt::Doubt;
use crate::machine::{Event, Refusal, To};
use crate::message::Message;
use crate::rules::{Rules, Verdict};
use crate::types::{ClientId, Decree, Digest, NodeId, NodeSet, Party, Regency, Time, Value};
use crate::window::{Reset, Window};

/// About what an answer to `NackAuth` is taken from the share of the one who asks. Bytes.
const ANSWER_BYTES: usize = 128;

/// What a node knows of doubted bundles.
pub(super) struct Doubting {
    /// The proposals that its acceptor does not vote for yet.
    doubts: Window<Slot>,
    /// How many there are.
    open: usize,
    /// What its proposer heard of; none where links authenticate clients.
    complaints: Option<Complaints>,
}

#[derive(Debug, Default)]
struct Slot(Option<Doubt>);

impl Reset for Slot {
    fn reset(&mut self) {
        self.0 = None;
    }
}

/// A `NackAuth` as it arrives.
#[derive(Clone, Copy)]
pub(super) struct Nack {
    pub(super) regency: Regency,
    pub(super) decree: Decree,
    pub(super) client: ClientId,
    pub(super) bundle: Digest,
}

impl Doubting {
    /// Nothing is doubted. `proposes`: whether the node takes part as a proposer.
    pub(super) fn new(configuration: &Configuration, proposes: bool) -> Doubting {
        let (vouch, nodes) = (configuration.quorums().vouch, configuration.members().len());
        let judged = configuration.admission() != Admission::Link;
        Doubting {
            doubts: Window::new(Decree::NONE, configuration.limits().window, Slot::default),
            open: 0,
            complaints: (proposes && judged).then(|| Complaints::new(vouch, nodes)),
        }
    }

    /// Whether a proposal waits that f+1 acceptors do not vote for.
    pub(super) fn waits(&self) -> bool {
        self.complaints.as_ref().is_some_and(Complaints::waits)
    }

    /// f+1 learners acknowledged something new.
    pub(super) fn progressed(&mut self, now: Time, progress: Decree) {
        if let Some(complaints) = &mut self.complaints {
            complaints.progressed(now, progress);
        }
    }

    /// Whether the leader gives its regency up, because of a client that does not sign.
    pub(super) fn gives_up(&mut self, now: Time, patience: Duration) -> bool {
        self.complaints
            .as_mut()
            .is_some_and(|complaints| complaints.gives_up(now, patience))
    }

    /// When [`Doubting::gives_up`] will say so.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Time> {
        self.complaints.as_ref()?.deadline(patience)
    }

    /// The window moves.
    pub(super) fn advance(&mut self, low: Decree) {
        self.doubts.advance(low);
        self.recount();
    }

    /// Whether tagged bundles of this client are refused.
    fn on_signatures(&self, client: ClientId) -> bool {
        self.complaints
            .as_ref()
            .is_some_and(|complaints| complaints.on_signatures(client))
    }

    fn get(&mut self, decree: Decree) -> Option<&mut Doubt> {
        if self.open == 0 {
            return None;
        }
        self.doubts.get_mut(decree)?.0.as_mut()
    }

    fn recount(&mut self) {
        if self.open > 0 {
            let open = |decree: &Decree| {
                self.doubts
                    .get(*decree)
                    .is_some_and(|slot| slot.0.is_some())
            };
            self.open = self.doubts.decrees().filter(open).count();
        }
    }

    fn set(&mut self, decree: Decree, doubt: Option<Doubt>) -> Option<Doubt> {
        let slot = self.doubts.get_mut(decree)?;
        self.open += usize::from(doubt.is_some());
        let before = std::mem::replace(&mut slot.0, doubt);
        self.open -= usize::from(before.is_some());
        before
    }
}

impl<R: Rules> Replica<R> {
    // The acceptor that doubts.

    /// Whether this very proposal is in doubt already; then it says so again, and checks nothing again.
    pub(super) fn doubts_still(
        &mut self,
        regency: Regency,
        decree: Decree,
        value: Value,
        body: &Body,
        step: &mut Step<'_>,
    ) -> bool {
        let same = self.doubting.get(decree).is_some_and(|doubt| {
            doubt.regency() == regency && doubt.value() == value && doubt.batch().body() == body
        });
        if same {
            self.complain(decree, step);
        }
        same
    }

    /// Keeps a proposal that the acceptor would vote for if all of its bundles were authentic. Mode C trusts its
    /// leader, and its links.
    pub(super) fn doubt(
        &mut self,
        regency: Regency,
        decree: Decree,
        batch: Batch,
        step: &mut Step<'_>,
    ) {
        if self.configuration.admission() == Admission::Link {
            return;
        }
        let mut doubt = Doubt::new(regency, batch, self.configuration.quorums().vouch);
        doubt.examine(&self.scope, |bundle, digest| {
            self.gate.check(bundle, digest).is_ok()
        });
        step.fx.observe(Event::Doubted { regency, decree });
        self.doubting.set(decree, Some(doubt));
        self.complain(decree, step);
    }

    /// Says `NackAuth` for every bundle of a proposal that is in doubt.
    fn complain(&mut self, decree: Decree, step: &mut Step<'_>) {
        let Some(doubt) = self.doubting.get(decree) else {
            return;
        };
        let regency = doubt.regency();
        let doubted: Vec<Named> = doubt.doubted().collect();
        let proposers: NodeSet = self.configuration.proposers().iter().copied().collect();
        let judges = self.configuration.acceptors().union(proposers);
        let to = To::Nodes(judges.minus(NodeSet::one(self.me)));
        for (client, bundle) in doubted {
            let message = Message::NackAuth {
                regency,
                decree,
                client,
                bundle,
            };
            step.fx.send(to, &message);
            let nack = Nack {
                regency,
                decree,
                client,
                bundle,
            };
            self.note_complaint(self.me, nack, step);
        }
    }

    /// An acceptor voted: if this is what is doubted here, it vouches for all of it.
    pub(super) fn hear_vote(
        &mut self,
        from: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
        step: &mut Step<'_>,
    ) -> bool {
        let Some(doubt) = self.doubting.get(decree) else {
            return false;
        };
        let concerns = doubt.regency() == regency && doubt.value() == value;
        if concerns {
            doubt.voted(from);
            self.settle(decree, step);
        }
        concerns
    }

    /// An acceptor that does not learn hears votes only as answers to its doubts, of which the last ones come when
    /// it has voted already.
    pub(super) fn answered(&self, vouched: bool, decree: Decree) -> Result<(), Refusal> {
        let acceptor = self.acceptor.as_ref().ok_or(Refusal::Role)?;
        if vouched || acceptor.vote_for(decree).is_some() || decree <= self.low {
            return Ok(());
        }
        Err(Refusal::Unasked)
    }

    pub(super) fn take_ack_auth(
        &mut self,
        from: NodeId,
        regency: Regency,
        decree: Decree,
        bundle: Digest,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.acceptors().contains(from) {
            return Err(Refusal::Role);
        }
        if let Some(doubt) = self.doubting.get(decree)
            && doubt.regency() == regency
        {
            doubt.vouched(from, &bundle);
            self.settle(decree, step);
        }
        // The answers of those that were not needed any more come later: that is no fault.
        Ok(())
    }

    /// Votes if no bundle is in doubt any more.
    fn settle(&mut self, decree: Decree, step: &mut Step<'_>) {
        let (scope, gate) = (&self.scope, &self.gate);
        let Some(doubt) = self.doubting.get(decree) else {
            return;
        };
        if doubt.has_more() {
            doubt.examine(scope, |bundle, digest| gate.check(bundle, digest).is_ok());
        }
        if !doubt.is_settled() {
            return;
        }
        let Some(doubt) = self.doubting.set(decree, None) else {
            return;
        };
        let regency = doubt.regency();
        let verdict = self
            .acceptor
            .as_ref()
            .map(|acceptor| acceptor.judge(&self.rules, regency, decree, doubt.value()));
        if verdict == Some(Ok(Verdict::Vote)) && self.keeps_records() {
            self.vote(regency, decree, doubt.into_batch(), step);
        }
    }

    /// The acceptor voted for a decree: whatever it doubted there is of no use any more.
    pub(super) fn end_doubt(&mut self, decree: Decree) {
        if self.doubting.open > 0 {
            self.doubting.set(decree, None);
        }
    }

    // Those who hear of it.

    pub(super) fn take_nack_auth(
        &mut self,
        from: NodeId,
        nack: Nack,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.acceptors().contains(from) {
            return Err(Refusal::Role);
        }
        if nack.regency < self.regency {
            self.deny(from, step);
            return Err(Refusal::OldRegency);
        }
        if nack.regency > self.regency {
            return Ok(());
        }
        self.note_complaint(from, nack, step);
        self.vouch(from, nack, step)
    }

    /// Vouches for the bundle, if this node's acceptor can.
    fn vouch(&mut self, to: NodeId, nack: Nack, step: &mut Step<'_>) -> Result<(), Refusal> {
        let Nack {
            regency,
            decree,
            bundle,
            ..
        } = nack;
        let vote = self.acceptor.as_ref().and_then(|acceptor| {
            let vote = acceptor.vote_for(decree)?;
            (vote.psn == regency && acceptor.has_said(decree)).then_some(vote)
        });
        let message = if let Some(vote) = vote {
            Message::Accepted {
                regency,
                decree,
                value: vote.value,
            }
        } else if self
            .doubting
            .get(decree)
            .is_some_and(|doubt| doubt.regency() == regency && doubt.vouches_for(&bundle))
        {
            Message::AckAuth {
                regency,
                decree,
                bundle,
            }
        } else {
            return Ok(());
        };
        if !self
            .peers
            .may_serve(to, ANSWER_BYTES, step.now, self.tuning.t0)
        {
            return Err(Refusal::Share);
        }
        step.fx.send(To::Nodes(NodeSet::one(to)), &message);
        Ok(())
    }

    /// The proposer's part: counts, and as leader asks the client.
    fn note_complaint(&mut self, from: NodeId, nack: Nack, step: &mut Step<'_>) {
        let Nack {
            decree,
            client,
            bundle,
            ..
        } = nack;
        let open = decree > self.low && decree <= self.low.plus(self.configuration.limits().window);
        let progress = self.acks.reached_by(self.configuration.quorums().progress);
        let Some(complaints) = self.doubting.complaints.as_mut() else {
            return;
        };
        if !open || decree <= progress || !self.gate.knows(client) {
            return;
        }
        let before = complaints.on_signatures(client);
        let consequence = complaints.hear(from, decree, (client, bundle));
        if !before && complaints.on_signatures(client) {
            step.fx.observe(Event::OnSignatures {
                client,
                for_good: false,
            });
        }
        match consequence {
            Consequence::Noted => {}
            Consequence::Signed(signature) => {
                let message = Message::BundleSignature {
                    client,
                    bundle,
                    signature,
                };
                if from != self.me {
                    step.fx.send(To::Nodes(NodeSet::one(from)), &message);
                }
            }
            Consequence::Ask => self.ask_to_sign(decree, (client, bundle), step),
        }
    }

    /// Asks a client for its signature of a bundle that this node proposed as leader.
    fn ask_to_sign(&mut self, decree: Decree, named: Named, step: &mut Step<'_>) {
        let proposes = self.proposes();
        let (Some(complaints), Some(proposer)) = (
            self.doubting.complaints.as_mut(),
            self.proposer.as_mut().filter(|_| proposes),
        ) else {
            return;
        };
        let (client, bundle) = named;
        let known = complaints.was_asked(named, decree);
        let scope = &self.scope;
        let proposed = known
            || proposer.proposal(decree).is_some_and(|batch| {
                let mut bundles = batch.bundles();
                bundles.any(|view| view.client == client && view.digest(scope) == bundle)
            });
        if proposed && complaints.may_ask(named, decree, step.now, self.tuning.t0 / 4) {
            proposer.drop_tagged(client);
            self.want_signature(client, bundle, step);
        }
    }

    fn want_signature(&self, client: ClientId, bundle: Digest, step: &mut Step<'_>) {
        let message = Message::WantSignature {
            regency: self.regency,
            bundle,
        };
        step.fx.send(To::Client(client), &message);
    }

    /// Refuses a tagged bundle of a client whose tags are doubted, and asks for its signature.
    ///
    /// # Errors
    /// [`Refusal::MustSign`].
    pub(super) fn must_sign(&self, bundle: &Bundle, step: &mut Step<'_>) -> Result<(), Refusal> {
        let view = bundle.view();
        let tagged = matches!(view.authenticator, Authenticator::Mac(_));
        if tagged && self.doubting.on_signatures(view.client) {
            self.want_signature(view.client, bundle.digest(), step);
            return Err(Refusal::MustSign);
        }
        Ok(())
    }

    /// A client's signature, from the client itself or passed on. It costs a check only if it is wanted.
    pub(super) fn take_signature(
        &mut self,
        from: Party,
        named: Named,
        signature: Signature,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let (client, bundle) = named;
        let node = match from {
            Party::Client(sender) if sender != client => return Err(Refusal::ForeignBundle),
            Party::Client(_) => None,
            Party::Node(node) => Some(node),
        };
        let doubted = self.doubted_in(named, node);
        let wanted = self
            .doubting
            .complaints
            .as_ref()
            .is_some_and(|complaints| complaints.wants_signature(named, node));
        if doubted.is_empty() && !wanted {
            // The leader tells everyone, whether they doubt or not, and a client whose tags are refused was asked.
            return if node.is_some() || self.doubting.on_signatures(client) {
                Ok(())
            } else {
                Err(Refusal::Unasked)
            };
        }
        if let Err(why) = self.gate.check_signature(client, bundle, signature) {
            self.note_forgery(&doubted, named, node);
            return Err(why);
        }
        if let Some(complaints) = self.doubting.complaints.as_mut().filter(|_| wanted) {
            complaints.signed(named, signature);
            if node.is_none() {
                self.pass_on(named, signature, step);
            }
        }
        for decree in doubted {
            if let Some(doubt) = self.doubting.get(decree) {
                doubt.signed(&bundle);
            }
            self.settle(decree, step);
        }
        Ok(())
    }

    /// The decrees in which a signature of this bundle by `from` would be of use.
    fn doubted_in(&self, (client, bundle): Named, from: Option<NodeId>) -> Vec<Decree> {
        if self.doubting.open == 0 {
            return Vec::new();
        }
        let doubts = &self.doubting.doubts;
        let wants = |decree: &Decree| {
            doubts
                .get(*decree)
                .and_then(|slot| slot.0.as_ref())
                .is_some_and(|doubt| doubt.wants_signature(client, &bundle, from))
        };
        doubts.decrees().filter(wants).collect()
    }

    fn note_forgery(&mut self, doubted: &[Decree], named: Named, from: Option<NodeId>) {
        for decree in doubted {
            if let Some(doubt) = self.doubting.get(*decree) {
                doubt.forged(&named.1, from);
            }
        }
        if let Some(complaints) = self.doubting.complaints.as_mut() {
            complaints.forged(named, from);
        }
    }

    fn pass_on(&self, (client, bundle): Named, signature: Signature, step: &mut Step<'_>) {
        let proposers: NodeSet = self.configuration.proposers().iter().copied().collect();
        let judges = self.configuration.acceptors().union(proposers);
        let message = Message::BundleSignature {
            client,
            bundle,
            signature,
        };
        step.fx
            .send(To::Nodes(judges.minus(NodeSet::one(self.me))), &message);
    }

    /// Another regency begins: its leader proposes anew, and some clients stay on signatures.
    pub(super) fn forget_doubts(&mut self, step: &mut Step<'_>) {
        if self.doubting.open > 0 {
            let decrees: Vec<Decree> = self.doubting.doubts.decrees().collect();
            for decree in decrees {
                self.doubting.set(decree, None);
            }
        }
        if let Some(complaints) = &mut self.doubting.complaints {
            for client in complaints.entered() {
                step.fx.observe(Event::OnSignatures {
                    client,
                    for_good: true,
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "doubting_tests.rs"]
mod tests;
