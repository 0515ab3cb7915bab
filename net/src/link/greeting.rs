//! How a link comes up by datagrams, of which some are lost, doubled or forged.
//!
//! ```text
//! dialler                                                   whoever listens
//!   Hello (mtu, no cookie) ── again until a link is up ─────► an unknown address: keeps nothing
//!   ◄─────────────────────────────────────── Cookie (echo)
//!   Hello (mtu, cookie) ────────────────────────────────────► an accepted link; the same question, the same answer
//!   ◄──────────────────────────────── Hello (echo), proved
//!   Proof, Credit, data ────────────────────────────────────► up with the first of them that verifies
//! ```
//!
//! * The driver gives out cookies and lets only a Hello with one become a link (`cookie`); a link looks at none but the one it was given.
//! * The Hello says in the place of its counter how large datagrams may be; both sides must agree. Answers before there is a key show there that
//!   their sender has seen the question (the front half of its nonce), so that nobody who only guesses addresses can answer in another's name.
//! * Whoever sees the question on its way can forge an answer. So the dialler believes none but one whose proof verifies, which brings it up at once;
//!   a forged cookie gives way to the next one; and what speaks against the link (a refusal, an answer that is not the one it wants) is a *doubt*,
//!   which ends the attempt only if no proved answer comes for a while. The Hello is said again and again all that time.
//! * An answer costs a key agreement, so no more than a few are looked at until the Hello is said again.
//! * A question with a cookie is answered by at most three times its bytes: 214 of answer, and a refusal of less than 434.

use twostep_crypto::PROTOCOL_VERSION;

use super::handshake::{read_answer, read_hello, session};
use super::{Link, State, Step};
use crate::cookie::COOKIE_BYTES;
use crate::hello::{
    DATAGRAM_HELLO_BYTES, Directory, HELLO_BYTES, Hello, Local, MAGIC, echo_of, split_datagram,
};
use crate::packet::{HEADER_BYTES, Header, Kind, PacketLimits, wire_u32};
use crate::refusal::{LinkError, Refused, read_refusal};

/// Most answers and cookies that are looked at until the Hello is said again.
const LOOKED_AT_MAX: u32 = 8;

/// What speaks against a link that we dialled. It may be forged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// We would refuse whoever answered.
    Refuse(LinkError),
    /// Whoever answered refuses us.
    RefusedUs(Refused),
}

/// What both sides have said so far.
#[derive(Default)]
pub(super) struct Greeting {
    /// Our question, or our answer, once it is said.
    ours: Option<Box<[u8; DATAGRAM_HELLO_BYTES]>>,
    /// The newest Hello of the other side, without cookie or proof.
    pub theirs: Option<Box<[u8; HELLO_BYTES]>>,
    /// The first doubt.
    doubt: Option<Doubt>,
    looked_at: u32,
}

impl Greeting {
    /// The question of a dialler. Its Hello becomes that of a datagram.
    pub fn of_dialler(hello: &mut [u8; HELLO_BYTES], limits: PacketLimits) -> Self {
        hello[..4].copy_from_slice(&wire_u32(DATAGRAM_HELLO_BYTES).to_le_bytes());
        hello[8..16].copy_from_slice(&mtu_of(limits).to_le_bytes());
        Self {
            ours: Some(join(hello, [0; COOKIE_BYTES])),
            ..Self::default()
        }
    }

    /// Whether the sender has seen our Hello.
    fn is_answer(&self, header: Header) -> bool {
        let ours = self.ours.as_ref().and_then(|ours| ours.first_chunk());
        ours.is_some_and(|ours| echo_of(ours) == header.counter)
    }

    /// Whether one more answer may be looked at.
    fn looks(&mut self) -> bool {
        self.looked_at += 1;
        self.looked_at <= LOOKED_AT_MAX
    }
}

impl Link {
    /// Says our Hello again, if we dialled and no answer has brought the link up.
    pub fn repeat_hello(&mut self) -> bool {
        let (State::Dialled { .. }, Some(datagrams)) = (&self.state, &mut self.datagrams) else {
            return false;
        };
        datagrams.greeting.looked_at = 0;
        match &datagrams.greeting.ours {
            Some(ours) if self.outbox.pending() == 0 => {
                self.outbox.bytes.extend_from_slice(&ours[..]);
                true
            }
            _ => false,
        }
    }

