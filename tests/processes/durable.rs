//! Nodes with journals: killed, all at once too, with disks that lose what was not synced, and with disks in trouble.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Testnet, control, eventually, run, twostep};

/// The end of a process is a power cut.
const LOSSY: [&str; 4] = ["--faults", "true", "--disk-faults", "lose-unsynced"];

fn restart(testnet: &mut Testnet, nodes: impl Iterator<Item = usize>) {
    for node in nodes {
        testnet.start(node, &[]);
    }
    testnet.wait_ready();
}

fn journal_file(testnet: &Testnet, node: usize) -> std::path::PathBuf {
    testnet.node(node).join("journal/segment-0000000001")
}

#[test]
fn a_killed_node_comes_back_as_what_it_was() {
    let mut testnet = Testnet::running(6, &LOSSY);
    let client = testnet.client(0);
    for _ in 0..5 {
        testnet.call(&client, &["incr", "n"]).ok();
    }
    // The leader, then a learner, then one that only accepts.
    for node in [0, 3, 5] {
        testnet.kill(node);
        let begun = Instant::now();
        restart(&mut testnet, node..node + 1);
        println!("node {node} was ready after {:?}", begun.elapsed());
        let status = eventually("a status", || testnet.status(node));
        assert!(status["abstaining"].is_null(), "{status}");
        assert_eq!(status["durability"], "sync");
        testnet.call(&client, &["incr", "n"]).ok();
    }
    assert_eq!(testnet.call(&client, &["get", "n"]).ok().stdout, "8\n");
    for node in [0, 3, 5] {
        eventually("it votes again", || {
            let status = testnet.status(node)?;
            status["counters"]["votes"]
                .as_u64()
                .filter(|votes| *votes > 0)
        });
    }
    let status = eventually("a status", || testnet.status(0));
    let journal = &status["journal"];
    assert_eq!(journal["state"], "ok");
    assert!(journal["records"].as_u64() > Some(0) && journal["bytes"].as_u64() > Some(0));
    assert!(
        status["stages"]["sync"]["count"].as_u64() > Some(0),
        "{status}"
    );
}

/// Calls `incr` until the power fails at all nodes at once. Gives the highest answer.
fn power_cut(testnet: &mut Testnet, client: &Path) -> Option<u64> {
    thread::scope(|scope| {
        let calling = scope.spawn(|| {
            let mut answers = Vec::new();
            loop {
                let mut arguments = vec!["client", "--timeout", "2s", "--cluster"];
                arguments.extend([client.to_str().unwrap(), "incr", "n"]);
                let ended = run(twostep(&arguments));
                if !ended.status.success() {
                    return answers;
                }
                answers.push(ended.stdout.trim().parse::<u64>().unwrap());
            }
        });
        thread::sleep(Duration::from_millis(700));
        for node in 0..6 {
            testnet.kill(node);
        }
        let answers = calling.join().unwrap();
        assert!(answers.is_sorted_by(|one, next| one < next), "{answers:?}");
        answers.last().copied()
    })
}

#[test]
fn what_was_acknowledged_outlives_the_power_of_all() {
    for lanes in ["1", "2"] {
        let mut arguments = LOSSY.to_vec();
        arguments.extend(["--lanes", lanes]);
        let mut testnet = Testnet::running(6, &arguments);
        let client = testnet.client(0);
        let mut acknowledged = 0;
        for _ in 0..4 {
            acknowledged = power_cut(&mut testnet, &client).unwrap_or(acknowledged);
            restart(&mut testnet, 0..6);
            let found = testnet.call(&client, &["get", "n"]).ok().stdout.clone();
            let found: u64 = found.trim().parse().unwrap();
            // The last call of each round may or may not have been executed.
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "acknowledged {acknowledged}, found {found}"
            );
            acknowledged = found;
        }
        assert!(acknowledged > 4, "something was done");
    }
}

/// If this fails the test above says nothing.
#[test]
fn journals_that_sync_nothing_or_speak_too_early_lose_what_was_acknowledged() {
    for bug in [
        "lose-unsynced,ignored-syncs",
        "lose-unsynced,told-early,hung",
    ] {
        let faults = ["--faults", "true", "--disk-faults", "lose-unsynced"];
        let mut testnet = Testnet::running(6, &faults);
        let client = testnet.client(0);
        testnet.call(&client, &["incr", "n"]).ok();
        let names = bug
            .split(',')
            .map(|name| format!("\"{}\":true", name.replace('-', "_")));
        let names = names.collect::<Vec<_>>().join(",");
        for node in 0..6 {
            let request = format!("{{\"request\":\"disk-fault\",{names}}}");
            assert_eq!(control(&testnet, node, &request), "\"done\"\n");
        }
        let acknowledged =
            power_cut(&mut testnet, &client).expect("they say what they may not say");
        assert!(acknowledged > 1, "{bug}");
        restart(&mut testnet, 0..6);
        let found = testnet.call(&client, &["get", "n"]);
        let found: u64 = found.stdout.trim().parse().unwrap_or(0);
        assert!(found < acknowledged, "{bug}: {found} of {acknowledged}");
    }
}

