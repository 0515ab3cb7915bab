//! What learners have acknowledged: one cumulative number each.
//!
//! An acknowledgement of `d` means that everything up to `d` is decided there and its bodies are held
//! (PROTOCOL.md section 3). Liars may say anything, so nobody asks for the largest number: only for the one
//! that a quorum has reached.

use crate::types::{Decree, NodeId, NodeSet};

/// The acknowledgements of all learners.
#[derive(Debug)]
pub struct Acks {
    learners: NodeSet,
    learned: Vec<Decree>,
    sorted: Vec<Decree>,
}

impl Acks {
    /// Nothing acknowledged by these learners yet.
    #[must_use]
    pub fn new(learners: NodeSet) -> Acks {
        let size = learners
            .iter()
            .last()
            .map_or(0, |node| usize::from(node.0) + 1);
        Acks {
            learners,
            learned: vec![Decree::NONE; size],
            sorted: vec![Decree::NONE; learners.len()],
        }
    }

    /// Takes an acknowledgement; true if it says something new. Numbers never fall.
    pub fn take(&mut self, learner: NodeId, learned: Decree) -> bool {
        let Some(before) = self
            .learned
            .get_mut(usize::from(learner.0))
            .filter(|before| **before < learned)
        else {
            return false;
        };
        *before = learned;
        let (all, learners) = (&self.learned, self.learners);
        self.sorted.clear();
        self.sorted
            .extend(learners.iter().map(|node| all[usize::from(node.0)]));
        self.sorted.sort_unstable_by(|one, other| other.cmp(one));
        true
    }

    /// What one learner acknowledged.
    #[must_use]
    pub fn of(&self, learner: NodeId) -> Decree {
        self.learned
            .get(usize::from(learner.0))
            .copied()
            .unwrap_or_default()
    }

    /// The highest decree that `quorum` learners reached.
    #[must_use]
    pub fn reached_by(&self, quorum: usize) -> Decree {
        quorum
            .checked_sub(1)
            .and_then(|place| self.sorted.get(place))
            .copied()
            .unwrap_or_default()
    }

    /// The learners that have not acknowledged `decree`.
    #[must_use]
    pub fn lacking(&self, decree: Decree) -> NodeSet {
        self.learners
            .iter()
            .filter(|node| self.of(*node) < decree)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liars_do_not_raise_what_a_quorum_reached() {
        let mut acks = Acks::new([0, 1, 2, 3].map(NodeId).into_iter().collect());
        assert!(acks.take(NodeId(2), Decree(u64::MAX)));
        assert_eq!(
            acks.reached_by(2),
            Decree::NONE,
            "one liar says nothing to f+1 = 2"
        );
        assert!(acks.take(NodeId(0), Decree(5)));
        assert!(!acks.take(NodeId(0), Decree(4)), "numbers never fall");
        assert_eq!(acks.reached_by(2), Decree(5));
        assert_eq!(acks.reached_by(3), Decree::NONE);
        assert!(!acks.take(NodeId(9), Decree(7)), "no learner, no number");
        assert_eq!(
            acks.lacking(Decree(5)),
            [1, 3].map(NodeId).into_iter().collect()
        );
    }
}
