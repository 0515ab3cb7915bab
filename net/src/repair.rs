//! Repair of large messages over datagrams: the receiver names what is missing of a message that is partly there, the sender says that again.
//!
//! ```text
//! packet of kind Want    header | message id u64, from u32, to u32 …        bytes `from` to `to` of a message are missing; at most 64 entries
//! ```
//!
//! A message in a hundred fragments comes whole once in 170 times when one datagram in twenty is lost: to say whole messages again does not help there.
//! When to ask is the receiver's business (`pieces`); here stand what travels and what the sender keeps for it.
//!
//! Bounds: a sender keeps copies of its newest large messages, at most [`KEPT_BYTES_MAX`] bytes and [`KEPT_MAX`] messages per link, and says no
//! message again more than [`AGAIN_TIMES_MAX`] times over, whatever it is asked. What it does not keep any more is lost, as if nobody had asked.
//! Cost: one copy of each message in fragments. Wants and what is said again overtake the data, as Credits do: behind it a
//! receiver would have to wait for more messages than it can hold in pieces.

use std::collections::VecDeque;
use std::ops::Range;

use crate::packet::{read_u32, read_u64, wire_u32};

/// Most entries of one Want: with its header it fits into every datagram.
pub(crate) const WANTS_MAX: usize = 64;
/// Most bytes of messages that a link keeps.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Most messages that a link keeps: those that wait to leave are among them.
const KEPT_MAX: usize = 128;
/// Most bytes that are said again at once: they overtake the data and need no credit.
pub(crate) const AGAIN_BYTES_MAX: usize = 128 << 10;
/// How many times its own bytes a message is said again at most.
const AGAIN_TIMES_MAX: usize = 4;
const WANT_BYTES: usize = 16;

/// Bytes of a message that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub id: u64,
    pub from: u32,
    pub to: u32,
}

/// The body of a packet that asks for `wants`.
pub(crate) fn write(wants: &[Want]) -> Vec<u8> {
    let mut body = Vec::with_capacity(wants.len() * WANT_BYTES);
    for want in wants {
        body.extend_from_slice(&want.id.to_le_bytes());
        body.extend_from_slice(&want.from.to_le_bytes());
        body.extend_from_slice(&want.to.to_le_bytes());
    }
    body
}

/// What the body of a packet asks for; none if it is no such body.
pub(crate) fn read(body: &[u8]) -> Option<impl Iterator<Item = Want> + '_> {
    let whole = body.len().is_multiple_of(WANT_BYTES) && body.len() <= WANTS_MAX * WANT_BYTES;
    whole.then(|| {
        body.chunks_exact(WANT_BYTES).map(|entry| Want {
            id: read_u64(entry, 0),
            from: read_u32(entry, 8),
            to: read_u32(entry, 12),
        })
    })
}

/// The newest large messages that a link has sent.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    messages: VecDeque<Message>,
    bytes: usize,
    /// A buffer to be used again.
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Message {
    id: u64,
    bytes: Vec<u8>,
    /// Bytes of it that may still be said again.
    may_say: usize,
}

impl Kept {
    /// Keeps message `id`, given in parts; older ones give way.
    pub fn keep(&mut self, id: u64, parts: &[&[u8]]) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total > KEPT_BYTES_MAX {
            return;
        }
        while self.messages.len() == KEPT_MAX || self.bytes + total > KEPT_BYTES_MAX {
            let oldest = self.messages.pop_front().expect("one alone fits");
            self.bytes -= oldest.bytes.len();
            if oldest.bytes.capacity() > self.spare.capacity() {
                self.spare = oldest.bytes;
            }
        }
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        self.bytes += total;
        self.messages.push_back(Message {
            id,
            bytes,
            may_say: total * AGAIN_TIMES_MAX,
        });
    }

    /// The message of which `want` names a part, and that part, if it is to be said again.
    pub fn answer(&mut self, want: Want) -> Option<(&[u8], Range<usize>)> {
        let range = want.from as usize..want.to as usize;
        let message = self.messages.iter_mut().find(|one| one.id == want.id)?;
        if range.is_empty() || range.end > message.bytes.len() || range.len() > message.may_say {
            return None;
        }
        message.may_say -= range.len();
        Some((&message.bytes, range))
    }
}

impl Want {
    /// Asks for these bytes of message `id`.
    pub fn new(id: u64, range: &Range<usize>) -> Self {
        Self {
            id,
            from: wire_u32(range.start),
            to: wire_u32(range.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(id: u64, from: u32, to: u32) -> Want {
        Want { id, from, to }
    }

    #[test]
    fn the_bytes_of_a_want_are_pinned_and_others_are_none() {
        let body = write(&[want(1, 2, 3), want(4, 5, 6)]);
        let first = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
        assert_eq!(body[..16], first);
        let back: Vec<Want> = read(&body).unwrap().collect();
        assert_eq!(back, [want(1, 2, 3), want(4, 5, 6)]);
        assert!(read(&body[..31]).is_none());
        assert!(read(&[0; WANT_BYTES * (WANTS_MAX + 1)]).is_none());
    }

    #[test]
    fn no_more_is_kept_than_the_bounds_say() {
        let mut kept = Kept::default();
        for id in 1..=200 {
            kept.keep(id, &[&[1; 1000], &[2; 1000]]);
            assert!(kept.messages.len() <= KEPT_MAX);
        }
        assert_eq!(kept.answer(want(72, 0, 10)), None, "it has given way");
        let (message, range) = kept.answer(want(73, 990, 1010)).unwrap();
        assert_eq!(message[range], [[1; 10], [2; 10]].concat());
        for id in 201..=210 {
            kept.keep(id, &[&vec![3; KEPT_BYTES_MAX / 3]]);
            assert!(kept.bytes <= KEPT_BYTES_MAX);
        }
        kept.keep(211, &[&vec![4; KEPT_BYTES_MAX + 1]]);
        assert_eq!(kept.answer(want(211, 0, 1)), None);
        assert!(kept.answer(want(210, 0, 1)).is_some());
    }

    #[test]
    fn who_asks_for_ever_or_for_nonsense_gets_nothing() {
        let mut kept = Kept::default();
        kept.keep(1, &[&[7; 1000]]);
        for nonsense in [
            want(2, 0, 1),
            want(1, 5, 5),
            want(1, 6, 5),
            want(1, 0, 1001),
            want(1, u32::MAX, u32::MAX),
        ] {
            assert_eq!(kept.answer(nonsense), None);
        }
        let said = (0..100).filter(|_| kept.answer(want(1, 0, 1000)).is_some());
        assert_eq!(said.count(), AGAIN_TIMES_MAX);
    }
}
