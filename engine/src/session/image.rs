//! The image of a session table: its canonical bytes, piece by piece, and back.
//!
//! `sessions u64 | { id (decree u64, index u32) | client | nonce u64 | active u64 | history } …`, from the longest idle
//! session to the latest used one, which is all that the table knows of their order: a table that is read from these bytes
//! behaves like the one that was written, at every decree to come.

use std::sync::Arc;

use thiserror::Error;

use super::history::History;
use super::{Session, SessionTable};
use crate::configuration::Limits;
use crate::types::{ClientId, Decree, Seq, SessionId};

/// The bytes of a session in front of its history.
const HEAD_BYTES: usize = 8 + 4 + 16 + 8 + 8;
/// The most bytes of a session beside its replies: the head, and 64 entries with a length each.
const SESSION_BYTES_MAX: usize = HEAD_BYTES + 16 + 64 * (16 + 8 + 1 + 8);

/// A session table as it was, read while the table goes on.
#[derive(Debug)]
pub struct SessionImage {
    sessions: Vec<Session>,
    next: usize,
    started: bool,
}

/// Bytes that are no session table within the cluster's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the bytes are no session table of this cluster: {0}")]
pub struct BadSessions(&'static str);

impl SessionImage {
    pub(super) fn new(sessions: Vec<Session>) -> SessionImage {
        SessionImage {
            sessions,
            next: 0,
            started: false,
        }
    }

    /// Appends the next piece, which is one session at most; false at the end.
    pub fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.started {
            self.started = true;
            out.extend_from_slice(&(self.sessions.len() as u64).to_le_bytes());
            return true;
        }
        let Some(session) = self.sessions.get_mut(self.next) else {
            return false;
        };
        session.write_canonical(&mut |bytes: &[u8]| out.extend_from_slice(bytes));
        // What was read need not be copied when it changes.
        session.history = Arc::default();
        self.next += 1;
        true
    }
}

/// Makes a table of the bytes of an image, which come in any pieces. It holds at most one incomplete session besides the
/// table.
#[derive(Debug)]
pub struct SessionReader {
    table: SessionTable,
    reply_bytes_max: usize,
    rest: Vec<u8>,
    sessions: Option<u64>,
}

impl SessionReader {
    /// A reader for a table with the cluster's limits.
    #[must_use]
    pub fn new(limits: &Limits) -> SessionReader {
        SessionReader {
            table: SessionTable::new(limits),
            reply_bytes_max: limits.session_reply_bytes_max as usize,
            rest: Vec::new(),
            sessions: None,
        }
    }

    /// The most bytes of one session. Bytes.
    #[must_use]
    pub fn session_bytes_max(limits: &Limits) -> usize {
        SESSION_BYTES_MAX + limits.session_reply_bytes_max as usize
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`BadSessions`], after which the reader is of no use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), BadSessions> {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut unread = rest.as_slice();
        if self.sessions.is_none()
            && let Some((sessions, behind)) = unread.split_first_chunk()
        {
            self.sessions = Some(u64::from_le_bytes(*sessions));
            unread = behind;
        }
        if let Some(sessions) = self.sessions {
            while (self.table.len() as u64) < sessions && self.read_session(&mut unread)? {}
        }
        if unread.len() > SESSION_BYTES_MAX + self.reply_bytes_max {
            return Err(BadSessions("a session is longer than any can be"));
        }
        self.rest = unread.to_vec();
        Ok(())
    }

    /// The table, if its bytes were complete.
    ///
    /// # Errors
    /// [`BadSessions`] if they were not.
    pub fn finish(self) -> Result<SessionTable, BadSessions> {
        if !self.rest.is_empty() || self.sessions != Some(self.table.len() as u64) {
            return Err(BadSessions("it ends too early or too late"));
        }
        Ok(self.table)
    }

    /// Takes the first session off `unread`; false, and nothing is taken, if it is not complete yet.
    fn read_session(&mut self, unread: &mut &[u8]) -> Result<bool, BadSessions> {
        let Some((head, mut rest)) = unread.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(false);
        };
        let number = |at: usize| {
            let bytes = head[at..at + 8].try_into();
            u64::from_le_bytes(bytes.expect("eight bytes"))
        };
        let (index, client) = (head[8..12].try_into(), head[12..28].try_into());
        let id = SessionId {
            decree: Decree(number(0)),
            index: u32::from_le_bytes(index.expect("four bytes")),
        };
        let client = ClientId(client.expect("sixteen bytes"));
        let (nonce, active) = (Seq(number(28)), Decree(number(36)));
        let history =
            History::read_canonical(&mut rest, self.reply_bytes_max).map_err(BadSessions)?;
        let Some(history) = history else {
            return Ok(false);
        };
        *unread = rest;
        self.table.admit(id, client, nonce, active, history)?;
        Ok(true)
    }
}

impl SessionTable {
    /// Takes up a session of an image, which was used later than all before it.
    fn admit(
        &mut self,
        id: SessionId,
        client: ClientId,
        nonce: Seq,
        active: Decree,
        history: History,
    ) -> Result<(), BadSessions> {
        let kept = history.reply_bytes() as u64;
        let newest = self.idle.newest().map(|slot| self.session(slot).active);
        let wrong = [
            (self.len() >= self.sessions_max, "too many sessions"),
            (
                id == SessionId::NONE || self.by_id.contains_key(&id),
                "two sessions have one id",
            ),
            (
                self.by_open.contains_key(&(client, nonce)),
                "one Open made two sessions",
            ),
            (self.is_at_share(client), "a client has too many sessions"),
            (
                newest.is_some_and(|newest| newest > active),
                "sessions do not stand in the order of their use",
            ),
            (
                kept > self.reply_bytes_total_max.saturating_sub(self.reply_bytes),
                "too many bytes of replies",
            ),
        ];
        if let Some((_, what)) = wrong.into_iter().find(|(is, _)| *is) {
            return Err(BadSessions(what));
        }
        let share = self.share(client);
        let slot = self.enter(Session {
            id,
            client,
            share,
            nonce,
            active,
            history: Arc::new(history),
        });
        self.reply_bytes += kept;
        if kept > 0 {
            self.keeping.touch(slot);
        }
        Ok(())
    }
}
