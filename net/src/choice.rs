//! Which driver a loop runs on, and why.
//!
//! Where `io_uring` is asked for and refused (an old kernel, the sysctl `kernel.io_uring_disabled`, a container's seccomp profile), the loop runs on mio, which does
//! the same, and says so: a node that does not start would help nobody.
//!
//! `auto` is io_uring where it is granted, else mio. Measured on a 2-core virtual machine (Linux 6.18) with nothing else to do, release build, f = 1, six
//! nodes and the load in processes of their own, key-value store, `twostep bench` with one driver for nodes and client, 2 s each, nine pairs of runs with both
//! drivers by turns. io_uring over mio within a pair: the median, and in brackets the second lowest and second highest:
//!
//! | load | p50 | operations per second | CPU of the nodes per operation |
//! |---|---|---|---|
//! | one call at a time (`--clients 1 --pipeline 1`) | 0.89 (0.83 to 0.95) | 1.17 (1.08 to 1.22) | 0.87 (0.84 to 0.98) |
//! | 32 sessions with 32 calls each | 0.99 (0.97 to 1.01) | 1.01 (0.99 to 1.03) | 0.98 (0.96 to 1.01) |
//!
//! One call into the kernel per turn instead of several pays where turns are small; under load the work of TCP within the calls is what costs.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::driver::Driver;
use crate::mio::MioDriver;
use crate::packet::{DATAGRAM_BYTES, DATAGRAM_BYTES_MAX, PACKET_BYTES_MIN};
use crate::reactor::ReactorConfig;

/// The driver that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// What measured best in general use.
    #[default]
    Auto,
    /// Readiness, by mio.
    Mio,
    /// Completions, by `io_uring`; mio where that is refused.
    Uring,
}

impl FromStr for DriverChoice {
    type Err = UnknownDriver;

    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        match name {
            "auto" => Ok(Self::Auto),
            "mio" => Ok(Self::Mio),
            "uring" => Ok(Self::Uring),
            _ => Err(UnknownDriver(name.to_owned())),
        }
    }
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Mio => "mio",
            Self::Uring => "uring",
        })
    }
}

/// A name that is no driver's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no driver: choose auto, mio or uring")]
pub struct UnknownDriver(String);

/// How bytes travel. All nodes and clients of a cluster use the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Streams, without delay.
    #[default]
    Tcp,
    /// Datagrams: nothing waits for what was lost before it. Linux only.
    Udp,
}

/// How bytes travel, with all that both sides of a link must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Streams or datagrams.
    pub transport: Transport,
    /// Most bytes of a datagram, headers of UDP and IP left out: [`PACKET_BYTES_MIN`] to [`DATAGRAM_BYTES_MAX`]. Streams do not use it.
    pub mtu: usize,
}

impl Default for Carrier {
    /// Streams.
    fn default() -> Self {
        Self {
            transport: Transport::Tcp,
            mtu: DATAGRAM_BYTES,
        }
    }
}

impl Carrier {
    /// Makes a loop use it.
    ///
    /// # Panics
    /// Later, when the loop starts, if [`check`](Self::check) was not asked.
    pub fn apply(self, config: &mut ReactorConfig) {
        config.transport = self.transport;
        if self.transport == Transport::Udp {
            config.limits.packet.packet_bytes_max = self.mtu;
        }
    }

    /// Checks the bounds of the mtu.
    ///
    /// # Errors
    /// What was expected, and how to choose.
    pub fn check(self) -> Result<(), String> {
        if (PACKET_BYTES_MIN..=DATAGRAM_BYTES_MAX).contains(&self.mtu) {
            return Ok(());
        }
        Err(format!(
            "mtu = {}: expected {PACKET_BYTES_MIN} to {DATAGRAM_BYTES_MAX} bytes; {DATAGRAM_BYTES} fits into a frame of Ethernet, {PACKET_BYTES_MIN}              through every network, {DATAGRAM_BYTES_MAX} is for nodes on one machine",
            self.mtu
        ))
    }
}

/// A driver, and in words why it is this one.
pub struct Opened {
    /// Ready for its first socket.
    pub driver: Box<dyn Driver>,
    /// For the line at the start: "the default", "asked for".
    pub why: String,
}