#[test]
fn a_journal_that_is_gone_damaged_or_another_nodes_is_told() {
    let mut testnet = Testnet::running(6, &[]);
    testnet.call(&testnet.client(0), &["put", "a", "1"]).ok();
    testnet.kill(3);
    let file = journal_file(&testnet, 3);
    let sound = fs::read(&file).unwrap();

    let mut damaged = sound.clone();
    damaged[4096 + 100] ^= 1;
    fs::write(&file, &damaged).unwrap();
    run(testnet.node_command(3, &[]))
        .refused("segment-0000000001: damaged at byte 41")
        .refused("remove the journal's folder");
    fs::write(&file, fs::read(journal_file(&testnet, 4)).unwrap()).unwrap();
    run(testnet.node_command(3, &[])).refused("the journal of node 4 of cluster");
    fs::write(&file, &sound[..sound.len() / 2]).unwrap();
    run(testnet.node_command(3, &[])).refused("damaged at byte 524288");

    fs::remove_dir_all(testnet.node(3).join("journal")).unwrap();
    testnet.start(3, &["--first-start"]);
    let status = eventually("node 3 is back", || testnet.status(3));
    assert_eq!(
        status["abstaining"]
            .as_str()
            .map(|why| why.starts_with("lost disk")),
        Some(true)
    );
    assert!(
        testnet
            .log(3)
            .contains("no journal, so this node has lost its disk")
    );
    eventually("node 3 learns", || {
        let (mine, theirs) = (testnet.status(3)?, testnet.status(0)?);
        (mine["executed"] == theirs["executed"]).then_some(())
    });
}

#[test]
fn a_node_whose_disk_is_full_says_so_and_comes_back() {
    let mut testnet = Testnet::running(6, &["--faults", "true"]);
    let client = testnet.client(0);
    testnet.call(&client, &["incr", "n"]).ok();
    let full = r#"{"request":"disk-fault","full":true}"#;
    let sound = r#"{"request":"disk-fault"}"#;
    assert_eq!(control(&testnet, 0, full), "\"done\"\n");
    // The leader's disk: others go on without it.
    for _ in 0..3 {
        testnet.call(&client, &["incr", "n"]).ok();
    }
    eventually("node 0 says so", || {
        let status = testnet.status(0)?;
        (status["journal"]["state"] == "full").then_some(())
    });
    assert_eq!(control(&testnet, 0, sound), "\"done\"\n");
    let begun = Instant::now();
    eventually("node 0 goes on", || {
        let (mine, theirs) = (testnet.status(0)?, testnet.status(1)?);
        let same = mine["executed"] == theirs["executed"];
        (same && mine["journal"]["state"] == "ok").then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
    // A disk that hangs does not keep a node from ending.
    let hung = r#"{"request":"disk-fault","hung":true}"#;
    assert_eq!(control(&testnet, 3, hung), "\"done\"\n");
    testnet.call(&client, &["incr", "n"]).ok();
    eventually("node 3 says so", || {
        let status = testnet.status(3)?;
        (status["journal"]["state"] == "failed").then_some(())
    });
    let child = testnet.take(3);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    crate::support::end_of(child, PATIENCE).ok();
    restart(&mut testnet, 3..4);
    assert_eq!(testnet.call(&client, &["get", "n"]).ok().stdout, "5\n");
}

#[test]
fn memory_and_journal_do_not_mix() {
    let mut testnet = Testnet::running(6, &[]);
    testnet.call(&testnet.client(0), &["put", "a", "1"]).ok();
    // It has promised with its journal, so without it it knows nothing.
    testnet.kill(5);
    testnet.start(5, &["--first-start", "--durability", "memory"]);
    let status = eventually("node 5 is back", || testnet.status(5));
    assert_eq!(
        (&status["durability"], &status["abstaining"]),
        (&"memory".into(), &"lost disk".into())
    );
    assert!(status["journal"].is_null());
    let refused = control(&testnet, 5, r#"{"request":"disk-fault"}"#);
    assert!(refused.contains("takes no faults"), "{refused}");
}