    /// What speaks against a link that we dialled, if anything does.
    pub fn doubt(&self) -> Option<&Doubt> {
        self.datagrams.as_ref()?.greeting.doubt.as_ref()
    }

    /// Reads a datagram on a link that is not up.
    pub(super) fn shake_hands<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        packet: &'a [u8],
        header: Header,
    ) -> Result<Step<'a>, LinkError> {
        let stray = Ok(Step::Stray(packet.len()));
        let Some(datagrams) = &mut self.datagrams else {
            unreachable!("asked for a link of datagrams only")
        };
        let said = header.tag == MAGIC;
        let answers = said && datagrams.greeting.is_answer(header);
        match (&self.state, header.kind) {
            (State::Dialled { .. }, kind) if answers => {
                if !datagrams.greeting.looks() {
                    return stray;
                }
                match kind {
                    kind if kind == Kind::Refuse as u16 => {
                        let refused = read_refusal(&packet[HEADER_BYTES..]);
                        Ok(self.doubts(packet, Doubt::RefusedUs(refused)))
                    }
                    kind if kind == Kind::Cookie as u16 => Ok(self.take_cookie(packet, header)),
                    _ => Ok(self.take_answer(local, directory, packet, header)),
                }
            }
            (State::Accepted { .. } | State::Proving { .. }, kind)
                if kind == Kind::Refuse as u16 && answers =>
            {
                self.end();
                Ok(Step::RefusedUs(read_refusal(&packet[HEADER_BYTES..])))
            }
            (_, kind) if said && kind == Kind::Refuse as u16 => stray,
            (State::Accepted { .. }, _) if said => {
                self.answer_hello(local, directory, packet, header)
            }
            (State::Proving { .. }, _) if said => Ok(if self.repeat_answer(packet) {
                Step::Done(packet.len())
            } else {
                Step::Stray(packet.len())
            }),
            (State::Proving { .. }, _) => Ok(self.take_proof(packet)),
            _ => stray,
        }
    }

    fn doubts<'a>(&mut self, packet: &[u8], doubt: Doubt) -> Step<'a> {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.greeting.doubt.get_or_insert(doubt);
        }
        Step::Handshake(packet.len())
    }

    /// We dialled, and shall say our Hello again with this cookie. The one of an earlier answer may have been forged, or have lapsed.
    fn take_cookie<'a>(&mut self, packet: &[u8], header: Header) -> Step<'a> {
        if header.version != PROTOCOL_VERSION {
            let error = LinkError::version(header.version);
            return self.doubts(packet, Doubt::Refuse(error));
        }
        let Some(ours) = self
            .datagrams
            .as_mut()
            .and_then(|datagrams| datagrams.greeting.ours.as_mut())
            .filter(|_| packet.len() == HEADER_BYTES + COOKIE_BYTES)
        else {
            return Step::Stray(packet.len());
        };
        let (cookie, place) = (&packet[HEADER_BYTES..], &mut ours[HELLO_BYTES..]);
        if place != cookie {
            place.copy_from_slice(cookie);
            if self.outbox.pending() == 0 {
                self.outbox.bytes.extend_from_slice(&ours[..]);
            }
        }
        Step::Handshake(packet.len())
    }

    /// We dialled, and this is the Hello of whoever answers.
    fn take_answer<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        packet: &[u8],
        header: Header,
    ) -> Step<'a> {
        let (State::Dialled { expects, hello }, Some(datagrams)) =
            (&self.state, &mut self.datagrams)
        else {
            unreachable!("asked for a link of datagrams that was dialled")
        };
        let split = split_datagram(packet);
        let theirs = split.map_or(&[][..], |(theirs, _)| theirs);
        let session = read_answer(theirs, header, *expects).and_then(|read| {
            session(
                local,
                directory,
                &read,
                &hello[..],
                theirs,
                self.limits,
                true,
            )
        });
        match (session, split) {
            (Ok(session), Some((theirs, proof))) if session.opener.is_proof_of(theirs, proof) => {
                self.state = State::Proving {
                    dialled: true,
                    session,
                };
                self.rise();
                Step::Up(packet.len())
            }
            // Somebody who has not the key of whom it says it is.
            (Ok(_), _) => Step::Stray(packet.len()),
            (Err(error), _) => {
                // So that our refusal, should it come to that, shows that we have seen its Hello.
                datagrams.greeting.theirs = split.map(|(theirs, _)| Box::new(*theirs));
                self.doubts(packet, Doubt::Refuse(error))
            }
        }
    }

    /// Somebody dialled, and this is its Hello.
    fn answer_hello<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        packet: &[u8],
        header: Header,
    ) -> Result<Step<'a>, LinkError> {
        let (State::Accepted { nonce, claimed }, Some(datagrams)) =
            (&mut self.state, &mut self.datagrams)
        else {
            unreachable!("asked for a link of datagrams that was accepted")
        };
        let Some((question, _)) = split_datagram(packet) else {
            return read_hello(&[], header).map(|_| Step::Stray(packet.len()));
        };
        datagrams.greeting.theirs = Some(Box::new(*question));
        let theirs = read_hello(question, header)?;
        *claimed = Some(theirs.from);
        let ours = Hello::new(local, theirs.from, *nonce).to_datagram(echo_of(question));
        let session = session(
            local,
            directory,
            &theirs,
            &ours,
            question,
            self.limits,
            true,
        )?;
        // After the identities, so that who is no member learns only that.
        if header.counter != mtu_of(self.limits) {
            return Err(LinkError::mtu(header.counter, self.limits.packet_bytes_max));
        }
        datagrams.greeting.ours = Some(join(&ours, session.sealer.proof_of(&ours).0));
        self.state = State::Proving {
            dialled: false,
            session,
        };
        self.repeat_answer(packet);
        Ok(Step::Handshake(packet.len()))
    }

    /// Answers the Hello that was answered before: the answer may have been lost. False if it is another one.
    fn repeat_answer(&mut self, packet: &[u8]) -> bool {
        let Some(Greeting {
            ours: Some(ours),
            theirs: Some(theirs),
            ..
        }) = self.datagrams.as_ref().map(|datagrams| &datagrams.greeting)
        else {
            return false;
        };
        let same = split_datagram(packet).is_some_and(|(question, _)| *question == **theirs);
        // An answer that has not left yet is enough.
        if same && self.outbox.pending() == 0 {
            self.outbox.bytes.extend_from_slice(&ours[..]);
            return true;
        }
        false
    }

    /// The first packet that verifies proves the dialler; it may be a later one than the Proof.
    fn take_proof<'a>(&mut self, packet: &[u8]) -> Step<'a> {
        let State::Proving { session, .. } = &self.state else {
            unreachable!("asked while proving")
        };
        if session.opener.verify(packet).is_err() {
            return Step::Stray(packet.len());
        }
        self.rise();
        // It is read once more, as a packet of a link that is up.
        Step::Up(0)
    }

    /// The other side has proved that it has the key. A dialler proves itself in turn.
    fn rise(&mut self) {
        if let State::Proving {
            dialled: true,
            session,
        } = &mut self.state
        {
            session
                .sealer
                .push_packet(&mut self.outbox.bytes, Kind::Proof, &[]);
        }
        self.go_up();
        self.push_credit();
    }
}

fn join(hello: &[u8; HELLO_BYTES], tail: [u8; COOKIE_BYTES]) -> Box<[u8; DATAGRAM_HELLO_BYTES]> {
    let mut packet = Box::new([0; DATAGRAM_HELLO_BYTES]);
    packet[..HELLO_BYTES].copy_from_slice(hello);
    packet[HELLO_BYTES..].copy_from_slice(&tail);
    packet
}

fn mtu_of(limits: PacketLimits) -> u64 {
    limits.packet_bytes_max as u64
}

#[cfg(test)]
#[path = "greeting_tests.rs"]
mod tests;
