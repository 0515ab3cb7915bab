//! What a client hears: replies, of which f+1 equal ones end a call, regencies, and wishes of nodes (PROTOCOL.md sections 5.1, 5.2).

use std::time::Duration;

use super::ClientCore;
use crate::client::session::State;
use crate::client::tally::Verdict;
use crate::client::{CallOutcome, ClientEffects, OpenError, Rejection, SessionHandle};
use crate::message::{Message, Outcome, Reply};
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
            let took = now.since(call.since);
            self.bundling.ordered(call.bundle, decree, took);
            self.retry_time.answered(took);
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
