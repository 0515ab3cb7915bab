//! How much may be under way on a link of datagrams, so that the other side's receive buffer does not overflow.
//!
//! ```text
//! sender     what left − what is credited ≤ window ──► whole packets leave; the rest waits in the send buffer
//! receiver   a quarter of the window has come, or the link is quiet ──► Credit: newest counter, window
//! ```
//!
//! A Credit says which packet is the newest that was read from the receive buffer, so those that were lost before it count as come. It also says
//! how large the window is: a part of the receive buffer, because the kernel charges more memory for a packet than its bytes. A sender that waits while
//! no Credit comes takes what is under way for lost after a while, so no loss stops a link. Nothing is retransmitted here: the protocol does that.

use std::collections::VecDeque;

use crate::packet::{HEADER_BYTES, Header, Kind, read_u32, read_u64, wire_u32};
use crate::replay::WINDOW_PACKETS;

/// What the kernel needs for a packet besides its bytes, at most. Bytes.
const PACKET_COST: u64 = 1024;
/// The window until the other side has told its own: fits into the smallest usual receive buffer.
const FIRST_WINDOW: u64 = 128 << 10;
/// The smallest window that is believed, so that every packet can leave.
const WINDOW_MIN: u64 = 72 << 10;
/// The largest window that is believed: a packet costs at least [`PACKET_COST`], so no more packets are under way than counters that the receiver
/// tells apart (those that others overtake by more would be refused), and the list of what is under way is bounded whatever the other side says.
const WINDOW_MAX: u64 = WINDOW_PACKETS * PACKET_COST;
/// Bytes of a Credit's body.
pub(crate) const CREDIT_BYTES: usize = 12;

/// Both directions of one link.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The other side's window.
    window: u64,
    /// Cost of all packets that left.
    sent: u64,
    /// Cost of those that are credited.
    credited: u64,
    /// Counters of packets that left and are not credited, with the cost up to and with each.
    under_way: VecDeque<(u64, u64)>,
    own_window: u64,
    /// The newest counter that has come.
    newest: u64,
    /// Cost of what has come since the last Credit.
    uncredited: u64,
}

impl Flow {
    /// Nothing is under way. `receive_bytes` is the memory of our receive buffer.
    pub fn new(receive_bytes: usize) -> Self {
        Self {
            window: FIRST_WINDOW,
            sent: 0,
            credited: 0,
            under_way: VecDeque::new(),
            own_window: (receive_bytes as u64 / 2).clamp(WINDOW_MIN, WINDOW_MAX),
            newest: 0,
            uncredited: 0,
        }
    }

    /// How many of `bytes`, which are whole packets, may leave now: whole packets.
    pub fn allowed(&self, bytes: &[u8]) -> usize {
        let (mut at, mut cost) = (0, self.sent - self.credited);
        while at < bytes.len() {
            let length = read_u32(bytes, at) as usize;
            cost += cost_of(length);
            if cost > self.window {
                break;
            }
            at += length;
        }
        at
    }

    /// These whole packets have left.
    pub fn sent(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let header = Header::read(&bytes[at..at + HEADER_BYTES]);
            self.sent += cost_of(header.length as usize);
            // Handshake packets before it are credited with the first of the data.
            if Kind::holds_messages(header.kind) {
                self.under_way.push_back((header.counter, self.sent));
            }
            at += header.length as usize;
        }
    }

    /// A Credit has come. False if its body is none.
    pub fn credit(&mut self, body: &[u8]) -> bool {
        if body.len() != CREDIT_BYTES {
            return false;
        }
        let counter = read_u64(body, 0);
        self.window = u64::from(read_u32(body, 8)).clamp(WINDOW_MIN, WINDOW_MAX);
        while let Some((_, cost)) = self
            .under_way
            .pop_front_if(|(under_way, _)| *under_way <= counter)
        {
            self.credited = cost;
        }
        if self.under_way.is_empty() {
            self.credited = self.sent;
        }
        true
    }

    /// No Credit has come for too long: what is under way counts as lost.
    pub fn forget(&mut self) {
        self.under_way.clear();
        self.credited = self.sent;
    }

    /// A data packet has come. True if a Credit is due.
    pub fn received(&mut self, counter: u64, length: usize) -> bool {
        self.newest = self.newest.max(counter);
        self.uncredited += cost_of(length);
        self.uncredited >= self.own_window / 4
    }

    /// The body of a Credit for all that has come.
    pub fn credit_body(&mut self) -> [u8; CREDIT_BYTES] {
        self.uncredited = 0;
        let mut body = [0; CREDIT_BYTES];
        body[..8].copy_from_slice(&self.newest.to_le_bytes());
        let window = usize::try_from(self.own_window).expect("at most WINDOW_MAX");
        body[8..].copy_from_slice(&wire_u32(window).to_le_bytes());
        body
    }
}

