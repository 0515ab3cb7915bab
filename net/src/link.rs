//! One authenticated peer, without a socket: bytes in, messages and bytes out.
//!
//! ```text
//! dialler                                      acceptor
//!   Hello ─────────────────────────────────────► looks the dialler up, derives the link key
//!   derives the link key  ◄───────── Hello, Proof
//!   Proof, then messages ──────────────────────► up: messages
//! ```
//!
//! The steps of that stand in `link/handshake.rs`. Datagrams are lost, doubled and forged: what differs there stands in `link/greeting.rs` and
//! `link/datagrams.rs`.
//!
//! Nothing but Hello, Proof and Refuse is parsed before the other side has proved that it has the link key, and those three are small and of bounded
//! length. Whoever refuses says why in a Refuse packet before the connection is closed (see [`crate::refusal`]). Everything that does not verify ends this link and no other.
//!
//! The send buffer is bounded: when it is full, `Link::send` drops the message and says so; the protocol sends again what matters (PROTOCOL.md section 3).
//! Source: DESIGN.md section 4. Cost: one round trip, one X25519 agreement per side and connection; after that one MAC per packet.

mod datagrams;
#[cfg(test)]
mod ends;
mod greeting;
mod handshake;

use std::ops::Range;
use std::time::Instant;

use twostep_crypto::{Party, PublicIdentity};

use crate::hello::{Directory, HELLO_BYTES, Hello, Local};
use crate::outbox::Outbox;
use crate::packet::{Fragment, Frames, Header, Kind, Opener, PacketLimits, Sealer, frames, split};
use crate::pieces::Pieces;
use crate::reassembly::Reassembly;
use crate::refusal::{LinkError, Refused, read_refusal};
use datagrams::Datagrams;
use handshake::push_plain_refusal;

pub(crate) use greeting::Doubt;

/// Names a link of one loop. Never used again within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

impl LinkId {
    /// Names no link, ever.
    pub const NONE: LinkId = LinkId {
        index: u32::MAX,
        generation: u32::MAX,
    };

    pub(crate) fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    pub(crate) fn index(self) -> u32 {
        self.index
    }
}

/// What became of a message that was given to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SendOutcome {
    /// It waits in the send buffer, or in the fault layer.
    Queued,
    /// The send buffer is full: the message is dropped and counted. The peer is slow, not the node; what matters is sent again by the protocol.
    Dropped,
    /// It exceeds `message_bytes_max`: it will never go. Dropped and counted.
    TooLarge,
    /// There is no such link, or it is not up.
    NoLink,
}

/// Who is at the other end of a link that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its party.
    pub party: Party,
    /// Its public keys.
    pub public: PublicIdentity,
    /// Drawn by its process at start: another one means that it restarted.
    pub boot: [u8; 16],
}

/// What a link found at the front of the received bytes.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// Less than a packet.
    Incomplete,
    /// A handshake packet of this many bytes.
    Handshake(usize),
    /// A handshake packet of this many bytes, after which the link is up.
    Up(usize),
    /// A data packet of this many bytes, and its frames.
    Data(usize, Frames<'a>),
    /// A datagram of this many bytes that has been dealt with.
    Done(usize),
    /// A datagram of this many bytes that does not verify, or not yet: anybody may have sent it.
    Stray(usize),
    /// The other side ends the link and says why.
    RefusedUs(Refused),
    /// The other side ends the link.
    Closed,
}

/// One end of one connection.
pub(crate) struct Link {
    state: State,
    outbox: Outbox,
    limits: PacketLimits,
    /// Packets sealed on this link that nobody has counted yet.
    sealed_counted: u64,
    /// What only a link of datagrams has.
    datagrams: Option<Box<Datagrams>>,
}

enum State {
    /// We dialled and sent this Hello to this party.
    Dialled {
        expects: Party,
        hello: Box<[u8; HELLO_BYTES]>,
    },
    /// We accepted, and will answer with this nonce. The party is what an unfit Hello claimed.
    Accepted {
        nonce: [u8; 16],
        claimed: Option<Party>,
    },
    /// The keys are there, the other side's proof is not.
    Proving {
        dialled: bool,
        session: Box<Session>,
    },
    Up(Box<Session>),
    /// Refused, by either side.
    Ended {
        party: Option<Party>,
    },
}

struct Session {
    peer: PeerIdentity,
    sealer: Sealer,
    opener: Opener,
    assembly: Assembly,
}

enum Assembly {
    Stream(Reassembly),
    Datagrams(Box<Pieces>),
}

impl Link {
    /// A link for a connection that we opened to reach `expects`. Its Hello waits in the send buffer.
    pub fn dial(
        local: &Local,
        expects: Party,
        nonce: [u8; 16],
        limits: PacketLimits,
        send_bytes_max: usize,
    ) -> Self {
        let hello = Hello::new(local, expects, nonce).to_packet();
        let mut outbox = Outbox::new(send_bytes_max);
        outbox.bytes.extend_from_slice(&hello);
        Self {
            state: State::Dialled {
                expects,
                hello: Box::new(hello),
            },
            outbox,
            limits,
            sealed_counted: 0,
            datagrams: None,
        }
    }

    /// A link for a connection that somebody opened to us.
    pub fn accept(nonce: [u8; 16], limits: PacketLimits, send_bytes_max: usize) -> Self {
        Self {
            state: State::Accepted {
                nonce,
                claimed: None,
            },
            outbox: Outbox::new(send_bytes_max),
            limits,
            sealed_counted: 0,
            datagrams: None,
        }
    }

