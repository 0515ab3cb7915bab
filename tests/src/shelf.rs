//! Where the snapshots of a node lie: what a crash leaves of them is up to the fate of its disk.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twostep_engine::snapshot::{MemoryStore, Stock, Store};
use twostep_engine::state_machine::ChunkSource;
use twostep_engine::types::Decree;
use twostep_net::pool::Body;

use crate::disk::Fate;

/// A store that outlives the node's runs. Handles share it.
#[derive(Clone, Debug)]
pub struct Shelf(Arc<Mutex<MemoryStore>>);

impl Default for Shelf {
    fn default() -> Shelf {
        Shelf(Arc::new(Mutex::new(MemoryStore::new(usize::MAX))))
    }
}

impl Shelf {
    /// The node stops: sealed snapshots are durable, pieces that came lately are lost with the tail of the disk.
    pub fn crash(&self, fate: Fate) {
        let store = &mut *self.lock();
        match fate {
            Fate::Kept => {}
            Fate::TailLost | Fate::Torn | Fate::SyncedLost => store.forget_unsealed(),
            Fate::AllLost => *store = MemoryStore::new(usize::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, MemoryStore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Shelf {
    fn put(&mut self, decree: Decree, place: u32, piece: Body) -> io::Result<()> {
        self.lock().put(decree, place, piece)
    }

    fn get(&mut self, decree: Decree, place: u32) -> io::Result<Body> {
        self.lock().get(decree, place)
    }

    fn begin(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.lock().begin(decree, certificate)
    }

    fn seal(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.lock().seal(decree, certificate)
    }

    fn remove(&mut self, decree: Decree) {
        self.lock().remove(decree);
    }

    fn source(&mut self, decree: Decree) -> io::Result<Box<dyn ChunkSource + Send>> {
        self.lock().source(decree)
    }

    fn stock(&mut self) -> Vec<Stock> {
        self.lock().stock()
    }
}
