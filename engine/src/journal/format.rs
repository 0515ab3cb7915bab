//! The bytes of a segment: a header, then entries.
//!
//! ```text
//! segment  header (4096 bytes) | entry … | zeros up to its length
//! header   magic [8] | version u32 | node u16 | 0 u16 | epoch u32 | 0 u32 | number u64 | length u64 | cluster [32] | 0 … | check u64
//! entry    check u64 | length u32 | kind u8 | 0 [3] | seq u64 | durable u64 | payload | zeros up to a multiple of 8
//! ```
//!
//! | kind | payload | when |
//! |---|---|---|
//! | 1 to 63 | a record ([`super::record`]) | stored by the machine; `seq` counts them over all segments |
//! | 64 | preamble ([`super::preamble`]) | first in every segment |
//! | 65 | mark, empty | when the journal becomes idle, and when it is opened and closed |
//! | 66 | pruned: decree u64 | before segments are removed |
//!
//! Numbers are little endian. A check is the xxh3 of everything behind it, mixed with the segment and the offset, so that an entry
//! counts only where it was written. `durable` is the newest record that a sync had covered when the entry was
//! written: whoever finds an entry knows that everything up to there was acknowledged ([`super::scan`]). The kinds that
//! are no records have the `seq` of the record before them.
//!
//! *Cost.* 32 bytes per entry; one pass over the bytes at 10 GB/s or more.

use std::ops::Range;

use twostep_crypto::{ClusterId, Epoch, NodeId};
use xxhash_rust::xxh3::xxh3_64;

/// The format that is read and written. Since 2 the values of bodies are those of version 2 of the protocol.
pub const VERSION: u32 = 2;
/// Bytes of a header: never written over by an entry.
pub const HEADER_BYTES: usize = 4096;
/// Bytes of an entry in front of its payload.
pub const ENTRY_HEADER_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"2STEPLOG";
const CHECK_BYTES: usize = 8;
/// Makes entries of one offset differ from segment to segment.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Kinds below this one are records.
const RECORDS_END: u8 = 64;
/// The kind of a preamble.
pub const PREAMBLE: u8 = 64;
/// The kind of a mark.
pub const MARK: u8 = 65;
/// The kind that says what was pruned.
pub const PRUNED: u8 = 66;

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
}

/// What stands in front of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub owner: Owner,
    /// Segments are numbered from 1.
    pub number: u64,
    /// How long the file is. Bytes.
    pub length: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// They do not match their check, or do not begin as headers do.
    Damaged,
    /// A program of another version wrote them.
    Version(u32),
}

impl Header {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields: [&[u8]; 7] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &u32::from(self.owner.node.0).to_le_bytes(),
            &u64::from(self.owner.epoch.0).to_le_bytes(),
            &self.number.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.owner.cluster.0,
        ];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        let (covered, check) = bytes.split_at_mut(HEADER_BYTES - CHECK_BYTES);
        check.copy_from_slice(&xxh3_64(covered).to_le_bytes());
        bytes
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`HeaderError`]. A version that is not known is told before anything else, since only its magic and its place are sure.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HeaderError> {
        let version = u32::from_le_bytes(array(bytes, 8));
        let (covered, check) = bytes.split_at(HEADER_BYTES - CHECK_BYTES);
        let intact = xxh3_64(covered).to_le_bytes() == check;
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Damaged);
        }
        if version != VERSION {
            // One damaged bit must not pass for another version; all of them keep the check where it is.
            return Err(if intact {
                HeaderError::Version(version)
            } else {
                HeaderError::Damaged
            });
        }
        if !intact {
            return Err(HeaderError::Damaged);
        }
        Ok(Header {
            owner: Owner {
                node: NodeId(u16::from_le_bytes(array(bytes, 12))),
                epoch: Epoch(u32::from_le_bytes(array(bytes, 16))),
                cluster: ClusterId(array(bytes, 40)),
            },
            number: u64::from_le_bytes(array(bytes, 24)),
            length: u64::from_le_bytes(array(bytes, 32)),
        })
    }
}

