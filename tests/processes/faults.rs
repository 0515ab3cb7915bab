//! Faults on the links of real processes, and what the session table is for.

use serde_json::Value;

use crate::support::{Testnet, control, run, twostep};

fn bench(testnet: &Testnet) -> Value {
    let folder = testnet.client(0);
    let arguments = [
        "bench",
        "--for",
        "3s",
        "--clients",
        "4",
        "--pipeline",
        "2",
        "--json",
        "--cluster",
    ];
    let arguments: Vec<&str> = arguments
        .into_iter()
        .chain([folder.to_str().unwrap()])
        .collect();
    run(twostep(&arguments)).json()
}

#[test]
fn faults_are_for_those_who_allow_them() {
    let mut testnet = Testnet::new(6, &[]);
    testnet.start(0, &["--first-start"]);
    crate::support::eventually("it runs", || testnet.status(0));
    let answer = control(&testnet, 0, r#"{"request":"fault","cut":true}"#);
    assert!(
        answer.contains("this node takes no faults; start it with --faults true"),
        "{answer}"
    );
}

/// Answers come after the clients' patience, so every request is sent again, signed, and ordered twice.
#[test]
fn the_session_table_is_what_keeps_late_answers_from_doing_things_twice() {
    for (sessions, expects_duplicates) in [("true", false), ("false", true)] {
        let testnet = Testnet::running(6, &["--faults", "true", "--session-table", sessions]);
        for node in 0..6 {
            let slow = r#"{"request":"fault","direction":"out","delay_min_us":150000,"delay_max_us":150000}"#;
            assert_eq!(control(&testnet, node, slow), "\"done\"\n");
        }
        let report = bench(&testnet);
        assert!(
            report["operations"].as_u64() > Some(0) && report["retries"].as_u64() > Some(0),
            "{report}"
        );
        assert_eq!(
            report["duplicates"].as_u64() > Some(0),
            expects_duplicates,
            "session table {sessions}: {report}"
        );
        if !expects_duplicates {
            assert_eq!(
                (&report["gaps"], &report["errors"]),
                (&0.into(), &0.into()),
                "{report}"
            );
        }
    }
}

#[test]
fn lossy_links_and_a_partition_that_heals_cost_time_and_nothing_else() {
    let testnet = Testnet::running(6, &["--faults", "true"]);
    for node in 0..6 {
        let lossy =
            r#"{"request":"fault","loss_ppm":50000,"duplicate_ppm":50000,"delay_max_us":2000}"#;
        assert_eq!(control(&testnet, node, lossy), "\"done\"\n");
    }
    // One way: node 2 hears nobody, and everybody hears node 2.
    assert_eq!(
        control(
            &testnet,
            2,
            r#"{"request":"fault","direction":"in","cut":true}"#
        ),
        "\"done\"\n"
    );
    let report = bench(&testnet);
    assert!(report["operations"].as_u64() > Some(0), "{report}");
    for name in ["gaps", "duplicates", "errors", "unverified"] {
        assert_eq!(report[name], 0, "{name} in {report}");
    }
    for node in 0..6 {
        assert_eq!(
            control(&testnet, node, r#"{"request":"heal"}"#),
            "\"done\"\n"
        );
    }
    crate::support::eventually("node 2 has caught up", || {
        let (mine, theirs) = (testnet.status(2)?, testnet.status(0)?);
        (mine["digests"].is_object() && mine["digests"] == theirs["digests"]).then_some(())
    });
}
