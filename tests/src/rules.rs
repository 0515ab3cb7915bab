//! Wrong rules, each of which the checkers and the exhaustive model must find (PROTOCOL.md section 6).
//!
//! They replace single functions of the engine's [`Rules`]; everything else is the production replica. The model in
//! `tests/tests/model` searches every history of one decree for what they break, [`crate::mutants`] draws histories of
//! whole clusters.

use std::cell::Cell;

use twostep_engine::machine::Refusal;
use twostep_engine::quorum::{Choice, Quorums, Reported, select};
use twostep_engine::recall::Floor;
use twostep_engine::rules::{Ballot, Rules, Verdict, vote_rule, voucher_rule};
use twostep_engine::types::{Decree, NodeId, Regency, Value};

/// S1: an acceptor without a vote still accepts psn 0, whatever it reported since (the paper's rule (i), literally).
#[derive(Clone, Copy, Debug, Default)]
pub struct S1Literal;

impl Rules for S1Literal {
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        if regency == Regency(0) && ballot.vote.is_none() {
            return Ok(Verdict::Vote);
        }
        vote_rule(ballot, regency, value)
    }
}

/// S3: a voucher is so many reports, whoever signed them.
#[derive(Clone, Copy, Debug, Default)]
pub struct S3RepeatedSigner;

impl Rules for S3RepeatedSigner {
    fn voucher(&self, quorums: &Quorums, signers: &[NodeId]) -> bool {
        signers.len() == quorums.report
    }
}

/// S6: a learner counts equal values, whatever the regency of the votes.
#[derive(Clone, Copy, Debug, Default)]
pub struct S6AnyRegency;

impl Rules for S6AnyRegency {
    fn counts(&self, earlier: Reported, new: Reported) -> bool {
        earlier.value == new.value
    }
}

/// S7: `select` counts equal pairs of value and psn.
#[derive(Clone, Copy, Debug, Default)]
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

/// An acceptor votes in a regency below the one that it promised.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptBelowPromise;

impl Rules for AcceptBelowPromise {
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

/// 4f reports make a voucher; what binds is as it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct VoucherOf4f;

impl VoucherOf4f {
    fn fewer(quorums: &Quorums) -> Quorums {
        Quorums {
            report: quorums.report - 1,
            ..*quorums
        }
    }
}

impl Rules for VoucherOf4f {
    fn voucher(&self, quorums: &Quorums, signers: &[NodeId]) -> bool {
        voucher_rule(&VoucherOf4f::fewer(quorums), signers)
    }

    fn select(&self, quorums: &Quorums, reports: &[Option<Reported>]) -> Choice {
        select(&VoucherOf4f::fewer(quorums), reports)
    }
}

/// A learner believes one vote less.
#[derive(Clone, Copy, Debug, Default)]
pub struct LearnQuorumLessOne;

impl Rules for LearnQuorumLessOne {
    fn learn(&self, quorums: &Quorums) -> usize {
        quorums.learn - 1
    }
}

/// S12: an acceptor without its disk abstains for a window, from where it finds the first of the others (the paper's
/// "ignore until d + α", literally).
#[derive(Clone, Debug, Default)]
pub struct S12Literal {
    /// The first checkpoint that it heard of.
    found: Cell<Option<Decree>>,
}

impl Rules for S12Literal {
    fn floor(&self, _found: Option<Floor>, low: Decree, window: u64) -> Option<Floor> {
        if self.found.get().is_none() && low > Decree::NONE {
            self.found.set(Some(low));
        }
        let decree = self.found.get()?.plus(window);
        Some(Floor {
            regency: Regency(0),
            decree,
        })
    }
}
