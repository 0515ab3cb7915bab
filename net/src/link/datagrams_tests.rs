//! Two links of datagrams over memory, with whatever a network or a stranger does to what travels.

use twostep_crypto::{ClusterId, Epoch, Identity, MacKey, NodeId, Party, PublicIdentity, Scope};

use super::*;
use crate::fault::SplitMix;
use crate::link::SendOutcome;
use crate::packet::{Frame, Sealer, wire_u32};
use crate::refusal::Refusal;

const MTU: usize = 1200;
const RECEIVE_BYTES: usize = 8 << 20;

fn limits(mtu: usize) -> PacketLimits {
    PacketLimits {
        packet_bytes_max: mtu,
        message_bytes_max: 200_000,
    }
}

fn node(id: u8) -> Party {
    Party::Node(NodeId(id.into()))
}

fn directory(party: Party) -> Option<PublicIdentity> {
    let id = party.node()?.0.to_le_bytes()[0];
    Some(Identity::from_seed([id; 32]).public())
}

struct End {
    local: Local,
    link: Link,
    up: bool,
    closed: bool,
    strays: usize,
    received: Vec<Vec<u8>>,
    refused: Option<Refusal>,
    refused_us: Option<Refusal>,
}

impl End {
    fn new(id: u8, link: impl FnOnce(&Local) -> Link) -> Self {
        let local = Local {
            scope: Scope::new(ClusterId([9; 32]), Epoch(0)),
            identity: Identity::from_seed([id; 32]).into(),
            me: node(id),
            boot: [id; 16],
        };
        let link = link(&local).over_datagrams(RECEIVE_BYTES);
        Self {
            local,
            link,
            up: false,
            closed: false,
            strays: 0,
            received: Vec::new(),
            refused: None,
            refused_us: None,
        }
    }

    /// All datagrams that may leave now.
    fn says(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = self.link.control().to_vec();
        self.link.control_sent();
        let (data, _) = self.link.outgoing_within_credit();
        let count = data.len();
        bytes.extend_from_slice(data);
        self.link.sent_within_credit(count);
        let (mut rest, mut datagrams) = (&bytes[..], Vec::new());
        while let Some(packet) = split(rest, usize::MAX)
            .unwrap()
            .filter(|_| !rest.is_empty())
        {
            datagrams.push(packet.to_vec());
            rest = &rest[packet.len()..];
        }
        datagrams
    }

    fn hears(&mut self, datagram: &[u8]) {
        let mut at = 0;
        while at < datagram.len() {
            let step = self.link.receive(&self.local, &directory, &datagram[at..]);
            match step {
                Ok(Step::Incomplete) => return,
                Ok(Step::Handshake(length) | Step::Done(length)) => at += length,
                Ok(Step::Stray(length)) => {
                    self.strays += 1;
                    at += length;
                }
                Ok(Step::Up(length)) => {
                    self.up = true;
                    at += length;
                }
                Ok(Step::Data(length, frames)) => {
                    at += length;
                    for frame in frames {
                        match frame {
                            Frame::Whole(message) => self.received.push(message.to_vec()),
                            Frame::Fragment(fragment) => {
                                self.received
                                    .extend(self.link.reassemble(&fragment).unwrap());
                            }
                        }
                    }
                }
                Ok(Step::RefusedUs(refused)) => {
                    self.refused_us = Some(refused.reason);
                    return;
                }
                Ok(Step::Closed) => {
                    self.closed = true;
                    return;
                }
                Err(error) => {
                    self.refused = Some(error.reason);
                    self.link.refuse(&error);
                    return;
                }
            }
        }
    }
}

fn pair(mtu_of_b: usize) -> (End, End) {
    let a = End::new(1, |local| {
        Link::dial(local, node(2), [1; 16], limits(MTU), 8 << 20)
    });
    let b = End::new(2, |_| Link::accept([2; 16], limits(mtu_of_b), 8 << 20));
    (a, b)
}

