//! What a journal holds when it is opened: read once from end to end, before anything of it is used.
//!
//! ```text
//!   segment 7            segment 8                       segment 9
//!   preamble entry …     preamble entry … entry 0 0 0    0 0 0           a spare, made ahead
//!   └─ all durable ─┘    └── durable ──┘ └ tail ┘
//! ```
//!
//! | found where the next entry should stand | means |
//! |---|---|
//! | zeros up to the end of the last segment | the end |
//! | anything else there, and a valid entry behind it that knows it to be durable | damage: refused |
//! | anything else there, and none such | a write that was under way when the power failed: cut |
//! | nothing but zeros behind a damaged header, in a last segment that is not the only one | it was made ahead and never used: made anew |
//! | anything, in a segment that a later one follows | damage: a segment is begun only when everything before it is durable |
//!
//! Every entry says how far the journal was durable when it was written, and a mark says it when the journal becomes idle. So what a
//! sync had covered and somebody was told of is told from what was merely being written. The one doubt that is left is the last write before a crash
//! that came within the few milliseconds between its sync and its mark: damage to it looks like a torn write.

use tracing::warn;

use super::archive::{Index, Place};
use super::bodies::Bodies;
use super::error::JournalError;
use super::folder::Folder;
use super::format::{self, Entry, HEADER_BYTES, Owner};
use super::preamble::Preamble;
use super::record;
use super::segment::{self, Segment, file_name};
use crate::types::Decree;

/// Read at once where nothing but zeros is expected. Bytes.
const BLANK_BYTES: usize = 1 << 20;

/// A segment with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub number: u64,
    /// The last record before it.
    pub base: u64,
    /// Where its entries end. Bytes.
    pub end: usize,
    /// How long the file is. Bytes.
    pub length: u64,
    /// The highest decree of its records.
    pub newest: Decree,
}

/// What was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// From which file.
    pub file: String,
    /// From where on.
    pub offset: u64,
    /// How many bytes were not zero.
    pub bytes: u64,
}

/// A journal that was read and found sound.
#[derive(Debug)]
pub struct Found {
    /// The segments with entries, ascending.
    pub kept: Vec<Kept>,
    /// The last of them.
    pub active: Segment,
    /// A segment that was made ahead.
    pub spare: Option<Segment>,
    /// The number of the last record.
    pub seq: u64,
    /// What the next segment has to repeat.
    pub preamble: Preamble,
    /// Where bodies are.
    pub bodies: Bodies<Place>,
    /// Where those of learned decrees are.
    pub index: Index,
    /// The torn tail that was cut off.
    pub cut: Option<Cut>,
}

/// Reads the journal in `folder`; none if there is none. What is to be cut is cut, durably; `places` is the size of [`Bodies`].
///
/// # Errors
/// [`JournalError`], if anything is wrong that cannot be a torn tail.
pub fn scan(
    folder: &dyn Folder,
    owner: Owner,
    places: usize,
) -> Result<Option<Found>, JournalError> {
    let numbers = segment::numbers(folder)?;
    let mut scan = Scan {
        folder,
        bytes: Vec::new(),
        kept: Vec::new(),
        active: None,
        tail: None,
        seq: 0,
        preamble: Preamble::default(),
        bodies: Bodies::new(places),
        index: Index::default(),
    };
    let mut spare = None;
    let mut cut = None;
    for (place, number) in numbers.iter().enumerate() {
        let last = place > 0 && place + 1 == numbers.len();
        let segment = match segment::read(folder, owner, *number, &mut scan.bytes) {
            Err(JournalError::Damaged { offset: 0, .. }) if last && blank(folder, *number)? => {
                discard(folder, *number)?;
                continue;
            }
            read => read?,
        };
        if scan.begins(*number)? {
            scan.walk(segment)?;
        } else {
            // Nothing durable is in it, so it is the one that was made ahead.
            if place + 1 < numbers.len() {
                let what = "a segment without entries, though another one follows".to_owned();
                return Err(scan.damaged(*number, HEADER_BYTES, what));
            }
            cut = wipe(folder, &segment, HEADER_BYTES, &scan.bytes)?;
            spare = Some(segment);
        }
    }
    let Some(active) = scan.active.take() else {
        return match numbers.first() {
            None => Ok(None),
            Some(number) => {
                let what = "no entry says whether the node was born with it".to_owned();
                Err(scan.damaged(*number, HEADER_BYTES, what))
            }
        };
    };
    if let Some(tail) = scan.tail.take() {
        if tail.known_durable {
            return Err(scan.damaged(active.header.number, tail.offset, tail.what()));
        }
        segment::read(folder, owner, active.header.number, &mut scan.bytes)?;
        let torn = wipe(folder, &active, tail.offset, &scan.bytes)?;
        cut = cut.or(torn);
    }
    // What the process before this one wrote and did not sync is used from now on.
    active.file.sync().map_err(|source| {
        segment::failed(folder, &file_name(active.header.number), "sync", source)
    })?;
    scan.index.forget(scan.preamble.pruned);
    Ok(Some(Found {
        kept: scan.kept,
        active,
        spare,
        seq: scan.seq,
        preamble: scan.preamble,
        bodies: scan.bodies,
        index: scan.index,
        cut,
    }))
}

