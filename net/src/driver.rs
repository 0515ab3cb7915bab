//! What a loop needs from the operating system: sockets by key, and a wait.
//!
//! The shape is that of readiness with edges, as epoll reports it. A driver over completions fits it too: it reads ahead into its own registered buffers and
//! reports `readable` when one has filled, hands the bytes out in [`read`](Driver::read), takes bytes into its own buffers in
//! [`write`](Driver::write), which the kernel owns until completion, and answers `WouldBlock` when those are used up. All drivers pass the same tests.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::cookie::Cookies;
use crate::queue::WakeUp;

/// Names a socket; the loop chooses it. Small and dense, so that drivers may index by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub u32);

/// What has changed at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which socket.
    pub key: Key,
    /// Bytes, connections or an end may be there to read.
    pub readable: bool,
    /// Room may be there to write, or a connection attempt has ended.
    pub writable: bool,
    /// The other side will send nothing more: read until the end, however little a read returns.
    pub read_closed: bool,
}

/// System calls that a driver made for data; those that open, set up and close sockets are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syscalls {
    /// Reads of sockets.
    pub reads: u64,
    /// Writes to sockets.
    pub writes: u64,
    /// Waits for events. Over completions these are all of them: they carry reads and writes along.
    pub polls: u64,
}

/// Sockets and a wait, for one loop.
///
/// Edges: after `readable` the loop reads until a read is short or says `WouldBlock`; after `writable` it writes until a write is short or says so.
pub trait Driver: Send {
    /// Its name, for the line that says at start which one is in use.
    fn name(&self) -> &'static str;

    /// Listens at `addr` under `key`, and returns the address in use (port 0 becomes a free one).
    ///
    /// # Errors
    /// Those of the operating system.
    fn listen(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr>;

    /// The same at an address that the loops of one process share: the operating system gives each connection to one of them.
    ///
    /// # Errors
    /// `Unsupported` where a driver has no such sockets; otherwise those of the operating system.
    fn listen_shared(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr> {
        let _ = (key, addr);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the {} driver cannot share a port among loops; use one lane, or TCP",
                self.name()
            ),
        ))
    }

    /// Asks strangers for a cookie before anything is done for them. Only where anybody can write any address: a stream's operating system asks by itself.
    fn ask_for_cookies(&mut self, cookies: Cookies) {
        let _ = cookies;
    }

    /// Takes one connection that waits at `listener`, under `key`.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; otherwise those of the operating system, such as too many open files.
    fn accept(&mut self, listener: Key, key: Key) -> io::Result<SocketAddr>;

    /// Begins to open a connection under `key`. `writable` reports the end of the attempt.
    ///
    /// # Errors
    /// Those of the operating system.
    fn connect(&mut self, key: Key, addr: SocketAddr) -> io::Result<()>;

    /// Whether the attempt begun under `key` has succeeded.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&mut self, key: Key) -> io::Result<bool>;

    /// Reads into `into`; zero bytes mean the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; otherwise those of the operating system.
    fn read(&mut self, key: Key, into: &mut [u8]) -> io::Result<usize>;

    /// Writes from the front of `from`, perhaps not all of it.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; otherwise those of the operating system.
    fn write(&mut self, key: Key, from: &[u8]) -> io::Result<usize>;

    /// Says to the other side that nothing more will come, and goes on reading.
    fn shutdown_write(&mut self, key: Key);

    /// Closes the socket. Its key may be used again.
    fn close(&mut self, key: Key);

    /// Adds what has changed to `events`; waits for it at most `timeout` (none: as long as it takes) or until woken up.
    ///
    /// # Errors
    /// Those of the operating system, other than interruption.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Hands to the operating system whatever was written, without waiting: for the end of a loop, which waits no more. Drivers whose writes are
    /// system calls have nothing to do.
    fn flush(&mut self) {}

    /// What ends a wait from other threads.
    fn wake_up(&self) -> WakeUp;

    /// System calls so far.
    fn syscalls(&self) -> Syscalls;

    /// Bytes of memory in which the operating system keeps what comes on one connection until it is read. Zero where the other side is held back instead.
    fn receive_bytes(&self) -> usize {
        0
    }
}