    /// Reads the first packet of `bytes`.
    pub fn receive<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        bytes: &'a [u8],
    ) -> Result<Step<'a>, LinkError> {
        if self.datagrams.is_some() {
            return self.receive_datagram(local, directory, bytes);
        }
        if let State::Up(session) = &mut self.state {
            let Some(packet) = split(bytes, self.limits.packet_bytes_max)? else {
                return Ok(Step::Incomplete);
            };
            let body = session.opener.check(packet)?;
            return match Header::read(packet).kind {
                kind if Kind::holds_messages(kind) => Ok(Step::Data(packet.len(), frames(body)?)),
                kind if kind == Kind::Refuse as u16 => {
                    self.end();
                    Ok(Step::RefusedUs(read_refusal(body)))
                }
                kind => Err(LinkError::unexpected("data", kind)),
            };
        }
        self.handshake(local, directory, bytes)
    }

    /// Adds a fragment of a packet that [`receive`](Self::receive) has just opened. A message that it completes is returned; give its buffer
    /// [`back`](Self::give_back) after use.
    pub fn reassemble(
        &mut self,
        fragment: &Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, LinkError> {
        let State::Up(session) = &mut self.state else {
            return Ok(None);
        };
        let max = self.limits.message_bytes_max;
        Ok(match &mut session.assembly {
            Assembly::Stream(one) => one.add(fragment, max)?.then(|| one.take()),
            Assembly::Datagrams(several) => several.add(fragment, max, now)?,
        })
    }

    /// Takes back the buffer of a reassembled message.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        if let State::Up(session) = &mut self.state {
            match &mut session.assembly {
                Assembly::Stream(one) => one.give_back(buffer),
                Assembly::Datagrams(several) => several.give_back(buffer),
            }
        }
    }

    /// Queues one message, given in parts, whose `gaps` the tag leaves out. Never blocks.
    pub fn send(&mut self, parts: &[&[u8]], gaps: &[Range<usize>]) -> SendOutcome {
        let State::Up(session) = &mut self.state else {
            return SendOutcome::NoLink;
        };
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total > self.limits.message_bytes_max {
            return SendOutcome::TooLarge;
        }
        if !self.outbox.has_room(self.limits.wire_bytes_max(total)) {
            return SendOutcome::Dropped;
        }
        let before = session.sealer.split_messages();
        session.sealer.push(&mut self.outbox.bytes, parts, gaps);
        let id = session.sealer.split_messages();
        if id != before
            && let Some(datagrams) = &mut self.datagrams
        {
            datagrams.keep(id, parts);
        }
        SendOutcome::Queued
    }

    /// Seals what waits and returns it, to be written.
    pub fn outgoing(&mut self) -> &[u8] {
        if let State::Proving { session, .. } | State::Up(session) = &mut self.state {
            session.sealer.seal(&mut self.outbox.bytes);
        }
        self.outbox.unsent()
    }

    /// The first `count` bytes of [`outgoing`](Self::outgoing) are written.
    pub fn sent(&mut self, count: usize) {
        self.outbox.sent(count);
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.pending()
    }

    /// Packets sealed since the last call, one MAC each.
    pub fn newly_sealed(&mut self) -> u64 {
        let (State::Proving { session, .. } | State::Up(session)) = &self.state else {
            return 0;
        };
        let sealed = session.sealer.packets() - self.sealed_counted;
        self.sealed_counted += sealed;
        sealed
    }

    /// Ends the link and queues the packet that tells the other side why.
    pub fn refuse(&mut self, error: &LinkError) {
        let body = error.to_body();
        if self.datagrams.is_some() {
            self.refuse_by_datagram(&body);
            return self.end();
        }
        match &mut self.state {
            State::Proving { session, .. } | State::Up(session) => {
                session
                    .sealer
                    .push_packet(&mut self.outbox.bytes, Kind::Refuse, &body);
            }
            State::Dialled { .. } | State::Accepted { .. } => {
                push_plain_refusal(&mut self.outbox.bytes, 0, &body);
            }
            State::Ended { .. } => return,
        }
        self.end();
    }

    /// Who is at the other end, once that is proved.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        match &self.state {
            State::Up(session) => Some(&session.peer),
            State::Dialled { .. }
            | State::Accepted { .. }
            | State::Proving { .. }
            | State::Ended { .. } => None,
        }
    }

    /// Who the other end claims to be, or whom we dialled.
    pub fn claimed(&self) -> Option<Party> {
        match &self.state {
            State::Dialled { expects, .. } => Some(*expects),
            State::Proving { session, .. } | State::Up(session) => Some(session.peer.party),
            State::Accepted { claimed: party, .. } | State::Ended { party } => *party,
        }
    }

    fn end(&mut self) {
        self.state = State::Ended {
            party: self.claimed(),
        };
    }
}

/// The rule that keeps two nodes from dialling each other at once: the lower id dials, and clients dial nodes.
#[must_use]
pub fn dials(me: Party, peer: Party) -> bool {
    match (me, peer) {
        (Party::Node(me), Party::Node(peer)) => me < peer,
        (Party::Client(_), Party::Node(_)) => true,
        (_, Party::Client(_)) => false,
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
