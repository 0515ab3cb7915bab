//! The rules under test: the production ones, and wrong ones that live only here.

use twostep_engine::acceptor::{Ballot, Rules, Standard, Verdict, vote_rule};
use twostep_engine::machine::Refusal;
use twostep_engine::quorum::{Choice, Quorums, Reported};
use twostep_engine::types::{Regency, Value};

/// What the model asks of a set of rules: the engine's hooks, and two readings that no single function of the engine
/// decides.
pub trait Rulebook: Rules + Send + Sync {
    /// Whether one signer may stand in a voucher several times.
    fn signers_repeat(&self) -> bool {
        false
    }

    /// Whether a learner adds up votes of different regencies for one value.
    fn adds_across_regencies(&self) -> bool {
        false
    }
}

impl Rulebook for Standard {}

/// S1: an acceptor without a vote still accepts psn 0, whatever it reported since (the paper's rule (i), literally).
pub struct S1Literal;

impl Rules for S1Literal {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        if regency == Regency(0) && ballot.vote.is_none() {
            return Ok(Verdict::Vote);
        }
        vote_rule(ballot, regency, value)
    }
}

impl Rulebook for S1Literal {}

/// S3: a voucher is so many reports, whoever signed them.
pub struct S3RepeatedSigner;

impl Rules for S3RepeatedSigner {}

impl Rulebook for S3RepeatedSigner {
    fn signers_repeat(&self) -> bool {
        true
    }
}

/// S6: a learner counts equal values, whatever the regency of the votes.
pub struct S6AcrossRegencies;

impl Rules for S6AcrossRegencies {}

impl Rulebook for S6AcrossRegencies {
    fn adds_across_regencies(&self) -> bool {
        true
    }
}

/// S7: `select` counts equal pairs of value and psn.
pub struct S7Pairs;

impl Rules for S7Pairs {
    fn select(&self, quorums: &Quorums, reports: &[Option<Reported>]) -> Choice {
        let bound = |pair: &&Reported| {
            let equal = reports
                .iter()
                .flatten()
                .filter(|other| *other == *pair)
                .count();
            equal >= quorums.must
        };
        reports
            .iter()
            .flatten()
            .find(bound)
            .map_or(Choice::Free, |pair| Choice::Must(pair.value))
    }
}

impl Rulebook for S7Pairs {}

/// An acceptor votes in a regency below the one that it promised.
pub struct BelowPromise;

impl Rules for BelowPromise {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        let promised = ballot.promised.min(regency);
        vote_rule(
            &Ballot {
                promised,
                ..*ballot
            },
            regency,
            value,
        )
    }
}

impl Rulebook for BelowPromise {}

/// An acceptor does not hold the leader to the plan.
pub struct WithoutPlan;

impl Rules for WithoutPlan {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        let plan = Some(Choice::Free);
        vote_rule(&Ballot { plan, ..*ballot }, regency, value)
    }
}

impl Rulebook for WithoutPlan {}

/// An acceptor votes for as many values in a regency as it is offered.
pub struct SecondVote;

impl Rules for SecondVote {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        let vote = ballot.vote.filter(|vote| vote.value == value);
        vote_rule(&Ballot { vote, ..*ballot }, regency, value)
    }
}

impl Rulebook for SecondVote {}

/// An acceptor that voted once refuses every other value for ever: safe, and stuck.
pub struct Stubborn;

impl Rules for Stubborn {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        match ballot.vote {
            Some(vote) if vote.value != value => Err(Refusal::AgainstPlan),
            _ => vote_rule(ballot, regency, value),
        }
    }
}

impl Rulebook for Stubborn {}

/// A learner believes one vote less.
pub struct EagerLearner;

impl Rules for EagerLearner {
    fn learn(&self, quorums: &Quorums) -> usize {
        quorums.learn - 1
    }
}

impl Rulebook for EagerLearner {}

/// Mode C: `select` takes the value of the lowest psn.
pub struct LowestPsn;

impl Rules for LowestPsn {
    fn select(&self, _: &Quorums, reports: &[Option<Reported>]) -> Choice {
        let oldest = reports.iter().flatten().min_by_key(|report| report.psn);
        oldest.map_or(Choice::Free, |report| Choice::Must(report.value))
    }
}

impl Rulebook for LowestPsn {}
