//! What the tag of a packet leaves out: bytes whose digest stands in the bytes that it covers.
//!
//! ```text
//! packet of kind Gapped    header | frames … | start u32, length u32 … | count u16       starts count from the end of the header
//! ```
//!
//! A body that goes to five peers would otherwise be read once per peer for the packets' tags and once more by each of
//! them, besides the one time that its digest needs (DESIGN.md section 3: "bodies are covered by their digest"). The
//! list of gaps stands at the end of the packet and is itself covered, so nobody on the way can widen one.
//!
//! What a sender leaves out its receiver must check by other means before it believes it; who sends decides which
//! bytes these are, so a lying sender gains nothing that it could not write under a tag.

use std::ops::Range;

use twostep_crypto::{MacKey, Tag};

use super::{COVERED_BYTES, HEADER_BYTES, read_u16, read_u32, wire_u32};

/// A gap below this many bytes is not worth its entry.
pub const GAP_BYTES_MIN: usize = 256;
/// Most gaps of one packet; what comes after them is covered.
pub(super) const GAPS_MAX: usize = 64;

const ENTRY_BYTES: usize = 8;
const COUNT_BYTES: usize = 2;

/// Bytes that the list of `count` gaps takes in a packet.
pub(super) fn list_bytes(count: usize) -> usize {
    if count == 0 {
        0
    } else {
        COUNT_BYTES + count * ENTRY_BYTES
    }
}

/// The gaps of the packet that is being filled, counted from the end of its header.
#[derive(Debug, Default)]
pub(super) struct Gaps(Vec<Range<usize>>);

impl Gaps {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many more fit.
    pub(super) fn room(&self) -> usize {
        GAPS_MAX - self.0.len()
    }

    pub(super) fn list_bytes(&self) -> usize {
        list_bytes(self.0.len())
    }

    pub(super) fn push(&mut self, gap: Range<usize>) {
        self.0.push(gap);
    }

    /// Appends the list and forgets it.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.0.len()).expect("at most GAPS_MAX");
        for gap in self.0.drain(..) {
            out.extend_from_slice(&wire_u32(gap.start).to_le_bytes());
            out.extend_from_slice(&wire_u32(gap.len()).to_le_bytes());
        }
        out.extend_from_slice(&count.to_le_bytes());
    }
}

/// The frames in the body of a gapped packet, and the list behind them; none if the list does not fit into its packet,
/// is empty, or its gaps do not ascend within the frames.
pub(super) fn split_list(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, count) = body.split_at_checked(body.len().checked_sub(COUNT_BYTES)?)?;
    let entries = usize::from(read_u16(count, 0)) * ENTRY_BYTES;
    let (frames, list) = rest.split_at_checked(rest.len().checked_sub(entries)?)?;
    let mut end = 0;
    for gap in entries_of(list) {
        if gap.start < end || gap.end > frames.len() {
            return None;
        }
        end = gap.end;
    }
    (!list.is_empty()).then_some((frames, &body[frames.len()..]))
}

/// The tag of a gapped `packet`, whose list was checked by [`split_list`] or written by [`Gaps::write`].
pub(super) fn tag(key: &MacKey, packet: &[u8]) -> Tag {
    let body = &packet[HEADER_BYTES..];
    let list = body.len() - COUNT_BYTES;
    let list = list - usize::from(read_u16(body, list)) * ENTRY_BYTES;
    let mut hasher = key.hasher();
    hasher.update(&packet[..COVERED_BYTES]);
    let mut at = 0;
    for gap in entries_of(&body[list..body.len() - COUNT_BYTES]) {
        hasher.update(&body[at..gap.start]);
        at = gap.end;
    }
    hasher.update(&body[at..]).finish()
}

fn entries_of(list: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    list.chunks_exact(ENTRY_BYTES).map(|entry| {
        let start = read_u32(entry, 0) as usize;
        // Both have 32 bits: the sum cannot overflow.
        start..start + read_u32(entry, 4) as usize
    })
}
