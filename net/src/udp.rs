//! The datagram driver: UDP by readiness, with batched calls. Linux only.
//!
//! ```text
//!  listening socket ── a Hello of an unknown address ──► a cookie goes back, nothing is kept
//!                   ── the same with the cookie ───────► accept: a socket of its own, bound to the same address, connected to the sender
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
//! How whole packets come and go stands in `udp/packets.rs`, how sockets are made in `udp/sockets.rs`, the system calls in `udp/mmsg.rs`.
//!
//! With a wildcard address to listen on, answers leave by the address that the route prefers: on a machine with several addresses, listen on the one
//! that peers dial.

mod mmsg;
mod packets;
mod sockets;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use crate::by_key::ByKey;
use crate::cookie::Cookies;
use crate::driver::{Driver, Event, Key, Syscalls};
use crate::hello::{DATAGRAM_HELLO_BYTES, MAGIC, cookie_packet, nonce_and_cookie};
use crate::packet::{Header, Kind};
use crate::queue::WakeUp;
use mmsg::{RUNS_MAX, Run};
use packets::{cannot_cut, is_packet, plan, read_packets};
use sockets::{BUFFER_BYTES, join, new_socket, unless_shortage};

/// Events taken from the kernel per wait; the rest comes with the next one.
const EVENTS_MAX: usize = 1024;
const WAKE_TOKEN: Token = Token(usize::MAX);
/// Most bytes of a stranger's datagram that are looked at: a Hello, of this version or another.
const FIRST_BYTES_MAX: usize = 1024;
/// Most bytes that wait for an accepted link because they came to the listening socket.
const EARLY_BYTES_MAX: usize = 4096;

/// Connected datagram sockets in mio's poll.
pub struct UdpDriver {
    poll: Poll,
    events: Events,
    sockets: ByKey<Open>,
    /// Accepted links by the address of their peer: what the listening socket still had of theirs is passed on.
    accepted: BTreeMap<SocketAddr, Key>,
    /// Sockets that may have more to read though no edge will say so.
    again: Vec<Key>,
    /// Whether the kernel cuts runs; until it has refused to once.
    segments: bool,
    /// What strangers must bring back; none where whoever comes is believed.
    cookies: Option<Cookies>,
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
            sockets: ByKey::default(),
            accepted: BTreeMap::new(),
            again: Vec::new(),
            segments: true,
            cookies: None,
            receive_bytes: probe.recv_buffer_size()?,
            wake_up,
            syscalls: Syscalls::default(),
        })
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
        self.sockets.put(
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
        match self.sockets.get_mut(key) {
            Some(Open::Link(link)) => Ok(link),
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
        self.sockets.put(key, Open::Listener { socket, addr });
        Ok(addr)
    }

    fn ask_for_cookies(&mut self, cookies: Cookies) {
        self.cookies = Some(cookies);
    }

    fn accept(&mut self, listener: Key, key: Key) -> io::Result<SocketAddr> {
        let Some(Open::Listener { socket, addr }) = self.sockets.get(listener) else {
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
        if let Some(cookies) = &self.cookies {
            let (nonce, cookie) = nonce_and_cookie(first);
            let now = Instant::now();
            if !cookies.takes(now, peer, &nonce, cookie) {
                let cookie = cookie_packet(&nonce, cookies.make(now, peer, &nonce));
                // Without room it is lost, as on the way: the Hello is said again.
                drop(socket.send_to(&cookie, peer));
                self.syscalls.writes += 1;
                return Err(io::ErrorKind::Interrupted.into());
            }
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
        let socket = match self.sockets.take(key) {
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

/// Whether a datagram is a Hello by its shape. It is at least as long as ours, so that answers do not outweigh it.
fn is_hello(datagram: &[u8]) -> bool {
    datagram.len() >= DATAGRAM_HELLO_BYTES && is_packet(datagram) && {
        let header = Header::read(datagram);
        header.tag == MAGIC && header.kind == Kind::Hello as u16
    }
}

fn token(key: Key) -> Token {
    Token(key.0 as usize)
}
