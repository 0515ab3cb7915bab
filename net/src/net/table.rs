//! The connections of a loop by slot. A slot's index is the socket's key; its generation makes link ids that are never used again.

use twostep_crypto::Party;

use super::Net;
use super::datagrams::Liveness;
use crate::driver::Key;
use crate::link::{Link, LinkId};

pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) socket: SlotUse,
}

pub(super) enum SlotUse {
    Free,
    Listener,
    Connection(Box<Connection>),
}

pub(crate) struct Connection {
    pub link: Link,
    /// The front of a packet whose end has not come yet.
    pub rest: Vec<u8>,
    pub(super) phase: Phase,
    pub(super) accepted: bool,
    pub(super) writable: bool,
    pub(super) dirty: bool,
    pub(super) ready: bool,
    pub read_closed: bool,
    pub(super) liveness: Liveness,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The operating system has not connected us yet.
    Connecting,
    Handshake,
    Up(Party),
    /// Refused: what waits is written, what comes is ignored, until the other side has closed or the time is up.
    Lingering,
}

impl Net {
    pub(crate) fn is_listener(&self, key: Key) -> bool {
        matches!(
            self.slots.get(key.0 as usize),
            Some(Slot {
                socket: SlotUse::Listener,
                ..
            })
        )
    }

    pub(crate) fn connection(&self, link: LinkId) -> Option<&Connection> {
        match self.slots.get(link.index() as usize)? {
            Slot {
                generation,
                socket: SlotUse::Connection(connection),
            } if LinkId::new(link.index(), *generation) == link => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn connection_mut(&mut self, link: LinkId) -> Option<&mut Connection> {
        match self.slots.get_mut(link.index() as usize)? {
            Slot {
                generation,
                socket: SlotUse::Connection(connection),
            } if LinkId::new(link.index(), *generation) == link => Some(connection),
            _ => None,
        }
    }

    /// The connection in a slot, if one is there.
    pub(crate) fn link_at(&self, index: u32) -> Option<LinkId> {
        match self.slots.get(index as usize)? {
            Slot {
                generation,
                socket: SlotUse::Connection(_),
            } => Some(LinkId::new(index, *generation)),
            _ => None,
        }
    }

    pub(crate) fn is_up(&self, link: LinkId) -> bool {
        self.connection(link)
            .is_some_and(|connection| matches!(connection.phase, Phase::Up(_)))
    }

    /// Puts a new connection into its slot and starts its handshake time.
    pub(super) fn enter(&mut self, key: Key, link: Link, phase: Phase, accepted: bool) -> LinkId {
        let slot = &mut self.slots[key.0 as usize];
        slot.socket = SlotUse::Connection(Box::new(Connection {
            link,
            rest: Vec::new(),
            phase,
            accepted,
            writable: phase != Phase::Connecting,
            dirty: false,
            ready: false,
            read_closed: false,
            liveness: Liveness::new(self.now),
        }));
        let id = LinkId::new(key.0, slot.generation);
        self.half_open += 1;
        self.look_soon();
        self.handshakes
            .push_back((self.now + self.limits.handshake_max, id));
        if self.handshakes.len() > 4 * self.limits.half_open_max {
            // Entries of connections that are up or gone wait for their time; do not let fast churn pile them up.
            let mut handshakes = std::mem::take(&mut self.handshakes);
            handshakes.retain(|&(_, link)| {
                self.connection(link).is_some_and(|connection| {
                    matches!(connection.phase, Phase::Connecting | Phase::Handshake)
                })
            });
            self.handshakes = handshakes;
        }
        id
    }

    /// Closes the socket and frees the slot.
    pub(super) fn release(&mut self, link: LinkId) {
        if let Some(connection) = self.connection(link) {
            self.accepted -= usize::from(connection.accepted);
            self.driver.close(Key(link.index()));
            self.free_slot(link.index());
        }
    }

    pub(super) fn take_slot(&mut self) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                socket: SlotUse::Free,
            });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 connections")
        });
        Key(index)
    }

    pub(super) fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.socket = SlotUse::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.freed.push(index);
    }
}
