//! The links of one loop: who is connected, who shall be, and what waits to be written.
//!
//! [`Net`] is what a service sees in its callbacks. It sends, dials and closes; the [reactor](crate::reactor) reads and takes the turns.
//! Its callbacks never see a socket: all input and output goes through the [`Driver`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use twostep_crypto::{ClientId, NodeId, Party};

use crate::counters::Counters;
use crate::driver::{Driver, Key};
use crate::fault::{Direction, Faults, Held, SplitMix};
use crate::hello::{Directory, Local};
use crate::link::{Link, LinkId, PeerIdentity, SendOutcome, Step};
use crate::packet::{Fragment, PacketLimits};
use crate::refusal::{LinkDown, LinkError};
use crate::tcp::Backoff;

/// How long a refused connection may take to read why, before it is closed.
const LINGER: Duration = Duration::from_secs(1);
/// Most connections taken from one listener at a time.
const ACCEPTS_PER_TURN: usize = 64;
/// When to try again to accept, after the operating system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Every bound of a loop's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sizes of packets and messages; the same on both sides.
    pub packet: PacketLimits,
    /// Most bytes that wait to be sent on one link; above it messages are dropped.
    pub send_bytes_max: usize,
    /// Most bytes read from one link per turn, so that one peer cannot starve the others.
    pub read_bytes_per_turn: usize,
    /// Most accepted connections, in handshake or up.
    pub links_max: usize,
    /// Most accepted connections of one client.
    pub links_per_client_max: usize,
    /// Most connections in their handshake; above it the oldest goes.
    pub half_open_max: usize,
    /// Most time from the first packet of a connection (or the dial) until it is up.
    pub handshake_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet: PacketLimits::default(),
            send_bytes_max: 16 * 1024 * 1024,
            read_bytes_per_turn: 256 * 1024,
            links_max: 4096,
            links_per_client_max: 16,
            half_open_max: 256,
            handshake_max: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// Panics on limits that cannot work together: they are our own configuration.
    pub(crate) fn check(&self) {
        self.packet.check();
        let message = self.packet.wire_bytes_max(self.packet.message_bytes_max);
        assert!(
            self.send_bytes_max >= message,
            "send_bytes_max of {} bytes must hold the largest message, {message} bytes on the wire",
            self.send_bytes_max
        );
        assert!(
            self.read_bytes_per_turn > 0
                && self.links_max > 0
                && self.links_per_client_max > 0
                && self.half_open_max > 0,
            "limits are above zero"
        );
    }
}

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

/// The links of one loop.
pub struct Net {
    pub(crate) local: Local,
    directory: Box<dyn Directory + Send>,
    pub(crate) driver: Box<dyn Driver>,
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Freed in this turn: events of the turn may still name them, so they rest until the next one.
    freed: Vec<u32>,
    accepted: usize,
    half_open: usize,
    peers: BTreeMap<Party, Peer>,
    clients: BTreeMap<ClientId, usize>,
    /// Connections by the end of their handshake time; those that are up or gone meanwhile are skipped.
    handshakes: VecDeque<(Instant, LinkId)>,
    /// Refused connections by the end of their time.
    lingering: VecDeque<(Instant, LinkId)>,
    accept_again: Option<Instant>,
    /// The earliest moment at which a peer is to be dialled.
    dial_next: Option<Instant>,
    /// Links with something to write.
    dirty: Vec<u32>,
    /// Links with something to read.
    pub(crate) ready: Vec<u32>,
    pub(crate) downs: VecDeque<(LinkId, Option<Party>, LinkDown)>,
    faults: Faults,
    counters: Counters,
    random: SplitMix,
    now: Instant,
}

struct Slot {
    generation: u32,
    socket: SlotUse,
}

enum SlotUse {
    Free,
    Listener,
    Connection(Box<Connection>),
}

pub(crate) struct Connection {
    pub link: Link,
    /// The front of a packet whose end has not come yet.
    pub rest: Vec<u8>,
    phase: Phase,
    accepted: bool,
    writable: bool,
    dirty: bool,
    ready: bool,
    pub read_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The operating system has not connected us yet.
    Connecting,
    Handshake,
    Up(Party),
    /// Refused: what waits is written, what comes is ignored, until the other side has closed or the time is up.
    Lingering,
}

