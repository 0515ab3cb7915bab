//! The rules of which the tests hold deliberately wrong versions: pure functions of small data.
//!
//! | rule | default | what a wrong one breaks (PROTOCOL.md section 6) |
//! |---|---|---|
//! | an acceptor votes | [`vote_rule`] | S1: votes below the promise |
//! | votes count together | equal votes, [`Quorums::learn`] of them | S6: votes of different regencies |
//! | reports make a voucher | [`voucher_rule`] | S3: one signer several times |
//! | a voucher binds | [`select`] | S7: pairs of value and psn |
//! | a node without its disk abstains | what [`crate::recall`] finds | S12: until a window has passed |
//!
//! A replica and the exhaustive model ask the same [`Rules`], so what the model checks is what runs. [`Standard`] has no
//! state and its calls are inlined: the common path pays nothing for the choice.

use crate::machine::Refusal;
use crate::quorum::{Choice, Quorums, Reported, select};
use crate::recall::Floor;
use crate::types::{Decree, NodeId, NodeSet, Regency, Value};

/// What the vote rule looks at: the acceptor's promise and one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The regency that the acceptor promised: it votes in no lower one.
    pub promised: Regency,
    /// What the plan of that regency says of the decree; `None` while the plan is not held.
    pub plan: Option<Choice>,
    /// The acceptor's newest vote for the decree.
    pub vote: Option<Reported>,
}

/// What an acceptor does about a proposal that it does not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make the vote durable, then tell the learners.
    Vote,
    /// The vote stands already: just tell the learners again.
    Again,
}

/// The vote rule for one open decree (PROTOCOL.md section 3, "Acceptor on Propose(r, d, v)").
///
/// # Errors
/// Why the acceptor does not vote.
pub fn vote_rule(ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
    if regency < ballot.promised {
        return Err(Refusal::OldRegency);
    }
    let plan = ballot
        .plan
        .filter(|_| regency == ballot.promised)
        .ok_or(Refusal::NoPlan)?;
    if let Choice::Must(bound) = plan
        && bound != value
    {
        return Err(Refusal::AgainstPlan);
    }
    match ballot.vote {
        Some(vote) if vote.psn == regency && vote.value != value => Err(Refusal::SecondValue),
        Some(vote) if vote.psn == regency => Ok(Verdict::Again),
        _ => Ok(Verdict::Vote),
    }
}

/// Whether reports of these signers, one for each report, make a voucher: exactly n − f, and nobody twice. One key that
/// signs them all proves nothing (PROTOCOL.md section 6, S3).
#[must_use]
pub fn voucher_rule(quorums: &Quorums, signers: &[NodeId]) -> bool {
    let distinct: NodeSet = signers.iter().copied().collect();
    signers.len() == quorums.report && distinct.len() == quorums.report
}

/// All of them. Every default is the rule of PROTOCOL.md section 3.
pub trait Rules {
    /// See [`vote_rule`].
    ///
    /// # Errors
    /// Why the acceptor does not vote.
    fn vote(&self, ballot: &Ballot, regency: Regency, value: Value) -> Result<Verdict, Refusal> {
        vote_rule(ballot, regency, value)
    }

    /// How many equal votes decide; see [`Quorums::learn`].
    fn learn(&self, quorums: &Quorums) -> usize {
        quorums.learn
    }

    /// Whether an acceptor's earlier vote for a decree counts together with a new one of another acceptor: only if it is
    /// equal, regency included (PROTOCOL.md section 6, S6).
    fn counts(&self, earlier: Reported, new: Reported) -> bool {
        earlier == new
    }

    /// Whether reports of these signers make a voucher; see [`voucher_rule`].
    fn voucher(&self, quorums: &Quorums, signers: &[NodeId]) -> bool {
        voucher_rule(quorums, signers)
    }

    /// What the reports of a voucher bind; see [`select`].
    fn select(&self, quorums: &Quorums, reports: &[Option<Reported>]) -> Choice {
        select(quorums, reports)
    }