/// An entry, in the bytes of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it holds.
    pub kind: u8,
    /// The number of its record, or of the record before it.
    pub seq: u64,
    /// Everything up to here was durable when it was written.
    pub durable: u64,
    /// What it says.
    pub payload: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Whether it holds a record.
    #[must_use]
    pub fn is_record(&self) -> bool {
        self.kind < RECORDS_END
    }

    /// The entry that stands at `offset` of the segment `number`; none if nothing valid stands there.
    #[must_use]
    pub fn read(segment: &'a [u8], number: u64, offset: usize) -> Option<Entry<'a>> {
        Entry::at(segment.get(offset..)?, number, offset)
    }

    /// The same, of bytes that begin at that offset.
    #[must_use]
    pub fn at(bytes: &'a [u8], number: u64, offset: usize) -> Option<Entry<'a>> {
        let header = bytes.get(..ENTRY_HEADER_BYTES)?;
        let (length, kind) = (u32::from_le_bytes(array(header, 8)) as usize, header[12]);
        let end = ENTRY_HEADER_BYTES.checked_add(padded(length))?;
        let covered = bytes.get(CHECK_BYTES..end)?;
        let padding = &bytes[ENTRY_HEADER_BYTES + length..end];
        let plain = kind != 0 && header[13..16] == [0; 3] && padding.iter().all(|byte| *byte == 0);
        if !plain || u64::from_le_bytes(array(header, 0)) != check(covered, number, offset) {
            return None;
        }
        Some(Entry {
            kind,
            seq: u64::from_le_bytes(array(header, 16)),
            durable: u64::from_le_bytes(array(header, 24)),
            payload: &bytes[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + length],
        })
    }

    /// How many bytes it takes in a segment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        entry_bytes(self.payload.len())
    }
}

/// How many bytes an entry with a payload of so many takes.
#[must_use]
pub fn entry_bytes(payload: usize) -> usize {
    ENTRY_HEADER_BYTES + padded(payload)
}

/// Appends an entry that will stand at `offset` of segment `number` to `out`; `write` appends its payload. Says where in `out` the
/// payload is.
///
/// # Panics
/// If the payload has 4 GiB: what is stored is far below it.
pub fn write_entry(
    out: &mut Vec<u8>,
    (number, offset): (u64, u64),
    (kind, seq, durable): (u8, u64, u64),
    write: impl FnOnce(&mut Vec<u8>),
) -> Range<usize> {
    let begin = out.len();
    out.resize(begin + ENTRY_HEADER_BYTES, 0);
    write(out);
    let payload = begin + ENTRY_HEADER_BYTES..out.len();
    out.resize(begin + entry_bytes(payload.len()), 0);
    let length = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
    let entry = &mut out[begin..];
    entry[8..12].copy_from_slice(&length.to_le_bytes());
    entry[12] = kind;
    entry[16..24].copy_from_slice(&seq.to_le_bytes());
    entry[24..32].copy_from_slice(&durable.to_le_bytes());
    let offset = usize::try_from(offset).expect("segments fit into memory");
    let check = check(&entry[CHECK_BYTES..], number, offset);
    entry[..CHECK_BYTES].copy_from_slice(&check.to_le_bytes());
    payload
}

fn check(covered: &[u8], number: u64, offset: usize) -> u64 {
    let place = (number << 40) ^ offset as u64;
    xxh3_64(covered) ^ place.wrapping_add(1).wrapping_mul(MIX)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the caller knows that they are there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            owner: Owner {
                cluster: ClusterId([7; 32]),
                epoch: Epoch(3),
                node: NodeId(258),
            },
            number: 12,
            length: 1 << 20,
        }
    }

    #[test]
    fn a_header_is_read_back_and_every_damaged_byte_is_found() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(
                Header::decode(&damaged),
                Err(HeaderError::Damaged),
                "byte {at}"
            );
        }
    }

    #[test]
    fn another_version_is_named_if_the_header_is_whole() {
        for version in [1, 3] {
            let mut bytes = header().encode();
            bytes[8] = version;
            let check = xxh3_64(&bytes[..HEADER_BYTES - CHECK_BYTES]);
            bytes[HEADER_BYTES - CHECK_BYTES..].copy_from_slice(&check.to_le_bytes());
            let expected = HeaderError::Version(u32::from(version));
            assert_eq!(Header::decode(&bytes), Err(expected));
        }
    }

    #[test]
    fn an_entry_counts_only_where_it_was_written() {
        let mut segment = vec![0; 64];
        write_entry(&mut segment, (5, 64), (1, 9, 8), |out| {
            out.extend_from_slice(b"thirteen byte");
        });
        let entry = Entry::read(&segment, 5, 64).unwrap();
        assert_eq!(
            (entry.kind, entry.seq, entry.durable, entry.payload),
            (1, 9, 8, &b"thirteen byte"[..])
        );
        assert_eq!(segment.len(), 64 + entry.bytes());
        assert_eq!(Entry::read(&segment, 6, 64), None, "another segment");
        assert_eq!(Entry::read(&segment, 5, 0), None, "nothing was written");
        let moved = &segment[8..];
        assert_eq!(Entry::read(moved, 5, 56), None, "another place");
        for at in 64..segment.len() {
            let mut damaged = segment.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Entry::read(&damaged, 5, 64), None, "byte {at}");
        }
        for length in 0..segment.len() {
            assert_eq!(Entry::read(&segment[..length], 5, 64), None, "cut {length}");
        }
    }
}
