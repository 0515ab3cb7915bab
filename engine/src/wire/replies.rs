//! The entries of `Replies` and `Found`: written one by one as decrees are executed, read one by one where they arrive.
//!
//! Most entries have much in common with the one before, so each leaves out what follows from it: a session answers its
//! numbers in turn, and all that a decree made is of that decree. An entry with an empty reply has two bytes then.

use crate::message::{Outcome, Reply, ReplyEntries, WireError};
use crate::types::{Decree, Digest, Seq, SessionId};

use super::cursor::{Reader, VARINT_BYTES_MAX, write_varint};

/// What an entry has in front of the payload of its outcome, at most. Bytes.
pub(super) const ENTRY_HEADER_MAX: usize = 1 + 4 * VARINT_BYTES_MAX;

const EXECUTED: u8 = 0;
const EXECUTED_DIGEST: u8 = 1;
const OPENED: u8 = 2;
const STALE: u8 = 3;
const TOO_FAR: u8 = 4;
const SEQ_REUSED: u8 = 5;
const SESSION_LAPSED: u8 = 6;
const EXECUTED_REPLY_GONE: u8 = 7;

/// The bits of an entry's first byte that say its outcome.
const OUTCOME: u8 = 0x07;
/// The session follows; it is that of the entry before otherwise.
const SESSION: u8 = 0x08;
/// The number of the request follows; it is the one after that of the entry before otherwise.
const SEQ: u8 = 0x10;
/// The decree follows; it is that of the entry before otherwise.
const DECREE: u8 = 0x20;

/// What the entry before said. In front of the first one: no session, number 0 and no decree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Before {
    session: SessionId,
    seq: Seq,
    decree: Decree,
}

impl Before {
    const START: Before = Before {
        session: SessionId::NONE,
        seq: Seq(0),
        decree: Decree::NONE,
    };

    fn next_seq(&self) -> Seq {
        Seq(self.seq.0.wrapping_add(1))
    }

    /// What an entry has to say after this one.
    fn new_in(&self, reply: &Reply<'_>) -> u8 {
        let said = |differs, flag| if differs { flag } else { 0 };
        said(self.session != reply.session, SESSION)
            | said(self.next_seq() != reply.seq, SEQ)
            | said(self.decree != reply.decree, DECREE)
    }

    fn of(reply: &Reply<'_>) -> Before {
        Before {
            session: reply.session,
            seq: reply.seq,
            decree: reply.decree,
        }
    }
}

/// Writes entries one behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyWriter {
    before: Before,
}

impl Default for ReplyWriter {
    fn default() -> ReplyWriter {
        ReplyWriter {
            before: Before::START,
        }
    }
}

impl ReplyWriter {
    /// Appends the next entry to those that this writer wrote.
    pub fn write(&mut self, reply: &Reply<'_>, out: &mut Vec<u8>) {
        let new = self.before.new_in(reply);
        self.before = Before::of(reply);
        out.push(new | outcome_tag(&reply.outcome));
        if new & SESSION != 0 {
            write_session(reply.session, out);
        }
        if new & SEQ != 0 {
            write_varint(reply.seq.0, out);
        }
        if new & DECREE != 0 {
            write_varint(reply.decree.0, out);
        }
        match reply.outcome {
            Outcome::Executed(bytes) => {
                write_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Outcome::ExecutedDigest(digest) => out.extend_from_slice(&digest.0),
            Outcome::Opened(session) => write_session(session, out),
            Outcome::Stale
            | Outcome::TooFar
            | Outcome::SeqReused
            | Outcome::SessionLapsed
            | Outcome::ExecutedReplyGone => {}
        }
    }
}

/// Appends entries, which are the first ones in `out`.
pub fn write_replies<'a>(replies: impl IntoIterator<Item = Reply<'a>>, out: &mut Vec<u8>) {
    let mut writer = ReplyWriter::default();
    for reply in replies {
        writer.write(&reply, out);
    }
}

