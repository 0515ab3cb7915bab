//! What the records of a journal say, taken together (PROTOCOL.md section 5.5).
//!
//! Records are folded one by one, in the order in which they were written; of each kind what still matters is kept. A
//! journal may begin a segment by saying again what it said before, so repeats are no contradiction; anything that this
//! node would never have written one after the other is, and stops the start: nothing that contradicts itself is acted upon.
//! Bounded: at most W votes and W proposals are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use twostep_crypto::{Signed, WeakKey};

use crate::batch::Batch;
use crate::configuration::{Configuration, Roles};
use crate::machine::Refusal;
use crate::message::{
    Certificate, CheckpointClaim, NewRegency, ProofOfLeadership, RegencyVote, Report,
};
use crate::record::OwnedRecord;
use crate::types::{Decree, NodeId, Party, Regency, Value};

/// Why a replica cannot be restored. The node must not start: what it promised is not known for sure.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// A client's public key is unusable.
    #[error(transparent)]
    Key(#[from] WeakKey),
    /// A record contradicts this node's configuration or an earlier record.
    #[error(
        "record {place} of the journal, counted from 1, contradicts what stands before it: {why}"
    )]
    Contradiction {
        /// Which record, in the order in which they were read.
        place: u64,
        /// How.
        why: Contradiction,
    },
    /// What was kept to be shown to others proves nothing.
    #[error("the newest {what} in the journal does not hold: {why}")]
    Unproven {
        /// What it is.
        what: &'static str,
        /// Why it does not hold.
        why: Refusal,
    },
}

