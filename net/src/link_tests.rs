//! Two links over memory: the handshake and its refusals, without sockets.

use std::collections::BTreeMap;

use proptest::prelude::*;
use twostep_crypto::{ClusterId, Epoch, Identity, NodeId, Party, PublicIdentity, Scope};

use super::*;
use crate::packet::Frame;
use crate::refusal::Refusal;

const LIMITS: PacketLimits = PacketLimits {
    packet_bytes_max: 4096,
    message_bytes_max: 100_000,
};
const SEND_MAX: usize = 300_000;

fn node(id: u16) -> Party {
    Party::Node(NodeId(id))
}

fn identity(id: u8) -> Identity {
    Identity::from_seed([id; 32])
}

fn local(id: u8, cluster: u8) -> Local {
    Local {
        scope: Scope::new(ClusterId([cluster; 32]), Epoch(0)),
        identity: identity(id).into(),
        me: node(id.into()),
        boot: [id; 16],
    }
}

fn directory(ids: &[(u8, u8)]) -> BTreeMap<Party, PublicIdentity> {
    ids.iter()
        .map(|&(id, seed)| (node(id.into()), identity(seed).public()))
        .collect()
}

struct Side {
    local: Local,
    known: BTreeMap<Party, PublicIdentity>,
    link: Link,
    received: Vec<Vec<u8>>,
    up: bool,
    refused: Option<Refusal>,
    refused_us: Option<Refused>,
    buffer: Vec<u8>,
    strays: usize,
    closed: bool,
}

