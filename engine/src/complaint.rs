//! What a proposer makes of acceptors that cannot verify a client's bundles (PROTOCOL.md section 5.1).
//!
//! | event | rule |
//! |---|---|
//! | f+1 distinct acceptors complain about a client in this regency | the client is *on signatures*: its tagged bundles are refused with `WantSignature`, until the next regency, since a lying leader may have spoilt the tags |
//! | f+1 distinct acceptors complain about one bundle that this leader proposed | ask the client for its signature of it, at most once per T0/4 |
//! | the signature verifies | keep it, send it to all acceptors and proposers, and to whoever complains later |
//! | asked, not signed and nothing new learned for T/2 | the leader itself votes for the next regency |
//! | a regency ends while such a bundle is neither signed nor decided | its client stays on signatures for good: one client identity costs at most one leader change |
//!
//! Fewer than f+1 complaints do nothing at all: f acceptors may lie, and if fewer than f+1 correct ones doubt
//! a bundle, the others convince them ([`crate::doubt`]). So a lying acceptor can put nobody on signatures.
//!
//! Bounded: clients that are not in the directory count for nothing; every acceptor may name [`NAMED_MAX`] bundles
//! that are not decided yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use twostep_crypto::Signature;

use crate::machine::earlier;
use crate::types::{ClientId, Decree, Digest, NodeId, NodeSet, Time};

/// The most undecided bundles that one acceptor may complain about.
pub const NAMED_MAX: usize = 1024;

/// A client's bundle.
pub type Named = (ClientId, Digest);

/// A bundle may stand in several decrees, and a liar may name a wrong one.
type Key = (ClientId, Digest, Decree);

/// The complaints that one proposer heard in its regency, and the clients that stay on signatures.
#[derive(Debug)]
pub struct Complaints {
    /// How many distinct acceptors make a complaint count.
    vouch: usize,
    /// By client: who complained about it in this regency.
    accusers: BTreeMap<ClientId, NodeSet>,
    bundles: BTreeMap<Key, Complaint>,
    /// By node: how many of `bundles` it complained about.
    shares: Vec<usize>,
    for_good: BTreeSet<ClientId>,
    /// When something new was learned last.
    progress_at: Time,
    /// Whether the leader has given up on its own regency.
    gave_up: bool,
}

/// What is known of one bundle that somebody complained about.
#[derive(Clone, Copy, Debug)]
struct Complaint {
    from: NodeSet,
    /// When the client was asked for the first and the last time.
    asked: Option<(Time, Time)>,
    signature: Option<Signature>,
    /// Which nodes sent a signature that does not verify, and whether the client did.
    forgers: NodeSet,
    forged_by_client: bool,
}

/// What a complaint leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing more.
    Noted,
    /// The bundle is signed: show the signature to whoever complains.
    Signed(Signature),
    /// f+1 acceptors complain about this very bundle: a leader that proposed it asks the client.
    Ask,
}

impl Complaints {
    /// No complaints, in a cluster of `nodes` nodes. `vouch` is [`crate::quorum::Quorums::vouch`].
    #[must_use]
    pub fn new(vouch: usize, nodes: usize) -> Complaints {
        Complaints {
            vouch,
            accusers: BTreeMap::new(),
            bundles: BTreeMap::new(),
            shares: vec![0; nodes],
            for_good: BTreeSet::new(),
            progress_at: Time(0),
            gave_up: false,
        }
    }

    /// Takes the complaint of an acceptor of this regency about a client of the directory and an open decree.
    pub fn hear(&mut self, from: NodeId, decree: Decree, named: Named) -> Consequence {
        self.accusers.entry(named.0).or_default().insert(from);
        let Some(share) = self.shares.get_mut(usize::from(from.0)) else {
            return Consequence::Noted;
        };
        let key = (named.0, named.1, decree);
        let known = self.bundles.get(&key);
        let new = known.is_none_or(|complaint| !complaint.from.contains(from));
        if new && *share >= NAMED_MAX {
            return Consequence::Noted;
        }
        *share += usize::from(new);
        let complaint = self.bundles.entry(key).or_insert(Complaint {
            from: NodeSet::EMPTY,
            asked: None,
            signature: None,
            forgers: NodeSet::EMPTY,
            forged_by_client: false,
        });
        complaint.from.insert(from);
        match complaint.signature {
            Some(signature) => Consequence::Signed(signature),
            None if complaint.from.len() >= self.vouch => Consequence::Ask,
            None => Consequence::Noted,
        }
    }

    /// Whether tagged bundles of this client are refused.
    #[must_use]
    pub fn on_signatures(&self, client: ClientId) -> bool {
        self.for_good.contains(&client)
            || self
                .accusers
                .get(&client)
                .is_some_and(|accusers| accusers.len() >= self.vouch)
    }