struct Peer {
    dialled: Option<SocketAddr>,
    link: Option<LinkId>,
    up_since: Option<Instant>,
    last_error: Option<String>,
    backoff: Backoff,
    dial: Dial,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dial {
    /// Not wanted, or up.
    Idle,
    At(Instant),
    /// A connection is on its way up.
    Under(LinkId),
}

impl Net {
    pub(crate) fn new(
        local: Local,
        directory: Box<dyn Directory + Send>,
        driver: Box<dyn Driver>,
        limits: Limits,
        fault_seed: u64,
        random_seed: u64,
    ) -> Self {
        limits.check();
        Self {
            local,
            directory,
            driver,
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            accepted: 0,
            half_open: 0,
            peers: BTreeMap::new(),
            clients: BTreeMap::new(),
            handshakes: VecDeque::new(),
            lingering: VecDeque::new(),
            accept_again: None,
            dial_next: None,
            dirty: Vec::new(),
            ready: Vec::new(),
            downs: VecDeque::new(),
            faults: Faults::new(fault_seed),
            counters: Counters::default(),
            random: SplitMix(random_seed),
            now: Instant::now(),
        }
    }

    /// The time of this turn. The clock is read once per turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Who we are.
    #[must_use]
    pub fn me(&self) -> Party {
        self.local.me
    }

    /// What this process drew at its start; peers see it and can tell a restart from a reconnect.
    #[must_use]
    pub fn boot(&self) -> [u8; 16] {
        self.local.boot
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Queues a message on `link`; it leaves at the end of the turn. Never blocks.
    pub fn send(&mut self, link: LinkId, message: &[u8]) -> SendOutcome {
        self.send_parts(link, &[message])
    }

    /// Queues one message whose bytes stand in `parts`, so that nobody has to join them first.
    pub fn send_parts(&mut self, link: LinkId, parts: &[&[u8]]) -> SendOutcome {
        if self.faults.is_active()
            && let Some(outcome) = self.send_through_faults(link, parts)
        {
            return outcome;
        }
        self.send_now(link, parts)
    }

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

    /// Ends a link after writing what waits, as far as the socket takes it at once. A dialled peer is dialled again.
    pub fn close(&mut self, link: LinkId) {
        if self.connection(link).is_some() {
            self.flush_link(link.index());
            self.drop_connection(link, LinkDown::ClosedHere);
        }
    }

    /// Who is at the other end of `link`, with the public keys it has proved.
    #[must_use]
    pub fn peer(&self, link: LinkId) -> Option<&PeerIdentity> {
        self.connection(link)?.link.peer()
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

    /// Bytes that wait to be sent on `link`.
    #[must_use]
    pub fn queued_bytes(&self, link: LinkId) -> usize {
        self.connection(link)
            .map_or(0, |connection| connection.link.queued_bytes())
    }

    /// What the loop has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.syscalls = self.driver.syscalls();
        counters
    }

    /// The faults to inject; none unless set.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// The name of the driver in use.
    #[must_use]
    pub fn driver_name(&self) -> &'static str {
        self.driver.name()
    }

    // What follows is the reactor's side.

    pub(crate) fn begin_turn(&mut self, now: Instant) {
        self.now = now;
        self.counters.turns += 1;
        self.free.append(&mut self.freed);
    }

    pub(crate) fn listen(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let key = self.take_slot();
        match self.driver.listen(key, addr) {
            Ok(addr) => {
                self.slots[key.0 as usize].socket = SlotUse::Listener;
                Ok(addr)
            }
            Err(error) => {
                self.free_slot(key.0);
                Err(error)
            }
        }
    }

