//! The tests of links over `io_uring`. Where that is refused they run over mio, and the first test says so.

#[path = "../links/common.rs"]
mod common;
#[path = "../links/hostile.rs"]
mod hostile;
#[path = "../links/lanes.rs"]
mod lanes;
#[path = "../links/loopback.rs"]
mod loopback;
#[path = "../links/scene.rs"]
mod scene;

use twostep_net::{DriverChoice, ReactorConfig};

/// What all loops of these tests run on.
fn config() -> ReactorConfig {
    ReactorConfig {
        driver: DriverChoice::Uring,
        ..ReactorConfig::default()
    }
}

#[test]
fn the_ring_runs_or_is_refused_with_a_reason() {
    let lone = common::Setup::node(1).start();
    let (name, why) = lone.ask(|net| (net.driver_name(), net.driver_why().to_owned()));
    match name {
        "io_uring" => assert_eq!(why, "asked for"),
        other => {
            assert_eq!(other, "mio");
            assert!(why.contains("is refused: "), "{why}");
            eprintln!("these tests ran over mio: {why}");
        }
    }
}
