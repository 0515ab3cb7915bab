//! The replicated session table: each request of a client is executed exactly once, however often it is ordered.
//!
//! Leaders may order a request twice (a retry, a leader change, malice): duplicates are legal in a batch. What
//! makes the second one harmless is this table, which every learner keeps and which is a pure function of the
//! ordered batches: no clock, no hash order, no accounting by allocated capacity (PROTOCOL.md section 5.1).
//!
//! ```text
//! session id = (decree, index) of its Open          never used again
//! per session: client, nonce of the Open, largest executed seq, one bit for each of the 64 seqs up to it,
//!              and per executed seq: fingerprint of the operation, decree, reply
//! ```
//!
//! | an ordered request | becomes |
//! |---|---|
//! | Open with a (client, nonce) that has a session | that session again, with its decree |
//! | Open, otherwise | a new session; the client's longest idle one makes room if it is at its share, else the longest idle one of all if the table is full |
//! | unknown session, or one of another client | `SessionLapsed` |
//! | seq 0, or seq ≤ max − 64 | `Stale` |
//! | seq > max + 64 | `TooFar` |
//! | executed before, with the same operation | its stored reply, with the decree that executed it |
//! | executed before, with another operation | `SeqReused` |
//! | anything else | is executed |
//!
//! *Bounds.* A client has at most `sessions_per_client_max` sessions, so that no client closes all sessions of
//! the others. A session that executed nothing in `session_decrees` whole decrees is dropped at the start of the
//! next. The longest idle session is the one whose last execution (or Open) lies furthest back in the order, by
//! decree and then by position in the batch, so there are no ties. Replies that a session keeps stay below
//! `session_reply_bytes_max`: the replies to its smallest seqs go first. All replies together stay below
//! `reply_bytes_total_max`: the longest idle session that keeps any gives up all of its own. A request whose
//! reply is gone is still not executed again; it is answered `ExecutedReplyGone`.
//!
//! `reply_bytes_total_max` (1 GiB by default) counts the bytes of kept replies and nothing else, since what is
//! counted decides what is forgotten and must be equal everywhere. Memory beside it: a session's buffer has up to
//! half of what it keeps as spare room, and right after replies were forgotten up to four times as much; and
//! up to 64 entries of 48 bytes per session, 200 MB for 65,536 busy sessions.
//!
//! *Snapshots.* [`SessionTable::image`] stands still while the table goes on, [`SessionReader`] makes the same table of
//! its bytes (PROTOCOL.md section 5.4).
//!
//! *Cost.* A run of requests of one session finds it at once, another one in O(log sessions). In steady state
//! nothing is allocated per request: replies live in one buffer per session.

mod fingerprint;
mod history;
mod image;
mod recency;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::configuration::Limits;
use crate::message::Outcome;
use crate::types::{ClientId, Decree, Seq, SessionId};

pub use fingerprint::Fingerprint;
use history::{Found, History};
pub use image::{BadSessions, SessionImage, SessionReader};
use recency::{Ends, Links, Recency};

/// How many seqs below the largest executed one are told apart; also how far ahead of it a client may run.
pub const SEQS: u64 = history::ENTRIES as u64;

/// What the table says about an ordered request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Execute it, then [`SessionTable::record`] its reply.
    Execute(Ticket),
    /// It was executed before; answer this.
    Repeat {
        /// The decree that executed it.
        decree: Decree,
        /// [`Outcome::Executed`] or [`Outcome::ExecutedReplyGone`].
        outcome: Outcome<'a>,
    },
    /// Do not execute it; answer this.
    Refuse(Outcome<'static>),
}

/// The permission to execute one request, to be handed back with its reply.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that was executed must be recorded, or it is executed again"]
pub struct Ticket {
    slot: u32,
    session: SessionId,
    seq: Seq,
}

