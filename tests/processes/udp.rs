//! Clusters over UDP: the same order, with and without loss; and who does not fit is told why.

use std::fs;

use serde_json::Value;

use crate::support::{Testnet, control, eventually, run, twostep};

const UDP: &[&str] = &["--transport", "udp", "--faults", "true"];

fn assert_clean(report: &Value) {
    assert!(report["operations"].as_u64() > Some(0), "{report}");
    for name in ["gaps", "duplicates", "errors", "unverified"] {
        assert_eq!(report[name], 0, "{name} in {report}");
    }
}

fn bench(testnet: &Testnet, more: &[&str]) -> Value {
    let folder = testnet.client(0);
    let mut arguments = vec!["bench", "--json", "--for", "3s", "--cluster"];
    arguments.push(folder.to_str().unwrap());
    arguments.extend(more);
    run(twostep(&arguments)).json()
}

fn learners_agree(testnet: &Testnet) {
    eventually("the learners are at one state", || {
        let all: Option<Vec<Value>> = (0..4).map(|node| testnet.status(node)).collect();
        let all = all?;
        let first = &all[0]["digests"];
        (first.is_object() && all.iter().all(|status| status["digests"] == *first)).then_some(())
    });
}

#[test]
fn dev_runs_over_udp_with_a_clean_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = twostep(&["dev", "--transport", "udp", "--for", "3s", "--json"]);
    command.env("TMPDIR", folder.path());
    let ended = run(command);
    let verdict = ended.ok().json();
    assert_clean(&verdict);
    assert_eq!(verdict["clean"], true, "{verdict}");
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        0,
        "no file is left behind"
    );
}

/// Whole messages, however large; and whole datagrams, of which a message needs every one: so these are few per message here.
#[test]
fn loss_costs_time_and_nothing_else() {
    let testnet = Testnet::running(6, UDP);
    let few: &[&str] = &["--clients", "4", "--pipeline", "2"];
    for (lossy, load) in [
        (
            r#"{"request":"fault","direction":"out","loss_ppm":50000}"#,
            &[][..],
        ),
        (
            r#"{"request":"fault","direction":"out","datagram_loss_ppm":50000}"#,
            few,
        ),
    ] {
        for node in 0..6 {
            assert_eq!(control(&testnet, node, lossy), "\"done\"\n");
        }
        assert_clean(&bench(&testnet, load));
    }
    for node in 0..6 {
        let heal = r#"{"request":"heal"}"#;
        assert_eq!(control(&testnet, node, heal), "\"done\"\n");
    }
    learners_agree(&testnet);
}

#[test]
fn large_operations_travel_in_fragments() {
    let testnet = Testnet::running(6, &["--transport", "udp", "--mtu", "1200"]);
    let report = bench(
        &testnet,
        &["--op-bytes", "65536", "--clients", "4", "--pipeline", "2"],
    );
    assert_clean(&report);
    learners_agree(&testnet);
    for node in 0..6 {
        let status = eventually("a status", || testnet.status(node));
        let driver = status["driver"].as_str().unwrap_or_default().to_owned();
        assert!(driver.starts_with("mio with datagrams"), "{driver}");
    }
}

#[test]
fn whoever_differs_is_told() {
    let testnet = Testnet::running(6, UDP);
    let path = testnet.client(0).join("cluster.toml");
    let text = fs::read_to_string(&path).unwrap();
    let call = |text: String, expected: &str| {
        fs::write(&path, text).unwrap();
        let folder = testnet.client(0);
        let folder = folder.to_str().unwrap();
        run(twostep(&[
            "client",
            "get",
            "x",
            "--timeout",
            "3s",
            "--cluster",
            folder,
        ]))
        .refused(expected);
    };
    assert!(text.contains("mtu = 1472"), "{text}");
    call(
        text.replace("mtu = 1472", "mtu = 1200"),
        "`mtu` must be the same in all cluster files",
    );
    call(
        text.replace("transport = \"udp\"\n", "")
            .replace("mtu = 1472\n", ""),
        "refused",
    );
}

#[test]
fn flags_that_cannot_be_are_named() {
    let refused = |more: &[&str], expected: &str| {
        let mut arguments = vec!["testnet", "--dir", "/nowhere"];
        arguments.extend(more);
        run(twostep(&arguments)).refused(expected);
    };
    refused(
        &["--transport", "udp", "--mtu", "100"],
        "--mtu = 100: expected 1200 to 65000",
    );
    refused(&["--mtu", "9000"], "--mtu 9000: only with --transport udp");
}
