//! What a node without its disk must learn from the others before it takes part again (PROTOCOL.md section 5.5).
//!
//! It may have promised a regency, voted, and proposed, and knows nothing of it. So it asks everybody (`Recall`) and
//! counts what is proved (`Recalled`):
//!
//! | asked | how many must answer | what follows |
//! |---|---|---|
//! | proposers: the highest regency that they voted for, proved by `Pol(x − 1)` or f+1 votes ≥ x | 2f+1 others | it votes in no regency below the highest, x: what it promised had 2f+1 votes, f+1 of them of other correct proposers |
//! | acceptors: their newest certified checkpoint | n − f others | it abstains until one at or above C + 2W is certified, C the highest: its own may have been W above, and its votes W above that |
//! | acceptors: their newest proof of leadership | the same | as a proposer it enters that regency, and does not propose in it |
//!
//! Votes ever cast are at or below C + 2W then, so nothing is voted for twice, in x neither; and x is at least what was
//! promised. PROTOCOL.md says "below the next one": that would keep a node out of a healthy cluster until its next leader
//! change. A proposer keeps x as its own vote, so that those who lose their disks later hear of it.
//!
//! In mode C nothing proves anything and any proposer may have led: all other proposers and acceptors that have their disks must
//! answer. A proposer that lost its disk as well is no danger: what it gathered is gone with its memory.
//! If more than f acceptors have lost their disks, nobody ever gets enough answers: that is not recoverable.
//!
//! Answers to an earlier run of this node cannot arrive: a link is made anew with every run. Bounded: one answer of each
//! node, of as many signatures as three certificates.

use crate::configuration::Configuration;
use crate::quorum::FaultModel;
use crate::resend::Resend;
use crate::types::{Decree, NodeId, NodeSet, Regency};

/// What one node remembers, as far as it was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The highest regency that it voted for or entered.
    pub regency: Regency,
    /// Its newest certified checkpoint.
    pub low: Decree,
}

/// Until when a node abstains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// It takes part in no regency below this one.
    pub regency: Regency,
    /// And not before a checkpoint at or above this decree is certified.
    pub decree: Decree,
}

/// The answers so far.
#[derive(Debug)]
pub struct Recall {
    /// When to ask again.
    pub resend: Resend,
    me: NodeId,
    /// The other proposers and acceptors: learners promise nothing.
    others: NodeSet,
    answered: NodeSet,
    highest: Memory,
    floor: Option<Floor>,
}

impl Recall {
    /// Nobody answered yet.
    #[must_use]
    pub fn new(configuration: &Configuration, me: NodeId) -> Recall {
        let proposers = configuration.proposers().iter().copied();
        let remember: NodeSet = proposers.chain(configuration.acceptors().iter()).collect();
        Recall {
            resend: Resend::overdue(),
            me,
            others: remember.minus(NodeSet::one(me)),
            answered: NodeSet::EMPTY,
            highest: Memory {
                regency: Regency(0),
                low: Decree::NONE,
            },
            floor: None,
        }
    }

    /// Whether an answer of this node is of use: no signature is checked for one that is not.
    #[must_use]
    pub fn wants(&self, node: NodeId) -> bool {
        self.floor.is_none() && self.unanswered().contains(node)
    }

    /// Who has not answered.
    #[must_use]
    pub fn unanswered(&self) -> NodeSet {
        self.others.minus(self.answered)
    }

    /// Takes an answer that it wants and whose proofs hold.
    pub fn take(&mut self, node: NodeId, memory: Memory) {
        self.answered.insert(node);
        self.highest.regency = self.highest.regency.max(memory.regency);
        self.highest.low = self.highest.low.max(memory.low);
    }

    /// Until when to abstain, once enough have answered; what comes later changes nothing. `lost`: those that have lost
    /// their disks as well.
    pub fn floor(&mut self, configuration: &Configuration, lost: NodeSet) -> Option<Floor> {
        if self.floor.is_none() && self.is_enough(configuration, lost) {
            let window = configuration.limits().window;
            self.floor = Some(Floor {
                regency: self.highest.regency,
                decree: self.highest.low.plus(2 * window),
            });
        }
        self.floor
    }

    /// What [`Recall::floor`] found.
    #[must_use]
    pub fn found(&self) -> Option<Floor> {
        self.floor
    }