    /// Until when a node without its disk abstains, whose newest certified checkpoint is `low`: until what enough others
    /// remember, as soon as they were `found` to.
    fn floor(&self, found: Option<Floor>, _low: Decree, _window: u64) -> Option<Floor> {
        found
    }
}

/// The rules of PROTOCOL.md.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standard;

impl Rules for Standard {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::FaultModel;
    use crate::types::Digest;

    const A: Value = Value(Digest([1; 32]));
    const B: Value = Value(Digest([2; 32]));

    fn ballot(promised: u64, plan: Option<Choice>, vote: Option<(u64, Value)>) -> Ballot {
        let vote = vote.map(|(psn, value)| Reported {
            psn: Regency(psn),
            value,
        });
        Ballot {
            promised: Regency(promised),
            plan,
            vote,
        }
    }

    #[test]
    fn one_value_per_regency() {
        let free = Some(Choice::Free);
        assert_eq!(
            vote_rule(&ballot(0, free, None), Regency(0), A),
            Ok(Verdict::Vote)
        );
        assert_eq!(
            vote_rule(&ballot(0, free, Some((0, A))), Regency(0), A),
            Ok(Verdict::Again)
        );
        assert_eq!(
            vote_rule(&ballot(0, free, Some((0, A))), Regency(0), B),
            Err(Refusal::SecondValue)
        );
        assert_eq!(
            vote_rule(&ballot(1, free, Some((0, A))), Regency(1), B),
            Ok(Verdict::Vote)
        );
    }

    #[test]
    fn a_report_promises_every_lower_regency() {
        // PROTOCOL.md section 6, S1: the printed rule lets an acceptor without a vote still accept psn 0.
        assert_eq!(
            vote_rule(&ballot(1, Some(Choice::Free), None), Regency(0), A),
            Err(Refusal::OldRegency)
        );
    }

    #[test]
    fn no_vote_without_the_plan_or_against_it() {
        assert_eq!(
            vote_rule(&ballot(1, None, None), Regency(1), A),
            Err(Refusal::NoPlan)
        );
        assert_eq!(
            vote_rule(&ballot(1, Some(Choice::Free), None), Regency(2), A),
            Err(Refusal::NoPlan)
        );
        let must = Some(Choice::Must(A));
        assert_eq!(
            vote_rule(&ballot(1, must, Some((0, B))), Regency(1), B),
            Err(Refusal::AgainstPlan)
        );
        assert_eq!(
            vote_rule(&ballot(1, must, Some((0, B))), Regency(1), A),
            Ok(Verdict::Vote)
        );
    }

    #[test]
    fn a_voucher_is_n_minus_f_reports_of_different_acceptors() {
        let quorums = Quorums::new(FaultModel::Fab, 1, 6, 4, 4).expect("the sizes of the model");
        let complete = |signers: &[u16]| {
            let signers: Vec<NodeId> = signers.iter().copied().map(NodeId).collect();
            Standard.voucher(&quorums, &signers)
        };
        assert!(complete(&[0, 1, 2, 3, 4]) && complete(&[5, 3, 1, 0, 4]));
        assert!(!complete(&[0, 1, 2, 3]), "4f");
        assert!(!complete(&[0, 1, 2, 3, 4, 5]), "n");
        assert!(!complete(&[0, 1, 2, 3, 3]), "S3");
        assert!(!complete(&[2; 5]), "S3");
        assert!(!complete(&[0, 1, 2, 3, 4, 4]), "one too many");
    }

    #[test]
    fn votes_of_different_regencies_do_not_count_together() {
        let vote = |psn, value| Reported {
            psn: Regency(psn),
            value,
        };
        assert!(Standard.counts(vote(1, A), vote(1, A)));
        assert!(!Standard.counts(vote(0, A), vote(1, A)), "S6");
        assert!(!Standard.counts(vote(1, B), vote(1, A)));
    }
}
