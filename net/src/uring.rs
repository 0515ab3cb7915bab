//! The driver over completions: TCP by `io_uring`, with one system call per turn of the loop.
//!
//! ```text
//!              turn n                       io_uring_enter                          turn n + 1
//!  read ◄── chunks of sockets      ┌─ sends of turn n, each tried at once     events: who has chunks,
//!  write ──► send buffers, queue ──┤  re-armed receives, cancels         ──►  room, connections, an end
//!                                  └─ then the wait, which runs receives
//! ```
//!
//! * **Receive**: one multishot receive per socket, into a ring of buffers shared by all (`uring/buffers.rs`). `read` copies from there.
//! * **Send**: `write` copies into the socket's own buffer, which the kernel owns until it has answered. The entry is tried when it is handed over, and
//!   a success is not answered: so the common send costs no completion and does not end the wait that the same call begins. What the socket has no
//!   room for is answered with the count, and its rest is handed over again, now to wait for room; until then `write` says `WouldBlock`.
//! * **Accept**: multishot. **Connect**: one entry. **Wake-up**: a multishot poll of an eventfd.
//! * From Linux 6.13 on, sockets stand in the ring's table of registered files as far as it reaches. Before, a socket taken out of the table was kept
//!   open while any older request on another registered socket lived (liburing issue 1192): one quiet link would have kept every connection that was
//!   closed after it began. There, all are used by their descriptors.
//! * **Close**: cancels what is under way. The socket's slot rests until the kernel has answered for all of it, so a late completion finds its
//!   own slot and never that of a socket that got the same key. Then the connection is shut down before its descriptor is closed, so that the other
//!   side hears of the end whoever else still holds the socket.
//!
//! `uring/submission.rs` is what goes to the kernel, `uring/completion.rs` what comes back; here stands what the loop asks for.
//!
//! Bounds: 2 MiB of receive buffers per loop; at most 256 KiB of send buffer per socket, which grows with use; connections accepted ahead of the
//! loop, about 128 per listener. The loop must stay on the thread of its first [`wait`](Driver::wait), as the ring does (`uring/ring.rs`).
//!
//! Source: DESIGN.md section 3, item 7; the kernel's `io_uring(7)` manual pages.

#![expect(unsafe_code, reason = "descriptors and memory pass through the kernel")]

mod buffers;
mod completion;
mod ring;
mod slot;
mod submission;
#[cfg(test)]
mod tests;

use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::driver::{Driver, Event, Key, Syscalls};
use crate::queue::WakeUp;
use crate::tcp;

use buffers::{Chunks, RecvBuffers};
use ring::Ring;
use slot::{
    Connecting, End, Listener, Operation, Role, SEND_BYTES_MAX, SendState, Slot, Stream,
    cancel_entry, error_of, tag,
};

pub use ring::Refused;

/// Receive buffers of a loop.
const RECV_BUFFERS: u16 = 64;
/// Bytes of each.
const RECV_BUFFER_BYTES: usize = 32 * 1024;
/// Connections that wait for the loop; with more, the kernel is asked to leave the rest in the listener's backlog.
const ACCEPTED_AHEAD: usize = 128;
const NO_SLOT: u32 = u32::MAX;
/// How long the end of a driver waits for the kernel's last answers; they take microseconds.
const END_PATIENCE: Duration = Duration::from_millis(100);

/// Sockets of one ring.
pub struct UringDriver {
    ring: Ring,
    buffers: RecvBuffers,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots by key.
    keys: Vec<u32>,
    /// Slots with changes that the loop has not been told.
    changed: Vec<u32>,
    /// Slots with sends that the kernel takes with the next call.
    trying: Vec<u32>,
    /// One of those wants to know at once, so that the call must not wait.
    hurry: bool,
    /// Slots whose receive has ended without the stream's end.
    unarmed: Vec<u32>,
    bell: Arc<OwnedFd>,
    bell_armed: bool,
    wake_up: WakeUp,
}