    fn is_enough(&self, configuration: &Configuration, lost: NodeSet) -> bool {
        let quorums = configuration.quorums();
        let proposers: NodeSet = configuration.proposers().iter().copied().collect();
        let of = |class: NodeSet, among: NodeSet| class.minus(class.minus(among)).len();
        if configuration.model() == FaultModel::Crash {
            let mut without = lost;
            without.insert(self.me);
            return self.others.minus(lost).minus(self.answered).is_empty()
                && of(configuration.acceptors(), without) <= quorums.f;
        }
        of(proposers, self.answered) >= quorums.leadership.unwrap_or(0)
            && of(configuration.acceptors(), self.answered) >= quorums.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Admission, Limits, Member, Roles};
    use twostep_crypto::Identity;

    fn configuration(model: FaultModel, f: usize) -> Configuration {
        let (nodes, all) = match model {
            FaultModel::Fab => (5 * f + 1, 3 * f + 1),
            FaultModel::Crash => (2 * f + 1, 2 * f + 1),
        };
        let member = |node: usize| Member {
            roles: if node < all {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            },
            public: Identity::from_seed([u8::try_from(node).unwrap() + 1; 32]).public(),
        };
        let members = (0..nodes).map(member).collect();
        let admission = match model {
            FaultModel::Fab => Admission::Mac,
            FaultModel::Crash => Admission::Link,
        };
        Configuration::new(model, f, members, Limits::default(), admission, [0; 16]).unwrap()
    }

    fn memory(regency: u64, low: u64) -> Memory {
        Memory {
            regency: Regency(regency),
            low: Decree(low),
        }
    }

    #[test]
    fn it_takes_2f_and_1_proposers_and_n_minus_f_acceptors_besides_itself() {
        let configuration = configuration(FaultModel::Fab, 1);
        let window = configuration.limits().window;
        let mut recall = Recall::new(&configuration, NodeId(1));
        assert!(!recall.wants(NodeId(1)), "it knows nothing itself");
        for (node, answer) in [(4, memory(0, 7)), (5, memory(9, 0)), (0, memory(3, 128))] {
            recall.take(NodeId(node), answer);
            assert!(!recall.wants(NodeId(node)));
            assert_eq!(recall.floor(&configuration, NodeSet::EMPTY), None);
        }
        recall.take(NodeId(2), memory(1, 0));
        assert_eq!(
            recall.floor(&configuration, NodeSet::EMPTY),
            None,
            "two proposers, four acceptors"
        );
        recall.take(NodeId(3), memory(2, 0));
        let floor = Some(Floor {
            regency: Regency(9),
            decree: Decree(128 + 2 * window),
        });
        assert_eq!(recall.floor(&configuration, NodeSet::EMPTY), floor);
    }

    #[test]
    fn in_mode_crash_all_that_have_their_disks_must_answer() {
        let configuration = configuration(FaultModel::Crash, 2);
        let enough = |answered: &[u16], lost: &[u16]| {
            let mut recall = Recall::new(&configuration, NodeId(0));
            for node in answered {
                recall.take(NodeId(*node), memory(1, 0));
            }
            let lost = lost.iter().copied().map(NodeId).collect();
            recall.floor(&configuration, lost).is_some()
        };
        assert!(!enough(&[1, 2, 3], &[]));
        assert!(enough(&[1, 2, 3, 4], &[]));
        assert!(enough(&[1, 2, 3], &[4]), "that is two without their disks");
        assert!(!enough(&[1, 2], &[3, 4]), "that is three");
    }

    #[test]
    fn in_mode_crash_learners_need_not_answer_and_a_proposer_without_its_disk_is_no_acceptor_without_it()
     {
        let (model, limits) = (FaultModel::Crash, Limits::default());
        let member = |node: u8| Member {
            roles: match node {
                0..3 => Roles::PROPOSER,
                3..6 => Roles::ACCEPTOR,
                _ => Roles::LEARNER,
            },
            public: Identity::from_seed([node + 1; 32]).public(),
        };
        let members = (0..9).map(member).collect();
        let configuration =
            Configuration::new(model, 1, members, limits, Admission::Link, [0; 16]).unwrap();
        let enough = |me: u16, answered: &[u16], lost: u16| {
            let mut recall = Recall::new(&configuration, NodeId(me));
            for node in answered {
                assert!(recall.wants(NodeId(*node)));
                recall.take(NodeId(*node), memory(1, 0));
            }
            let lost = NodeSet::one(NodeId(lost));
            recall.floor(&configuration, lost).is_some()
        };
        assert!(enough(3, &[0, 1, 4, 5], 2));
        assert!(!enough(3, &[0, 4, 5], 2), "a proposer may have led");
        assert!(enough(2, &[0, 1, 4, 5], 3));
        assert!(!enough(3, &[0, 1, 2, 4], 5), "two acceptors");
    }
}