/// How a record contradicts what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Contradiction {
    /// The node does not hold the role.
    #[error("a {0}, though the node does not hold the role for it")]
    Role(&'static str),
    /// Somebody else made it.
    #[error("a {0} that another node made")]
    Foreign(&'static str),
    /// The node had lost its disk and not taken part again.
    #[error("a {0}, though the node lost its disk and had not taken part again")]
    Abstained(&'static str),
    /// A number that only rises fell.
    #[error("a {what} of {found} after one of {before}")]
    Falls {
        /// Of what.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What stands before it.
        before: u64,
    },
    /// It belongs to another regency than the one that the node was in.
    #[error("a {what} of regency {found} in regency {current}")]
    Regency {
        /// What it is.
        what: &'static str,
        /// Its regency.
        found: Regency,
        /// The regency at that place.
        current: Regency,
    },
    /// Two different things where there can only be one.
    #[error("a second, different {what} for {of}")]
    Second {
        /// What it is.
        what: &'static str,
        /// The decree or regency.
        of: u64,
    },
    /// The decree was not open.
    #[error("a {what} for decree {decree}, though only ({low}, {top}] was open")]
    OutsideWindow {
        /// What it is.
        what: &'static str,
        /// The decree.
        decree: Decree,
        /// The window's base at that place.
        low: Decree,
        /// The window's top at that place.
        top: Decree,
    },
    /// Learned decrees are missing.
    #[error("decree {found} was learned, but decree {expected} is the next one")]
    Gap {
        /// What was found.
        found: Decree,
        /// What was expected.
        expected: Decree,
    },
}

/// The sum of the records so far.
#[derive(Debug)]
pub(super) struct Past {
    configuration: Arc<Configuration>,
    me: NodeId,
    roles: Roles,
    /// Whether there was any record.
    pub(super) any: bool,
    /// Whether the node lost its disk and did not take part again.
    pub(super) abstains: bool,
    /// The regency that was entered last, and why.
    pub(super) regency: Regency,
    pub(super) proof: ProofOfLeadership,
    /// The report of that regency.
    pub(super) report: Option<Box<Signed<Report>>>,
    /// The newest regency that this node began to lead.
    pub(super) led: Option<Regency>,
    shown: Option<Box<NewRegency>>,
    /// What it proposed in the current regency, above `low`.
    pub(super) proposals: BTreeMap<Decree, Batch>,
    /// Its newest votes above `low`.
    pub(super) votes: BTreeMap<Decree, (Regency, Batch)>,
    /// Its newest vote for a regency.
    pub(super) regency_vote: Option<Signed<RegencyVote>>,
    pub(super) low: Option<Certificate>,
    /// Its newest checkpoint.
    pub(super) claim: Option<CheckpointClaim>,
}

impl Past {
    /// No record yet. `abstains`: the journal does not begin with the birth of the node.
    pub(super) fn new(configuration: &Arc<Configuration>, me: NodeId, abstains: bool) -> Past {
        let roles = configuration.member(me).map(|member| member.roles);
        Past {
            configuration: Arc::clone(configuration),
            me,
            roles: roles.unwrap_or_default(),
            any: false,
            abstains,
            regency: Regency(0),
            proof: ProofOfLeadership::default(),
            report: None,
            led: None,
            shown: None,
            proposals: BTreeMap::new(),
            votes: BTreeMap::new(),
            regency_vote: None,
            low: None,
            claim: None,
        }
    }

    /// Takes the next record; gives what it says was learned, which is for the learner to judge.
    pub(super) fn take(
        &mut self,
        record: OwnedRecord,
    ) -> Result<Option<(Decree, Batch)>, Contradiction> {
        self.any = true;
        match record {
            OwnedRecord::Lead(regency) => self.lead(regency)?,
            OwnedRecord::Proposal {
                regency,
                decree,
                batch,
            } => self.propose(regency, decree, batch)?,
            OwnedRecord::Vote {
                regency,
                decree,
                batch,
            } => self.vote(regency, decree, batch)?,
            OwnedRecord::Learned { decree, batch } => {
                self.needs(self.roles.learner, "learned decree")?;
                return Ok(Some((decree, batch)));
            }
            OwnedRecord::Promise { proof, report } => self.promise(proof, report)?,
            OwnedRecord::Entered { regency, proof } => {
                self.enter("regency entered", regency, proof)?;
            }
            OwnedRecord::NewRegency(shown) => self.show(shown)?,
            OwnedRecord::RegencyVote(vote) => self.vote_regency(vote)?,
            OwnedRecord::Low(certificate) => self.advance(certificate)?,
            OwnedRecord::Checkpoint(claim) => self.claim(claim)?,
            OwnedRecord::Rejoined { regency, proof } => {
                self.enter("return after a lost disk", regency, proof)?;
                self.abstains = false;
            }
        }
        Ok(None)
    }

    /// What the node showed as the leader of the regency that it is in.
    pub(super) fn shown(&mut self) -> Option<Box<NewRegency>> {
        let current = self.regency;
        self.shown.take_if(|shown| shown.regency == current)
    }

    /// The decree of the newest certified checkpoint.
    pub(super) fn base(&self) -> Decree {
        self.low
            .as_ref()
            .map_or(Decree::NONE, |certificate| certificate.decree)
    }

    fn enter(
        &mut self,
        what: &'static str,
        regency: Regency,
        proof: ProofOfLeadership,
    ) -> Result<(), Contradiction> {
        rises(what, regency.0, self.regency.0)?;
        if regency > self.regency {
            self.regency = regency;
            self.proof = proof;
            self.report = None;
            self.proposals.clear();
        }
        Ok(())
    }

    fn promise(
        &mut self,
        proof: ProofOfLeadership,
        report: Box<Signed<Report>>,
    ) -> Result<(), Contradiction> {
        self.takes_part(self.roles.acceptor, "promise")?;
        self.is_mine(report.signer, "promise")?;
        let regency = report.content.regency;
        self.enter("promise", regency, proof)?;
        if self.report.as_ref().is_some_and(|before| *before != report) {
            return Err(second("report", regency.0));
        }
        self.report = Some(report);
        Ok(())
    }

    fn lead(&mut self, regency: Regency) -> Result<(), Contradiction> {
        self.takes_part(self.leads(regency), "regency led")?;
        self.led = self.led.max(Some(regency));
        Ok(())
    }

    fn show(&mut self, shown: Box<NewRegency>) -> Result<(), Contradiction> {
        self.takes_part(self.leads(shown.regency), "voucher shown")?;
        let before = self
            .shown
            .as_ref()
            .map_or(Regency(0), |before| before.regency);
        if before == shown.regency && self.shown.as_ref() != Some(&shown) {
            return Err(second("voucher", before.0));
        }
        rises("voucher shown", shown.regency.0, before.0)?;
        self.shown = Some(shown);
        Ok(())
    }

    fn propose(
        &mut self,
        regency: Regency,
        decree: Decree,
        batch: Batch,
    ) -> Result<(), Contradiction> {
        self.takes_part(self.leads(regency), "proposal")?;
        self.is_current("proposal", regency)?;
        self.is_open("proposal", decree)?;
        let before = self.proposals.get(&decree).map(Batch::value);
        once("proposal", decree, before, batch.value())?;
        if decree > self.base() {
            self.proposals.insert(decree, batch);
        }
        Ok(())
    }

    fn vote(
        &mut self,
        regency: Regency,
        decree: Decree,
        batch: Batch,
    ) -> Result<(), Contradiction> {
        self.takes_part(self.roles.acceptor, "vote")?;
        self.is_current("vote", regency)?;
        self.is_open("vote", decree)?;
        let before = self.votes.get(&decree);
        let before = before.filter(|(psn, _)| *psn == regency);
        once(
            "vote",
            decree,
            before.map(|(_, batch)| batch.value()),
            batch.value(),
        )?;
        if decree > self.base() {
            self.votes.insert(decree, (regency, batch));
        }
        Ok(())
    }

    fn vote_regency(&mut self, vote: Signed<RegencyVote>) -> Result<(), Contradiction> {
        self.takes_part(self.roles.proposer, "vote for a regency")?;
        self.is_mine(vote.signer, "vote for a regency")?;
        let before = self.regency_vote.as_ref().map(|vote| vote.content.regency);
        let (found, before) = (vote.content.regency.0, before.unwrap_or_default().0);
        rises("vote for a regency", found, before)?;
        self.regency_vote = Some(vote);
        Ok(())
    }

    fn advance(&mut self, certificate: Certificate) -> Result<(), Contradiction> {
        rises(
            "checkpoint certificate",
            certificate.decree.0,
            self.base().0,
        )?;
        let above = certificate.decree.next();
        self.votes = self.votes.split_off(&above);
        self.proposals = self.proposals.split_off(&above);
        self.low = Some(certificate);
        Ok(())
    }

    fn claim(&mut self, claim: CheckpointClaim) -> Result<(), Contradiction> {
        self.needs(self.roles.learner, "checkpoint")?;
        self.is_mine(Party::Node(claim.learner), "checkpoint")?;
        if let Some(before) = self.claim {
            let (found, before_at) = (claim.checkpoint.decree.0, before.checkpoint.decree.0);
            rises("checkpoint", found, before_at)?;
            if found == before_at && before != claim {
                return Err(second("checkpoint", found));
            }
        }
        self.claim = Some(claim);
        Ok(())
    }

    fn leads(&self, regency: Regency) -> bool {
        self.roles.proposer && self.configuration.leader(regency) == self.me
    }

    fn needs(&self, role: bool, what: &'static str) -> Result<(), Contradiction> {
        role.then_some(()).ok_or(Contradiction::Role(what))
    }

    fn takes_part(&self, role: bool, what: &'static str) -> Result<(), Contradiction> {
        self.needs(role, what)?;
        if self.abstains {
            return Err(Contradiction::Abstained(what));
        }
        Ok(())
    }

    fn is_mine(&self, signer: Party, what: &'static str) -> Result<(), Contradiction> {
        let mine = signer == Party::Node(self.me);
        mine.then_some(()).ok_or(Contradiction::Foreign(what))
    }

    fn is_current(&self, what: &'static str, found: Regency) -> Result<(), Contradiction> {
        let current = self.regency;
        let error = Contradiction::Regency {
            what,
            found,
            current,
        };
        (found == current).then_some(()).ok_or(error)
    }

    /// A record of what is certified already may stand behind the certificate's: the window moves when that is stored.
    fn is_open(&self, what: &'static str, decree: Decree) -> Result<(), Contradiction> {
        let (low, top) = (
            self.base(),
            self.base().plus(self.configuration.limits().window),
        );
        let error = Contradiction::OutsideWindow {
            what,
            decree,
            low,
            top,
        };
        (decree <= top).then_some(()).ok_or(error)
    }
}

fn rises(what: &'static str, found: u64, before: u64) -> Result<(), Contradiction> {
    let error = Contradiction::Falls {
        what,
        found,
        before,
    };
    (found >= before).then_some(()).ok_or(error)
}

fn once(
    what: &'static str,
    decree: Decree,
    before: Option<Value>,
    found: Value,
) -> Result<(), Contradiction> {
    let same = before.is_none_or(|before| before == found);
    same.then_some(()).ok_or(second(what, decree.0))
}

fn second(what: &'static str, of: u64) -> Contradiction {
    Contradiction::Second { what, of }
}
