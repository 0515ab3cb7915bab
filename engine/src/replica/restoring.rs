//! A replica as its journal tells it, and its first step after a restart (PROTOCOL.md section 5.5).
//!
//! | role | from the records | on waking |
//! |---|---|---|
//! | acceptor | promise with its proof, own report, votes with bodies | the report and every vote above low are said again; the plan of a regency above 0 is unknown, and `Status` says so |
//! | proposer | its vote for a regency, what it proposed in this one | the vote is said again until the regency is entered |
//! | leader, with its log of r | `Lead(r)`, the voucher, the proposals | it goes on: one value per (r, d), ever; unfinished gathering begins anew |
//! | leader, without | | it proposes nothing in r, and votes for r + 1 |
//! | leader in mode C | | it takes a new regency |
//! | learner | the log, executed again by the host as it is read | the own votes are counted, as everybody's; its newest checkpoint is said again |
//! | all | the newest certified checkpoint | |
//!
//! Whatever was said is in the records, because it was durable before; what is in the records may or may not have
//! been said, so it is said again, which everybody bears. What is kept to be shown to others (proof, report, voucher,
//! certificate) is verified, once: a journal is a file, and files can hold anything.
//!
//! Cost: as much as reading and executing the log, and at most two vouchers' signatures.

use std::collections::VecDeque;

use super::past::{Contradiction, Past, RestoreError};
use super::{OwnClaim, Replica, Say, Setup, Standing, Step};
use crate::acceptor::Acceptor;
use crate::batch::Batch;
use crate::machine::{Event, Refusal};
use crate::message::{Checkpoint, NewRegency};
use crate::proposer::Proposer;
use crate::record::OwnedRecord;
use crate::recovery::{Gathering, Lead};
use crate::resend::Resend;
use crate::rules::{Rules, Standard};
use crate::types::{Decree, Digest, Regency};
use crate::voucher::Plan;

/// What a restarted replica does in its first step.
#[derive(Debug, Default)]
pub(super) struct Waking {
    /// It leads its regency and lost what it proposed in it, or is in mode C.
    steps_back: bool,
    /// The snapshot from which it executed again.
    base: Decree,
    /// Checkpoints that it executed, or took up, and did not sign yet.
    unsigned: VecDeque<Checkpoint>,
}

/// Executes a decree again; gives the digest of all results up to it.
pub type Execute<'a> = &'a mut dyn FnMut(Decree, &Batch) -> Digest;

impl Replica<Standard> {
    /// A replica that goes on where its journal ends. [`Setup::standing`] says whether the journal begins with the birth of
    /// the node. `base` is the certified snapshot from which the host's executor starts, if it does not start empty; what
    /// was learned above it is handed to `execute`, in order. Records of this run are numbered from 1 again.
    ///
    /// # Errors
    /// Why the records are not those of a replica of this node: then it must not start.
    pub fn restore(
        setup: Setup,
        base: Option<&Checkpoint>,
        records: impl IntoIterator<Item = OwnedRecord>,
        execute: Execute<'_>,
    ) -> Result<Replica<Standard>, RestoreError> {
        Replica::restore_with_rules(setup, Standard, base, records, execute)
    }
}

impl<R: Rules> Replica<R> {
    /// The same with other rules: for tests that show what the right ones prevent.
    ///
    /// # Errors
    /// As [`Replica::restore`].
    pub fn restore_with_rules(
        setup: Setup,
        rules: R,
        base: Option<&Checkpoint>,
        records: impl IntoIterator<Item = OwnedRecord>,
        execute: Execute<'_>,
    ) -> Result<Replica<R>, RestoreError> {
        let mut past = Past::new(
            &setup.configuration,
            setup.me,
            setup.standing == Standing::LostDisk,
        );
        let mut replica = Replica::with_rules(setup, rules)?;
        let mut waking = Waking::default();
        if let Some(base) = base {
            replica.begin_at(base);
            waking.base = base.decree;
            waking.unsigned.push_back(*base);
        }
        for (record, place) in records.into_iter().zip(1..) {
            let learned = past.take(record).and_then(|learned| {
                let Some((decree, batch)) = learned else {
                    return Ok(());
                };
                let checkpoint = replica.relearn(decree, batch, execute)?;
                waking.unsigned.extend(checkpoint);
                let low = past.base();
                waking
                    .unsigned
                    .retain(|checkpoint| checkpoint.decree >= low);
                Ok(())
            });
            learned.map_err(|why| RestoreError::Contradiction { place, why })?;
        }
        replica.remember(past, waking)?;
        Ok(replica)
    }

    /// The learner begins at a snapshot that the host has installed.
    fn begin_at(&mut self, base: &Checkpoint) {
        if let Some(learner) = &mut self.learner {
            learner.resume(base.decree, base.chain);
            (self.execution.executed, self.execution.delivered) = (base.decree, base.decree);
        }
    }

