//! How many signatures a node made and checked, by what they stand under.
//!
//! The common path has none: under steady load only `checkpoints` moves, every K decrees, `snapshots`, every S, and `bundles` if clients sign
//! (PROTOCOL.md sections 3 and 5). Numbers that move otherwise mean a leader change, or somebody who makes this node check.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// Signatures by what they stand under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signatures {
    /// Votes for a regency.
    pub votes: u64,
    /// Votes in proofs of leadership.
    pub proofs: u64,
    /// Reports that came to this node as the new leader, or its own.
    pub reports: u64,
    /// Reports in vouchers.
    pub vouchers: u64,
    /// Checkpoints, in claims and in certificates.
    pub checkpoints: u64,
    /// Snapshots, in claims and in certificates.
    #[serde(default)]
    pub snapshots: u64,
    /// Bundles of clients.
    pub bundles: u64,
}

impl Signatures {
    /// How many there are in all.
    #[must_use]
    pub fn total(self) -> u64 {
        let Signatures {
            votes,
            proofs,
            reports,
            vouchers,
            checkpoints,
            snapshots,
            bundles,
        } = self;
        votes + proofs + reports + vouchers + checkpoints + snapshots + bundles
    }

    /// The sum of two counts.
    #[must_use]
    pub fn plus(self, other: Signatures) -> Signatures {
        Signatures {
            votes: self.votes + other.votes,
            proofs: self.proofs + other.proofs,
            reports: self.reports + other.reports,
            vouchers: self.vouchers + other.vouchers,
            checkpoints: self.checkpoints + other.checkpoints,
            snapshots: self.snapshots + other.snapshots,
            bundles: self.bundles + other.bundles,
        }
    }
}

/// Signatures that were checked, valid or not. Checking changes nothing else, so it counts behind a shared reference.
#[derive(Debug, Default)]
pub struct Checked(Cell<Signatures>);

impl Checked {
    /// Counts what `add` says.
    pub fn count(&self, add: impl FnOnce(&mut Signatures)) {
        let mut signatures = self.0.get();
        add(&mut signatures);
        self.0.set(signatures);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> Signatures {
        self.0.get()
    }
}