impl UringDriver {
    /// A driver without sockets.
    ///
    /// # Errors
    /// When the kernel, its settings or a filter of system calls refuse `io_uring`, or memory is short.
    pub fn new() -> Result<Self, Refused> {
        Self::with_buffers(RECV_BUFFERS, RECV_BUFFER_BYTES)
    }

    fn with_buffers(count: u16, buffer_bytes: usize) -> Result<Self, Refused> {
        let ring = Ring::new()?;
        let buffers =
            RecvBuffers::new(count, buffer_bytes).map_err(ring::at("allocating buffers"))?;
        buffers
            .register(ring.kernel())
            .map_err(ring::at("registering buffers"))?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| ring::at("making an eventfd")(error.into()))?;
        let bell = Arc::new(bell);
        let ringer = Arc::clone(&bell);
        // It fails only when the count is full, and then it rings already.
        let wake_up = WakeUp::new(move || {
            let _ = rustix::io::write(&ringer, &1u64.to_ne_bytes());
        });
        Ok(Self {
            ring,
            buffers,
            slots: Vec::new(),
            free: Vec::new(),
            keys: Vec::new(),
            changed: Vec::new(),
            trying: Vec::new(),
            hurry: false,
            unarmed: Vec::new(),
            bell,
            bell_armed: false,
            wake_up,
        })
    }

    fn slot_of(&mut self, key: Key) -> io::Result<(u32, &mut Slot)> {
        match self.keys.get(key.0 as usize) {
            Some(&index) if index != NO_SLOT => Ok((index, &mut self.slots[index as usize])),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Puts a socket into a free slot under `key`. Streams are registered; a listener is used too seldom for that.
    fn put(&mut self, key: Key, socket: OwnedFd, role: Role) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("slots are counted in 32 bits")
        });
        let at = key.0 as usize;
        if self.keys.len() <= at {
            self.keys.resize(at + 1, NO_SLOT);
        }
        assert!(self.keys[at] == NO_SLOT, "a key names one socket at a time");
        self.keys[at] = index;
        let registered =
            matches!(role, Role::Stream(_)) && self.ring.register_file(index, socket.as_raw_fd());
        let slot = &mut self.slots[index as usize];
        slot.key = Some(key);
        slot.registered = registered;
        slot.socket = Some(socket);
        slot.role = role;
        index
    }

    fn add_listener(&mut self, key: Key, socket: Socket) -> io::Result<SocketAddr> {
        let addr = internet(&socket.local_addr()?)?;
        let index = self.put(key, socket.into(), Role::Listener(Listener::default()));
        self.push_accept(index);
        Ok(addr)
    }

    /// Hands everything queued to the kernel, waits as asked, and takes what has completed.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.ring.enter(timeout)?;
        let taken = self.ring.all_taken();
        loop {
            while let Some(completion) = self.ring.completion() {
                self.completed(&completion);
            }
            if !self.ring.overflowed() {
                break;
            }
            self.ring.enter(Some(Duration::ZERO))?;
        }
        if taken {
            self.settle();
        }
        Ok(())
    }

    /// Closes the socket and frees the slot, when the loop has closed it and the kernel has answered for everything.
    fn free_if_done(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.key.is_some() || slot.in_flight > 0 || slot.socket.is_none() {
            return;
        }
        if matches!(slot.role, Role::Stream(_)) {
            shutdown(slot, Shutdown::Both);
        }
        if slot.registered {
            self.ring.register_file(index, -1);
        }
        self.slots[index as usize].clear();
        self.free.push(index);
    }

    /// Cancels everything and waits for the kernel's last answers. False when the kernel may still use our memory.
    fn end(&mut self) -> bool {
        match self.ring.is_issuer() {
            // The kernel has never seen an entry.
            None => return true,
            Some(false) => return false,
            Some(true) => {}
        }
        for key in 0..self.keys.len() {
            self.close(Key(u32::try_from(key).expect("keys have 32 bits")));
        }
        if self.bell_armed {
            // Its own answer comes under the name of the bell's poll, like the poll's last one.
            let entry = cancel_entry(Operation::Wake, 0).user_data(tag(Operation::Wake, 0));
            // SAFETY: the entry names no memory.
            unsafe { self.ring.push(entry) };
        }
        let in_flight =
            |driver: &Self| driver.bell_armed || driver.slots.iter().any(|slot| slot.in_flight > 0);
        let mut patience = 10;
        while in_flight(self) && patience > 0 {
            patience -= 1;
            if self.enter(Some(END_PATIENCE)).is_err() {
                return false;
            }
        }
        !in_flight(self)
    }
}

