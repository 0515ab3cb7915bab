//! Reassembly where fragments are lost and overtake each other: several messages at once, within the bytes of one.
//!
//! A fragment joins the run of bytes that it continues; a message is complete when its runs are as long as it, so nothing is delivered that was not
//! sent. What is incomplete waits until newer messages need the room: then the oldest goes, and what still comes of it is dropped. A link holds at
//! most `message_bytes_max` bytes of incomplete messages.
//!
//! Memory grows with what has come and not with what a fragment announces: otherwise one datagram of small fragments, each of another large message,
//! would have hundreds of megabytes allocated and cleared. For the same reason a packet begins no more messages, and a fragment is no shorter, than
//! with an honest sender. Buffers are at most twice as large as what they hold, or as the message for which they are used again.

use std::ops::Range;

use crate::packet::{FRAGMENT_BYTES_MIN, Fragment, PacketError};

/// Most messages that are incomplete at once.
const MESSAGES_MAX: usize = 32;
/// Most runs of one message; one with more has lost too much to come.
const RUNS_MAX: usize = 256;
/// Most messages that the fragments of one packet begin: the end of one whose other fragments were overtaken, and the start of the next.
const BEGUN_PER_PACKET_MAX: usize = 2;
/// Buffers kept for reuse, and the most bytes of each.
const SPARE_MAX: usize = 2;
const SPARE_BYTES_MAX: usize = 2 << 20;
/// A spare buffer up to this size serves messages of any size.
const SPARE_FOR_ALL_BYTES: usize = 64 << 10;

/// The incomplete messages of one link.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    messages: Vec<Message>,
    /// Bytes of the messages above when complete.
    bytes: usize,
    /// Fragments of messages up to this one begin nothing: they are late.
    floor: u64,
    /// Messages begun by the packet in hand.
    begun: usize,
    spare: Vec<Vec<u8>>,
    spare_runs: Vec<Vec<Run>>,
}

#[derive(Debug)]
struct Message {
    id: u64,
    total: usize,
    /// Bytes that have come.
    arrived: usize,
    /// What has come, ascending, without overlap. Neighbours that touch are joined unless the later one is longer.
    runs: Vec<Run>,
}

/// Bytes of a message without a gap.
#[derive(Debug)]
struct Run {
    start: usize,
    bytes: Vec<u8>,
}

impl Run {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}

impl Pieces {
    /// The fragments that follow are those of another packet.
    pub fn next_packet(&mut self) {
        self.begun = 0;
    }

