//! Connections between the processes of the floor: frames in packets over a [`Driver`], and one loop.
//!
//! ```text
//! packet   length u32 | 28 bytes in the place of a header and its tag | frames …
//! frame    length u32 | kind u8 | number u64 | rest …
//! ```
//!
//! The turn is that of [`twostep_net::Reactor`]: wait, read everything, answer, write once per connection. What is missing is
//! what the real links do for safety: no handshake, no key, no bound of what waits. The parent starts all processes, so
//! whoever connects is believed.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use twostep_net::choice::{self, DriverChoice, Transport};
use twostep_net::driver::{Driver, Event, Key};
use twostep_net::packet::{self, FRAME_HEADER_BYTES, HEADER_BYTES, PacketLimits};
use twostep_net::{HELLO_BYTES, MAGIC};

use super::FloorPlan;

/// Bytes of a message before its rest.
pub const MESSAGE_BYTES_MIN: usize = 9;
/// Most bytes of one read, as for real links.
const READ_BYTES_MAX: usize = 256 * 1024;
/// How long to wait before a connection is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(10);
const LISTENER: Key = Key(0);
/// The kind of the first message on a connection; its number is who dials.
const HELLO: u8 = 255;

/// A message as it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// What it is.
    pub kind: u8,
    /// What it is about.
    pub number: u64,
    /// The whole message, kind and number included.
    pub bytes: &'a [u8],
}

impl Heard<'_> {
    /// What follows kind and number.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[MESSAGE_BYTES_MIN..]
    }

    /// The number at `at` bytes behind kind and number; 0 if the message is too short.
    #[must_use]
    pub fn u32_at(&self, at: usize) -> u32 {
        let at = MESSAGE_BYTES_MIN + at;
        self.bytes.get(at..at + 4).map_or(0, |bytes| {
            u32::from_le_bytes(bytes.try_into().expect("four bytes"))
        })
    }
}

/// What a loop serves.
pub trait Serve {
    /// A message has come.
    fn message(&mut self, links: &mut Links, from: usize, heard: Heard<'_>);
    /// The end of a turn.
    fn turn(&mut self, links: &mut Links, now: Instant);
    /// When it wants a turn at the latest.
    fn deadline(&self) -> Option<Instant>;
    /// Whether the loop shall end.
    fn stopping(&self) -> bool;
}

/// What a process of the floor did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCounters {
    /// CPU time of the process, user and system. Nanoseconds.
    pub cpu_ns: u64,
    /// Packets that it wrote.
    pub packets: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes that it wrote.
    pub bytes: u64,
    /// Reads, writes and waits.
    pub syscalls: u64,
    /// The other processes that it reaches now.
    pub links: u64,
}

struct Connection {
    /// Who is at the other end, once it is known.
    party: Option<usize>,
    /// Whether it is open: nothing is written before.
    open: bool,
    out: Vec<u8>,
    /// Bytes at the front of `out` that are written.
    written: usize,
    /// Where the packet begins in `out` that still takes frames.
    packet: Option<usize>,
    /// The beginning of a packet whose end has not come.
    rest: Vec<u8>,
}

/// All connections of one process.
pub struct Links {
    driver: Box<dyn Driver>,
    me: usize,
    addresses: Vec<SocketAddr>,
    connections: Vec<Option<Connection>>,
    /// The connection with each party.
    of_party: Vec<Option<usize>>,
    packet_bytes_max: usize,
    datagram_bytes_max: Option<usize>,
    dial_at: Option<Instant>,
    counters: NodeCounters,
}