impl Driver for UringDriver {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn listen(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(tcp::BACKLOG)?;
        self.add_listener(key, socket)
    }

    fn listen_shared(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::from(tcp::listen_shared(addr)?);
        // The ring would answer at once that nobody waits, instead of waiting.
        socket.set_nonblocking(false)?;
        self.add_listener(key, socket)
    }

    fn accept(&mut self, listener: Key, key: Key) -> io::Result<SocketAddr> {
        let (index, slot) = self.slot_of(listener)?;
        let Role::Listener(listener) = &mut slot.role else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let Some(socket) = listener.accepted.pop_front() else {
            let error = listener.error.take();
            if !listener.armed && error.is_none() {
                self.push_accept(index);
            }
            return Err(error.map_or(io::ErrorKind::WouldBlock.into(), error_of));
        };
        let peer = SockRef::from(&socket).peer_addr();
        // Whoever connected may be gone again.
        let addr = internet(&peer.map_err(|_| io::ErrorKind::ConnectionAborted)?)?;
        tcp::configure(&socket)?;
        let index = self.put(key, socket, Role::Stream(Stream::default()));
        self.push_receive(index);
        Ok(addr)
    }

    fn connect(&mut self, key: Key, addr: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        tcp::configure(&socket)?;
        let addr = Box::new(SockAddr::from(addr));
        let index = self.put(key, socket.into(), Role::Stream(Stream::default()));
        let slot = &mut self.slots[index as usize];
        let entry = slot.connect_entry(index, &addr);
        slot.stream()?.connecting = Connecting::To(addr);
        self.push(index, entry);
        Ok(())
    }

    fn connected(&mut self, key: Key) -> io::Result<bool> {
        let (index, slot) = self.slot_of(key)?;
        let stream = slot.stream()?;
        match stream.connecting {
            Connecting::To(_) => Ok(false),
            Connecting::Failed(number) => Err(error_of(number)),
            Connecting::Done => {
                if !stream.armed && stream.end.is_none() && !stream.listed {
                    self.push_receive(index);
                }
                Ok(true)
            }
        }
    }

    fn read(&mut self, key: Key, into: &mut [u8]) -> io::Result<usize> {
        let Some(&index) = self
            .keys
            .get(key.0 as usize)
            .filter(|&&index| index != NO_SLOT)
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let stream = self.slots[index as usize].stream()?;
        let mut chunks = mem::take(&mut stream.chunks);
        let end = stream.end;
        let count = self.buffers.read(&mut chunks, into);
        let emptied = chunks.is_empty();
        self.slots[index as usize].stream()?.chunks = chunks;
        if emptied {
            self.list_unarmed(index);
        }
        match end {
            _ if count > 0 || into.is_empty() => Ok(count),
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(End::Closed) => Ok(0),
            Some(End::Failed(number)) => Err(error_of(number)),
        }
    }