    /// Learns and executes again what is above that; gives what a checkpoint there says.
    fn relearn(
        &mut self,
        decree: Decree,
        batch: Batch,
        execute: Execute<'_>,
    ) -> Result<Option<Checkpoint>, Contradiction> {
        let learner = self.learner.as_mut().expect("the record needs the role");
        let expected = learner.learned().next();
        if decree < expected {
            return Ok(None);
        }
        if decree > expected {
            let found = decree;
            return Err(Contradiction::Gap { found, expected });
        }
        let results = execute(decree, &batch);
        learner.relearn(decree, batch);
        learner.release(decree);
        let chain = learner.chain();
        (self.execution.executed, self.execution.delivered) = (decree, decree);
        self.note_image(decree, chain, results);
        let every = self.configuration.limits().checkpoint_every;
        let checkpoint = Checkpoint {
            decree,
            chain,
            results,
        };
        Ok(decree.0.is_multiple_of(every).then_some(checkpoint))
    }

    /// Takes over what the records say in total.
    fn remember(&mut self, mut past: Past, mut waking: Waking) -> Result<(), RestoreError> {
        let shown = past.shown();
        self.acks.take(self.me, self.learned());
        self.trouble.logged = self.learned();
        self.remember_low(&mut past)?;
        self.remember_checkpoints(&past, &mut waking);
        if self.standing == Standing::LostDisk && !past.abstains {
            // It rejoined in an earlier run. To rejoin once more would be to forget what it voted since.
            self.standing = Standing::Rejoined;
            self.take_part();
        }
        if !past.abstains {
            self.remember_regency(&mut past)?;
            let plan = match shown {
                Some(shown) => Some(self.remember_voucher(*shown)?),
                None => None,
            };
            self.remember_promises(&mut past, plan.clone())?;
            self.remember_lead(past, plan, &mut waking)?;
        }
        self.waking = Some(Box::new(waking));
        Ok(())
    }

    fn remember_low(&mut self, past: &mut Past) -> Result<(), RestoreError> {
        let Some(certificate) = past.low.take() else {
            return Ok(());
        };
        self.checkpoints
            .certificate(certificate.clone())
            .map_err(unproven("checkpoint certificate"))?;
        self.low = certificate.decree;
        self.kept.advance(self.low);
        self.doubting.advance(self.low);
        self.stored_low = Some(certificate);
        Ok(())
    }

    /// The own checkpoint that was said stays as it is. Results that differ from it now are those of a state machine
    /// that is not deterministic; and a learner that had diverged said so by leaving them out.
    fn remember_checkpoints(&mut self, past: &Past, waking: &mut Waking) {
        let Some(claim) = past.claim else { return };
        let said = claim.checkpoint;
        let again = waking.unsigned.iter().find(|one| one.decree == said.decree);
        let differs = again.is_some_and(|again| again.results != said.results);
        // What it said before it took a certified snapshot up is mended.
        if said.decree > waking.base && (differs || said.results == Digest::ZERO) {
            self.execution.diverged = Some(said.decree);
            for checkpoint in &mut waking.unsigned {
                checkpoint.results = Digest::ZERO;
            }
        }
        waking.unsigned.retain(|one| one.decree > said.decree);
        let resend = Resend::overdue();
        self.claim = Some(OwnClaim { claim, resend });
        self.claimed = said.decree;
    }

    fn remember_regency(&mut self, past: &mut Past) -> Result<(), RestoreError> {
        self.regency = past.regency;
        self.trouble.entered = past.regency;
        self.proof = std::mem::take(&mut past.proof);
        if self.regency > Regency(0) && !self.crash_only() {
            let proved = self.examiner.proof(&self.proof);
            let holds = proved.and_then(|proved| {
                (proved >= self.regency)
                    .then_some(())
                    .ok_or(Refusal::BadProof)
            });
            holds.map_err(unproven("proof of leadership"))?;
        }
        if let Some(report) = &past.report {
            let checked = (**report).clone();
            self.examiner
                .report(checked, self.regency, &self.checkpoints)
                .map_err(unproven("report"))?;
        }
        self.own_report = past.report.take();
        Ok(())
    }

    /// The plan of what this node showed as a leader.
    fn remember_voucher(&mut self, shown: NewRegency) -> Result<Plan, RestoreError> {
        let judged = self
            .examiner
            .new_regency(&self.rules, &shown, &self.checkpoints);
        let plan = judged.map_err(unproven("voucher"))?;
        self.shown = Some(shown.into());
        Ok(plan)
    }

