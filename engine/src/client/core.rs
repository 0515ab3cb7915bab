//! The client's rules: gather, send, count, retry, end.
//!
//! | event | rule (PROTOCOL.md sections 5.1, 5.2) |
//! |---|---|
//! | flush | all calls since the last flush form one bundle with one proof; it goes to the leader, unless enough are on their way (`bundling.rs`) |
//! | replies of a learner to a decree, or their digest | one voice for all of them; f+1 equal ones end the calls |
//! | reply of a learner to a retry | one voice for its call; f+1 equal ones end the call |
//! | regency in a reply | moves the belief who leads; f+1 replicas must be that far |
//! | `Busy` of the believed leader | new calls wait, retries too, for at most one time-out |
//! | `WantSignature` for a bundle that it sent with tags | its signature; if the believed leader asks, it signs all bundles until another leader is believed in, and sends again signed what it had sent with tags |
//! | time-out of a call | sent again, *signed*, to all proposers and learners; backs off, and waits longer where answers take longer |
//! | deadline of a call | `Unknown`; `Busy` if it was never sent |
//!
//! Here stand sessions, calls and flushes; what is heard in `core/answers.rs`, retries and ends without an answer in `core/retries.rs`.
//!
//! Cost per call in steady state: its bytes are copied into the slot and into the bundle, and its reply is read once, however many
//! learners send it; no allocation, hash or signature per call.

mod answers;
mod retries;

use std::collections::BTreeMap;

use twostep_crypto::Scope;

use super::bundling::Bundling;
use super::leader::Belief;
use super::matching::Matching;
use super::sender::Sender;
use super::session::{Session, State};
use super::setup::{ClientSetup, ClientTuning};
use super::{CallRefused, ClientEffects, SessionHandle};
use crate::machine::earlier;
use crate::retry_time::RetryTime;
use crate::types::{ClientId, NodeId, NodeSet, Regency, Seq, SessionId, Time};
use crate::wire::Bounds;

/// How many messages of the largest size are kept of a learner until others say the same.
const KEPT_MESSAGES: usize = 4;

/// What a client has seen, counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    /// Bundles sent for the first time.
    pub bundles: u64,
    /// Bundles sent again.
    pub retries: u64,
    /// `Busy` hints of the believed leader that were heeded.
    pub busy: u64,
    /// Replies to calls that had ended already.
    pub late: u64,
    /// Replies from nodes that are no learners, to calls that were never sent, or of a kind that does not fit the call;
    /// and wishes for signatures of bundles that it did not send lately.
    pub refused: u64,
    /// Bundles that were sent with tags and signed because a node asked for it.
    pub signed: u64,
    /// Messages with replies that could not be read, or that no client should get.
    pub malformed: u64,
}

/// One client identity with its sessions. See the module's table.
///
/// The host calls [`link_up`](ClientCore::link_up) for each node that it reaches, then opens sessions and makes calls,
/// hands over what arrives, and calls [`flush`](ClientCore::flush) at the end of each turn and at the
/// [`deadline`](ClientCore::deadline).
#[derive(Debug)]
pub struct ClientCore {
    client: ClientId,
    scope: Scope,
    sender: Sender,
    tuning: ClientTuning,
    request_bytes_max: usize,
    reply_bytes_max: usize,
    learners: NodeSet,
    /// Who gets retries: all proposers and learners.
    everybody: NodeSet,
    reply_quorum: usize,
    belief: Belief,
    links: NodeSet,
    nonces: u64,
    sessions: Vec<Session>,
    free: Vec<u32>,
    by_id: BTreeMap<SessionId, u32>,
    by_nonce: BTreeMap<Seq, u32>,
    /// The session that was found last: replies come in runs of one session.
    last: (SessionId, u32),
    /// Sessions with calls that were never sent.
    fresh: Vec<u32>,
    /// Calls that are not resolved.
    unresolved: usize,
    /// When a call is due or its deadline passes, at the earliest; `None` if there is none.
    sweep_at: Option<Time>,
    /// Until when the leader asked to wait.
    hold_until: Time,
    bundling: Bundling,
    matching: Matching,
    retry_time: RetryTime,
    counters: ClientCounters,
}