impl Links {
    /// Listens, if `me` is a node, and dials every node with a lower number; the client dials all.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn new(plan: &FloorPlan, me: usize) -> io::Result<Links> {
        let driver = DriverChoice::from_str(&plan.driver).map_err(io::Error::other)?;
        let transport = match plan.datagram_bytes {
            Some(_) => Transport::Udp,
            None => Transport::Tcp,
        };
        let opened = choice::open(driver, transport)?;
        let mut driver = opened.driver;
        if let Some(address) = plan.addresses.get(me) {
            driver.listen(LISTENER, *address)?;
        }
        let mut links = Links {
            driver,
            me,
            addresses: plan.addresses.clone(),
            // The listener has the first key.
            connections: vec![None],
            of_party: vec![None; plan.addresses.len() + 1],
            packet_bytes_max: PacketLimits::default().packet_bytes_max,
            datagram_bytes_max: plan.datagram_bytes,
            dial_at: None,
            counters: NodeCounters::default(),
        };
        links.dial(Instant::now())?;
        Ok(links)
    }

    /// The number of the client.
    #[must_use]
    pub fn client(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is a connection with everybody.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.links() == self.addresses.len()
    }

    fn links(&self) -> usize {
        let open = |slot: &&Option<usize>| slot.is_some_and(|index| self.is_open(index));
        self.of_party.iter().filter(open).count()
    }

    fn is_open(&self, index: usize) -> bool {
        self.connections[index]
            .as_ref()
            .is_some_and(|connection| connection.open)
    }

    /// What this process did until now.
    #[must_use]
    pub fn counters(&self) -> NodeCounters {
        let syscalls = self.driver.syscalls();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        NodeCounters {
            cpu_ns: u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX),
            syscalls: syscalls.reads + syscalls.writes + syscalls.polls,
            links: self.links() as u64,
            ..self.counters
        }
    }

    /// Puts a message into the packet for `to`: kind, number, `parts`, and zeros up to `bytes`. It leaves at the end of the
    /// turn. Without a connection it is lost.
    pub fn say(&mut self, to: usize, kind: u8, number: u64, parts: &[&[u8]], bytes: usize) {
        let Some(index) = self.of_party[to] else {
            return;
        };
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = (MESSAGE_BYTES_MIN + length).max(bytes);
        if let (Some(most), Some(start)) = (self.datagram_bytes_max, connection.packet)
            && connection.out.len() - start + FRAME_HEADER_BYTES + length > most
        {
            connection.close_packet();
            self.counters.packets += 1;
        }
        if connection.packet.is_none() {
            connection.packet = Some(connection.out.len());
            connection.out.extend_from_slice(&[0; HEADER_BYTES]);
        }
        let out = &mut connection.out;
        out.extend_from_slice(&wire_u32(length).to_le_bytes());
        let end = out.len() + length;
        out.push(kind);
        out.extend_from_slice(&number.to_le_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
        out.resize(end, 0);
        self.counters.messages += 1;
    }

    /// Serves until the service is stopping, and flushes then.
    ///
    /// # Errors
    /// When waiting fails, or a connection that was open ends.
    pub fn run(
        &mut self,
        plan: &FloorPlan,
        scratch: &mut Scratch,
        service: &mut impl Serve,
    ) -> io::Result<()> {
        let spin = Duration::from_micros(u64::from(plan.spin_us));
        let mut now = Instant::now();
        let mut worked_at = now;
        service.turn(self, now);
        self.flush()?;
        while !service.stopping() {
            let spins = plan.busy_poll || now.saturating_duration_since(worked_at) < spin;
            let deadline = [self.dial_at, service.deadline()]
                .into_iter()
                .flatten()
                .min();
            let timeout = match deadline {
                _ if spins => Some(Duration::ZERO),
                deadline => deadline.map(|at| at.saturating_duration_since(now)),
            };
            scratch.events.clear();
            self.driver.wait(timeout, &mut scratch.events)?;
            now = Instant::now();
            if !scratch.events.is_empty() {
                worked_at = now;
            }
            for at in 0..scratch.events.len() {
                let event = scratch.events[at];
                self.take(event, &mut scratch.bytes, service)?;
            }
            if self.dial_at.is_some_and(|at| at <= now) {
                self.dial(now)?;
            }
            service.turn(self, now);
            self.flush()?;
        }
        self.driver.flush();
        Ok(())
    }

    fn take(
        &mut self,
        event: Event,
        scratch: &mut Vec<u8>,
        service: &mut impl Serve,
    ) -> io::Result<()> {
        if event.key == LISTENER {
            // What a datagram driver heard at the listener is there already, and no edge will say so.
            return self
                .accept_all()?
                .into_iter()
                .try_for_each(|index| self.read(index, false, scratch, service));
        }
        let index = event.key.0 as usize;
        if event.writable && !self.on_writable(index)? {
            return Ok(());
        }
        if event.readable && self.is_open(index) {
            self.read(index, event.read_closed, scratch, service)?;
        }
        Ok(())
    }

    /// Whether the connection is still there.
    fn on_writable(&mut self, index: usize) -> io::Result<bool> {
        let key = key(index);
        let Some(connection) = &mut self.connections[index] else {
            return Ok(false);
        };
        if connection.open {
            return self.write(index).map(|()| true);
        }
        match self.driver.connected(key) {
            Ok(true) => {
                connection.open = true;
                let party = connection.party.expect("who is dialled is known");
                self.greet(party);
                Ok(true)
            }
            Ok(false) => Ok(true),
            Err(_) => {
                self.dial_later(index);
                Ok(false)
            }
        }
    }

    /// Says who dials, in a packet of its own that a datagram driver takes for a greeting.
    fn greet(&mut self, party: usize) {
        self.say(party, HELLO, self.me as u64, &[], HELLO_BYTES);
        let index = self.of_party[party].expect("who is greeted was dialled");
        let connection = self.connections[index].as_mut().expect("it is there");
        let start = connection.packet.expect("the greeting was just said");
        let packet = &mut connection.out[start..];
        packet[6..8].copy_from_slice(&(packet::Kind::Hello as u16).to_le_bytes());
        packet[16..HEADER_BYTES].copy_from_slice(&MAGIC);
        connection.close_packet();
    }

    /// Whom this connection dials does not listen yet.
    fn dial_later(&mut self, index: usize) {
        let party = self.connections[index].take().and_then(|one| one.party);
        if let Some(party) = party {
            self.of_party[party] = None;
        }
        self.driver.close(key(index));
        self.dial_at = Some(Instant::now() + DIAL_AGAIN);
    }

    fn dial(&mut self, now: Instant) -> io::Result<()> {
        self.dial_at = None;
        for party in 0..self.me.min(self.addresses.len()) {
            if self.of_party[party].is_some() {
                continue;
            }
            let index = self.place(Some(party), false);
            if self
                .driver
                .connect(key(index), self.addresses[party])
                .is_err()
            {
                self.connections[index] = None;
                self.dial_at = Some(now + DIAL_AGAIN);
                continue;
            }
            self.of_party[party] = Some(index);
        }
        Ok(())
    }

    /// The new connections.
    fn accept_all(&mut self) -> io::Result<Vec<usize>> {
        let mut accepted = Vec::new();
        loop {
            let index = self.place(None, true);
            match self.driver.accept(LISTENER, key(index)) {
                Ok(_) => accepted.push(index),
                Err(error) => {
                    self.connections[index] = None;
                    match error.kind() {
                        io::ErrorKind::WouldBlock => return Ok(accepted),
                        // What came was no greeting.
                        io::ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    fn place(&mut self, party: Option<usize>, open: bool) -> usize {
        let free = (1..self.connections.len()).find(|index| self.connections[*index].is_none());
        let index = free.unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[index] = Some(Connection {
            party,
            open,
            out: Vec::new(),
            written: 0,
            packet: None,
            rest: Vec::new(),
        });
        index
    }

    fn read(
        &mut self,
        index: usize,
        read_closed: bool,
        scratch: &mut Vec<u8>,
        service: &mut impl Serve,
    ) -> io::Result<()> {
        loop {
            let Some(connection) = &mut self.connections[index] else {
                return Ok(());
            };
            let held = connection.rest.len();
            let need = held + READ_BYTES_MAX;
            if scratch.len() < need {
                scratch.resize(need, 0);
            }
            scratch[..held].copy_from_slice(&connection.rest);
            connection.rest.clear();
            let count = match self.driver.read(key(index), &mut scratch[held..need]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.rest.extend_from_slice(&scratch[..held]);
                    return Ok(());
                }
                // A datagram met nobody; a stream is open only after somebody answered.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.dial_later(index);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let used = self.open(index, &scratch[..held + count], service);
            if let Some(connection) = &mut self.connections[index] {
                connection
                    .rest
                    .extend_from_slice(&scratch[used..held + count]);
            }
            if held + count < need && !read_closed {
                return Ok(());
            }
        }
    }

    /// Hands over every message of the whole packets in `bytes`, and says how many bytes those are.
    fn open(&mut self, index: usize, bytes: &[u8], service: &mut impl Serve) -> usize {
        let mut used = 0;
        while let Some(length) = u32_at(bytes, used) {
            let Some(packet) = bytes.get(used..used + length as usize) else {
                break;
            };
            let mut at = HEADER_BYTES;
            while let Some(length) = u32_at(packet, at) {
                at += FRAME_HEADER_BYTES;
                let message = &packet[at..at + length as usize];
                at += message.len();
                let heard = Heard {
                    kind: message[0],
                    number: u64::from_le_bytes(message[1..9].try_into().expect("eight bytes")),
                    bytes: message,
                };
                let party = self.connections[index].as_ref().and_then(|one| one.party);
                match party {
                    Some(from) => service.message(self, from, heard),
                    None => self.hello(index, heard),
                }
            }
            used += packet.len();
        }
        used
    }

    fn hello(&mut self, index: usize, heard: Heard<'_>) {
        let party = usize::try_from(heard.number).unwrap_or(usize::MAX);
        if heard.kind == HELLO && party < self.of_party.len() {
            self.of_party[party] = Some(index);
            if let Some(connection) = &mut self.connections[index] {
                connection.party = Some(party);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        (1..self.connections.len()).try_for_each(|index| self.write(index))
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else {
            return Ok(());
        };
        if let Some(bytes) = connection.close_packet() {
            // What leaves together is one packet here. The real links could not make fewer of it than this.
            self.counters.packets += bytes.div_ceil(self.packet_bytes_max) as u64;
        }
        if !connection.open {
            return Ok(());
        }
        while connection.written < connection.out.len() {
            match self
                .driver
                .write(key(index), &connection.out[connection.written..])
            {
                Ok(count) => {
                    connection.written += count;
                    self.counters.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        connection.out.clear();
        connection.written = 0;
        Ok(())
    }
}

impl Connection {
    /// Completes the packet, if there is one; its bytes.
    fn close_packet(&mut self) -> Option<usize> {
        let start = self.packet.take()?;
        let bytes = self.out.len() - start;
        self.out[start..start + 4].copy_from_slice(&wire_u32(bytes).to_le_bytes());
        Some(bytes)
    }
}

/// What a loop reads into. It grows to the largest packet.
#[derive(Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

fn key(index: usize) -> Key {
    Key(u32::try_from(index).expect("few connections"))
}

fn wire_u32(length: usize) -> u32 {
    u32::try_from(length).expect("messages are below 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
