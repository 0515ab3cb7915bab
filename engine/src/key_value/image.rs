//! The image of a store: `"kv 1" | keys u64 | { key_len u16 | key | value_len u32 | value } …`, keys strictly
//! ascending. It depends on what is stored only, not on where or on how it came about. Chunks are cuts of it.

use std::io;

use super::KEY_BYTES_MAX;
use crate::state_machine::{ChunkSource, SnapshotReader};

/// The length of all chunks but the last. Bytes.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"kv 1";
const HEADER_BYTES: usize = 4 + 8;

/// What is stored, as it was at one moment: keys strictly ascending.
pub(super) trait Entries: Send {
    /// Shows the next entry to `sink`; false, and nothing is shown, at the end.
    fn next(&mut self, sink: impl FnMut(&[u8], &[u8])) -> io::Result<bool>;
}

/// Reads the image of so many entries.
pub(super) struct Image<E> {
    entries: E,
    /// The header or entry that is being written, and how much of it was.
    part: Vec<u8>,
    written: usize,
}

impl<E: Entries> Image<E> {
    pub(super) fn new(keys: u64, entries: E) -> Image<E> {
        Image {
            entries,
            part: header(keys).to_vec(),
            written: 0,
        }
    }
}

impl<E: Entries> SnapshotReader for Image<E> {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        while chunk.len() < CHUNK_BYTES {
            let rest = &self.part[self.written..];
            let fits = rest.len().min(CHUNK_BYTES - chunk.len());
            chunk.extend_from_slice(&rest[..fits]);
            self.written += fits;
            if self.written < self.part.len() {
                break;
            }
            self.part.clear();
            self.written = 0;
            let part = &mut self.part;
            let more = self.entries.next(|key, value| {
                write_entry(key, value, |bytes| part.extend_from_slice(bytes));
            })?;
            if !more {
                break;
            }
        }
        Ok(!chunk.is_empty())
    }
}

/// Writes the whole image, piece by piece.
pub(super) fn write(
    keys: u64,
    mut entries: impl Entries,
    mut sink: impl FnMut(&[u8]),
) -> io::Result<()> {
    sink(&header(keys));
    while entries.next(|key, value| write_entry(key, value, &mut sink))? {}
    Ok(())
}

/// Reads an image and hands every entry to `keep`, keys ascending. It holds at most one incomplete entry and one chunk.
pub(super) fn read(
    chunks: &mut dyn ChunkSource,
    mut keep: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut promised, mut found) = (None, 0);
    let (mut chunk, mut rest) = (Vec::new(), Vec::new());
    // Below every key that there can be.
    let mut last = Vec::new();
    while chunks.next(&mut chunk)? {
        rest.extend_from_slice(&chunk);
        let mut unread = rest.as_slice();
        if promised.is_none() {
            let Some((header, behind)) = unread.split_first_chunk::<HEADER_BYTES>() else {
                continue;
            };
            promised = Some(read_header(header)?);
            unread = behind;
        }
        while let Some((key, value)) = read_entry(&mut unread)? {
            if *key <= *last {
                return Err(broken("keys do not ascend"));
            }
            last.clear();
            last.extend_from_slice(key);
            found += 1;
            keep(key, value)?;
        }
        let used = rest.len() - unread.len();
        rest.drain(..used);
    }
    if !rest.is_empty() || promised != Some(found) {
        return Err(broken("it ends too early or too late"));
    }
    Ok(())
}

fn header(keys: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..].copy_from_slice(&keys.to_le_bytes());
    header
}

fn read_header(header: &[u8; HEADER_BYTES]) -> io::Result<u64> {
    let Some((&MAGIC, keys)) = header.split_first_chunk() else {
        return Err(broken("it does not start like one"));
    };
    Ok(u64::from_le_bytes(
        keys.try_into().expect("a header is magic and eight bytes"),
    ))
}

fn write_entry(key: &[u8], value: &[u8], mut sink: impl FnMut(&[u8])) {
    let key_len = u16::try_from(key.len()).expect("a key has at most KEY_BYTES_MAX bytes");
    let value_len = u32::try_from(value.len()).expect("a value is bounded by a request");
    sink(&key_len.to_le_bytes());
    sink(key);
    sink(&value_len.to_le_bytes());
    sink(value);
}

/// Takes the first entry off `unread`; none, and nothing is taken, if it is not complete yet.
fn read_entry<'a>(unread: &mut &'a [u8]) -> io::Result<Option<(&'a [u8], &'a [u8])>> {
    let Some((len, rest)) = unread.split_first_chunk() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_le_bytes(*len));
    if len == 0 || len > KEY_BYTES_MAX {
        return Err(broken("a key has a wrong length"));
    }
    let entry = rest.split_at_checked(len).and_then(|(key, rest)| {
        let (len, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *unread = rest;
        Some((key, value))
    });
    Ok(entry)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the chunks are no image of a key-value store: {what}"),
    )
}
