//! A proposal that an acceptor would vote for if it could verify all of its bundles (PROTOCOL.md section 5.1).
//!
//! Bad tags are not attributable: a bad client and a bad leader look alike, and one bad entry must not stall a
//! decree. So an acceptor that cannot verify a bundle keeps the proposal and says `NackAuth`:
//!
//! | event | rule |
//! |---|---|
//! | a bundle of a proposal fails the own check | keep the proposal, say `NackAuth` for each such bundle to all acceptors and proposers; again when the proposal comes again, never from a timer |
//! | `NackAuth` at an acceptor that voted `(r, d, v)` | it answers `Accepted(r, d, v)`: it vouches for every bundle of `v` |
//! | `NackAuth` at an acceptor that doubts other bundles of the same proposal only | it answers `AckAuth`: it vouches for this bundle |
//! | f+1 distinct acceptors vouch for a bundle | they replace the own check: one of them is correct |
//! | the client's signature of the bundle | it replaces the own check too |
//! | no bundle is in doubt any more | vote, if the vote rule still allows it |
//!
//! Vouching is sound by induction: the first correct acceptor that vouches for a bundle has verified it. It is also
//! enough: fewer than f+1 correct acceptors that doubt a bundle leave at least 3f+1 that vouch for it; and f+1 that
//! doubt make the leader fetch the client's signature ([`crate::complaint`]). `AckAuth` matters when
//! several clients each spoil another acceptor's tag: then every acceptor may doubt something and none votes,
//! although nobody doubts any one bundle but a few.
//!
//! Bounded: one proposal per decree of the window, at most [`DOUBTED_MAX`] bundles of it in doubt at a time; those
//! behind them are examined when these are settled. Nothing of this runs while every check succeeds.

use std::collections::BTreeSet;

use twostep_crypto::Scope;

use crate::batch::{Batch, BundleView};
use crate::types::{ClientId, Digest, NodeId, NodeSet, Regency, Value};

/// The most bundles of one proposal that are in doubt at a time.
pub const DOUBTED_MAX: usize = 64;

/// One doubted proposal.
#[derive(Debug)]
pub struct Doubt {
    regency: Regency,
    batch: Batch,
    /// How many distinct acceptors replace the own check.
    vouch: usize,
    /// How many bundles of the batch were looked at.
    examined: usize,
    doubted: Vec<Doubted>,
    /// The digests of the bundles that are authentic, whoever convinced this acceptor.
    authentic: BTreeSet<Digest>,
    /// Who voted for the whole batch in this regency.
    voters: NodeSet,
}

#[derive(Debug)]
struct Doubted {
    client: ClientId,
    bundle: Digest,
    /// Who said that it verified this bundle.
    vouchers: NodeSet,
    /// Who sent a signature of it that does not verify: nothing more of theirs is checked.
    forgers: NodeSet,
    /// Whether the client itself did.
    forged_by_client: bool,
}

impl Doubt {
    /// A proposal of which nothing was examined yet. `vouch` is [`crate::quorum::Quorums::vouch`].
    #[must_use]
    pub fn new(regency: Regency, batch: Batch, vouch: usize) -> Doubt {
        Doubt {
            regency,
            batch,
            vouch,
            examined: 0,
            doubted: Vec::new(),
            authentic: BTreeSet::new(),
            voters: NodeSet::EMPTY,
        }
    }

    /// Looks at further bundles, until all were seen or [`DOUBTED_MAX`] are in doubt. `verifies` is the own check.
    pub fn examine(
        &mut self,
        scope: &Scope,
        mut verifies: impl FnMut(&BundleView<'_>, &Digest) -> bool,
    ) {
        for bundle in self.batch.bundles().skip(self.examined) {
            if self.doubted.len() == DOUBTED_MAX {
                return;
            }
            self.examined += 1;
            let digest = bundle.digest(scope);
            let known = self.authentic.contains(&digest)
                || self.doubted.iter().any(|doubted| doubted.bundle == digest);
            if known {
                continue;
            }
            if self.voters.len() >= self.vouch || verifies(&bundle, &digest) {
                self.authentic.insert(digest);
            } else {
                self.doubted.push(Doubted {
                    client: bundle.client,
                    bundle: digest,
                    vouchers: NodeSet::EMPTY,
                    forgers: NodeSet::EMPTY,
                    forged_by_client: false,
                });
            }
        }
    }

    /// The regency of the proposal.
    #[must_use]
    pub fn regency(&self) -> Regency {
        self.regency
    }

    /// What was proposed.
    #[must_use]
    pub fn value(&self) -> Value {
        self.batch.value()
    }

    /// The proposal itself.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Takes the proposal out, to vote for it.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        self.batch
    }

