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
//! On a stream counters ascend strictly, and one message is reassembled at a time: its id makes a missing or foreign fragment visible, which ends
//! the link. On datagrams packets are lost, doubled and overtake each other: counters are taken in any order within a window
//! (`replay`), and several messages are reassembled at once (`pieces`); a lost fragment loses its message and nothing else.
//! Packets of the kinds Close and Credit then have counters of their own, from 2^63 on and strictly ascending: they overtake the data that waits.
//!
//! Cost: sealing and opening work in place on the link's buffers and copy nothing but fragments.
//! Source: DESIGN.md section 4. What precedes the first data packet stands in [`crate::link`].

mod gaps;

use std::ops::Range;

use twostep_crypto::{MacKey, PROTOCOL_VERSION, Tag};

use crate::replay::Window;
pub use gaps::GAP_BYTES_MIN;
use gaps::{GAPS_MAX, Gaps};

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
const CONTROL_LINE: u64 = 1 << 63;

/// Marks a fragment in a frame's length.
const FRAGMENT_FLAG: u32 = 1 << 31;
/// Bytes that the tag covers in the header.
const COVERED_BYTES: usize = 16;
/// A fragment shorter than this waits for the next packet: its header would weigh more than it carries. Only the last one of a message may be shorter,
/// and links of datagrams hold the other side to that.
pub(crate) const FRAGMENT_BYTES_MIN: usize = 512;
/// A reassembly buffer above this is not kept between messages: the largest messages are rare, and links are many.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

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

/// Appends messages to a send buffer and seals its packets in place.
pub struct Sealer {
    key: MacKey,
    limits: PacketLimits,
    counter: u64,
    /// The newest counter of the control line.
    control: u64,
    message_id: u64,
    /// Where the packet that still takes frames begins in the buffer.
    open: Option<usize>,
    gaps: Gaps,
}

impl Sealer {
    /// A sealer that starts after `counter`, the newest counter that this direction has used.
    #[must_use]
    pub fn new(key: MacKey, limits: PacketLimits, counter: u64) -> Self {
        limits.check();
        Self {
            key,
            limits,
            counter,
            control: CONTROL_LINE,
            message_id: 0,
            open: None,
            gaps: Gaps::default(),
        }
    }

    /// Appends one message, given in parts; the tag leaves out the `gaps` in their joined bytes, as far as a packet's
    /// list takes them. Returns how many packets became full and were sealed.
    ///
    /// # Panics
    /// When the message exceeds `message_bytes_max`, or the gaps do not ascend within it: the link checks before.
    pub fn push(&mut self, out: &mut Vec<u8>, parts: &[&[u8]], gaps: &[Range<usize>]) -> u64 {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        assert!(
            total <= self.limits.message_bytes_max,
            "a message of {total} bytes exceeds the limit"
        );
        let list = gaps::list_bytes(gaps.len().min(GAPS_MAX));
        if HEADER_BYTES + FRAME_HEADER_BYTES + total + list > self.limits.packet_bytes_max {
            return self.push_fragments(out, parts, total, gaps);
        }
        let mut sealed = 0;
        if self.room(out) < FRAME_HEADER_BYTES + total + list {
            sealed += u64::from(self.seal(out));
        }
        self.begin(out);
        out.extend_from_slice(&wire_u32(total).to_le_bytes());
        self.leave_out(out, gaps, 0..total);
        for part in parts {
            out.extend_from_slice(part);
        }
        sealed
    }

    /// Completes the open packet, if there is one, and says whether there was.
    pub fn seal(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(start) = self.open.take() else {
            return false;
        };
        let kind = if self.gaps.is_empty() {
            Kind::Data
        } else {
            self.gaps.write(out);
            Kind::Gapped
        };
        self.counter += 1;
        seal_packet(&self.key, kind, self.counter, &mut out[start..]);
        true
    }

    /// Appends one sealed packet of another kind.
    pub fn push_packet(&mut self, out: &mut Vec<u8>, kind: Kind, body: &[u8]) {
        self.seal(out);
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        out.extend_from_slice(body);
        self.counter += 1;
        seal_packet(&self.key, kind, self.counter, &mut out[start..]);
    }

    /// Appends one sealed packet to `out`, which is not the buffer of the data: the packet may overtake it. Datagrams only.
    pub fn push_control(&mut self, out: &mut Vec<u8>, kind: Kind, body: &[u8]) {
        self.control += 1;
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        out.extend_from_slice(body);
        seal_packet(&self.key, kind, self.control, &mut out[start..]);
    }

