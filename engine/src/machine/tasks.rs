//! What the host's snapshots and journal are asked to do, and what comes of it.

use twostep_net::pool::Body;

use crate::message::SnapshotCertificate;
use crate::types::{Decree, Digest, NodeId, Value};

/// What a peer asks for that was learned and is in the log no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveTask {
    /// Consecutive values.
    Values {
        /// Which peer.
        asker: NodeId,
        /// The first decree.
        first: Decree,
        /// How many at most.
        count: u64,
    },
    /// The body of a decree.
    Body {
        /// Which peer.
        asker: NodeId,
        /// Which decree.
        decree: Decree,
        /// What was learned, as the peer says.
        value: Value,
    },
}

/// What the journal holds of it.
#[derive(Clone, Debug, PartialEq)]
pub enum ArchiveNews {
    /// Consecutive values.
    Values {
        /// Which peer asked.
        asker: NodeId,
        /// The first decree.
        first: Decree,
        /// As [`Values`](crate::message::Values) carry them; empty if there is none.
        values: Vec<u8>,
    },
    /// A body.
    Body {
        /// Which peer asked.
        asker: NodeId,
        /// Of which decree.
        decree: Decree,
        /// What was learned.
        value: Value,
        /// Its bytes; whoever asked holds them against the value.
        body: Body,
    },
}

/// What the host's snapshots are to do ([`crate::snapshot::Keeper`]).
#[derive(Clone, Debug)]
pub enum SnapshotTask {
    /// This one is certified: it is worth keeping.
    Certified(Box<SnapshotCertificate>),
    /// Give a peer a piece.
    Serve {
        /// Which peer.
        asker: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
    },
    /// Make ready to take in this one; what is held of it already is to be told.
    Receive(Box<SnapshotCertificate>),
    /// Take in a piece, if it is the right one.
    Keep {
        /// Who gave it.
        from: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
        /// Not yet checked.
        bytes: Body,
    },
    /// All pieces are held: take up the state.
    Install {
        /// Which snapshot.
        decree: Decree,
    },
    /// It is of no use.
    Discard {
        /// Which snapshot.
        decree: Decree,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotNews {
    /// The image of the state after this decree is hashed and stored.
    Imaged {
        /// Which decree, a multiple of S.
        decree: Decree,
        /// The digest of its manifest.
        root: Digest,
    },
    /// There is no image after this decree: no room, or too little time since the one before.
    Failed {
        /// Which decree.
        decree: Decree,
    },
    /// A certified snapshot is whole and can be served.
    Held(Box<SnapshotCertificate>),
    /// It is gone: a newer one took its place, or it was damaged.
    Dropped {
        /// Which snapshot.
        decree: Decree,
    },
    /// A piece for a peer.
    Chunk {
        /// Which peer.
        asker: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
        /// Its bytes.
        bytes: Body,
    },
    /// A snapshot is being taken in.
    Receiving {
        /// Which snapshot.
        decree: Decree,
        /// By chunk, whether it is held; none while the manifest is not.
        held: Option<Vec<bool>>,
    },
    /// A piece was taken in, or refused.
    Kept {
        /// Who gave it.
        from: NodeId,
        /// Of which snapshot.
        decree: Decree,
        /// Which piece.
        place: u32,
        /// Whether it was the right one.
        good: bool,
    },
    /// State and sessions are those of this snapshot.
    Installed(Box<SnapshotCertificate>),
    /// They are not, and cannot be executed on if they were touched.
    NotInstalled {
        /// Which snapshot.
        decree: Decree,
    },
}
