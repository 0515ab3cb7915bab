//! Nodes that keep their state in a database, beside nodes that keep it in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::support::{PATIENCE, Testnet, end_of, eventually, run, twostep};

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
/// A database with hardly any cache.
const DISK: [&str; 4] = ["--state", "disk", "--state-cache-bytes", "1048576"];

/// What nodes 0 to 3, the learners, are started with; the others execute nothing.
type Forms = [&'static [&'static str]; 4];

fn start(testnet: &mut Testnet, forms: Forms) {
    for node in 0..6 {
        testnet.start(node, forms.get(node).unwrap_or(&&[][..]));
    }
    testnet.wait_ready();
    for (node, form) in forms.iter().enumerate() {
        let status = eventually("a status", || testnet.status(node));
        let expected = if form.contains(&"disk") {
            "disk"
        } else {
            "memory"
        };
        assert_eq!(status["state"], expected, "node {node}");
    }
}

/// More than the changes that wait in memory and the cache hold together.
fn fill(testnet: &Testnet, letter: &str) {
    let (client, value) = (testnet.client(0), letter.repeat(100_000));
    for key in 0..40 {
        let key = format!("key {key}");
        testnet.call(&client, &["put", &key, &value]).ok();
    }
    testnet.call(&client, &["put", "letter", letter]).ok();
}

/// Many decrees.
fn load(testnet: &Testnet) {
    let client = testnet.client(0);
    let mut arguments = vec!["bench", "--cluster", client.to_str().unwrap()];
    arguments.extend(["--clients", "2", "--pipeline", "4", "--for", "1s"]);
    run(twostep(&arguments)).ok();
}

/// Waits until all learners have the same order, replies and state.
fn wait_equal(testnet: &Testnet) -> Value {
    eventually("all learners have the same state", || {
        let first = testnet.status(0)?;
        let equal = |node| Some(testnet.status(node)?["digests"] == first["digests"]);
        let equal = first["digests"].is_object() && equal(1)? && equal(2)? && equal(3)?;
        equal.then_some(first)
    })
}

#[test]
fn both_forms_agree_through_kills_snapshots_and_changes_of_form() {
    let mut testnet = Testnet::new(6, &SMALL);
    let lanes = &["--state", "disk", "--lanes", "2"];
    start(&mut testnet, [&DISK, &[], lanes, &[]]);
    fill(&testnet, "a");
    wait_equal(&testnet);

    // One of each form misses more than the logs hold, so each takes up a snapshot that the other form may have made.
    for node in [2, 3] {
        testnet.kill(node);
        fill(&testnet, "b");
        load(&testnet);
        testnet.start(node, if node == 2 { lanes } else { &[] });
        wait_equal(&testnet);
        let status = eventually("a status", || testnet.status(node));
        let installed = status["counters"]["snapshots.installed"].as_u64();
        assert!(installed > Some(0), "{status}");
    }

    // All at once; those that had it on disk have it in memory now, and the other way round.
    let before = wait_equal(&testnet);
    (0..6).for_each(|node| testnet.kill(node));
    start(&mut testnet, [&[], &DISK, &[], lanes]);
    let after = wait_equal(&testnet);
    assert!(after["executed"].as_u64() >= before["executed"].as_u64());
    let found = testnet.call(&testnet.client(0), &["get", "letter"]);
    assert_eq!(found.ok().stdout, "b\n");
    load(&testnet);
    wait_equal(&testnet);
}

#[test]
fn a_node_whose_database_is_damaged_ends_and_makes_it_anew() {
    let mut testnet = Testnet::new(6, &SMALL);
    start(&mut testnet, [&[], &[], &DISK, &[]]);
    fill(&testnet, "a");
    wait_equal(&testnet);

    let path = testnet.node(2).join("state/key-value.redb");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 1);
    file.write_all_at(&bytes, 0).unwrap();
    // Digests are made of all of it.
    assert!(
        testnet
            .status(2)
            .is_none_or(|status| status["digests"].is_null())
    );
    let ended = end_of(testnet.take(2), PATIENCE);
    assert!(!ended.status.success());
    let log = testnet.log(2);
    let told = "key-value.redb: cannot read all of it: the 4096 bytes at byte";
    assert!(log.contains(told), "{log}");
    assert!(
        log.contains("are not those that were written; nothing is lost"),
        "{log}"
    );
    assert!(!log.contains("panicked"), "{log}");

    // The others do without it; what is damaged is of no interest to its next start.
    load(&testnet);
    testnet.start(2, &DISK);
    wait_equal(&testnet);
    let found = testnet.call(&testnet.client(0), &["get", "letter"]);
    assert_eq!(found.ok().stdout, "a\n");
}

#[test]
fn only_the_key_value_store_has_a_form_on_disk() {
    let testnet = Testnet::new(6, &[]);
    run(testnet.node_command(0, &["--state", "disk", "--state-machine", "null"]))
        .refused("state = disk: only the key-value store has a form on disk");
    run(testnet.node_command(0, &["--state", "tape"]))
        .refused("expected memory or disk, found \"tape\"");
}
