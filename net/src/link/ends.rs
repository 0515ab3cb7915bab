//! Two links of datagrams over memory, for tests of how they come up and of what they carry.

use twostep_crypto::{ClusterId, Epoch, Identity, NodeId, Party, PublicIdentity, Scope};

use super::{Link, Step};
use crate::hello::Local;
use crate::packet::{Frame, PacketLimits, split};
use crate::refusal::Refusal;

pub const MTU: usize = 1200;
pub const RECEIVE_BYTES: usize = 8 << 20;

pub fn limits(mtu: usize) -> PacketLimits {
    PacketLimits {
        packet_bytes_max: mtu,
        message_bytes_max: 200_000,
    }
}

pub fn node(id: u8) -> Party {
    Party::Node(NodeId(id.into()))
}

pub fn directory(party: Party) -> Option<PublicIdentity> {
    let id = party.node()?.0.to_le_bytes()[0];
    Some(Identity::from_seed([id; 32]).public())
}

pub struct End {
    pub local: Local,
    pub link: Link,
    pub up: bool,
    pub closed: bool,
    pub strays: usize,
    pub received: Vec<Vec<u8>>,
    pub refused: Option<Refusal>,
    pub refused_us: Option<Refusal>,
}

impl End {
    pub fn new(id: u8, link: impl FnOnce(&Local) -> Link) -> Self {
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
    pub fn says(&mut self) -> Vec<Vec<u8>> {
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

    pub fn hears(&mut self, datagram: &[u8]) {
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
                                self.received.extend(
                                    self.link
                                        .reassemble(&fragment, std::time::Instant::now())
                                        .unwrap(),
                                );
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

pub fn pair(mtu_of_b: usize) -> (End, End) {
    let a = End::new(1, |local| {
        Link::dial(local, node(2), [1; 16], limits(MTU), 8 << 20)
    });
    let b = End::new(2, |_| Link::accept([2; 16], limits(mtu_of_b), 8 << 20));
    (a, b)
}

/// Carries datagrams both ways until nothing is said any more. `passes` is asked for each.
pub fn converse(a: &mut End, b: &mut End, mut passes: impl FnMut(&[u8]) -> bool) {
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

pub fn good_pair() -> (End, End) {
    let (mut a, mut b) = pair(MTU);
    converse(&mut a, &mut b, |_| true);
    assert!(a.up && b.up);
    (a, b)
}
