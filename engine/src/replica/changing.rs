//! The leader change from the proof on: reports, vouchers, and a new leader's first proposals.
//!
//! ```text
//!  proposers          leader(r)              acceptors            learners
//!   │ Vote(r) ×2f+1      │                       │                    │
//!   ├───── Pol(r) ──────►│        Gather(r)      │                    │
//!   │                    ├──────────────────────►│                    │
//!   │                    │◄───── Report ×(n−f) ──┤                    │
//!   │                    │ NewRegency(r)+Propose │     Accepted       │
//!   │                    ├──────────────────────►├───────────────────►│
//! ```

use std::sync::Arc;
use std::time::Duration;

use twostep_crypto::{Signature, Signed};
use twostep_net::pool::Body;

use super::ordering::Proposal;
use super::{Replica, Say, Step};
use crate::batch::Batch;
use crate::machine::{Again, Event, Record, Refusal, To};
use crate::message::{Message, NewRegency, ProofOfLeadership, Report};
use crate::quorum::FaultModel;
use crate::recovery::{Gathering, Lead, Wanted};
use crate::resend::Resend;
use crate::rules::Rules;
use crate::types::{Decree, NodeId, NodeSet, Party, Regency, Value};
use crate::voucher::{CheckedReport, Plan};

impl<R: Rules> Replica<R> {
    pub(super) fn crash_only(&self) -> bool {
        self.configuration.model() == FaultModel::Crash
    }

    // Entering a regency.

    pub(super) fn take_proof(
        &mut self,
        proof: ProofOfLeadership,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let claimed = proof.votes.iter().map(|vote| vote.content.regency).min();
        if claimed.is_none_or(|regency| regency <= self.regency) {
            return Ok(());
        }
        let regency = self.examiner.proof(&proof)?;
        self.enter(regency, proof, step);
        Ok(())
    }

    pub(super) fn enter(
        &mut self,
        regency: Regency,
        proof: ProofOfLeadership,
        step: &mut Step<'_>,
    ) {
        assert!(regency > self.regency, "regencies rise");
        self.regency = regency;
        self.proof = proof;
        self.shown = None;
        self.own_report = None;
        self.lead = Lead::Following;
        step.fx.observe(Event::Regency { regency });
        self.forget_doubts(step);
        if let Some(proposer) = &mut self.proposer {
            proposer.step_down();
        }
        if let Some(election) = &mut self.election {
            election.pacemaker.entered(step.now, election.progress);
            election.tracking.restart(step.now, election.progress);
            if !self.proof.votes.is_empty() {
                let message = Message::Proof(self.proof.clone());
                step.fx.send(To::Nodes(self.others()), &message);
            }
        }
        if self.proposer.is_some() && self.leads() {
            let resend = Resend::said(step.now, self.tuning.t0);
            self.lead = Lead::Gathering(Box::new(Gathering::new(regency, resend)));
            let acceptors = self.configuration.acceptors().minus(NodeSet::one(self.me));
            let message = Message::Gather {
                regency,
                proof: self.proof.clone(),
            };
            step.fx.send(To::Nodes(acceptors), &message);
        }
        self.promise(regency, step);
        if matches!(self.lead, Lead::Gathering(_)) && self.keeps_records() {
            self.record_lead(step);
        }
        self.relay_tracked(step);
    }

    /// Being leader of a regency starts with a record of it: a node that lost its disk does not propose there.
    pub(super) fn record_lead(&mut self, step: &mut Step<'_>) {
        if self.led != Some(self.regency) {
            self.led = Some(self.regency);
            self.recorded.0 += 1;
            step.fx.store(self.recorded, &Record::Lead(self.regency));
        }
    }

    /// The acceptor's part: a report that is a promise for every lower regency, durable before it is sent.
    pub(super) fn promise(&mut self, regency: Regency, step: &mut Step<'_>) {
        if !self.keeps_records() {
            return;
        }
        let crash_only = self.crash_only();
        let Some(acceptor) = &mut self.acceptor else {
            if self.proposer.is_some() {
                self.trouble.entered = regency;
                self.recorded.0 += 1;
                let proof = &self.proof;
                let record = Record::Entered { regency, proof };
                step.fx.store(self.recorded, &record);
            }
            return;
        };
        let votes = acceptor.promise(regency);
        if crash_only {
            acceptor.adopt(Plan::open());
        }
        // The votes are those above the low that is stored; a newer certificate that is not yet stored waits.
        let report = Report {
            regency,
            low: self.stored_low.clone(),
            votes,
        };
        let me = Party::Node(self.me);
        let report = if crash_only {
            Signed {
                signer: me,
                content: report,
                signature: Signature([0; 64]),
            }
        } else {
            self.made.reports += 1;
            self.identity
                .signing()
                .sign(&self.scope, me, report)
                .into_signed()
        };
        self.recorded.0 += 1;
        step.fx.store(
            self.recorded,
            &Record::Promise {
                proof: &self.proof,
                report: &report,
            },
        );
        self.hold(Say::Report(Box::new(report)), step);
    }

