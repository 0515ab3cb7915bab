//! The tests of links over real sockets on loopback, with datagrams in the place of streams.

#[path = "../links/common.rs"]
mod common;
#[path = "../links/loopback.rs"]
mod loopback;
mod repair;
#[path = "../links/scene.rs"]
mod scene;
mod strangers;

use twostep_net::{Carrier, ReactorConfig, Transport};

/// What all loops of these tests run on.
fn config() -> ReactorConfig {
    let mut config = ReactorConfig::default();
    let carrier = Carrier {
        transport: Transport::Udp,
        ..Carrier::default()
    };
    carrier.apply(&mut config);
    config
}