    fn write(&mut self, key: Key, from: &[u8]) -> io::Result<usize> {
        let (index, slot) = self.slot_of(key)?;
        let stream = slot.stream()?;
        if let Some(End::Failed(number)) = stream.end {
            return Err(error_of(number));
        }
        if !matches!(stream.connecting, Connecting::Done) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if slot.sending.state == SendState::Trying {
            // Written twice in one turn, which only ends of links do: the first part goes at once.
            self.enter(Some(Duration::ZERO))?;
        }
        let slot = &mut self.slots[index as usize];
        let sending = &mut slot.sending;
        if sending.state != SendState::Idle {
            sending.wanted = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = from.len().min(SEND_BYTES_MAX);
        sending.bytes.clear();
        sending.bytes.extend_from_slice(&from[..count]);
        sending.sent = 0;
        sending.state = SendState::Trying;
        sending.wanted = count < from.len();
        let hurry = sending.wanted;
        let entry = slot.send_entry(index);
        self.hurry |= hurry;
        self.trying.push(index);
        self.push(index, entry);
        Ok(count)
    }

    fn shutdown_write(&mut self, key: Key) {
        let Ok((_, slot)) = self.slot_of(key) else {
            return;
        };
        if slot.sending.state == SendState::Idle {
            shutdown(slot, Shutdown::Write);
        } else {
            slot.sending.shutdown = true;
            self.hurry = true;
        }
    }

    fn close(&mut self, key: Key) {
        let Ok((index, _)) = self.slot_of(key) else {
            return;
        };
        self.keys[key.0 as usize] = NO_SLOT;
        let slot = &mut self.slots[index as usize];
        slot.key = None;
        slot.sending.wanted = false;
        let mut cancel = [None; 3];
        match &mut slot.role {
            Role::Listener(listener) => {
                listener.accepted.clear();
                cancel[0] = listener.armed.then_some(Operation::Accept);
            }
            Role::Stream(stream) => {
                let mut chunks: Chunks = mem::take(&mut stream.chunks);
                self.buffers.discard(&mut chunks);
                cancel[0] = stream.armed.then_some(Operation::Receive);
                cancel[1] =
                    matches!(stream.connecting, Connecting::To(_)).then_some(Operation::Connect);
            }
            Role::None => {}
        }
        if slot.sending.state == SendState::Waiting {
            cancel[2] = Some(Operation::Send);
        }
        for operation in cancel.into_iter().flatten() {
            self.push(index, cancel_entry(operation, index));
        }
        self.free_if_done(index);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.arm();
        let may_wait = self.changed.is_empty() && !self.hurry;
        self.enter(if may_wait {
            timeout
        } else {
            Some(Duration::ZERO)
        })?;
        for index in self.changed.drain(..) {
            let slot = &mut self.slots[index as usize];
            let changes = mem::take(&mut slot.changes);
            if let Some(key) = slot.key
                && (changes.readable || changes.writable)
            {
                events.push(Event {
                    key,
                    readable: changes.readable,
                    writable: changes.writable,
                    read_closed: changes.read_closed,
                });
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        // An error comes again with the next wait, if there is one.
        drop(self.enter(Some(Duration::ZERO)));
    }

    fn wake_up(&self) -> WakeUp {
        self.wake_up.clone()
    }

    fn syscalls(&self) -> Syscalls {
        Syscalls {
            polls: self.ring.enters(),
            ..Syscalls::default()
        }
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        if !self.end() {
            // The kernel may use our memory until it has torn the ring down, at a moment of its own. So it keeps it.
            self.buffers.leak();
            for slot in &mut self.slots {
                if matches!(slot.role, Role::Stream(_)) {
                    shutdown(slot, Shutdown::Both);
                }
                slot.socket = None;
                mem::forget(mem::take(&mut slot.sending.bytes));
                mem::forget(mem::take(&mut slot.role));
            }
        }
    }
}

fn shutdown(slot: &Slot, how: Shutdown) {
    if let Some(socket) = &slot.socket {
        // It fails when the connection is gone already, and then there is nobody to tell.
        drop(SockRef::from(socket).shutdown(how));
    }
}

fn internet(addr: &SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an internet address"))
}
