//! `bench`: what it prints for programs.

use serde_json::Value;

use crate::support::{run, twostep};

fn bench(more: &[&str]) -> Value {
    let mut arguments = vec!["bench", "--json"];
    if !more.contains(&"--clients") {
        arguments.extend(["--clients", "4", "--pipeline", "4"]);
    }
    arguments.extend(more);
    let ended = run(twostep(&arguments));
    ended.ok();
    ended.json()
}

fn positive(report: &Value, path: &str) -> f64 {
    let value = report.pointer(path).and_then(Value::as_f64);
    let value = value.unwrap_or_else(|| panic!("no number at {path} in {report}"));
    assert!(value > 0.0, "{path} is {value} in {report}");
    value
}

#[test]
fn the_floor_stands_beside_the_real_cluster() {
    let report = bench(&["--floor", "--rounds", "1", "--for", "200ms"]);
    for path in [
        "/operations",
        "/ops_per_s",
        "/cpu_us_per_op",
        "/nodes_cpu_us_per_op",
        "/clients_cpu_us_per_op",
        "/syscalls_per_op",
        "/messages_per_packet",
        "/lone/p50_us",
        "/key_value/ops_per_s",
        "/key_value/cpu_us_per_op",
        "/floor/p50_us",
        "/floor/cpu_us_per_op",
        "/floor/ops_per_s",
        "/floor/messages_per_packet",
        "/ratio/latency",
        "/ratio/cpu",
    ] {
        positive(&report, path);
    }
    assert_eq!(report["floor"]["messages_of_a_lone_operation"], 33);
    assert_eq!(
        report["checked"], false,
        "a null state machine has no answers to check"
    );
    assert_eq!(
        (&report["errors"], &report["unknown"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn by_datagrams_a_lone_operation_stands_beside_the_floor() {
    let report = bench(&[
        "--floor",
        "--rounds",
        "1",
        "--for",
        "200ms",
        "--transport",
        "udp",
    ]);
    for path in [
        "/ops_per_s",
        "/lone/p50_us",
        "/floor/p50_us",
        "/ratio/latency",
    ] {
        positive(&report, path);
    }
    let unmeasured = [&report["floor"]["ops_per_s"], &report["ratio"]["cpu"]];
    assert!(
        unmeasured.iter().all(|field| field.is_null()),
        "nothing repairs loss on the floor: {report}"
    );
}

#[test]
fn a_report_is_one_page_for_a_load_and_for_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let page = |name: &str, more: &[&str]| {
        let file = folder.path().join(name);
        let mut arguments = vec!["--report", file.to_str().unwrap()];
        arguments.extend(more);
        bench(&arguments);
        std::fs::read_to_string(file).unwrap()
    };
    let load = page("load.html", &["--for", "1200ms", "--rate", "10%"]);
    let comparison = page(
        "floor.html",
        &["--floor", "--rounds", "1", "--for", "100ms"],
    );
    for part in [
        "Throughput over time",
        "Latency by percentile",
        "calls due per second",
    ] {
        assert!(load.contains(part), "{part}");
    }
    for part in [
        "Real over floor",
        "loaded, floor",
        "Latency of a lone operation",
    ] {
        assert!(comparison.contains(part), "{part}");
    }
    for html in [load, comparison] {
        assert!(html.starts_with("<!doctype html>") && html.contains("<polyline"));
        assert!(
            !html.contains("http:") && !html.contains("src="),
            "it needs nothing else"
        );
    }
}

#[test]
fn what_a_load_cost_is_in_its_report() {
    let report = bench(&["--for", "200ms", "--state-machine", "null"]);
    let cpu = positive(&report, "/cpu_us_per_op");
    let nodes = positive(&report, "/nodes_cpu_us_per_op");
    let clients = positive(&report, "/clients_cpu_us_per_op");
    assert!((cpu - nodes - clients).abs() < 0.01, "{report}");
    positive(&report, "/syscalls_per_op");
    positive(&report, "/messages_per_packet");
    assert!(report["floor"].is_null(), "it was not asked for");
}

#[test]
fn a_history_is_written_and_judged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history");
    let path = file.to_str().unwrap();
    let report = bench(&["--for", "300ms", "--history", path]);
    let check = |path: &str| run(twostep(&["check", "--json", path]));
    let judged = check(path);
    judged.ok();
    let judged = judged.json();
    // Every session reads its key at the end.
    let calls = report["operations"].as_u64().unwrap() + 4;
    assert_eq!(judged["committed"], calls, "{judged}");
    assert_eq!(judged["keys"], 4);
    assert_eq!(judged["linearizable"], true);
    for nothing in ["violations", "lost", "duplicates", "undecided"] {
        assert_eq!(judged[nothing], 0, "{judged}");
    }

    // The same history with the last answer of one session taken back: its read at the end is one too high.
    let text = std::fs::read_to_string(&file).unwrap();
    let increment = text
        .lines()
        .rev()
        .find(|line| line.contains(" committed ") && line.contains(" 04"));
    let spoilt = text.replacen(&format!("{}\n", increment.unwrap()), "", 1);
    let lines = text.lines().count() - 2;
    let spoilt = spoilt.replace(&format!("end {lines}"), &format!("end {}", lines - 1));
    let other = folder.path().join("spoilt");
    std::fs::write(&other, spoilt).unwrap();
    let judged = check(other.to_str().unwrap());
    assert!(!judged.status.success());
    let judged = judged.json();
    assert_eq!(judged["linearizable"], false, "{judged}");
    assert_eq!(judged["duplicates"], 1, "{judged}");

    std::fs::write(&other, &text[..text.len() / 2]).unwrap();
    check(other.to_str().unwrap()).refused("spoilt");
    let mut again = vec!["bench", "--for", "100ms", "--history", path];
    again.extend(["--clients", "1"]);
    run(twostep(&again)).refused("cannot write the history");
}

/// What a learner missed is above every snapshot and more than logs of a megabyte hold.
#[test]
fn a_laggard_catches_up_from_journals() {
    let report = bench(&[
        "--laggard",
        "--missed",
        "30000",
        "--for",
        "3s",
        "--clients",
        "16",
        "--pipeline",
        "16",
        "--durability",
        "sync",
        "--log-bytes",
        "1048576",
    ]);
    for path in [
        "/laggard/missed_decrees",
        "/laggard/caught_up_s",
        "/laggard/ops_per_s/before",
        "/laggard/ops_per_s/down",
        "/laggard/ops_per_s/catching_up",
        "/laggard/share",
        "/laggard/resident_bytes_max",
        "/laggard/resident_bytes_max_of_others",
        "/laggard/archive_questions",
    ] {
        positive(&report, path);
    }
    assert!(report["laggard"]["missed_operations"].as_u64() >= Some(30_000));
    assert_eq!(
        (&report["gaps"], &report["duplicates"]),
        (&0.into(), &0.into())
    );
}
