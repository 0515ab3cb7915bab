//! One loop on one thread: wait, read, deliver, let the service take its turn, write.
//!
//! ```text
//!            ┌──────────────────────── one turn ────────────────────────┐
//!  wait ───► │ clock │ read, open, deliver │ timers │ Service::turn │ flush │ ───► wait
//!            └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Everything runs to completion on the loop's thread (DESIGN.md section 3). The clock is read once per turn. Output is coalesced: what the
//! service sends during a turn is sealed and written once per link at its end. A link delivers a bounded number of bytes per turn; a link with more to
//! read makes the next turn begin at once, after the others have had theirs.
//!
//! Idle: block until an event, a deadline or a wake-up. `spin_us` polls for a while first, `busy_poll` never blocks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use twostep_crypto::{Identity, MacKey, Party, Scope};

use crate::choice::{self, DriverChoice, Transport};
use crate::clock::{Clock, ClockOffset};
use crate::cookie::Cookies;
use crate::driver::{Driver, Event};
use crate::hello::{Directory, Local};
use crate::link::{LinkId, Step};
use crate::net::{Limits, Net};
use crate::packet::Frame;
use crate::queue::WakeUp;
use crate::refusal::LinkDown;

/// Most bytes of one read.
const READ_BYTES_MAX: usize = 256 * 1024;

/// What a loop serves. All callbacks run on the loop's thread and must not block it.
pub trait Service {
    /// A message has come. `bytes` live as long as the call.
    fn message(&mut self, net: &mut Net, link: LinkId, from: Party, bytes: &[u8]);

    /// A link is up: the other side has proved to be `party`. For nodes it takes the place of the link that was up before.
    fn link_up(&mut self, net: &mut Net, link: LinkId, party: Party);

    /// A connection has ended, whether its link was up or still in its handshake; then `party` is who the other side claimed to be, if it did.
    fn link_down(&mut self, net: &mut Net, link: LinkId, party: Option<Party>, why: &LinkDown);

    /// The end of every turn, after all messages: also when the deadline has passed or the loop was woken up.
    fn turn(&mut self, net: &mut Net, now: Instant);

    /// Whether it takes messages now. If not, nothing more is read from any link, so that the other sides feel it and slow down, until somebody wakes
    /// the loop. It is asked before each read; the messages of one read, of at most 256 KiB and what was left of a packet, come in any case.
    fn takes_messages(&self) -> bool {
        true
    }

    /// When the service wants a turn at the latest.
    fn deadline(&self) -> Option<Instant>;

    /// Whether the loop shall end. Asked after each turn, when what was sent has been written.
    fn stopping(&self) -> bool;
}

/// What the loop does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Microseconds to go on polling after the last event before blocking. Zero blocks at once.
    pub spin_us: u32,
    /// Never block: for dedicated cores.
    pub busy_poll: bool,
}

/// How a loop runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReactorConfig {
    /// The bounds of its links.
    pub limits: Limits,
    /// The driver that is asked for.
    pub driver: DriverChoice,
    /// How bytes travel.
    pub transport: Transport,
    /// What it does when idle.
    pub idle: Idle,
    /// The core to which its thread is pinned.
    pub pin_core: Option<usize>,
    /// Seed of injected faults, which are off until [`Net::faults`] sets some.
    pub fault_seed: u64,
}

/// Why a loop cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address is taken.
    #[error(
        "cannot listen on {0}: the address is in use; stop the other process or pass --listen with another one"
    )]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no random bytes for the nonces.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    /// The thread cannot be pinned.
    #[error(
        "cannot pin the loop to core {core}: {source}; choose a core that this process may use"
    )]
    Pin {
        /// The core asked for.
        core: usize,
        /// What the operating system said.
        source: io::Error,
    },
    /// The driver cannot start, or its wait failed.
    #[error("the event loop failed: {0}")]
    Driver(io::Error),
}

