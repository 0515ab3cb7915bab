//! Packets: how messages are framed and authenticated on a link. Bytes in, messages out; no socket.
//!
//! ```text
//! packet    length u32 | version u16 | kind u16 | counter u64 | tag [16] | frames …          (little endian; length counts the whole packet)
//! frame     len u32 | message                                                               (bit 31 of len clear)
//! fragment  len u32 | message id u64 | offset u32 | total u32 | part of a message            (bit 31 of len set; len counts what follows it)
//! ```
//!
//! The tag is keyed blake3 with the link's key of that direction over everything but itself, one per packet, however many messages it holds. Large
//! bytes whose digest the packet holds anyway are left out of it: `gaps`.
//!
//! No counter is taken twice, so a packet that is played back is refused. A message above the packet limit travels as fragments.
//!
//! On a stream counters ascend strictly, and one message is reassembled at a time (`reassembly`); a missing or foreign fragment ends the link.
//! On datagrams packets are lost, doubled and overtake each other: counters are taken in any order within a window (`replay`), and several messages
//! are reassembled at once (`pieces`); a lost fragment is asked for again (`repair`), and loses at most its message.
//! Packets of the kinds Close, Credit and Want, and Data that is said again, then have counters of their own, from 2^63 on and strictly ascending: they overtake the data that waits.
//!
//! Cost: sealing and opening work in place on the link's buffers and copy nothing but fragments.
//! Source: DESIGN.md section 4. What precedes the first data packet stands in [`crate::link`].

mod gaps;
mod opener;
mod sealer;

use twostep_crypto::PROTOCOL_VERSION;

pub use gaps::GAP_BYTES_MIN;
pub use opener::Opener;
pub use sealer::Sealer;

use gaps::GAPS_MAX;

/// Bytes before the frames of a packet.
pub const HEADER_BYTES: usize = 32;
/// Bytes before the message in a frame.
pub const FRAME_HEADER_BYTES: usize = 4;
/// Bytes before the part of a message in a fragment frame.
pub const FRAGMENT_HEADER_BYTES: usize = FRAME_HEADER_BYTES + 16;

/// The smallest limit of packets: what every path of the Internet Protocol, version 6, carries in a datagram (RFC 9000 section 14), so the
/// handshake's packets always fit.
pub const PACKET_BYTES_MIN: usize = 1200;
/// The largest limit of packets that travel as datagrams: what one IP packet carries, headers left out.
pub const DATAGRAM_BYTES_MAX: usize = 65_000;
/// The usual limit of packets that travel as datagrams: fits into a frame of Ethernet.
pub const DATAGRAM_BYTES: usize = 1472;
/// Counters from here on belong to packets that overtake the data.
pub(crate) const CONTROL_LINE: u64 = 1 << 63;

/// Marks a fragment in a frame's length.
const FRAGMENT_FLAG: u32 = 1 << 31;
/// Stands in front of a Hello that is proved, where a packet has its length, which is never as large as these bytes.
const ANSWER_CONTEXT: &[u8] = b"twostep answers ";
/// Bytes that the tag covers in the header.
const COVERED_BYTES: usize = 16;
/// A fragment shorter than this waits for the next packet: its header would weigh more than it carries. Only the last one of a message may be shorter,
/// and links of datagrams hold the other side to that.
pub(crate) const FRAGMENT_BYTES_MIN: usize = 512;
/// What a packet is for. Everything but `Data` and `Gapped` belongs to the handshake or ends the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Frames of messages.
    Data = 0,
    /// Who dials whom, and the nonces of the link key.
    Hello = 1,
    /// Shows that the sender has the link key.
    Proof = 2,
    /// Says why the sender closes the connection.
    Refuse = 3,
    /// Says without a reason that the sender closes the link; on datagrams only, since streams have an end.
    Close = 4,
    /// What the sender of it has received and how much may be under way to it; on datagrams only.
    Credit = 5,
    /// Frames of messages, parts of which the tag leaves out.
    Gapped = 6,
    /// What a stranger must say its Hello again with; on datagrams only.
    Cookie = 7,
    /// Names what is missing of large messages; on datagrams only.
    Want = 8,
}

impl Kind {
    /// Whether a packet of this kind, as its header says it, holds messages.
    #[must_use]
    pub fn holds_messages(kind: u16) -> bool {
        kind == Kind::Data as u16 || kind == Kind::Gapped as u16
    }
}

/// The fields before the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole packet, this header included.
    pub length: u32,
    /// Protocol version of the sender.
    pub version: u16,
    /// A [`Kind`], as the sender wrote it.
    pub kind: u16,
    /// Ascends strictly within a link and direction. In a Hello, which has no key yet, see [`crate::link`].
    pub counter: u64,
    /// The MAC, or the magic bytes where no key exists yet.
    pub tag: [u8; 16],
}

impl Header {
    /// Reads the header of `packet`, which must hold one.
    ///
    /// # Panics
    /// When `packet` is shorter than a header; [`split`] yields none such.
    #[must_use]
    pub fn read(packet: &[u8]) -> Self {
        let mut tag = [0; 16];
        tag.copy_from_slice(&packet[16..32]);
        Self {
            length: read_u32(packet, 0),
            version: read_u16(packet, 4),
            kind: read_u16(packet, 6),
            counter: read_u64(packet, 8),
            tag,
        }
    }

    /// The bytes of the header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.tag);
        bytes
    }
}

/// The bounds of both directions of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// Most bytes of one packet, header included.
    pub packet_bytes_max: usize,
    /// Most bytes of one message, whether it travels whole or in fragments.
    pub message_bytes_max: usize,
}

