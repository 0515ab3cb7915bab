//! The numbers of the protocol, each a type of its own so that none can stand in for another.
//!
//! Names are those of PROTOCOL.md section 1. All of them are plain data: `Copy`, ordered, printable.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

pub use twostep_crypto::{ClientId, ClusterId, Digest, Epoch, NodeId, Party};

/// The number of one consensus instance: the sequence number of a batch. The first decree is 1; 0 means
/// "none yet" (the `low` and `learned` of a fresh node).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decree(pub u64);

impl Decree {
    /// Before the first decree.
    pub const NONE: Decree = Decree(0);

    /// The decree after this one. Saturates, so that a hostile number cannot overflow.
    #[must_use]
    pub fn next(self) -> Decree {
        Decree(self.0.saturating_add(1))
    }

    /// `self + count`, saturating.
    #[must_use]
    pub fn plus(self, count: u64) -> Decree {
        Decree(self.0.saturating_add(count))
    }

    /// How many decrees lie above `base` up to and including this one; 0 if it is not above.
    #[must_use]
    pub fn since(self, base: Decree) -> u64 {
        self.0.saturating_sub(base.0)
    }
}

impl fmt::Display for Decree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who leads: `leader(r) = r mod P`. It is also the proposal number (psn): one proposal per regency and
/// decree, so a decree needs no numbers of its own (PROTOCOL.md section 6, L1, L2, L4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Regency(pub u64);

impl fmt::Display for Regency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What acceptors vote for: the digest of a batch (PROTOCOL.md section 1). Bodies travel once; votes carry values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub Digest);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a journal record of one node, ascending by one from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordSeq(pub u64);

/// A client's session: the decree and the index in it of the Open that made it, so it is never used again
/// (PROTOCOL.md section 5.1). [`SessionId::NONE`] stands in the Open itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The decree that ordered the Open.
    pub decree: Decree,
    /// The position of the Open among the requests of that decree.
    pub index: u32,
}

impl SessionId {
    /// No session yet.
    pub const NONE: SessionId = SessionId {
        decree: Decree::NONE,
        index: 0,
    };
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.decree, self.index)
    }
}

/// The number that a client gives a request within its session, ascending from 1. In an Open it is a nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Nanoseconds since the host started. The engine never reads a clock: the host says what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, by: Duration) -> Time {
        Time(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

/// The most nodes that one configuration can have: [`NodeSet`] is one machine word of this many bits.
pub const NODES_MAX: usize = 128;

/// A set of nodes, one bit each: quorums are counted in it, so nobody is counted twice.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeSet(u128);

impl NodeSet {
    /// No node.
    pub const EMPTY: NodeSet = NodeSet(0);

    /// Just one node. A node beyond [`NODES_MAX`] is in no set.
    #[must_use]
    pub fn one(node: NodeId) -> NodeSet {
        NodeSet(1u128.checked_shl(u32::from(node.0)).unwrap_or(0))
    }

    /// Puts `node` in; false if it was in already.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 |= NodeSet::one(node).0;
        self.0 != before
    }

    /// Takes `node` out.
    pub fn remove(&mut self, node: NodeId) {
        self.0 &= !NodeSet::one(node).0;
    }

    /// Whether `node` is in.
    #[must_use]
    pub fn contains(self, node: NodeId) -> bool {
        self.0 & NodeSet::one(node).0 != 0
    }

    /// How many nodes are in.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes of either set.
    #[must_use]
    pub fn union(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 | other.0)
    }

    /// The nodes of this set that are not in the other.
    #[must_use]
    pub fn minus(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & !other.0)
    }

    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let node = rest.trailing_zeros();
            rest &= rest - 1;
            Some(NodeId(
                u16::try_from(node).expect("a word has fewer than 2^16 bits"),
            ))
        })
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> NodeSet {
        let mut set = NodeSet::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|node| node.0))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_once() {
        let mut set = NodeSet::EMPTY;
        assert!(set.insert(NodeId(3)));
        assert!(!set.insert(NodeId(3)), "a second insert must not count");
        assert!(set.insert(NodeId(127)));
        assert!(!set.insert(NodeId(128)), "beyond the word: in no set");
        assert_eq!(set.len(), 2);
        assert_eq!(set.iter().collect::<Vec<_>>(), [NodeId(3), NodeId(127)]);
    }

    #[test]
    fn hostile_numbers_saturate() {
        assert_eq!(Decree(u64::MAX).next(), Decree(u64::MAX));
        assert_eq!(Decree(3).since(Decree(7)), 0);
        assert_eq!(Time(u64::MAX) + Duration::from_secs(1), Time(u64::MAX));
    }
}