struct Scan<'a> {
    folder: &'a dyn Folder,
    /// Of the segment at hand.
    bytes: Vec<u8>,
    kept: Vec<Kept>,
    active: Option<Segment>,
    /// What stands behind the last entry of the active segment, if that is not zeros.
    tail: Option<Tail>,
    seq: u64,
    preamble: Preamble,
    bodies: Bodies<Place>,
    index: Index,
}

struct Tail {
    offset: usize,
    /// The number of the entry that should stand there.
    seq: u64,
    known_durable: bool,
}

impl Tail {
    fn what(&self) -> String {
        format!(
            "record {} should stand here and does not match its check, though later entries know it to be durable",
            self.seq
        )
    }
}

impl Scan<'_> {
    /// Whether the segment at hand begins with a preamble; if so everything before it must be whole.
    fn begins(&mut self, number: u64) -> Result<bool, JournalError> {
        let Some(entry) = Entry::read(&self.bytes, number, HEADER_BYTES) else {
            let first = self.active.is_none();
            if behind(&self.bytes, number, HEADER_BYTES, self.seq) || (first && number > 1) {
                let what = "the first entry does not match its check".to_owned();
                return Err(self.damaged(number, HEADER_BYTES, what));
            }
            return Ok(false);
        };
        let preamble = (entry.kind == format::PREAMBLE)
            .then(|| Preamble::read(entry.payload))
            .flatten();
        let Some(preamble) = preamble else {
            let what = "the first entry is no preamble".to_owned();
            return Err(self.damaged(number, HEADER_BYTES, what));
        };
        match self.kept.last() {
            None => {
                self.seq = entry.seq;
                self.preamble = preamble;
            }
            Some(last) if self.seq != entry.seq => {
                let what = format!(
                    "record {} should stand here, since segment {number} begins behind record {}",
                    self.seq + 1,
                    entry.seq
                );
                return Err(self.damaged(last.number, last.end, what));
            }
            Some(_) => {}
        }
        Ok(true)
    }

    /// Takes all entries of the segment at hand.
    fn walk(&mut self, segment: Segment) -> Result<(), JournalError> {
        let number = segment.header.number;
        let bytes = std::mem::take(&mut self.bytes);
        let mut kept = Kept {
            number,
            base: self.seq,
            end: HEADER_BYTES,
            length: segment.header.length,
            newest: Decree::NONE,
        };
        while let Some(entry) = Entry::read(&bytes, number, kept.end) {
            let expected = self.seq + u64::from(entry.is_record());
            if entry.seq != expected || entry.durable > entry.seq {
                let what = format!("record {expected} should stand here, found {}", entry.seq);
                return Err(self.damaged(number, kept.end, what));
            }
            self.take(&entry, &mut kept)
                .map_err(|what| self.damaged(number, kept.end, what))?;
            self.seq = entry.seq;
            kept.end += entry.bytes();
        }
        self.tail = (!is_zero(&bytes[kept.end..])).then(|| Tail {
            offset: kept.end,
            seq: self.seq + 1,
            known_durable: behind(&bytes, number, kept.end, self.seq),
        });
        self.bytes = bytes;
        self.kept.push(kept);
        self.active = Some(segment);
        Ok(())
    }

    fn take(&mut self, entry: &Entry<'_>, kept: &mut Kept) -> Result<(), String> {
        match entry.kind {
            format::PREAMBLE if kept.end == HEADER_BYTES => {}
            format::MARK if entry.payload.is_empty() => {}
            format::PRUNED => {
                let decree = entry.payload.try_into().map(u64::from_le_bytes);
                let decree = decree.map_err(|_| "it says no decree".to_owned())?;
                self.preamble.pruned = self.preamble.pruned.max(Decree(decree));
            }
            kind if entry.is_record() && record::is_single(kind) => {
                self.preamble.singles.put(entry.seq, kind, entry.payload);
            }
            kind if entry.is_record() => {
                let head = record::head(kind, entry.payload).map_err(|error| error.to_string())?;
                let head = head.expect("records that are many have heads");
                kept.newest = kept.newest.max(head.decree);
                if head.here {
                    let place = Place {
                        segment: kept.number,
                        offset: kept.end,
                        bytes: entry.bytes(),
                    };
                    self.bodies.put(head.decree, head.value, place);
                }
                let place = self.bodies.find(head.decree, head.value);
                if let Some(place) = place.filter(|_| record::is_learned(kind)) {
                    self.index.learned(head.decree, head.value, *place);
                }
            }
            kind => return Err(format!("kind {kind} is the kind of no entry")),
        }
        Ok(())
    }

    fn damaged(&self, number: u64, offset: usize, what: String) -> JournalError {
        JournalError::Damaged {
            path: self.folder.path().join(file_name(number)),
            offset: offset as u64,
            what,
        }
    }
}

