//! `dev`: a verdict, whatever happens meanwhile, and nothing left behind.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{end_of, eventually, processes_of, run, twostep};

/// `dev` in a temporary folder of its own.
fn dev(arguments: &[&str]) -> (Command, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut all = vec!["dev"];
    all.extend(arguments);
    let mut command = twostep(&all);
    command.env("TMPDIR", folder.path());
    (command, folder)
}

fn nothing_is_left(folder: &TempDir) {
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        0,
        "no file is left behind"
    );
    assert_eq!(
        processes_of(folder.path()),
        [0; 0],
        "no process is left behind"
    );
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Reads what `dev` says until it is ready, and the rest in the background so that it never blocks.
fn until_ready(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.starts_with("READY"));
    assert!(ready, "it ended before it was ready");
    thread::spawn(move || lines.count());
}

fn assert_clean(verdict: &Value) {
    for name in ["gaps", "duplicates", "errors", "unverified"] {
        assert_eq!(verdict[name], 0, "{name} in {verdict}");
    }
    assert_eq!(verdict["learners_agree"], true, "{verdict}");
    assert_eq!(verdict["clean"], true, "{verdict}");
}

#[test]
fn a_run_ends_with_a_clean_verdict_in_json() {
    let (command, folder) = dev(&["--for", "3s", "--json"]);
    let ended = run(command);
    ended.ok();
    assert!(
        ended.stdout.lines().any(|line| line.starts_with("READY")),
        "{ended:?}"
    );
    let verdict = ended.json();
    assert_clean(&verdict);
    assert_eq!(
        (
            verdict["mode"].as_str(),
            verdict["f"].as_u64(),
            verdict["nodes"].as_u64()
        ),
        (Some("fab"), Some(1), Some(6))
    );
    assert_eq!(
        verdict["learners_compared"],
        serde_json::json!([0, 1, 2, 3])
    );
    for name in [
        "ready_ms",
        "operations",
        "ops_per_s",
        "longest_stall_ms",
        "p50_us",
        "p99_us",
        "p999_us",
        "cpu_us_per_op",
    ] {
        assert!(
            verdict[name].as_f64().is_some_and(|number| number > 0.0),
            "{name} in {verdict}"
        );
    }
    nothing_is_left(&folder);
}

#[test]
fn crash_mode_runs_the_same_way() {
    let (command, folder) = dev(&["--mode", "crash", "--for", "2s", "--json"]);
    let ended = run(command);
    ended.ok();
    let verdict = ended.json();
    assert_clean(&verdict);
    assert_eq!(
        (verdict["mode"].as_str(), verdict["nodes"].as_u64()),
        (Some("crash"), Some(3))
    );
    nothing_is_left(&folder);
}

/// One that learns, and one that only accepts.
#[test]
fn a_killed_node_is_not_noticed_by_clients() {
    for node in [3, 5] {
        let (command, folder) = dev(&["--for", "4s", "--json", "--kill-at", &format!("1s={node}")]);
        let ended = run(command);
        ended.ok();
        let verdict = ended.json();
        assert_clean(&verdict);
        assert_eq!(
            (&verdict["unknown"], &verdict["busy"]),
            (&0.into(), &0.into()),
            "{verdict}"
        );
        assert_eq!(verdict["killed"], serde_json::json!([node]));
        let left_out = verdict["learners_left_out"].as_array().unwrap();
        assert_eq!(
            left_out
                .iter()
                .map(|one| one["node"].as_u64())
                .collect::<Vec<_>>(),
            if node == 3 { vec![Some(3)] } else { vec![] }
        );
        let pause = verdict["longest_pause_us"].as_u64().unwrap();
        assert!(
            pause < 1_000_000,
            "work goes on within a second, not after {pause} µs"
        );
        nothing_is_left(&folder);
    }
}

