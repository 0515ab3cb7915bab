//! Digests, message authentication, signatures and identities of `twostep`.

mod digest;
mod hex_text;
mod ids;
mod mac;
mod scope;

pub use digest::{Context, Digest, Hasher, digest_unscoped};
pub use hex_text::BadHex;
pub use ids::{BadParty, ClientId, ClusterId, Epoch, NodeId, PROTOCOL_VERSION, Party};
pub use mac::{BadTag, MacKey, Tag};
pub use scope::Scope;
