//! The datagram driver: UDP by readiness, with batched calls. Linux only.
//!
//! ```text
//!  listening socket ── a Hello of an unknown address ──► accept: a socket of its own, bound to the same address, connected to the sender
//!  dialled          ──────────────────────────────────► a socket with a port of its own, connected to the node
//! ```
//!
//! Every link has a connected socket, on both sides. So the kernel finds the link of a datagram; the receive buffer of one peer cannot be filled by
//! another; a port where nobody listens answers with an error at once; and a process that starts again comes from another port, so that its
//! Hello meets no old link. The listening socket sees only strangers: whatever is no Hello is dropped without an answer.
//!
//! A datagram is one packet. [`read`](Driver::read) returns whole packets, one behind the other, and drops datagrams whose header tells another length;
//! [`write`](Driver::write) takes whole packets, sends runs of equal size as one (`UDP_SEGMENT`) and several runs per call, and never returns
//! in the middle of a packet. What the network refuses to carry is lost, as on the way; only an answer that nobody listens is reported.
//!
//! With a wildcard address to listen on, answers leave by the address that the route prefers: on a machine with several addresses, listen on the one
//! that peers dial.

mod mmsg;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, SockRef, Socket, Type};

use crate::driver::{Driver, Event, Key, Syscalls};
use crate::hello::{HELLO_BYTES, MAGIC};
use crate::packet::{HEADER_BYTES, Header, Kind, read_u32};
use crate::queue::WakeUp;
use mmsg::{Got, RUNS_MAX, Run};

/// Events taken from the kernel per wait; the rest comes with the next one.
const EVENTS_MAX: usize = 1024;
const WAKE_TOKEN: Token = Token(usize::MAX);
/// What is asked for as receive and send buffer of a link; the system's limits may give less.
const BUFFER_BYTES: usize = 4 << 20;
/// Most bytes that the kernel joins to one receipt.
const JOINED_BYTES_MAX: usize = 64 << 10;
/// Most bytes of one run: what fits into an IP packet of either version, headers left out.
const RUN_BYTES_MAX: usize = 65_000;
/// Most datagrams of one run, by the kernel's rule.
const RUN_PACKETS_MAX: usize = 64;
/// Most bytes of a stranger's datagram that are looked at: a Hello, of this version or another.
const FIRST_BYTES_MAX: usize = 1024;
/// Most bytes that wait for an accepted link because they came to the listening socket.
const EARLY_BYTES_MAX: usize = 4096;
/// Most receive calls per read, should they bring little.
const CALLS_PER_READ: usize = 16;

/// Connected datagram sockets in mio's poll.
pub struct UdpDriver {
    poll: Poll,
    events: Events,
    sockets: Vec<Option<Open>>,
    /// Accepted links by the address of their peer: what the listening socket still had of theirs is passed on.
    accepted: BTreeMap<SocketAddr, Key>,
    /// Sockets that may have more to read though no edge will say so.
    again: Vec<Key>,
    /// Whether the kernel cuts runs; until it has refused to once.
    segments: bool,
    receive_bytes: usize,
    wake_up: WakeUp,
    syscalls: Syscalls,
}

enum Open {
    Listener { socket: UdpSocket, addr: SocketAddr },
    Link(LinkSocket),
}

struct LinkSocket {
    socket: UdpSocket,
    /// Whole packets that came to the listening socket.
    early: Vec<u8>,
    /// In `accepted` under this address.
    accepted: Option<SocketAddr>,
    /// What the network said about a datagram that left earlier.
    unreachable: Option<io::Error>,
}

