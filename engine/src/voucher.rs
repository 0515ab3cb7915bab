//! Reports, vouchers and plans: what a new leader is told, and what follows from it.
//!
//! ```text
//! Report(r, a)   a's newest certified low, and its votes above it       valid iff signature and certificate verify,
//!                                                                        low < d ≤ low + W ascending, every psn < r
//! Voucher(r)     exactly n − f reports for r, distinct signers
//! plan_r         H := the highest low; for every d in (H, top]: select(what the reports say of d); Free above
//! ```
//!
//! A plan is a function of the voucher's bytes and the configuration only, so every acceptor that holds the
//! voucher computes the leader's plan for itself (PROTOCOL.md section 3). One signature per acceptor covers the
//! whole window, since the promise in a report is for all decrees at once. In mode C nothing is signed and
//! nothing is shown: the leader's plan is believed (section 2).

use std::collections::BTreeMap;

use twostep_crypto::{Scope, Signed, Verified, VerifyingKey, verify_batch};

use crate::checkpoint::Checkpoints;
use crate::configuration::Configuration;
use crate::machine::Refusal;
use crate::message::{Certificate, NewRegency, ProofOfLeadership, RegencyVote, Report};
use crate::quorum::{Choice, FaultModel, Quorums, Reported};
use crate::rules::Rules;
use crate::signatures::{Checked, Signatures};
use crate::types::{Decree, NodeId, NodeSet, Party, Regency, Value};

/// What a voucher says of all decrees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The newest certified checkpoint among the reports: everything up to it is decided.
    pub low: Option<Certificate>,
    /// The highest decree that some report names; everything above is free.
    pub top: Decree,
    /// The choices for the decrees in `(low, top]`.
    pub choices: BTreeMap<Decree, Choice>,
}

impl Plan {
    /// The plan of regency 0, and in mode C of every regency: the acceptor is bound to nothing.
    #[must_use]
    pub fn open() -> Plan {
        Plan::default()
    }

    /// The decree of [`Plan::low`].
    #[must_use]
    pub fn base(&self) -> Decree {
        self.low
            .as_ref()
            .map_or(Decree::NONE, |certificate| certificate.decree)
    }

    /// What it says of one decree. Every decree above the highest reported one is free: the promise is per
    /// acceptor, so it covers all later decrees at once.
    #[must_use]
    pub fn choice(&self, decree: Decree) -> Choice {
        self.choices.get(&decree).copied().unwrap_or(Choice::Free)
    }

    /// What the checked reports of a voucher say.
    #[must_use]
    pub fn of<R: Rules>(
        rules: &R,
        quorums: &Quorums,
        window: u64,
        reports: &[CheckedReport],
    ) -> Plan {
        let lows = reports
            .iter()
            .filter_map(|report| report.content().low.as_ref());
        let low = lows.max_by_key(|certificate| certificate.decree).cloned();
        let base = low
            .as_ref()
            .map_or(Decree::NONE, |certificate| certificate.decree);
        // A decree above H + W cannot have been chosen (section 3, "Window").
        let named = reports
            .iter()
            .flat_map(|report| &report.content().votes)
            .map(|vote| vote.decree);
        let top = named
            .filter(|decree| *decree <= base.plus(window))
            .max()
            .unwrap_or(base)
            .max(base);
        let choices = (base.0 + 1..=top.0).map(Decree).map(|decree| {
            let said: Vec<Option<Reported>> =
                reports.iter().map(|report| report.vote(decree)).collect();
            (decree, rules.select(quorums, &said))
        });
        Plan {
            choices: choices.collect(),
            low,
            top,
        }
    }
}

/// A report whose signature, certificate and votes were checked. Only an [`Examiner`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedReport(Signed<Report>);

impl CheckedReport {
    /// What it says.
    #[must_use]
    pub fn content(&self) -> &Report {
        &self.0.content
    }

    /// The report as it travels.
    #[must_use]
    pub fn signed(&self) -> &Signed<Report> {
        &self.0
    }

