//! The links of one loop: who is connected, who shall be, and what waits to be written.
//!
//! [`Net`] is what a service sees in its callbacks. It sends, dials and closes; the [reactor](crate::reactor) reads and takes the turns.
//! Its callbacks never see a socket: all input and output goes through the [`Driver`].

mod datagrams;
mod lifecycle;
mod limits;
mod peers;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use twostep_crypto::{ClientId, MacKey, Party};

use crate::choice::Transport;
use crate::counters::Counters;
use crate::driver::{Driver, Key};
use crate::fault::{Direction, Faults, Held, SplitMix};
use crate::hello::{Directory, Local};
use crate::link::{LinkId, PeerIdentity, SendOutcome};
use crate::packet::DATAGRAM_BYTES_MAX;
use crate::reactor::ReactorConfig;
use crate::refusal::{LinkDown, LinkError};

pub use limits::Limits;
pub use peers::PeerState;

use peers::Peer;
use table::{Phase, Slot, SlotUse};

/// The links of one loop.
pub struct Net {
    pub(crate) local: Local,
    directory: Box<dyn Directory + Send>,
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) driver_why: String,
    limits: Limits,
    /// Whether links are of datagrams.
    datagrams: bool,
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
    /// When links of datagrams are to be looked at.
    look_next: Option<Instant>,
    /// When links of datagrams are to be searched for missing pieces.
    mend_next: Option<Instant>,
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
    nonce_key: MacKey,
    /// Nonces drawn.
    nonces: u64,
    now: Instant,
}

impl Net {
    pub(crate) fn new(
        local: Local,
        directory: Box<dyn Directory + Send>,
        driver: Box<dyn Driver>,
        config: &ReactorConfig,
        random_seed: u64,
        nonce_key: MacKey,
    ) -> Self {
        let limits = config.limits;
        limits.check();
        let datagrams = config.transport == Transport::Udp;
        assert!(
            !datagrams || limits.packet.packet_bytes_max <= DATAGRAM_BYTES_MAX,
            "packet_bytes_max of {} exceeds the {DATAGRAM_BYTES_MAX} bytes of a datagram",
            limits.packet.packet_bytes_max
        );
        Self {
            local,
            directory,
            driver,
            driver_why: "given".to_owned(),
            limits,
            datagrams,
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
            look_next: None,
            mend_next: None,
            dial_next: None,
            dirty: Vec::new(),
            ready: Vec::new(),
            downs: VecDeque::new(),
            faults: Faults::new(config.fault_seed),
            counters: Counters::default(),
            random: SplitMix(random_seed),
            nonce_key,
            nonces: 0,
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
        self.send_gapped(link, parts, &[])
    }

    /// The same; the packet's tag leaves out `gaps`, which ascend within the joined parts. Only for bytes that the
    /// receiver checks against a digest or tag in the other bytes before it believes them; gaps below
    /// [`GAP_BYTES_MIN`](crate::packet::GAP_BYTES_MIN) are not worth their entry.
    pub fn send_gapped(
        &mut self,
        link: LinkId,
        parts: &[&[u8]],
        gaps: &[Range<usize>],
    ) -> SendOutcome {
        if self.faults.is_active()
            && let Some(outcome) = self.send_through_faults(link, parts)
        {
            return outcome;
        }
        self.send_now(link, parts, gaps)
    }

    /// Ends a link after writing what waits, as far as the socket takes it at once. A dialled peer is dialled again.
    pub fn close(&mut self, link: LinkId) {
        if let Some(connection) = self.connection_mut(link) {
            connection.link.push_close();
            self.flush_link(link.index());
            self.drop_connection(link, LinkDown::ClosedHere);
        }
    }

    /// Who is at the other end of `link`, with the public keys it has proved.
    #[must_use]
    pub fn peer(&self, link: LinkId) -> Option<&PeerIdentity> {
        self.connection(link)?.link.peer()
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

    /// Why it is this one, in words.
    #[must_use]
    pub fn driver_why(&self) -> &str {
        &self.driver_why
    }

    // What follows is the reactor's side.

    pub(crate) fn begin_turn(&mut self, now: Instant) {
        self.now = now;
        self.counters.turns += 1;
        self.free.append(&mut self.freed);
    }

    pub(crate) fn listen(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.listen_by(|driver, key| driver.listen(key, addr))
    }

    fn listen_by(
        &mut self,
        listen: impl FnOnce(&mut dyn Driver, Key) -> io::Result<SocketAddr>,
    ) -> io::Result<SocketAddr> {
        let key = self.take_slot();
        match listen(&mut *self.driver, key) {
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

    pub(crate) fn listen_shared(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.listen_by(|driver, key| driver.listen_shared(key, addr))
    }

    /// When something is to be done without any event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|(end, _)| *end);
        let linger = self.lingering.front().map(|(end, _)| *end);
        [
            handshake,
            linger,
            self.accept_again,
            self.look_next,
            self.mend_next,
            self.dial_next,
            self.faults.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
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

    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.counters.bytes_in += bytes as u64;
    }

    pub(crate) fn count_message(&mut self) {
        self.counters.messages_in += 1;
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
        if self.look_next.is_some_and(|at| at <= now) {
            self.look_at_links();
        }
        if self.mend_next.is_some_and(|at| at <= now) {
            self.mend_links();
        }
        while let Some(held) = self.faults.due(now) {
            match held.direction {
                Direction::In => return Some(held),
                Direction::Out => {
                    let _ = self.send_now(held.link, &[&held.bytes], &[]);
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

    fn send_now(&mut self, link: LinkId, parts: &[&[u8]], gaps: &[Range<usize>]) -> SendOutcome {
        let Some(connection) = self.connection_mut(link) else {
            return SendOutcome::NoLink;
        };
        let outcome = connection.link.send(parts, gaps);
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
                let outcome = self.send_now(link, parts, &[]);
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
        if self.datagrams {
            return self.flush_datagrams(index);
        }
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
}

fn pop_due(queue: &mut VecDeque<(Instant, LinkId)>, now: Instant) -> Option<(Instant, LinkId)> {
    queue.pop_front_if(|(end, _)| *end <= now)
}
