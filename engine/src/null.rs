//! The state machine that does nothing: what remains is the cost of ordering.

use std::io;

use crate::state_machine::{ChunkSource, Context, SnapshotReader, StateMachine};
use crate::types::Digest;

/// Replies to every operation with no bytes and has no state. For measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Null;

impl StateMachine for Null {
    fn execute(&mut self, _context: &Context, _operation: &[u8], _reply: &mut Vec<u8>) {}

    fn query(&self, _question: &[u8], _reply: &mut Vec<u8>) {}

    fn digest(&self) -> Digest {
        Digest::ZERO
    }

    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        Box::new(Null)
    }

    fn restore(&mut self, chunks: &mut dyn ChunkSource) -> io::Result<()> {
        if chunks.next(&mut Vec::new())? {
            let what =
                "a state of no bytes has no chunks; the snapshot is of another state machine";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
    }
}

impl SnapshotReader for Null {
    fn next(&mut self, _chunk: &mut Vec<u8>) -> io::Result<bool> {
        Ok(false)
    }
}