    /// Packets sealed so far, plus the counter that it started after.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.counter + (self.control - CONTROL_LINE)
    }

    /// Bytes of frames, and of entries for their gaps, that the open packet (or a new one) still takes.
    fn room(&self, out: &[u8]) -> usize {
        let used = self.open.map_or(HEADER_BYTES, |start| out.len() - start);
        self.limits.packet_bytes_max - used - self.gaps.list_bytes()
    }

    /// Notes those of `gaps`, which count from the start of a message, that lie in its bytes `part`, which `out` gets next.
    fn leave_out(&mut self, out: &[u8], gaps: &[Range<usize>], part: Range<usize>) {
        let start = self.open.expect("a packet is open") + HEADER_BYTES;
        let at = out.len() - start;
        for gap in gaps {
            let (from, to) = (gap.start.max(part.start), gap.end.min(part.end));
            if from < to && self.gaps.room() > 0 {
                self.gaps.push(at + from - part.start..at + to - part.start);
            }
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.open.is_none() {
            self.open = Some(out.len());
            out.extend_from_slice(&[0; HEADER_BYTES]);
        }
    }

    fn push_fragments(
        &mut self,
        out: &mut Vec<u8>,
        parts: &[&[u8]],
        total: usize,
        gaps: &[Range<usize>],
    ) -> u64 {
        self.message_id += 1;
        let mut sealed = 0;
        let mut offset = 0;
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        while offset < total {
            // The list of a fragment's gaps is not known before its length: room is kept for all that may lie in it.
            let reach = (total - offset).min(self.limits.packet_bytes_max);
            let within = gaps
                .iter()
                .filter(|gap| gap.end > offset && gap.start < offset + reach);
            let list = gaps::list_bytes(within.count().min(GAPS_MAX));
            if self.room(out) < FRAGMENT_HEADER_BYTES + list + FRAGMENT_BYTES_MIN {
                sealed += u64::from(self.seal(out));
            }
            self.begin(out);
            let bytes = (total - offset).min(self.room(out) - FRAGMENT_HEADER_BYTES - list);
            out.extend_from_slice(
                &(wire_u32(FRAGMENT_HEADER_BYTES - FRAME_HEADER_BYTES + bytes) | FRAGMENT_FLAG)
                    .to_le_bytes(),
            );
            out.extend_from_slice(&self.message_id.to_le_bytes());
            out.extend_from_slice(&wire_u32(offset).to_le_bytes());
            out.extend_from_slice(&wire_u32(total).to_le_bytes());
            self.leave_out(out, gaps, offset..offset + bytes);
            let mut missing = bytes;
            while missing > 0 {
                if part.is_empty() {
                    part = parts.next().expect("the parts add up to the total");
                }
                let (now, later) = part.split_at(part.len().min(missing));
                out.extend_from_slice(now);
                missing -= now.len();
                part = later;
            }
            offset += bytes;
        }
        sealed
    }
}

/// Checks received packets of one direction of a link.
pub struct Opener {
    key: MacKey,
    line: Line,
}

/// Which counters are taken.
enum Line {
    /// Those above the newest one.
    Stream { newest: u64 },
    /// Those within the window that were not taken yet; and of the control line those above the newest one.
    Datagrams { window: Box<Window>, control: u64 },
}

impl Opener {
    /// An opener for a stream, that takes counters above `counter`.
    #[must_use]
    pub fn new(key: MacKey, counter: u64) -> Self {
        Self {
            key,
            line: Line::Stream { newest: counter },
        }
    }

    /// An opener for datagrams, that takes every counter once.
    #[must_use]
    pub fn of_datagrams(key: MacKey) -> Self {
        Self {
            key,
            line: Line::Datagrams {
                window: Box::default(),
                control: CONTROL_LINE,
            },
        }
    }

    /// Checks version, tag and counter of `packet` (as [`split`] cut it) and returns what stands behind its header.
    ///
    /// # Errors
    /// [`PacketError::Version`], [`PacketError::Gaps`], [`PacketError::BadTag`], [`PacketError::Replayed`].
    pub fn check<'a>(&mut self, packet: &'a [u8]) -> Result<&'a [u8], PacketError> {
        let body = self.verify(packet)?;
        let counter = Header::read(packet).counter;
        let (taken, last) = match &mut self.line {
            Line::Stream { newest } => ascend(newest, counter),
            Line::Datagrams { control, .. } if counter >= CONTROL_LINE => ascend(control, counter),
            Line::Datagrams { window, .. } => (window.take(counter), window.newest()),
        };
        if !taken {
            return Err(PacketError::Replayed { counter, last });
        }
        Ok(body)
    }

    /// Checks version and tag of `packet` alone, and takes no counter: it may be [checked](Self::check) again.
    ///
    /// # Errors
    /// [`PacketError::Version`], [`PacketError::Gaps`], [`PacketError::BadTag`].
    pub fn verify<'a>(&self, packet: &'a [u8]) -> Result<&'a [u8], PacketError> {
        let header = Header::read(packet);
        if header.version != PROTOCOL_VERSION {
            return Err(PacketError::Version(header.version));
        }
        let body = &packet[HEADER_BYTES..];
        let (body, tag) = if header.kind == Kind::Gapped as u16 {
            let (frames, _) = gaps::split_list(body).ok_or(PacketError::Gaps)?;
            (frames, gaps::tag(&self.key, packet))
        } else {
            (body, self.key.tag(&[&packet[..COVERED_BYTES], body]))
        };
        if tag != Tag(header.tag) {
            return Err(PacketError::BadTag);
        }
        Ok(body)
    }

    /// Checks a data packet and the shape of all its frames, which then cannot fail to parse.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`PacketError::Frame`].
    pub fn open<'a>(&mut self, packet: &'a [u8]) -> Result<Frames<'a>, PacketError> {
        frames(self.check(packet)?)
    }
}

/// Takes `counter` if it is above the newest one, which it then is. Also returns the newest one before.
fn ascend(newest: &mut u64, counter: u64) -> (bool, u64) {
    let last = *newest;
    *newest = last.max(counter);
    (counter > last, last)
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

/// Puts the fragments of one message at a time together again. Holds at most `message_bytes_max` bytes.
#[derive(Debug, Default)]
pub struct Reassembly {
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

/// Writes the header with its tag in front of the body of `packet`.
fn seal_packet(key: &MacKey, kind: Kind, counter: u64, packet: &mut [u8]) {
    let header = Header {
        length: wire_u32(packet.len()),
        version: PROTOCOL_VERSION,
        kind: kind as u16,
        counter,
        tag: [0; 16],
    };
    packet[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let tag = if kind == Kind::Gapped {
        gaps::tag(key, packet)
    } else {
        key.tag(&[&packet[..COVERED_BYTES], &packet[HEADER_BYTES..]])
    };
    packet[COVERED_BYTES..HEADER_BYTES].copy_from_slice(&tag.0);
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
