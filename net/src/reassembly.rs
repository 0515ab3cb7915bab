//! Reassembly on a stream: fragments come in order, so there is one message in hand at a time. Its id makes a missing or foreign fragment visible,
//! which ends the link. `pieces` does this where fragments are lost and overtake each other.

use crate::packet::{Fragment, PacketError};

/// A reassembly buffer above this is not kept between messages: the largest messages are rare, and links are many.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Puts the fragments of one message at a time together again. Holds at most `message_bytes_max` bytes.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    buffer: Vec<u8>,
    /// The message in hand, or the newest one.
    id: u64,
    /// Bytes of the message in hand; zero between messages.
    total: u32,
}

impl Reassembly {
    /// Adds a fragment, and says whether its message is complete: then [`take`](Self::take) it.
    ///
    /// # Errors
    /// [`PacketError::Fragment`] when it does not continue the message in hand, or does not begin a new one within the limit.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        message_bytes_max: usize,
    ) -> Result<bool, PacketError> {
        let Fragment {
            id,
            offset,
            total,
            bytes,
        } = *fragment;
        let refused = PacketError::Fragment { id, offset, total };
        if self.total == 0 {
            if id <= self.id || total == 0 || total as usize > message_bytes_max {
                return Err(refused);
            }
            self.id = id;
            self.total = total;
            self.buffer.clear();
        }
        let continues =
            id == self.id && total == self.total && offset as usize == self.buffer.len();
        // An empty fragment would cost the sender nothing and never end.
        if !continues || bytes.is_empty() || self.buffer.len() + bytes.len() > total as usize {
            return Err(refused);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(self.buffer.len() == total as usize)
    }

    /// The complete message. Give the buffer [`back`](Self::give_back) afterwards, so that the next message need not allocate.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        assert_eq!(
            self.buffer.len(),
            self.total as usize,
            "only a complete message is taken"
        );
        self.total = 0;
        std::mem::take(&mut self.buffer)
    }

    /// Takes back the buffer of a message that has been used.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BYTES {
            self.buffer = buffer;
            self.buffer.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_must_continue_their_message_within_the_limit() {
        let part = |id, offset, total, bytes| Fragment {
            id,
            offset,
            total,
            bytes,
        };
        let refused = |earlier: &[Fragment<'_>], last: Fragment<'_>| {
            let mut reassembly = Reassembly::default();
            for fragment in earlier {
                reassembly.add(fragment, 100).unwrap();
            }
            reassembly.add(&last, 100).unwrap_err();
        };
        refused(&[], part(1, 0, 101, b"too long"));
        refused(&[], part(1, 0, 0, b""));
        refused(&[], part(1, 1, 10, b"not the start"));
        refused(&[], part(0, 0, 10, b"ids begin at 1"));
        refused(&[], part(1, 0, 10, b""));
        refused(&[], part(1, 0, 3, b"more than total"));
        refused(&[part(1, 0, 10, b"abc")], part(2, 3, 10, b"other id"));
        refused(&[part(1, 0, 10, b"abc")], part(1, 4, 10, b"gap"));
        refused(&[part(1, 0, 10, b"abc")], part(1, 3, 11, b"total"));
    }
}
