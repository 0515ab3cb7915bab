//! Calls that are not answered: sent again with growing patience, and how they end without an answer (PROTOCOL.md sections 5.1, 5.2).
//!
//! One walk over all unresolved calls finds what is due, and when to walk again. It costs nothing while every call is answered in time.

use super::ClientCore;
use crate::batch::RequestKind;
use crate::client::session::State;
use crate::client::{CallOutcome, ClientEffects, OpenError, Rejection, SessionHandle};
use crate::machine::earlier;
use crate::types::{SessionId, Time};

impl ClientCore {
    /// Walks over all unresolved calls: ends those whose deadline passed, sends those again that are due.
    pub(super) fn sweep(&mut self, now: Time, fx: &mut dyn ClientEffects) {
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
                    if call.sent == 1 && !call.looked_up {
                        self.retry_time.ran_out(call.since, now);
                    }
                    call.due = now + self.retry_time.wait_after(call.sent);
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

    /// Everything that was sent is due again.
    pub(super) fn send_again(&mut self, now: Time) {
        for session in &mut self.sessions {
            for place in session.in_order(session.active & !session.unsent) {
                session.calls[place].due = now;
            }
        }
        if self.unresolved > 0 {
            self.sweep_at = Some(now);
        }
    }

    /// The call ends without an answer: its deadline has passed, or its session is closed.
    pub(super) fn give_up(
        &mut self,
        index: u32,
        place: usize,
        closing: bool,
        fx: &mut dyn ClientEffects,
    ) {
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

    pub(super) fn end_open(
        &mut self,
        index: u32,
        place: usize,
        why: OpenError,
        fx: &mut dyn ClientEffects,
    ) {
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

    pub(super) fn resolve(&mut self, index: u32, place: usize, committed: bool) {
        let session = &mut self.sessions[index as usize];
        self.bundling.ended(session.calls[place].bundle);
        session.resolve(place, committed);
        self.unresolved -= 1;
        if self.unresolved == 0 {
            self.sweep_at = None;
        }
    }

    /// Makes the slot of a session free; older handles of it are void from now on.
    pub(super) fn release(&mut self, index: u32) {
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
}
