//! The embedded default: a replicated key-value store, so that everything can be tried without writing code.
//!
//! | operation | reply |
//! |---|---|
//! | [`Operation::Put`] | `Done` |
//! | [`Operation::Get`] | `Value` or `Absent` |
//! | [`Operation::Delete`] | `Done` or `Absent` |
//! | [`Operation::Increment`] | `Number`, the new one; an absent key counts from 0 |
//! | [`Operation::CompareAndSwap`] | `Done` or `Mismatch` with what stands there |
//!
//! What cannot be done is answered with [`KeyValueReply::Error`] and changes nothing. Numbers are kept as
//! decimal text, so that `get` shows what `increment` made. Keys have 1 to [`KEY_BYTES_MAX`] bytes; values are
//! bounded by the cluster's `request_bytes_max`.
//!
//! It has two forms, which answer alike and whose snapshots are the same bytes: [`KeyValue`] in memory, and [`DiskKeyValue`] in a
//! database, for states that are larger than the memory. A cluster may have both.
//!
//! *Cost*, in memory. The state is a sorted sequence of pages of at most about 64 KiB, each behind a counted pointer. An
//! operation finds its key once, by two binary searches, and writes in place, without allocating unless it adds a key or
//! lengthens a value. A snapshot copies the page pointers (one per hundred small keys or so); while it is read, the first
//! write to a page that it still holds copies that page. [`KeyValue::digest`] reads everything.

mod checked_file;
mod codec;
pub mod disk;
mod image;
mod map;
mod pages;
mod waiting;

use std::convert::Infallible;
use std::io;

use twostep_crypto::{ClusterId, Context as DigestContext, Epoch, Scope};

use crate::state_machine::{ChunkSource, Context, SnapshotReader, StateMachine};
use crate::types::Digest;

pub use codec::{BadReply, KEY_BYTES_MAX, KeyValueError, KeyValueReply, Operation};
pub use disk::{DATABASE_FILE, DiskKeyValue};

use image::{Entries, Image};
use map::Map;
use pages::Pages;

/// A replicated map from keys to values, in memory. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct KeyValue {
    pages: Pages,
}

impl KeyValue {
    /// An empty store.
    #[must_use]
    pub fn new() -> KeyValue {
        KeyValue::default()
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.len() == 0
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.pages.get(key)
    }
}

impl StateMachine for KeyValue {
    /// Applies an encoded [`Operation`] and replies with an encoded [`KeyValueReply`].
    fn execute(&mut self, _context: &Context, operation: &[u8], reply: &mut Vec<u8>) {
        let Ok(()) = map::execute(&mut self.pages, operation, reply);
    }

    /// Answers an encoded [`Operation::Get`]; anything else would change the state and is an error.
    fn query(&self, question: &[u8], reply: &mut Vec<u8>) {
        let Ok(()) = map::query(&self.pages, question, reply);
    }

    fn digest(&self) -> Digest {
        let (keys, entries) = entries(&self.pages);
        digest(keys, entries).expect("memory can be read")
    }

    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        let (keys, entries) = entries(&self.pages);
        Box::new(Image::new(keys, entries))
    }

    fn restore(&mut self, chunks: &mut dyn ChunkSource) -> io::Result<()> {
        let mut pages = Pages::default();
        image::read(chunks, |key, value| {
            pages.put(key, |kept| kept.extend_from_slice(value));
            Ok(())
        })?;
        self.pages = pages;
        Ok(())
    }
}

impl Map for Pages {
    type Value<'a> = &'a [u8];
    type Failure = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Infallible> {
        Ok(Pages::get(self, key))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        Pages::put(self, key, |kept| replace(kept, value));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, Infallible> {
        Ok(Pages::remove(self, key))
    }
}

/// A copy of the pages that is read to its end.
struct PageEntries {
    pages: Pages,
    cursor: (usize, usize),
}

impl Entries for PageEntries {
    fn next(&mut self, mut sink: impl FnMut(&[u8], &[u8])) -> io::Result<bool> {
        let next = self.pages.next(&mut self.cursor);
        Ok(next.map(|(key, value)| sink(key, value)).is_some())
    }
}

/// How many entries there are, and the entries as they are now.
fn entries(pages: &Pages) -> (u64, PageEntries) {
    let entries = PageEntries {
        pages: pages.clone(),
        cursor: (0, 0),
    };
    (pages.len() as u64, entries)
}

/// The digest of a store: that of its image.
fn digest(keys: u64, entries: impl Entries) -> io::Result<Digest> {
    // The executor binds the digest to the cluster; a store by itself belongs to none.
    let scope = Scope::new(ClusterId([0; 32]), Epoch(0));
    let mut hasher = scope.hasher(DigestContext::State);
    image::write(keys, entries, |bytes| {
        hasher.update(bytes);
    })?;
    Ok(hasher.finish())
}

/// Puts `value` in the place of `kept`, in its memory unless that is far too large.
fn replace(kept: &mut Vec<u8>, value: &[u8]) {
    kept.clear();
    if kept.capacity() / 4 > value.len().max(16) {
        *kept = Vec::with_capacity(value.len());
    }
    kept.extend_from_slice(value);
}

#[cfg(test)]
mod tests;
