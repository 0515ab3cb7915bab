//! `chaos`: that it passes where all is well, finds what is not, and leaves nothing behind; and clocks that jump in real nodes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Ended, Testnet, control, end_of, eventually, processes_of, twostep};

/// How long a small run may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs it with its temporary files in `folder`, which are gone afterwards, and its nodes too.
fn chaos(folder: &Path, more: &[&str]) -> Ended {
    let mut arguments = vec!["chaos", "--json"];
    arguments.extend(more);
    let mut command: Command = twostep(&arguments);
    command.env("TMPDIR", folder);
    let ended = end_of(command.spawn().unwrap(), PATIENCE);
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_of(folder), [0_u32; 0]);
    ended
}

fn clean(verdict: &Value) {
    for nothing in ["violations", "lost", "duplicates"] {
        assert_eq!(verdict[nothing], 0, "{verdict}");
    }
    assert_eq!(verdict["linearizable"], true, "{verdict}");
    assert_eq!(verdict["learners_agree"], true, "{verdict}");
}

#[test]
fn whatever_happens_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &["--rounds", "8", "--seed", "11"]);
    ended.ok();
    let verdict = ended.json();
    clean(&verdict);
    assert_eq!(
        (&verdict["seed"], &verdict["rounds"]),
        (&11.into(), &8.into())
    );
    assert!(
        verdict["history"]["committed"].as_u64() > Some(100),
        "{verdict}"
    );
    assert!(ended.stdout.contains("seed 11: repeat with --seed 11"));
}

#[test]
fn the_power_of_all_goes_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(
        folder.path(),
        &[
            "--only",
            "kill-all",
            "--rounds",
            "3",
            "--disk-fault",
            "lose-unsynced",
        ],
    );
    ended.ok();
    let verdict = ended.json();
    clean(&verdict);
    assert_eq!(verdict["kills"], 18);
}

#[test]
fn nodes_that_break_their_word_are_found() {
    for broken in ["ignored-syncs", "told-early"] {
        let folder = tempfile::tempdir().unwrap();
        let faults = format!("lose-unsynced,{broken}");
        let ended = chaos(
            folder.path(),
            &[
                "--only",
                "kill-all",
                "--rounds",
                "10",
                "--seed",
                "5",
                "--disk-fault",
                &faults,
            ],
        );
        assert!(!ended.status.success(), "{broken}: {ended:?}");
        let verdict = ended.json();
        assert!(
            verdict["violations"].as_u64() > Some(0),
            "{broken}: {verdict}"
        );
    }
}

#[test]
fn what_cannot_be_is_said() {
    let refused = |more: &[&str], expected: &str| {
        let mut arguments = vec!["chaos"];
        arguments.extend(more);
        end_of(twostep(&arguments).spawn().unwrap(), PATIENCE).refused(expected);
    };
    refused(
        &["--only", "kill-all", "--durability", "memory"],
        "nodes that forget when they end cannot all bear it",
    );
    refused(&["--only", "lie", "--mode", "crash"], "not nodes that lie");
    refused(
        &["--rate", "1000000"],
        "expected 1 to 50000 calls per second",
    );
    refused(&["--disk-fault", "lose"], "expected some of lose-unsynced");
}

#[test]
fn clocks_that_jump_stop_nothing() {
    for lanes in ["1", "2"] {
        let testnet = Testnet::running(6, &["--faults", "true", "--lanes", lanes]);
        let client = testnet.client(0);
        let mut calls = 0;
        for jumps in [[60_000, -60_000], [-3_600_000, 3_600_000], [0, 0]] {
            for (node, ms) in [0, 1, 2, 3, 4, 5]
                .into_iter()
                .zip(jumps.into_iter().cycle())
            {
                let request = format!("{{\"request\":\"clock-offset\",\"ms\":{ms}}}");
                assert_eq!(control(&testnet, node, &request), "\"done\"\n");
            }
            for _ in 0..3 {
                testnet.call(&client, &["incr", "n"]).ok();
                calls += 1;
            }
        }
        let found = testnet.call(&client, &["get", "n"]).ok().stdout.clone();
        assert_eq!(found, format!("{calls}\n"));
        testnet.wait_ready();
        for node in 0..6 {
            let status = eventually("a status", || testnet.status(node));
            assert_eq!(status["journal"]["state"], "ok", "{status}");
        }
        let too_far = control(
            &testnet,
            0,
            "{\"request\":\"clock-offset\",\"ms\":86400001}",
        );
        assert!(
            too_far.contains("expected -86400000 to 86400000 ms"),
            "{too_far}"
        );
    }
    let testnet = Testnet::running(6, &[]);
    let refused = control(&testnet, 0, "{\"request\":\"clock-offset\",\"ms\":1}");
    assert!(refused.contains("takes no faults"), "{refused}");
}
