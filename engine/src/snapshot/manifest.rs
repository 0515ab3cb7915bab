//! The manifest of a snapshot: what learners sign in 32 bytes.
//!
//! `chunks u32 | digest of each …`. The root is the digest of these bytes, under another context than the chunks', so
//! no chunk can stand for a manifest.

use twostep_crypto::{Context, Scope};

use crate::types::Digest;

/// The number of chunks in front. Bytes.
pub(super) const HEADER_BYTES: usize = 4;
/// Bytes of one digest.
pub(super) const DIGEST_BYTES: usize = 32;

/// The digests of all chunks of a snapshot, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    chunks: Vec<Digest>,
}

impl Manifest {
    /// Adds the next chunk.
    pub fn push(&mut self, scope: &Scope, chunk: &[u8]) {
        self.chunks.push(scope.digest(Context::State, chunk));
    }

    /// How many chunks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether these are the bytes of the chunk at `place`, counted from 0.
    #[must_use]
    pub fn proves(&self, scope: &Scope, place: usize, chunk: &[u8]) -> bool {
        let digest = self.chunks.get(place);
        digest.is_some_and(|digest| *digest == scope.digest(Context::State, chunk))
    }

    /// The bytes as they travel.
    ///
    /// # Panics
    /// If there are 2^32 chunks, which no limit allows.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u32::try_from(self.chunks.len()).expect("limits bound the chunks");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.chunks.len() * DIGEST_BYTES);
        bytes.extend_from_slice(&count.to_le_bytes());
        for digest in &self.chunks {
            bytes.extend_from_slice(&digest.0);
        }
        bytes
    }

    /// The manifest with this root; none if the bytes are another one, or none at all.
    #[must_use]
    pub fn parse(scope: &Scope, root: Digest, bytes: &[u8]) -> Option<Manifest> {
        if self::root(scope, bytes) != root {
            return None;
        }
        let (count, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (chunks, behind) = rest.as_chunks::<DIGEST_BYTES>();
        let fits = behind.is_empty() && chunks.len() == u32::from_le_bytes(*count) as usize;
        fits.then(|| Manifest {
            chunks: chunks.iter().copied().map(Digest).collect(),
        })
    }
}

/// What learners sign: the digest of a manifest's bytes.
pub(super) fn root(scope: &Scope, manifest: &[u8]) -> Digest {
    scope.digest(Context::Snapshot, manifest)
}