/// Another leader takes over, and nothing is lost, reordered or done twice on the way.
#[test]
fn the_leader_may_be_killed_as_any_other() {
    for mode in ["fab", "crash"] {
        let flags = ["--mode", mode, "--for", "5s", "--json"];
        let (mut command, folder) = dev(&flags);
        command.args(["--kill-leader-at", "2s"]);
        let ended = run(command);
        ended.ok();
        let verdict = ended.json();
        assert_clean(&verdict);
        let killed = verdict["killed"].as_array().unwrap();
        assert_eq!(killed.len(), 1, "whoever led then: {verdict}");
        let number = |name: &str| verdict[name].as_u64().unwrap();
        assert!(number("regency_changes") >= 1, "{verdict}");
        assert!(number("regency") >= number("regency_changes"), "{verdict}");
        // What it takes depends on the machine; that work went on before the end does not.
        let stall_ms = number("longest_stall_ms");
        eprintln!("mode {mode}: the longest stall took {stall_ms} ms");
        assert!((1..5_000).contains(&stall_ms), "{verdict}");
        let told = |line: &str| line.starts_with("regency ") && line.ends_with(" leads");
        assert!(ended.stdout.lines().any(told), "{ended:?}");
        nothing_is_left(&folder);
    }
}

#[test]
fn ctrl_c_ends_it_in_order() {
    let (mut command, folder) = dev(&[]);
    let mut child = command.spawn().unwrap();
    until_ready(&mut child);
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    signal(&child, Signal::INT);
    let ended = end_of(child, Duration::from_secs(5));
    ended.ok();
    assert!(began.elapsed() < Duration::from_secs(5));
    nothing_is_left(&folder);
}

#[test]
fn ctrl_c_twice_ends_it_at_once_and_leaves_nothing_either() {
    let (mut command, folder) = dev(&[]);
    let mut child = command.spawn().unwrap();
    until_ready(&mut child);
    signal(&child, Signal::INT);
    thread::sleep(Duration::from_millis(310));
    // It may have ended in order meanwhile.
    let _ = kill_process(Pid::from_child(&child), Signal::INT);
    let ended = end_of(child, Duration::from_secs(5));
    assert!(matches!(ended.status.code(), Some(0 | 130)), "{ended:?}");
    nothing_is_left(&folder);
}

#[test]
fn nodes_end_with_their_parent() {
    let (mut command, folder) = dev(&[]);
    let mut child = command.spawn().unwrap();
    until_ready(&mut child);
    assert_eq!(processes_of(folder.path()).len(), 6);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the nodes end", || {
        processes_of(folder.path()).is_empty().then_some(())
    });
}

#[test]
fn bad_flags_say_what_was_expected() {
    let cases: [(&[&str], &str); 15] = [
        (
            &["--for", "soon"],
            "expected a time such as 10s, 500ms or 2m, found \"soon\"",
        ),
        (
            &["--kill-at", "3"],
            "expected TIME=NODE such as 3s=4, found \"3\"",
        ),
        (&["--kill-at", "3s=6"], "there is no node 6, only 0 to 5"),
        (
            &["--kill-at", "1s=1", "--kill-at", "1s=2"],
            "at most f = 1 nodes may be faulty",
        ),
        (
            &["--kill-at", "1s=1", "--kill-leader-at", "2s"],
            "at most f = 1 nodes may be faulty",
        ),
        (
            &["--kill-leader-at", "0=1"],
            "expected a time such as 10s, 500ms or 2m, found \"0=1\"",
        ),
        (
            &["--kill-at", "1s=1", "--misbehave", "silent"],
            "at most f = 1 nodes may be faulty",
        ),
        (
            &["--misbehave", "liar"],
            "there is no strategy `liar`; there are ",
        ),
        (
            &["--misbehave", "silent@9"],
            "--misbehave: there is no node 9, only 0 to 5",
        ),
        (&["--misbehave-at", "2s"], "--misbehave <STRATEGY[@NODE]>"),
        (
            &["--mode", "crash", "--misbehave", "silent"],
            "--misbehave: mode crash bears nodes that stop, not nodes that lie",
        ),
        (
            &["--rate", "fast"],
            "expected calls per second such as 20000, a share of the peak such as 10% (1% to 200%), half or closed, found \"fast\"",
        ),
        (&["--f", "0"], "--f 0: expected 1 to 8"),
        (
            &["--t0-ms", "x"],
            "--t0-ms: expected a whole number, found \"x\"",
        ),
        (&["--mod", "crash"], "a similar argument exists: '--mode'"),
    ];
    for (arguments, expected) in cases {
        let (command, folder) = dev(arguments);
        run(command).refused(expected);
        nothing_is_left(&folder);
    }
}