impl Default for PacketLimits {
    /// 64 KiB packets, 8 MiB messages.
    fn default() -> Self {
        Self {
            packet_bytes_max: 64 * 1024,
            message_bytes_max: 8 * 1024 * 1024,
        }
    }
}

impl PacketLimits {
    /// Panics on limits that cannot work: they are our own configuration, checked before a link uses them.
    pub(crate) fn check(&self) {
        assert!(
            self.packet_bytes_max >= PACKET_BYTES_MIN,
            "packet_bytes_max is at least {PACKET_BYTES_MIN}, not {}",
            self.packet_bytes_max
        );
        assert!(
            self.packet_bytes_max < FRAGMENT_FLAG as usize,
            "packet_bytes_max is below 2^31, not {}",
            self.packet_bytes_max
        );
        assert!(
            self.message_bytes_max < FRAGMENT_FLAG as usize,
            "message_bytes_max is below 2^31, not {}",
            self.message_bytes_max
        );
    }

    /// Most bytes that a message of `message_bytes` adds to a send buffer, headers, tags and lists of gaps included.
    #[must_use]
    pub fn wire_bytes_max(&self, message_bytes: usize) -> usize {
        let overhead = HEADER_BYTES + FRAGMENT_HEADER_BYTES + gaps::list_bytes(GAPS_MAX);
        let per_packet = self.packet_bytes_max - overhead;
        // One packet more than full ones: the first fragment may fill up a packet that is open already.
        let packets = message_bytes.div_ceil(per_packet) + 1;
        message_bytes + packets * overhead
    }
}

/// Why bytes are not a packet that this link takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The length field is below a header.
    #[error("a packet length of at least {HEADER_BYTES} bytes was expected, not {0}")]
    TooShort(usize),
    /// The length field is above the limit.
    #[error(
        "a packet of at most {max} bytes was expected, not {length}; packet_bytes_max must be the same on both sides"
    )]
    TooLong {
        /// What the header says.
        length: usize,
        /// What the limit allows.
        max: usize,
    },
    /// The sender speaks another version.
    #[error("protocol version {PROTOCOL_VERSION} was expected, not {0}")]
    Version(u16),
    /// The tag does not fit the bytes and the link key.
    #[error("the packet's tag does not verify")]
    BadTag,
    /// The list of gaps leaves its packet or contradicts itself.
    #[error("the list of what the packet's tag leaves out does not fit the packet")]
    Gaps,
    /// The counter does not ascend.
    #[error(
        "a packet counter above {last} was expected, not {counter}: the packet was played back"
    )]
    Replayed {
        /// What the header says.
        counter: u64,
        /// The newest counter taken.
        last: u64,
    },
    /// A frame leaves its packet, or lacks its header.
    #[error("a frame at byte {0} does not fit into its packet")]
    Frame(usize),
    /// A fragment contradicts its message.
    #[error(
        "fragment {id} at offset {offset} of {total} bytes does not continue a message within the limits"
    )]
    Fragment {
        /// Message id.
        id: u64,
        /// Where its bytes belong.
        offset: u32,
        /// Bytes of the whole message.
        total: u32,
    },
}

/// The first packet in `bytes`, or none while it is incomplete. A length outside `[header, max]` is refused as soon as its four bytes are there.
///
/// # Errors
/// [`PacketError::TooShort`] and [`PacketError::TooLong`].
pub fn split(bytes: &[u8], packet_bytes_max: usize) -> Result<Option<&[u8]>, PacketError> {
    if bytes.len() < 4 {
        return Ok(None);
    }
    let length = read_u32(bytes, 0) as usize;
    if length < HEADER_BYTES {
        return Err(PacketError::TooShort(length));
    }
    if length > packet_bytes_max {
        return Err(PacketError::TooLong {
            length,
            max: packet_bytes_max,
        });
    }
    Ok(bytes.get(..length))
}

/// One frame of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message.
    Whole(&'a [u8]),
    /// A part of a larger one.
    Fragment(Fragment<'a>),
}

/// A part of a message that exceeds the packet limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Ascends with every message that the sender splits.
    pub id: u64,
    /// Where `bytes` belong in the message.
    pub offset: u32,
    /// Bytes of the whole message.
    pub total: u32,
    /// The part.
    pub bytes: &'a [u8],
}

/// The frames of a packet whose shape has been checked.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (frame, rest) = next_frame(self.rest)?;
        self.rest = rest;
        Some(frame)
    }
}

/// The frames in the body of a packet.
///
/// # Errors
/// [`PacketError::Frame`] when a frame leaves the packet or bytes remain that are none.
pub fn frames(body: &[u8]) -> Result<Frames<'_>, PacketError> {
    let mut rest = body;
    while !rest.is_empty() {
        let at = body.len() - rest.len();
        rest = next_frame(rest).ok_or(PacketError::Frame(at))?.1;
    }
    Ok(Frames { rest: body })
}

fn next_frame(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
    let word = read_u32(head, 0);
    let (content, rest) = rest.split_at_checked((word & !FRAGMENT_FLAG) as usize)?;
    if word & FRAGMENT_FLAG == 0 {
        return Some((Frame::Whole(content), rest));
    }
    let (head, bytes) = content.split_at_checked(FRAGMENT_HEADER_BYTES - FRAME_HEADER_BYTES)?;
    let fragment = Fragment {
        id: read_u64(head, 0),
        offset: read_u32(head, 8),
        total: read_u32(head, 12),
        bytes,
    };
    Some((Frame::Fragment(fragment), rest))
}

/// A length as it stands on the wire: below 2^31 by the checked limits.
pub(crate) fn wire_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths are bounded by the packet and message limits")
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    let mut field = [0; 2];
    field.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(field)
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
