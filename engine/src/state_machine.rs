//! What users implement: a deterministic state machine that is executed at every learner.
//!
//! All learners apply the same operations in the same order, so `execute` must depend on nothing but the
//! state, the operation and the [`Context`]: no clock, no randomness, no iteration over a hash map, no I/O
//! whose result differs. A replica whose results differ is found at the next checkpoint and stopped
//! (PROTOCOL.md section 5.4).

use std::io;

use thiserror::Error;

use crate::types::{ClientId, Decree, Digest, Seq, SessionId};

/// What a state machine may know about the operation it executes; equal at every learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The decree that ordered the operation.
    pub decree: Decree,
    /// Whose operation it is. Authenticated.
    pub client: ClientId,
    /// In which session.
    pub session: SessionId,
    /// Its number in the session.
    pub seq: Seq,
}

/// A replicated state machine.
///
/// Methods run on the thread that executes; each operation is executed exactly once per state.
pub trait StateMachine: Send {
    /// Applies `operation` and writes the reply to `reply`, which is empty when called and whose memory is
    /// reused. A reply above the configuration's `reply_bytes_max` is not sent: its client is told that the
    /// operation was executed and the reply is gone.
    ///
    /// A malformed operation must get a reply that says so: it cannot be refused any more, only answered,
    /// and panicking would stop every replica at the same operation.
    fn execute(&mut self, context: &Context, operation: &[u8], reply: &mut Vec<u8>);

    /// Answers a question about the state without changing it.
    fn query(&self, question: &[u8], reply: &mut Vec<u8>);

    /// A digest of the whole state, equal at replicas whose states are equal. Not called on the common path.
    fn digest(&self) -> Digest;

    /// A consistent image of the state as it is now, which is read in chunks while execution goes on. The
    /// same state must give the same bytes in the same chunks at every replica.
    fn snapshot(&self) -> Box<dyn SnapshotReader>;

    /// Replaces the state by one that was read from a snapshot.
    ///
    /// # Errors
    /// When a chunk cannot be had or the chunks are no image of a state; the state is then unspecified and
    /// the caller must not execute on it.
    fn restore(&mut self, chunks: &mut dyn ChunkSource) -> io::Result<()>;

    /// What keeps it from going on, if anything: the other methods cannot fail, but a disk under them can. Once
    /// there is trouble it stays. What was answered since the last look that found none is not used by anybody: the
    /// node ends, and its next start makes the state anew.
    fn trouble(&self) -> Option<StateTrouble> {
        None
    }
}

/// Why a state machine cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}: {why}; {}", .kind.advice())]
pub struct StateTrouble {
    /// Of which kind.
    pub kind: TroubleKind,
    /// What was tried, and with which file.
    pub what: String,
    /// What the system said.
    pub why: String,
}

impl From<StateTrouble> for io::Error {
    fn from(trouble: StateTrouble) -> io::Error {
        io::Error::other(trouble)
    }
}

/// What is wrong with the disk under a state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// No room is left.
    Full,
    /// It gave back other bytes than were written.
    Damaged,
    /// It does not do what it is asked.
    Failing,
}

impl TroubleKind {
    /// What to do.
    fn advice(self) -> &'static str {
        match self {
            TroubleKind::Full => {
                "make room and start the node again: it makes its state anew from its snapshots, its journal and its peers"
            }
            TroubleKind::Damaged => {
                "nothing is lost: started again, the node makes its state anew from its snapshots, its journal and its peers. \
                 If it comes again, distrust the disk"
            }
            TroubleKind::Failing => {
                "look after the disk and start the node again: it makes its state anew from its snapshots, its journal and its \
                 peers"
            }
        }
    }
}

/// A consistent image of a state, read chunk by chunk.
pub trait SnapshotReader: Send {
    /// Writes the next chunk, at most 1 MiB, to `chunk`, which is empty when called; false at the end.
    ///
    /// # Errors
    /// When the image cannot be read (a state machine that lives on disk).
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool>;
}

/// Where `restore` gets its chunks from.
pub trait ChunkSource {
    /// Writes the next chunk to `chunk`, which is emptied first; false at the end.
    ///
    /// # Errors
    /// When the next chunk cannot be had.
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool>;
}
