//! What a client hears: replies, of which f+1 equal ones end calls, regencies, and wishes of nodes (PROTOCOL.md sections 5.1, 5.2).
//!
//! What a decree made of the client's requests is compared as a whole (`matching.rs`), since all learners say the same of it; what they
//! find in their tables for a retry is compared call by call (`tally.rs`), since each may have executed another part.

use std::time::Duration;

use super::ClientCore;
use crate::client::session::State;
use crate::client::{CallOutcome, ClientEffects, OpenError, Rejection, SessionHandle};
use crate::message::{Message, Outcome, Reply, ReplyEntries};
use crate::types::{Digest, NodeId, NodeSet, Regency, SessionId, Time};

impl ClientCore {
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
                if self.hear_learner(now, from, *regency) {
                    let digest = entries.digest(&self.scope);
                    self.hear_replies(now, from, digest, Some(entries.bytes()), fx);
                }
            }
            Message::RepliesDigest { regency, digest } => {
                if self.hear_learner(now, from, *regency) {
                    self.hear_replies(now, from, *digest, None, fx);
                }
            }
            Message::Found { regency, entries } => {
                if self.hear_learner(now, from, *regency) {
                    self.each_entry(*entries, |core, reply| {
                        core.hear_found(now, from, reply, fx);
                    });
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

    /// Hears the regency of who answers; whether it may answer.
    fn hear_learner(&mut self, now: Time, from: NodeId, regency: Regency) -> bool {
        self.hear_regency(now, from, regency);
        let learner = self.learners.contains(from);
        self.counters.refused += u64::from(!learner);
        learner
    }

    fn hear_regency(&mut self, now: Time, from: NodeId, regency: Regency) {
        if !self.belief.hear(from, regency) {
            return;
        }
        // What the old leader has may be lost, and nothing that it took or wished is the new one's.
        self.hold_until = Time(0);
        self.retry_time.forget();
        self.bundling.forget();
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

    /// One learner's word about all that a decree answered; what enough learners say ends its calls.
    fn hear_replies(
        &mut self,
        now: Time,
        from: NodeId,
        digest: Digest,
        full: Option<&[u8]>,
        fx: &mut dyn ClientEffects,
    ) {
        let Some(agreed) = self.matching.hear(from, digest, full) else {
            return;
        };
        self.each_entry(ReplyEntries::new(&agreed.content), |core, reply| {
            if let Some((index, place)) = core.answered(reply) {
                if core.may_be_executed(index, place, reply, agreed.voices, digest) {
                    core.look_up(now, index, place);
                } else {
                    core.conclude(now, index, place, reply, fx);
                }
            }
        });
        self.matching.give_back(agreed.content);
    }

    /// Whether a call of which a decree refused a copy may have been executed before, in another copy that a leader
    /// ordered, as far as the learners that say so may have said that.
    fn may_be_executed(
        &self,
        index: u32,
        place: usize,
        reply: &Reply<'_>,
        voices: NodeSet,
        digest: Digest,
    ) -> bool {
        let refused = matches!(
            reply.outcome,
            Outcome::Stale | Outcome::TooFar | Outcome::SeqReused | Outcome::SessionLapsed
        );
        let sure = || {
            let found = self.sessions[index as usize].calls[place].tally.found_by();
            self.matching.sure(voices, digest).minus(found)
        };
        refused && sure().len() < self.reply_quorum
    }

    /// Asks at once, the first time, what the learners remember of a call.
    fn look_up(&mut self, now: Time, index: u32, place: usize) {
        let call = &mut self.sessions[index as usize].calls[place];
        if !call.looked_up {
            call.looked_up = true;
            call.due = now;
            self.sweep_at = Some(now);
        }
    }

    /// One learner's word about one call that was retried; what enough learners say ends it.
    fn hear_found(
        &mut self,
        now: Time,
        from: NodeId,
        reply: &Reply<'_>,
        fx: &mut dyn ClientEffects,
    ) {
        let Some((index, place)) = self.answered(reply) else {
            return;
        };
        let call = &mut self.sessions[index as usize].calls[place];
        if call.tally.hear(self.reply_quorum, from, reply) {
            self.conclude(now, index, place, reply, fx);
        }
    }

    /// The call that a reply answers, if it is one that can be answered so.
    fn answered(&mut self, reply: &Reply<'_>) -> Option<(u32, usize)> {
        let Some((index, place)) = self.find(reply) else {
            self.counters.late += 1;
            return None;
        };
        let session = &self.sessions[index as usize];
        let opening = matches!(session.state, State::Opening(_));
        let fits = match reply.outcome {
            Outcome::Opened(_) => opening,
            Outcome::Executed(bytes) => !opening && bytes.len() <= self.reply_bytes_max,
            Outcome::ExecutedDigest(_) | Outcome::ExecutedReplyGone => !opening,
            Outcome::Stale | Outcome::TooFar | Outcome::SeqReused | Outcome::SessionLapsed => true,
        };
        if session.calls[place].sent == 0 || !fits {
            self.counters.refused += 1;
            return None;
        }
        Some((index, place))
    }

    /// Enough learners give this reply to a call.
    fn conclude(
        &mut self,
        now: Time,
        index: u32,
        place: usize,
        reply: &Reply<'_>,
        fx: &mut dyn ClientEffects,
    ) {
        let session = &mut self.sessions[index as usize];
        let handle = SessionHandle {
            index,
            generation: session.generation,
        };
        let call = &mut session.calls[place];
        let decree = reply.decree;
        if call.sent == 1 {
            let took = now.since(call.since);
            self.bundling.ordered(call.bundle, decree, took);
            self.retry_time.answered(took);
        }
        let committed = |reply| CallOutcome::Committed { decree, reply };
        match reply.outcome {
            Outcome::Executed(bytes) => {
                fx.done(handle, call.token, committed(Some(bytes)));
                self.resolve(index, place, true);
            }
            Outcome::ExecutedReplyGone => {
                fx.done(handle, call.token, committed(None));
                self.resolve(index, place, true);
            }
            // The decree had more to say than it may.
            Outcome::ExecutedDigest(_) => self.look_up(now, index, place),
            Outcome::Opened(id) => self.opened(handle, place, id, fx),
            Outcome::Stale => self.refused(handle, place, Rejection::Stale, fx),
            Outcome::TooFar => self.refused(handle, place, Rejection::TooFar, fx),
            Outcome::SeqReused => self.refused(handle, place, Rejection::SeqReused, fx),
            Outcome::SessionLapsed => self.refused(handle, place, Rejection::SessionLapsed, fx),
        }
    }

    /// Hands the entries over one by one, up to the first that cannot be read.
    fn each_entry(
        &mut self,
        entries: ReplyEntries<'_>,
        mut hear: impl FnMut(&mut ClientCore, &Reply<'_>),
    ) {
        for entry in entries.iter() {
            match entry {
                Ok(reply) => hear(self, &reply),
                Err(_) => {
                    self.counters.malformed += 1;
                    return;
                }
            }
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
}
