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
//! *Cost.* The state is a sorted sequence of pages of at most about 64 KiB, each behind a counted pointer. An
//! operation is two binary searches and writes in place, without allocating unless it adds a key or lengthens a
//! value. A snapshot copies the page pointers (one per hundred small keys or so); while it is read, the first
//! write to a page that it still holds copies that page. [`KeyValue::digest`] reads everything.

mod codec;
mod image;
mod pages;

use std::io::{self, Write};

use twostep_crypto::{ClusterId, Context as DigestContext, Epoch, Scope};

use crate::state_machine::{ChunkSource, Context, SnapshotReader, StateMachine};
use crate::types::Digest;

pub use codec::{BadReply, KEY_BYTES_MAX, KeyValueError, KeyValueReply, Operation};

use image::Image;
use pages::Pages;

/// A replicated map from keys to values. See the [module](self).
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

    fn apply(
        &mut self,
        operation: &Operation<'_>,
        reply: &mut Vec<u8>,
    ) -> Result<(), KeyValueError> {
        match *operation {
            Operation::Get { key } => self.read(key).encode(reply),
            Operation::Put { key, value } => {
                self.pages.put(key, |kept| replace(kept, value));
                KeyValueReply::Done.encode(reply);
            }
            Operation::Delete { key } => {
                let removed = self.pages.remove(key);
                if removed {
                    KeyValueReply::Done
                } else {
                    KeyValueReply::Absent
                }
                .encode(reply);
            }
            Operation::Increment {
                key,
                by,
                padding: _,
            } => {
                let number = match self.pages.get(key) {
                    None => 0,
                    Some(text) => number(text).ok_or(KeyValueError::NotANumber)?,
                };
                let number = number.checked_add(by).ok_or(KeyValueError::Overflow)?;
                self.pages.put(key, |kept| {
                    kept.clear();
                    write!(kept, "{number}").expect("writing to memory does not fail");
                });
                KeyValueReply::Number(number).encode(reply);
            }
            Operation::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                let current = self.pages.get(key);
                if current != expected {
                    KeyValueReply::Mismatch(current).encode(reply);
                    return Ok(());
                }
                self.pages.put(key, |kept| replace(kept, value));
                KeyValueReply::Done.encode(reply);
            }
        }
        Ok(())
    }

    fn read(&self, key: &[u8]) -> KeyValueReply<'_> {
        self.pages
            .get(key)
            .map_or(KeyValueReply::Absent, KeyValueReply::Value)
    }
}

impl StateMachine for KeyValue {
    /// Applies an encoded [`Operation`] and replies with an encoded [`KeyValueReply`].
    fn execute(&mut self, _context: &Context, operation: &[u8], reply: &mut Vec<u8>) {
        let done = Operation::decode(operation).and_then(|operation| self.apply(&operation, reply));
        if let Err(error) = done {
            KeyValueReply::Error(error).encode(reply);
        }
    }

    /// Answers an encoded [`Operation::Get`]; anything else would change the state and is an error.
    fn query(&self, question: &[u8], reply: &mut Vec<u8>) {
        match Operation::decode(question) {
            Ok(Operation::Get { key }) => self.read(key),
            Ok(_) => KeyValueReply::Error(KeyValueError::NotAQuestion),
            Err(error) => KeyValueReply::Error(error),
        }
        .encode(reply);
    }

    fn digest(&self) -> Digest {
        // The executor binds the digest to the cluster; a store by itself belongs to none.
        let scope = Scope::new(ClusterId([0; 32]), Epoch(0));
        let mut hasher = scope.hasher(DigestContext::State);
        image::write(&self.pages, |bytes| {
            hasher.update(bytes);
        });
        hasher.finish()
    }

    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        Box::new(Image::new(self.pages.clone()))
    }

    fn restore(&mut self, chunks: &mut dyn ChunkSource) -> io::Result<()> {
        self.pages = image::read(chunks)?;
        Ok(())
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
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
