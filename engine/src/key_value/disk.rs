//! The key-value store in a database (redb) in the node's folder: for states that are larger than the memory.
//!
//! ```text
//!  operations ──► Waiting: changes in memory ── above 1 MiB ──► one transaction ──► database ──► CheckedFile
//!                      │                                                             │
//!   get ◄──────────────┴── first here ───────────────── then here, as of the last commit
//!   image ◄── a copy of what waits ──── merged with ──── a read transaction (MVCC), on the keeper's thread
//! ```
//!
//! *Alike.* Operations run the very code of the form in memory, and images are cut from the same stream by the same code, keys
//! ascending, so results, digests and snapshots of both forms are the same bytes: learners of one cluster may differ in it.
//!
//! *The database is a spill of memory, not the truth.* Exactly once needs the state and the session table to be of one decree.
//! The session table is in memory and goes with the process, so a state that outlived it would be apart from it, and ahead of the
//! snapshot from which the sessions come back. So the database is made anew at every start: state and sessions come from the newest
//! certified snapshot together, and the journal's decrees are executed on both, as in the form in memory. From this follows
//! that nothing in it need be durable (no sync, ever: the journal and the snapshots are), that a file of an earlier run is
//! of no interest, damaged or not, and that a start writes the whole state once.
//!
//! *Trouble.* A disk that is full or fails, and a byte that comes back changed (the file keeps a checksum of every block in
//! memory), stop the store: what it answers from then on means nothing, [`StateMachine::trouble`] says why, and the node ends
//! before it tells anybody. It counts among f until it is started again. Reading waits for the disk, and so does what
//! executes: the whole node with one lane.
//!
//! *Cost and bounds.* Memory: `cache_bytes` for pages of the database, about 1 MiB of changes and as many for each image that
//! is read, 2 MiB of checksums for each GiB of the file. An operation is a look into the changes, and one into the database
//! if the key is not there and what stands there matters. Every MiB of changes all that execute wait for one
//! transaction, which rewrites every page of 4 KiB that a change falls into. While an image is read, pages that it sees
//! are not used again, so the file grows by what is written meanwhile.

use std::io;
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use redb::{
    Builder, Database, OwnedAccessGuard, OwnedRange, ReadOnlyTable, ReadableDatabase,
    ReadableTableMetadata, TableDefinition,
};

use super::checked_file::CheckedFile;
use super::image::{self, Entries, Image};
use super::map::{self, Map};
use super::waiting::{Changes, Waiting};
use crate::journal::folder::{File, Folder};
use crate::state_machine::{
    ChunkSource, Context, SnapshotReader, StateMachine, StateTrouble, TroubleKind,
};
use crate::types::Digest;

/// The database in its folder.
pub const DATABASE_FILE: &str = "key-value.redb";

/// Changes beyond these are written to the database. Bytes of memory, about.
const WAITING_BYTES: usize = 1 << 20;

type Bytes = &'static [u8];
const TABLE: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("key-value");

/// A replicated map from keys to values, in a database. See the [module](self).
pub struct DiskKeyValue {
    database: Database,
    /// What the last commit left.
    committed: Arc<ReadOnlyTable<Bytes, Bytes>>,
    waiting: Waiting,
    waiting_bytes_max: usize,
    trouble: Trouble,
}