/// Who has a session, and what became of its latest requests. See the [module](self).
#[derive(Debug)]
pub struct SessionTable {
    sessions_max: usize,
    share_max: u32,
    idle_decrees_max: u64,
    session_reply_bytes_max: usize,
    reply_bytes_total_max: u64,
    /// Slots of open and of closed sessions; the closed ones are listed in `free`.
    sessions: Vec<Session>,
    free: Vec<u32>,
    by_id: BTreeMap<SessionId, u32>,
    by_open: BTreeMap<(ClientId, Seq), u32>,
    /// All open sessions by their last execution.
    idle: Recency,
    /// The same order within each client's own sessions: where the lists begin and end stands in `shares`.
    own: Links,
    /// What each client has open, and unused places that `free_shares` lists.
    shares: Vec<Share>,
    free_shares: Vec<u32>,
    share_of: BTreeMap<ClientId, u32>,
    /// Those that keep replies, in the same order.
    keeping: Recency,
    reply_bytes: u64,
    /// Where the last request was found: the next one is likely of the same session.
    last: u32,
}

#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    client: ClientId,
    /// The place of its client in `shares`.
    share: u32,
    nonce: Seq,
    /// The decree of the last execution, at first that of the Open.
    active: Decree,
    /// Shared with an image of the table until it changes.
    history: Arc<History>,
}

/// The sessions of one client.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    sessions: u32,
    ends: Ends,
}

impl SessionTable {
    /// An empty table with the cluster's limits.
    #[must_use]
    pub fn new(limits: &Limits) -> SessionTable {
        SessionTable {
            sessions_max: limits.sessions_max as usize,
            share_max: limits.sessions_per_client_max,
            idle_decrees_max: limits.session_decrees,
            session_reply_bytes_max: limits.session_reply_bytes_max as usize,
            reply_bytes_total_max: limits.reply_bytes_total_max,
            sessions: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            by_open: BTreeMap::new(),
            idle: Recency::default(),
            own: Links::default(),
            shares: Vec::new(),
            free_shares: Vec::new(),
            share_of: BTreeMap::new(),
            keeping: Recency::default(),
            reply_bytes: 0,
            last: 0,
        }
    }