/// One loop with its links.
pub struct Reactor {
    net: Net,
    config: ReactorConfig,
    clock: Clock,
    wake_up: WakeUp,
    events: Vec<Event>,
    /// The links read in this turn; swapped with the list of those that shall be read, so that neither allocates.
    reading: Vec<u32>,
    /// Bytes are read into and opened in this one buffer; links keep only packets whose end has not come.
    scratch: Box<[u8]>,
}

impl Reactor {
    /// A loop over the driver that `config` asks for, for `me` with its keys, in the cluster and epoch of `scope`. `directory` says who may be at the other end.
    ///
    /// # Errors
    /// [`NetError::Random`] and [`NetError::Driver`].
    ///
    /// # Panics
    /// When the limits contradict each other.
    pub fn new(
        config: ReactorConfig,
        scope: Scope,
        identity: impl Into<Arc<Identity>>,
        me: Party,
        directory: impl Directory + Send + 'static,
    ) -> Result<Self, NetError> {
        let opened = choice::open(config.driver, config.transport).map_err(NetError::Driver)?;
        let directory = Box::new(directory);
        let mut reactor = Self::with_driver(config, scope, identity, me, directory, opened.driver)?;
        reactor.net.driver_why = opened.why;
        Ok(reactor)
    }

    /// A loop over `driver`.
    ///
    /// # Errors
    /// [`NetError::Random`].
    ///
    /// # Panics
    /// When the limits contradict each other.
    pub fn with_driver(
        config: ReactorConfig,
        scope: Scope,
        identity: impl Into<Arc<Identity>>,
        me: Party,
        directory: Box<dyn Directory + Send>,
        mut driver: Box<dyn Driver>,
    ) -> Result<Self, NetError> {
        driver.ask_for_cookies(Cookies::draw().map_err(NetError::Random)?);
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(NetError::Random)?;
        let random_seed = getrandom::u64().map_err(NetError::Random)?;
        let mut nonce_key = [0; 32];
        getrandom::fill(&mut nonce_key).map_err(NetError::Random)?;
        let nonce_key = MacKey::from_bytes(nonce_key);
        let wake_up = driver.wake_up();
        let local = Local {
            scope,
            identity: identity.into(),
            me,
            boot,
        };
        let net = Net::new(local, directory, driver, &config, random_seed, nonce_key);
        let scratch =
            vec![0; config.limits.packet.packet_bytes_max + READ_BYTES_MAX].into_boxed_slice();
        Ok(Self {
            net,
            config,
            clock: Clock::new(ClockOffset::default()),
            wake_up,
            events: Vec::new(),
            reading: Vec::new(),
            scratch,
        })
    }

    /// Listens for peers and clients, and returns the address in use (port 0 becomes a free one).
    ///
    /// # Errors
    /// [`NetError::AddressInUse`] and [`NetError::Listen`].
    pub fn listen(&mut self, addr: SocketAddr) -> Result<SocketAddr, NetError> {
        let listening = self.net.listen(addr);
        listening.map_err(|source| cannot_listen(addr, source))
    }

    /// The same for one of several loops of this process that share the address: each calls it with the address that [`free_address`] found, and
    /// the operating system gives each connection to one of them.
    ///
    /// # Errors
    /// [`NetError::AddressInUse`] and [`NetError::Listen`], also when the driver cannot share an address.
    pub fn listen_shared(&mut self, addr: SocketAddr) -> Result<SocketAddr, NetError> {
        let listening = self.net.listen_shared(addr);
        listening.map_err(|source| cannot_listen(addr, source))
    }

    /// What makes the loop take a turn, from any thread. Give it to the [queues](crate::queue) into the loop.
    #[must_use]
    pub fn waker(&self) -> WakeUp {
        self.wake_up.clone()
    }

    /// Moves the loop's clock with `offset` from now on: for tests.
    pub fn move_clock(&mut self, offset: ClockOffset) {
        self.clock = Clock::new(offset);
    }

