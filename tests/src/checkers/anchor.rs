//! Lampson's third invariant, restated in PROTOCOL.md section 7 as I3′: for every vote `(r, v)` of a correct
//! acceptor and every `r′ < r` and `u ≠ v`, `u` is not choosable at `r′`.
//!
//! It is stronger than agreement: it fails at the vote that makes a second outcome *possible*, not only once
//! both outcomes have happened.

use std::collections::BTreeMap;

use twostep_engine::types::{NodeId, NodeSet, Regency, Value};

/// The votes of the correct acceptors for one decree.
#[derive(Clone, Debug, Default)]
pub struct Votes {
    by_regency: BTreeMap<Regency, BTreeMap<Value, NodeSet>>,
}

/// What I3′ is judged against: who is correct, what each promised, and how many votes decide.
#[derive(Clone, Debug)]
pub struct Electorate {
    /// The regency of every correct acceptor: it votes in no lower one.
    pub promised: BTreeMap<NodeId, Regency>,
    /// How many acceptors may do anything.
    pub byzantine: usize,
    /// How many equal votes decide.
    pub learn: usize,
}

impl Votes {
    /// Notes a vote of a correct acceptor; false if it voted for another value in the same regency before.
    pub fn insert(&mut self, node: NodeId, regency: Regency, value: Value) -> bool {
        let values = self.by_regency.entry(regency).or_default();
        values.entry(value).or_default().insert(node);
        values
            .iter()
            .all(|(other, voters)| *other == value || !voters.contains(node))
    }

    /// Whether enough acceptors voted for `value` in one regency for it to be decided, if the Byzantine ones
    /// say what they can.
    #[must_use]
    pub fn can_be_learned(&self, value: Value, electorate: &Electorate) -> bool {
        let voters =
            |values: &BTreeMap<Value, NodeSet>| values.get(&value).map_or(0, |voters| voters.len());
        self.by_regency
            .values()
            .any(|values| voters(values) + electorate.byzantine >= electorate.learn)
    }

    /// A regency below `regency` at which something other than `value` can still be chosen, if there is one.
    #[must_use]
    pub fn rival(
        &self,
        regency: Regency,
        value: Value,
        electorate: &Electorate,
    ) -> Option<Regency> {
        // A regency in which nobody voted is like any other such one between two promises: it is enough to
        // look at those with votes, at those promised, and at the one just below.
        let mut lower: Vec<Regency> = self.by_regency.keys().copied().collect();
        lower.extend(electorate.promised.values().copied());
        lower.extend(regency.0.checked_sub(1).map(Regency));
        lower.retain(|lower| *lower < regency);
        lower
            .into_iter()
            .find(|lower| self.choosable(*lower, value, electorate))
    }

    /// A vote of a higher regency, for another value, that this vote breaks: since `value` can now be chosen at `regency`.
    /// Only a vote below a promise can do that.
    #[must_use]
    pub fn broken(
        &self,
        regency: Regency,
        value: Value,
        electorate: &Electorate,
    ) -> Option<Regency> {
        let above = self
            .by_regency
            .range(Regency(regency.0.saturating_add(1))..);
        above
            .flat_map(|(higher, values)| values.keys().map(move |other| (*higher, *other)))
            .filter(|(_, other)| *other != value)
            .find(|(_, other)| self.choosable(regency, *other, electorate))
            .map(|(higher, _)| higher)
    }

    fn choosable(&self, at: Regency, except: Value, electorate: &Electorate) -> bool {
        let empty = BTreeMap::new();
        let values = self.by_regency.get(&at).unwrap_or(&empty);
        let voted: NodeSet = values
            .values()
            .fold(NodeSet::EMPTY, |all, voters| all.union(*voters));
        let open =
            |(node, promised): &(&NodeId, &Regency)| **promised <= at && !voted.contains(**node);
        let open = electorate.promised.iter().filter(open).count();
        // The strongest rival is the one with the most votes; a value nobody voted for has none.
        let rivals = values
            .iter()
            .filter(|(value, _)| **value != except)
            .map(|(_, voters)| voters.len());
        let strongest = rivals.max().unwrap_or(0);
        strongest + open + electorate.byzantine >= electorate.learn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twostep_engine::types::Digest;

    const A: Value = Value(Digest([1; 32]));
    const B: Value = Value(Digest([2; 32]));

    /// n = 6, f = 1: five correct acceptors, all in `regency`.
    fn electorate(regency: u64) -> Electorate {
        let promised = (0..5)
            .map(|node| (NodeId(node), Regency(regency)))
            .collect();
        Electorate {
            promised,
            byzantine: 1,
            learn: 5,
        }
    }

    fn votes(entries: &[(u16, u64, Value)]) -> Votes {
        let mut votes = Votes::default();
        for (node, regency, value) in entries {
            assert!(votes.insert(NodeId(*node), Regency(*regency), *value));
        }
        votes
    }

    #[test]
    fn a_second_value_in_one_regency_is_seen() {
        let mut votes = votes(&[(0, 3, A)]);
        assert!(votes.insert(NodeId(0), Regency(3), A));
        assert!(!votes.insert(NodeId(0), Regency(3), B));
    }

    #[test]
    fn a_value_with_enough_votes_below_forbids_another_above() {
        // Three correct votes and everybody promised: with the liar that is four of five, so A is dead.
        let dead = votes(&[(0, 0, A), (1, 0, A), (2, 0, A)]);
        assert_eq!(dead.rival(Regency(1), B, &electorate(1)), None);
        // A fourth makes it choosable.
        let alive = votes(&[(0, 0, A), (1, 0, A), (2, 0, A), (3, 0, A)]);
        assert_eq!(alive.rival(Regency(1), B, &electorate(1)), Some(Regency(0)));
        assert_eq!(alive.rival(Regency(1), A, &electorate(1)), None);
        assert!(alive.can_be_learned(A, &electorate(1)) && !dead.can_be_learned(A, &electorate(1)));
    }

    #[test]
    fn an_acceptor_that_has_not_promised_can_still_vote_below() {
        let votes = votes(&[(0, 0, A), (1, 0, A), (2, 0, A)]);
        let mut electorate = electorate(1);
        electorate.promised.insert(NodeId(4), Regency(0));
        assert_eq!(votes.rival(Regency(1), B, &electorate), Some(Regency(0)));
    }

    #[test]
    fn a_late_vote_below_is_seen_from_below() {
        // B was voted above when A had three votes; the fourth, below a promise, makes A choosable.
        let before = votes(&[(0, 0, A), (1, 0, A), (2, 0, A), (4, 1, B)]);
        assert_eq!(before.broken(Regency(0), A, &electorate(1)), None);
        let after = votes(&[(0, 0, A), (1, 0, A), (2, 0, A), (4, 1, B), (3, 0, A)]);
        assert_eq!(
            after.broken(Regency(0), A, &electorate(1)),
            Some(Regency(1))
        );
        let same = votes(&[(0, 0, A), (1, 0, A), (2, 0, A), (4, 1, A), (3, 0, A)]);
        assert_eq!(same.broken(Regency(0), A, &electorate(1)), None);
    }

    #[test]
    fn a_regency_that_all_skipped_is_closed() {
        assert_eq!(votes(&[]).rival(Regency(5), A, &electorate(5)), None);
        assert_eq!(
            votes(&[]).rival(Regency(5), A, &electorate(4)),
            Some(Regency(4))
        );
    }
}
