//! The image of a store: `"kv 1" | keys u64 | { key_len u16 | key | value_len u32 | value } …`, keys strictly
//! ascending. It depends on what is stored only, not on how the pages came about. Chunks are cuts of it.

use std::io;

use super::KEY_BYTES_MAX;
use super::pages::Pages;
use crate::state_machine::{ChunkSource, SnapshotReader};

/// The length of all chunks but the last. Bytes.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"kv 1";
const HEADER_BYTES: usize = 4 + 8;

/// Reads the image of a copy of the pages.
pub(super) struct Image {
    pages: Pages,
    cursor: (usize, usize),
    /// The header or entry that is being written, and how much of it was.
    part: Vec<u8>,
    written: usize,
}

impl Image {
    pub(super) fn new(pages: Pages) -> Image {
        let part = header(&pages).to_vec();
        Image {
            pages,
            cursor: (0, 0),
            part,
            written: 0,
        }
    }
}

impl SnapshotReader for Image {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        while chunk.len() < CHUNK_BYTES {
            let rest = &self.part[self.written..];
            let fits = rest.len().min(CHUNK_BYTES - chunk.len());
            chunk.extend_from_slice(&rest[..fits]);
            self.written += fits;
            if self.written < self.part.len() {
                break;
            }
            let Some((key, value)) = self.pages.next(&mut self.cursor) else {
                break;
            };
            self.part.clear();
            self.written = 0;
            let part = &mut self.part;
            write_entry(key, value, |bytes| part.extend_from_slice(bytes));
        }
        Ok(!chunk.is_empty())
    }
}

/// Writes the whole image, piece by piece.
pub(super) fn write(pages: &Pages, mut sink: impl FnMut(&[u8])) {
    sink(&header(pages));
    let mut cursor = (0, 0);
    while let Some((key, value)) = pages.next(&mut cursor) {
        write_entry(key, value, &mut sink);
    }
}

/// Reads an image. It holds at most one incomplete entry and one chunk besides the pages.
pub(super) fn read(chunks: &mut dyn ChunkSource) -> io::Result<Pages> {
    let mut pages = Pages::default();
    let mut keys = None;
    let (mut chunk, mut rest) = (Vec::new(), Vec::new());
    while chunks.next(&mut chunk)? {
        rest.extend_from_slice(&chunk);
        let mut unread = rest.as_slice();
        if keys.is_none() {
            let Some((header, behind)) = unread.split_first_chunk::<HEADER_BYTES>() else {
                continue;
            };
            keys = Some(read_header(header)?);
            unread = behind;
        }
        while let Some((key, value)) = read_entry(&mut unread)? {
            if !pages.push(key, value) {
                return Err(broken("keys do not ascend"));
            }
        }
        let used = rest.len() - unread.len();
        rest.drain(..used);
    }
    if !rest.is_empty() || keys != Some(pages.len() as u64) {
        return Err(broken("it ends too early or too late"));
    }
    Ok(pages)
}

fn header(pages: &Pages) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..].copy_from_slice(&(pages.len() as u64).to_le_bytes());
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