    /// Whose it is.
    #[must_use]
    pub fn signer(&self) -> NodeId {
        self.0
            .signer
            .node()
            .expect("checked: an acceptor signed it")
    }

    /// Its vote for one decree.
    #[must_use]
    pub fn vote(&self, decree: Decree) -> Option<Reported> {
        let votes = &self.content().votes;
        let place = votes
            .binary_search_by_key(&decree, |vote| vote.decree)
            .ok()?;
        Some(Reported {
            psn: votes[place].psn,
            value: votes[place].value,
        })
    }
}

/// Checks what proposers and acceptors show each other during a leader change.
#[derive(Debug)]
pub struct Examiner {
    scope: Scope,
    signed: bool,
    quorums: Quorums,
    window: u64,
    proposers: BTreeMap<NodeId, VerifyingKey>,
    acceptors: BTreeMap<NodeId, VerifyingKey>,
    checked: Checked,
}

impl Examiner {
    /// An examiner for one cluster.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Examiner {
        let key = |node: NodeId| {
            let member = configuration.member(node).expect("agents are members");
            (node, member.public.sign)
        };
        Examiner {
            scope: configuration.scope(),
            signed: configuration.model() != FaultModel::Crash,
            quorums: *configuration.quorums(),
            window: configuration.limits().window,
            proposers: configuration.proposers().iter().copied().map(key).collect(),
            acceptors: configuration.acceptors().iter().map(key).collect(),
            checked: Checked::default(),
        }
    }

    /// The signatures that it checked.
    #[must_use]
    pub fn checked(&self) -> Signatures {
        self.checked.get()
    }

    /// A proposer's vote.
    ///
    /// # Errors
    /// [`Refusal::Role`] or [`Refusal::BadSignature`].
    pub fn vote(&self, vote: Signed<RegencyVote>) -> Result<Verified<RegencyVote>, Refusal> {
        let key = key_of(&self.proposers, vote.signer)?;
        self.checked.count(|checked| checked.votes += 1);
        vote.verify(&self.scope, &key)
            .map_err(|_| Refusal::BadSignature)
    }

    /// The regency that a proof proves: the smallest of exactly 2f+1 votes of distinct proposers (section 4).
    ///
    /// # Errors
    /// [`Refusal::BadProof`] if the number or the signers are wrong, [`Refusal::BadSignature`].
    pub fn proof(&self, proof: &ProofOfLeadership) -> Result<Regency, Refusal> {
        let needed = self.quorums.leadership.ok_or(Refusal::BadProof)?;
        let signers: NodeSet = proof
            .votes
            .iter()
            .filter_map(|vote| vote.signer.node())
            .collect();
        if proof.votes.len() != needed || signers.len() != needed {
            return Err(Refusal::BadProof);
        }
        let items = proof
            .votes
            .iter()
            .map(|vote| Ok((vote.clone(), key_of(&self.proposers, vote.signer)?)));
        let items = items.collect::<Result<Vec<_>, Refusal>>()?;
        self.checked
            .count(|checked| checked.proofs += items.len() as u64);
        let verified = verify_batch(&self.scope, items).into_iter();
        let regencies = verified.map(|vote| {
            vote.map(|vote| vote.content().regency)
                .map_err(|_| Refusal::BadSignature)
        });
        let regencies = regencies.collect::<Result<Vec<_>, Refusal>>()?;
        regencies.into_iter().min().ok_or(Refusal::BadProof)
    }

    /// Whether f+1 distinct proposers voted for `regency` or a higher one: a correct one is among them.
    ///
    /// # Errors
    /// [`Refusal::BadProof`] or [`Refusal::BadSignature`].
    pub fn support(&self, support: &ProofOfLeadership, regency: Regency) -> Result<(), Refusal> {
        let signers = support.votes.iter().filter_map(|vote| vote.signer.node());
        let signers: NodeSet = signers.collect();
        let high = |vote: &Signed<RegencyVote>| vote.content.regency >= regency;
        let enough = self.quorums.f + 1;
        if support.votes.len() != enough
            || signers.len() != enough
            || !support.votes.iter().all(high)
        {
            return Err(Refusal::BadProof);
        }
        support
            .votes
            .iter()
            .try_for_each(|vote| self.vote(vote.clone()).map(|_| ()))
    }

    /// An acceptor's report for `regency`. Validity is a function of its bytes and the configuration only, so
    /// what convinces a leader convinces everyone.
    ///
    /// # Errors
    /// [`Refusal::BadReport`], [`Refusal::BadCheckpoint`] or [`Refusal::BadSignature`].
    pub fn report(
        &self,
        report: Signed<Report>,
        regency: Regency,
        checkpoints: &Checkpoints,
    ) -> Result<CheckedReport, Refusal> {
        self.judge(report, regency, checkpoints, |checked| checked.reports += 1)
    }

    fn judge(
        &self,
        report: Signed<Report>,
        regency: Regency,
        checkpoints: &Checkpoints,
        count: impl FnOnce(&mut Signatures),
    ) -> Result<CheckedReport, Refusal> {
        let key = key_of(&self.acceptors, report.signer)?;
        let content = &report.content;
        let low = content
            .low
            .as_ref()
            .map_or(Decree::NONE, |certificate| certificate.decree);
        let ascending = content
            .votes
            .windows(2)
            .all(|pair| pair[0].decree < pair[1].decree);
        let inside = content
            .votes
            .iter()
            .all(|vote| low < vote.decree && vote.decree <= low.plus(self.window));
        let earlier = content.votes.iter().all(|vote| vote.psn < regency);
        if content.regency != regency || !ascending || !inside || !earlier {
            return Err(Refusal::BadReport);
        }
        if let Some(certificate) = &content.low {
            checkpoints.prove(certificate)?;
        }
        if self.signed {
            self.checked.count(count);
            report
                .check(&self.scope, &key)
                .map_err(|_| Refusal::BadSignature)?;
        }
        Ok(CheckedReport(report))
    }

    /// What a leader shows at the start of its regency: the proof, and exactly n − f reports of distinct acceptors.
    ///
    /// # Errors
    /// Why it shows nothing: a wrong proof, a voucher of another regency, repeated signers, a bad report.
    pub fn new_regency<R: Rules>(
        &self,
        rules: &R,
        shown: &NewRegency,
        checkpoints: &Checkpoints,
    ) -> Result<Plan, Refusal> {
        if self.proof(&shown.proof)? < shown.regency {
            return Err(Refusal::BadProof);
        }
        let signers = shown.voucher.iter().map(|report| report.signer.node());
        let signers: Option<Vec<NodeId>> = signers.collect();
        if !signers.is_some_and(|signers| rules.voucher(&self.quorums, &signers)) {
            return Err(Refusal::BadVoucher);
        }
        let reports = shown.voucher.iter().map(|report| {
            self.judge(report.clone(), shown.regency, checkpoints, |checked| {
                checked.vouchers += 1;
            })
        });
        let reports = reports.collect::<Result<Vec<_>, Refusal>>()?;
        Ok(Plan::of(rules, &self.quorums, self.window, &reports))
    }
}

/// The values that a leader with this plan must be able to propose, with the reporters that voted for each.
pub fn bound<'a>(
    plan: &'a Plan,
    reports: &'a [CheckedReport],
) -> impl Iterator<Item = (Decree, Value, NodeSet)> + 'a {
    plan.choices
        .iter()
        .filter_map(|(decree, choice)| match choice {
            Choice::Must(value) => {
                let voted = |report: &&CheckedReport| {
                    report
                        .vote(*decree)
                        .is_some_and(|vote| vote.value == *value)
                };
                let holders = reports.iter().filter(voted).map(CheckedReport::signer);
                Some((*decree, *value, holders.collect()))
            }
            Choice::Free => None,
        })
}

fn key_of(keys: &BTreeMap<NodeId, VerifyingKey>, signer: Party) -> Result<VerifyingKey, Refusal> {
    signer
        .node()
        .and_then(|node| keys.get(&node))
        .copied()
        .ok_or(Refusal::Role)
}

#[cfg(test)]
mod tests;
