//! Cookies: whoever says Hello by a datagram from a new address gets one back, and nothing else, until it says it again with the cookie.
//!
//! ```text
//! cookie = keyed blake3 (secret; period u64 | address [16] | port u16 | nonce [16]), 16 bytes
//! ```
//!
//! Anybody can write any address into a datagram. A cookie comes back only from where it was sent to, so a Hello with one costs its sender an
//! address of its own; before that a stranger costs two hashes and one short answer: no socket, no key agreement, no memory, no place among half-open
//! links. The answer is shorter than any Hello, so nobody is flooded through us.
//!
//! The period is part of what is hashed, which makes the secret of each period another one. A cookie is taken in the period in which it was made
//! and in the next one; after that it has lapsed, so what somebody collected at many addresses is soon worth nothing.
//! Source: RFC 9147 section 5.1 and RFC 9000 section 8.1, which do the same.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use twostep_crypto::{MacKey, Tag};

/// Bytes of a cookie.
pub const COOKIE_BYTES: usize = 16;

/// A period: a cookie lives for one to two of them. A dialler needs a round trip.
const PERIOD: Duration = Duration::from_secs(5);

/// Makes cookies and knows them again. It keeps nothing of those that it made.
pub struct Cookies {
    secret: MacKey,
    began: Instant,
}

impl Cookies {
    /// Cookies that nobody else can make: the secret is drawn now and never told.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self::new(secret, Instant::now()))
    }

    fn new(secret: [u8; 32], began: Instant) -> Self {
        Self {
            secret: MacKey::from_bytes(secret),
            began,
        }
    }

    /// The cookie of whoever says Hello with `nonce` from `from`.
    #[must_use]
    pub fn make(&self, now: Instant, from: SocketAddr, nonce: &[u8; 16]) -> [u8; COOKIE_BYTES] {
        self.of_period(self.period(now), from, nonce).0
    }

    /// Whether `cookie` is one that we made for this address and nonce, and has not lapsed.
    #[must_use]
    pub fn takes(
        &self,
        now: Instant,
        from: SocketAddr,
        nonce: &[u8; 16],
        cookie: [u8; COOKIE_BYTES],
    ) -> bool {
        let period = self.period(now);
        [Some(period), period.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|period| self.of_period(period, from, nonce) == Tag(cookie))
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / PERIOD.as_secs()
    }

    fn of_period(&self, period: u64, from: SocketAddr, nonce: &[u8; 16]) -> Tag {
        let address = match from.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        self.secret.tag(&[
            &period.to_le_bytes(),
            &address.octets(),
            &from.port().to_le_bytes(),
            nonce,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 16] = [7; 16];

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_is_taken_from_its_address_with_its_nonce_and_no_other() {
        let now = Instant::now();
        let cookies = Cookies::new([1; 32], now);
        let mine = address("10.0.0.1:4000");
        let cookie = cookies.make(now, mine, &NONCE);
        assert!(cookies.takes(now, mine, &NONCE, cookie));
        for other in ["10.0.0.2:4000", "10.0.0.1:4001", "[::1]:4000"] {
            assert!(!cookies.takes(now, address(other), &NONCE, cookie));
        }
        assert!(!cookies.takes(now, mine, &[8; 16], cookie));
        assert!(!cookies.takes(now, mine, &NONCE, [0; COOKIE_BYTES]));
        assert!(!Cookies::new([2; 32], now).takes(now, mine, &NONCE, cookie));
        for bit in 0..128 {
            let mut bad = cookie;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!cookies.takes(now, mine, &NONCE, bad), "bit {bit}");
        }
    }

    #[test]
    fn an_old_cookie_lapses() {
        let began = Instant::now();
        let cookies = Cookies::new([1; 32], began);
        let mine = address("[2001:db8::1]:9");
        for at in [Duration::ZERO, PERIOD / 2, PERIOD * 7 + PERIOD / 3] {
            let made = began + at;
            let cookie = cookies.make(made, mine, &NONCE);
            assert!(cookies.takes(made + PERIOD, mine, &NONCE, cookie));
            assert!(!cookies.takes(made + 2 * PERIOD, mine, &NONCE, cookie));
        }
        // It cannot be kept from before the clock of cookies began.
        let early = cookies.make(began, mine, &NONCE);
        assert!(!cookies.takes(began + Duration::from_secs(3600), mine, &NONCE, early));
    }
}