fn cost_of(length: usize) -> u64 {
    length as u64 + PACKET_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(counters: std::ops::Range<u64>, length: usize) -> Vec<u8> {
        let packet = |counter| {
            let header = Header {
                length: wire_u32(length),
                version: 1,
                kind: Kind::Data as u16,
                counter,
                tag: [0; 16],
            };
            let mut bytes = header.to_bytes().to_vec();
            bytes.resize(length, 0);
            bytes
        };
        counters.flat_map(packet).collect()
    }

    #[test]
    fn no_more_leaves_than_the_window_holds_until_it_is_credited() {
        let (mut sender, mut receiver) = (Flow::new(0), Flow::new(1 << 20));
        let bytes = packets(1..1001, 1000);
        let allowed = sender.allowed(&bytes);
        let first = FIRST_WINDOW / 2024;
        assert_eq!(allowed as u64, first * 1000);
        sender.sent(&bytes[..allowed]);
        assert_eq!(sender.allowed(&bytes[allowed..]), 0);
        // Half of them are lost; those that come are credited with the others.
        let mut due = false;
        for counter in (2..=first).step_by(2) {
            due |= receiver.received(counter, 1000);
        }
        assert!(!due, "a quarter of half a mebibyte has not come");
        assert!(sender.credit(&receiver.credit_body()));
        assert_eq!(sender.sent - sender.credited, first % 2 * 2024);
        let allowed = sender.allowed(&bytes) as u64 / 1000;
        assert_eq!(
            allowed,
            ((512 << 10) - first % 2 * 2024) / 2024,
            "the window is told"
        );
    }

    #[test]
    fn a_quarter_of_the_window_is_worth_a_credit() {
        let mut receiver = Flow::new(1 << 20);
        let quarter = (1u64 << 17).div_ceil(2024);
        for counter in 1..quarter {
            assert!(!receiver.received(counter, 1000));
        }
        assert!(receiver.received(quarter, 1000));
        receiver.credit_body();
        assert!(!receiver.received(quarter + 1, 1000));
    }

    #[test]
    fn a_window_is_believed_as_far_as_counters_are_told_apart() {
        let mut sender = Flow::new(0);
        let mut body = [0; CREDIT_BYTES];
        body[8..].fill(0xff);
        assert!(sender.credit(&body));
        let bytes = packets(1..WINDOW_PACKETS + 1000, HEADER_BYTES);
        let allowed = sender.allowed(&bytes);
        assert_eq!(allowed as u64 / 32, WINDOW_MAX / (PACKET_COST + 32));
        sender.sent(&bytes[..allowed]);
        assert!((sender.under_way.len() as u64) < WINDOW_PACKETS);
        let mut receiver = Flow::new(usize::MAX / 2);
        let told = receiver.credit_body();
        assert_eq!(u64::from(read_u32(&told, 8)), WINDOW_MAX);
    }

    #[test]
    fn lost_credits_do_not_stop_a_link_and_bad_ones_change_nothing() {
        let mut sender = Flow::new(0);
        let bytes = packets(1..1001, 1000);
        let allowed = sender.allowed(&bytes);
        sender.sent(&bytes[..allowed]);
        assert!(!sender.credit(&[0; 11]) && !sender.credit(&[]));
        assert_eq!(sender.allowed(&bytes), 0);
        sender.forget();
        assert_eq!(sender.allowed(&bytes), allowed);
        // A window of nothing would hold the largest packet for ever.
        assert!(sender.credit(&[0; CREDIT_BYTES]));
        assert_eq!(sender.allowed(&packets(1..2, 65_000)), 65_000);
    }
}
