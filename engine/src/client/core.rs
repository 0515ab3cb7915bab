//! The client's rules: gather, send, count, retry, end.
//!
//! | event | rule (PROTOCOL.md sections 5.1, 5.2) |
//! |---|---|
//! | flush | all calls since the last flush form one bundle with one proof; it goes to the leader |
//! | reply of a learner | one voice for its call; f+1 equal ones end the call |
//! | regency in a reply | moves the belief who leads; f+1 replicas must be that far |
//! | `Busy` of the believed leader | new calls wait, retries too, for at most one time-out |
//! | `WantSignature` for a bundle that it sent with tags | its signature; if the believed leader asks, it signs all bundles until another leader is believed in, and sends again signed what it had sent with tags |
//! | time-out of a call | sent again, *signed*, to all proposers and learners; backs off, and waits longer where answers take longer |
//! | deadline of a call | `Unknown`; `Busy` if it was never sent |
//!
//! Cost per call in steady state: its bytes are copied into the slot and into the bundle, each learner's reply is
//! compared with the first one; no allocation, hash or signature per call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use twostep_crypto::{Identity, MacKey, Scope, WeakKey, authenticator_key};

use super::leader::Belief;
use super::patience::Patience;
use super::sender::Sender;
use super::session::{Session, State};
use super::tally::Verdict;
use super::{CallOutcome, CallRefused, ClientEffects, OpenError, Rejection, SessionHandle};
use crate::batch::RequestKind;
use crate::configuration::Configuration;
use crate::machine::earlier;
use crate::message::{Message, Outcome, Reply};
use crate::types::{ClientId, Digest, NodeId, NodeSet, Regency, Seq, SessionId, Time};

/// What a client may choose for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTuning {
    /// How long to wait for an answer before the first retry, at least: where answers take longer than that, it is what
    /// they take and four times the deviation of it. Each further retry waits twice as long.
    pub retry: Duration,
    /// The longest wait between two retries.
    pub retry_max: Duration,
    /// How long a call may take before it ends as unknown.
    pub deadline: Duration,
    /// Sign every bundle instead of tagging it: for clusters that do not take tags, and for clients whose tags are
    /// doubted. On in clusters with `signed` admission in any case.
    pub signed: bool,
    /// The most sessions at a time.
    pub sessions_max: u32,
    /// The most unresolved calls of one session, 1 to 64; others are cut to that. The memory of a session grows with it.
    pub window: usize,
}

impl Default for ClientTuning {
    fn default() -> ClientTuning {
        ClientTuning {
            retry: Duration::from_millis(200),
            retry_max: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            signed: false,
            sessions_max: 4096,
            window: 64,
        }
    }
}

/// The keys of the tags beside a client's bundles: one for each voting node, in ascending order.
/// Deriving them costs 40 µs each, so that they are made once and shared.
#[derive(Clone, Debug)]
pub struct AuthenticatorKeys(pub(super) Arc<[MacKey]>);

impl AuthenticatorKeys {
    /// Derives the keys of one client in one cluster.
    ///
    /// # Errors
    /// [`WeakKey`] if a node has an unusable key or is the client itself.
    pub fn derive(
        configuration: &Configuration,
        identity: &Identity,
    ) -> Result<AuthenticatorKeys, WeakKey> {
        let scope = configuration.scope();
        let client = identity.public().client_id();
        let key = |node: &NodeId| {
            let member = configuration
                .member(*node)
                .expect("voting nodes are members");
            authenticator_key(&scope, identity, &member.public, client, *node)
        };
        configuration
            .voting()
            .iter()
            .map(key)
            .collect::<Result<_, _>>()
            .map(AuthenticatorKeys)
    }
}

/// What a [`ClientCore`] is made from. Cheap to clone, so that the keys are derived once.
#[derive(Clone, Debug)]
pub struct ClientSetup {
    /// The cluster.
    pub configuration: Arc<Configuration>,
    /// Who the client is.
    pub identity: Arc<Identity>,
    /// The keys of its tags.
    pub keys: AuthenticatorKeys,
    /// What it chooses.
    pub tuning: ClientTuning,
    /// Where the nonces of its Opens start. It must be random and new at every start of the client: a nonce
    /// that comes twice gets the old session.
    pub seed: u64,
}

