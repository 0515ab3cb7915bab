//! Digests: BLAKE3, always with a [`Context`] that says what is hashed.
//!
//! Almost everything is hashed through a [`Scope`](crate::Scope). [`digest_unscoped`] serves what exists before a cluster id does.

use crate::hex_text::hex_newtype;

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

hex_newtype!(Digest, "digest");

impl Digest {
    /// All zeroes: the start of running digests; nobody can find bytes that hash to it.
    pub const ZERO: Digest = Digest([0; 32]);

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Declares the contexts once, so that the list, the count and the names cannot drift apart.
macro_rules! contexts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a digest, key or signature is about. The same bytes under two contexts have nothing in common. The table is on the front page of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Context {
            $($(#[$doc])* $variant,)*
        }

        impl Context {
            /// Every context, in the order of declaration.
            pub const ALL: &'static [Context] = &[$(Context::$variant,)*];

            /// The string that separates this context from all others; part of the protocol: changing one is a new protocol version.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Context::$variant => concat!("twostep v1 ", $name),)*
                }
            }
        }
    };
}

contexts! {
    /// The value of a decree: header and bundle digests in order (PROTOCOL.md section 1).
    Value = "value",
    /// The requests that one client connection flushed together (PROTOCOL.md section 5.2).
    Bundle = "bundle",
    /// Running digest of the decided values (PROTOCOL.md section 5.4).
    Chain = "chain",
    /// Running digest of the results of execution (PROTOCOL.md section 5.4).
    Results = "results",
    /// One reply, where a decree has no room for it in full.
    Reply = "reply",
    /// What a decree made of one client's requests, so that most learners can answer with its digest only.
    Replies = "replies",
    /// The state of a state machine.
    State = "state",
    /// The configuration; hashed unscoped, since the cluster id comes from it.
    Configuration = "configuration",
    /// A client's public identity; hashed unscoped, since the id is the same in all clusters.
    Client = "client",
    /// Signed: a snapshot, and the root over its chunks.
    Snapshot = "snapshot",
    /// Key of one direction of a link.
    LinkKey = "link key",
    /// Key between one client and one node for the tags beside bundles.
    AuthenticatorKey = "authenticator key",
    /// Signed: a proposer's vote for a regency.
    Vote = "vote",
    /// Signed: an acceptor's report.
    Report = "report",
    /// Signed: a learner's checkpoint.
    Checkpoint = "checkpoint",
    /// Signed: a client's bundle, when its authenticators do not do.
    Request = "request",
    /// The first packet of a link.
    Hello = "hello",
    /// Seed of the signing key of an identity.
    SigningSeed = "signing seed",
    /// Secret of the key agreement of an identity.
    AgreementSeed = "agreement seed",
}

/// The digest of `bytes` under `context`, bound to no cluster: only for [`Context::Configuration`], [`Context::Client`] and what else must exist first.
#[must_use]
pub fn digest_unscoped(context: Context, bytes: &[u8]) -> Digest {
    Digest(blake3::derive_key(context.name(), bytes))
}

/// Takes bytes piece by piece; made by [`Scope::hasher`](crate::Scope::hasher). Pieces are simply joined: what can vary in length must carry its length.
#[derive(Clone)]
pub struct Hasher(pub(crate) blake3::Hasher);

impl Hasher {
    /// Adds `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The digest of everything added so far; adding may go on.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not derived: the key and the state of a hasher do not belong into a log.
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn contexts_have_distinct_names_and_digests() {
        let names: BTreeSet<_> = Context::ALL.iter().map(|c| c.name()).collect();
        let digests: BTreeSet<_> = Context::ALL
            .iter()
            .map(|&c| digest_unscoped(c, b"same bytes"))
            .collect();
        assert_eq!(names.len(), Context::ALL.len());
        assert_eq!(digests.len(), Context::ALL.len());
    }

    #[test]
    fn text_forms() {
        let digest = digest_unscoped(Context::Client, b"");
        assert_eq!(digest.to_string().len(), 64);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(format!("{:?}", Digest::ZERO), "Digest(00000000…)");
    }
}
