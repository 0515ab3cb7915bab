//! A link over datagrams: what is lost is said again, what overtakes is borne, and what does not verify is nobody's.
//!
//! ```text
//! dialler                                                   acceptor
//!   Hello (mtu) ── again until answered ────────────────────► same Hello, same answer
//!   ◄──────────────────────────── Hello (echo), Proof
//!   Proof, Credit, data ────────────────────────────────────► up with the first of them that verifies
//! ```
//!
//! * The Hello says in the place of its counter how large datagrams may be; both sides must agree. Answers before there is a key show there that
//!   their sender has seen the Hello (the front half of its nonce), so that nobody who only guesses addresses can refuse in another's name.
//! * A datagram that does not verify changes nothing, whatever the state of the link. In particular a Hello that somebody forges or plays back takes
//!   no link down; a link gives way only to one that is proved.
//! * One Hello is answered by at most three times its bytes, the bound of RFC 9000 section 8.1: 230 bytes of Hello and Proof, and a refusal of less than 434.
//! * No datagram ends a link silently, so the end is said in a Close; a link on which nothing comes for a while is down, and each
//!   side sends a Credit when it has said nothing else for a while (see `net/datagrams.rs` for the times).

use super::handshake::{push_plain_refusal, read_answer, read_hello, session};
use super::{Assembly, Link, State, Step};
use crate::flow::Flow;
use crate::hello::{Directory, HELLO_BYTES, Hello, Local, MAGIC, echo_of};
use crate::packet::{HEADER_BYTES, Header, Kind, PacketLimits, frames, split};
use crate::refusal::{LinkError, read_refusal};

/// What only a link of datagrams has.
pub(super) struct Datagrams {
    flow: Flow,
    /// Sealed packets that overtake the data and need no credit.
    control: Vec<u8>,
    /// The Hellos of both sides, once they are said.
    ours: Option<Box<[u8; HELLO_BYTES]>>,
    theirs: Option<Box<[u8; HELLO_BYTES]>>,
}

impl Link {
    /// Makes it a link of datagrams, before anything is sent. `receive_bytes` is the memory of our receive buffer.
    pub fn over_datagrams(mut self, receive_bytes: usize) -> Self {
        let mut ours = None;
        if let State::Dialled { hello, .. } = &mut self.state {
            hello[8..16].copy_from_slice(&mtu_of(self.limits).to_le_bytes());
            self.outbox.bytes.clear();
            self.outbox.bytes.extend_from_slice(&hello[..]);
            ours = Some(hello.clone());
        }
        self.datagrams = Some(Box::new(Datagrams {
            flow: Flow::new(receive_bytes),
            control: Vec::new(),
            ours,
            theirs: None,
        }));
        self
    }