    /// How many sessions are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many bytes of replies are kept.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.reply_bytes
    }

    /// Starts a decree: drops every session that executed nothing for too long. Expiry happens here and nowhere
    /// else, so that it happens at the same decree at every learner.
    pub fn begin(&mut self, decree: Decree) {
        while let Some(slot) = self.idle.oldest() {
            if decree.since(self.session(slot).active) <= self.idle_decrees_max {
                break;
            }
            self.close(slot);
        }
    }

    /// Opens the session `id` for `client`, or finds the one that the same Open made before.
    pub fn open(&mut self, client: ClientId, nonce: Seq, id: SessionId) -> SessionId {
        if let Some(opened) = self.opened(client, nonce) {
            return opened;
        }
        if let Some(slot) = self.in_the_way(client) {
            self.close(slot);
        }
        let share = self.share(client);
        let session = Session {
            id,
            client,
            share,
            nonce,
            active: id.decree,
            history: Arc::default(),
        };
        self.enter(session);
        id
    }

    /// The session that an Open of `client` with `nonce` made, if it still exists.
    #[must_use]
    pub fn opened(&self, client: ClientId, nonce: Seq) -> Option<SessionId> {
        self.by_open
            .get(&(client, nonce))
            .map(|slot| self.session(*slot).id)
    }

    /// What is to be done with an ordered request. `operation` says what it asks for.
    pub fn judge(
        &mut self,
        client: ClientId,
        session: SessionId,
        seq: Seq,
        operation: Fingerprint,
    ) -> Verdict<'_> {
        let Some(slot) = self.find(client, session) else {
            return Verdict::Refuse(Outcome::SessionLapsed);
        };
        self.last = slot;
        match self.session(slot).history.find(seq, operation) {
            Found::New => Verdict::Execute(Ticket { slot, session, seq }),
            Found::Executed { decree, reply } => Verdict::Repeat {
                decree,
                outcome: executed(reply),
            },
            Found::Stale => Verdict::Refuse(Outcome::Stale),
            Found::TooFar => Verdict::Refuse(Outcome::TooFar),
            Found::Reused => Verdict::Refuse(Outcome::SeqReused),
        }
    }

    /// What became of a request that was executed; none if it was not, or no longer can be told.
    #[must_use]
    pub fn recall(
        &self,
        client: ClientId,
        session: SessionId,
        seq: Seq,
        operation: Fingerprint,
    ) -> Option<(Decree, Outcome<'_>)> {
        let slot = self.find(client, session)?;
        match self.session(slot).history.find(seq, operation) {
            Found::Executed { decree, reply } => Some((decree, executed(reply))),
            Found::New | Found::Stale | Found::TooFar | Found::Reused => None,
        }
    }

    /// Whether a client has all the sessions that it may have, so that another Open would drop one.
    #[must_use]
    pub fn is_at_share(&self, client: ClientId) -> bool {
        self.share_of
            .get(&client)
            .is_some_and(|share| self.shares[*share as usize].sessions >= self.share_max)
    }

    /// Whether ordering a request now would execute nothing: it was executed, or is refused. For an Open, which has no
    /// session yet, see [`SessionTable::opened`].
    #[must_use]
    pub fn settled(&self, client: ClientId, session: SessionId, seq: Seq) -> bool {
        // Which operation it was does not matter: under another one, it is refused.
        let any = Fingerprint::NONE;
        self.find(client, session)
            .is_none_or(|slot| !matches!(self.session(slot).history.find(seq, any), Found::New))
    }

    /// Remembers that a request was executed by `decree`, and its reply unless it is too large to be kept.
    ///
    /// # Panics
    /// If the table was changed since it gave the ticket.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a ticket is used up, so that nothing is recorded twice"
    )]
    pub fn record(
        &mut self,
        ticket: Ticket,
        decree: Decree,
        operation: Fingerprint,
        reply: Option<&[u8]>,
    ) {
        let Ticket { slot, session, seq } = ticket;
        assert_eq!(
            self.session(slot).id,
            session,
            "a ticket is used before the table changes"
        );
        self.session_mut(slot).active = decree;
        self.touch(slot);
        let fits = |reply: &&[u8]| {
            reply.len() <= self.session_reply_bytes_max
                && reply.len() as u64 <= self.reply_bytes_total_max
        };
        let Some(reply) = reply.filter(fits) else {
            self.change_history(slot, |history| history.execute(seq, operation, decree));
            return;
        };
        let room = self.session_reply_bytes_max - reply.len();
        let has_room = self.reply_bytes + reply.len() as u64 <= self.reply_bytes_total_max;
        self.change_history(slot, |history| {
            history.execute(seq, operation, decree);
            history.forget_down_to(room);
            if has_room {
                history.keep(seq, reply);
            }
        });
        if has_room {
            return;
        }
        while self.reply_bytes + reply.len() as u64 > self.reply_bytes_total_max {
            let poorest = self
                .keeping
                .oldest()
                .expect("bytes that are kept are kept by a session");
            self.change_history(poorest, |history| history.forget_down_to(0));
        }
        self.change_history(slot, |history| history.keep(seq, reply));
    }

    /// Writes the table in its canonical form, piece by piece: the same table gives the same bytes at every
    /// learner, whatever its buffers look like inside. Sessions stand from the longest idle one to the latest.
    pub fn write_canonical(&self, mut sink: impl FnMut(&[u8])) {
        sink(&(self.len() as u64).to_le_bytes());
        for slot in self.idle.iter() {
            self.session(slot).write_canonical(&mut sink);
        }
    }

    /// An image of the table as it is now, which is read while the table goes on: one pointer for each session, and a
    /// session that changes while the image stands is copied once.
    #[must_use]
    pub fn image(&self) -> SessionImage {
        let sessions = self.idle.iter().map(|slot| self.session(slot).clone());
        SessionImage::new(sessions.collect())
    }

    /// Takes up an open session as the latest used one; its slot.
    fn enter(&mut self, session: Session) -> u32 {
        let (id, open, share) = (session.id, (session.client, session.nonce), session.share);
        let slot = if let Some(slot) = self.free.pop() {
            self.sessions[slot as usize] = session;
            slot
        } else {
            self.sessions.push(session);
            u32::try_from(self.sessions.len() - 1).expect("sessions_max fits 32 bits")
        };
        let before = self.by_id.insert(id, slot);
        assert!(
            before.is_none(),
            "a position in the order opens one session"
        );
        self.by_open.insert(open, slot);
        self.shares[share as usize].sessions += 1;
        self.touch(slot);
        slot
    }

    /// The session that must make room for another one of `client`, if one must.
    fn in_the_way(&self, client: ClientId) -> Option<u32> {
        let share = self.share_of.get(&client);
        let share = share.map(|at| self.shares[*at as usize]);
        match share {
            Some(share) if share.sessions >= self.share_max => share.ends.oldest(),
            _ if self.by_id.len() == self.sessions_max => self.idle.oldest(),
            _ => None,
        }
    }

    /// The place of a client in `shares`, a new one if it has none.
    fn share(&mut self, client: ClientId) -> u32 {
        *self.share_of.entry(client).or_insert_with(|| {
            self.free_shares.pop().unwrap_or_else(|| {
                self.shares.push(Share::default());
                u32::try_from(self.shares.len() - 1).expect("at most one for each session")
            })
        })
    }

    /// Makes a session the latest used one.
    fn touch(&mut self, slot: u32) {
        self.idle.touch(slot);
        let share = self.session(slot).share;
        self.own.touch(&mut self.shares[share as usize].ends, slot);
    }

    /// The slot of an open session of this client.
    fn find(&self, client: ClientId, id: SessionId) -> Option<u32> {
        let slot = match self.sessions.get(self.last as usize) {
            Some(session) if session.id == id => self.last,
            _ => *self.by_id.get(&id)?,
        };
        (id != SessionId::NONE && self.session(slot).client == client).then_some(slot)
    }

    /// Changes what a session keeps, and the books with it.
    fn change_history(&mut self, slot: u32, change: impl FnOnce(&mut History)) {
        let history = Arc::make_mut(&mut self.session_mut(slot).history);
        let before = history.reply_bytes() as u64;
        change(history);
        let after = history.reply_bytes() as u64;
        self.reply_bytes = self.reply_bytes - before + after;
        if after == 0 {
            self.keeping.remove(slot);
        } else if self.idle.newest() == Some(slot) {
            self.keeping.touch(slot);
        }
    }

    fn close(&mut self, slot: u32) {
        let history = std::mem::take(&mut self.session_mut(slot).history);
        self.reply_bytes -= history.reply_bytes() as u64;
        self.keeping.remove(slot);
        self.idle.remove(slot);
        let at = self.session(slot).share;
        let share = &mut self.shares[at as usize];
        self.own.remove(&mut share.ends, slot);
        share.sessions -= 1;
        if share.sessions == 0 {
            self.share_of.remove(&self.sessions[slot as usize].client);
            self.free_shares.push(at);
        }
        let session = self.session_mut(slot);
        let (id, open) = (session.id, (session.client, session.nonce));
        session.id = SessionId::NONE;
        self.by_id.remove(&id);
        self.by_open.remove(&open);
        self.free.push(slot);
    }

    fn session(&self, slot: u32) -> &Session {
        &self.sessions[slot as usize]
    }

    fn session_mut(&mut self, slot: u32) -> &mut Session {
        &mut self.sessions[slot as usize]
    }
}

impl Session {
    fn write_canonical(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&self.id.decree.0.to_le_bytes());
        sink(&self.id.index.to_le_bytes());
        sink(&self.client.0);
        sink(&self.nonce.0.to_le_bytes());
        sink(&self.active.0.to_le_bytes());
        self.history.write_canonical(sink);
    }
}

fn executed(reply: Option<&[u8]>) -> Outcome<'_> {
    reply.map_or(Outcome::ExecutedReplyGone, Outcome::Executed)
}

#[cfg(test)]
mod tests;