impl ClientCore {
    /// A client without links or sessions.
    #[must_use]
    pub fn new(setup: ClientSetup) -> ClientCore {
        let ClientSetup {
            configuration,
            identity,
            keys,
            mut tuning,
            seed,
        } = setup;
        tuning.window = tuning.window.clamp(1, 64);
        let client = identity.public().client_id();
        let limits = *configuration.limits();
        let quorums = *configuration.quorums();
        let proposers: NodeSet = configuration.proposers().iter().copied().collect();
        ClientCore {
            client,
            scope: configuration.scope(),
            tuning,
            request_bytes_max: limits.request_bytes_max as usize,
            reply_bytes_max: limits.reply_bytes_max as usize,
            learners: configuration.learners(),
            everybody: proposers.union(configuration.learners()),
            reply_quorum: quorums.reply,
            belief: Belief::new(
                configuration.members().len(),
                [configuration.learners(), proposers],
                quorums.reply,
            ),
            links: NodeSet::EMPTY,
            nonces: seed,
            sessions: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            by_nonce: BTreeMap::new(),
            last: (SessionId::NONE, 0),
            fresh: Vec::new(),
            unresolved: 0,
            sweep_at: None,
            hold_until: Time(0),
            bundling: Bundling::new(),
            matching: Matching::new(
                configuration.learners(),
                quorums.reply,
                KEPT_MESSAGES * Bounds::of(&configuration).replies_bytes_max(),
            ),
            retry_time: RetryTime::new(tuning.retry, tuning.retry, tuning.retry_max),
            counters: ClientCounters::default(),
            sender: Sender::new(configuration, identity, keys, client, tuning.signed),
        }
    }

    /// Who this is.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// The regency that it believes in.
    #[must_use]
    pub fn regency(&self) -> Regency {
        self.belief.regency()
    }

    /// Whom it takes for the leader.
    #[must_use]
    pub fn leader(&self) -> NodeId {
        self.sender.configuration.leader(self.belief.regency())
    }

    /// The nodes it has links to.
    #[must_use]
    pub fn links(&self) -> NodeSet {
        self.links
    }

    /// Whom it wants links to: all proposers and learners.
    #[must_use]
    pub fn contacts(&self) -> NodeSet {
        self.everybody
    }

    /// Whether there are links to the believed leader and to enough learners for a call to end.
    #[must_use]
    pub fn reachable(&self) -> bool {
        let learners = self.learners.minus(self.learners.minus(self.links));
        self.links.contains(self.leader()) && learners.len() >= self.reply_quorum
    }

    /// Counts a message that could not even be decoded.
    pub(super) fn note_malformed(&mut self) {
        self.counters.malformed += 1;
    }

    /// What it has seen.
    #[must_use]
    pub fn counters(&self) -> ClientCounters {
        self.counters
    }