impl DiskKeyValue {
    /// An empty store in `folder`, with `cache_bytes` of memory for the database's pages. What a database of an earlier run
    /// held there is gone.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn create(folder: &dyn Folder, cache_bytes: usize) -> Result<DiskKeyValue, StateTrouble> {
        let trouble = Trouble::of(folder.path().join(DATABASE_FILE));
        let made = new_file(folder).and_then(|file| {
            let file = CheckedFile::new(file);
            let mut builder = Builder::new();
            builder.set_cache_size(cache_bytes);
            let database = builder.create_with_backend(file).map_err(io_error)?;
            let committed = empty(&database)?;
            Ok((database, committed))
        });
        let (database, committed) = made.map_err(|why| trouble.note("make it", &why))?;
        Ok(DiskKeyValue {
            database,
            committed,
            waiting: Waiting::default(),
            waiting_bytes_max: WAITING_BYTES,
            trouble,
        })
    }

    /// Changes a key, and writes to the database what waits once it is much.
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        self.waiting.set(key, value);
        if self.waiting.bytes() > self.waiting_bytes_max {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let transaction = self.database.begin_write().map_err(io_error)?;
        {
            let mut table = transaction.open_table(TABLE).map_err(io_error)?;
            for (key, value) in self.waiting.iter() {
                match value {
                    Some(value) => drop(table.insert(key, value).map_err(io_error)?),
                    None => drop(table.remove(key).map_err(io_error)?),
                }
            }
        }
        transaction.commit().map_err(io_error)?;
        self.committed = committed(&self.database)?;
        self.waiting.clear();
        Ok(())
    }

    /// How many entries there are, and the entries as they are now.
    fn entries(&self) -> io::Result<(u64, Merged)> {
        let mut keys = self.committed.len().map_err(io_error)?;
        for (key, value) in self.waiting.iter() {
            let stored = self.committed.get_owned(key).map_err(io_error)?.is_some();
            match (stored, value.is_some()) {
                (false, true) => keys += 1,
                (true, false) => keys -= 1,
                _ => {}
            }
        }
        let mut stored = self.committed.range_owned::<Bytes>(..).map_err(io_error)?;
        let entries = Merged {
            next: next_of(&mut stored)?,
            stored,
            waiting: self.waiting.clone().into_changes().peekable(),
        };
        Ok((keys, entries))
    }

    /// What to tell of an operation: nothing once there is trouble.
    fn told(&self, outcome: io::Result<()>, doing: &str, reply: &mut Vec<u8>) {
        if let Err(why) = outcome {
            self.trouble.note(doing, &why);
        }
        if self.trouble.get().is_some() {
            reply.clear();
        }
    }
}

impl StateMachine for DiskKeyValue {
    /// Applies an encoded [`Operation`](super::Operation) and replies with an encoded [`KeyValueReply`](super::KeyValueReply).
    fn execute(&mut self, _context: &Context, operation: &[u8], reply: &mut Vec<u8>) {
        if self.trouble.get().is_none() {
            let outcome = map::execute(self, operation, reply);
            self.told(outcome, "execute an operation on it", reply);
        }
    }

    /// Answers an encoded [`Operation::Get`](super::Operation::Get); anything else would change the state and is an error.
    fn query(&self, question: &[u8], reply: &mut Vec<u8>) {
        if self.trouble.get().is_none() {
            let outcome = map::query(self, question, reply);
            self.told(outcome, "read it", reply);
        }
    }

    fn digest(&self) -> Digest {
        let digest = self.entries();
        let digest = digest.and_then(|(keys, entries)| super::digest(keys, entries));
        digest.unwrap_or_else(|why| {
            self.trouble.note("read all of it", &why);
            Digest::ZERO
        })
    }

    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        let image = self.entries();
        let image = image.map(|(keys, entries)| Image::new(keys, entries));
        Box::new(DiskImage {
            image: image.map_err(|why| self.trouble.note("begin an image of it", &why)),
            trouble: self.trouble.clone(),
        })
    }

    fn restore(&mut self, chunks: &mut dyn ChunkSource) -> io::Result<()> {
        let doing = "write a snapshot to it";
        if let Some(trouble) = self.trouble.get() {
            return Err(io::Error::other(trouble));
        }
        self.waiting.clear();
        self.committed = empty(&self.database).map_err(|why| self.trouble.note(doing, &why))?;
        image::read(chunks, |key, value| {
            let set = self.set(key, Some(value));
            set.map_err(|why| self.trouble.note(doing, &why).into())
        })
    }

    fn trouble(&self) -> Option<StateTrouble> {
        self.trouble.get()
    }
}

impl Map for DiskKeyValue {
    type Value<'a> = Found<'a>;
    type Failure = io::Error;

    fn get(&self, key: &[u8]) -> io::Result<Option<Found<'_>>> {
        if let Some(changed) = self.waiting.get(key) {
            return Ok(changed.map(Found::Waiting));
        }
        let stored = self.committed.get_owned(key).map_err(io_error)?;
        Ok(stored.map(Found::Stored))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.set(key, Some(value))
    }

    fn remove(&mut self, key: &[u8]) -> io::Result<bool> {
        let stood = self.get(key)?.is_some();
        if stood {
            self.set(key, None)?;
        }
        Ok(stood)
    }
}

