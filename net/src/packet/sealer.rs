//! The sending half of a link's packets: messages go into a send buffer as frames, and packets are sealed there in place.

use std::ops::Range;

use twostep_crypto::{MacKey, PROTOCOL_VERSION, Tag};

use super::gaps::{self, GAPS_MAX, Gaps};
use super::{
    ANSWER_CONTEXT, CONTROL_LINE, COVERED_BYTES, FRAGMENT_BYTES_MIN, FRAGMENT_FLAG,
    FRAGMENT_HEADER_BYTES, FRAME_HEADER_BYTES, HEADER_BYTES, Header, Kind, PacketLimits, wire_u32,
};

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

    /// How many messages were split so far: the id of the newest one.
    pub(crate) fn split_messages(&self) -> u64 {
        self.message_id
    }

    /// Appends the bytes in `range` of `message`, which was split before under `id`, once more as fragments, in packets that overtake the data. The
    /// tag covers all of them. Datagrams only.
    pub(crate) fn push_again(
        &mut self,
        out: &mut Vec<u8>,
        id: u64,
        message: &[u8],
        range: Range<usize>,
    ) {
        let room = self.limits.packet_bytes_max - HEADER_BYTES - FRAGMENT_HEADER_BYTES;
        let mut at = range.start;
        while at < range.end {
            let left = range.end - at;
            // What is left for the next packet is no shorter than a fragment may be.
            let bytes = if left <= room {
                left
            } else {
                room.min(left - FRAGMENT_BYTES_MIN)
            };
            let start = out.len();
            out.extend_from_slice(&[0; HEADER_BYTES]);
            put_fragment_header(out, id, at, message.len(), bytes);
            out.extend_from_slice(&message[at..at + bytes]);
            self.control += 1;
            seal_packet(&self.key, Kind::Data, self.control, &mut out[start..]);
            at += bytes;
        }
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

    /// What shows that we have the key, for a Hello that answers another one. Its context is no header of a packet, so it is no packet's tag.
    pub(crate) fn proof_of(&self, hello: &[u8]) -> Tag {
        self.key.tag(&[ANSWER_CONTEXT, hello])
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
            put_fragment_header(out, self.message_id, offset, total, bytes);
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

/// Begins the frame of a fragment of `bytes` bytes.
fn put_fragment_header(out: &mut Vec<u8>, id: u64, offset: usize, total: usize, bytes: usize) {
    let length = wire_u32(FRAGMENT_HEADER_BYTES - FRAME_HEADER_BYTES + bytes) | FRAGMENT_FLAG;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&wire_u32(offset).to_le_bytes());
    out.extend_from_slice(&wire_u32(total).to_le_bytes());
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
