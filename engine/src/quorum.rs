//! Every threshold of the protocol, by purpose, for each fault model; and `select`.
//!
//! PROTOCOL.md section 2: FaB and Paxos are the same five rules (propose, vote, learn, report, select) with
//! other numbers. The numbers live here and nowhere else. Each is proved by the intersection that it exists
//! for, in an assertion beside the formula, so a wrong formula does not start.
//!
//! | purpose | FaB `n = 5f+1` | crash `n = 2f+1` |
//! |---|---|---|
//! | `learn`: equal votes that decide | 4f+1 | f+1 |
//! | `report`: reports that make a voucher | 4f+1 | f+1 |
//! | `must`: reports of one value that bind the leader | 2f+1 | (highest psn) |
//! | `reply`: equal replies that a client believes | f+1 | 1 |
//! | `full_replies`: learners that reply in full, the others with a digest | f+2 | f+2 |
//! | `pull`: equal answers that decide for a learner | f+1 | 1 |
//! | `ack`: learners that end a retransmission | n_l − f | n_l − f |
//! | `checkpoint`: equal checkpoints that move the window | 2f+1 signed | f+1 unsigned |
//! | `progress`: learners that show something was learned | f+1 | 1 |
//! | `vouch`: acceptors whose check of a bundle replaces one's own | f+1 | 1 |
//! | `leadership`: votes that prove a regency | 2f+1 | (none) |

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{Regency, Value};

/// Which faults a configuration bears (PROTOCOL.md section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultModel {
    /// Mode F: Fast Byzantine Paxos. f of 5f+1 acceptors, of 3f+1 proposers and of 3f+1 learners may do anything.
    Fab,
    /// Mode C: Lampson's Paxos. f of 2f+1 nodes may crash; none lies.
    Crash,
}

impl FaultModel {
    /// The acceptors that this model needs to bear `f` faults.
    #[must_use]
    pub fn acceptors(self, f: usize) -> usize {
        match self {
            FaultModel::Fab => 5 * f + 1,
            FaultModel::Crash => 2 * f + 1,
        }
    }

    /// The learners that this model needs to bear `f` faults.
    #[must_use]
    pub fn learners(self, f: usize) -> usize {
        match self {
            FaultModel::Fab => 3 * f + 1,
            FaultModel::Crash => 2 * f + 1,
        }
    }

    /// The fewest proposers that this model needs to bear `f` faults.
    #[must_use]
    pub fn proposers(self, f: usize) -> usize {
        match self {
            FaultModel::Fab => 3 * f + 1,
            FaultModel::Crash => f + 1,
        }
    }

    /// Faulty nodes that lie, as opposed to nodes that stop.
    #[must_use]
    pub fn liars(self, f: usize) -> usize {
        match self {
            FaultModel::Fab => f,
            FaultModel::Crash => 0,
        }
    }
}

impl std::fmt::Display for FaultModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FaultModel::Fab => "fab",
            FaultModel::Crash => "crash",
        })
    }
}

/// The thresholds of one configuration. See the table at the top of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// The fault model that the numbers are for.
    pub model: FaultModel,
    /// The faults that are borne in each class of agents.
    pub f: usize,
    /// How many acceptors there are.
    pub acceptors: usize,
    /// How many learners there are.
    pub learners: usize,
    /// How many proposers there are.
    pub proposers: usize,
    /// Equal votes (decree, regency, value) of distinct acceptors that decide a decree.
    pub learn: usize,
    /// Reports of distinct acceptors that make a voucher.
    pub report: usize,
    /// Reports of one value, out of `report`, that bind a new leader to it (FaB's `select`).
    pub must: usize,
    /// Equal replies of distinct learners that a client believes.
    pub reply: usize,
    /// Learners that reply to a client in full, so that one reply comes although f of them are faulty and that of
    /// another one is lost.
    pub full_replies: usize,
    /// Equal answers of distinct learners that decide a decree for another learner.
    pub pull: usize,
    /// Learners whose acknowledgement ends the retransmission of a decree.
    pub ack: usize,
    /// Equal checkpoints of distinct learners that certify it.
    pub checkpoint: usize,
    /// Learners whose acknowledgement shows that something new was learned: it frees a pipeline slot.
    pub progress: usize,
    /// Acceptors whose check of a client's bundle replaces one's own; as many that cannot verify it make it the
    /// client's business (PROTOCOL.md section 5.1).
    pub vouch: usize,
    /// Votes of distinct proposers that prove a regency; none in mode C, where a proposer takes the lead.
    pub leadership: Option<usize>,
}