    /// Calls and Opens that have not ended.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.unresolved
    }

    /// How many calls the session takes right now; 0 unless it is open.
    #[must_use]
    pub fn room(&self, handle: SessionHandle) -> usize {
        match self.session(handle) {
            Some(session) if matches!(session.state, State::Open(_)) => session.room(),
            _ => 0,
        }
    }

    /// There is a link to `node` now.
    pub fn link_up(&mut self, node: NodeId) {
        self.links.insert(node);
    }

    /// The link to `node` is gone.
    pub fn link_down(&mut self, node: NodeId) {
        self.links.remove(node);
    }

    /// Begins a session with a signed, ordered Open; [`ClientEffects::opened`] tells how it went.
    ///
    /// # Errors
    /// [`CallRefused::TooManySessions`].
    pub fn open_session(&mut self, token: u64, now: Time) -> Result<SessionHandle, CallRefused> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.sessions.len() < self.tuning.sessions_max as usize => {
                self.sessions.push(Session::new(self.tuning.window));
                u32::try_from(self.sessions.len() - 1).expect("below sessions_max")
            }
            None => return Err(CallRefused::TooManySessions),
        };
        let nonce = self.nonce();
        self.by_nonce.insert(nonce, index);
        let session = &mut self.sessions[index as usize];
        let place = session.begin(nonce);
        let handle = SessionHandle {
            index,
            generation: session.generation,
        };
        self.begin_call(index, place, token, now);
        Ok(handle)
    }

    /// Takes an operation; [`ClientEffects::done`] tells how it ended. It is sent at the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`CallRefused`], and then nothing is ever sent.
    pub fn call(
        &mut self,
        handle: SessionHandle,
        operation: &[u8],
        token: u64,
        now: Time,
    ) -> Result<Seq, CallRefused> {
        self.call_with(handle, operation, token, now, Session::take_next)
    }

    /// Takes an operation that ended as unknown once more, under its old number: if it was executed, the stored reply
    /// comes back; if another operation is passed, the call may end as [`Rejection::SeqReused`](super::Rejection::SeqReused).
    ///
    /// # Errors
    /// [`CallRefused`]; [`CallRefused::NotAgain`] if the number is unresolved, was never used, or lies too far back.
    pub fn call_again(
        &mut self,
        handle: SessionHandle,
        seq: Seq,
        operation: &[u8],
        token: u64,
        now: Time,
    ) -> Result<Seq, CallRefused> {
        self.call_with(handle, operation, token, now, |session| {
            session.take_again(seq)
        })
    }

    /// Ends all calls of a session (`Unknown`, or `NeverSent`) and forgets it. The learners drop it by age.
    pub fn close_session(&mut self, handle: SessionHandle, fx: &mut dyn ClientEffects) {
        let Some(session) = self.session(handle) else {
            return;
        };
        for place in session.in_order(session.active) {
            self.give_up(handle.index, place, true, fx);
        }
        // An Open that was given up has released the slot already.
        if self.session(handle).is_some() {
            self.release(handle.index);
        }
    }

    /// Ends what is overdue, retries what is due, and sends what was called since the last flush.
    pub fn flush(&mut self, now: Time, fx: &mut dyn ClientEffects) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now, fx);
        }
        let sends = !self.fresh.is_empty() && self.links.contains(self.leader());
        if sends && self.gathers_until() <= now {
            self.send_fresh(now, fx);
        }
    }

    /// When [`flush`](Self::flush) has something to do at the latest, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let fresh = (!self.fresh.is_empty() && self.links.contains(self.leader()))
            .then_some(self.gathers_until());
        earlier(fresh, self.sweep_at)
    }

    /// Until when calls gather instead of being sent, if nothing happens before. A host that makes its calls then or in the turn after
    /// an answer loses nothing.
    #[must_use]
    pub fn gathers_until(&self) -> Time {
        self.hold_until.max(self.bundling.gathers_until())
    }

    fn call_with(
        &mut self,
        handle: SessionHandle,
        operation: &[u8],
        token: u64,
        now: Time,
        take: impl FnOnce(&mut Session) -> Result<usize, CallRefused>,
    ) -> Result<Seq, CallRefused> {
        let (found, limit) = (operation.len(), self.request_bytes_max);
        let session = self.session_mut(handle).ok_or(CallRefused::Closed)?;
        match session.state {
            State::Open(_) => {}
            State::Opening(_) => return Err(CallRefused::Opening),
            State::Lapsed(_) => return Err(CallRefused::SessionLapsed),
            State::Closed => return Err(CallRefused::Closed),
        }
        if found > limit {
            return Err(CallRefused::TooLarge { found, limit });
        }
        let place = take(session)?;
        let call = &mut session.calls[place];
        call.operation.extend_from_slice(operation);
        let seq = call.seq;
        self.begin_call(handle.index, place, token, now);
        Ok(seq)
    }

    /// Starts the clocks of a call whose slot is taken, and lists it to be sent.
    fn begin_call(&mut self, index: u32, place: usize, token: u64, now: Time) {
        let (due, deadline) = (now + self.retry_time.wait(), now + self.tuning.deadline);
        let session = &mut self.sessions[index as usize];
        let call = &mut session.calls[place];
        (call.token, call.since, call.due, call.deadline) = (token, now, due, deadline);
        call.looked_up = false;
        if !session.listed {
            session.listed = true;
            self.fresh.push(index);
        }
        self.unresolved += 1;
        self.sweep_at = earlier(self.sweep_at, Some(due.min(deadline)));
    }

    fn send_fresh(&mut self, now: Time, fx: &mut dyn ClientEffects) {
        let leader = NodeSet::one(self.leader());
        for index in self.fresh.drain(..) {
            let session = &mut self.sessions[index as usize];
            session.listed = false;
            let unsent = std::mem::take(&mut session.unsent);
            for place in session.in_order(unsent) {
                session.calls[place].sent = session.calls[place].sent.saturating_add(1);
                let proof = self.sender.proof(session.request(place).kind);
                let shipped = self.sender.add(session, place, proof, false, leader, fx);
                if shipped > 0 {
                    self.bundling.sent(now);
                    self.counters.bundles += shipped;
                }
                session.calls[place].bundle = self.bundling.filling();
            }
        }
        self.counters.bundles += self.sender.ship_all(false, leader, fx);
        self.bundling.sent(now);
    }

    fn session(&self, handle: SessionHandle) -> Option<&Session> {
        let session = self.sessions.get(handle.index())?;
        (session.generation == handle.generation && session.state != State::Closed)
            .then_some(session)
    }

    fn session_mut(&mut self, handle: SessionHandle) -> Option<&mut Session> {
        let session = self.sessions.get_mut(handle.index())?;
        (session.generation == handle.generation && session.state != State::Closed)
            .then_some(session)
    }

    /// The next number of a sequence that visits all 2^64 numbers in an order that looks random (SplitMix64).
    fn nonce(&mut self) -> Seq {
        self.nonces = self.nonces.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.nonces;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Seq(mixed ^ (mixed >> 31))
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
