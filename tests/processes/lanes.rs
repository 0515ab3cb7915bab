//! Nodes with several lanes: the same order, the same status, and who cannot have them is told why.

use serde_json::Value;

use crate::support::{Testnet, control, eventually, processes_of, run, twostep};

fn assert_clean(report: &Value) {
    assert!(report["operations"].as_u64() > Some(0), "{report}");
    for name in ["gaps", "duplicates", "errors", "unverified"] {
        assert_eq!(report[name], 0, "{name} in {report}");
    }
}

#[test]
fn learners_agree_with_any_number_of_lanes() {
    for lanes in ["2", "4"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = twostep(&["dev", "--lanes", lanes, "--for", "2s", "--json"]);
        command.env("TMPDIR", folder.path());
        let ended = run(command);
        let verdict = ended.ok().json();
        assert_clean(&verdict);
        assert_eq!(verdict["learners_agree"], true, "{verdict}");
        assert_eq!(verdict["clean"], true, "{verdict}");
        let left = processes_of(folder.path());
        assert_eq!(left, [0; 0], "no process is left behind");
    }
}

#[test]
fn a_node_with_lanes_tells_and_takes_what_others_do() {
    let mut testnet = Testnet::running(6, &["--lanes", "2", "--faults", "true"]);
    let client = testnet.client(0);
    testnet.call(&client, &["put", "hello", "world"]).ok();
    let counter = |node: usize, name: &str| {
        let status = eventually("a status", || testnet.status(node));
        status["counters"][name].as_u64().unwrap_or(0)
    };
    for node in 0..6 {
        let count = |name| counter(node, name);
        let (one, other, order) = (
            count("lane0.turns"),
            count("lane1.turns"),
            count("order.turns"),
        );
        assert!(one > 0 && other > 0 && order > 0, "{one} {other} {order}");
        assert!(count("net.turns") >= one + other, "the sum of all lanes");
        assert!(count("net.messages_in") > 0);
    }
    assert!(
        counter(0, "lane0.prechecked") + counter(0, "lane1.prechecked") > 0,
        "the leader's lanes checked a bundle"
    );
    // A fault reaches every lane.
    let cut = r#"{"request":"fault","cut":true}"#;
    let heal = r#"{"request":"heal"}"#;
    assert_eq!(control(&testnet, 5, cut), "\"done\"\n");
    eventually("node 0 hears node 5 no more", || {
        let status = testnet.status(0)?;
        let missing = status["missing"].as_array()?;
        missing.iter().find(|one| one["node"] == 5).map(|_| ())
    });
    assert_eq!(control(&testnet, 5, heal), "\"done\"\n");
    testnet.wait_ready();
    // A node that goes and comes back finds its links again, whichever lanes they come to.
    testnet.kill(3);
    testnet.call(&client, &["put", "hello", "again"]).ok();
    testnet.start(3, &[]);
    eventually("node 3 learns", || {
        let (mine, theirs) = (testnet.status(3)?, testnet.status(0)?);
        let same = mine["executed"] == theirs["executed"] && mine["digests"] == theirs["digests"];
        (same && mine["executed"].as_u64() > Some(0)).then_some(())
    });
}

#[test]
fn what_lanes_cannot_do_is_named() {
    let testnet = Testnet::new(6, &[]);
    let refused = |more: &[&str], expected: &str| {
        run(testnet.node_command(0, more)).refused(expected);
    };
    refused(&["--lanes", "0"], "lanes = 0: expected 1 to 64");
    refused(
        &["--pin", "first"],
        "expected cores such as 2 or 0,4-7, found \"first\"",
    );
    refused(
        &["--first-start", "--lanes", "2", "--pin", "1000"],
        "cannot pin the loop to core 1000",
    );
    let taken = format!("127.0.0.1:{}", testnet.base_port);
    let _held = std::net::TcpListener::bind(&taken).unwrap();
    refused(&["--lanes", "2"], "the address is in use");
    let datagrams = Testnet::new(6, &["--transport", "udp"]);
    run(datagrams.node_command(0, &["--first-start", "--lanes", "2"]))
        .refused("cannot share a port among loops; use one lane, or TCP");
}