/// Why no thresholds exist for a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuorumError {
    /// f = 0 bears nothing and makes `n − f` quorums meaningless for what follows.
    #[error("f must be at least 1: a cluster that bears no fault needs no agreement")]
    NoFaults,
    /// A class of agents has the wrong size.
    #[error("mode {model} with f = {f} needs {expected} {class}, the configuration has {found}")]
    Size {
        /// The fault model.
        model: FaultModel,
        /// The faults to bear.
        f: usize,
        /// Which class of agents.
        class: &'static str,
        /// What the model needs, in words ("exactly 6").
        expected: String,
        /// What the configuration has.
        found: usize,
    },
}

impl Quorums {
    /// The thresholds for `f` faults among these many agents.
    ///
    /// # Errors
    /// [`QuorumError`] when a class has a size that the model's proofs do not cover.
    pub fn new(
        model: FaultModel,
        f: usize,
        acceptors: usize,
        learners: usize,
        proposers: usize,
    ) -> Result<Quorums, QuorumError> {
        if f == 0 {
            return Err(QuorumError::NoFaults);
        }
        let size = |class, needs: usize, exact, found: usize| {
            if (exact && found == needs) || (!exact && found >= needs) {
                return Ok(());
            }
            let expected = format!("{} {needs}", if exact { "exactly" } else { "at least" });
            Err(QuorumError::Size {
                model,
                f,
                class,
                expected,
                found,
            })
        };
        size("acceptors", model.acceptors(f), true, acceptors)?;
        size("learners", model.learners(f), true, learners)?;
        // leader(r) = r mod P, and 2f+1 of exactly 3f+1 proposers prove a regency; in mode C any number may wait their turn.
        size(
            "proposers",
            model.proposers(f),
            model == FaultModel::Fab,
            proposers,
        )?;

        let quorums = match model {
            FaultModel::Fab => Quorums {
                model,
                f,
                acceptors,
                learners,
                proposers,
                learn: acceptors - f,
                report: acceptors - f,
                must: acceptors - 3 * f,
                reply: f + 1,
                full_replies: f + 2,
                pull: f + 1,
                ack: learners - f,
                checkpoint: 2 * f + 1,
                progress: f + 1,
                vouch: f + 1,
                leadership: Some(2 * f + 1),
            },
            FaultModel::Crash => Quorums {
                model,
                f,
                acceptors,
                learners,
                proposers,
                learn: f + 1,
                report: f + 1,
                must: 1,
                reply: 1,
                full_replies: f + 2,
                pull: 1,
                ack: learners - f,
                checkpoint: f + 1,
                progress: 1,
                vouch: 1,
                leadership: None,
            },
        };
        quorums.prove();
        Ok(quorums)
    }

    /// The proof obligations of PROTOCOL.md section 3, as intersections. `n` acceptors of which `b` lie.
    fn prove(&self) {
        let (n, f, b) = (self.acceptors, self.f, self.model.liars(self.f));
        // Liveness: the correct agents alone are a quorum of every kind.
        assert!(
            self.learn <= n - f && self.report <= n - f,
            "the correct acceptors alone can decide and report"
        );
        assert!(
            self.ack <= self.learners - f,
            "the correct learners alone can acknowledge"
        );
        assert!(
            self.checkpoint <= self.learners - f,
            "the correct learners alone can certify"
        );
        // One value per regency: two learn quorums share a correct acceptor, which votes once per (r, d).
        assert!(
            2 * self.learn > n + b,
            "two learn quorums share a correct acceptor"
        );
        // Anchoring: of the acceptors that chose u, this many correct ones stand in any voucher.
        let chosen_in_voucher = self.learn + self.report - n - b;
        assert!(
            chosen_in_voucher >= 1,
            "every voucher has a correct witness of a chosen value"
        );
        if self.model == FaultModel::Fab {
            assert!(
                chosen_in_voucher >= self.must,
                "a chosen value always reaches `must` reports"
            );
            assert!(
                self.report - chosen_in_voucher < self.must,
                "no other value can"
            );
            assert!(
                2 * self.must > self.report,
                "at most one value is bound, so `select` is total"
            );
        }
        // A statement of `reply` or `pull` equal voices has a correct one among them.
        assert!(
            self.reply > b && self.pull > b && self.progress > b && self.vouch > b,
            "one voice at least is correct"
        );
        assert!(
            self.full_replies >= f + 2 && self.full_replies <= self.learners,
            "two correct learners at least reply in full"
        );
        // Either enough correct acceptors doubt a bundle for the client to be asked, or the others vouch for it.
        assert!(
            n - f >= 2 * self.vouch - 1,
            "a bundle is vouched for, or its client is asked"
        );
        // A certified checkpoint has a correct learner that has everything below it and enough of them to serve pulls.
        assert!(
            self.checkpoint >= b + self.pull,
            "what is certified can be pulled from correct learners"
        );
        // A stopped retransmission leaves `pull` correct learners that have the decree.
        assert!(
            self.ack >= b + self.pull,
            "what is acknowledged can be pulled from correct learners"
        );
        if let Some(leadership) = self.leadership {
            assert!(
                leadership <= self.proposers - f,
                "the correct proposers alone can elect"
            );
            assert!(
                leadership > 2 * b,
                "a proof has a majority of correct votes among its own"
            );
        }
    }
}

