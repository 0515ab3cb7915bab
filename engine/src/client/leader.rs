//! Whom a client takes for the leader.
//!
//! Every reply carries its sender's regency. The client keeps the newest that each replica said and believes the
//! (f+1)-th largest (in mode C, where nobody lies, the largest): at least one correct replica is that far, so f
//! liars can neither push the belief ahead nor, since the rest outnumber them, hold it back for ever
//! (PROTOCOL.md section 5.2). Learners and proposers count apart: f of each may lie, which together are more than f.

use crate::types::{NodeId, NodeSet, Regency};

/// The regencies that the replicas said.
#[derive(Debug)]
pub(super) struct Belief {
    /// The largest that each node said, by node id.
    said: Vec<Regency>,
    /// The learners and the proposers.
    classes: [NodeSet; 2],
    /// How many replicas of one class must be that far.
    voices: usize,
    believed: Regency,
}

impl Belief {
    pub(super) fn new(nodes: usize, classes: [NodeSet; 2], voices: usize) -> Belief {
        assert!(
            0 < voices && classes.iter().all(|class| voices <= class.len()),
            "a belief rests on at least one replica"
        );
        Belief {
            said: vec![Regency(0); nodes],
            classes,
            voices,
            believed: Regency(0),
        }
    }

    /// The regency that enough replicas have reached.
    pub(super) fn regency(&self) -> Regency {
        self.believed
    }

    /// Takes one replica's word; true if the belief moved.
    pub(super) fn hear(&mut self, from: NodeId, regency: Regency) -> bool {
        let Some(said) = self.said.get_mut(usize::from(from.0)) else {
            return false;
        };
        if regency <= *said {
            return false;
        }
        *said = regency;
        // The (voices)-th largest: the largest that at least so many have reached. Changes are rare, so the
        // quadratic search over a handful of nodes is cheaper than anything that allocates.
        let reached = |x: Regency| {
            let reached = |node: &NodeId| self.said[usize::from(node.0)] >= x;
            let enough = |class: &NodeSet| class.iter().filter(reached).count() >= self.voices;
            self.classes.iter().any(enough)
        };
        let believed = self
            .said
            .iter()
            .copied()
            .filter(|said| reached(*said))
            .max()
            .unwrap_or(self.believed);
        let moved = believed > self.believed;
        self.believed = believed;
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(range: std::ops::Range<u16>) -> NodeSet {
        range.map(NodeId).collect()
    }

    #[test]
    fn a_lying_learner_and_a_lying_proposer_do_not_add_up() {
        let mut belief = Belief::new(8, [nodes(4..8), nodes(0..4)], 2);
        assert!(!belief.hear(NodeId(3), Regency(99)));
        assert!(!belief.hear(NodeId(4), Regency(99)));
        assert_eq!(belief.regency(), Regency(0));
        assert!(belief.hear(NodeId(5), Regency(2)));
        assert_eq!(belief.regency(), Regency(2), "two learners");
    }

    #[test]
    fn f_liars_cannot_move_the_belief_and_one_correct_replica_more_can() {
        let mut belief = Belief::new(6, [nodes(0..6), nodes(0..4)], 2);
        assert!(
            !belief.hear(NodeId(5), Regency(u64::MAX)),
            "one voice is a liar's"
        );
        assert_eq!(belief.regency(), Regency(0));
        assert!(
            !belief.hear(NodeId(5), Regency(7)),
            "the same replica twice is one voice"
        );
        assert!(belief.hear(NodeId(1), Regency(3)));
        assert_eq!(
            belief.regency(),
            Regency(3),
            "the second largest, not the liar's"
        );
        assert!(!belief.hear(NodeId(1), Regency(2)), "a belief never falls");
        assert!(!belief.hear(NodeId(2), Regency(3)), "nothing new");
        assert!(belief.hear(NodeId(2), Regency(4)));
        assert_eq!(belief.regency(), Regency(4));
        assert!(!belief.hear(NodeId(6), Regency(9)), "not a member");
    }

    #[test]
    fn where_nobody_lies_one_voice_suffices() {
        let mut belief = Belief::new(3, [nodes(0..3), nodes(0..3)], 1);
        assert!(belief.hear(NodeId(2), Regency(5)));
        assert_eq!(belief.regency(), Regency(5));
    }
}
