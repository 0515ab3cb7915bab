//! What must be durable before something is said (PROTOCOL.md section 5.5).
//!
//! | record | before | kept until |
//! |---|---|---|
//! | `Lead` | anything is proposed in a regency | a higher regency |
//! | `Proposal` | `Propose` | a higher regency, or low ≥ d |
//! | `Vote` | `Accepted` | low ≥ d |
//! | `Promise` | `Report` | a higher one |
//! | `Entered` | whatever a proposer says in the regency, if its node is no acceptor | a higher regency |
//! | `NewRegency` | `NewRegency` | a higher regency |
//! | `RegencyVote` | `Vote` | a higher one |
//! | `Low` | a vote that needs it, and pruning | a higher one |
//! | `Learned` | `Checkpoint` at or above it | a certified snapshot holds it |
//! | `Checkpoint` | `Checkpoint`: none is signed differently twice | a certificate ≥ c |
//! | `Rejoined` | the first vote, report or proposal after a lost disk | for ever: it stands for the birth of the journal |
//!
//! A machine writes [`Record`]s, which borrow; a journal reads [`OwnedRecord`]s back. Bodies are counted handles, so that
//! owning one is cheap. The order on disk is the order in which they were written: what a later one says builds
//! on the earlier ones.

use twostep_crypto::Signed;

use crate::batch::Batch;
use crate::message::{
    Certificate, CheckpointClaim, NewRegency, ProofOfLeadership, RegencyVote, Report,
};
use crate::types::{Decree, Regency};