    /// Whether the client may be asked now for its signature of a bundle that this leader proposed; if so, not
    /// again for `pause`.
    pub fn may_ask(&mut self, named: Named, decree: Decree, now: Time, pause: Duration) -> bool {
        let Some(complaint) = self.bundles.get_mut(&(named.0, named.1, decree)) else {
            return false;
        };
        let may = match complaint.asked {
            Some((_, last)) => now.since(last) >= pause,
            None => true,
        };
        if may {
            let first = complaint.asked.map_or(now, |(first, _)| first);
            complaint.asked = Some((first, now));
        }
        may
    }

    /// Whether the client was asked for this bundle of this decree before.
    #[must_use]
    pub fn was_asked(&self, named: Named, decree: Decree) -> bool {
        self.bundles
            .get(&(named.0, named.1, decree))
            .is_some_and(|complaint| complaint.asked.is_some())
    }

    /// Whether a signature is worth a check: f+1 acceptors complain, none is held, and `from` sent no bad one before.
    /// The client itself is `None`, and must have been asked.
    #[must_use]
    pub fn wants_signature(&self, named: Named, from: Option<NodeId>) -> bool {
        self.bundles.range(keys(named)).any(|(_, complaint)| {
            let trusted = match from {
                Some(node) => !complaint.forgers.contains(node),
                None => complaint.asked.is_some() && !complaint.forged_by_client,
            };
            trusted && complaint.signature.is_none() && complaint.from.len() >= self.vouch
        })
    }

    /// A signature that `from` sent does not verify.
    pub fn forged(&mut self, named: Named, from: Option<NodeId>) {
        for (_, complaint) in self.bundles.range_mut(keys(named)) {
            match from {
                Some(node) => {
                    complaint.forgers.insert(node);
                }
                None => complaint.forged_by_client = true,
            }
        }
    }

    /// The client's signature was verified.
    pub fn signed(&mut self, named: Named, signature: Signature) {
        for (_, complaint) in self.bundles.range_mut(keys(named)) {
            complaint.signature = Some(signature);
        }
    }

    /// f+1 learners acknowledged everything up to `decree`: what was complained about below it is settled.
    pub fn progressed(&mut self, now: Time, decree: Decree) {
        self.progress_at = now;
        let shares = &mut self.shares;
        self.bundles.retain(|(_, _, named), complaint| {
            let open = *named > decree;
            if !open {
                for node in complaint.from.iter() {
                    shares[usize::from(node.0)] -= 1;
                }
            }
            open
        });
    }

    /// Whether work is known to wait: f+1 acceptors hold a proposal that they do not vote for, so one of them is
    /// correct and the proposal is real.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.bundles
            .values()
            .any(|complaint| complaint.from.len() >= self.vouch)
    }

    /// Whether a client that was asked has not signed for `patience`, in which nothing was learned either: the leader
    /// gives its regency up, once.
    pub fn gives_up(&mut self, now: Time, patience: Duration) -> bool {
        let overdue = self.deadline(patience).is_some_and(|at| at <= now);
        self.gave_up |= overdue;
        overdue
    }

    /// When [`Complaints::gives_up`] will say so.
    #[must_use]
    pub fn deadline(&self, patience: Duration) -> Option<Time> {
        if self.gave_up || self.bundles.is_empty() {
            return None;
        }
        let unsigned = self
            .bundles
            .values()
            .filter(|complaint| complaint.signature.is_none());
        unsigned
            .filter_map(|complaint| complaint.asked)
            .map(|(first, _)| Some(first.max(self.progress_at) + patience))
            .fold(None, earlier)
    }

    /// Another regency begins. What f+1 acceptors complain about, and what is neither signed nor decided, is held against
    /// its client for good; gives those clients.
    pub fn entered(&mut self) -> Vec<ClientId> {
        let unsigned = self.bundles.iter().filter(|(_, complaint)| {
            complaint.from.len() >= self.vouch && complaint.signature.is_none()
        });
        let clients: BTreeSet<ClientId> = unsigned.map(|((client, ..), _)| *client).collect();
        let new = clients.difference(&self.for_good).copied().collect();
        self.for_good.extend(clients);
        self.accusers.clear();
        self.bundles.clear();
        self.shares.fill(0);
        self.gave_up = false;
        new
    }
}

