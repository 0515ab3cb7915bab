//! What learners sign of a snapshot, and what certifies it (PROTOCOL.md section 5.4).

use twostep_crypto::{Context, Signable, Signature};

use crate::types::{Decree, Digest, NodeId};

/// What a learner says at a multiple of S (PROTOCOL.md section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The decree s.
    pub decree: Decree,
    /// The digest of the order up to s.
    pub chain: Digest,
    /// The digest of the results up to s.
    pub results: Digest,
    /// The digest of its manifest, which covers state and sessions.
    pub root: Digest,
}

impl Signable for Snapshot {
    const CONTEXT: Context = Context::Snapshot;
    fn write_signable(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.decree.0.to_le_bytes());
        out.extend_from_slice(&self.chain.0);
        out.extend_from_slice(&self.results.0);
        out.extend_from_slice(&self.root.0);
    }
}

/// A snapshot with the learner that has it. Signed in Byzantine modes; mode C trusts the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotClaim {
    /// Which snapshot.
    pub snapshot: Snapshot,
    /// Who has it.
    pub learner: NodeId,
    /// The proof; all zero in mode C.
    pub signature: Signature,
}

/// f+1 learners have the same snapshot, so a correct one has: transferable, and may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotCertificate {
    /// Which snapshot.
    pub snapshot: Snapshot,
    /// The learners, ascending.
    pub voices: Vec<SnapshotVoice>,
}

/// One learner's part of a [`SnapshotCertificate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotVoice {
    /// Who.
    pub learner: NodeId,
    /// Its signature over the whole snapshot; all zero in mode C.
    pub signature: Signature,
}

impl SnapshotVoice {
    /// The voice of a claim.
    #[must_use]
    pub fn of(claim: &SnapshotClaim) -> SnapshotVoice {
        SnapshotVoice {
            learner: claim.learner,
            signature: claim.signature,
        }
    }
}

impl SnapshotCertificate {
    /// The claims that it is made of.
    pub fn claims(&self) -> impl Iterator<Item = SnapshotClaim> {
        self.voices.iter().map(|voice| SnapshotClaim {
            snapshot: self.snapshot,
            learner: voice.learner,
            signature: voice.signature,
        })
    }
}