    /// Adds a fragment, and returns its message if it is now complete. Give the buffer [`back`](Self::give_back) afterwards.
    ///
    /// # Errors
    /// [`PacketError::Fragment`] when it contradicts itself, the limit, or what came of its message before; when it is shorter than any but the last
    /// may be; or when its packet begins more messages than it can hold parts of.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        message_bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, PacketError> {
        let Fragment {
            id,
            offset,
            total,
            bytes,
        } = *fragment;
        let refused = PacketError::Fragment { id, offset, total };
        let (start, total) = (offset as usize, total as usize);
        let end = start + bytes.len();
        let short = bytes.is_empty() || end < total && bytes.len() < FRAGMENT_BYTES_MIN;
        if short || end > total || total > message_bytes_max {
            return Err(refused);
        }
        let known = self.messages.iter().position(|message| message.id == id);
        let at = match known {
            Some(at) => at,
            None if self.begun == BEGUN_PER_PACKET_MAX => return Err(refused),
            None if self.make_room(id, total, message_bytes_max) => self.begin(id, total),
            None => return Ok(None),
        };
        let message = &mut self.messages[at];
        let Some(place) = place(&message.runs, start..end).filter(|_| message.total == total)
        else {
            return Err(refused);
        };
        message.arrived += bytes.len();
        if place > 0 && message.runs[place - 1].end() == start {
            message.extend(place - 1, bytes);
            message.join(place - 1);
        } else {
            let mut buffer = take_spare(&mut self.spare, total);
            append(&mut buffer, bytes, total - start);
            let run = Run {
                start,
                bytes: buffer,
            };
            message.runs.insert(place, run);
            message.join(place);
        }
        if message.arrived == total {
            return Ok(Some(self.complete(at)));
        }
        if message.runs.len() > RUNS_MAX {
            self.drop_message(at);
        }
        Ok(None)
    }

    /// Takes back the buffer of a message that has been used.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Makes room for message `id` by dropping older ones. False if it is itself too old.
    fn make_room(&mut self, id: u64, total: usize, bytes_max: usize) -> bool {
        while self.messages.len() == MESSAGES_MAX || self.bytes + total > bytes_max {
            let oldest = (0..self.messages.len()).min_by_key(|&at| self.messages[at].id);
            let oldest = oldest.expect("one message alone is within the limit");
            if self.messages[oldest].id > id {
                self.floor = self.floor.max(id);
                break;
            }
            self.drop_message(oldest);
        }
        id > self.floor
    }

    fn begin(&mut self, id: u64, total: usize) -> usize {
        self.begun += 1;
        self.messages.push(Message {
            id,
            total,
            arrived: 0,
            runs: self.spare_runs.pop().unwrap_or_default(),
        });
        self.bytes += total;
        self.messages.len() - 1
    }

    /// Takes out a message that has come, in one buffer.
    fn complete(&mut self, at: usize) -> Vec<u8> {
        let mut message = self.messages.swap_remove(at);
        self.bytes -= message.total;
        let (first, rest) = message.runs.split_first_mut().expect("it has come");
        let mut whole = std::mem::take(&mut first.bytes);
        for run in rest {
            append(&mut whole, &run.bytes, message.total);
        }
        assert_eq!(whole.len(), message.total, "runs do not overlap");
        self.keep(message.runs);
        whole
    }

    fn drop_message(&mut self, at: usize) {
        let message = self.messages.swap_remove(at);
        self.bytes -= message.total;
        self.floor = self.floor.max(message.id);
        self.keep(message.runs);
    }

    fn keep(&mut self, mut runs: Vec<Run>) {
        for run in runs.drain(..) {
            if run.bytes.capacity() > 0 {
                self.give_back(run.bytes);
            }
        }
        if self.spare_runs.len() < SPARE_MAX {
            self.spare_runs.push(runs);
        }
    }
}

impl Message {
    fn extend(&mut self, at: usize, bytes: &[u8]) {
        let run = &mut self.runs[at];
        append(&mut run.bytes, bytes, self.total - run.start);
    }

    /// Joins the run at `at` with those that now touch it. Only the shorter one is copied, behind the longer one: so each byte is copied a
    /// logarithmic number of times, whatever the order in which fragments come.
    fn join(&mut self, at: usize) {
        while let [run, next, ..] = &mut self.runs[at..]
            && run.end() == next.start
            && next.bytes.len() <= run.bytes.len()
        {
            let next = self.runs.remove(at + 1);
            self.extend(at, &next.bytes);
        }
    }
}

/// Where a run of this range is to be inserted. None if some of it was there before.
fn place(runs: &[Run], range: Range<usize>) -> Option<usize> {
    let at = runs.partition_point(|run| run.end() <= range.start);
    let overlaps = runs.get(at).is_some_and(|next| next.start < range.end);
    (!overlaps).then_some(at)
}

/// A buffer to begin a run of a message of `total` bytes: one that is much larger than the message would be charged to nobody.
fn take_spare(spare: &mut Vec<Vec<u8>>, total: usize) -> Vec<u8> {
    let most = SPARE_FOR_ALL_BYTES.max(2 * total);
    let fits = spare.iter().position(|buffer| buffer.capacity() <= most);
    fits.map_or_else(Vec::new, |at| spare.swap_remove(at))
}