impl Side {
    fn new(local: Local, known: BTreeMap<Party, PublicIdentity>, link: Link) -> Self {
        Self {
            local,
            known,
            link,
            received: Vec::new(),
            up: false,
            refused: None,
            refused_us: None,
            buffer: Vec::new(),
            strays: 0,
            closed: false,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let known = &self.known;
        let directory = |party: Party| known.get(&party).copied();
        let mut at = 0;
        loop {
            match self.link.receive(&self.local, &directory, &buffer[at..]) {
                Ok(Step::Incomplete) => break,
                Ok(Step::Handshake(length) | Step::Done(length)) => at += length,
                Ok(Step::Up(length)) => {
                    self.up = true;
                    at += length;
                }
                Ok(Step::Data(length, frames)) => {
                    at += length;
                    for frame in frames {
                        match frame {
                            Frame::Whole(message) => self.received.push(message.to_vec()),
                            Frame::Fragment(fragment) => self.received.extend(
                                self.link
                                    .reassemble(&fragment, std::time::Instant::now())
                                    .unwrap(),
                            ),
                        }
                    }
                }
                Ok(Step::Stray(length)) => {
                    self.strays += 1;
                    at += length;
                }
                Ok(Step::Closed) => {
                    self.closed = true;
                    return;
                }
                Ok(Step::RefusedUs(refused)) => {
                    self.refused_us = Some(refused);
                    return;
                }
                Err(error) => {
                    self.refused = Some(error.reason);
                    self.link.refuse(&error);
                    return;
                }
            }
        }
        self.buffer = buffer[at..].to_vec();
    }
}

/// Carries bytes both ways until nothing moves, `chunk` bytes at a time.
fn converse(a: &mut Side, b: &mut Side, chunk: usize) {
    loop {
        let moved = carry(a, b, chunk) + carry(b, a, chunk);
        if moved == 0 {
            return;
        }
    }
}

fn carry(from: &mut Side, to: &mut Side, chunk: usize) -> usize {
    let bytes = from.link.outgoing().to_vec();
    for part in bytes.chunks(chunk) {
        to.take(part);
    }
    from.link.sent(bytes.len());
    bytes.len()
}

fn pair(
    dialler: Local,
    dialler_knows: &[(u8, u8)],
    acceptor: Local,
    acceptor_knows: &[(u8, u8)],
    expects: u16,
) -> (Side, Side) {
    let dial = Link::dial(&dialler, node(expects), [1; 16], LIMITS, SEND_MAX);
    let accept = Link::accept([2; 16], LIMITS, SEND_MAX);
    (
        Side::new(dialler, directory(dialler_knows), dial),
        Side::new(acceptor, directory(acceptor_knows), accept),
    )
}

const ALL: &[(u8, u8)] = &[(1, 1), (2, 2)];

fn good_pair() -> (Side, Side) {
    pair(local(1, 9), ALL, local(2, 9), ALL, 2)
}

#[test]
fn both_ends_come_up_and_carry_messages_both_ways_however_the_bytes_are_cut() {
    for chunk in [1, 7, 100_000] {
        let (mut a, mut b) = good_pair();
        assert_eq!(
            a.link.send(&[b"early"], &[]),
            SendOutcome::NoLink,
            "nothing is said before the proof"
        );
        converse(&mut a, &mut b, chunk);
        assert!(a.up && b.up);
        assert_eq!(a.link.peer().unwrap().party, node(2));
        assert_eq!(
            b.link.peer().map(|peer| (peer.party, peer.boot)),
            Some((node(1), [1; 16]))
        );
        let large = vec![5; 90_000];
        assert_eq!(a.link.send(&[b"he", b"llo"], &[]), SendOutcome::Queued);
        assert_eq!(a.link.send(&[&large], &[]), SendOutcome::Queued);
        assert_eq!(b.link.send(&[b""], &[]), SendOutcome::Queued);
        converse(&mut a, &mut b, chunk);
        assert_eq!(b.received, [b"hello".to_vec(), large]);
        assert_eq!(a.received, [Vec::new()]);
    }
}

fn assert_refused(mut a: Side, mut b: Side, by_acceptor: bool, reason: Refusal) {
    converse(&mut a, &mut b, 1000);
    let (refuser, other) = if by_acceptor { (b, a) } else { (a, b) };
    assert_eq!(refuser.refused, Some(reason));
    assert_eq!(
        other.refused_us.map(|refused| refused.reason),
        Some(reason),
        "the other side is told"
    );
    assert!(refuser.link.peer().is_none() && other.link.peer().is_none());
}

#[test]
fn every_mismatch_is_refused_by_name_on_both_sides() {
    let (a, b) = pair(local(1, 9), ALL, local(2, 8), ALL, 2);
    assert_refused(a, b, true, Refusal::Cluster);

    let mut later = local(2, 9);
    later.scope = Scope::new(ClusterId([9; 32]), Epoch(1));
    let (a, b) = pair(local(1, 9), ALL, later, ALL, 2);
    assert_refused(a, b, true, Refusal::Epoch);

    let (a, b) = pair(local(1, 9), ALL, local(2, 9), &[(2, 2)], 2);
    assert_refused(a, b, true, Refusal::UnknownParty);

    let (a, b) = pair(local(1, 9), ALL, local(2, 9), &[(1, 7)], 2);
    assert_refused(a, b, true, Refusal::UnknownKey);

    let (a, b) = pair(local(1, 9), &[(2, 7)], local(2, 9), ALL, 2);
    assert_refused(a, b, false, Refusal::UnknownKey);

    let (a, b) = pair(local(1, 9), ALL, local(2, 9), ALL, 3);
    assert_refused(a, b, true, Refusal::WrongParty);

    let (a, b) = pair(local(2, 9), ALL, local(2, 9), ALL, 2);
    assert_refused(a, b, true, Refusal::SameParty);
}

/// Shows the keys of node 1 without having them.
fn impostor() -> (Side, Side) {
    let (mut a, b) = good_pair();
    let mut hello = Hello::new(&a.local, node(2), [1; 16]);
    a.local.identity = identity(3).into();
    hello.boot = [4; 16];
    let packet = hello.to_packet();
    a.link = Link::accept([0; 16], LIMITS, SEND_MAX);
    a.link.outbox.bytes.extend_from_slice(&packet);
    a.link.state = State::Dialled {
        expects: node(2),
        hello: Box::new(packet),
    };
    (a, b)
}

#[test]
fn keys_that_are_shown_but_not_owned_are_refused() {
    let (a, b) = impostor();
    // The impostor itself finds out first: it cannot check the proof that it gets.
    assert_refused(a, b, false, Refusal::BadProof);

    let (mut a, mut b) = impostor();
    carry(&mut a, &mut b, 1000);
    let mut forged = Vec::new();
    Sealer::new(twostep_crypto::MacKey::from_bytes([0; 32]), LIMITS, 0).push_packet(
        &mut forged,
        Kind::Proof,
        &[],
    );
    b.take(&forged);
    assert_eq!(b.refused, Some(Refusal::BadProof));
    assert!(!b.up);
}

#[test]
fn a_recorded_dialler_cannot_be_played_back() {
    let (mut a, mut b) = good_pair();
    let mut recorded = a.link.outgoing().to_vec();
    carry(&mut a, &mut b, 1000);
    carry(&mut b, &mut a, 1000);
    recorded.extend_from_slice(a.link.outgoing());
    carry(&mut a, &mut b, 1000);
    assert!(b.up);
    b.link = Link::accept([3; 16], LIMITS, SEND_MAX);
    b.take(&recorded);
    assert_eq!(b.refused, Some(Refusal::BadProof));
}

#[test]
fn data_before_the_proof_is_refused() {
    let (mut a, mut b) = good_pair();
    carry(&mut a, &mut b, 1000);
    let mut early = Vec::new();
    Sealer::new(twostep_crypto::MacKey::from_bytes([0; 32]), LIMITS, 0).push_packet(
        &mut early,
        Kind::Data,
        &[],
    );
    b.take(&early);
    assert_eq!(b.refused, Some(Refusal::Unexpected));
}

#[test]
fn a_full_send_buffer_drops_and_never_grows() {
    let (mut a, mut b) = good_pair();
    converse(&mut a, &mut b, 1000);
    let message = vec![0; 10_000];
    let mut queued = 0;
    while a.link.send(&[&message], &[]) == SendOutcome::Queued {
        queued += 1;
    }
    assert!(
        (25..30).contains(&queued),
        "{queued} messages of 10 kB fit into 300 kB"
    );
    assert_eq!(a.link.send(&[&message], &[]), SendOutcome::Dropped);
    assert!(a.link.queued_bytes() <= SEND_MAX);
    assert_eq!(
        a.link.send(&[&vec![0; 100_001]], &[]),
        SendOutcome::TooLarge
    );
    converse(&mut a, &mut b, 1000);
    assert_eq!(b.received.len(), queued);
    assert_eq!(a.link.send(&[&message], &[]), SendOutcome::Queued);
}

#[test]
fn a_stranger_is_admitted_as_a_client_only_where_clients_are_open_and_only_under_its_own_id() {
    struct Open;
    impl Directory for Open {
        fn public(&self, _: Party) -> Option<PublicIdentity> {
            None
        }
        fn open_to_clients(&self) -> bool {
            true
        }
    }
    let mine = identity(5).public();
    let acceptor = local(2, 9);
    let mut stranger = local(5, 9);
    stranger.me = Party::Client(mine.client_id());
    let hello = Hello::new(&stranger, node(2), [0; 16]);
    assert_eq!(hello.admit(&acceptor, &Open).unwrap(), mine);
    assert_eq!(
        hello.admit(&acceptor, &|_: Party| None).unwrap_err().reason,
        Refusal::UnknownParty
    );
    let other = Hello {
        from: Party::Client(identity(6).public().client_id()),
        ..hello
    };
    assert_eq!(
        other.admit(&acceptor, &Open).unwrap_err().reason,
        Refusal::UnknownParty
    );
    let as_node = Hello {
        from: node(1),
        ..hello
    };
    assert_eq!(
        as_node.admit(&acceptor, &Open).unwrap_err().reason,
        Refusal::UnknownParty
    );
}

proptest! {
    #[test]
    fn arbitrary_first_bytes_never_panic_nor_come_up(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (_, mut b) = good_pair();
        b.take(&bytes);
        prop_assert!(!b.up);
    }

    #[test]
    fn a_hello_with_any_bit_flipped_never_comes_up(bit in 0..HELLO_BYTES * 8) {
        let (mut a, mut b) = good_pair();
        let mut hello = a.link.outgoing().to_vec();
        hello[bit / 8] ^= 1 << (bit % 8);
        b.take(&hello);
        a.link.sent(hello.len());
        converse(&mut a, &mut b, 1000);
        prop_assert!(!a.up && !b.up);
    }
}
