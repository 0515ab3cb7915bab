//! Where chunks lie: the contract of a store, and the one in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use twostep_net::pool::Body;

use crate::state_machine::ChunkSource;
use crate::types::Decree;

/// Keeps the pieces of a few snapshots: the manifest at place 0, chunk i at place i + 1.
///
/// It need not be trusted: whatever it gives is checked against the manifest, and a manifest against the signed root.
pub trait Store: fmt::Debug + Send {
    /// Keeps a piece, in the place of an earlier one.
    ///
    /// # Errors
    /// When there is no room, or the medium fails.
    fn put(&mut self, decree: Decree, place: u32, piece: Body) -> io::Result<()>;

    /// Gives a piece back.
    ///
    /// # Errors
    /// When there is none, or the medium fails.
    fn get(&mut self, decree: Decree, place: u32) -> io::Result<Body>;

    /// Notes under which certificate a snapshot is received, so that a restart can go on with it.
    ///
    /// # Errors
    /// When the medium fails.
    fn begin(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()>;

    /// All pieces of a snapshot are there, and it is certified: it is durable when this returns.
    ///
    /// # Errors
    /// When the medium fails.
    fn seal(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()>;

    /// Forgets a snapshot. What cannot be removed is in nobody's way: it is overwritten, or removed at the next start.
    fn remove(&mut self, decree: Decree);

    /// The chunks of a snapshot in order, not checked, for another thread.
    ///
    /// # Errors
    /// When the medium fails.
    fn source(&mut self, decree: Decree) -> io::Result<Box<dyn ChunkSource + Send>>;

    /// What it holds from an earlier run.
    fn stock(&mut self) -> Vec<Stock>;
}

/// A snapshot that a store holds from an earlier run.
#[derive(Clone, Debug)]
pub struct Stock {
    /// After which decree it was taken.
    pub decree: Decree,
    /// Under which certificate.
    pub certificate: Vec<u8>,
    /// Whether it was sealed; otherwise it was being received.
    pub sealed: bool,
}

/// Keeps pieces in memory, up to a bound: a node that restarts has none.
#[derive(Debug)]
pub struct MemoryStore {
    pieces: BTreeMap<(Decree, u32), Body>,
    /// The certificates of those that are sealed, or being received.
    stock: BTreeMap<Decree, Stock>,
    bytes: usize,
    bytes_max: usize,
}

impl MemoryStore {
    /// A store of at most so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> MemoryStore {
        MemoryStore {
            pieces: BTreeMap::new(),
            stock: BTreeMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Forgets everything that is not sealed: what a disk does in a power cut, for whoever plays one.
    pub fn forget_unsealed(&mut self) {
        let sealed = |stock: &Stock| stock.sealed;
        self.stock.retain(|_, stock| sealed(stock));
        let mut decrees: Vec<Decree> = self.pieces.keys().map(|(decree, _)| *decree).collect();
        decrees.dedup();
        for decree in decrees {
            if !self.stock.contains_key(&decree) {
                self.remove(decree);
            }
        }
    }

    fn note(&mut self, decree: Decree, certificate: &[u8], sealed: bool) {
        let stock = Stock {
            decree,
            certificate: certificate.to_vec(),
            sealed,
        };
        self.stock.insert(decree, stock);
    }
}

impl Store for MemoryStore {
    fn put(&mut self, decree: Decree, place: u32, piece: Body) -> io::Result<()> {
        let before = self
            .pieces
            .get(&(decree, place))
            .map_or(0, |piece| piece.len());
        let bytes = self.bytes - before + piece.len();
        if bytes > self.bytes_max {
            let what = format!(
                "snapshots in memory would have {bytes} bytes, above the bound of {}",
                self.bytes_max
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, what));
        }
        self.bytes = bytes;
        self.pieces.insert((decree, place), piece);
        Ok(())
    }

    fn get(&mut self, decree: Decree, place: u32) -> io::Result<Body> {
        let piece = self.pieces.get(&(decree, place)).cloned();
        piece.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn begin(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.note(decree, certificate, false);
        Ok(())
    }

    fn seal(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.note(decree, certificate, true);
        Ok(())
    }

    fn remove(&mut self, decree: Decree) {
        self.stock.remove(&decree);
        let mut behind = self.pieces.split_off(&(decree, 0));
        let mut above = behind.split_off(&(decree.next(), 0));
        self.pieces.append(&mut above);
        self.bytes -= behind.values().map(|piece| piece.len()).sum::<usize>();
    }

    fn source(&mut self, decree: Decree) -> io::Result<Box<dyn ChunkSource + Send>> {
        let chunks = self.pieces.range((decree, 1)..(decree.next(), 0));
        let chunks: Vec<Body> = chunks.map(|(_, chunk)| chunk.clone()).collect();
        Ok(Box::new(Chunks(chunks.into_iter())))
    }

    fn stock(&mut self) -> Vec<Stock> {
        // What nobody certified is of no use to a later run.
        let known: Vec<Stock> = self.stock.values().cloned().collect();
        let unknown = self.pieces.keys().map(|(decree, _)| *decree);
        let unknown: Vec<Decree> = unknown
            .filter(|decree| !self.stock.contains_key(decree))
            .collect();
        unknown.into_iter().for_each(|decree| self.remove(decree));
        known
    }
}

struct Chunks(std::vec::IntoIter<Body>);

impl ChunkSource for Chunks {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        let next = self.0.next();
        if let Some(bytes) = &next {
            chunk.extend_from_slice(bytes);
        }
        Ok(next.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut store = MemoryStore::new(10);
        let piece = |len: usize| Body::from_vec(vec![7; len]);
        store.put(Decree(8), 0, piece(4)).expect("there is room");
        store.put(Decree(8), 1, piece(6)).expect("there is room");
        store.put(Decree(8), 1, piece(5)).expect("in place of six");
        let full = store.put(Decree(16), 0, piece(2)).expect_err("no room");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        store.put(Decree(16), 0, piece(1)).expect("exactly");
        store.remove(Decree(8));
        assert!(store.get(Decree(8), 1).is_err());
        assert_eq!(store.get(Decree(16), 0).expect("kept").len(), 1);
        store
            .put(Decree(24), 0, piece(9))
            .expect("it was given back");
    }
}