/// Carries datagrams both ways until nothing is said any more. `passes` is asked for each.
fn converse(a: &mut End, b: &mut End, mut passes: impl FnMut(&[u8]) -> bool) {
    loop {
        let (from_a, from_b) = (a.says(), b.says());
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        for datagram in from_a.iter().filter(|datagram| passes(datagram)) {
            b.hears(datagram);
        }
        for datagram in from_b.iter().filter(|datagram| passes(datagram)) {
            a.hears(datagram);
        }
    }
}

fn good_pair() -> (End, End) {
    let (mut a, mut b) = pair(MTU);
    converse(&mut a, &mut b, |_| true);
    assert!(a.up && b.up);
    (a, b)
}

#[test]
fn whatever_is_lost_of_a_handshake_is_said_again() {
    // Hello, its answer in two packets, Proof, two Credits: every choice of those that are lost the first time.
    for lost in 0..64u32 {
        let (mut a, mut b) = pair(MTU);
        let mut count = 0;
        for _ in 0..10 {
            converse(&mut a, &mut b, |_| {
                count += 1;
                count > 6 || lost >> (count - 1) & 1 == 0
            });
            a.link.repeat_hello();
            // What the loop says on a link that is up and quiet.
            a.link.push_credit();
        }
        assert!(a.up && b.up, "with the losses {lost:06b}");
        assert_eq!(a.link.send(&[b"hello"], &[]), SendOutcome::Queued);
        converse(&mut a, &mut b, |_| true);
        assert_eq!(b.received, [b"hello"]);
    }
}

#[test]
fn loss_disorder_and_doubles_lose_messages_and_change_none() {
    let (mut a, mut b) = good_pair();
    let mut random = SplitMix(7);
    let message = |number: u64| {
        let size = [20, 700, 3_000, 65_536][usize::try_from(number % 4).unwrap()];
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(size, number.to_le_bytes()[0]);
        bytes
    };
    let (mut whole, mut lost, mut doubled) = (Vec::new(), 0, 0);
    for round in 0..100 {
        let numbers = round * 8..round * 8 + 8;
        for number in numbers.clone() {
            assert_eq!(a.link.send(&[&message(number)], &[]), SendOutcome::Queued);
        }
        // Each is doubled, one in twenty is lost, and all come shuffled.
        let mut way: Vec<_> = a
            .says()
            .into_iter()
            .flat_map(|one| [one.clone(), one])
            .collect();
        for at in (1..way.len()).rev() {
            let other = usize::try_from(random.next() % (at as u64 + 1)).unwrap();
            way.swap(at, other);
        }
        let loses = round % 2 == 1;
        let before = b.received.len();
        for datagram in way {
            if loses && random.next().is_multiple_of(20) {
                lost += 1;
                continue;
            }
            doubled += 1;
            b.hears(&datagram);
        }
        if !loses {
            assert_eq!(
                b.received.len() - before,
                8,
                "without loss everything comes"
            );
        }
        whole.extend(numbers);
        converse(&mut a, &mut b, |_| true);
    }
    assert!(lost > 100 && b.strays > doubled / 3);
    let mut numbers = Vec::new();
    for bytes in &b.received {
        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(
            *bytes == message(number),
            "message {number} is as it was sent"
        );
        numbers.push(number);
    }
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "none comes twice");
    assert!(a.refused.is_none() && b.refused.is_none());
}

#[test]
fn a_lost_fragment_loses_one_message_of_64_kib_and_not_the_next() {
    let (mut a, mut b) = good_pair();
    for fill in [1, 2] {
        assert_eq!(
            a.link.send(&[&vec![fill; 65_536]], &[]),
            SendOutcome::Queued
        );
    }
    let mut count = 0;
    converse(&mut a, &mut b, |_| {
        count += 1;
        count != 20
    });
    assert_eq!(b.received, [vec![2; 65_536]]);
}

