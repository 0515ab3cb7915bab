//! Snapshots: images of state and sessions, cut into chunks, hashed, certified, kept, served, received.
//!
//! ```text
//!  executor ── Image, at every multiple of S ──► Keeper ── Imaged(root) ──► replica signs Snapshot(s, chain, results, root)
//!                                                  │ ▲
//!               chunks for others, chunks received │ │ Certified: f+1 equal signatures (Certification)
//!                                                  ▼ │
//!                                                Store    in memory, or in files
//! ```
//!
//! | event | rule (PROTOCOL.md section 5.4) |
//! |---|---|
//! | an image comes from the executor | it is read chunk by chunk, each hashed and stored, one by each [`Keeper::work`] |
//! | its snapshot is certified | it is kept until the replica discards it: the newest two are, and what others take in |
//! | a chunk is asked for | it is checked against the manifest and served; a damaged snapshot is dropped |
//! | a certified snapshot is to be received | what is held of it is told; each chunk is checked before it is stored |
//! | all of it is held | the executor takes it up ([`KeeperOutcome::Install`]) |
//!
//! *The image* is a stream of frames (length u32 | bytes): the session table's, an empty one, the state machine's chunks as it
//! cuts them, an empty one. The stream is cut into chunks of [`chunk_bytes`], the last one shorter, so a chunk fits a
//! message whatever a state machine does. The manifest lists the digests of the chunks; its digest is the root
//! that learners sign. All of it is a function of the order and the configuration.
//!
//! *Cost.* Execution pays for the image's pointers and the pages that it writes while the image stands; reading and hashing is the
//! keeper's, which in a node has a thread of its own. *Bounds.* One image is read while another one waits; a third is
//! left out. At most two certified snapshots and one for each other learner, W/S + 2 that are not certified, and one that is received
//! are stored.

mod certification;
mod image;
mod keeper;
mod manifest;
mod store;

pub use certification::{Certification, Proofs};
pub use image::{Image, ImageReader};
pub use keeper::{Keeper, KeeperOutcome};
pub use manifest::Manifest;
pub use store::{MemoryStore, Stock, Store};

use crate::configuration::Limits;

/// The largest chunk, and the largest that a state machine may write. Bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The length of all chunks of a cluster's snapshots but the last: a chunk fits where a body does. Bytes.
#[must_use]
pub fn chunk_bytes(limits: &Limits) -> usize {
    CHUNK_BYTES_MAX.min(limits.body_bytes_max as usize)
}

/// How many snapshots the learners that make progress can be apart, and two more.
pub(crate) fn apart_max(limits: &Limits) -> usize {
    let apart = limits.window / limits.snapshot_every + 2;
    usize::try_from(apart).expect("a window is small")
}

/// The most chunks of a snapshot: their manifest fits where a body does. With the default limits that is 32 GiB.
#[must_use]
pub fn chunks_max(limits: &Limits) -> usize {
    (limits.body_bytes_max as usize - manifest::HEADER_BYTES) / manifest::DIGEST_BYTES
}
