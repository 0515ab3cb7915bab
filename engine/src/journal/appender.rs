//! Writes entries behind those that are there: the journal without threads and time.
//!
//! Entries gather in one buffer; [`Appender::commit`] makes them durable with one write and one sync, whatever they are and however many. Until
//! that has succeeded the buffer stays as it is, so that it can be tried again: a sync that failed says nothing of what it was to sync, which
//! is therefore written again from memory.
//!
//! When an entry does not fit, the next segment begins: with a preamble, and only when everything before it is durable.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::archive::{Index, Place};
use super::bodies::Bodies;
use super::error::JournalError;
use super::folder::Folder;
use super::format::{self, ENTRY_HEADER_BYTES, HEADER_BYTES, entry_bytes, write_entry};
use super::opened::Shape;
use super::preamble::Preamble;
use super::record;
use super::scan::{Found, Kept};
use super::segment::{self, Segment};
use crate::record::Record;
use crate::types::Decree;

/// Room that records leave at the end of a segment for a mark and for what is pruned. Bytes.
const RESERVED_BYTES: usize = 4 * (ENTRY_HEADER_BYTES + 8);
/// What the buffer keeps when a large group has passed. Bytes.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// The end of a journal.
#[derive(Debug)]
pub struct Appender {
    folder: Arc<dyn Folder>,
    shape: Shape,
    /// Those with entries; the last one is the active one.
    kept: VecDeque<Kept>,
    active: Segment,
    /// Written behind `kept.end` of the active one, and not yet known to be durable.
    buffer: Vec<u8>,
    /// The last record, buffered or not.
    seq: u64,
    /// The last record that a sync has covered.
    durable: u64,
    /// Whether an entry that says so stands in the file.
    marked: bool,
    preamble: Preamble,
    bodies: Bodies<Place>,
    index: Arc<Index>,
}

