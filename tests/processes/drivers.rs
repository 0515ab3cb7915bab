//! Whole clusters over the driver that was asked for; the other tests run over the default.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Testnet, end_of, eventually, run, twostep};

/// What a node says of its driver when it was asked for `io_uring`. Where that is refused the reason is said, and mio does the same.
fn uring_or_why_not(status: &Value) {
    let driver = status["driver"].as_str().unwrap();
    assert!(
        driver == "io_uring (asked for)"
            || driver.starts_with("mio (io_uring was asked for and is refused: "),
        "{driver}"
    );
}

#[test]
fn a_cluster_and_its_client_run_over_io_uring() {
    let mut testnet = Testnet::new(6, &[]);
    for node in 0..6 {
        // Drivers are each node's own matter.
        let driver = if node == 4 { "mio" } else { "uring" };
        testnet.start(node, &["--first-start", "--driver", driver]);
    }
    testnet.wait_ready();
    for node in [0, 1, 2, 3, 5] {
        let status = testnet.status(node).unwrap();
        uring_or_why_not(&status);
        assert!(
            testnet
                .log(node)
                .contains(&format!("driver {}", status["driver"].as_str().unwrap())),
            "the log says it as well"
        );
    }
    assert_eq!(testnet.status(4).unwrap()["driver"], "mio (asked for)");
    let client = testnet.client(0);
    let call = |words: &[&str]| {
        let words = [words, &["--driver", "uring"]].concat();
        testnet.call(&client, &words).ok().stdout.clone()
    };
    call(&["put", "hello", "world"]);
    assert_eq!(call(&["get", "hello"]), "world\n");
    // A node that goes is missed by nobody; one that comes again gets its links back.
    testnet.kill(5);
    let client = testnet.client(0);
    testnet.call(&client, &["incr", "n"]).ok();
    let linked = |testnet: &Testnet, up: bool| {
        eventually(&format!("the link to node 5 is up: {up}"), || {
            let peers = testnet.status(0)?["peers"].as_array()?.clone();
            let five = peers.into_iter().find(|peer| peer["node"] == 5)?;
            (five["up"] == up).then_some(())
        });
    };
    linked(&testnet, false);
    testnet.start(5, &["--first-start", "--driver", "uring"]);
    linked(&testnet, true);
}

#[test]
fn a_load_over_io_uring_is_clean() {
    let bench = twostep(&["bench", "--for", "2s", "--json", "--driver", "uring"])
        .spawn()
        .unwrap();
    let ended = end_of(bench, Duration::from_secs(60));
    let report = ended.ok().json();
    assert!(
        report["operations"].as_u64().is_some_and(|count| count > 0),
        "{report}"
    );
    assert_eq!(report["errors"], 0, "{report}");
}

#[test]
fn a_driver_that_nobody_knows_is_refused() {
    let testnet = Testnet::new(6, &[]);
    run(testnet.node_command(0, &["--driver", "epoll"]))
        .refused("--driver: expected auto, mio or uring, found \"epoll\"");
}