/// Appends `bytes` to a buffer that needs at most `most` bytes in the end: it doubles, so that most bytes are not moved, and never exceeds that.
fn append(buffer: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let needed = buffer.len() + bytes.len();
    if needed > buffer.capacity() {
        let capacity = (2 * needed).min(most).max(needed);
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 8000;

    fn message(id: u64, total: usize) -> Vec<u8> {
        (0..total)
            .map(|at| u8::try_from((at as u64 * 7 + id) % 251).unwrap())
            .collect()
    }

    fn add(
        pieces: &mut Pieces,
        id: u64,
        total: usize,
        start: usize,
        end: usize,
    ) -> Option<Vec<u8>> {
        let bytes = &message(id, total)[start..end];
        let (offset, total) = (u32::try_from(start).unwrap(), u32::try_from(total).unwrap());
        let fragment = Fragment {
            id,
            offset,
            total,
            bytes,
        };
        pieces.next_packet();
        pieces.add(&fragment, MAX).unwrap()
    }

    #[test]
    fn a_lost_fragment_loses_its_message_and_no_other() {
        let mut pieces = Pieces::default();
        assert_eq!(add(&mut pieces, 1, 2400, 0, 800), None);
        assert_eq!(add(&mut pieces, 1, 2400, 1600, 2400), None);
        for id in 2..100 {
            assert_eq!(add(&mut pieces, id, 7200, 3200, 7200), None);
            assert_eq!(add(&mut pieces, id, 7200, 0, 3200), Some(message(id, 7200)));
            assert!(pieces.bytes <= MAX);
        }
        assert_eq!(add(&mut pieces, 1, 2400, 800, 1600), None, "it is late");
        assert_eq!(pieces.bytes, 0, "and begins nothing");
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut pieces = Pieces::default();
        for id in 1..=10 {
            add(&mut pieces, id, 3200, 0, 800);
            assert!(pieces.bytes <= MAX);
        }
        assert_eq!(add(&mut pieces, 9, 3200, 800, 3200), Some(message(9, 3200)));
        assert_eq!(
            add(&mut pieces, 10, 3200, 800, 3200),
            Some(message(10, 3200))
        );
        for id in 11..=200 {
            add(&mut pieces, id, 200, 150, 200);
        }
        assert_eq!(pieces.messages.len(), MESSAGES_MAX);
        assert_eq!(add(&mut pieces, 11, 200, 150, 200), None);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut pieces = Pieces::default();
        add(&mut pieces, 1, 2400, 800, 1600);
        for (offset, total, bytes) in [
            (0, 2400, &[0; 801][..]),
            (1599, 2400, &[0; 801]),
            (900, 2400, &[0; 600]),
            (1600, 2400, &[]),
            (1600, 2401, &[0; 801]),
            (1600, 2400, &[0; 801]),
            (0, 8001, &[0; 8001]),
            (u32::MAX, u32::MAX, &[0; 1]),
        ] {
            let fragment = Fragment {
                id: 1,
                offset,
                total,
                bytes,
            };
            assert!(pieces.add(&fragment, MAX).is_err(), "{fragment:?}");
        }
        assert_eq!(add(&mut pieces, 1, 2400, 0, 800), None);
        assert_eq!(
            add(&mut pieces, 1, 2400, 1600, 2400),
            Some(message(1, 2400))
        );
    }

    #[test]
    fn buffers_are_used_again() {
        let mut pieces = Pieces::default();
        let mut before: *const u8 = std::ptr::null();
        for id in 1..10 {
            add(&mut pieces, id, 4000, 0, 3999);
            let whole = add(&mut pieces, id, 4000, 3999, 4000).unwrap();
            assert!(before.is_null() || before == whole.as_ptr());
            before = whole.as_ptr();
            pieces.give_back(whole);
        }
    }

    /// Memory of all buffers, used or not.
    fn memory(pieces: &Pieces) -> usize {
        let runs = pieces.messages.iter().flat_map(|message| &message.runs);
        let buffers = runs.map(|run| &run.bytes).chain(&pieces.spare);
        buffers.map(Vec::capacity).sum()
    }

    #[test]
    fn memory_grows_with_what_has_come() {
        const LARGE: u32 = 8 << 20;
        let mut pieces = Pieces::default();
        for id in 1..1000 {
            for offset in [LARGE / 2, LARGE - 600] {
                pieces.next_packet();
                let fragment = Fragment {
                    id,
                    offset,
                    total: LARGE,
                    bytes: &[7; 600],
                };
                assert_eq!(pieces.add(&fragment, LARGE as usize), Ok(None));
            }
            assert!(memory(&pieces) <= 8 * 600, "{} bytes", memory(&pieces));
        }
    }

    #[test]
    fn a_large_buffer_does_not_serve_small_messages() {
        let mut pieces = Pieces::default();
        for _ in 0..3 {
            pieces.give_back(Vec::with_capacity(1 << 20));
        }
        for id in 1..=3 {
            add(&mut pieces, id, 2000, 0, 1000);
        }
        assert!(memory(&pieces) <= (2 << 20) + 3 * 2000);
        assert_eq!(pieces.spare.len(), SPARE_MAX);
    }

    #[test]
    fn a_packet_begins_no_more_messages_than_an_honest_one() {
        let mut pieces = Pieces::default();
        let begin = |id| Fragment {
            id,
            offset: 0,
            total: 2000,
            bytes: &[0; FRAGMENT_BYTES_MIN],
        };
        for ids in [[1, 2, 3], [4, 5, 6]] {
            pieces.next_packet();
            let [first, second, third] = ids.map(|id| pieces.add(&begin(id), MAX));
            assert_eq!((first, second), (Ok(None), Ok(None)));
            assert!(third.is_err());
        }
        let short = Fragment {
            bytes: &[0; FRAGMENT_BYTES_MIN - 1],
            ..begin(7)
        };
        pieces.next_packet();
        assert!(
            pieces.add(&short, MAX).is_err(),
            "the last one alone may be"
        );
    }

    #[test]
    fn whatever_the_order_bytes_are_copied_seldom_and_runs_stay_few() {
        // Neighbours swapped throughout, then backwards.
        let total = 512 * 512;
        for (id, order) in [(1, true), (2, false)] {
            let mut pieces = Pieces::default();
            let mut came = None;
            for at in 0..512usize {
                let at = if order { at ^ 1 } else { 511 - at };
                let bytes = &message(id, total)[at * 512..][..512];
                let fragment = Fragment {
                    id,
                    offset: u32::try_from(at * 512).unwrap(),
                    total: u32::try_from(total).unwrap(),
                    bytes,
                };
                pieces.next_packet();
                came = pieces.add(&fragment, total).unwrap();
                let runs = pieces.messages.first().map_or(0, |one| one.runs.len());
                assert!(runs <= 20, "{runs} runs");
            }
            assert!(came == Some(message(id, total)));
        }
    }

    proptest! {
        #[test]
        fn whole_messages_come_out_in_whatever_order_their_pieces_come(
            cuts in prop::collection::vec(FRAGMENT_BYTES_MIN..600, 1..10),
            order in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let total: usize = cuts.iter().sum();
            let mut parts = Vec::new();
            for id in [5, 6] {
                let mut start = 0;
                for &cut in &cuts {
                    parts.push((id, start, start + cut));
                    start += cut;
                }
            }
            let (mut pieces, mut came, mut at) = (Pieces::default(), Vec::new(), 0);
            while !parts.is_empty() {
                let (id, start, end) = parts.remove(order[at % order.len()].index(parts.len()));
                at += 1;
                if total <= MAX / 2 && let Some(whole) = add(&mut pieces, id, total, start, end) {
                    prop_assert!(whole == message(id, total));
                    came.push(id);
                }
            }
            came.sort_unstable();
            prop_assert!(total > MAX / 2 || came == [5, 6]);
        }
    }
}