    /// When something is to be done without any event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|(end, _)| *end);
        let linger = self.lingering.front().map(|(end, _)| *end);
        [
            handshake,
            linger,
            self.accept_again,
            self.dial_next,
            self.faults.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

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

    pub(crate) fn mark_readable(&mut self, link: LinkId, read_closed: bool) {
        if let Some(connection) = self
            .connection_mut(link)
            .filter(|connection| connection.phase != Phase::Connecting)
        {
            connection.read_closed |= read_closed;
            if !connection.ready {
                connection.ready = true;
                self.ready.push(link.index());
            }
        }
    }

    pub(crate) fn unmark_readable(&mut self, link: LinkId) {
        if let Some(connection) = self.connection_mut(link) {
            connection.ready = false;
        }
    }

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
                    match error.kind() {
                        io::ErrorKind::WouldBlock => return,
                        // Connections that ended before they were accepted.
                        io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted => {}
                        // No descriptors or memory: no edge will come for those that wait, so look again later.
                        _ => {
                            self.accept_again = Some(self.now + ACCEPT_PAUSE);
                            return;
                        }
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
        match connection
            .link
            .receive(&self.local, &*self.directory, bytes)
        {
            Ok(step) => {
                match &step {
                    Step::Data(..) => {
                        self.counters.packets_in += 1;
                        self.counters.macs += 1;
                    }
                    Step::Handshake(_) | Step::Up(_) => self.mark_dirty(link),
                    Step::RefusedUs(refused) => {
                        self.counters.count_refused_us(refused.reason);
                        let refused = refused.clone();
                        self.drop_connection(link, LinkDown::RefusedUs(refused));
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
        match self.connection_mut(link)?.link.reassemble(fragment) {
            Ok(message) => message,
            Err(error) => {
                self.refuse(link, &error);
                None
            }
        }
    }

    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.counters.bytes_in += bytes as u64;
    }

    pub(crate) fn count_message(&mut self) {
        self.counters.messages_in += 1;
    }

    pub(crate) fn is_up(&self, link: LinkId) -> bool {
        self.connection(link)
            .is_some_and(|connection| matches!(connection.phase, Phase::Up(_)))
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

    /// Whatever is due now: dials, time-outs, delayed messages to send. Returns a delayed message to deliver, until there is none.
    pub(crate) fn timers(&mut self) -> Option<Held> {
        let now = self.now;
        while let Some((_, link)) = pop_due(&mut self.handshakes, now) {
            match self.connection(link).map(|connection| connection.phase) {
                Some(Phase::Connecting) => {
                    let error = io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!(
                            "no answer within {} s",
                            self.limits.handshake_max.as_secs_f32()
                        ),
                    );
                    self.drop_connection(link, LinkDown::Io(error));
                }
                Some(Phase::Handshake) => self.refuse(
                    link,
                    &LinkError::handshake_timeout(self.limits.handshake_max.as_secs_f32()),
                ),
                Some(Phase::Up(_) | Phase::Lingering) | None => {}
            }
        }
        while let Some((_, link)) = pop_due(&mut self.lingering, now) {
            self.release(link);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            for index in 0..self.slots.len() {
                let key = Key(u32::try_from(index).expect("slots are counted in 32 bits"));
                if self.is_listener(key) {
                    self.accept_all(key);
                }
            }
        }
        if self.dial_next.is_some_and(|at| at <= now) {
            self.dial_due();
        }
        while let Some(held) = self.faults.due(now) {
            match held.direction {
                Direction::In => return Some(held),
                Direction::Out => {
                    let _ = self.send_now(held.link, &[&held.bytes]);
                }
            }
        }
        None
    }

    /// Writes what waits, once per link.
    pub(crate) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.flush_link(index);
        }
        // Flushing marks nothing dirty but links that fail and make others report; keep what came meanwhile.
        std::mem::swap(&mut self.dirty, &mut dirty);
        self.dirty.append(&mut dirty);
    }

    /// Counts a message that arrives under faults, and says how often it is to be delivered now.
    pub(crate) fn judge_arrival(&mut self, link: LinkId, party: Party, bytes: &[u8]) -> u8 {
        if !self.faults.is_active() {
            return 1;
        }
        let verdict = self.faults.judge(Direction::In, party);
        if verdict.delay.is_zero() {
            return verdict.copies;
        }
        for _ in 0..verdict.copies {
            self.faults.hold(
                self.now + verdict.delay,
                Held {
                    direction: Direction::In,
                    link,
                    party,
                    bytes: bytes.to_vec(),
                },
            );
        }
        0
    }

    fn send_now(&mut self, link: LinkId, parts: &[&[u8]]) -> SendOutcome {
        let Some(connection) = self.connection_mut(link) else {
            return SendOutcome::NoLink;
        };
        let outcome = connection.link.send(parts);
        match outcome {
            SendOutcome::Queued => {
                self.counters.messages_out += 1;
                self.mark_dirty(link);
            }
            SendOutcome::Dropped => self.counters.dropped_full += 1,
            SendOutcome::TooLarge => self.counters.dropped_too_large += 1,
            SendOutcome::NoLink => {}
        }
        outcome
    }

    /// What a sender is told when faults have taken its message; none when it goes on as usual.
    fn send_through_faults(&mut self, link: LinkId, parts: &[&[u8]]) -> Option<SendOutcome> {
        let Phase::Up(party) = self.connection(link)?.phase else {
            return None;
        };
        if parts.iter().map(|part| part.len()).sum::<usize>() > self.limits.packet.message_bytes_max
        {
            return None;
        }
        let verdict = self.faults.judge(Direction::Out, party);
        for copy in 0..verdict.copies {
            if verdict.delay.is_zero() {
                let outcome = self.send_now(link, parts);
                if copy + 1 == verdict.copies {
                    return Some(outcome);
                }
            } else {
                self.faults.hold(
                    self.now + verdict.delay,
                    Held {
                        direction: Direction::Out,
                        link,
                        party,
                        bytes: parts.concat(),
                    },
                );
            }
        }
        Some(SendOutcome::Queued)
    }

    fn mark_dirty(&mut self, link: LinkId) {
        if let Some(connection) = self.connection_mut(link)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(link.index());
        }
    }

    fn flush_link(&mut self, index: u32) {
        let Some(Slot {
            generation,
            socket: SlotUse::Connection(connection),
        }) = self.slots.get_mut(index as usize)
        else {
            return;
        };
        connection.dirty = false;
        if !connection.writable {
            return;
        }
        let bytes = connection.link.outgoing();
        let waiting = bytes.len();
        let outcome = if waiting == 0 {
            Ok(0)
        } else {
            self.driver.write(Key(index), bytes)
        };
        let sealed = connection.link.newly_sealed();
        self.counters.packets_out += sealed;
        self.counters.macs += sealed;
        match outcome {
            Ok(count) => {
                connection.link.sent(count);
                self.counters.bytes_out += count as u64;
                // A short write filled the socket; the edge will say when there is room again.
                connection.writable = count == waiting;
                if connection.phase == Phase::Lingering && count == waiting {
                    self.driver.shutdown_write(Key(index));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.writable = false,
            Err(error) => {
                let link = LinkId::new(index, *generation);
                self.drop_connection(link, LinkDown::Io(error));
            }
        }
    }

    fn accepted_at(&mut self, key: Key) {
        self.counters.accepted += 1;
        let nonce = self.nonce();
        let link = Link::accept(nonce, self.limits.packet, self.limits.send_bytes_max);
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

    fn oldest_half_open(&mut self) -> Option<LinkId> {
        while let Some((_, link)) = self.handshakes.pop_front() {
            if self.connection(link).is_some_and(|connection| {
                connection.accepted && connection.phase == Phase::Handshake
            }) {
                return Some(link);
            }
        }
        None
    }

    fn dial_due(&mut self) {
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

    fn connect(&mut self, party: Party, addr: SocketAddr) {
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

    /// Puts a new connection into its slot and starts its handshake time.
    fn enter(&mut self, key: Key, link: Link, phase: Phase, accepted: bool) -> LinkId {
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
        }));
        let id = LinkId::new(key.0, slot.generation);
        self.half_open += 1;
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

    /// Takes a connection that ended in phase `was` out of all tables but its slot, and reports it.
    fn leave(&mut self, link: LinkId, was: Phase, party: Option<Party>, why: LinkDown) {
        let accepted = self
            .connection(link)
            .is_some_and(|connection| connection.accepted);
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
            let words = match (
                &why,
                was,
                self.peers.get(&party).and_then(|peer| peer.dialled),
            ) {
                (LinkDown::Io(error), Phase::Connecting, Some(addr)) => {
                    format!("cannot connect to {addr}: {error}")
                }
                _ => why.to_string(),
            };
            self.failed(party, link, words);
        }
        // Attempts that reach nobody stand in `peers`; a callback for each would only fill logs.
        if was != Phase::Connecting {
            self.downs.push_back((link, party, why));
        }
    }

    /// Notes why `party` is not connected by `link`, and plans the next dial.
    fn failed(&mut self, party: Party, link: LinkId, words: String) {
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

    fn dial_at(&mut self, party: Party, at: Instant) {
        self.peer_entry(party).dial = Dial::At(at);
        self.dial_next = Some(self.dial_next.map_or(at, |next| next.min(at)));
    }

    fn client_left(&mut self, client: ClientId) {
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
    }

    fn peer_entry(&mut self, party: Party) -> &mut Peer {
        self.peers.entry(party).or_insert_with(|| Peer {
            dialled: None,
            link: None,
            up_since: None,
            last_error: None,
            backoff: Backoff::new(),
            dial: Dial::Idle,
        })
    }

    /// Closes the socket and frees the slot.
    fn release(&mut self, link: LinkId) {
        if let Some(connection) = self.connection(link) {
            self.accepted -= usize::from(connection.accepted);
            self.driver.close(Key(link.index()));
            self.free_slot(link.index());
        }
    }

    fn take_slot(&mut self) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                socket: SlotUse::Free,
            });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 connections")
        });
        Key(index)
    }

    fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.socket = SlotUse::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.freed.push(index);
    }

    /// Distinct per connection of this process: the boot nonce makes it so between processes.
    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&(self.counters.accepted + self.counters.dialled).to_le_bytes());
        nonce
    }
}

fn pop_due(queue: &mut VecDeque<(Instant, LinkId)>, now: Instant) -> Option<(Instant, LinkId)> {
    queue.pop_front_if(|(end, _)| *end <= now)
}