/// What must be durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Record<'a> {
    /// The proposer leads a regency: before it proposes in it.
    Lead(Regency),
    /// The leader will propose this: before `Propose`.
    Proposal {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// What, body included.
        batch: &'a Batch,
    },
    /// The acceptor votes for this: before `Accepted`.
    Vote {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// What, body included: after a power cut someone must still have it.
        batch: &'a Batch,
    },
    /// The learner learned this: before a `Checkpoint` at or above it.
    Learned {
        /// Which decree.
        decree: Decree,
        /// What, body included.
        batch: &'a Batch,
    },
    /// The acceptor enters a regency: before its report, which is made once and kept.
    Promise {
        /// Why the regency was entered.
        proof: &'a ProofOfLeadership,
        /// What it reports.
        report: &'a Signed<Report>,
    },
    /// A proposer whose node is no acceptor enters a regency.
    Entered {
        /// Which one.
        regency: Regency,
        /// Why.
        proof: &'a ProofOfLeadership,
    },
    /// The leader shows its voucher: before `NewRegency`.
    NewRegency(&'a NewRegency),
    /// The proposer votes for a regency: before `Vote`.
    RegencyVote(&'a Signed<RegencyVote>),
    /// The window moves: before a vote that needs it and before pruning.
    Low(&'a Certificate),
    /// The learner signs a checkpoint: before `Checkpoint`.
    Checkpoint(&'a CheckpointClaim),
    /// The node lost its disk and takes part again, from here on as if born: before anything that it abstained from.
    Rejoined {
        /// The regency in which it may vote again, though it reports in higher ones only.
        regency: Regency,
        /// Why the regency was entered.
        proof: &'a ProofOfLeadership,
    },
}

/// A [`Record`] that owns what it says.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedRecord {
    /// As [`Record::Lead`].
    Lead(Regency),
    /// As [`Record::Proposal`].
    Proposal {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// What.
        batch: Batch,
    },
    /// As [`Record::Vote`].
    Vote {
        /// In which regency.
        regency: Regency,
        /// For which decree.
        decree: Decree,
        /// What.
        batch: Batch,
    },
    /// As [`Record::Learned`].
    Learned {
        /// Which decree.
        decree: Decree,
        /// What.
        batch: Batch,
    },
    /// As [`Record::Promise`].
    Promise {
        /// Why the regency was entered.
        proof: ProofOfLeadership,
        /// What it reports.
        report: Box<Signed<Report>>,
    },
    /// As [`Record::Entered`].
    Entered {
        /// Which one.
        regency: Regency,
        /// Why.
        proof: ProofOfLeadership,
    },
    /// As [`Record::NewRegency`].
    NewRegency(Box<NewRegency>),
    /// As [`Record::RegencyVote`].
    RegencyVote(Signed<RegencyVote>),
    /// As [`Record::Low`].
    Low(Certificate),
    /// As [`Record::Checkpoint`].
    Checkpoint(CheckpointClaim),
    /// As [`Record::Rejoined`].
    Rejoined {
        /// The regency.
        regency: Regency,
        /// Why it was entered.
        proof: ProofOfLeadership,
    },
}

impl Record<'_> {
    /// The same, owned.
    #[must_use]
    pub fn owned(&self) -> OwnedRecord {
        match *self {
            Record::Lead(regency) => OwnedRecord::Lead(regency),
            Record::Proposal {
                regency,
                decree,
                batch,
            } => OwnedRecord::Proposal {
                regency,
                decree,
                batch: batch.clone(),
            },
            Record::Vote {
                regency,
                decree,
                batch,
            } => OwnedRecord::Vote {
                regency,
                decree,
                batch: batch.clone(),
            },
            Record::Learned { decree, batch } => OwnedRecord::Learned {
                decree,
                batch: batch.clone(),
            },
            Record::Promise { proof, report } => OwnedRecord::Promise {
                proof: proof.clone(),
                report: Box::new(report.clone()),
            },
            Record::Entered { regency, proof } => OwnedRecord::Entered {
                regency,
                proof: proof.clone(),
            },
            Record::NewRegency(shown) => OwnedRecord::NewRegency(Box::new(shown.clone())),
            Record::RegencyVote(vote) => OwnedRecord::RegencyVote(vote.clone()),
            Record::Low(certificate) => OwnedRecord::Low(certificate.clone()),
            Record::Checkpoint(claim) => OwnedRecord::Checkpoint(*claim),
            Record::Rejoined { regency, proof } => OwnedRecord::Rejoined {
                regency,
                proof: proof.clone(),
            },
        }
    }
}

impl OwnedRecord {
    /// The same, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> Record<'_> {
        match self {
            OwnedRecord::Lead(regency) => Record::Lead(*regency),
            OwnedRecord::Proposal {
                regency,
                decree,
                batch,
            } => Record::Proposal {
                regency: *regency,
                decree: *decree,
                batch,
            },
            OwnedRecord::Vote {
                regency,
                decree,
                batch,
            } => Record::Vote {
                regency: *regency,
                decree: *decree,
                batch,
            },
            OwnedRecord::Learned { decree, batch } => Record::Learned {
                decree: *decree,
                batch,
            },
            OwnedRecord::Promise { proof, report } => Record::Promise { proof, report },
            OwnedRecord::Entered { regency, proof } => Record::Entered {
                regency: *regency,
                proof,
            },
            OwnedRecord::NewRegency(shown) => Record::NewRegency(shown),
            OwnedRecord::RegencyVote(vote) => Record::RegencyVote(vote),
            OwnedRecord::Low(certificate) => Record::Low(certificate),
            OwnedRecord::Checkpoint(claim) => Record::Checkpoint(claim),
            OwnedRecord::Rejoined { regency, proof } => Record::Rejoined {
                regency: *regency,
                proof,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use twostep_crypto::{Scope, Signature};

    use super::*;
    use crate::message::{Checkpoint, ReportedVote};
    use crate::types::{ClusterId, Digest, Epoch, NodeId, Party, Value};

    fn signed<T>(content: T) -> Signed<T> {
        Signed {
            signer: Party::Node(NodeId(3)),
            content,
            signature: Signature([7; 64]),
        }
    }

    #[test]
    fn owning_and_borrowing_change_nothing() {
        let batch = Batch::noop(&Scope::new(ClusterId([0; 32]), Epoch(0)));
        let (regency, decree) = (Regency(5), Decree(9));
        let proof = ProofOfLeadership {
            votes: vec![signed(RegencyVote { regency })],
        };
        let certificate = Certificate {
            decree,
            chain: Digest([1; 32]),
            voices: Vec::new(),
        };
        let vote = ReportedVote {
            decree: Decree(10),
            psn: Regency(2),
            value: Value(Digest([4; 32])),
        };
        let report = signed(Report {
            regency,
            low: Some(certificate.clone()),
            votes: vec![vote],
        });
        let shown = NewRegency {
            regency,
            proof: proof.clone(),
            voucher: vec![report.clone()],
        };
        let claim = CheckpointClaim {
            checkpoint: Checkpoint {
                decree,
                chain: Digest([1; 32]),
                results: Digest([2; 32]),
            },
            learner: NodeId(3),
            signature: Signature([8; 64]),
        };
        let (batch, proof) = (&batch, &proof);
        let records = [
            Record::Lead(regency),
            Record::Proposal {
                regency,
                decree,
                batch,
            },
            Record::Vote {
                regency,
                decree,
                batch,
            },
            Record::Learned { decree, batch },
            Record::Promise {
                proof,
                report: &report,
            },
            Record::Entered { regency, proof },
            Record::NewRegency(&shown),
            Record::RegencyVote(&proof.votes[0]),
            Record::Low(&certificate),
            Record::Checkpoint(&claim),
            Record::Rejoined { regency, proof },
        ];
        for record in records {
            let owned = record.owned();
            assert_eq!(owned.borrowed(), record);
            assert_eq!(owned.borrowed().owned(), owned);
        }
    }
}
