//! A link over datagrams that is up: what is lost is borne, what overtakes is borne, and what does not verify is nobody's. How it comes up stands in
//! `link/greeting.rs`.
//!
//! * A datagram that does not verify changes nothing, whatever the state of the link. In particular a Hello that somebody forges or plays back takes
//!   no link down; a link gives way only to one that is proved.
//! * Pieces of large messages that are lost are asked for and said again (`repair`).
//! * No datagram ends a link silently, so the end is said in a Close; a link on which nothing comes for a while is down, and each
//!   side sends a Credit when it has said nothing else for a while (see `net/datagrams.rs` for the times).

use std::time::Instant;

use super::greeting::Greeting;
use super::handshake::push_plain_refusal;
use super::{Assembly, Link, State, Step};
use crate::flow::Flow;
use crate::hello::{Directory, Local, echo_of};
use crate::packet::{CONTROL_LINE, Header, Kind, frames, split, wire_u32};
use crate::refusal::{LinkError, read_refusal};
use crate::repair::{self, AGAIN_BYTES_MAX, Kept, Want};

/// What only a link of datagrams has.
pub(super) struct Datagrams {
    flow: Flow,
    /// Sealed packets that overtake the data and need no credit.
    control: Vec<u8>,
    pub(super) greeting: Greeting,
    /// What the other side may ask for again.
    kept: Kept,
    /// What we are about to ask for; kept so that it need not be allocated again.
    wants: Vec<Want>,
}

impl Datagrams {
    /// Keeps a message that was split, in case pieces of it are lost.
    pub fn keep(&mut self, id: u64, parts: &[&[u8]]) {
        self.kept.keep(id, parts);
    }
}

impl Link {
    /// Makes it a link of datagrams, before anything is sent. `receive_bytes` is the memory of our receive buffer.
    pub fn over_datagrams(mut self, receive_bytes: usize) -> Self {
        let greeting = match &mut self.state {
            State::Dialled { hello, .. } => Greeting::of_dialler(hello, self.limits),
            _ => Greeting::default(),
        };
        self.outbox.bytes.clear();
        self.datagrams = Some(Box::new(Datagrams {
            flow: Flow::new(receive_bytes),
            control: Vec::new(),
            greeting,
            kept: Kept::default(),
            wants: Vec::new(),
        }));
        self.repeat_hello();
        self
    }

    /// Queues a Credit: it tells what has come, and that we are here.
    pub fn push_credit(&mut self) {
        if let (State::Up(session), Some(datagrams)) = (&mut self.state, &mut self.datagrams) {
            let body = datagrams.flow.credit_body();
            session
                .sealer
                .push_control(&mut datagrams.control, Kind::Credit, &body);
        }
    }

    /// When to [ask](Self::ask_for_missing) for pieces of messages; none while none is missing.
    pub fn ask_at(&self) -> Option<Instant> {
        match &self.state {
            State::Up(session) => match &session.assembly {
                Assembly::Datagrams(pieces) => pieces.ask_at(),
                Assembly::Stream(_) => None,
            },
            _ => None,
        }
    }

    /// Queues a Want for what has been missing for long enough. Says whether there was anything.
    pub fn ask_for_missing(&mut self, now: Instant) -> bool {
        let (State::Up(session), Some(datagrams)) = (&mut self.state, &mut self.datagrams) else {
            return false;
        };
        let Assembly::Datagrams(pieces) = &mut session.assembly else {
            return false;
        };
        datagrams.wants.clear();
        pieces.wants(now, &mut datagrams.wants);
        if datagrams.wants.is_empty() {
            return false;
        }
        let body = repair::write(&datagrams.wants);
        session
            .sealer
            .push_control(&mut datagrams.control, Kind::Want, &body);
        true
    }

    /// Queues the end of the link, if it is one of datagrams that is up.
    pub fn push_close(&mut self) {
        if let (State::Up(session), Some(datagrams)) = (&mut self.state, &mut self.datagrams) {
            session
                .sealer
                .push_control(&mut datagrams.control, Kind::Close, &[]);
        }
    }

    /// Packets that overtake the data and need no credit.
    pub fn control(&self) -> &[u8] {
        self.datagrams
            .as_ref()
            .map_or(&[], |datagrams| &datagrams.control)
    }

