//! How two ends of a link come to trust each other: Hellos, keys, proofs; and refusals while there is no key.
//!
//! On streams each packet comes once and in order; how datagrams differ stands in `link/greeting.rs`. Both read Hellos and make keys here.

use twostep_crypto::{PROTOCOL_VERSION, Party, link_keys};

use super::{Assembly, Link, PeerIdentity, Session, State, Step};
use crate::hello::{Directory, HELLO_BYTES, Hello, Local, MAGIC, key_nonce};
use crate::packet::{HEADER_BYTES, Header, Kind, Opener, PacketLimits, Sealer, split, wire_u32};
use crate::pieces::Pieces;
use crate::reassembly::Reassembly;
use crate::refusal::{DETAIL_BYTES_MAX, LinkError, read_refusal};

impl Link {
    /// Reads the first packet of `bytes` on a stream that is not up.
    pub(super) fn handshake<'a>(
        &mut self,
        local: &Local,
        directory: &dyn Directory,
        bytes: &'a [u8],
    ) -> Result<Step<'a>, LinkError> {
        let Some(packet) = handshake_packet(bytes)? else {
            return Ok(Step::Incomplete);
        };
        let header = Header::read(packet);
        if header.kind == Kind::Refuse as u16 {
            // Its tag may be made with a key that we have not: that may be the very reason.
            self.end();
            return Ok(Step::RefusedUs(read_refusal(&packet[HEADER_BYTES..])));
        }
        match &mut self.state {
            State::Dialled { expects, hello } => {
                let theirs = read_answer(packet, header, *expects)?;
                let session = session(
                    local,
                    directory,
                    &theirs,
                    hello.as_slice(),
                    packet,
                    self.limits,
                    false,
                )?;
                self.state = State::Proving {
                    dialled: true,
                    session,
                };
                Ok(Step::Handshake(packet.len()))
            }
            State::Accepted { nonce, claimed } => {
                let theirs = read_hello(packet, header)?;
                *claimed = Some(theirs.from);
                let ours = Hello::new(local, theirs.from, *nonce).to_packet();
                let mut session =
                    session(local, directory, &theirs, &ours, packet, self.limits, false)?;
                self.outbox.bytes.extend_from_slice(&ours);
                session
                    .sealer
                    .push_packet(&mut self.outbox.bytes, Kind::Proof, &[]);
                self.state = State::Proving {
                    dialled: false,
                    session,
                };
                Ok(Step::Handshake(packet.len()))
            }
            State::Proving { dialled, session } => {
                if header.kind != Kind::Proof as u16 {
                    return Err(LinkError::unexpected("a proof", header.kind));
                }
                let body = session
                    .opener
                    .check(packet)
                    .map_err(|_| LinkError::bad_proof())?;
                if !body.is_empty() {
                    return Err(LinkError::malformed("a proof with a body"));
                }
                if *dialled {
                    session
                        .sealer
                        .push_packet(&mut self.outbox.bytes, Kind::Proof, &[]);
                }
                self.go_up();
                Ok(Step::Up(packet.len()))
            }
            State::Up(_) | State::Ended { .. } => Ok(Step::Incomplete),
        }
    }

    /// The other side has proved that it has the key.
    pub(super) fn go_up(&mut self) {
        let State::Proving { session, .. } =
            std::mem::replace(&mut self.state, State::Ended { party: None })
        else {
            unreachable!("asked while proving")
        };
        self.state = State::Up(session);
    }
}

/// Appends a refusal that no key vouches for. On datagrams `counter` shows that we have seen the other side's Hello.
pub(super) fn push_plain_refusal(out: &mut Vec<u8>, counter: u64, body: &[u8]) {
    let header = Header {
        length: wire_u32(HEADER_BYTES + body.len()),
        version: PROTOCOL_VERSION,
        kind: Kind::Refuse as u16,
        counter,
        tag: MAGIC,
    };
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(body);
}

/// The first packet of `bytes` while nobody is authenticated: only small ones are waited for.
fn handshake_packet(bytes: &[u8]) -> Result<Option<&[u8]>, LinkError> {
    split(bytes, HELLO_BYTES.max(HEADER_BYTES + 2 + DETAIL_BYTES_MAX))
        .map_err(|_| LinkError::not_twostep())
}

/// The Hello of whoever answers where we dialled `expects`.
pub(super) fn read_answer(
    packet: &[u8],
    header: Header,
    expects: Party,
) -> Result<Hello, LinkError> {
    let theirs = read_hello(packet, header)?;
    if theirs.from != expects {
        return Err(LinkError::reached_another(expects, theirs.from));
    }
    Ok(theirs)
}

pub(super) fn read_hello(packet: &[u8], header: Header) -> Result<Hello, LinkError> {
    if header.tag != MAGIC {
        return Err(LinkError::not_twostep());
    }
    if header.version != PROTOCOL_VERSION {
        return Err(LinkError::version(header.version));
    }
    if header.kind != Kind::Hello as u16 {
        return Err(LinkError::unexpected("a Hello", header.kind));
    }
    Hello::read(packet)
}

/// Checks the other side's claim and derives the keys from both Hello packets.
pub(super) fn session(
    local: &Local,
    directory: &dyn Directory,
    theirs: &Hello,
    our_hello: &[u8],
    their_hello: &[u8],
    limits: PacketLimits,
    datagrams: bool,
) -> Result<Box<Session>, LinkError> {
    let public = theirs.admit(local, directory)?;
    if theirs.to != local.me {
        return Err(LinkError::dialled_for_another(theirs.to, local.me));
    }
    let (ours, other) = (
        key_nonce(&local.scope, our_hello),
        key_nonce(&local.scope, their_hello),
    );
    let keys = link_keys(
        &local.scope,
        &local.identity,
        local.me,
        theirs.from,
        &public,
        ours,
        other,
    )
    .map_err(|_| LinkError::malformed("a key of low order"))?;
    let (opener, assembly) = if datagrams {
        (
            Opener::of_datagrams(keys.receive),
            Assembly::Datagrams(Box::new(Pieces::new())),
        )
    } else {
        (
            Opener::new(keys.receive, 0),
            Assembly::Stream(Reassembly::default()),
        )
    };
    Ok(Box::new(Session {
        peer: PeerIdentity {
            party: theirs.from,
            public,
            boot: theirs.boot,
        },
        sealer: Sealer::new(keys.send, limits, 0),
        opener,
        assembly,
    }))
}