/// A value where it lies.
pub(super) enum Found<'a> {
    Waiting(&'a [u8]),
    Stored(OwnedAccessGuard<Bytes>),
}

impl AsRef<[u8]> for Found<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Found::Waiting(value) => value,
            Found::Stored(value) => value.value(),
        }
    }
}

type Stored = (OwnedAccessGuard<Bytes>, OwnedAccessGuard<Bytes>);

/// What the database held, with what waited then; both ascend.
struct Merged {
    stored: OwnedRange<Bytes, Bytes>,
    /// The one that comes next of them.
    next: Option<Stored>,
    waiting: Peekable<Changes>,
}

impl Entries for Merged {
    fn next(&mut self, mut sink: impl FnMut(&[u8], &[u8])) -> io::Result<bool> {
        loop {
            let stored = self.next.as_ref().map(|(key, _)| key.value());
            let waiting = self.waiting.peek().map(|(key, _)| &**key);
            let Some(key) = stored.into_iter().chain(waiting).min() else {
                return Ok(false);
            };
            let (is_stored, is_changed) = (stored == Some(key), waiting == Some(key));
            let stored = if is_stored {
                std::mem::replace(&mut self.next, next_of(&mut self.stored)?)
            } else {
                None
            };
            if is_changed {
                if let Some((key, Some(value))) = self.waiting.next() {
                    sink(&key, &value);
                    return Ok(true);
                }
            } else if let Some((key, value)) = stored {
                sink(key.value(), value.value());
                return Ok(true);
            }
        }
    }
}

fn next_of(stored: &mut OwnedRange<Bytes, Bytes>) -> io::Result<Option<Stored>> {
    stored.next().transpose().map_err(io_error)
}

/// An image that says what is wrong with the disk not only to its reader.
struct DiskImage {
    image: Result<Image<Merged>, StateTrouble>,
    trouble: Trouble,
}

impl SnapshotReader for DiskImage {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        let image = self.image.as_mut();
        let image = image.map_err(|trouble| trouble.clone())?;
        let next = image.next(chunk);
        next.map_err(|why| self.trouble.note("read an image of it", &why).into())
    }
}

/// The first thing that went wrong, known to the store and to all of its images.
#[derive(Clone)]
struct Trouble {
    path: Arc<PathBuf>,
    first: Arc<OnceLock<StateTrouble>>,
}

impl Trouble {
    fn of(path: PathBuf) -> Trouble {
        Trouble {
            path: Arc::new(path),
            first: Arc::default(),
        }
    }

    fn get(&self) -> Option<StateTrouble> {
        self.first.get().cloned()
    }

    /// Notes what went wrong; gives what went wrong first.
    fn note(&self, doing: &str, why: &io::Error) -> StateTrouble {
        let new = || StateTrouble {
            kind: match why.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TroubleKind::Full,
                io::ErrorKind::InvalidData => TroubleKind::Damaged,
                _ => TroubleKind::Failing,
            },
            what: format!("{}: cannot {doing}", self.path.display()),
            why: why.to_string(),
        };
        self.first.get_or_init(new).clone()
    }
}

/// A new file in the place of one of an earlier run.
fn new_file(folder: &dyn Folder) -> io::Result<Box<dyn File>> {
    match folder.remove(DATABASE_FILE) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    folder.create(DATABASE_FILE)
}

/// Empties the database.
fn empty(database: &Database) -> io::Result<Arc<ReadOnlyTable<Bytes, Bytes>>> {
    let transaction = database.begin_write().map_err(io_error)?;
    transaction.delete_table(TABLE).map_err(io_error)?;
    transaction.open_table(TABLE).map_err(io_error)?;
    transaction.commit().map_err(io_error)?;
    committed(database)
}

fn committed(database: &Database) -> io::Result<Arc<ReadOnlyTable<Bytes, Bytes>>> {
    let transaction = database.begin_read().map_err(io_error)?;
    Ok(Arc::new(transaction.open_table(TABLE).map_err(io_error)?))
}

/// What the database says, as an error of the disk.
fn io_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error @ redb::Error::Corrupted(_) => io::Error::new(io::ErrorKind::InvalidData, error),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
