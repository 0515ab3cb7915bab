//! Real processes that lie, where their cluster was made for it.

use serde_json::Value;

use crate::support::{Testnet, control, eventually, run, twostep};

/// Runs `dev` with these flags and returns its verdict, which must be clean.
fn clean_verdict(arguments: &[&str]) -> Value {
    let mut all = vec!["dev", "--json"];
    all.extend(arguments);
    let ended = run(twostep(&all));
    let verdict = ended.ok().json();
    for name in ["gaps", "duplicates", "errors", "unverified"] {
        assert_eq!(verdict[name], 0, "{name} in {verdict}");
    }
    assert_eq!(verdict["learners_agree"], true, "{verdict}");
    verdict
}

fn number(verdict: &Value, name: &str) -> u64 {
    verdict[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {verdict}"))
}

#[test]
fn nobody_lies_where_it_is_not_allowed() {
    let mut testnet = Testnet::new(6, &[]);
    run(testnet.node_command(0, &["--first-start", "--misbehave", "silent"])).refused(
        "cluster.toml does not allow it; make a cluster for it with `twostep testnet --allow-misbehaviour`",
    );
    testnet.start(0, &["--first-start"]);
    eventually("it runs", || testnet.status(0));
    let answer = control(
        &testnet,
        0,
        r#"{"request":"misbehave","strategy":"silent"}"#,
    );
    assert!(
        answer.contains("this node does not lie; nodes of a cluster made with `twostep testnet --allow-misbehaviour`"),
        "{answer}"
    );
    assert_eq!(testnet.status(0).unwrap()["misbehaviour"], Value::Null);
}

#[test]
fn a_node_lies_from_the_start_or_when_it_is_told_to() {
    let mut testnet = Testnet::new(6, &["--allow-misbehaviour"]);
    run(testnet.node_command(5, &["--first-start", "--misbehave", "liar"]))
        .refused("--misbehave: there is no strategy `liar`; there are ");
    run(testnet.node_command(5, &["--first-start", "--misbehave", "slow-leader"]))
        .refused("strategy `slow-leader` is for nodes with another role");
    for node in 0..5 {
        testnet.start(node, &["--first-start"]);
    }
    testnet.start(5, &["--first-start", "--misbehave", "double-voter"]);
    testnet.wait_ready();
    let put = |value: &str| {
        let ended = testnet.call(&testnet.client(0), &["put", "key", value]);
        ended.ok();
    };
    put("one");
    eventually("node 5 has lied", || {
        let lying = testnet.status(5)?["misbehaviour"].clone();
        assert_eq!(lying["strategy"], "double-voter");
        lying["lies"].as_u64().filter(|lies| *lies > 0)
    });
    // One liar is what f = 1 bears; it may also change its mind.
    for (request, strategy) in [
        (r#"{"request":"misbehave"}"#, Value::Null),
        (
            r#"{"request":"misbehave","strategy":"silent"}"#,
            "silent".into(),
        ),
    ] {
        assert_eq!(control(&testnet, 5, request), "\"done\"\n");
        assert_eq!(
            testnet.status(5).unwrap()["misbehaviour"]["strategy"],
            strategy
        );
        put("two");
    }
    let wrong = control(&testnet, 5, r#"{"request":"misbehave","strategy":"liar"}"#);
    assert!(wrong.contains("there is no strategy `liar`"), "{wrong}");
}

/// A client that lies harms nobody else.
#[test]
fn clients_lie_where_it_is_allowed() {
    let bench = |testnet: &Testnet, strategy: &str| {
        let folder = testnet.client(0);
        let mut command = twostep(&["bench", "--for", "2s", "--clients", "2", "--pipeline", "2"]);
        command.args(["--json", "--misbehave", strategy, "--cluster"]);
        command.arg(folder);
        run(command)
    };
    let testnet = Testnet::new(6, &[]);
    bench(&testnet, "seq-reuser").refused("cluster.toml does not allow it");
    let testnet = Testnet::running(6, &["--allow-misbehaviour", "--clients", "2"]);
    bench(&testnet, "liar")
        .refused("there is no strategy `liar` of clients; there are bad-tag-one");
    for strategy in ["bad-tags-f1", "seq-reuser"] {
        let ended = bench(&testnet, strategy);
        let report = ended.ok().json();
        assert_eq!(report["misbehaved"]["strategy"], strategy);
        assert!(number(&report["misbehaved"], "lies") > 0, "{report}");
        let put = testnet.call(&testnet.client(1), &["put", "key", strategy]);
        put.ok();
    }
}

/// Whoever leads lies; another leader takes over, and nothing is lost, reordered or done twice.
#[test]
fn a_leader_that_lies_is_deposed() {
    for strategy in ["equivocating-leader", "censoring-leader"] {
        let flags = ["--for", "5s", "--rate", "1000", "--misbehave-at", "2s"];
        let mut all = flags.to_vec();
        all.extend(["--misbehave", strategy]);
        let verdict = clean_verdict(&all);
        let liar = &verdict["misbehaved"][0];
        assert_eq!(liar["strategy"], strategy);
        assert!(number(liar, "lies") > 0, "{verdict}");
        assert!(number(&verdict, "regency_changes") >= 1, "{verdict}");
        let left_out = &verdict["learners_left_out"][0];
        assert_eq!(left_out["node"], liar["node"], "{verdict}");
        let stall_ms = number(&verdict, "longest_stall_ms");
        eprintln!("{strategy}: the longest stall took {stall_ms} ms");
        assert!((1..4_000).contains(&stall_ms), "{verdict}");
    }
}

#[test]
fn a_partition_stops_the_order_until_it_heals() {
    let flags = ["--for", "6s", "--rate", "1000"];
    let mut all = flags.to_vec();
    all.extend(["--partition-at", "1s", "--heal-at", "2500ms"]);
    let verdict = clean_verdict(&all);
    let stall_ms = number(&verdict, "longest_stall_ms");
    assert!((1_400..6_000).contains(&stall_ms), "{verdict}");
}

/// What a flood is refused with costs little: cheap checks come first, and each peer gets only so many signatures checked.
#[test]
fn floods_are_refused_cheaply() {
    for strategy in ["flooder@3", "regency-flooder@3"] {
        let flags = ["--for", "4s", "--rate", "1000", "--misbehave"];
        let mut all = flags.to_vec();
        all.push(strategy);
        let verdict = clean_verdict(&all);
        assert_eq!(number(&verdict, "regency_changes"), 0, "{verdict}");
        for cost in verdict["costs"].as_array().unwrap() {
            if cost["node"] == 3 {
                continue;
            }
            assert!(number(cost, "refused") > 1_000, "{strategy}: {cost}");
            let refusing = cost["refused_cpu_s"].as_f64().unwrap();
            assert!(
                refusing > 0.0,
                "{strategy}: {cost} says what refusing costs"
            );
        }
    }
}
