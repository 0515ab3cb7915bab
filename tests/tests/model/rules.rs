//! Wrong rules that only the model searches; those that whole clusters are searched for as well are in
//! `twostep_tests::rules`.

use twostep_engine::machine::Refusal;
use twostep_engine::quorum::{Choice, Quorums, Reported};
use twostep_engine::rules::{Ballot, Rules, Verdict, vote_rule};
use twostep_engine::types::{Regency, Value};

/// An acceptor does not hold the leader to the plan.
pub struct WithoutPlan;

impl Rules for WithoutPlan {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        let plan = Some(Choice::Free);
        vote_rule(&Ballot { plan, ..*ballot }, regency, value)
    }
}

/// An acceptor votes for as many values in a regency as it is offered.
pub struct SecondVote;

impl Rules for SecondVote {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        let vote = ballot.vote.filter(|vote| vote.value == value);
        vote_rule(&Ballot { vote, ..*ballot }, regency, value)
    }
}

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

/// Mode C: `select` takes the value of the lowest psn.
pub struct LowestPsn;

impl Rules for LowestPsn {
    fn select(&self, _: &Quorums, reports: &[Option<Reported>]) -> Choice {
        let oldest = reports.iter().flatten().min_by_key(|report| report.psn);
        oldest.map_or(Choice::Free, |report| Choice::Must(report.value))
    }
}