/// Opens the driver that is asked for.
///
/// # Errors
/// When the operating system grants no poll or waker.
pub fn open(choice: DriverChoice, transport: Transport) -> io::Result<Opened> {
    open_with(choice, transport, uring)
}

/// The same, with `uring` to open the driver that may be refused.
fn open_with(
    choice: DriverChoice,
    transport: Transport,
    uring: impl FnOnce() -> Result<Box<dyn Driver>, String>,
) -> io::Result<Opened> {
    if transport == Transport::Udp {
        let why = match choice {
            DriverChoice::Auto => "the transport is UDP",
            DriverChoice::Mio => "asked for, and the transport is UDP",
            DriverChoice::Uring => {
                "io_uring was asked for, but the transport is UDP, which it does not carry"
            }
        };
        return Ok(Opened {
            driver: datagrams()?,
            why: why.to_owned(),
        });
    }
    let why = match choice {
        DriverChoice::Mio => "asked for".to_owned(),
        DriverChoice::Auto | DriverChoice::Uring => {
            let (granted, wanted) = if choice == DriverChoice::Auto {
                ("measured best", "io_uring is refused")
            } else {
                ("asked for", "io_uring was asked for and is refused")
            };
            match uring() {
                Ok(driver) => {
                    return Ok(Opened {
                        driver,
                        why: granted.to_owned(),
                    });
                }
                Err(refused) => format!("{wanted}: {refused}"),
            }
        }
    };
    Ok(Opened {
        driver: Box::new(MioDriver::new()?),
        why,
    })
}

#[cfg(target_os = "linux")]
fn datagrams() -> io::Result<Box<dyn Driver>> {
    Ok(Box::new(crate::udp::UdpDriver::new()?))
}

#[cfg(not(target_os = "linux"))]
fn datagrams() -> io::Result<Box<dyn Driver>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "the UDP transport needs Linux; use TCP",
    ))
}

#[cfg(target_os = "linux")]
fn uring() -> Result<Box<dyn Driver>, String> {
    match crate::uring::UringDriver::new() {
        Ok(driver) => Ok(Box::new(driver)),
        Err(refused) => Err(refused.to_string()),
    }
}

#[cfg(not(target_os = "linux"))]
fn uring() -> Result<Box<dyn Driver>, String> {
    Err("it needs Linux 6.1 or newer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse() -> Result<Box<dyn Driver>, String> {
        Err("setting up a ring: Operation not permitted".to_owned())
    }

    #[test]
    fn a_refused_ring_is_said_and_mio_runs() {
        let opened = open_with(DriverChoice::Uring, Transport::Tcp, refuse).unwrap();
        assert_eq!(opened.driver.name(), "mio");
        assert_eq!(
            opened.why,
            "io_uring was asked for and is refused: setting up a ring: Operation not permitted"
        );
        let opened = open_with(DriverChoice::Auto, Transport::Tcp, refuse).unwrap();
        assert_eq!(opened.driver.name(), "mio");
        assert_eq!(
            opened.why,
            "io_uring is refused: setting up a ring: Operation not permitted"
        );
    }

    #[test]
    fn whoever_asks_for_mio_gets_it_without_a_probe() {
        let opened =
            open_with(DriverChoice::Mio, Transport::Tcp, || unreachable!("probed")).unwrap();
        assert_eq!(opened.driver.name(), "mio");
    }

    #[test]
    fn datagrams_have_a_driver_of_their_own_whatever_is_asked_for() {
        for choice in [DriverChoice::Mio, DriverChoice::Auto, DriverChoice::Uring] {
            let opened = open_with(choice, Transport::Udp, || unreachable!("probed")).unwrap();
            assert_eq!(opened.driver.name(), "mio with datagrams");
            assert!(opened.why.contains("the transport is UDP"));
        }
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for choice in [DriverChoice::Auto, DriverChoice::Mio, DriverChoice::Uring] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!(
            "epoll".parse::<DriverChoice>().unwrap_err().to_string(),
            "\"epoll\" is no driver: choose auto, mio or uring"
        );
    }
}