impl UdpDriver {
    /// A driver without sockets.
    ///
    /// # Errors
    /// When the operating system grants no poll, waker or datagram socket.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE_TOKEN)?;
        // A failed wake-up cannot be told to anybody here; the loop's next deadline then ends its sleep.
        let wake_up = WakeUp::new(move || drop(waker.wake()));
        let probe = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        probe.set_recv_buffer_size(BUFFER_BYTES)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            sockets: Vec::new(),
            accepted: BTreeMap::new(),
            again: Vec::new(),
            segments: true,
            receive_bytes: probe.recv_buffer_size()?,
            wake_up,
            syscalls: Syscalls::default(),
        })
    }

    fn put(&mut self, key: Key, open: Open) {
        let index = key.0 as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        assert!(
            self.sockets[index].is_none(),
            "a key names one socket at a time"
        );
        self.sockets[index] = Some(open);
    }

    fn add_link(
        &mut self,
        key: Key,
        socket: UdpSocket,
        peer: Option<SocketAddr>,
    ) -> io::Result<()> {
        // Without it datagrams come one by one, which costs time and nothing else.
        let _ = mmsg::join_on_arrival(&socket);
        self.poll.registry().register(
            &mut SourceFd(&socket.as_raw_fd()),
            token(key),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        if let Some(peer) = peer {
            self.accepted.insert(peer, key);
        }
        self.put(
            key,
            Open::Link(LinkSocket {
                socket,
                early: Vec::new(),
                accepted: peer,
                unreachable: None,
            }),
        );
        Ok(())
    }

    fn link(&mut self, key: Key) -> io::Result<&mut LinkSocket> {
        match self.sockets.get_mut(key.0 as usize) {
            Some(Some(Open::Link(link))) => Ok(link),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Driver for UdpDriver {
    fn name(&self) -> &'static str {
        "mio with datagrams"
    }

    fn listen(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr> {
        let socket = new_socket(addr)?;
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from(socket);
        let addr = socket.local_addr()?;
        self.poll.registry().register(
            &mut SourceFd(&socket.as_raw_fd()),
            token(key),
            Interest::READABLE,
        )?;
        self.put(key, Open::Listener { socket, addr });
        Ok(addr)
    }

    fn accept(&mut self, listener: Key, key: Key) -> io::Result<SocketAddr> {
        let Some(Some(Open::Listener { socket, addr })) = self.sockets.get(listener.0 as usize)
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.syscalls.reads += 1;
        let mut first = [0; FIRST_BYTES_MAX];
        let (count, peer) = socket.recv_from(&mut first)?;
        let first = &first[..count];
        if let Some(&known) = self.accepted.get(&peer) {
            let link = self.link(known)?;
            if is_packet(first) && link.early.len() + count <= EARLY_BYTES_MAX {
                link.early.extend_from_slice(first);
                self.again.push(known);
            }
            return Err(io::ErrorKind::Interrupted.into());
        }
        if !is_hello(first) {
            // A stranger gets no answer to what may be somebody else's address.
            return Err(io::ErrorKind::Interrupted.into());
        }
        let opened =
            join(socket, *addr, peer).and_then(|link| self.add_link(key, link, Some(peer)));
        opened.map_err(unless_shortage)?;
        self.link(key)?.early.extend_from_slice(first);
        Ok(peer)
    }

    fn connect(&mut self, key: Key, addr: SocketAddr) -> io::Result<()> {
        let socket = new_socket(addr)?;
        socket.connect(&addr.into())?;
        self.add_link(key, socket.into(), None)
    }

    fn connected(&mut self, key: Key) -> io::Result<bool> {
        // There is nothing to wait for: whether somebody is there shows when something is sent.
        self.link(key).map(|_| true)
    }

    fn read(&mut self, key: Key, into: &mut [u8]) -> io::Result<usize> {
        let link = self.link(key)?;
        if let Some(error) = link.unreachable.take() {
            self.again.push(key);
            return Err(error);
        }
        if !link.early.is_empty() && link.early.len() <= into.len() {
            let count = link.early.len();
            into[..count].copy_from_slice(&link.early);
            link.early.clear();
            self.again.push(key);
            return Ok(count);
        }
        let outcome = read_packets(&link.socket, into);
        // An error speaks of what was sent and hides what has come: look again.
        let more = match &outcome {
            Ok((_, _, more)) => *more,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if more {
            self.again.push(key);
        }
        let (count, calls, _) = outcome?;
        self.syscalls.reads += calls;
        if count == 0 {
            // Nothing but datagrams that are no packets: zero would mean the end.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    fn write(&mut self, key: Key, from: &[u8]) -> io::Result<usize> {
        let mut segments = self.segments;
        let link = self.link(key)?;
        let (mut wrote, mut calls, mut reported) = (0, 0, false);
        let mut runs = [Run::default(); RUNS_MAX];
        while wrote < from.len() {
            let count = plan(&from[wrote..], segments, &mut runs);
            calls += 1;
            match mmsg::send(&link.socket, &from[wrote..], &runs[..count]) {
                Ok(sent) => wrote += runs[..sent].iter().map(|run| run.bytes).sum::<usize>(),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if wrote > 0 => break,
                    io::ErrorKind::WouldBlock => return Err(error),
                    io::ErrorKind::ConnectionRefused => {
                        // It speaks of an earlier datagram; this one has not left yet.
                        if reported {
                            wrote += runs[0].bytes;
                        }
                        reported = true;
                        link.unreachable = Some(error);
                    }
                    _ if runs[0].segment < runs[0].bytes && cannot_cut(&error) => segments = false,
                    // No route, too long for it, no memory: lost, as on the way.
                    _ => wrote += runs[0].bytes,
                },
            }
        }
        self.segments = segments;
        self.syscalls.writes += calls;
        if reported {
            self.again.push(key);
        }
        Ok(wrote)
    }

    fn shutdown_write(&mut self, _: Key) {}

    fn close(&mut self, key: Key) {
        let socket = match self.sockets.get_mut(key.0 as usize).and_then(Option::take) {
            Some(Open::Link(link)) => {
                if let Some(peer) = link.accepted {
                    self.accepted.remove(&peer);
                }
                link.socket
            }
            Some(Open::Listener { socket, .. }) => socket,
            None => return,
        };
        // Closing the descriptor ends its registration; what `deregister` could report changes nothing.
        drop(
            self.poll
                .registry()
                .deregister(&mut SourceFd(&socket.as_raw_fd())),
        );
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = if self.again.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        self.syscalls.polls += 1;
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => {
                outcome?;
                for event in self
                    .events
                    .iter()
                    .filter(|event| event.token() != WAKE_TOKEN)
                {
                    events.push(Event {
                        key: Key(u32::try_from(event.token().0).expect("tokens are keys")),
                        readable: event.is_readable() || event.is_error(),
                        writable: event.is_writable(),
                        read_closed: false,
                    });
                }
            }
        }
        events.extend(self.again.drain(..).map(|key| Event {
            key,
            readable: true,
            writable: false,
            read_closed: false,
        }));
        Ok(())
    }

    fn wake_up(&self) -> WakeUp {
        self.wake_up.clone()
    }

    fn syscalls(&self) -> Syscalls {
        self.syscalls
    }

    fn receive_bytes(&self) -> usize {
        self.receive_bytes
    }
}

/// A socket with large buffers, as far as the system allows.
fn new_socket(family: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(family), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    Ok(socket)
}

/// A socket at the address `addr` of the listening socket, connected to `peer`.
fn join(listening: &UdpSocket, addr: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let link = new_socket(addr)?;
    link.set_reuse_address(true)?;
    // Only while another socket of ours joins the address may it be shared, so that a second node there is told that it is in use. What others
    // send before the new socket is connected may end in it: it does not verify there, and they send again.
    let shared = SockRef::from(listening);
    shared.set_reuse_address(true)?;
    let bound = link.bind(&addr.into());
    shared.set_reuse_address(false)?;
    bound?;
    link.connect(&peer.into())?;
    Ok(link.into())
}

/// An error of accepting as the loop shall see it. Only a lack of our own resources makes it pause; anything else comes from the address that the
/// stranger's datagram names (no route to it, a broadcast address, a firewall), which anybody can choose: the next stranger must not wait for it.
fn unless_shortage(error: io::Error) -> io::Error {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    match error.raw_os_error() {
        Some(code) if codes.contains(&code) => error,
        _ => io::Error::new(io::ErrorKind::Interrupted, error),
    }
}

/// Fills `into` with whole packets. Returns their bytes, the calls made, and whether more may wait.
fn read_packets(socket: &UdpSocket, into: &mut [u8]) -> io::Result<(usize, u64, bool)> {
    let slot = into.len().min(JOINED_BYTES_MAX);
    let mut got = [Got::default(); RUNS_MAX];
    let (mut count, mut calls) = (0, 0);
    while into.len() - count >= slot {
        if calls == CALLS_PER_READ as u64 {
            return Ok((count, calls, true));
        }
        calls += 1;
        let free = &mut into[count..];
        let slots = (free.len() / slot).min(RUNS_MAX);
        let filled = match mmsg::receive(socket, free, slot, &mut got) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((count, calls, false));
            }
            // What came before it is delivered first; the error is met again only if it lasts.
            Err(_) if count > 0 => return Ok((count, calls, true)),
            Err(error) => return Err(error),
        };
        count += compact(free, slot, &got[..filled]);
        if filled < slots {
            return Ok((count, calls, false));
        }
    }
    Ok((count, calls, true))
}

/// Moves the packets of all slots to the front of `bytes`, one behind the other, and drops what is none. Returns their bytes.
fn compact(bytes: &mut [u8], slot: usize, got: &[Got]) -> usize {
    let mut end = 0;
    for (at, got) in got.iter().enumerate().filter(|(_, got)| !got.cut) {
        let mut from = at * slot;
        let slot_end = from + got.bytes;
        while from < slot_end {
            let to = slot_end.min(from + got.segment);
            if is_packet(&bytes[from..to]) {
                if from != end {
                    bytes.copy_within(from..to, end);
                }
                end += to - from;
            }
            from = to;
        }
    }
    end
}

/// Cuts the front of `bytes`, which are whole packets, into runs. Returns how many.
fn plan(bytes: &[u8], segments: bool, runs: &mut [Run; RUNS_MAX]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() && count < RUNS_MAX {
        let segment = packet_bytes(&bytes[at..]);
        let (mut end, mut packets, mut last) = (at + segment, 1, segment);
        while segments && last == segment && packets < RUN_PACKETS_MAX && end < bytes.len() {
            last = packet_bytes(&bytes[end..]);
            if last > segment || end + last - at > RUN_BYTES_MAX {
                break;
            }
            end += last;
            packets += 1;
        }
        runs[count] = Run {
            bytes: end - at,
            segment,
        };
        count += 1;
        at = end;
    }
    count
}

/// Whether the kernel or the device says that it does not cut runs.
fn cannot_cut(error: &io::Error) -> bool {
    let codes = [libc::EINVAL, libc::EIO, libc::EMSGSIZE, libc::EOPNOTSUPP];
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// The length of the packet at the front of our own bytes.
fn packet_bytes(bytes: &[u8]) -> usize {
    let length = read_u32(bytes, 0) as usize;
    assert!(
        (HEADER_BYTES..=bytes.len()).contains(&length),
        "whole packets are written"
    );
    length
}

/// Whether a datagram is one packet by its length. Whose it is shows later.
fn is_packet(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES && read_u32(datagram, 0) as usize == datagram.len()
}

/// Whether a datagram is a Hello by its shape. It is at least as long as ours, so that answers do not outweigh it.
fn is_hello(datagram: &[u8]) -> bool {
    datagram.len() >= HELLO_BYTES && is_packet(datagram) && {
        let header = Header::read(datagram);
        header.tag == MAGIC && header.kind == Kind::Hello as u16
    }
}

fn token(key: Key) -> Token {
    Token(key.0 as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(length: usize, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; length];
        bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        bytes
    }

    fn packets(lengths: &[usize]) -> Vec<u8> {
        lengths
            .iter()
            .flat_map(|&length| packet(length, 7))
            .collect()
    }

    fn planned(lengths: &[usize], segments: bool) -> Vec<(usize, usize)> {
        let mut runs = [Run::default(); RUNS_MAX];
        let count = plan(&packets(lengths), segments, &mut runs);
        runs[..count]
            .iter()
            .map(|run| (run.bytes, run.segment))
            .collect()
    }

    #[test]
    fn runs_are_equal_packets_and_a_shorter_one() {
        assert_eq!(planned(&[100, 100, 60], true), [(260, 100)]);
        assert_eq!(
            planned(&[100, 60, 60, 100], true),
            [(160, 100), (60, 60), (100, 100)]
        );
        assert_eq!(planned(&[60, 100], true), [(60, 60), (100, 100)]);
        assert_eq!(planned(&[100, 100], false), [(100, 100), (100, 100)]);
        assert_eq!(planned(&[100; 65], true), [(6400, 100), (100, 100)]);
        assert_eq!(
            planned(&[1400; 50], true),
            [(46 * 1400, 1400), (4 * 1400, 1400)]
        );
        assert_eq!(planned(&[60_000; 20], true).len(), RUNS_MAX);
    }

    #[test]
    fn a_stranger_whose_address_cannot_be_reached_holds_up_nobody() {
        let listening = new_socket("0.0.0.0:0".parse().unwrap()).unwrap();
        listening
            .bind(&"0.0.0.0:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let listening = UdpSocket::from(listening);
        let addr = listening.local_addr().unwrap();
        // Connecting to it is forbidden without the option for broadcasts; without any network there is no route to it.
        let nobody = "255.255.255.255:9".parse().unwrap();
        let error = join(&listening, addr, nobody).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(unless_shortage(error).kind(), io::ErrorKind::Interrupted);
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let error = unless_shortage(io::Error::from_raw_os_error(code));
            assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        }
        join(&listening, addr, "127.0.0.1:9".parse().unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_packet_is_dropped_and_the_rest_closes_up() {
        let mut bytes = vec![0; 3 * 1000];
        let slots = [
            [packet(100, 1), packet(100, 2), packet(40, 3)].concat(),
            vec![9; 500],
            [packet(32, 4), vec![0; 31]].concat(),
        ];
        for (at, slot) in slots.iter().enumerate() {
            bytes[at * 1000..at * 1000 + slot.len()].copy_from_slice(slot);
        }
        let got = |bytes, segment| Got {
            bytes,
            segment,
            cut: false,
        };
        let count = compact(
            &mut bytes,
            1000,
            &[got(240, 100), got(500, 500), got(63, 32)],
        );
        let expected = [packet(100, 1), packet(100, 2), packet(40, 3), packet(32, 4)].concat();
        assert_eq!(&bytes[..count], expected);
        let mut cut = packet(100, 1);
        assert_eq!(
            compact(
                &mut cut,
                100,
                &[Got {
                    cut: true,
                    ..got(100, 100)
                }]
            ),
            0
        );
    }
}
