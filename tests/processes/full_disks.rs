//! Disks without room under nodes that serve clients: what clients are told, that nothing is lost, and how soon service is back.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Ended, PATIENCE, Testnet, control, end_of, eventually, run, twostep};

/// Service must be back so soon after there is room again.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// A load whose sessions are open before, recorded.
fn load(testnet: &Testnet, history: &Path) -> Command {
    let (client, history) = (testnet.client(0), history.to_str().unwrap().to_owned());
    let client = client.to_str().unwrap();
    let rate = [
        "bench",
        "--for",
        "8s",
        "--rate",
        "300",
        "--clients",
        "4",
        "--json",
    ];
    let files = ["--cluster", client, "--history", &history];
    twostep(&[&rate[..], &files[..]].concat())
}

/// A call of another client with one second of patience; how it ended and how long that took.
fn call(testnet: &Testnet, arguments: &[&str]) -> (Ended, Duration) {
    let client = testnet.client(1);
    let patience = ["client", "--timeout", "1s", "--cluster"];
    let all = [&patience[..], &[client.to_str().unwrap()], arguments].concat();
    let begun = Instant::now();
    let ended = run(twostep(&all));
    (ended, begun.elapsed())
}

fn set_full(testnet: &Testnet, nodes: &[usize], full: bool) {
    for node in nodes {
        let request =
            format!("{{\"request\":\"disk-fault\",\"lose_unsynced\":true,\"full\":{full}}}");
        assert_eq!(control(testnet, *node, &request), "\"done\"\n");
    }
}

fn without_room(full: &[usize], goes_on: bool) {
    let lossy = ["--faults", "true", "--disk-faults", "lose-unsynced"];
    let mut testnet = Testnet::running(6, &[&lossy[..], &["--clients", "2"]].concat());
    let history = testnet.dir.path().join("history");
    let bench = load(&testnet, &history).spawn().unwrap();
    let mut acknowledged: u64 = 0;
    let mut acknowledge = |ended: &Ended| {
        let told = ended.stdout.trim().parse().unwrap();
        assert!(told > acknowledged, "{told} after {acknowledged}");
        acknowledged = told;
    };
    acknowledge(call(&testnet, &["incr", "n"]).0.ok());
    thread::sleep(Duration::from_millis(500));

    set_full(&testnet, full, true);
    for node in full {
        eventually(&format!("node {node} says that its disk is full"), || {
            let status = testnet.status(*node)?;
            (status["journal"]["state"] == "full").then_some(())
        });
    }
    for _ in 0..3 {
        let (ended, took) = call(&testnet, &["incr", "n"]);
        if goes_on {
            acknowledge(ended.ok());
        } else {
            ended.refused("twostep: no session: ");
            assert!(took < Duration::from_secs(10), "told after {took:?}");
        }
    }
    // The first leader: who calls it hears that it is busy, and at once.
    if full.contains(&0) {
        testnet.wait_refused(0, "full");
    }

    set_full(&testnet, full, false);
    let begun = Instant::now();
    eventually("service is back", || {
        let (ended, _) = call(&testnet, &["incr", "n"]);
        ended.status.success().then(|| acknowledge(&ended))
    });
    let back = begun.elapsed();
    println!("disks of {full:?} full: service was back after {back:?}");
    assert!(back < BACK_WITHIN, "back after {back:?}");

    let report = end_of(bench, PATIENCE).json();
    for nothing in ["gaps", "duplicates", "errors", "unverified"] {
        assert_eq!(report[nothing], 0, "{nothing} in {report}");
    }
    run(twostep(&["check", history.to_str().unwrap(), "--json"])).ok();
    // All lose power: what was acknowledged was synced.
    for node in 0..6 {
        testnet.kill(node);
    }
    for node in 0..6 {
        testnet.start(node, &[]);
    }
    testnet.wait_ready();
    let found = testnet
        .call(&testnet.client(1), &["get", "n"])
        .ok()
        .stdout
        .clone();
    assert_eq!(found, format!("{acknowledged}\n"));
}

#[test]
fn one_full_disk_is_not_noticed() {
    without_room(&[0], true);
    without_room(&[5], true);
}

#[test]
fn with_more_full_disks_than_faults_clients_are_told_and_service_comes_back() {
    // Acceptors alone, then the leader and another learner.
    without_room(&[4, 5], false);
    without_room(&[0, 1], false);
}
