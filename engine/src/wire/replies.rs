//! The entries of `Replies`: written one by one as decrees are executed, read one by one where they arrive.

use crate::message::{Outcome, Reply, ReplyEntries, WireError};
use crate::types::{Decree, Seq, SessionId};

use super::cursor::{Reader, length};

/// The bytes of an entry before the payload of its outcome.
pub(super) const ENTRY_HEADER: usize = 8 + 4 + 8 + 8 + 1;

const EXECUTED: u8 = 0;
const EXECUTED_DIGEST: u8 = 1;
const OPENED: u8 = 2;
const STALE: u8 = 3;
const TOO_FAR: u8 = 4;
const SEQ_REUSED: u8 = 5;
const SESSION_LAPSED: u8 = 6;
const EXECUTED_REPLY_GONE: u8 = 7;

/// Appends one entry.
///
/// # Panics
/// If the reply has 4 GiB or more: executors refuse far smaller ones.
pub fn write_reply(reply: &Reply<'_>, out: &mut Vec<u8>) {
    write_session(reply.session, out);
    out.extend_from_slice(&reply.seq.0.to_le_bytes());
    out.extend_from_slice(&reply.decree.0.to_le_bytes());
    match reply.outcome {
        Outcome::Executed(bytes) => {
            out.push(EXECUTED);
            out.extend_from_slice(&length(bytes.len()).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        Outcome::ExecutedDigest(digest) => {
            out.push(EXECUTED_DIGEST);
            out.extend_from_slice(&digest.0);
        }
        Outcome::Opened(session) => {
            out.push(OPENED);
            write_session(session, out);
        }
        Outcome::Stale => out.push(STALE),
        Outcome::TooFar => out.push(TOO_FAR),
        Outcome::SeqReused => out.push(SEQ_REUSED),
        Outcome::SessionLapsed => out.push(SESSION_LAPSED),
        Outcome::ExecutedReplyGone => out.push(EXECUTED_REPLY_GONE),
    }
}

/// How many bytes [`write_reply`] appends.
#[must_use]
pub fn reply_bytes(reply: &Reply<'_>) -> usize {
    let payload = match reply.outcome {
        Outcome::Executed(bytes) => 4 + bytes.len(),
        Outcome::ExecutedDigest(digest) => digest.0.len(),
        Outcome::Opened(_) => 8 + 4,
        Outcome::Stale
        | Outcome::TooFar
        | Outcome::SeqReused
        | Outcome::SessionLapsed
        | Outcome::ExecutedReplyGone => 0,
    };
    ENTRY_HEADER + payload
}

impl<'a> ReplyEntries<'a> {
    /// The entries in order, checked as they are read: an error is the last item.
    pub fn iter(&self) -> impl Iterator<Item = Result<Reply<'a>, WireError>> + use<'a> {
        let mut reader = Reader::new(self.bytes());
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || reader.remaining() == 0 {
                return None;
            }
            let entry = read_reply(&mut reader);
            failed = entry.is_err();
            Some(entry)
        })
    }

    /// Cuts the entries into pieces of at most `bytes_max` bytes each, between entries; an entry that is larger on its
    /// own makes a piece of its own. Entries that fit together are one piece, unread; a cut ends before the first entry
    /// that is wrong.
    pub fn pieces(&self, bytes_max: usize) -> impl Iterator<Item = ReplyEntries<'a>> + use<'a> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let end = if rest.len() <= bytes_max {
                rest.len()
            } else {
                first_cut(rest, bytes_max)
            };
            let (piece, behind) = rest.split_at(end);
            rest = behind;
            (!piece.is_empty()).then_some(ReplyEntries(piece))
        })
    }
}

/// Where the first piece of `entries` ends; 0 if the first entry is wrong.
fn first_cut(entries: &[u8], bytes_max: usize) -> usize {
    let mut reader = Reader::new(entries);
    let mut end = 0;
    while reader.remaining() > 0 && read_reply(&mut reader).is_ok() {
        let next = entries.len() - reader.remaining();
        if end > 0 && next > bytes_max {
            break;
        }
        end = next;
    }
    end
}

fn read_reply<'a>(reader: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    let session = read_session(reader, "a reply entry")?;
    let seq = Seq(reader.u64("a reply entry")?);
    let decree = Decree(reader.u64("a reply entry")?);
    let outcome = match reader.u8("a reply entry")? {
        EXECUTED => Outcome::Executed(reader.sized("a reply", u32::MAX as usize)?),
        EXECUTED_DIGEST => Outcome::ExecutedDigest(reader.digest("the digest of a reply")?),
        OPENED => Outcome::Opened(read_session(reader, "an opened session")?),
        STALE => Outcome::Stale,
        TOO_FAR => Outcome::TooFar,
        SEQ_REUSED => Outcome::SeqReused,
        SESSION_LAPSED => Outcome::SessionLapsed,
        EXECUTED_REPLY_GONE => Outcome::ExecutedReplyGone,
        found => {
            return Err(WireError::Case {
                what: "outcome of a request",
                found,
            });
        }
    };
    Ok(Reply {
        session,
        seq,
        decree,
        outcome,
    })
}

fn write_session(session: SessionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&session.decree.0.to_le_bytes());
    out.extend_from_slice(&session.index.to_le_bytes());
}

fn read_session(reader: &mut Reader<'_>, what: &'static str) -> Result<SessionId, WireError> {
    Ok(SessionId {
        decree: Decree(reader.u64(what)?),
        index: reader.u32(what)?,
    })
}