    /// The links, for dialling before the loop runs and for reading counters after it.
    pub fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// Serves until the service is stopping.
    ///
    /// # Errors
    /// [`NetError::Pin`], and [`NetError::Driver`] when waiting fails.
    pub fn run(&mut self, service: &mut (impl Service + ?Sized)) -> Result<(), NetError> {
        if let Some(core) = self.config.pin_core {
            pin(core)?;
        }
        let spin = Duration::from_micros(u64::from(self.config.idle.spin_us));
        let mut worked_at = self.clock.read();
        self.net.begin_turn(worked_at);
        while !service.stopping() {
            let timeout = self.timeout(service, worked_at, spin);
            let sleeps = timeout != Some(Duration::ZERO) && self.wake_up.may_sleep();
            self.events.clear();
            self.net
                .driver
                .wait(
                    if sleeps {
                        timeout
                    } else {
                        Some(Duration::ZERO)
                    },
                    &mut self.events,
                )
                .map_err(NetError::Driver)?;
            self.wake_up.woke();
            let now = self.clock.read();
            self.net.begin_turn(now);
            if !self.events.is_empty() || !self.net.ready.is_empty() || sleeps {
                worked_at = now;
            }
            self.turn(service, now);
        }
        self.net.say_goodbye();
        self.net.driver.flush();
        Ok(())
    }

