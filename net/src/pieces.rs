//! Reassembly where fragments are lost and overtake each other: several messages at once, within the bytes of one.
//!
//! A fragment lands at its place in its message; the ranges that are there say when it is complete, so nothing is delivered that was not
//! sent. What is incomplete waits until newer messages need the room: then the oldest goes, and what still comes of it is dropped. A link holds at
//! most `message_bytes_max` bytes of incomplete messages.

use crate::packet::{Fragment, PacketError};

/// Most messages that are incomplete at once.
const MESSAGES_MAX: usize = 32;
/// Most gaps of one message; one with more has lost too much to come.
const RANGES_MAX: usize = 256;
/// Buffers kept for reuse, and the most bytes of each.
const SPARE_MAX: usize = 2;
const SPARE_BYTES_MAX: usize = 2 << 20;

/// The incomplete messages of one link.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    messages: Vec<Message>,
    /// Bytes of the messages above when complete.
    bytes: usize,
    /// Fragments of messages up to this one begin nothing: they are late.
    floor: u64,
    spare: Vec<Message>,
}

#[derive(Debug, Default)]
struct Message {
    id: u64,
    /// As long as the message; what is outside of the ranges is unspecified.
    buffer: Vec<u8>,
    /// What has come, ascending and apart from each other: start and end.
    ranges: Vec<(usize, usize)>,
}

impl Pieces {
    /// Adds a fragment, and returns its message if it is now complete. Give the buffer [`back`](Self::give_back) afterwards.
    ///
    /// # Errors
    /// [`PacketError::Fragment`] when it contradicts itself, the limit, or what came of its message before.
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
        if bytes.is_empty() || end > total || total > message_bytes_max {
            return Err(refused);
        }
        let known = self.messages.iter().position(|message| message.id == id);
        let at = match known {
            Some(at) => at,
            None if self.make_room(id, total, message_bytes_max) => self.begin(id, total),
            None => return Ok(None),
        };
        let message = &mut self.messages[at];
        if message.buffer.len() != total || !enter(&mut message.ranges, start, end) {
            return Err(refused);
        }
        message.buffer[start..end].copy_from_slice(bytes);
        if message.ranges == [(0, total)] {
            let mut message = self.messages.swap_remove(at);
            self.bytes -= total;
            let buffer = std::mem::take(&mut message.buffer);
            self.keep(message);
            return Ok(Some(buffer));
        }
        if message.ranges.len() > RANGES_MAX {
            self.drop_message(at);
        }
        Ok(None)
    }

    /// Takes back the buffer of a message that has been used.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        if let Some(spare) = self
            .spare
            .iter_mut()
            .find(|spare| spare.buffer.capacity() == 0)
            && buffer.capacity() <= SPARE_BYTES_MAX
        {
            spare.buffer = buffer;
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
        let mut message = self.spare.pop().unwrap_or_default();
        message.id = id;
        message.ranges.clear();
        message.buffer.resize(total, 0);
        self.messages.push(message);
        self.bytes += total;
        self.messages.len() - 1
    }

    fn drop_message(&mut self, at: usize) {
        let message = self.messages.swap_remove(at);
        self.bytes -= message.buffer.len();
        self.floor = self.floor.max(message.id);
        self.keep(message);
    }

    fn keep(&mut self, message: Message) {
        if self.spare.len() < SPARE_MAX && message.buffer.capacity() <= SPARE_BYTES_MAX {
            self.spare.push(message);
        }
    }
}

/// Enters a range that has come. False if some of it was there before.
fn enter(ranges: &mut Vec<(usize, usize)>, start: usize, end: usize) -> bool {
    let at = ranges.partition_point(|range| range.1 <= start);
    if ranges.get(at).is_some_and(|next| next.0 < end) {
        return false;
    }
    let joins_before = at > 0 && ranges[at - 1].1 == start;
    let joins_next = ranges.get(at).is_some_and(|next| next.0 == end);
    match (joins_before, joins_next) {
        (true, true) => {
            ranges[at - 1].1 = ranges[at].1;
            ranges.remove(at);
        }
        (true, false) => ranges[at - 1].1 = end,
        (false, true) => ranges[at].0 = start,
        (false, false) => ranges.insert(at, (start, end)),
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

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
        pieces.add(&fragment, MAX).unwrap()
    }

    #[test]
    fn a_lost_fragment_loses_its_message_and_no_other() {
        let mut pieces = Pieces::default();
        assert_eq!(add(&mut pieces, 1, 300, 0, 100), None);
        assert_eq!(add(&mut pieces, 1, 300, 200, 300), None);
        for id in 2..100 {
            assert_eq!(add(&mut pieces, id, 900, 400, 900), None);
            assert_eq!(add(&mut pieces, id, 900, 0, 400), Some(message(id, 900)));
            assert!(pieces.bytes <= MAX);
        }
        assert_eq!(add(&mut pieces, 1, 300, 100, 200), None, "it is late");
        assert_eq!(pieces.bytes, 0, "and begins nothing");
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut pieces = Pieces::default();
        for id in 1..=10 {
            add(&mut pieces, id, 400, 0, 100);
            assert!(pieces.bytes <= MAX);
        }
        assert_eq!(add(&mut pieces, 9, 400, 100, 400), Some(message(9, 400)));
        assert_eq!(add(&mut pieces, 10, 400, 100, 400), Some(message(10, 400)));
        for id in 11..=200 {
            add(&mut pieces, id, 2, 0, 1);
        }
        assert_eq!(pieces.messages.len(), MESSAGES_MAX);
        assert_eq!(add(&mut pieces, 11, 2, 1, 2), None);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut pieces = Pieces::default();
        add(&mut pieces, 1, 300, 100, 200);
        for (offset, total, bytes) in [
            (0, 300, &[0; 101][..]),
            (199, 300, &[0; 1]),
            (150, 300, &[0; 10]),
            (200, 300, &[]),
            (200, 301, &[0; 1]),
            (299, 300, &[0; 2]),
            (0, 1001, &[0; 1]),
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
        assert_eq!(add(&mut pieces, 1, 300, 0, 100), None);
        assert_eq!(add(&mut pieces, 1, 300, 200, 300), Some(message(1, 300)));
    }

    #[test]
    fn buffers_are_used_again() {
        let mut pieces = Pieces::default();
        let mut before: *const u8 = std::ptr::null();
        for id in 1..10 {
            add(&mut pieces, id, 500, 0, 499);
            let whole = add(&mut pieces, id, 500, 499, 500).unwrap();
            assert!(before.is_null() || before == whole.as_ptr());
            before = whole.as_ptr();
            pieces.give_back(whole);
        }
    }

    proptest! {
        #[test]
        fn whole_messages_come_out_in_whatever_order_their_pieces_come(
            cuts in prop::collection::vec(1usize..60, 1..10),
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
