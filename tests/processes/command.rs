//! The command's faces that need no cluster.

use crate::support::{run, twostep};

#[test]
fn testnet_refuses_what_cannot_be_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let testnet = |arguments: &[&str]| {
        let mut all = vec!["testnet", "--dir", dir];
        all.extend(arguments);
        run(twostep(&all))
    };
    testnet(&["--f", "0"]).refused("--f 0: expected 1 to 25");
    testnet(&["--clients", "0"]).refused("0 clients: expected 1 to 10000");
    testnet(&["--base-port", "65533"]).refused("6 nodes would need ports above 65535");
    testnet(&["--window", "10", "--checkpoint-every", "6"])
        .refused("must be at least twice checkpoint_every");
    testnet(&["--admission", "link"]).refused("which only mode crash may");
    testnet(&["--mode", "fast"]).refused("possible values: fab, crash");
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        0,
        "a refusal makes nothing"
    );
    testnet(&["--f", "2", "--clients", "3"]).ok();
    assert_eq!(folder.path().read_dir().unwrap().count(), 11 + 3);
    testnet(&[]).refused("already holds a cluster");
}

#[test]
fn folders_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    run(twostep(&["status", "--dir", dir])).refused("neither the folder of a node");
    run(twostep(&["client", "get", "x", "--cluster", dir]))
        .refused("expected the folder of a client, such as client-0");
    run(twostep(&["client", "get", "x"])).refused("--cluster is missing");
    run(twostep(&["bench", "--cluster", dir, "--for", "1s"]))
        .refused("expected the folder of a client, such as client-0");
    run(twostep(&[
        "node",
        "--config",
        &format!("{dir}/config.toml"),
    ]))
    .refused("cannot read");
}

#[test]
fn a_seed_runs_twice_the_same_and_ranges_are_reported() {
    let one = || run(twostep(&["sim", "--seed", "7", "--json"]));
    assert_eq!(one().ok().json(), one().json());
    let report = run(twostep(&[
        "sim", "--seeds", "0..4", "--mode", "crash", "--json",
    ]))
    .ok()
    .json();
    assert_eq!(
        (&report["seeds"], &report["violations"], &report["stalls"]),
        (&4.into(), &0.into(), &0.into()),
        "{report}"
    );
    for name in ["decrees", "operations"] {
        assert!(
            report[name]["min"].as_u64().is_some_and(|min| min > 0),
            "{report}"
        );
        assert!(
            report[name]["median"].as_u64() >= report[name]["min"].as_u64(),
            "{report}"
        );
    }
    assert!(
        report["operations"]["min"].as_u64() >= Some(300),
        "{report}"
    );
    let traced = run(twostep(&["sim", "--seed", "7", "--trace"]));
    assert!(traced.ok().stdout.lines().count() > 1000);
    run(twostep(&["sim", "--seeds", "5"])).refused("expected A..B such as 0..1000, found \"5\"");
    run(twostep(&["sim", "--trace"])).refused("--seed");
}