    /// How long the wait may take: not at all while there is something to read or report.
    fn timeout(
        &self,
        service: &(impl Service + ?Sized),
        worked_at: Instant,
        spin: Duration,
    ) -> Option<Duration> {
        let now = self.net.now();
        let spins = self.config.idle.busy_poll || now.saturating_duration_since(worked_at) < spin;
        let reads = !self.net.ready.is_empty() && service.takes_messages();
        if spins || reads || !self.net.downs.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadline = [self.net.deadline(), service.deadline()]
            .into_iter()
            .flatten()
            .min();
        deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    fn turn(&mut self, service: &mut (impl Service + ?Sized), now: Instant) {
        self.take_events();
        self.read_links(service);
        while let Some(held) = self.net.timers() {
            if self.net.is_up(held.link) {
                self.net.count_message();
                service.message(&mut self.net, held.link, held.party, &held.bytes);
            }
        }
        report_downs(&mut self.net, service);
        service.turn(&mut self.net, now);
        self.net.flush();
    }

    /// Reads the links that have something, each its share, for as long as the service takes messages. It is asked before each read: what thousands
    /// of clients have sent must not pile up in a service that ran out of room at the first of them.
    fn read_links(&mut self, service: &mut (impl Service + ?Sized)) {
        std::mem::swap(&mut self.net.ready, &mut self.reading);
        let mut taken = 0;
        while taken < self.reading.len() && service.takes_messages() {
            if let Some(link) = self.net.link_at(self.reading[taken]) {
                read(&mut self.net, &mut self.scratch, service, link);
            }
            taken += 1;
        }
        self.reading.drain(..taken);
        if !self.reading.is_empty() {
            // They come first next time, so that a service that stalls at every turn still hears everybody.
            self.reading.append(&mut self.net.ready);
            std::mem::swap(&mut self.net.ready, &mut self.reading);
        }
    }

    fn take_events(&mut self) {
        for event in &self.events {
            if self.net.is_listener(event.key) {
                self.net.accept_all(event.key);
            } else if let Some(link) = self.net.link_at(event.key.0) {
                if event.writable {
                    self.net.on_writable(link);
                }
                if event.readable {
                    self.net.mark_readable(link, event.read_closed);
                }
            }
        }
    }
}

/// Reads `link` until it has no more or has had its share of the turn.
fn read(net: &mut Net, scratch: &mut [u8], service: &mut (impl Service + ?Sized), link: LinkId) {
    let mut share = net.limits().read_bytes_per_turn;
    net.unmark_readable(link);
    loop {
        let Some(connection) = net.connection(link) else {
            return;
        };
        let (held, read_closed) = (connection.rest.len(), connection.read_closed);
        let room = READ_BYTES_MAX.min(scratch.len() - held);
        let count = match net.driver.read(
            crate::driver::Key(link.index()),
            &mut scratch[held..held + room],
        ) {
            Ok(0) => return net.ended(link),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return net.read_failed(link, error),
        };
        net.count_received(count);
        if let Some(connection) = net.connection_mut(link) {
            scratch[..held].copy_from_slice(&connection.rest);
            connection.rest.clear();
        }
        open(net, service, link, &scratch[..held + count]);
        if count < room && !read_closed {
            // A short read has emptied the socket; the next bytes make an edge of their own.
            return;
        }
        share = share.saturating_sub(count);
        if share == 0 || !service.takes_messages() {
            return net.mark_readable(link, read_closed);
        }
    }
}

/// Opens every packet in `bytes`, delivers its messages, and keeps what is left of an incomplete one.
fn open(net: &mut Net, service: &mut (impl Service + ?Sized), link: LinkId, bytes: &[u8]) {
    let mut at = 0;
    while let Some(step) = net.step(link, &bytes[at..]) {
        match step {
            Step::Incomplete => {
                if let Some(connection) = net.connection_mut(link) {
                    connection.rest.extend_from_slice(&bytes[at..]);
                }
                return;
            }
            Step::Handshake(length) | Step::Done(length) | Step::Stray(length) => at += length,
            Step::Up(length) => {
                at += length;
                if let Some(party) = net.came_up(link) {
                    report_downs(net, service);
                    service.link_up(net, link, party);
                }
            }
            Step::Data(length, frames) => {
                at += length;
                let Some(party) = net.peer(link).map(|peer| peer.party) else {
                    return;
                };
                for frame in frames {
                    match frame {
                        Frame::Whole(message) => deliver(net, service, link, party, message),
                        Frame::Fragment(fragment) => {
                            if let Some(message) = net.reassemble(link, &fragment) {
                                deliver(net, service, link, party, &message);
                                if let Some(connection) = net.connection_mut(link) {
                                    connection.link.give_back(message);
                                }
                            }
                        }
                    }
                    if !net.is_up(link) {
                        return;
                    }
                }
            }
            Step::RefusedUs(_) | Step::Closed => return,
        }
    }
}

fn deliver(
    net: &mut Net,
    service: &mut (impl Service + ?Sized),
    link: LinkId,
    party: Party,
    message: &[u8],
) {
    for _ in 0..net.judge_arrival(link, party, message) {
        if net.is_up(link) {
            net.count_message();
            service.message(net, link, party, message);
        }
    }
}

fn report_downs(net: &mut Net, service: &mut (impl Service + ?Sized)) {
    while let Some((link, party, why)) = net.downs.pop_front() {
        service.link_down(net, link, party, &why);
    }
}

/// The address that `addr` stands for (port 0 becomes a free one), found by listening there for a moment: loops that [share](Reactor::listen_shared) an
/// address do not notice another process of the same user that does so as well.
///
/// # Errors
/// [`NetError::AddressInUse`] and [`NetError::Listen`].
pub fn free_address(addr: SocketAddr) -> Result<SocketAddr, NetError> {
    let listener = std::net::TcpListener::bind(addr);
    let found = listener.and_then(|listener| listener.local_addr());
    found.map_err(|source| cannot_listen(addr, source))
}

fn cannot_listen(addr: SocketAddr, source: io::Error) -> NetError {
    match source.kind() {
        io::ErrorKind::AddrInUse => NetError::AddressInUse(addr),
        _ => NetError::Listen { addr, source },
    }
}

/// Pins the calling thread to one core.
///
/// # Errors
/// [`NetError::Pin`].
pub fn pin(core: usize) -> Result<(), NetError> {
    let mut cores = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(NetError::Pin {
            core,
            source: io::ErrorKind::InvalidInput.into(),
        });
    }
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).map_err(|error| NetError::Pin {
        core,
        source: error.into(),
    })
}
