//! The bounded send buffer of one link: packets are built in it, sealed in it and written from it.

/// Bytes that leave in order. Never holds more than its bound.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub bytes: Vec<u8>,
    /// Bytes at the front that are written already.
    head: usize,
    bytes_max: usize,
    /// Most bytes that waited at once since the capacity was last judged.
    peak: usize,
    drains: u32,
}

/// A buffer at or below this is never given back.
const KEPT_BYTES: usize = 128 * 1024;
/// The capacity is judged once in this many times that the buffer runs empty.
const DRAINS_PER_JUDGEMENT: u32 = 256;

impl Outbox {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            head: 0,
            bytes_max,
            peak: 0,
            drains: 0,
        }
    }

    /// Bytes that wait.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether `more` bytes fit into the bound.
    pub fn has_room(&self, more: usize) -> bool {
        self.pending() + more <= self.bytes_max
    }

    /// What waits to be written.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Forgets the first `count` bytes that wait. No packet may be open: positions shift.
    pub fn sent(&mut self, count: usize) {
        assert!(count <= self.pending(), "no more is sent than waits");
        self.peak = self.peak.max(self.pending());
        self.head += count;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
            self.judge_capacity();
        } else if self.head > self.bytes.len() / 2 {
            // Moving the smaller half keeps the cost below one copy per byte and the buffer below twice its bound.
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Gives memory back after a burst, but not so eagerly that steady load would allocate.
    fn judge_capacity(&mut self) {
        self.drains += 1;
        if self.drains == DRAINS_PER_JUDGEMENT {
            if self.bytes.capacity() > KEPT_BYTES && self.bytes.capacity() / 4 > self.peak {
                self.bytes.shrink_to(KEPT_BYTES.max(self.peak));
            }
            self.drains = 0;
            self.peak = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_across_partial_writes() {
        let mut outbox = Outbox::new(1000);
        let mut wrote = Vec::new();
        for round in 0..100u8 {
            outbox.bytes.extend_from_slice(&[round; 7]);
            let part = outbox.pending().min(5 + usize::from(round % 4));
            wrote.extend_from_slice(&outbox.unsent()[..part]);
            outbox.sent(part);
            assert!(
                outbox.bytes.len() <= 2 * outbox.pending().max(1),
                "written bytes do not pile up"
            );
        }
        wrote.extend_from_slice(outbox.unsent());
        let expected: Vec<u8> = (0..100u8).flat_map(|round| [round; 7]).collect();
        assert_eq!(wrote, expected);
    }

    #[test]
    fn the_bound_counts_what_waits() {
        let mut outbox = Outbox::new(10);
        outbox.bytes.extend_from_slice(&[0; 8]);
        assert!(outbox.has_room(2) && !outbox.has_room(3));
        outbox.sent(4);
        assert!(outbox.has_room(6) && !outbox.has_room(7));
    }

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let mut outbox = Outbox::new(1 << 24);
        outbox.bytes.resize(1 << 22, 0);
        outbox.sent(1 << 22);
        for _ in 0..2 * DRAINS_PER_JUDGEMENT {
            outbox.bytes.push(1);
            outbox.sent(1);
        }
        assert!(
            outbox.bytes.capacity() <= 2 * KEPT_BYTES,
            "{} bytes kept",
            outbox.bytes.capacity()
        );
    }
}
