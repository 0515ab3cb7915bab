//! Which driver a loop runs on, and why.

use std::io;

use crate::driver::Driver;
use crate::mio::MioDriver;

/// The driver that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// What measured best in general use.
    #[default]
    Auto,
    /// Readiness, by mio.
    Mio,
}

/// How bytes travel. All nodes and clients of a cluster use the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Streams, without delay.
    #[default]
    Tcp,
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
    let why = match choice {
        DriverChoice::Auto => "the default",
        DriverChoice::Mio => "asked for",
    };
    let driver: Box<dyn Driver> = match transport {
        Transport::Tcp => Box::new(MioDriver::new()?),
    };
    Ok(Opened {
        driver,
        why: why.to_owned(),
    })
}
