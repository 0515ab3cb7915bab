//! The life of a connection: accepted or connected, handshake, up, refused or lost.
//!
//! ```text
//!  accepted ──────────────► Handshake ──► Up ──► gone
//!  dialled ──► Connecting ──►   │          │
//!                               └─ refuse ─┴──► Lingering ──► gone
//! ```

use std::io;
use std::time::Duration;

use twostep_crypto::{ClientId, Party};

use super::Net;
use super::peers::Dial;
use super::table::{Phase, Slot, SlotUse};
use crate::driver::Key;
use crate::fault::Direction;
use crate::link::{Link, LinkId, Step};
use crate::packet::{Fragment, split};
use crate::refusal::{LinkDown, LinkError, Refused};

/// How long a refused connection may take to read why, before it is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Most connections taken from one listener at a time.
const ACCEPTS_PER_TURN: usize = 64;

/// When to try again to accept, after the operating system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A node that speaks TCP at the same address looks like this.
const DATAGRAM_HINT: &str = " (over UDP; `transport` must be the same in all cluster files)";

impl Net {
    /// Room to write, or the end of an attempt to connect.
    pub(crate) fn on_writable(&mut self, link: LinkId) {
        let Some(connection) = self.connection_mut(link) else {
            return;
        };
        if connection.phase == Phase::Connecting {
            match self.driver.connected(Key(link.index())) {
                Ok(true) => {
                    if let Some(connection) = self.connection_mut(link) {
                        connection.phase = Phase::Handshake;
                    }
                }
                Ok(false) => return,
                Err(error) => return self.drop_connection(link, LinkDown::Io(error)),
            }
        }
        if let Some(connection) = self.connection_mut(link) {
            connection.writable = true;
        }
        self.mark_dirty(link);
    }