    fn remember_promises(
        &mut self,
        past: &mut Past,
        plan: Option<Plan>,
    ) -> Result<(), RestoreError> {
        let open = self.regency == Regency(0) || self.crash_only();
        if self.acceptor.is_some() {
            let votes = std::mem::take(&mut past.votes).into_iter();
            self.acceptor = Some(Acceptor::restore(
                self.configuration.limits().window,
                self.low,
                self.regency,
                open.then(Plan::open).or(plan),
                votes.map(|(decree, (regency, batch))| (decree, regency, batch)),
            ));
        }
        if let (Some(vote), Some(election)) = (past.regency_vote.take(), &mut self.election) {
            let vote = self.examiner.vote(vote);
            election.remember(vote.map_err(unproven("vote for a regency"))?);
        }
        Ok(())
    }

    /// Where it stands as a leader, if it is one.
    fn remember_lead(
        &mut self,
        past: Past,
        plan: Option<Plan>,
        waking: &mut Waking,
    ) -> Result<(), RestoreError> {
        self.led = past.led;
        let (low, regency, crash_only) = (self.low, self.regency, self.crash_only());
        let newborn = !past.any && self.standing == Standing::Born;
        let Some(proposer) = self.proposer.as_mut().filter(|_| !newborn) else {
            return Ok(());
        };
        proposer.advance(low);
        self.lead = Lead::Following;
        if self.configuration.leader(regency) != self.me {
            return Ok(());
        }
        if crash_only || past.led != Some(regency) {
            waking.steps_back = true;
            return Ok(());
        }
        if regency > Regency(0) && plan.is_none() {
            self.lead = Lead::Gathering(Box::new(Gathering::new(regency, Resend::overdue())));
            return Ok(());
        }
        let plan = plan.unwrap_or_default();
        let planned = (plan.base().max(low).0 + 1..=plan.top.0).map(Decree);
        if planned
            .clone()
            .all(|decree| past.proposals.contains_key(&decree))
        {
            let top = past.proposals.keys().next_back().copied();
            for (decree, batch) in past.proposals {
                proposer.recover(decree, batch);
            }
            proposer.begin(top.unwrap_or_default().max(plan.top).max(low));
            self.lead = Lead::Leading;
            return Ok(());
        }
        // It stopped between showing its voucher and proposing all that follows from it, which is the same again.
        let mut gathering = Gathering::new(regency, Resend::overdue());
        let shown = self.shown.clone().expect("a plan comes from a voucher");
        for report in &shown.voucher {
            let report = self
                .examiner
                .report(report.clone(), regency, &self.checkpoints);
            gathering.take(report.map_err(unproven("voucher"))?);
        }
        gathering.fix(plan);
        for (decree, batch) in past.proposals {
            if gathering.lacks(decree, batch.value()) {
                gathering.keep(decree, batch);
            }
        }
        self.lead = Lead::Gathering(Box::new(gathering));
        Ok(())
    }

    /// The first step after a restart.
    pub(super) fn wake(&mut self, waking: Waking, step: &mut Step<'_>) {
        let (regency, low) = (self.regency, self.low);
        if regency > Regency(0) {
            step.fx.observe(Event::Regency { regency });
        }
        if low > Decree::NONE {
            step.fx.observe(Event::Low { decree: low });
        }
        self.count_own_votes(step);
        if let Some(own) = &self.claim {
            // Outside the window only if a certificate above it is held; then nobody needs it.
            let _ = self.take_claim(own.claim, step);
        }
        for checkpoint in waking.unsigned {
            self.claim_checkpoint(checkpoint, step);
        }
        if let Some(report) = self.own_report.clone() {
            self.say_report(report, step);
        }
        if waking.steps_back {
            self.step_back(step);
            return;
        }
        match &self.lead {
            Lead::Gathering(gathering) if gathering.plan().is_some() => self.gather_bodies(step),
            Lead::Leading => {
                let proposer = self.proposer.as_ref();
                let proposals = proposer.map_or_else(Vec::new, Proposer::proposals);
                for (decree, batch) in proposals {
                    self.say(Say::Propose(regency, decree, batch), step);
                }
            }
            Lead::Gathering(_) | Lead::Following => {}
        }
    }

    /// The own learner counts the own votes: without them this node would be one vote short for ever.
    fn count_own_votes(&mut self, step: &mut Step<'_>) {
        let acceptor = self.acceptor.as_ref();
        let votes = acceptor.map_or_else(Vec::new, |acceptor| acceptor.votes().collect());
        if let Some(learner) = &mut self.learner {
            for (decree, vote) in votes {
                learner.accepted(&self.rules, self.me, vote.psn, decree, vote.value);
            }
            self.learn(step);
        }
    }

    /// It does not propose in its regency: it lost what it proposed in it, or cannot keep it.
    pub(super) fn step_back(&mut self, step: &mut Step<'_>) {
        self.lead = Lead::Following;
        self.suspect(step);
    }
}

fn unproven(what: &'static str) -> impl FnOnce(Refusal) -> RestoreError {
    move |why| RestoreError::Unproven { what, why }
}

#[cfg(test)]
#[path = "restoring_tests.rs"]
mod tests;