#[test]
fn what_strangers_send_changes_nothing() {
    let (mut a, mut b) = good_pair();
    let hello = Hello::new(&a.local, node(2), [8; 16]).to_packet_with(MTU as u64);
    let mut forged = Vec::new();
    let mut sealer = Sealer::new(MacKey::from_bytes([0; 32]), limits(MTU), 0);
    sealer.push(&mut forged, &[b"forged"], &[]);
    sealer.seal(&mut forged);
    let mut refusal = Header {
        length: wire_u32(HEADER_BYTES + 2),
        version: 1,
        kind: Kind::Refuse as u16,
        counter: 0,
        tag: MAGIC,
    }
    .to_bytes()
    .to_vec();
    refusal.extend([3, 0]);
    let mut closing = Vec::new();
    sealer.push_control(&mut closing, Kind::Close, &[]);
    let strange = [&hello[..], &forged, &refusal, &closing, &[7; 100], &[0; 33]];
    for datagram in strange {
        a.hears(datagram);
        b.hears(datagram);
    }
    assert_eq!((a.strays, b.strays), (strange.len(), strange.len()));
    assert!(
        a.says().is_empty() && b.says().is_empty(),
        "nobody is answered"
    );
    // While the handshake lasts as well.
    let (mut c, mut d) = pair(MTU);
    let first = c.says();
    for datagram in strange.iter().filter(|datagram| datagram[..] != hello[..]) {
        c.hears(datagram);
    }
    d.hears(&first[0]);
    for datagram in strange {
        d.hears(datagram);
    }
    let mut other = pair(MTU).1;
    other.hears(&hello);
    for datagram in other.says() {
        c.hears(&datagram);
    }
    converse(&mut c, &mut d, |_| true);
    assert!(c.up && d.up);
}

#[test]
fn an_answer_weighs_at_most_three_times_the_question() {
    let (mut a, mut b) = pair(MTU);
    let hello = a.says().remove(0);
    let mut said = 0;
    for _ in 0..10 {
        b.hears(&hello);
        let answer: usize = b.says().iter().map(Vec::len).sum();
        assert!(answer <= 2 * hello.len(), "{answer} bytes");
        said += answer;
    }
    b.link.refuse(&LinkError::malformed(&"x".repeat(1000)));
    said += b.says().iter().map(Vec::len).sum::<usize>();
    assert!(said <= 10 * 3 * hello.len());
    let (_, mut silent) = pair(MTU);
    silent.link.refuse(&LinkError::handshake_timeout(5.0));
    assert!(
        silent.says().is_empty(),
        "who has said nothing is told nothing"
    );
}

#[test]
fn sizes_that_differ_are_told_to_both_sides() {
    let (mut a, mut b) = pair(1472);
    converse(&mut a, &mut b, |_| true);
    assert_eq!(
        (b.refused, a.refused_us),
        (Some(Refusal::Mtu), Some(Refusal::Mtu))
    );
}

#[test]
fn a_close_is_believed_once_it_verifies() {
    let (mut a, mut b) = good_pair();
    a.link.push_close();
    for datagram in a.says() {
        b.hears(&datagram);
    }
    assert!(b.closed && b.link.peer().is_none());
}

#[test]
fn what_waits_for_credit_leaves_when_it_comes() {
    let (mut a, mut b) = good_pair();
    for _ in 0..40 {
        assert_eq!(a.link.send(&[&[5; 99_000]], &[]), SendOutcome::Queued);
    }
    let mut most = 0;
    let mut rounds = 0;
    while a.link.queued_bytes() > 0 {
        let way = a.says();
        most = most.max(way.iter().map(|one| one.len() + 1024).sum());
        way.iter().for_each(|datagram| b.hears(datagram));
        b.says().iter().for_each(|datagram| a.hears(datagram));
        rounds += 1;
        assert!(rounds < 100, "credit comes");
    }
    assert!(most <= RECEIVE_BYTES / 2, "{most} bytes were under way");
    assert_eq!(b.received.len(), 40);
}