    /// The bundles that are in doubt, with the clients that should have made them.
    pub fn doubted(&self) -> impl Iterator<Item = (ClientId, Digest)> + '_ {
        self.doubted
            .iter()
            .map(|doubted| (doubted.client, doubted.bundle))
    }

    /// Whether this acceptor can vouch for a bundle of the proposal.
    #[must_use]
    pub fn vouches_for(&self, bundle: &Digest) -> bool {
        self.authentic.contains(bundle)
    }

    /// Whether a signature of this client's bundle, sent by `from`, is worth a check. A client itself is `None`.
    #[must_use]
    pub fn wants_signature(&self, client: ClientId, bundle: &Digest, from: Option<NodeId>) -> bool {
        self.doubted.iter().any(|doubted| {
            let trusted = from.map_or(!doubted.forged_by_client, |node| {
                !doubted.forgers.contains(node)
            });
            doubted.client == client && doubted.bundle == *bundle && trusted
        })
    }

    /// A signature that `from` sent does not verify; the client itself is `None`.
    pub fn forged(&mut self, bundle: &Digest, from: Option<NodeId>) {
        if let Some(doubted) = self.find(bundle) {
            match from {
                Some(node) => {
                    doubted.forgers.insert(node);
                }
                None => doubted.forged_by_client = true,
            }
        }
    }

    /// `acceptor` voted for this value in this regency: it vouches for every bundle of it.
    pub fn voted(&mut self, acceptor: NodeId) {
        self.voters.insert(acceptor);
        self.reckon();
    }

    /// `acceptor` says that it verified one bundle.
    pub fn vouched(&mut self, acceptor: NodeId, bundle: &Digest) {
        if let Some(doubted) = self.find(bundle) {
            doubted.vouchers.insert(acceptor);
            self.reckon();
        }
    }

    /// The client's signature of this bundle was verified.
    pub fn signed(&mut self, bundle: &Digest) {
        if self.find(bundle).is_some() {
            self.doubted.retain(|doubted| doubted.bundle != *bundle);
            self.authentic.insert(*bundle);
        }
    }

    /// Whether every bundle is authentic.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.doubted.is_empty() && self.examined == self.batch.len() as usize
    }

    /// Whether more bundles can be examined now.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.examined < self.batch.len() as usize && self.doubted.len() < DOUBTED_MAX
    }

    fn find(&mut self, bundle: &Digest) -> Option<&mut Doubted> {
        self.doubted
            .iter_mut()
            .find(|doubted| doubted.bundle == *bundle)
    }

    fn reckon(&mut self) {
        let (voters, vouch) = (self.voters, self.vouch);
        let settled = |doubted: &Doubted| doubted.vouchers.union(voters).len() >= vouch;
        let authentic = self.doubted.iter().filter(|doubted| settled(doubted));
        self.authentic
            .extend(authentic.map(|doubted| doubted.bundle));
        self.doubted.retain(|doubted| !settled(doubted));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use twostep_net::pool::{Body, Pool};

    use super::*;
    use crate::batch::{Bundle, BundleWriter, Request, RequestKind};
    use crate::configuration::Limits;
    use crate::types::{ClusterId, Epoch, Seq, SessionId};

    const VOUCH: usize = 2;
    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn scope() -> Scope {
        Scope::new(ClusterId([0; 32]), Epoch(0))
    }

    fn bundle(client: u8, seq: u64) -> Bundle {
        let mut writer = BundleWriter::new(ClientId([client; 16]));
        assert!(writer.push(&Request {
            kind: RequestKind::Operation,
            session: SessionId::NONE,
            seq: Seq(seq),
            operation: b"",
        }));
        let bytes = Body::from_vec(writer.finish_bare(&scope()).to_vec());
        Bundle::parse(bytes, &scope(), &Limits::default()).unwrap()
    }

    /// A doubt of a batch of these bundles, of which those of the `bad` clients fail the own check.
    fn doubt(bundles: &[Bundle], bad: &[u8]) -> Doubt {
        let mut waiting: VecDeque<Bundle> = bundles.to_vec().into();
        let batch = Batch::assemble(&Pool::new(0), &scope(), &mut waiting, 1 << 20);
        let mut doubt = Doubt::new(Regency(3), batch, VOUCH);
        examine(&mut doubt, bad);
        doubt
    }

    fn examine(doubt: &mut Doubt, bad: &[u8]) {
        doubt.examine(&scope(), |bundle, _| !bad.contains(&bundle.client.0[0]));
    }

    #[test]
    fn votes_of_f_plus_one_replace_every_check() {
        let bundles = [bundle(1, 1), bundle(2, 1), bundle(3, 1)];
        let mut doubt = doubt(&bundles, &[1, 3]);
        assert_eq!(doubt.doubted().count(), 2);
        doubt.voted(A);
        doubt.voted(A);
        assert!(!doubt.is_settled(), "the same acceptor twice is one");
        doubt.voted(B);
        assert!(doubt.is_settled());
    }

    #[test]
    fn vouchers_count_for_their_bundle_only_and_together_with_votes() {
        let bundles = [bundle(1, 1), bundle(2, 1)];
        let mut doubt = doubt(&bundles, &[1, 2]);
        let [one, two] = [0, 1].map(|place: usize| bundles[place].digest());
        assert!(!doubt.vouches_for(&one));
        doubt.vouched(A, &one);
        doubt.vouched(B, &two);
        doubt.vouched(A, &Digest([9; 32]));
        assert_eq!(doubt.doubted().count(), 2);
        doubt.voted(B);
        assert!(doubt.vouches_for(&one), "a voucher and a vote");
        assert!(!doubt.vouches_for(&two), "the same acceptor twice");
        doubt.vouched(A, &two);
        assert!(doubt.is_settled());
    }

    #[test]
    fn a_signature_settles_its_bundle() {
        let bundles = [bundle(1, 1), bundle(2, 1)];
        let mut doubt = doubt(&bundles, &[1]);
        let (client, one, two) = (ClientId([1; 16]), bundles[0].digest(), bundles[1].digest());
        assert!(doubt.wants_signature(client, &one, Some(A)));
        assert!(
            !doubt.wants_signature(client, &two, Some(A)),
            "it is verified"
        );
        assert!(!doubt.wants_signature(ClientId([2; 16]), &one, Some(A)));
        doubt.forged(&one, Some(A));
        assert!(
            !doubt.wants_signature(client, &one, Some(A)),
            "it lied before"
        );
        assert!(doubt.wants_signature(client, &one, Some(B)));
        doubt.signed(&two);
        assert!(!doubt.is_settled());
        doubt.signed(&one);
        assert!(doubt.is_settled() && doubt.vouches_for(&one));
    }

    #[test]
    fn what_is_in_doubt_is_bounded_and_the_rest_follows() {
        let bundles: Vec<Bundle> = (0..100).map(|seq| bundle(1, seq)).collect();
        let mut doubt = doubt(&bundles, &[1]);
        assert_eq!(doubt.doubted().count(), DOUBTED_MAX);
        assert!(!doubt.has_more());
        for bundle in &bundles[..DOUBTED_MAX] {
            assert!(!doubt.is_settled());
            doubt.signed(&bundle.digest());
        }
        assert!(!doubt.is_settled() && doubt.has_more(), "36 were not seen");
        examine(&mut doubt, &[1]);
        assert_eq!(doubt.doubted().count(), 100 - DOUBTED_MAX);
        doubt.voted(A);
        doubt.voted(B);
        assert!(doubt.is_settled());
    }

    #[test]
    fn a_bundle_that_stands_twice_is_doubted_once() {
        let twice = bundle(1, 1);
        let mut doubt = doubt(&[twice.clone(), twice.clone()], &[1]);
        assert_eq!(doubt.doubted().count(), 1);
        doubt.signed(&twice.digest());
        assert!(doubt.is_settled());
    }
}