/// What one acceptor reports about one decree when it enters a regency: its vote, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The regency of the vote (the psn).
    pub psn: Regency,
    /// The value voted for.
    pub value: Value,
}

/// What a new leader may propose for a decree (PROTOCOL.md section 3, `plan_r`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Only this value: it may have been chosen in a lower regency.
    Must(Value),
    /// Any value: none was or will be chosen in a lower regency.
    Free,
}

/// What is anchored for one decree, given what exactly [`Quorums::report`] distinct acceptors reported of it.
///
/// Mode F counts values *whatever their psn* (section 6, S7): `m − 2f` equal ones of `m` bind. Mode C takes
/// the value of the highest psn. `None` in the iterator is an acceptor that reported no vote.
/// Pure, total, independent of the order of the reports.
///
/// # Panics
/// If the number of reports is not the report quorum: that is the caller's check of a voucher.
#[must_use]
pub fn select(quorums: &Quorums, reports: &[Option<Reported>]) -> Choice {
    assert_eq!(
        reports.len(),
        quorums.report,
        "select is defined for exactly one report quorum"
    );
    match quorums.model {
        FaultModel::Fab => {
            let bound = |candidate: &Value| {
                reports
                    .iter()
                    .flatten()
                    .filter(|report| report.value == *candidate)
                    .count()
                    >= quorums.must
            };
            reports
                .iter()
                .flatten()
                .map(|report| report.value)
                .find(bound)
                .map_or(Choice::Free, Choice::Must)
        }
        FaultModel::Crash => {
            // Two values at one psn cannot happen where nobody lies; the larger value is taken so that the
            // result does not depend on the order even then.
            let newest = reports
                .iter()
                .flatten()
                .max_by_key(|report| (report.psn, report.value));
            newest.map_or(Choice::Free, |report| Choice::Must(report.value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fab() -> Quorums {
        Quorums::new(FaultModel::Fab, 1, 6, 4, 4).expect("the sizes of the model")
    }

    fn crash() -> Quorums {
        Quorums::new(FaultModel::Crash, 1, 3, 3, 3).expect("the sizes of the model")
    }

    /// Whether the proof obligations hold.
    fn proved(quorums: Quorums) -> bool {
        std::panic::catch_unwind(|| quorums.prove()).is_ok()
    }

    /// Every threshold is at its only or at its smallest right number: one less is never proved, and one more only
    /// where a larger quorum is still reached by the correct agents.
    #[test]
    fn the_proof_refuses_wrong_numbers() {
        type Threshold = fn(&mut Quorums) -> &mut usize;
        // A threshold, and whether the proof holds with one more of it, in mode F and in mode C.
        let thresholds: [(&str, Threshold, bool, bool); 11] = [
            ("learn", |q| &mut q.learn, false, false),
            ("report", |q| &mut q.report, false, false),
            ("must", |q| &mut q.must, false, true),
            ("reply", |q| &mut q.reply, true, true),
            ("full_replies", |q| &mut q.full_replies, true, false),
            ("pull", |q| &mut q.pull, false, true),
            ("ack", |q| &mut q.ack, false, false),
            ("checkpoint", |q| &mut q.checkpoint, false, false),
            ("progress", |q| &mut q.progress, true, true),
            ("vouch", |q| &mut q.vouch, true, false),
            ("leadership", |q| q.leadership.get_or_insert(1), false, true),
        ];
        for (name, threshold, fab_more, crash_more) in thresholds {
            for (right, more) in [(fab(), fab_more), (crash(), crash_more)] {
                assert!(proved(right), "{name}");
                let mut changed = right;
                *threshold(&mut changed) += 1;
                assert_eq!(proved(changed), more, "{name} and one more: {changed:?}");
            }
            let mut changed = fab();
            *threshold(&mut changed) -= 1;
            assert!(!proved(changed), "{name} and one less: {changed:?}");
        }
    }

    #[test]
    fn a_split_of_reports_is_free() {
        let vote = |psn, name| {
            Some(Reported {
                psn: Regency(psn),
                value: Value(crate::types::Digest([name; 32])),
            })
        };
        assert_eq!(
            select(
                &fab(),
                &[vote(0, 1), vote(0, 1), vote(0, 2), vote(0, 2), None]
            ),
            Choice::Free
        );
        let Some(bound) = vote(1, 2) else {
            unreachable!("a vote")
        };
        assert_eq!(
            select(&crash(), &[vote(0, 1), vote(1, 2)]),
            Choice::Must(bound.value)
        );
    }
}
