//! Links over real sockets on loopback: what works, and what strangers send. This crate runs the tests over mio; each other driver has a crate
//! of its own with the same tests.

mod common;
mod hostile;
mod lanes;
mod loopback;
mod scene;

use twostep_net::{DriverChoice, ReactorConfig};

/// What all loops of these tests run on.
fn config() -> ReactorConfig {
    ReactorConfig {
        driver: DriverChoice::Mio,
        ..ReactorConfig::default()
    }
}
