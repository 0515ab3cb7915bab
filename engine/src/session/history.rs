//! What one session executed: its latest 64 seqs, the operations, decrees and replies.

use super::{Fingerprint, SEQS};
use crate::types::{Decree, Seq};

/// How many entries a session has at most.
pub(super) const ENTRIES: usize = 64;
/// Replies up to this size stand in their entry. Bytes.
const SHORT_BYTES_MAX: usize = 22;
/// The least spare room after the replies of a session were moved together. Bytes.
const SPARE_BYTES_MIN: usize = 64;

/// The executed requests of one session in `(max − 64, max]`.
///
/// Short replies stand in their entries. Longer ones stand one behind another in `bytes`; one that is forgotten leaves a
/// hole, and when the buffer is full the kept ones are moved together. So a warm session allocates nothing, and the buffer
/// stays within a small multiple of what it keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The largest executed seq, 0 if none.
    max: u64,
    /// Bit i says whether `max − i` was executed.
    executed: u64,
    /// By seq modulo 64; grows as far as needed, so that a session with few requests is small.
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// The length of all kept replies.
    reply_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    operation: Fingerprint,
    decree: Decree,
    reply: Kept,
}

#[derive(Clone, Copy, Debug)]
enum Kept {
    Gone,
    Short {
        len: u8,
        bytes: [u8; SHORT_BYTES_MAX],
    },
    At {
        start: usize,
        len: usize,
    },
}

impl Kept {
    /// How many bytes of replies it stands for.
    fn len(&self) -> usize {
        match self {
            Kept::Gone => 0,
            Kept::Short { len, .. } => usize::from(*len),
            Kept::At { len, .. } => *len,
        }
    }
}

// What the session table says of its memory counts on it.
const _: () = assert!(size_of::<Entry>() == 48);

const VACANT: Entry = Entry {
    operation: Fingerprint::NONE,
    decree: Decree::NONE,
    reply: Kept::Gone,
};

/// What a history knows of a seq.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// Not executed yet.
    New,
    /// Executed, with this reply if it is still kept.
    Executed {
        decree: Decree,
        reply: Option<&'a [u8]>,
    },
    /// Executed with another operation.
    Reused,
    /// Below the window, or 0.
    Stale,
    /// More than 64 above the largest executed one.
    TooFar,
}

