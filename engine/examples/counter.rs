//! A replicated counter: copy this file and change what `execute` does. One process is one replica:
//! `twostep testnet --f 1 --dir /tmp/counter`, then for every node K of it
//! `cargo run --example counter -- /tmp/counter/node-K/config.toml`

use std::{error::Error, io, path::Path};

use twostep_engine::node::{Node, NodeConfig};
use twostep_engine::state_machine::{ChunkSource, Context, SnapshotReader, StateMachine};
use twostep_engine::types::Digest;

/// The state: a sum. An operation is a number of 8 bytes to add; the reply is the new sum.
struct Counter(i64);

impl StateMachine for Counter {
    fn execute(&mut self, _context: &Context, operation: &[u8], reply: &mut Vec<u8>) {
        // What is ordered can no longer be refused, only answered; a panic would stop all replicas.
        match operation.try_into().map(i64::from_le_bytes) {
            Ok(by) => self.0 = self.0.wrapping_add(by),
            Err(_) => return reply.extend_from_slice(b"an operation is a number of 8 bytes"),
        }
        reply.extend_from_slice(&self.0.to_le_bytes());
    }
    fn query(&self, _question: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.0.to_le_bytes());
    }
    fn digest(&self) -> Digest {
        let mut digest = Digest::ZERO;
        digest.0[..8].copy_from_slice(&self.0.to_le_bytes()); // so small a state is its own digest
        digest
    }
    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        Box::new(Image(Some(self.0)))
    }
    fn restore(&mut self, chunks: &mut dyn ChunkSource) -> io::Result<()> {
        let mut chunk = Vec::new();
        chunks.next(&mut chunk)?;
        let sum = chunk.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        self.0 = i64::from_le_bytes(sum);
        Ok(())
    }
}

/// A snapshot of one chunk.
struct Image(Option<i64>);

impl SnapshotReader for Image {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.extend(self.0.take().into_iter().flat_map(i64::to_le_bytes));
        Ok(!chunk.is_empty())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("say which config.toml")?;
    let config = NodeConfig::load(Path::new(&path), &[])?;
    // A folder that was used before is known by its record: then the node only learns.
    let node = Node::builder(config).first_start(true);
    Ok(node.build(Counter(0))?.run()?)
}
