//! Reassembly where fragments are lost and overtake each other: several messages at once, within the bytes of one.
//!
//! What is missing of a message that is partly there is asked for (`repair`) once nothing more of it has come for a while: `pieces/asking.rs`.
//!
//! A fragment joins the run of bytes that it continues; a message is complete when its runs are as long as it, so nothing is delivered that was not
//! sent. What is incomplete waits until newer messages need the room: then the oldest goes, and what still comes of it is dropped. A link holds at
//! most `message_bytes_max` bytes of incomplete messages.
//!
//! Memory grows with what has come and not with what a fragment announces: otherwise one datagram of small fragments, each of another large message,
//! would have hundreds of megabytes allocated and cleared. For the same reason a packet begins no more messages, and a fragment is no shorter, than
//! with an honest sender. Buffers are at most twice as large as what they hold, or as the message for which they are used again.

mod asking;

use std::ops::Range;
use std::time::Instant;

use crate::packet::{FRAGMENT_BYTES_MIN, Fragment, PacketError};
use crate::repair::{WANTS_MAX, Want};
use crate::replay::Window;
use asking::{Asked, Patience};

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
#[derive(Debug)]
pub(crate) struct Pieces {
    messages: Vec<Message>,
    /// Bytes of the messages above when complete.
    bytes: usize,
    /// Fragments of messages up to this one begin nothing: they are late.
    floor: u64,
    /// Those that are complete: what was said again of them begins nothing either.
    complete: Window,
    /// The packet in hand, and the newest one.
    packet: u64,
    newest_packet: u64,
    /// Messages begun by the packet in hand.
    begun: usize,
    patience: Patience,
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
    /// The newest packet that brought some of it.
    packet: u64,
    asked: Asked,
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
    /// Nothing has come.
    pub fn new() -> Self {
        Self {
            messages: Vec::new(),
            bytes: 0,
            floor: 0,
            complete: Window::default(),
            packet: 0,
            newest_packet: 0,
            begun: 0,
            patience: Patience::default(),
            spare: Vec::new(),
            spare_runs: Vec::new(),
        }
    }

    /// The fragments that follow are those of the packet with this counter.
    pub fn next_packet(&mut self, counter: u64) {
        self.packet = counter;
        self.newest_packet = self.newest_packet.max(counter);
        self.begun = 0;
    }

    /// Adds a fragment, and returns its message if it is now complete. Give the buffer [`back`](Self::give_back) afterwards. Bytes that have come
    /// before are left out: what is said again may overlap what was only late.
    ///
    /// # Errors
    /// [`PacketError::Fragment`] when it contradicts itself, the limit, or what came of its message before; when it is shorter than any but the last
    /// may be; or when its packet begins more messages than it can hold parts of.
    pub fn add(
        &mut self,
        fragment: &Fragment<'_>,
        message_bytes_max: usize,
        now: Instant,
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
            None if id <= self.floor || self.complete.has(id) => return Ok(None),
            None if self.begun == BEGUN_PER_PACKET_MAX => return Err(refused),
            None if self.make_room(id, total, message_bytes_max) => self.begin(id, total, now),
            None => return Ok(None),
        };
        let message = &mut self.messages[at];
        if message.total != total {
            return Err(refused);
        }
        message.packet = message.packet.max(self.packet);
        self.patience.heard(&mut message.asked, now);
        message.put(start, bytes, &mut self.spare);
        if message.arrived == total {
            self.complete.take(id);
            return Ok(Some(self.complete(at)));
        }
        if message.runs.len() > RUNS_MAX {
            self.drop_message(at);
        }
        Ok(None)
    }

    /// When something may have to be asked for; none while nothing is incomplete.
    pub fn ask_at(&self) -> Option<Instant> {
        let waiting = self.messages.iter().filter_map(|one| one.asked.due());
        waiting.min()
    }

    /// What is to be asked for now, in at most [`WANTS_MAX`] entries; it counts as asked for.
    pub fn wants(&mut self, now: Instant, wants: &mut Vec<Want>) {
        for message in &mut self.messages {
            if wants.len() == WANTS_MAX {
                return;
            }
            if message.asked.due().is_none_or(|at| at > now) {
                continue;
            }
            // What follows the last byte that has come may not have left yet, unless something newer has.
            let overtaken = self.newest_packet > message.packet;
            let quiet = self.patience.is_quiet(&message.asked, now);
            let before = wants.len();
            for gap in message.missing(overtaken || quiet) {
                if wants.len() < WANTS_MAX {
                    wants.push(Want::new(message.id, &gap));
                }
            }
            if wants.len() > before {
                self.patience.asks(&mut message.asked, now);
            } else {
                self.patience.waits_for_the_end(&mut message.asked);
            }
        }
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

    fn begin(&mut self, id: u64, total: usize, now: Instant) -> usize {
        self.begun += 1;
        self.messages.push(Message {
            id,
            total,
            arrived: 0,
            runs: self.spare_runs.pop().unwrap_or_default(),
            packet: self.packet,
            asked: Asked::new(now),
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
    /// Adds those of `bytes`, which stand at `start`, that have not come before.
    fn put(&mut self, start: usize, bytes: &[u8], spare: &mut Vec<Vec<u8>>) {
        let (mut at, end) = (start, start + bytes.len());
        while at < end {
            let place = self.runs.partition_point(|run| run.end() <= at);
            let next = self.runs.get(place).map(|run| run.start..run.end());
            let stop = match next {
                Some(run) if run.start <= at => {
                    at = run.end;
                    continue;
                }
                Some(run) => run.start.min(end),
                None => end,
            };
            self.insert(place, at, &bytes[at - start..stop - start], spare);
            at = stop;
        }
    }

    /// Adds bytes of which none has come, in front of the run at `place`.
    fn insert(&mut self, place: usize, start: usize, bytes: &[u8], spare: &mut Vec<Vec<u8>>) {
        self.arrived += bytes.len();
        if place > 0 && self.runs[place - 1].end() == start {
            self.extend(place - 1, bytes);
            self.join(place - 1);
        } else {
            let mut buffer = take_spare(spare, self.total);
            append(&mut buffer, bytes, self.total - start);
            let run = Run {
                start,
                bytes: buffer,
            };
            self.runs.insert(place, run);
            self.join(place);
        }
    }

    /// The gaps in what has come; with what follows the last byte that has, if `end`. None is shorter than a fragment may be.
    fn missing(&self, end: bool) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = self.runs.iter().map(|run| run.start);
        let starts = starts.chain(end.then_some(self.total));
        let ends = std::iter::once(0).chain(self.runs.iter().map(Run::end));
        ends.zip(starts)
            .filter(|(from, to)| from < to)
            .map(|(from, to)| {
                let to = to.max((from + FRAGMENT_BYTES_MIN).min(self.total));
                from.min(to.saturating_sub(FRAGMENT_BYTES_MIN))..to
            })
    }

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
#[path = "pieces/tests.rs"]
mod tests;