impl History {
    /// Looks a request up.
    pub(super) fn find(&self, seq: Seq, operation: Fingerprint) -> Found<'_> {
        if seq.0 > self.max {
            return if seq.0 - self.max > SEQS {
                Found::TooFar
            } else {
                Found::New
            };
        }
        let below = self.max - seq.0;
        if seq.0 == 0 || below >= SEQS {
            return Found::Stale;
        }
        if self.executed & (1 << below) == 0 {
            return Found::New;
        }
        let entry = &self.entries[place(seq.0)];
        if entry.operation != operation {
            return Found::Reused;
        }
        Found::Executed {
            decree: entry.decree,
            reply: self.reply(entry),
        }
    }

    /// How many bytes of replies are kept.
    pub(super) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Notes the execution of a seq that was [`Found::New`]. Entries that fall out of the window are forgotten.
    pub(super) fn execute(&mut self, seq: Seq, operation: Fingerprint, decree: Decree) {
        if seq.0 > self.max {
            self.advance(seq.0);
        }
        let bit = 1 << (self.max - seq.0);
        assert_eq!(self.executed & bit, 0, "a seq is executed once");
        self.executed |= bit;
        let place = place(seq.0);
        if place >= self.entries.len() {
            self.entries.resize(place + 1, VACANT);
        }
        self.entries[place] = Entry {
            operation,
            decree,
            reply: Kept::Gone,
        };
    }

    /// Keeps the reply of a seq that was executed last.
    pub(super) fn keep(&mut self, seq: Seq, reply: &[u8]) {
        self.reply_bytes += reply.len();
        let kept = match u8::try_from(reply.len()) {
            Ok(len) if reply.len() <= SHORT_BYTES_MAX => {
                let mut bytes = [0; SHORT_BYTES_MAX];
                bytes[..reply.len()].copy_from_slice(reply);
                Kept::Short { len, bytes }
            }
            _ => {
                self.make_room(reply.len());
                let (start, len) = (self.bytes.len(), reply.len());
                self.bytes.extend_from_slice(reply);
                Kept::At { start, len }
            }
        };
        self.entries[place(seq.0)].reply = kept;
    }

    /// Forgets the replies to the smallest seqs until at most `bytes` are kept. Empty replies cost nothing and stay.
    pub(super) fn forget_down_to(&mut self, bytes: usize) {
        if self.reply_bytes <= bytes {
            return;
        }
        for seq in self.seqs() {
            if self.entries[place(seq)].reply.len() > 0 {
                self.forget(seq);
            }
            if self.reply_bytes <= bytes {
                break;
            }
        }
        if self.reply_bytes == 0 {
            // A session that must give up everything is idle: its memory is what is wanted back.
            self.bytes = Vec::new();
        }
    }

    /// Writes what distinguishes two histories: not where replies stand, but what they are.
    pub(super) fn write_canonical(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&self.max.to_le_bytes());
        sink(&self.executed.to_le_bytes());
        for seq in self.seqs() {
            let entry = &self.entries[place(seq)];
            sink(entry.operation.as_bytes());
            sink(&entry.decree.0.to_le_bytes());
            match self.reply(entry) {
                None => sink(&[0]),
                Some(reply) => {
                    sink(&[1]);
                    sink(&(reply.len() as u64).to_le_bytes());
                    sink(reply);
                }
            }
        }
    }

    /// Reads what [`History::write_canonical`] wrote off the front of `unread`; none, and nothing is taken, if it is
    /// not complete yet.
    pub(super) fn read_canonical(
        unread: &mut &[u8],
        reply_bytes_max: usize,
    ) -> Result<Option<History>, &'static str> {
        let mut rest = *unread;
        let (Some(max), Some(executed)) = (number(&mut rest), number(&mut rest)) else {
            return Ok(None);
        };
        // The largest executed seq was executed, and none below 1.
        let seqs = executed.checked_ilog2().map_or(0, |top| u64::from(top) + 1);
        if (max == 0) != (executed == 0) || (max > 0 && executed & 1 == 0) || seqs > max {
            return Err("a session executed what it cannot have");
        }
        let mut history = History {
            max,
            ..History::default()
        };
        for seq in (History {
            executed,
            max,
            ..History::default()
        })
        .seqs()
        {
            let (Some(operation), Some(decree)) = (array(&mut rest), number(&mut rest)) else {
                return Ok(None);
            };
            history.execute(Seq(seq), Fingerprint::from_bytes(operation), Decree(decree));
            match array(&mut rest) {
                None => return Ok(None),
                Some([0]) => {}
                Some([1]) => {
                    let Some(len) = number(&mut rest) else {
                        return Ok(None);
                    };
                    let len = usize::try_from(len).unwrap_or(usize::MAX);
                    if len > reply_bytes_max.saturating_sub(history.reply_bytes) {
                        return Err("a session keeps more replies than it may");
                    }
                    let Some((reply, behind)) = rest.split_at_checked(len) else {
                        return Ok(None);
                    };
                    history.keep(Seq(seq), reply);
                    rest = behind;
                }
                Some(_) => return Err("a reply is neither kept nor gone"),
            }
        }
        *unread = rest;
        Ok(Some(history))
    }

    /// The executed seqs of the window, ascending.
    fn seqs(&self) -> impl Iterator<Item = u64> + use<> {
        let (max, mut rest) = (self.max, self.executed);
        std::iter::from_fn(move || {
            let below = rest.checked_ilog2()?;
            rest &= !(1 << below);
            Some(max - u64::from(below))
        })
    }

    fn reply<'a>(&'a self, entry: &'a Entry) -> Option<&'a [u8]> {
        match &entry.reply {
            Kept::Gone => None,
            Kept::Short { len, bytes } => Some(&bytes[..usize::from(*len)]),
            Kept::At { start, len } => Some(&self.bytes[*start..*start + *len]),
        }
    }

    /// Moves the window up to `max`.
    fn advance(&mut self, max: u64) {
        for seq in self.seqs() {
            if max - seq < SEQS {
                break;
            }
            self.forget(seq);
        }
        let by = u32::try_from(max - self.max).unwrap_or(u32::MAX);
        self.executed = self.executed.checked_shl(by).unwrap_or(0);
        self.max = max;
    }

    fn forget(&mut self, seq: u64) {
        let entry = &mut self.entries[place(seq)];
        self.reply_bytes -= std::mem::replace(&mut entry.reply, Kept::Gone).len();
    }

    /// Sees to it that `len` bytes can be appended. Each time replies are moved, half of what is kept can be
    /// appended before they are moved again: amortised, a reply is moved twice.
    fn make_room(&mut self, len: usize) {
        if self.bytes.capacity() - self.bytes.len() >= len {
            return;
        }
        self.move_together();
        let wanted = self.bytes.len() + len.max(self.bytes.len() / 2).max(SPARE_BYTES_MIN);
        if self.bytes.capacity() < wanted {
            self.bytes.reserve_exact(wanted - self.bytes.len());
        } else if self.bytes.capacity() / 4 > wanted {
            self.bytes.shrink_to(wanted);
        }
    }

    fn move_together(&mut self) {
        let mut order = [(0, 0); ENTRIES];
        let mut count = 0;
        for seq in self.seqs() {
            if let Kept::At { start, .. } = self.entries[place(seq)].reply {
                order[count] = (start, place(seq));
                count += 1;
            }
        }
        let order = &mut order[..count];
        order.sort_unstable();
        let mut end = 0;
        for (start, place) in order {
            if let Kept::At { start: at, len } = &mut self.entries[*place].reply {
                self.bytes.copy_within(*start..*start + *len, end);
                *at = end;
                end += *len;
            }
        }
        self.bytes.truncate(end);
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    array(rest).map(u64::from_le_bytes)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

fn place(seq: u64) -> usize {
    (seq % SEQS) as usize
}