    /// They are written, or lost.
    pub fn control_sent(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.control.clear();
        }
    }

    /// Seals what waits and returns what may leave now, to be written; and whether more waits for credit.
    pub fn outgoing_within_credit(&mut self) -> (&[u8], bool) {
        if let State::Proving { session, .. } | State::Up(session) = &mut self.state {
            session.sealer.seal(&mut self.outbox.bytes);
        }
        let bytes = self.outbox.unsent();
        let allowed = self
            .datagrams
            .as_ref()
            .map_or(bytes.len(), |datagrams| datagrams.flow.allowed(bytes));
        (&bytes[..allowed], allowed < bytes.len())
    }

    /// The first `count` bytes of [`outgoing_within_credit`](Self::outgoing_within_credit) are written.
    pub fn sent_within_credit(&mut self, count: usize) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.flow.sent(&self.outbox.unsent()[..count]);
        }
        self.outbox.sent(count);
    }

    /// Takes what is under way for lost, since no Credit has come for too long.
    pub fn forget_under_way(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.flow.forget();
        }
    }

    /// Reads the first datagram of `bytes`. Errors come only from what the other side has sealed, or from a first Hello.
    pub(super) fn receive_datagram<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        bytes: &'a [u8],
    ) -> Result<Step<'a>, LinkError> {
        let packet = match split(bytes, self.limits.packet_bytes_max) {
            Ok(Some(packet)) => packet,
            Ok(None) if bytes.is_empty() => return Ok(Step::Incomplete),
            Ok(None) | Err(_) => return Ok(Step::Stray(bytes.len())),
        };
        let header = Header::read(packet);
        let Some(datagrams) = &mut self.datagrams else {
            unreachable!("asked for a link of datagrams only")
        };
        let State::Up(session) = &mut self.state else {
            return self.shake_hands(local, directory, packet, header);
        };
        let Ok(body) = session.opener.check(packet) else {
            return Ok(Step::Stray(packet.len()));
        };
        match header.kind {
            kind if Kind::holds_messages(kind) => {
                let frames = frames(body)?;
                let again = header.counter >= CONTROL_LINE;
                if let Assembly::Datagrams(pieces) = &mut session.assembly {
                    // What is said again tells nothing of what has left since.
                    pieces.next_packet(if again { 0 } else { header.counter });
                }
                if !again && datagrams.flow.received(header.counter, packet.len()) {
                    self.push_credit();
                }
                Ok(Step::Data(packet.len(), frames))
            }
            kind if kind == Kind::Credit as u16 => {
                if !datagrams.flow.credit(body) {
                    return Err(LinkError::malformed("a credit of another length"));
                }
                Ok(Step::Done(packet.len()))
            }
            kind if kind == Kind::Want as u16 => {
                let Some(wants) = repair::read(body) else {
                    return Err(LinkError::malformed("a Want of another length"));
                };
                for want in wants {
                    // What has no room now is asked for again.
                    let room = AGAIN_BYTES_MAX.saturating_sub(datagrams.control.len());
                    let most = wire_u32(room).saturating_add(want.from);
                    let want = Want {
                        to: want.to.min(most),
                        ..want
                    };
                    if let Some((message, range)) = datagrams.kept.answer(want) {
                        let out = &mut datagrams.control;
                        session.sealer.push_again(out, want.id, message, range);
                    }
                }
                Ok(Step::Done(packet.len()))
            }
            // The dialler's proof, overtaken by what followed it.
            kind if kind == Kind::Proof as u16 => Ok(Step::Done(packet.len())),
            kind if kind == Kind::Refuse as u16 => {
                self.end();
                Ok(Step::RefusedUs(read_refusal(body)))
            }
            kind if kind == Kind::Close as u16 => {
                self.end();
                Ok(Step::Closed)
            }
            kind => Err(LinkError::unexpected("data", kind)),
        }
    }

    /// Queues the packet that tells the other side why.
    pub(super) fn refuse_by_datagram(&mut self, body: &[u8]) {
        let Some(datagrams) = &mut self.datagrams else {
            return;
        };
        match (&mut self.state, &datagrams.greeting.theirs) {
            (State::Up(session), _) => {
                session
                    .sealer
                    .push_control(&mut datagrams.control, Kind::Refuse, body);
            }
            // It may not have the key that we have: that may be the very reason. But it has said a Hello.
            (
                State::Dialled { .. } | State::Accepted { .. } | State::Proving { .. },
                Some(theirs),
            ) => {
                push_plain_refusal(&mut datagrams.control, echo_of(theirs), body);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "datagrams_tests.rs"]
mod tests;