impl ClientSetup {
    /// Derives the keys of the tags and takes the default tuning.
    ///
    /// # Errors
    /// [`WeakKey`] if a node has an unusable key or is the client itself.
    pub fn new(
        configuration: Arc<Configuration>,
        identity: Arc<Identity>,
        seed: u64,
    ) -> Result<ClientSetup, WeakKey> {
        let keys = AuthenticatorKeys::derive(&configuration, &identity)?;
        Ok(ClientSetup {
            configuration,
            identity,
            keys,
            tuning: ClientTuning::default(),
            seed,
        })
    }
}

/// What a client has seen, counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    /// Bundles sent for the first time.
    pub bundles: u64,
    /// Bundles sent again.
    pub retries: u64,
    /// `Busy` hints of the believed leader that were heeded.
    pub busy: u64,
    /// Replies to calls that had ended already; each call gets n_l replies and ends with the (f+1)-th equal one.
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
    patience: Patience,
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
            patience: Patience::new(tuning.retry, tuning.retry_max),
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
    /// comes back; if another operation is passed, the call may end as [`Rejection::SeqReused`].
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

    /// Takes a message that came straight from `from`'s link.
    pub fn on_message(
        &mut self,
        now: Time,
        from: NodeId,
        message: &Message<'_>,
        fx: &mut dyn ClientEffects,
    ) {
        match message {
            Message::Replies { regency, entries } => {
                self.hear_regency(now, from, *regency);
                if !self.learners.contains(from) {
                    self.counters.refused += 1;
                    return;
                }
                for entry in entries.iter() {
                    match entry {
                        Ok(reply) => self.hear_reply(now, from, &reply, fx),
                        Err(_) => {
                            self.counters.malformed += 1;
                            return;
                        }
                    }
                }
            }
            Message::Busy {
                regency,
                retry_after_ms,
            } => {
                self.hear_regency(now, from, *regency);
                if from == self.leader() {
                    let asked = Duration::from_millis(u64::from(*retry_after_ms));
                    self.hold_until = now + asked.min(self.tuning.retry);
                    self.counters.busy += 1;
                }
            }
            Message::WantSignature { regency, bundle } => {
                self.hear_regency(now, from, *regency);
                self.sign_bundle(now, from, *bundle, fx);
            }
            _ => self.counters.malformed += 1,
        }
    }

    /// Ends what is overdue, retries what is due, and sends what was called since the last flush.
    pub fn flush(&mut self, now: Time, fx: &mut dyn ClientEffects) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now, fx);
        }
        if !self.fresh.is_empty() && self.links.contains(self.leader()) && self.hold_until <= now {
            self.send_fresh(fx);
        }
    }

    /// When [`flush`](Self::flush) has something to do at the latest, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let fresh = (!self.fresh.is_empty() && self.links.contains(self.leader()))
            .then_some(self.hold_until);
        earlier(fresh, self.sweep_at)
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
        let (due, deadline) = (now + self.patience.wait(), now + self.tuning.deadline);
        let session = &mut self.sessions[index as usize];
        let call = &mut session.calls[place];
        (call.token, call.since, call.due, call.deadline) = (token, now, due, deadline);
        if !session.listed {
            session.listed = true;
            self.fresh.push(index);
        }
        self.unresolved += 1;
        self.sweep_at = earlier(self.sweep_at, Some(due.min(deadline)));
    }

    fn hear_regency(&mut self, now: Time, from: NodeId, regency: Regency) {
        if !self.belief.hear(from, regency) {
            return;
        }
        // What the old leader has may be lost, and nothing that it took or wished is the new one's.
        self.hold_until = Time(0);
        self.patience.forget();
        self.sender.sign_for_now(false);
        self.send_again(now);
    }

    /// Some acceptors cannot verify the tags of a bundle (PROTOCOL.md section 5.1). Whoever asks gets the signature of
    /// what this client sent; but only the believed leader can make it sign everything.
    fn sign_bundle(&mut self, now: Time, from: NodeId, bundle: Digest, fx: &mut dyn ClientEffects) {
        let client = self.client;
        let Some(signature) = self.sender.signature(client, bundle) else {
            self.counters.refused += 1;
            return;
        };
        self.counters.signed += 1;
        fx.send(
            NodeSet::one(from),
            &Message::BundleSignature {
                client,
                bundle,
                signature,
            },
        );
        if from == self.leader() && self.sender.sign_for_now(true) {
            // The leader refuses what is tagged, and has dropped what waited.
            self.send_again(now);
        }
    }

    /// Everything that was sent is due again.
    fn send_again(&mut self, now: Time) {
        for session in &mut self.sessions {
            for place in session.in_order(session.active & !session.unsent) {
                session.calls[place].due = now;
            }
        }
        if self.unresolved > 0 {
            self.sweep_at = Some(now);
        }
    }

    fn hear_reply(
        &mut self,
        now: Time,
        from: NodeId,
        reply: &Reply<'_>,
        fx: &mut dyn ClientEffects,
    ) {
        let Some((index, place)) = self.find(reply) else {
            self.counters.late += 1;
            return;
        };
        let session = &mut self.sessions[index as usize];
        let opening = matches!(session.state, State::Opening(_));
        let call = &mut session.calls[place];
        let fits = match reply.outcome {
            Outcome::Opened(_) => opening,
            Outcome::Executed(bytes) => !opening && bytes.len() <= self.reply_bytes_max,
            Outcome::ExecutedDigest(_) | Outcome::ExecutedReplyGone => !opening,
            Outcome::Stale | Outcome::TooFar | Outcome::SeqReused | Outcome::SessionLapsed => true,
        };
        if call.sent == 0 || !fits {
            self.counters.refused += 1;
            return;
        }
        let Some(winner) = call.tally.hear(&self.scope, self.reply_quorum, from, reply) else {
            return;
        };
        let handle = SessionHandle {
            index,
            generation: session.generation,
        };
        let decree = winner.decree;
        if call.sent == 1 {
            self.patience.answered(now.since(call.since));
        }
        match winner.verdict {
            Verdict::Executed => {
                fx.done(
                    handle,
                    call.token,
                    CallOutcome::Committed {
                        decree,
                        reply: Some(&winner.reply),
                    },
                );
                self.resolve(index, place, true);
            }
            Verdict::ReplyGone => {
                fx.done(
                    handle,
                    call.token,
                    CallOutcome::Committed {
                        decree,
                        reply: None,
                    },
                );
                self.resolve(index, place, true);
            }
            Verdict::Opened(id) => self.opened(handle, place, id, fx),
            Verdict::Refused(why) => self.refused(handle, place, why, fx),
        }
    }

    fn opened(
        &mut self,
        handle: SessionHandle,
        place: usize,
        id: SessionId,
        fx: &mut dyn ClientEffects,
    ) {
        let session = &self.sessions[handle.index as usize];
        let call = &session.calls[place];
        let (nonce, token) = (call.seq, call.token);
        self.resolve(handle.index, place, false);
        self.by_nonce.remove(&nonce);
        self.by_id.insert(id, handle.index);
        self.sessions[handle.index as usize].state = State::Open(id);
        fx.opened(handle, token, Ok(id));
    }

    /// f+1 learners say that a request was ordered and refused.
    fn refused(
        &mut self,
        handle: SessionHandle,
        place: usize,
        why: Rejection,
        fx: &mut dyn ClientEffects,
    ) {
        let session = &mut self.sessions[handle.index as usize];
        let call = &session.calls[place];
        let (token, seq, again) = (call.token, call.seq, call.sent > 1);
        match session.state {
            State::Opening(_) => {
                self.end_open(handle.index, place, OpenError::Rejected(why), fx);
                return;
            }
            State::Open(id) if why == Rejection::SessionLapsed => session.state = State::Lapsed(id),
            _ => {}
        }
        // One copy of a request may have been executed before the session was dropped or moved on, and another
        // one refused after that. Only the refusal of a single copy says that nothing happened.
        let doubtful = again
            && matches!(
                why,
                Rejection::Stale | Rejection::SessionLapsed | Rejection::TooFar
            );
        let outcome = match session.state {
            State::Open(id) | State::Lapsed(id) if doubtful => {
                CallOutcome::Unknown { session: id, seq }
            }
            _ => CallOutcome::Rejected(why),
        };
        fx.done(handle, token, outcome);
        self.resolve(handle.index, place, false);
    }

    /// Walks over all unresolved calls: ends those whose deadline passed, sends those again that are due.
    fn sweep(&mut self, now: Time, fx: &mut dyn ClientEffects) {
        let targets = self.everybody.minus(self.everybody.minus(self.links));
        let patience = self.tuning.retry;
        self.sweep_at = None;
        for index in 0..self.sessions.len() {
            let id = u32::try_from(index).expect("below sessions_max");
            for place in self.sessions[index].in_order(self.sessions[index].active) {
                let session = &mut self.sessions[index];
                let call = &mut session.calls[place];
                if call.deadline <= now {
                    self.give_up(id, place, false, fx);
                    continue;
                }
                // The leader's wish to wait is heeded for at most one time-out: it could be a liar's.
                let due = call.due.max(self.hold_until.min(call.due + patience));
                if due > now {
                    self.sweep_at = earlier(self.sweep_at, Some(due.min(call.deadline)));
                    continue;
                }
                if targets.is_empty() {
                    call.due = now + self.tuning.retry;
                } else {
                    if call.sent == 1 {
                        self.patience.ran_out(call.since, now);
                    }
                    call.due = now + self.patience.wait_after(call.sent);
                    call.sent = call.sent.saturating_add(1);
                    session.unsent &= !(1 << place);
                    let proof = self.sender.proof(RequestKind::Open);
                    self.counters.retries +=
                        self.sender
                            .add(&self.sessions[index], place, proof, true, targets, fx);
                }
                let call = &self.sessions[index].calls[place];
                self.sweep_at = earlier(self.sweep_at, Some(call.due.min(call.deadline)));
            }
        }
        self.counters.retries += self.sender.ship_all(true, targets, fx);
    }

    fn send_fresh(&mut self, fx: &mut dyn ClientEffects) {
        let leader = NodeSet::one(self.leader());
        for index in self.fresh.drain(..) {
            let session = &mut self.sessions[index as usize];
            session.listed = false;
            let unsent = std::mem::take(&mut session.unsent);
            for place in session.in_order(unsent) {
                session.calls[place].sent = session.calls[place].sent.saturating_add(1);
                let proof = self.sender.proof(session.request(place).kind);
                self.counters.bundles += self.sender.add(session, place, proof, false, leader, fx);
            }
        }
        self.counters.bundles += self.sender.ship_all(false, leader, fx);
    }

    /// The call ends without an answer: its deadline has passed, or its session is closed.
    fn give_up(&mut self, index: u32, place: usize, closing: bool, fx: &mut dyn ClientEffects) {
        let session = &self.sessions[index as usize];
        let handle = SessionHandle {
            index,
            generation: session.generation,
        };
        let call = &session.calls[place];
        let (token, seq, sent) = (call.token, call.seq, call.sent > 0);
        match session.state {
            State::Opening(_) => {
                let why = if sent {
                    OpenError::Unknown
                } else {
                    OpenError::Busy
                };
                self.end_open(index, place, why, fx);
                return;
            }
            State::Open(session) | State::Lapsed(session) if sent => {
                fx.done(handle, token, CallOutcome::Unknown { session, seq });
            }
            _ if closing => fx.done(handle, token, CallOutcome::Rejected(Rejection::NeverSent)),
            _ => fx.done(
                handle,
                token,
                CallOutcome::Busy {
                    retry_after: self.tuning.retry,
                },
            ),
        }
        self.resolve(index, place, false);
    }

    fn end_open(&mut self, index: u32, place: usize, why: OpenError, fx: &mut dyn ClientEffects) {
        let session = &self.sessions[index as usize];
        let handle = SessionHandle {
            index,
            generation: session.generation,
        };
        let token = session.calls[place].token;
        self.resolve(index, place, false);
        self.release(index);
        fx.opened(handle, token, Err(why));
    }

    fn resolve(&mut self, index: u32, place: usize, committed: bool) {
        self.sessions[index as usize].resolve(place, committed);
        self.unresolved -= 1;
        if self.unresolved == 0 {
            self.sweep_at = None;
        }
    }

    /// Makes the slot of a session free; older handles of it are void from now on.
    fn release(&mut self, index: u32) {
        let session = &mut self.sessions[index as usize];
        match session.state {
            State::Opening(nonce) => self.by_nonce.remove(&nonce),
            State::Open(id) | State::Lapsed(id) => self.by_id.remove(&id),
            State::Closed => unreachable!("a slot is released once"),
        };
        session.state = State::Closed;
        session.generation = session.generation.wrapping_add(1);
        self.last = (SessionId::NONE, 0);
        self.free.push(index);
    }

    /// The unresolved call that a reply speaks of.
    fn find(&mut self, reply: &Reply<'_>) -> Option<(u32, usize)> {
        let index = if reply.session == SessionId::NONE {
            *self.by_nonce.get(&reply.seq)?
        } else if self.last.0 == reply.session {
            self.last.1
        } else {
            let index = *self.by_id.get(&reply.session)?;
            self.last = (reply.session, index);
            index
        };
        let place = self.sessions[index as usize].find(reply.seq)?;
        Some((index, place))
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
