//! Who shall be connected and who is: dialling, dialling again, and the reasons where a link is missing.

use std::net::SocketAddr;
use std::time::Instant;

use twostep_crypto::{NodeId, Party};

use super::Net;
use super::table::Phase;
use crate::link::{Link, LinkId};
use crate::tcp::Backoff;

/// What is known of a peer: of every node that was connected, and of everybody that is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Who.
    pub party: Party,
    /// Where we dial it, if we do.
    pub dialled: Option<SocketAddr>,
    /// Its link, if it is up.
    pub link: Option<LinkId>,
    /// Since when.
    pub up_since: Option<Instant>,
    /// Why it is not up, in words; or why it was down the last time.
    pub last_error: Option<String>,
}

pub(super) struct Peer {
    pub(super) dialled: Option<SocketAddr>,
    pub(super) link: Option<LinkId>,
    pub(super) up_since: Option<Instant>,
    pub(super) last_error: Option<String>,
    pub(super) backoff: Backoff,
    pub(super) dial: Dial,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dial {
    /// Not wanted, or up.
    Idle,
    At(Instant),
    /// A connection is on its way up.
    Under(LinkId),
}

impl Net {
    /// The link to `node`, if it is up.
    #[must_use]
    pub fn link_to(&self, node: NodeId) -> Option<LinkId> {
        self.peers.get(&Party::Node(node))?.link
    }

    /// Keeps a connection to `party` at `addr`, and opens it again whenever it is lost, until [`undial`](Self::undial). See [`crate::dials`] for who dials whom.
    pub fn dial(&mut self, party: Party, addr: SocketAddr) {
        let now = self.now;
        let peer = self.peer_entry(party);
        if peer.dialled == Some(addr) {
            return;
        }
        peer.dialled = Some(addr);
        peer.backoff = Backoff::new();
        if peer.link.is_none() && peer.dial == Dial::Idle {
            self.dial_at(party, now);
        }
    }

    /// Ends the wish for a connection to `party`, and the connection if we opened it.
    pub fn undial(&mut self, party: Party) {
        let Some(peer) = self.peers.get_mut(&party) else {
            return;
        };
        let under_way = match peer.dial {
            Dial::Under(link) => Some(link),
            Dial::Idle | Dial::At(_) => None,
        };
        let up = peer.link;
        peer.dialled = None;
        peer.dial = Dial::Idle;
        for link in [under_way, up].into_iter().flatten() {
            if self
                .connection(link)
                .is_some_and(|connection| !connection.accepted)
            {
                self.close(link);
            }
        }
    }

    /// Every node that was ever connected and everybody that is dialled, in the order of their ids, with the reason where a link is missing.
    pub fn peers(&self) -> impl Iterator<Item = PeerState> + '_ {
        self.peers.iter().map(|(&party, peer)| PeerState {
            party,
            dialled: peer.dialled,
            link: peer.link,
            up_since: peer.up_since,
            last_error: peer.last_error.clone(),
        })
    }

    pub(super) fn dial_due(&mut self) {
        let now = self.now;
        let due: Vec<(Party, SocketAddr)> = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.dial, Dial::At(at) if at <= now))
            .filter_map(|(&party, peer)| Some((party, peer.dialled?)))
            .collect();
        for (party, addr) in due {
            self.connect(party, addr);
        }
        self.dial_next = self
            .peers
            .values()
            .filter_map(|peer| {
                if let Dial::At(at) = peer.dial {
                    Some(at)
                } else {
                    None
                }
            })
            .min();
    }

    pub(super) fn connect(&mut self, party: Party, addr: SocketAddr) {
        self.counters.dialled += 1;
        let key = self.take_slot();
        match self.driver.connect(key, addr) {
            Ok(()) => {
                let nonce = self.nonce();
                let link = Link::dial(
                    &self.local,
                    party,
                    nonce,
                    self.limits.packet,
                    self.limits.send_bytes_max,
                );
                let link = self.fit(link);
                let link = self.enter(key, link, Phase::Connecting, false);
                self.peer_entry(party).dial = Dial::Under(link);
            }
            Err(error) => {
                self.free_slot(key.0);
                self.peer_entry(party).dial = Dial::Idle;
                self.failed(
                    party,
                    LinkId::NONE,
                    format!("cannot connect to {addr}: {error}"),
                );
            }
        }
    }

    /// Notes why `party` is not connected by `link`, and plans the next dial.
    pub(super) fn failed(&mut self, party: Party, link: LinkId, words: String) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&party) else {
            // Whom the directory lists is worth a line in the status; who merely claims to be somebody is not.
            if party.node().is_some() && self.directory.public(party).is_some() {
                self.peer_entry(party).last_error = Some(words);
            }
            return;
        };
        if peer.link == Some(link) {
            if let Some(since) = peer.up_since.take() {
                peer.backoff.was_up(since, now);
            }
            peer.link = None;
        }
        if peer.dial == Dial::Under(link) {
            peer.dial = Dial::Idle;
        }
        if peer.link.is_none() {
            peer.last_error = Some(words);
            if peer.dialled.is_some() && peer.dial == Dial::Idle {
                let at = peer.backoff.next(now, &mut self.random);
                self.dial_at(party, at);
            }
        }
    }

    pub(super) fn dial_at(&mut self, party: Party, at: Instant) {
        self.peer_entry(party).dial = Dial::At(at);
        self.dial_next = Some(self.dial_next.map_or(at, |next| next.min(at)));
    }

    pub(super) fn peer_entry(&mut self, party: Party) -> &mut Peer {
        self.peers.entry(party).or_insert_with(|| Peer {
            dialled: None,
            link: None,
            up_since: None,
            last_error: None,
            backoff: Backoff::new(),
            dial: Dial::Idle,
        })
    }
}
