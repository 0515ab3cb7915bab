//! What correct proposers know to wait: the clock of the progress bound starts with it.
//!
//! A proposer suspects its leader for signed requests only, which are retried ones (PROTOCOL.md section 4). Until the
//! first of them reaches a correct proposer, nobody may suspect anything.

use std::collections::{BTreeMap, BTreeSet};

use twostep_engine::batch::{Batch, BundleView};
use twostep_engine::types::{ClientId, NodeId, NodeSet, Seq, SessionId};

/// Whose request, in which session, with which number.
type Name = (ClientId, SessionId, Seq);

/// The retried requests of a world.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Which proposers were told of what is not ordered.
    known: BTreeMap<Name, NodeSet>,
    ordered: BTreeSet<Name>,
}

impl Work {
    /// A correct proposer takes in a retried bundle.
    pub(super) fn told(&mut self, proposer: NodeId, bundle: &BundleView<'_>) {
        for request in bundle.requests() {
            let name = (bundle.client, request.session, request.seq);
            if !self.ordered.contains(&name) {
                let told = self.known.entry(name).or_insert(NodeSet::EMPTY);
                *told = told.union(NodeSet::one(proposer));
            }
        }
    }

    /// A proposer stops: it forgets what it was told.
    pub(super) fn forgotten(&mut self, proposer: NodeId) {
        for told in self.known.values_mut() {
            told.remove(proposer);
        }
    }

    /// A decree is delivered for the first time.
    pub(super) fn ordered(&mut self, batch: &Batch) {
        for bundle in batch.bundles() {
            for request in bundle.requests() {
                let name = (bundle.client, request.session, request.seq);
                self.known.remove(&name);
                self.ordered.insert(name);
            }
        }
    }

    /// Whether one of these proposers knows of a request that waits.
    pub(super) fn is_known_to(&self, proposers: NodeSet) -> bool {
        let known = |told: &NodeSet| told.iter().any(|node| proposers.contains(node));
        self.known.values().any(known)
    }
}