fn keys((client, bundle): Named) -> RangeInclusive<Key> {
    (client, bundle, Decree::NONE)..=(client, bundle, Decree(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: ClientId = ClientId([1; 16]);
    const BOB: ClientId = ClientId([2; 16]);
    const D: Decree = Decree(3);
    const PAUSE: Duration = Duration::from_nanos(10);
    const PATIENCE: Duration = Duration::from_nanos(100);
    const SIGNATURE: Signature = Signature([7; 64]);

    fn complaints() -> Complaints {
        Complaints::new(2, 6)
    }

    fn named(client: ClientId, bundle: u8) -> Named {
        (client, Digest([bundle; 32]))
    }

    #[test]
    fn fewer_than_f_plus_one_put_nobody_on_signatures() {
        let mut complaints = complaints();
        for bundle in 0..100 {
            let heard = complaints.hear(NodeId(5), Decree(1), named(ALICE, bundle));
            assert_eq!(heard, Consequence::Noted);
        }
        assert!(!complaints.on_signatures(ALICE) && !complaints.waits());
        let heard = complaints.hear(NodeId(4), Decree(1), named(ALICE, 200));
        assert_eq!(heard, Consequence::Noted, "two, but about two bundles");
        assert!(complaints.on_signatures(ALICE) && !complaints.on_signatures(BOB));
        assert_eq!(complaints.entered(), []);
        assert!(!complaints.on_signatures(ALICE), "until the next regency");
    }

    #[test]
    fn a_client_that_signs_is_back_on_tags_with_the_next_leader() {
        let mut complaints = complaints();
        let bundle = named(ALICE, 1);
        complaints.hear(NodeId(1), D, bundle);
        assert!(!complaints.wants_signature(bundle, Some(NodeId(1))));
        assert_eq!(complaints.hear(NodeId(2), D, bundle), Consequence::Ask);
        assert!(!complaints.wants_signature(bundle, None), "not yet asked");
        assert!(complaints.may_ask(bundle, D, Time(5), PAUSE));
        assert!(!complaints.may_ask(bundle, D, Time(14), PAUSE));
        assert!(complaints.may_ask(bundle, D, Time(15), PAUSE));
        assert!(complaints.wants_signature(bundle, None));
        complaints.signed(bundle, SIGNATURE);
        assert!(!complaints.wants_signature(bundle, None), "one is enough");
        assert_eq!(
            complaints.hear(NodeId(3), D, bundle),
            Consequence::Signed(SIGNATURE)
        );
        assert!(!complaints.gives_up(Time(10_000), PATIENCE));
        assert_eq!(complaints.entered(), []);
        assert!(!complaints.on_signatures(ALICE));
    }

    #[test]
    fn a_client_that_does_not_sign_costs_one_regency() {
        let mut complaints = complaints();
        let bundle = named(ALICE, 1);
        for node in [1, 2] {
            complaints.hear(NodeId(node), D, bundle);
        }
        assert!(complaints.waits());
        assert_eq!(complaints.deadline(PATIENCE), None, "nobody asked");
        assert!(complaints.may_ask(bundle, D, Time(50), PAUSE));
        complaints.progressed(Time(70), Decree(2));
        assert_eq!(complaints.deadline(PATIENCE), Some(Time(170)));
        assert!(!complaints.gives_up(Time(169), PATIENCE));
        assert!(complaints.gives_up(Time(170), PATIENCE));
        assert!(!complaints.gives_up(Time(171), PATIENCE), "once is enough");
        assert_eq!(complaints.entered(), [ALICE]);
        assert!(complaints.on_signatures(ALICE) && !complaints.waits());
        assert_eq!(complaints.entered(), []);
        assert!(complaints.on_signatures(ALICE), "for good");
    }

    #[test]
    fn what_is_decided_is_held_against_nobody() {
        let mut complaints = complaints();
        for node in [1, 2] {
            complaints.hear(NodeId(node), D, named(ALICE, 1));
        }
        complaints.may_ask(named(ALICE, 1), D, Time(0), PAUSE);
        complaints.progressed(Time(1), D);
        assert!(!complaints.waits());
        assert_eq!(complaints.deadline(PATIENCE), None);
        assert_eq!(complaints.entered(), []);
    }

    #[test]
    fn bad_signatures_are_checked_once_per_sender() {
        let mut complaints = complaints();
        let bundle = named(ALICE, 1);
        for node in [1, 2] {
            complaints.hear(NodeId(node), D, bundle);
        }
        assert!(complaints.wants_signature(bundle, Some(NodeId(5))));
        complaints.forged(bundle, Some(NodeId(5)));
        assert!(!complaints.wants_signature(bundle, Some(NodeId(5))));
        assert!(complaints.wants_signature(bundle, Some(NodeId(4))));
        complaints.may_ask(bundle, D, Time(0), PAUSE);
        complaints.forged(bundle, None);
        assert!(!complaints.wants_signature(bundle, None));
    }

    #[test]
    fn one_acceptor_names_so_many_bundles_and_no_more() {
        let mut complaints = complaints();
        let many = |number: u64| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            (ALICE, Digest(digest))
        };
        for number in 0..3 * NAMED_MAX as u64 {
            complaints.hear(NodeId(5), Decree(9), many(number));
        }
        assert_eq!(complaints.bundles.len(), NAMED_MAX);
        // Another's complaints still count.
        for node in [1, 2] {
            complaints.hear(NodeId(node), Decree(9), named(BOB, 1));
        }
        assert!(complaints.on_signatures(BOB) && complaints.waits());
        complaints.progressed(Time(1), Decree(9));
        assert!(complaints.bundles.is_empty());
        complaints.hear(NodeId(5), Decree(10), many(1));
        assert_eq!(complaints.bundles.len(), 1, "its share is free again");
    }
}