/// How many bytes an entry takes at most.
#[must_use]
pub fn reply_bytes_max(reply: &Reply<'_>) -> usize {
    let payload = match reply.outcome {
        Outcome::Executed(bytes) => VARINT_BYTES_MAX + bytes.len(),
        Outcome::ExecutedDigest(_) => size_of::<Digest>(),
        Outcome::Opened(_) => 2 * VARINT_BYTES_MAX,
        Outcome::Stale
        | Outcome::TooFar
        | Outcome::SeqReused
        | Outcome::SessionLapsed
        | Outcome::ExecutedReplyGone => 0,
    };
    ENTRY_HEADER_MAX + payload
}

impl<'a> ReplyEntries<'a> {
    /// The entries in order, checked as they are read: an error is the last item.
    pub fn iter(&self) -> impl Iterator<Item = Result<Reply<'a>, WireError>> + use<'a> {
        let mut reader = Reader::new(self.bytes());
        let mut before = Before::START;
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || reader.remaining() == 0 {
                return None;
            }
            let entry = read_reply(&mut reader, &before);
            match &entry {
                Ok(reply) => before = Before::of(reply),
                Err(_) => failed = true,
            }
            Some(entry)
        })
    }
}

fn read_reply<'a>(reader: &mut Reader<'a>, before: &Before) -> Result<Reply<'a>, WireError> {
    const WHAT: &str = "a reply entry";
    let head = reader.u8(WHAT)?;
    let new = head & (SESSION | SEQ | DECREE);
    let session = if new & SESSION == 0 {
        before.session
    } else {
        read_session(reader, WHAT)?
    };
    let seq = if new & SEQ == 0 {
        before.next_seq()
    } else {
        Seq(reader.varint(WHAT)?)
    };
    let decree = if new & DECREE == 0 {
        before.decree
    } else {
        Decree(reader.varint(WHAT)?)
    };
    let outcome = match head & OUTCOME {
        EXECUTED => {
            let len = reader.varint("a reply")?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            Outcome::Executed(reader.bytes(len, "a reply")?)
        }
        EXECUTED_DIGEST => Outcome::ExecutedDigest(reader.digest("the digest of a reply")?),
        OPENED => Outcome::Opened(read_session(reader, "an opened session")?),
        STALE => Outcome::Stale,
        TOO_FAR => Outcome::TooFar,
        SEQ_REUSED => Outcome::SeqReused,
        SESSION_LAPSED => Outcome::SessionLapsed,
        _ => Outcome::ExecutedReplyGone,
    };
    let reply = Reply {
        session,
        seq,
        decree,
        outcome,
    };
    // What follows from the entry before is never said, so that all entries have one encoding.
    if head & !(OUTCOME | new) != 0 || before.new_in(&reply) != new {
        return Err(WireError::Case {
            what: "first byte of a reply entry here",
            found: head,
        });
    }
    Ok(reply)
}

fn outcome_tag(outcome: &Outcome<'_>) -> u8 {
    match outcome {
        Outcome::Executed(_) => EXECUTED,
        Outcome::ExecutedDigest(_) => EXECUTED_DIGEST,
        Outcome::Opened(_) => OPENED,
        Outcome::Stale => STALE,
        Outcome::TooFar => TOO_FAR,
        Outcome::SeqReused => SEQ_REUSED,
        Outcome::SessionLapsed => SESSION_LAPSED,
        Outcome::ExecutedReplyGone => EXECUTED_REPLY_GONE,
    }
}

fn write_session(session: SessionId, out: &mut Vec<u8>) {
    write_varint(session.decree.0, out);
    write_varint(u64::from(session.index), out);
}

fn read_session(reader: &mut Reader<'_>, what: &'static str) -> Result<SessionId, WireError> {
    let decree = Decree(reader.varint(what)?);
    let index = reader.varint(what)?;
    let index = u32::try_from(index).map_err(|_| WireError::Limit {
        what,
        found: index,
        limit: u64::from(u32::MAX),
    })?;
    Ok(SessionId { decree, index })
}