    /// Says our Hello again, if we dialled and the answer is still awaited.
    pub fn repeat_hello(&mut self) -> bool {
        let waits = matches!(
            self.state,
            State::Dialled { .. } | State::Proving { dialled: true, .. }
        );
        if let Some(hello) = self
            .datagrams
            .as_ref()
            .and_then(|datagrams| datagrams.ours.as_ref())
            && waits
            && self.outbox.pending() == 0
        {
            self.outbox.bytes.extend_from_slice(&hello[..]);
            return true;
        }
        false
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
                if let Assembly::Datagrams(pieces) = &mut session.assembly {
                    pieces.next_packet();
                }
                if datagrams.flow.received(header.counter, packet.len()) {
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
        match (&mut self.state, &datagrams.theirs) {
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

    fn shake_hands<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        packet: &'a [u8],
        header: Header,
    ) -> Result<Step<'a>, LinkError> {
        let stray = Ok(Step::Stray(packet.len()));
        let said = header.tag == MAGIC;
        if said && header.kind == Kind::Refuse as u16 {
            if !self.is_answer(header) {
                return stray;
            }
            self.end();
            return Ok(Step::RefusedUs(read_refusal(&packet[HEADER_BYTES..])));
        }
        match &self.state {
            State::Dialled { .. } if said && self.is_answer(header) => {
                self.take_answer(local, directory, packet, header)
            }
            State::Accepted { .. } if said => self.answer_hello(local, directory, packet, header),
            State::Proving { dialled: false, .. } if said => Ok(if self.repeat_answer(packet) {
                Step::Done(packet.len())
            } else {
                Step::Stray(packet.len())
            }),
            State::Proving { .. } if !said => self.take_proof(packet, header),
            _ => stray,
        }
    }

    /// Whether the sender has seen our Hello.
    fn is_answer(&self, header: Header) -> bool {
        let ours = self
            .datagrams
            .as_ref()
            .and_then(|datagrams| datagrams.ours.as_ref());
        ours.is_some_and(|ours| echo_of(ours) == header.counter)
    }

    /// We dialled, and this is the Hello of whoever is there.
    fn take_answer<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        packet: &'a [u8],
        header: Header,
    ) -> Result<Step<'a>, LinkError> {
        let (State::Dialled { expects, hello }, Some(datagrams)) =
            (&self.state, &mut self.datagrams)
        else {
            unreachable!("asked for a link of datagrams that was dialled")
        };
        datagrams.theirs = copy_of(packet);
        let theirs = read_answer(packet, header, *expects)?;
        let session = session(
            local,
            directory,
            &theirs,
            &hello[..],
            packet,
            self.limits,
            true,
        )?;
        self.state = State::Proving {
            dialled: true,
            session,
        };
        Ok(Step::Handshake(packet.len()))
    }

    /// Somebody dialled, and this is its Hello.
    fn answer_hello<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        packet: &'a [u8],
        header: Header,
    ) -> Result<Step<'a>, LinkError> {
        let (State::Accepted { nonce, claimed }, Some(datagrams)) =
            (&mut self.state, &mut self.datagrams)
        else {
            unreachable!("asked for a link of datagrams that was accepted")
        };
        let Some(copy) = copy_of(packet) else {
            return read_hello(packet, header).map(|_| Step::Stray(packet.len()));
        };
        let echo = echo_of(&copy);
        datagrams.theirs = Some(copy);
        let theirs = read_hello(packet, header)?;
        *claimed = Some(theirs.from);
        let ours = Hello::new(local, theirs.from, *nonce).to_packet_with(echo);
        let session = session(local, directory, &theirs, &ours, packet, self.limits, true)?;
        // After the identities, so that who is no member learns only that.
        if header.counter != mtu_of(self.limits) {
            return Err(LinkError::mtu(header.counter, self.limits.packet_bytes_max));
        }
        datagrams.ours = Some(Box::new(ours));
        self.state = State::Proving {
            dialled: false,
            session,
        };
        self.repeat_answer(packet);
        Ok(Step::Handshake(packet.len()))
    }

    /// Answers the Hello that was answered before: the answer may have been lost. False if it is another one.
    fn repeat_answer(&mut self, packet: &[u8]) -> bool {
        let (State::Proving { session, .. }, Some(datagrams)) = (&mut self.state, &self.datagrams)
        else {
            return false;
        };
        let (Some(ours), Some(theirs)) = (&datagrams.ours, &datagrams.theirs) else {
            return false;
        };
        // An answer that has not left yet is enough.
        if packet != &theirs[..] || self.outbox.pending() > 0 {
            return false;
        }
        self.outbox.bytes.extend_from_slice(&ours[..]);
        session
            .sealer
            .push_packet(&mut self.outbox.bytes, Kind::Proof, &[]);
        true
    }

    /// The first packet that verifies proves the other side; where we accepted it may be a later one than the Proof.
    fn take_proof<'a>(&mut self, packet: &'a [u8], header: Header) -> Result<Step<'a>, LinkError> {
        let State::Proving { dialled, session } = &mut self.state else {
            unreachable!("asked while proving")
        };
        let (is_proof, dialled) = (header.kind == Kind::Proof as u16, *dialled);
        if session.opener.verify(packet).is_err() || (dialled && !is_proof) {
            return Ok(Step::Stray(packet.len()));
        }
        if dialled {
            session
                .sealer
                .push_packet(&mut self.outbox.bytes, Kind::Proof, &[]);
        }
        self.go_up();
        self.push_credit();
        // It is read once more, as a packet of a link that is up.
        Ok(Step::Up(0))
    }
}

fn copy_of(packet: &[u8]) -> Option<Box<[u8; HELLO_BYTES]>> {
    packet.try_into().ok().map(Box::new)
}

fn mtu_of(limits: PacketLimits) -> u64 {
    limits.packet_bytes_max as u64
}

#[cfg(test)]
#[path = "datagrams_tests.rs"]
mod tests;
