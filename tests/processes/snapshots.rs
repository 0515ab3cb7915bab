//! Nodes that missed more than any log holds, that lost their snapshots, or that go on from one.

use std::fs;

use serde_json::Value;

use crate::support::{Testnet, eventually, run, twostep};

/// Snapshots every 16 decrees, and logs that hold no more than the window.
const SMALL: [&str; 8] = [
    "--window",
    "32",
    "--checkpoint-every",
    "8",
    "--snapshot-every",
    "16",
    "--log-decrees",
    "32",
];

fn small(more: &[&str]) -> Vec<&'static str> {
    let more = more
        .iter()
        .map(|word| -> &'static str { word.to_string().leak() });
    SMALL.into_iter().chain(more).collect()
}

/// Many decrees, with few bundles in each.
fn load(testnet: &Testnet) {
    let client = testnet.client(0);
    let arguments = [
        "bench",
        "--cluster",
        client.to_str().unwrap(),
        "--clients",
        "2",
        "--pipeline",
        "4",
        "--for",
        "2s",
    ];
    run(twostep(&arguments)).ok();
}

/// Waits until a node has executed what node 0 has, with the same results and the same state.
fn wait_equal(testnet: &Testnet, node: usize) -> Value {
    eventually(&format!("node {node} has the state of node 0"), || {
        let (mine, theirs) = (testnet.status(node)?, testnet.status(0)?);
        let equal = mine["digests"].is_object() && mine["digests"] == theirs["digests"];
        equal.then_some(mine)
    })
}

fn count(status: &Value, name: &str) -> u64 {
    status["counters"][name].as_u64().unwrap_or(0)
}

fn missed_by_node_3(arguments: &[&str]) {
    let mut testnet = Testnet::running(6, &small(arguments));
    load(&testnet);
    testnet.kill(3);
    load(&testnet);
    testnet.start(3, &[]);
    let status = wait_equal(&testnet, 3);
    assert!(count(&status, "snapshots.installed") > 0, "{status}");
    assert!(count(&status, "snapshots.certified") > 0, "{status}");
    // It goes on with the others.
    load(&testnet);
    wait_equal(&testnet, 3);
}

#[test]
fn a_node_without_a_journal_takes_up_a_snapshot() {
    missed_by_node_3(&["--durability", "memory"]);
}

#[test]
fn a_node_with_lanes_takes_up_a_snapshot() {
    missed_by_node_3(&["--durability", "memory", "--lanes", "2"]);
}

#[test]
fn a_node_with_a_journal_takes_up_what_it_missed() {
    missed_by_node_3(&["--durability", "sync"]);
}

#[test]
fn nodes_go_on_from_their_snapshots_and_replace_those_that_are_damaged() {
    let mut testnet = Testnet::running(6, &small(&["--durability", "sync"]));
    load(&testnet);
    let before = eventually("a status", || testnet.status(0))["learned"].as_u64();
    for node in 0..6 {
        testnet.kill(node);
    }
    // One learner finds all its snapshots damaged.
    let folder = testnet.node(3).join("snapshots");
    let mut damaged = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "chunks") {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "it had snapshots on its disk");
    for node in 0..6 {
        testnet.start(node, &[]);
    }
    testnet.wait_ready();
    assert!(
        testnet
            .log(0)
            .contains("the state begins at the snapshot after decree"),
        "{}",
        testnet.log(0)
    );
    let status = wait_equal(&testnet, 3);
    assert!(status["learned"].as_u64() >= before, "nothing is lost");
    assert!(
        status["abstaining"].is_null(),
        "its promises are in the journal"
    );
    load(&testnet);
    wait_equal(&testnet, 3);
}
