//! `chaos`: that it passes where all is well, finds what is not, and leaves nothing behind; and clocks that jump in real nodes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Ended, Testnet, control, end_of, eventually, processes_of, run, twostep};

/// How long a small run may take: each of its rounds may wait 45 s for a cluster that does not come back.
const LASTS_MAX: Duration = Duration::from_secs(180);

fn command(folder: &Path, more: &[&str]) -> Command {
    let mut arguments = vec!["chaos", "--json"];
    arguments.extend(more);
    let mut command = twostep(&arguments);
    command.env("TMPDIR", folder);
    command
}

fn nothing_is_left(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_of(folder), [0_u32; 0]);
}

/// Runs it with its temporary files in a folder, in which nothing is left afterwards.
fn chaos(more: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let ended = end_of(command(folder.path(), more).spawn().unwrap(), LASTS_MAX);
    nothing_is_left(folder.path());
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
    let ended = chaos(&["--rounds", "6", "--seed", "11"]);
    ended.ok();
    let verdict = ended.json();
    clean(&verdict);
    assert_eq!(
        (&verdict["seed"], &verdict["rounds"]),
        (&11.into(), &6.into())
    );
    for counted in ["operations", "longest_unavailability_ms"] {
        assert!(verdict[counted].as_u64() > Some(100), "{verdict}");
    }
    assert!(ended.stdout.starts_with("seed 11: repeat with --seed 11\n"));
}

#[test]
fn the_power_of_all_goes_again_and_again() {
    let power_cuts = ["--only", "kill-all", "--rounds", "3"];
    let ended = chaos(&[&power_cuts[..], &["--disk-fault", "lose-unsynced"]].concat());
    ended.ok();
    let verdict = ended.json();
    clean(&verdict);
    assert_eq!(verdict["kills"], 18);
    assert_eq!(verdict["troubles"]["kill-all"]["times"], 3);
}

#[test]
fn who_was_away_for_rounds_comes_back_far_behind() {
    let ended = chaos(&["--only", "away", "--rounds", "5"]);
    ended.ok();
    let verdict = ended.json();
    clean(&verdict);
    // Nobody is away while another one is.
    let kills = verdict["kills"].as_u64().unwrap();
    assert!((1..5).contains(&kills), "{verdict}");
}

/// If this fails the tests above say nothing. With this seed syncs are slow before all three cuts.
#[test]
fn nodes_that_break_their_word_are_found() {
    for broken in ["ignored-syncs", "told-early"] {
        let faults = format!("lose-unsynced,{broken}");
        let power_cuts = ["--only", "kill-all", "--rounds", "3", "--seed", "5"];
        let ended = chaos(&[&power_cuts[..], &["--disk-fault", &faults]].concat());
        assert!(!ended.status.success(), "{broken}: {ended:?}");
        let verdict = ended.json();
        assert!(verdict["lost"].as_u64() > Some(0), "{broken}: {verdict}");
        assert_eq!(verdict["linearizable"], false, "{broken}: {verdict}");
    }
}

/// Late answers let every call be made again; without the session table it is executed again.
#[test]
fn what_is_executed_twice_is_found() {
    let twice = ["--session-table", "false"];
    let ended = chaos(
        &[
            &twice[..],
            &["--only", "delay", "--rounds", "3", "--seed", "41"],
        ]
        .concat(),
    );
    assert!(!ended.status.success(), "{ended:?}");
    let verdict = ended.json();
    assert!(verdict["duplicates"].as_u64() > Some(0), "{verdict}");
    assert_eq!(verdict["lost"], 0, "{verdict}");
}

#[test]
fn an_interrupt_ends_it_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &[]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains("round 1: ")));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let verdict: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
    clean(&verdict);
    end_of(child, LASTS_MAX).ok();
    nothing_is_left(folder.path());
}

#[test]
fn what_cannot_be_is_said() {
    let refused = |more: &[&str], expected: &str| {
        let mut arguments = vec!["chaos"];
        arguments.extend(more);
        run(twostep(&arguments)).refused(expected);
    };
    refused(
        &["--only", "kill-all", "--durability", "memory"],
        "nodes that forget when they end cannot all bear it",
    );
    refused(
        &["--disk-fault", "lose-unsynced", "--durability", "memory"],
        "--disk-fault: nodes with --durability memory have no disks",
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