    pub(super) fn say_report(&mut self, report: Box<Signed<Report>>, step: &mut Step<'_>) {
        if report.content.regency != self.regency {
            return;
        }
        self.own_report = Some(report.clone());
        let leader = self.configuration.leader(self.regency);
        if leader == self.me {
            // An own report that does not check would be a defect of this node, not of a peer.
            let taken = self.take_report(self.me, *report, step);
            assert!(taken.is_ok(), "the own report is valid: {taken:?}");
        } else {
            step.fx
                .send(To::Nodes(NodeSet::one(leader)), &Message::Report(report));
        }
    }

    pub(super) fn take_gather(
        &mut self,
        from: NodeId,
        regency: Regency,
        proof: ProofOfLeadership,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.configuration.leader(regency) != from {
            return Err(Refusal::NotLeader);
        }
        if regency > self.regency {
            if !self.crash_only() && self.examiner.proof(&proof)? < regency {
                return Err(Refusal::BadProof);
            }
            self.enter(regency, proof, step);
            return Ok(());
        }
        if regency == self.regency {
            if let Some(report) = self.own_report.clone() {
                step.fx
                    .send(To::Nodes(NodeSet::one(from)), &Message::Report(report));
            }
            return Ok(());
        }
        self.deny(from, step);
        Err(Refusal::OldRegency)
    }

    /// Tells a node that it is behind, at most once per T0/4.
    pub(super) fn deny(&mut self, node: NodeId, step: &mut Step<'_>) {
        if self.peers.may_answer(node, step.now, self.tuning.t0) {
            if self.crash_only() {
                self.tell_status(NodeSet::one(node), step);
            } else {
                step.fx.send(
                    To::Nodes(NodeSet::one(node)),
                    &Message::Denied(self.proof.clone()),
                );
            }
        }
    }

    // Leading.

    pub(super) fn take_report(
        &mut self,
        from: NodeId,
        report: Signed<Report>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let quorums = *self.configuration.quorums();
        let Lead::Gathering(gathering) = &mut self.lead else {
            return Ok(());
        };
        if report.signer != Party::Node(from) || !self.configuration.acceptors().contains(from) {
            return Err(Refusal::Role);
        }
        if report.content.regency != gathering.regency {
            return Err(Refusal::BadReport);
        }
        if !gathering.wants(from) {
            return Ok(());
        }
        let report = self
            .examiner
            .report(report, gathering.regency, &self.checkpoints)?;
        gathering.take(report);
        if self.rules.voucher(&quorums, &gathering.signers()) {
            let window = self.configuration.limits().window;
            let plan = Plan::of(&self.rules, &quorums, window, gathering.voucher());
            let low = plan.low.clone();
            gathering.fix(plan);
            if let Some(certificate) = low {
                self.take_certificate(certificate, step)?;
            }
            self.gather_bodies(step);
        }
        Ok(())
    }

    /// Takes the bodies that it holds itself and asks f+1 reporters for each that it lacks: one of them at least is
    /// correct and up, and holds it. If a question or its answer is lost, others are asked the next time.
    pub(super) fn gather_bodies(&mut self, step: &mut Step<'_>) {
        let Lead::Gathering(gathering) = &self.lead else {
            return;
        };
        let noop = Batch::noop(&self.scope);
        let held: Vec<(Decree, Batch)> = gathering
            .lacking(self.low)
            .filter_map(|(decree, value)| {
                let known = (value == noop.value()).then_some(&noop);
                Some((
                    decree,
                    known.or_else(|| self.held_body(decree, value))?.clone(),
                ))
            })
            .collect();
        let Lead::Gathering(gathering) = &mut self.lead else {
            return;
        };
        for (decree, batch) in held {
            gathering.keep(decree, batch);
        }
        let enough = self.configuration.f() + 1;
        for wanted in gathering.ask(self.low, enough, self.me) {
            let Wanted {
                decree,
                value,
                from,
            } = wanted;
            step.fx
                .send(To::Nodes(from), &Message::Fetch { decree, value });
        }
        self.lead_if_ready(step);
    }

    pub(super) fn gather_again(&mut self, step: &mut Step<'_>) {
        let t0 = self.tuning.t0;
        let Lead::Gathering(gathering) = &mut self.lead else {
            return;
        };
        if !gathering.resend.due(step.now, t0) {
            return;
        }
        step.fx.observe(Event::SentAgain(Again::Gather));
        if gathering.plan().is_some() {
            self.gather_bodies(step);
            return;
        }
        let message = Message::Gather {
            regency: gathering.regency,
            proof: self.proof.clone(),
        };
        let acceptors = self.configuration.acceptors().minus(NodeSet::one(self.me));
        step.fx.send(To::Nodes(acceptors), &message);
    }