/// Whether nothing stands behind the header of a segment. Then nobody was told of anything in it: a segment is used only once its
/// first entry is durable.
fn blank(folder: &dyn Folder, number: u64) -> Result<bool, JournalError> {
    let name = file_name(number);
    let read = || {
        let file = folder.open(&name)?;
        let (size, mut bytes) = (file.size()?, vec![0; BLANK_BYTES]);
        let mut offset = HEADER_BYTES as u64;
        while offset < size {
            let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
            let piece = &mut bytes[..left.min(BLANK_BYTES)];
            file.read_at(piece, offset)?;
            if !is_zero(piece) {
                return Ok(false);
            }
            offset += piece.len() as u64;
        }
        Ok(true)
    };
    read().map_err(|source| segment::failed(folder, &name, "read", source))
}

/// Removes a segment that was made ahead and whose header is damaged, durably.
fn discard(folder: &dyn Folder, number: u64) -> Result<(), JournalError> {
    let name = file_name(number);
    let path = folder.path().display();
    warn!(
        "{path}/{name}: its header is damaged, and nothing was ever written behind it: it is made anew"
    );
    let removed = folder.remove(&name).and_then(|()| folder.sync());
    removed.map_err(|source| segment::failed(folder, &name, "remove", source))
}

/// Whether a valid entry behind `offset` knows the record after `seq` to be durable.
fn behind(bytes: &[u8], number: u64, offset: usize, seq: u64) -> bool {
    (offset..bytes.len())
        .step_by(8)
        .filter_map(|offset| Entry::read(bytes, number, offset))
        .any(|entry| entry.durable > seq)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8]) && rest.iter().all(|byte| *byte == 0)
}

/// Writes zeros over what stands from `offset` on, durably.
fn wipe(
    folder: &dyn Folder,
    segment: &Segment,
    offset: usize,
    bytes: &[u8],
) -> Result<Option<Cut>, JournalError> {
    let tail = &bytes[offset..];
    let Some(last) = tail.iter().rposition(|byte| *byte != 0) else {
        return Ok(None);
    };
    let file = file_name(segment.header.number);
    let zeros = vec![0; last + 1];
    let wiped = segment
        .file
        .write_at(&zeros, offset as u64)
        .and_then(|()| segment.file.sync());
    wiped.map_err(|source| segment::failed(folder, &file, "cut the torn tail of", source))?;
    Ok(Some(Cut {
        file,
        offset: offset as u64,
        bytes: zeros.len() as u64,
    }))
}
