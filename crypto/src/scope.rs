//! A scope binds digests, keys and signatures to (protocol version, cluster id, epoch), as PROTOCOL.md section 3 demands.
//!
//! Rather than hash these fields in front of every message, they are hashed once into one BLAKE3 key per [`Context`]:
//!
//! ```text
//! master       = derive_key("twostep v1 scope", version ‖ cluster id ‖ epoch)
//! key(context) = keyed_hash(master, name of the context)
//! digest       = keyed_hash(key(context), bytes)
//! ```
//!
//! The keys are public; they separate, they do not hide. A keyed hash costs the same as a plain one.

use std::sync::Arc;

use crate::digest::{Context, Digest, Hasher};
use crate::ids::{ClusterId, Epoch, PROTOCOL_VERSION};

/// The scope of one epoch of one cluster. A clone costs a counter.
#[derive(Clone)]
pub struct Scope {
    cluster: ClusterId,
    epoch: Epoch,
    keys: Arc<[[u8; 32]]>,
}

impl Scope {
    /// Derives the keys of all contexts; some microseconds, once per epoch.
    #[must_use]
    pub fn new(cluster: ClusterId, epoch: Epoch) -> Scope {
        Scope::with_version(PROTOCOL_VERSION, cluster, epoch)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A hasher for bytes that come in pieces.
    #[must_use]
    pub fn hasher(&self, context: Context) -> Hasher {
        Hasher(blake3::Hasher::new_keyed(self.key(context)))
    }

    /// The digest of `bytes` under `context`.
    #[must_use]
    pub fn digest(&self, context: Context, bytes: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(self.key(context), bytes).as_bytes())
    }

    /// The key of a context: 32 bytes that stand for (version, cluster, epoch, context).
    pub(crate) fn key(&self, context: Context) -> &[u8; 32] {
        &self.keys[context as usize]
    }

    fn with_version(version: u16, cluster: ClusterId, epoch: Epoch) -> Scope {
        let master = *blake3::Hasher::new_derive_key("twostep v1 scope")
            .update(&version.to_le_bytes())
            .update(&cluster.0)
            .update(&epoch.0.to_le_bytes())
            .finalize()
            .as_bytes();
        let key = |c: &Context| *blake3::keyed_hash(&master, c.name().as_bytes()).as_bytes();
        Scope {
            cluster,
            epoch,
            keys: Context::ALL.iter().map(key).collect(),
        }
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("cluster", &self.cluster)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn version_cluster_epoch_and_context_separate() {
        let (a, b) = (ClusterId([1; 32]), ClusterId([2; 32]));
        let scopes = [
            Scope::new(a, Epoch(0)),
            Scope::new(b, Epoch(0)),
            Scope::new(a, Epoch(1)),
            Scope::with_version(PROTOCOL_VERSION + 1, a, Epoch(0)),
        ];
        let mut seen = BTreeSet::new();
        for &context in Context::ALL {
            seen.insert(crate::digest_unscoped(context, b"same bytes"));
            for scope in &scopes {
                seen.insert(scope.digest(context, b"same bytes"));
            }
        }
        assert_eq!(seen.len(), Context::ALL.len() * (scopes.len() + 1));
    }

    #[test]
    fn pieces_and_whole_agree() {
        let scope = Scope::new(ClusterId([1; 32]), Epoch(7));
        let bytes: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let whole = scope.digest(Context::Bundle, &bytes);
        for size in [1, 63, 64, 1024, 4096] {
            let mut hasher = scope.hasher(Context::Bundle);
            for piece in bytes.chunks(size) {
                hasher.update(piece);
            }
            assert_eq!(hasher.finish(), whole);
        }
        assert_ne!(scope.digest(Context::Bundle, &bytes[1..]), whole);
    }

    #[test]
    fn the_derivation_is_pinned() {
        // Two versions of this crate that derive differently could not talk to each other: changing this digest is a new protocol version.
        let scope = Scope::new(ClusterId([9; 32]), Epoch(3));
        assert_eq!(
            scope.digest(Context::Value, b"twostep").to_string(),
            "5e8b6c4fc9e0bdc79cf1140be5778e3182d38284e97dc3f1422f3a49ed194947"
        );
    }
}
