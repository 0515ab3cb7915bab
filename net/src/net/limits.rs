//! Every bound of a loop's links in one place.

use std::time::Duration;

use crate::packet::PacketLimits;

/// Every bound of a loop's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sizes of packets and messages; the same on both sides.
    pub packet: PacketLimits,
    /// Most bytes that wait to be sent on one link; above it messages are dropped.
    pub send_bytes_max: usize,
    /// Most bytes read from one link per turn, so that one peer cannot starve the others.
    pub read_bytes_per_turn: usize,
    /// Most accepted connections, in handshake or up.
    pub links_max: usize,
    /// Most accepted connections of one client.
    pub links_per_client_max: usize,
    /// Most connections in their handshake; above it the oldest goes.
    pub half_open_max: usize,
    /// Most time from the first packet of a connection (or the dial) until it is up.
    pub handshake_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet: PacketLimits::default(),
            send_bytes_max: 16 * 1024 * 1024,
            read_bytes_per_turn: 256 * 1024,
            links_max: 4096,
            links_per_client_max: 16,
            half_open_max: 256,
            handshake_max: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// Panics on limits that cannot work together: they are our own configuration.
    pub(crate) fn check(&self) {
        self.packet.check();
        let message = self.packet.wire_bytes_max(self.packet.message_bytes_max);
        assert!(
            self.send_bytes_max >= message,
            "send_bytes_max of {} bytes must hold the largest message, {message} bytes on the wire",
            self.send_bytes_max
        );
        assert!(
            self.read_bytes_per_turn > 0
                && self.links_max > 0
                && self.links_per_client_max > 0
                && self.half_open_max > 0,
            "limits are above zero"
        );
    }
}