    /// Takes the connections that wait at `listener`, up to a bound: a flood of them must not hold up the turn.
    pub(crate) fn accept_all(&mut self, listener: Key) {
        for _ in 0..ACCEPTS_PER_TURN {
            let key = self.take_slot();
            match self.driver.accept(listener, key) {
                Ok(_) => self.accepted_at(key),
                Err(error) => {
                    self.free_slot(key.0);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        return;
                    }
                    if !concerns_one_connection(&error) {
                        // No descriptors or memory: no edge will come for those that wait, so look again later.
                        self.accept_again = Some(self.now + ACCEPT_PAUSE);
                        return;
                    }
                }
            }
        }
        // More may wait, and no edge will say so.
        self.accept_again = Some(self.now);
    }

    /// Reads the first packet of `bytes` on `link`, for the reactor to act on. A refusal has ended the link already.
    pub(crate) fn step<'a>(&mut self, link: LinkId, bytes: &'a [u8]) -> Option<Step<'a>> {
        let Slot {
            generation,
            socket: SlotUse::Connection(connection),
        } = self.slots.get_mut(link.index() as usize)?
        else {
            return None;
        };
        if LinkId::new(link.index(), *generation) != link || connection.phase == Phase::Lingering {
            return None;
        }
        if self.datagrams
            && self.faults.is_active()
            && let Phase::Up(party) = connection.phase
            && self.faults.loses_datagram(Direction::In, party)
            && let Ok(Some(lost)) = split(bytes, self.limits.packet.packet_bytes_max)
        {
            return Some(Step::Done(lost.len()));
        }
        match connection
            .link
            .receive(&self.local, &*self.directory, bytes)
        {
            Ok(step) => {
                match &step {
                    Step::Data(..) => {
                        self.counters.packets_in += 1;
                        self.counters.macs += 1;
                        if self.datagrams {
                            let credit_due = !connection.link.control().is_empty();
                            self.heard(link);
                            if credit_due {
                                self.mark_dirty(link);
                            }
                        }
                    }
                    Step::Handshake(_) => self.mark_dirty(link),
                    Step::Up(_) => {
                        self.heard(link);
                        self.mark_dirty(link);
                    }
                    Step::Done(_) => {
                        self.counters.packets_in += 1;
                        self.counters.macs += 1;
                        self.heard(link);
                        // It may have been credit.
                        self.mark_dirty(link);
                    }
                    Step::Stray(_) => self.counters.strays += 1,
                    Step::Closed => {
                        self.drop_connection(link, LinkDown::Closed);
                        return None;
                    }
                    Step::RefusedUs(refused) => {
                        let refused = refused.clone();
                        self.refused_us(link, refused);
                    }
                    Step::Incomplete => {}
                }
                Some(step)
            }
            Err(error) => {
                self.refuse(link, &error);
                None
            }
        }
    }

    pub(crate) fn reassemble(&mut self, link: LinkId, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let now = self.now;
        let link_of = &mut self.connection_mut(link)?.link;
        match link_of.reassemble(fragment, now) {
            Ok(None) => {
                let at = link_of.ask_at();
                self.mend_at(at);
                None
            }
            Ok(message) => message,
            Err(error) => {
                self.refuse(link, &error);
                None
            }
        }
    }

    /// Enters a link whose proof has verified, and returns its party if it may stay.
    pub(crate) fn came_up(&mut self, link: LinkId) -> Option<Party> {
        let connection = self.connection(link)?;
        let (party, accepted) = (connection.link.peer()?.party, connection.accepted);
        if accepted && let Party::Client(client) = party {
            let max = self.limits.links_per_client_max;
            let count = self.clients.entry(client).or_default();
            if *count >= max {
                self.refuse(link, &LinkError::too_many_links("per client", max));
                return None;
            }
            *count += 1;
        }
        if let Some(connection) = self.connection_mut(link) {
            connection.phase = Phase::Up(party);
        }
        self.half_open -= 1;
        self.counters.links_up += 1;
        if !accepted || party.node().is_some() {
            let now = self.now;
            let peer = self.peer_entry(party);
            peer.up_since = Some(now);
            // An attempt of ours under way fails or replaces this link; its own end finds the link up and dials no more.
            if peer.dial == Dial::Under(link) || !matches!(peer.dial, Dial::Under(_)) {
                peer.dial = Dial::Idle;
            }
            if let Some(older) = peer.link.replace(link) {
                self.refuse(older, &LinkError::replaced());
            }
        }
        Some(party)
    }

    /// Refuses the other side: counts it, tells it why, and gives it a moment to read that.
    pub(crate) fn refuse(&mut self, link: LinkId, error: &LinkError) {
        self.counters.count_refused(error.reason);
        let may_linger = self.lingering.len() < self.limits.half_open_max;
        let end = self.now + LINGER;
        let Some(connection) = self.connection_mut(link) else {
            return;
        };
        let party = connection.link.claimed();
        let was = std::mem::replace(&mut connection.phase, Phase::Lingering);
        connection.link.refuse(error);
        connection.rest = Vec::new();
        self.leave(link, was, party, LinkDown::Refused(error.refused()));
        self.flush_link(link.index());
        // A socket closed with unread bytes is reset, and the reset can destroy the refusal on its way: so read on for a while.
        if may_linger && was != Phase::Connecting {
            self.lingering.push_back((end, link));
        } else {
            self.release(link);
        }
    }

    /// The other side has refused us.
    pub(super) fn refused_us(&mut self, link: LinkId, refused: Refused) {
        self.counters.count_refused_us(refused.reason);
        self.drop_connection(link, LinkDown::RefusedUs(refused));
    }

    /// Ends a connection at once.
    pub(crate) fn drop_connection(&mut self, link: LinkId, why: LinkDown) {
        let Some(connection) = self.connection(link) else {
            return;
        };
        let (phase, party) = (connection.phase, connection.link.claimed());
        if phase != Phase::Lingering {
            self.leave(link, phase, party, why);
        }
        self.release(link);
    }

    /// The other side has ended the stream.
    pub(crate) fn ended(&mut self, link: LinkId) {
        if self
            .connection(link)
            .is_some_and(|connection| !connection.rest.is_empty())
        {
            self.refuse(
                link,
                &LinkError::malformed("the connection ended within a packet"),
            );
        }
        self.drop_connection(link, LinkDown::Closed);
    }

    pub(super) fn accepted_at(&mut self, key: Key) {
        self.counters.accepted += 1;
        let nonce = self.nonce();
        let link = Link::accept(nonce, self.limits.packet, self.limits.send_bytes_max);
        let link = self.fit(link);
        let link = self.enter(key, link, Phase::Handshake, true);
        self.accepted += 1;
        if self.accepted > self.limits.links_max {
            return self.refuse(
                link,
                &LinkError::too_many_links("in all", self.limits.links_max),
            );
        }
        if self.half_open > self.limits.half_open_max
            && let Some(oldest) = self.oldest_half_open()
        {
            // Honest handshakes take milliseconds, so the oldest is the least likely to be one.
            self.refuse(
                oldest,
                &LinkError::too_many_half_open(self.limits.half_open_max),
            );
        }
        // Bytes may have come before the socket was registered.
        self.mark_readable(link, false);
    }

    pub(super) fn oldest_half_open(&mut self) -> Option<LinkId> {
        while let Some((_, link)) = self.handshakes.pop_front() {
            if self.connection(link).is_some_and(|connection| {
                connection.accepted && connection.phase == Phase::Handshake
            }) {
                return Some(link);
            }
        }
        None
    }

    /// Takes a connection that ended in phase `was` out of all tables but its slot, and reports it.
    pub(super) fn leave(&mut self, link: LinkId, was: Phase, party: Option<Party>, why: LinkDown) {
        let accepted = self
            .connection(link)
            .is_some_and(|connection| connection.accepted);
        // Without a connection below, an attempt with datagrams ends in its handshake where nobody listens.
        let reached_nobody = was == Phase::Connecting
            || self.datagrams && was == Phase::Handshake && matches!(why, LinkDown::Io(_));
        match was {
            Phase::Connecting | Phase::Handshake => self.half_open -= 1,
            Phase::Up(up) => {
                self.counters.links_down += 1;
                if accepted && let Party::Client(client) = up {
                    self.client_left(client);
                }
            }
            Phase::Lingering => return,
        }
        if let Some(party) = party {
            let dialled = self.peers.get(&party).and_then(|peer| peer.dialled);
            let words = match (&why, dialled) {
                (LinkDown::Io(error), Some(addr)) if reached_nobody => {
                    let hint = if self.datagrams { DATAGRAM_HINT } else { "" };
                    format!("cannot connect to {addr}: {error}{hint}")
                }
                _ => why.to_string(),
            };
            self.failed(party, link, words);
        }
        // Attempts that reach nobody stand in `peers`; a callback for each would only fill logs.
        if !reached_nobody {
            self.downs.push_back((link, party, why));
        }
    }

    pub(super) fn client_left(&mut self, client: ClientId) {
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Distinct per connection, and known to nobody before it is said: who could foretell it could refuse in another's name, because a refusal
    /// before there is a key shows only that its sender knows the nonce. Hence a keyed hash of a counter, and not the generator of jitter, whose
    /// state anybody computes from one value.
    pub(super) fn nonce(&mut self) -> [u8; 16] {
        self.nonces += 1;
        self.nonce_key.tag(&[&self.nonces.to_le_bytes()]).0
    }
}

/// Whether an error of accepting tells of the connection that would have been accepted, which is gone with it, and not of our own resources: it ended
/// before, or its network did, or a firewall is against it (Linux manual, accept(2)). Others must not wait for that: anybody can cause it.
fn concerns_one_connection(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::Interrupted,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
        io::ErrorKind::NetworkDown,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::TimedOut,
    ];
    let codes = [libc::EPROTO, libc::ENOPROTOOPT, libc::EHOSTDOWN];
    kinds.contains(&error.kind())
        || error
            .raw_os_error()
            .is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_pauses_for_our_own_resources_only() {
        for code in [
            libc::ECONNABORTED,
            libc::EINTR,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ENETDOWN,
            libc::EPERM,
            libc::EACCES,
            libc::EPROTO,
            libc::EHOSTDOWN,
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert!(concerns_one_connection(&error), "{error}");
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let error = io::Error::from_raw_os_error(code);
            assert!(!concerns_one_connection(&error), "{error}");
        }
    }
}