/// An entry did not fit into the active segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Appender {
    /// Goes on with what was found.
    #[must_use]
    pub fn new(folder: Arc<dyn Folder>, shape: Shape, found: Found) -> Appender {
        Appender {
            folder,
            shape,
            kept: found.kept.into(),
            active: found.active,
            buffer: Vec::new(),
            seq: found.seq,
            durable: found.seq,
            marked: false,
            preamble: found.preamble,
            bodies: found.bodies,
            index: Arc::new(found.index),
        }
    }

    /// Makes the first segment of a journal, with whether the node was born with it.
    ///
    /// # Errors
    /// [`JournalError::Exists`], or what the folder says.
    pub fn create(
        folder: Arc<dyn Folder>,
        shape: Shape,
        born: bool,
    ) -> Result<Appender, JournalError> {
        if !segment::numbers(&*folder)?.is_empty() {
            let path = folder.path().to_owned();
            return Err(JournalError::Exists { path });
        }
        let first = segment::create(&*folder, shape.owner, 1, shape.first_segment_bytes)?;
        let mut appender = Appender {
            kept: VecDeque::new(),
            buffer: Vec::new(),
            seq: 0,
            durable: 0,
            marked: true,
            preamble: Preamble {
                born,
                ..Preamble::default()
            },
            bodies: Bodies::new(shape.places),
            index: Arc::default(),
            active: first,
            folder,
            shape,
        };
        appender.begin();
        appender.commit().map_err(|source| {
            segment::failed(&*appender.folder, &segment::file_name(1), "write", source)
        })?;
        Ok(appender)
    }

    /// Buffers a record; returns its number.
    ///
    /// # Errors
    /// [`NoRoom`], and nothing is buffered: the next segment must begin first.
    pub fn append(&mut self, record: &Record<'_>) -> Result<u64, NoRoom> {
        let kind = record::kind(record);
        let oldest = self.kept.front().map_or(0, |kept| kept.number);
        let batch = record::batch(record);
        let here = batch.is_none_or(|(decree, batch)| {
            let held = self.bodies.find(decree, batch.value());
            held.is_none_or(|place| place.segment < oldest)
        });
        let offset = self.end();
        let payload = self.entry(RESERVED_BYTES, kind, self.seq + 1, |out| {
            record::write(record, here, out);
        })?;
        self.seq += 1;
        if record::is_single(kind) {
            let payload = &self.buffer[payload];
            self.preamble.singles.put(self.seq, kind, payload);
        }
        if let Some((decree, batch)) = batch {
            let active = self.kept.back_mut().expect("one is active");
            active.newest = active.newest.max(decree);
            let (segment, value) = (active.number, batch.value());
            if here {
                let place = Place {
                    segment,
                    offset,
                    bytes: self.end() - offset,
                };
                self.bodies.put(decree, value, place);
            }
            let place = self.bodies.find(decree, value);
            if let Some(place) = place.filter(|_| record::is_learned(kind)) {
                self.index.learned(decree, value, *place);
            }
        }
        Ok(self.seq)
    }

    /// Makes everything that is buffered durable. May be called again after an error.
    ///
    /// # Errors
    /// What writing or syncing says; the buffer is kept.
    pub fn commit(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let active = self.kept.back_mut().expect("one is active");
        self.active.file.write_at(&self.buffer, active.end as u64)?;
        self.active.file.sync()?;
        active.end += self.buffer.len();
        self.durable = self.seq;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }

    /// Buffers an entry that says how far the journal is durable, unless one says it already.
    pub fn mark(&mut self) {
        if !self.marked && self.buffer.is_empty() {
            // Without room the preamble of the next segment says it.
            let _ = self.entry(0, format::MARK, self.seq, |_| {});
            self.marked = true;
        }
    }

    /// Begins the next segment.
    ///
    /// # Panics
    /// If something is buffered, or the segment is not the next one: the caller commits first.
    pub fn turn_over(&mut self, next: Segment) {
        assert!(
            self.buffer.is_empty(),
            "a segment begins when all before it is durable"
        );
        let number = self.active.header.number;
        assert_eq!(next.header.number, number + 1, "segments have no gaps");
        self.active.file.let_go();
        self.active = next;
        self.begin();
    }

    /// Nobody needs the decrees up to `decree` any more. Says whether segments can be removed; what says so must be committed
    /// before they are.
    #[must_use]
    pub fn prune(&mut self, decree: Decree) -> bool {
        let first_two = (self.kept.front(), self.kept.len());
        let removable = matches!(first_two, (Some(oldest), 2..) if oldest.newest <= decree);
        if removable && decree > self.preamble.pruned {
            let pruned = decree.0.to_le_bytes();
            let seq = self.seq;
            let said = self.entry(0, format::PRUNED, seq, |out| out.extend_from_slice(&pruned));
            if said.is_err() {
                // The next segment says it.
                return false;
            }
            self.preamble.pruned = decree;
        }
        removable
    }

    /// Takes segments that nobody needs out of the journal, the oldest first; their files are to be removed in this order.
    ///
    /// # Panics
    /// If what was pruned is not durable.
    #[must_use]
    pub fn retire(&mut self) -> Vec<u64> {
        assert!(self.buffer.is_empty(), "it is said before it is done");
        let mut retired = Vec::new();
        // Nobody looks for what is in them once they go.
        self.index.forget(self.preamble.pruned);
        while self.kept.len() > 1 && self.kept[0].newest <= self.preamble.pruned {
            retired.extend(self.kept.pop_front().map(|kept| kept.number));
        }
        retired
    }

    /// The last record that is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes that wait for a commit.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Whether what is durable is said so in the file.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// Whether more than half of the active segment is used: time to make the next one.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.end() as u64 > self.active.header.length / 2
    }

    /// Number and length of the segment after the active one: twice as long, up to the usual length, and long enough for its preamble
    /// and the largest record.
    #[must_use]
    pub fn next(&self) -> (u64, u64) {
        let header = self.active.header;
        let mut preamble = Vec::new();
        self.preamble.write(&mut preamble);
        // The preamble may grow until then: by what the leader shows above all, which is the largest of them.
        let least = HEADER_BYTES
            + 3 * entry_bytes(preamble.len() + self.shape.payload_bytes_max)
            + RESERVED_BYTES;
        let length = (2 * header.length)
            .min(self.shape.segment_bytes_max)
            .max(least as u64);
        (header.number + 1, length.next_multiple_of(4096))
    }

    /// All segments with entries, the active one last.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    /// Makes the segment after the active one; it is durable when this returns.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn make_next(&self) -> Result<Segment, JournalError> {
        let (number, length) = self.next();
        segment::create(&*self.folder, self.shape.owner, number, length)
    }

    /// Whether the node was born with it.
    #[must_use]
    pub fn born(&self) -> bool {
        self.preamble.born
    }

    /// How much room is left; none if the folder does not tell.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.folder.free_bytes().ok()
    }

    /// What tells where learned decrees are.
    pub(super) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index)
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Arc<dyn Folder> {
        &self.folder
    }

    fn begin(&mut self) {
        let header = self.active.header;
        self.kept.push_back(Kept {
            number: header.number,
            base: self.seq,
            end: HEADER_BYTES,
            length: header.length,
            newest: Decree::NONE,
        });
        let preamble = std::mem::take(&mut self.preamble);
        let fits = self.entry(0, format::PREAMBLE, self.seq, |out| preamble.write(out));
        fits.expect("a segment is made so that its preamble fits");
        self.preamble = preamble;
    }

    /// Where the next entry will stand.
    fn end(&self) -> usize {
        self.kept.back().expect("one is active").end + self.buffer.len()
    }

    /// Buffers an entry, if `reserved` bytes are left behind it; says where in the buffer its payload is.
    fn entry(
        &mut self,
        reserved: usize,
        kind: u8,
        seq: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Range<usize>, NoRoom> {
        let header = self.active.header;
        let (begin, end) = (self.buffer.len(), self.end());
        let place = (header.number, end as u64);
        let payload = write_entry(&mut self.buffer, place, (kind, seq, self.durable), write);
        if (self.end() + reserved) as u64 > header.length {
            self.buffer.truncate(begin);
            return Err(NoRoom);
        }
        self.marked = false;
        Ok(payload)
    }
}
