//! TCP as links want it: socket options, and when to dial again.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::fault::SplitMix;

/// The shortest pause before a connection is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A link that was up this long was good: the next pause is short again.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// A connection that is silent this long is probed: a client whose machine vanished must not hold its place.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(30);
/// Bytes that stay unacknowledged this long mean that the peer's machine or the way to it is gone.
const USER_TIMEOUT_MS: u32 = 10_000;

/// Connections that may wait to be accepted.
pub(crate) const BACKLOG: i32 = 1024;

/// Sets the options of a connection: no delay, since the loop coalesces itself; a silent peer is noticed.
pub(crate) fn configure(socket: impl AsFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE_AFTER)?;
    // Some kernels lack this one. Without it a dead peer is noticed later, by keep-alive.
    #[cfg(target_os = "linux")]
    let _ = sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS);
    Ok(())
}

/// A listener, not blocking, at an address that others of this process listen at as well: a new connection goes to one of them.
pub(crate) fn listen_shared(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// When to dial again: pauses double from 20 ms to 1 s, each with jitter, so that restarted nodes do not dial in step.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    pause: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { pause: PAUSE_MIN }
    }

    /// The moment to try again after a failure at `now`: half of the pause, and up to half of it more.
    pub fn next(&mut self, now: Instant, random: &mut SplitMix) -> Instant {
        let half = self.pause / 2;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        now + half + random.up_to(half)
    }

    /// A link that came up at `since` has ended at `now`.
    pub fn was_up(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= GOOD_AFTER {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_fall_back_after_a_good_link() {
        let mut backoff = Backoff::new();
        let mut random = SplitMix(1);
        let now = Instant::now();
        let mut bound = PAUSE_MIN;
        for _ in 0..12 {
            let pause = backoff.next(now, &mut random) - now;
            assert!(
                pause >= bound / 2 && pause <= bound,
                "{pause:?} of {bound:?}"
            );
            bound = (bound * 2).min(PAUSE_MAX);
        }
        backoff.was_up(now, now + Duration::from_millis(999));
        assert!(
            backoff.next(now, &mut random) - now >= PAUSE_MAX / 2,
            "a link that ended at once was not good"
        );
        backoff.was_up(now, now + GOOD_AFTER);
        assert!(backoff.next(now, &mut random) - now <= PAUSE_MIN);
    }
}
