//! The driver that runs everywhere: TCP over the operating system's readiness interface, by mio (edge-triggered epoll on Linux).

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::by_key::ByKey;
use crate::driver::{Driver, Event, Key, Syscalls};
use crate::queue::WakeUp;
use crate::tcp;

/// Events taken from the kernel per wait; the rest comes with the next one.
const EVENTS_MAX: usize = 1024;
const WAKE_TOKEN: Token = Token(usize::MAX);

/// Sockets in mio's poll.
pub struct MioDriver {
    poll: Poll,
    events: Events,
    sockets: ByKey<Socket>,
    wake_up: WakeUp,
    syscalls: Syscalls,
}

enum Socket {
    Listener(TcpListener),
    Stream(TcpStream),
}

impl MioDriver {
    /// A driver without sockets.
    ///
    /// # Errors
    /// When the operating system grants no poll or waker.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE_TOKEN)?;
        // A failed wake-up cannot be told to anybody here; the loop's next deadline then ends its sleep.
        let wake_up = WakeUp::new(move || drop(waker.wake()));
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            sockets: ByKey::default(),
            wake_up,
            syscalls: Syscalls::default(),
        })
    }

    fn stream(&mut self, key: Key) -> io::Result<&mut TcpStream> {
        match self.sockets.get_mut(key) {
            Some(Socket::Stream(stream)) => Ok(stream),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn add_listener(&mut self, key: Key, mut listener: TcpListener) -> io::Result<SocketAddr> {
        self.poll
            .registry()
            .register(&mut listener, token(key), Interest::READABLE)?;
        let addr = listener.local_addr()?;
        self.sockets.put(key, Socket::Listener(listener));
        Ok(addr)
    }

    fn add_stream(&mut self, key: Key, mut stream: TcpStream) -> io::Result<()> {
        self.poll.registry().register(
            &mut stream,
            token(key),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.sockets.put(key, Socket::Stream(stream));
        Ok(())
    }
}

impl Driver for MioDriver {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn listen(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.add_listener(key, TcpListener::bind(addr)?)
    }

    fn listen_shared(&mut self, key: Key, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.add_listener(key, TcpListener::from_std(tcp::listen_shared(addr)?))
    }

    fn accept(&mut self, listener: Key, key: Key) -> io::Result<SocketAddr> {
        let Some(Socket::Listener(listener)) = self.sockets.get(listener) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (stream, addr) = listener.accept()?;
        tcp::configure(&stream)?;
        self.add_stream(key, stream)?;
        Ok(addr)
    }

    fn connect(&mut self, key: Key, addr: SocketAddr) -> io::Result<()> {
        let stream = TcpStream::connect(addr)?;
        tcp::configure(&stream)?;
        self.add_stream(key, stream)
    }

    fn connected(&mut self, key: Key) -> io::Result<bool> {
        let stream = self.stream(key)?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, key: Key, into: &mut [u8]) -> io::Result<usize> {
        self.syscalls.reads += 1;
        retry(|| self.stream(key)?.read(into))
    }

    fn write(&mut self, key: Key, from: &[u8]) -> io::Result<usize> {
        self.syscalls.writes += 1;
        retry(|| self.stream(key)?.write(from))
    }

    fn shutdown_write(&mut self, key: Key) {
        if let Ok(stream) = self.stream(key) {
            // It fails when the connection is gone already, and then there is nobody to tell.
            drop(stream.shutdown(Shutdown::Write));
        }
    }

    fn close(&mut self, key: Key) {
        match self.sockets.take(key) {
            // Closing the descriptor ends its registration; what `deregister` could report changes nothing.
            Some(Socket::Stream(mut stream)) => drop(self.poll.registry().deregister(&mut stream)),
            Some(Socket::Listener(mut listener)) => {
                drop(self.poll.registry().deregister(&mut listener));
            }
            None => {}
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.syscalls.polls += 1;
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        for event in self
            .events
            .iter()
            .filter(|event| event.token() != WAKE_TOKEN)
        {
            let key = Key(u32::try_from(event.token().0).expect("tokens are keys"));
            let ended = event.is_error() || event.is_read_closed();
            events.push(Event {
                key,
                readable: event.is_readable() || ended,
                writable: event.is_writable() || event.is_error(),
                read_closed: ended,
            });
        }
        Ok(())
    }

    fn wake_up(&self) -> WakeUp {
        self.wake_up.clone()
    }

    fn syscalls(&self) -> Syscalls {
        self.syscalls
    }
}

fn token(key: Key) -> Token {
    Token(key.0 as usize)
}

/// Repeats a call that a signal interrupted.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