    /// Whether a body that arrived is one that a new leader waits for; if so it takes it.
    pub(super) fn gathered_body(&mut self, decree: Decree, batch: &Batch, step: &mut Step<'_>) {
        if let Lead::Gathering(gathering) = &mut self.lead
            && gathering.lacks(decree, batch.value())
        {
            gathering.keep(decree, batch.clone());
            self.lead_if_ready(step);
        }
    }

    /// Shows the voucher and proposes what the plan says, once everything that is bound is held.
    pub(super) fn lead_if_ready(&mut self, step: &mut Step<'_>) {
        let Lead::Gathering(gathering) = &self.lead else {
            return;
        };
        let Some(plan) = gathering.plan() else { return };
        if !self.keeps_records()
            || self.low < plan.base()
            || gathering.lacking(self.low).next().is_some()
        {
            return;
        }
        let Lead::Gathering(gathering) = std::mem::replace(&mut self.lead, Lead::Leading) else {
            unreachable!("it was gathering a line ago")
        };
        let plan = gathering.plan().expect("it was there a line ago").clone();
        if !self.crash_only() {
            let voucher = gathering
                .voucher()
                .iter()
                .map(CheckedReport::signed)
                .cloned()
                .collect();
            let shown = NewRegency {
                regency: self.regency,
                proof: self.proof.clone(),
                voucher,
            };
            self.recorded.0 += 1;
            step.fx.store(self.recorded, &Record::NewRegency(&shown));
            self.hold(Say::NewRegency(Arc::new(shown), plan.clone()), step);
        }
        let noop = Batch::noop(&self.scope);
        for decree in (self.low.max(plan.base()).0 + 1..=plan.top.0).map(Decree) {
            let batch = gathering.body(decree).unwrap_or(&noop).clone();
            if let Some(proposer) = &mut self.proposer {
                proposer.recover(decree, batch.clone());
            }
            self.log_proposal(decree, batch, Duration::ZERO, step);
        }
        if let Some(proposer) = &mut self.proposer {
            proposer.begin(plan.top.max(self.low));
        }
        self.order_tracked(step.now);
        self.propose_next(step);
    }

    pub(super) fn say_new_regency(
        &mut self,
        shown: Arc<NewRegency>,
        plan: Plan,
        step: &mut Step<'_>,
    ) {
        if shown.regency != self.regency {
            return;
        }
        let acceptors = self.configuration.acceptors().minus(NodeSet::one(self.me));
        step.fx.send(
            To::Nodes(acceptors),
            &Message::NewRegency(Box::new((*shown).clone())),
        );
        self.shown = Some(shown);
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.adopt(plan);
        }
    }

    // Following a new leader.

    pub(super) fn take_new_regency(
        &mut self,
        shown: NewRegency,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let held = self
            .acceptor
            .as_ref()
            .is_none_or(crate::acceptor::Acceptor::plan_held);
        if shown.regency < self.regency || (shown.regency == self.regency && held) {
            return Ok(());
        }
        let plan = self
            .examiner
            .new_regency(&self.rules, &shown, &self.checkpoints)?;
        if shown.regency > self.regency {
            self.enter(shown.regency, shown.proof.clone(), step);
        }
        if let Some(certificate) = plan.low.clone() {
            self.take_certificate(certificate, step)?;
        }
        self.shown = Some(Arc::new(shown));
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.adopt(plan);
        }
        self.replay_kept(step);
        Ok(())
    }

    /// Looks again at the proposals that came before the plan. Those of higher regencies go on waiting for theirs.
    fn replay_kept(&mut self, step: &mut Step<'_>) {
        let (current, leader) = (self.regency, self.configuration.leader(self.regency));
        let decrees: Vec<Decree> = self.kept.decrees().collect();
        for decree in decrees {
            let ripe = |(regency, _, _): &mut (Regency, Value, Body)| *regency <= current;
            let kept = self
                .kept
                .get_mut(decree)
                .and_then(|slot| slot.0.take_if(ripe));
            if let Some((regency, value, body)) = kept
                && regency == current
            {
                let proposal = Proposal {
                    checked: None,
                    regency,
                    decree,
                    value,
                    body,
                };
                if let Err(why) = self.propose(leader, proposal, step) {
                    step.fx.observe(Event::Refused {
                        from: Party::Node(leader),
                        why,
                    });
                }
            }
        }
    }

    /// Keeps a proposal of a regency whose plan is not held, and asks its sender for what is missing.
    pub(super) fn keep_proposal(&mut self, from: NodeId, proposal: Proposal, step: &mut Step<'_>) {
        if let Some(slot) = self.kept.get_mut(proposal.decree)
            && slot
                .0
                .as_ref()
                .is_none_or(|(regency, _, _)| *regency < proposal.regency)
        {
            slot.0 = Some((proposal.regency, proposal.value, proposal.body));
        }
        if self.peers.may_answer(from, step.now, self.tuning.t0) {
            self.tell_status(NodeSet::one(from), step);
        }
    }
}
