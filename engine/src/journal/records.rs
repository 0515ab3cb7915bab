//! The records of a sound journal, in the order in which they were stored.
//!
//! The journal was read and checked before ([`super::scan`]), so what goes wrong here went wrong since: it is an error too, and the reader uses
//! nothing of what it has taken so far. One segment at a time is in memory, and the bodies that may be referred to.

use std::sync::Arc;

use super::bodies::Bodies;
use super::error::JournalError;
use super::folder::Folder;
use super::format::{Entry, HEADER_BYTES, Owner, PREAMBLE};
use super::preamble::{Preamble, Singles};
use super::record::{self, Reading, RecordError};
use super::scan::Kept;
use super::segment::{self, file_name};
use crate::batch::Batch;
use crate::record::OwnedRecord;
use crate::types::Decree;

/// Reads the records of a journal.
#[derive(Debug)]
pub struct Records {
    folder: Arc<dyn Folder>,
    owner: Owner,
    reading: Reading,
    pruned: Decree,
    /// What is still to be read, the next segment last.
    segments: Vec<Kept>,
    /// What the first segment repeats, and how many of it are read.
    repeated: (Singles, usize),
    at: Option<Place>,
    bytes: Vec<u8>,
    bodies: Bodies<Batch>,
    /// How many records were read.
    count: u64,
}

/// Where it reads: a segment, and the offset of the next entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    kept: Kept,
    offset: usize,
}

impl Records {
    /// Reads these segments. Decrees up to `pruned` may have lost their bodies: their records are left out.
    #[must_use]
    pub(super) fn new(
        folder: Arc<dyn Folder>,
        owner: Owner,
        reading: Reading,
        pruned: Decree,
        kept: impl Iterator<Item = Kept>,
        places: usize,
    ) -> Records {
        let mut segments: Vec<Kept> = kept.collect();
        segments.reverse();
        Records {
            folder,
            owner,
            reading,
            pruned,
            segments,
            repeated: (Singles::default(), 0),
            at: None,
            bytes: Vec::new(),
            bodies: Bodies::new(places),
            count: 0,
        }
    }

    /// How many records were read so far.
    #[must_use]
    pub fn read_so_far(&self) -> u64 {
        self.count
    }

    fn advance(&mut self) -> Result<Option<OwnedRecord>, JournalError> {
        loop {
            if let Some(single) = self.repeated.0.get(self.repeated.1) {
                let record = record::read(single.kind, &single.payload, &self.reading, |_, _| None);
                let number = self.at.map_or(0, |place| place.kept.number);
                let record = record.map_err(|error| self.damaged(number, HEADER_BYTES, &error))?;
                self.repeated.1 += 1;
                return Ok(Some(record));
            }
            match self.at {
                Some(place) if place.offset < place.kept.end => {
                    if let Some(record) = self.entry(place)? {
                        return Ok(Some(record));
                    }
                }
                _ => {
                    let first = self.at.is_none();
                    let Some(kept) = self.segments.pop() else {
                        return Ok(None);
                    };
                    self.begin(kept, first)?;
                }
            }
        }
    }

    fn begin(&mut self, kept: Kept, first: bool) -> Result<(), JournalError> {
        segment::read(&*self.folder, self.owner, kept.number, &mut self.bytes)?;
        let entry = Entry::read(&self.bytes, kept.number, HEADER_BYTES)
            .filter(|entry| entry.kind == PREAMBLE);
        let preamble = entry.and_then(|entry| Preamble::read(entry.payload));
        let (Some(entry), Some(preamble)) = (entry, preamble) else {
            return Err(self.changed(kept.number, HEADER_BYTES));
        };
        self.at = Some(Place {
            kept,
            offset: HEADER_BYTES + entry.bytes(),
        });
        if first {
            self.repeated.0 = preamble.singles;
        }
        Ok(())
    }

    /// The record of the entry at `place`; none if it holds none that is needed.
    fn entry(&mut self, place: Place) -> Result<Option<OwnedRecord>, JournalError> {
        let Place { kept, offset } = place;
        let Some(entry) = Entry::read(&self.bytes, kept.number, offset) else {
            return Err(self.changed(kept.number, offset));
        };
        self.at = Some(Place {
            kept,
            offset: offset + entry.bytes(),
        });
        if !entry.is_record() {
            return Ok(None);
        }
        let bodies = &self.bodies;
        let earlier = |decree, value| bodies.find(decree, value).cloned();
        let read = record::read(entry.kind, entry.payload, &self.reading, earlier);
        let head = record::head(entry.kind, entry.payload).ok().flatten();
        match (read, head) {
            (Ok(record), head) => {
                let batch = record::batch(&record.borrowed()).map(|(_, batch)| batch.clone());
                if let Some((head, batch)) = head.filter(|head| head.here).zip(batch) {
                    self.bodies.put(head.decree, head.value, batch);
                }
                self.count += 1;
                Ok(Some(record))
            }
            // Its body went with the segments that were removed.
            (Err(RecordError::NoBody), Some(head)) if head.decree <= self.pruned => Ok(None),
            (Err(error), _) => Err(self.damaged(kept.number, offset, &error)),
        }
    }

    fn changed(&self, number: u64, offset: usize) -> JournalError {
        self.refuse(
            number,
            offset,
            "the entry has changed since it was checked".to_owned(),
        )
    }

    fn damaged(&self, number: u64, offset: usize, error: &RecordError) -> JournalError {
        self.refuse(number, offset, error.to_string())
    }

    fn refuse(&self, number: u64, offset: usize, what: String) -> JournalError {
        JournalError::Damaged {
            path: self.folder.path().join(file_name(number)),
            offset: offset as u64,
            what,
        }
    }
}

impl Iterator for Records {
    type Item = Result<OwnedRecord, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
