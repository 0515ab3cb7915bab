//! Digests, message authentication, signatures and identities of `twostep`. No I/O but identity files, no clock, no state.
//!
//! # Which primitive guards what
//!
//! | What | Primitive | Against |
//! |---|---|---|
//! | values, bundles, chains, results, state | BLAKE3 of 32 bytes ([`Digest`]) | two contents behind one name |
//! | every packet of a link | keyed BLAKE3, 16 bytes ([`MacKey`], [`link_keys`]) | anybody but the two ends |
//! | bundles, one tag per node | the same, static key ([`authenticator_key`]) | a leader that invents a client's requests |
//! | votes, reports, checkpoints, snapshots, retried requests | Ed25519 ([`Signed`], [`Verified`], [`verify_batch`]) | a statement that its author later denies |
//! | who a node or client is | an [`Identity`] in a file of mode 0600 | mixed-up or leaked keys |
//!
//! MACs convince one receiver, so they carry what is said on the common path. Signatures convince everybody that a statement is passed on to, so they are kept for
//! leader changes, checkpoints and clients in doubt (PROTOCOL.md sections 3 and 5). Links are not encrypted: only authenticity is needed.
//!
//! # What everything covers
//!
//! Each digest, MAC and signature covers (protocol version, cluster id, epoch, message kind, sender), PROTOCOL.md section 3. A [`Scope`] turns the first four into one BLAKE3
//! key per [`Context`], once; the sender ([`Party`], 17 bytes) stands in front of what is signed, and in the derivation of every MAC key.
//!
//! | Context | Name after `twostep v1` | Used by |
//! |---|---|---|
//! | [`Context::Value`] | `value` | the value of a decree |
//! | [`Context::Bundle`] | `bundle` | a client's requests, and what authenticators tag |
//! | [`Context::Chain`] | `chain` | running digest of decided values |
//! | [`Context::Results`] | `results` | running digest of results |
//! | [`Context::Reply`] | `reply` | one reply sent as digest only |
//! | [`Context::Replies`] | `replies` | all that a decree answers one client, sent as digest only |
//! | [`Context::State`] | `state` | state machines |
//! | [`Context::Configuration`] | `configuration` | unscoped; the cluster id comes from it |
//! | [`Context::Client`] | `client` | unscoped; client ids |
//! | [`Context::Snapshot`] | `snapshot` | signed; snapshot roots |
//! | [`Context::LinkKey`] | `link key` | [`link_keys`] |
//! | [`Context::AuthenticatorKey`] | `authenticator key` | [`authenticator_key`] |
//! | [`Context::Vote`] | `vote` | signed; proposers' votes |
//! | [`Context::Report`] | `report` | signed; acceptors' reports |
//! | [`Context::Checkpoint`] | `checkpoint` | signed; learners' checkpoints |
//! | [`Context::Request`] | `request` | signed; clients' retries |
//! | [`Context::Hello`] | `hello` | the first packet of a link |
//! | [`Context::SigningSeed`] | `signing seed` | unscoped; [`Identity`] |
//! | [`Context::AgreementSeed`] | `agreement seed` | unscoped; [`Identity`] |
//!
//! # From the wire into a role
//!
//! ```
//! use twostep_crypto::{ClusterId, Context, Epoch, Identity, NodeId, Party, Scope, Signable};
//!
//! struct Vote { regency: u64 }
//! impl Signable for Vote {
//!     const CONTEXT: Context = Context::Vote;
//!     fn write_signable(&self, out: &mut Vec<u8>) {
//!         out.extend_from_slice(&self.regency.to_le_bytes());
//!     }
//! }
//!
//! let scope = Scope::new(ClusterId([7; 32]), Epoch(0));
//! let identity = Identity::from_seed([1; 32]);
//! let sent = identity.signing().sign(&scope, Party::Node(NodeId(0)), Vote { regency: 3 }).into_signed();
//!
//! // A role takes `Verified<Vote>` only, and nothing but this check, or signing, makes one.
//! let vote = sent.verify(&scope, &identity.public().sign)?;
//! assert_eq!(vote.content().regency, 3);
//! # Ok::<(), twostep_crypto::BadSignature>(())
//! ```

mod agreement;
mod digest;
mod hex_text;
mod ids;
mod keys;
mod mac;
mod memo;
mod scope;
mod sign;

pub use agreement::{LinkKeys, WeakKey, authenticator_key, link_keys};
pub use digest::{Context, Digest, Hasher, digest_unscoped};
pub use hex_text::BadHex;
pub use ids::{BadParty, ClientId, ClusterId, Epoch, NodeId, PROTOCOL_VERSION, Party};
pub use keys::{Identity, KeyError, PublicIdentity};
pub use mac::{BadTag, MacKey, Tag};
pub use memo::remember_signatures;
pub use scope::Scope;
pub use sign::{
    BadKey, BadSignature, Signable, Signature, Signed, SigningKey, Verified, VerifyingKey,
    verify_batch,
};
