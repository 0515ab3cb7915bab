//! Clusters as their operators run them: `testnet`, `node`, `status`, `client`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{PATIENCE, Testnet, edit, end_of, eventually, run, twostep};

#[test]
fn what_is_put_is_got_and_all_learners_have_it() {
    let testnet = Testnet::running(6, &["--clients", "2"]);
    let client = testnet.client(0);
    testnet.call(&client, &["put", "hello", "world"]).ok();
    assert_eq!(
        testnet
            .call(&testnet.client(1), &["get", "hello"])
            .ok()
            .stdout,
        "world\n"
    );
    assert_eq!(
        testnet.call(&client, &["incr", "n", "5"]).ok().stdout,
        "5\n"
    );
    assert_eq!(
        testnet.call(&client, &["incr", "n", "-7"]).ok().stdout,
        "-2\n"
    );
    testnet
        .call(&client, &["incr", "hello"])
        .refused("the value is not a decimal number");
    testnet.call(&client, &["del", "hello"]).ok();
    testnet
        .call(&client, &["get", "hello"])
        .refused("the key has no value");
    let digests = eventually("all learners have the same state", || {
        let all: Option<Vec<_>> = (0..4)
            .map(|node| Some(testnet.status(node)?["digests"].clone()))
            .collect();
        all.filter(|all| {
            all.iter()
                .all(|digests| digests.is_object() && *digests == all[0])
        })
    });
    assert!(
        digests[0]["decree"]
            .as_u64()
            .is_some_and(|decree| decree >= 7),
        "{digests:?}"
    );
    let words = run(twostep(&[
        "status",
        "--dir",
        testnet.dir.path().to_str().unwrap(),
    ]));
    assert!(
        words.ok().stdout.contains("node 5 (acceptor): ready"),
        "{words:?}"
    );
}

#[test]
fn a_node_without_a_journal_that_starts_again_abstains_says_so_and_takes_part_again() {
    let mut testnet = Testnet::running(6, &["--durability", "memory"]);
    testnet.call(&testnet.client(0), &["put", "a", "1"]).ok();
    testnet.kill(3);
    testnet.call(&testnet.client(0), &["put", "b", "2"]).ok();
    // Whatever the launcher says: the folder knows that it has run.
    testnet.start(3, &["--first-start"]);
    eventually("node 3 is back", || testnet.status(3));
    assert!(
        testnet.log(3).contains("abstaining: lost disk"),
        "{}",
        testnet.log(3)
    );
    assert_eq!(
        testnet.call(&testnet.client(0), &["incr", "n"]).ok().stdout,
        "1\n"
    );
    // It learns what was decided meanwhile, and what is decided now.
    eventually("node 3 learns", || {
        let (mine, theirs) = (testnet.status(3)?, testnet.status(0)?);
        (mine["executed"] == theirs["executed"] && mine["digests"] == theirs["digests"])
            .then_some(())
    });
    // Nobody but its leader orders anything: the idle cluster heals by itself.
    eventually("node 3 takes part again", || {
        let status = testnet.status(3)?;
        (status["abstaining"].is_null() && status["abstains_until"].is_null()).then_some(())
    });
    assert!(
        testnet
            .log(3)
            .contains("takes part again after a lost disk")
    );
    let before = testnet.status(3).unwrap()["counters"]["votes"].clone();
    assert_eq!(
        testnet.call(&testnet.client(0), &["incr", "n"]).ok().stdout,
        "2\n"
    );
    eventually("node 3 votes", || {
        let votes = testnet.status(3)?["counters"]["votes"].clone();
        (votes.as_u64()? > before.as_u64()?).then_some(())
    });
}

#[test]
fn a_signal_ends_a_node_in_order() {
    let mut testnet = Testnet::new(6, &[]);
    for signal in [Signal::TERM, Signal::INT] {
        testnet.start(0, &["--first-start"]);
        eventually("it runs", || testnet.status(0));
        let child = testnet.take(0);
        kill_process(Pid::from_child(&child), signal).unwrap();
        end_of(child, PATIENCE).ok();
        assert!(!testnet.node(0).join("control.sock").exists());
    }
    let missing = run(twostep(&[
        "status",
        "--dir",
        testnet.node(0).to_str().unwrap(),
    ]));
    assert!(
        missing.stdout.contains("no node runs from this folder"),
        "{missing:?}"
    );
}

#[test]
fn a_missing_peer_is_named_with_the_reason() {
    let mut testnet = Testnet::new(6, &[]);
    for node in 0..4 {
        testnet.start(node, &["--first-start"]);
    }
    eventually("node 0 names node 5", || {
        let status = testnet.status(0)?;
        assert_eq!(status["ready"], false, "five acceptors are needed");
        let why = status["missing"]
            .as_array()?
            .iter()
            .find(|one| one["node"] == 5)?["why"]
            .as_str()?
            .to_owned();
        (why.contains("not connected to 127.0.0.1:") && why.contains("refused")).then_some(())
    });
    eventually("node 0 logs it", || {
        testnet.log(0).contains("waiting for node 5").then_some(())
    });
}

#[test]
fn what_cannot_start_says_why() {
    let mut testnet = Testnet::new(6, &["--durability", "memory"]);
    testnet.start(0, &["--first-start"]);
    eventually("node 0 runs", || testnet.status(0));
    // The same folder twice.
    run(testnet.node_command(0, &[])).refused("another process runs this node; stop it first");
    // A taken port.
    let taken = format!("127.0.0.1:{}", testnet.base_port);
    let ended = run(testnet.node_command(1, &["--first-start", "--listen", &taken]));
    ended.refused(&format!(
        "cannot listen on {taken}: the address is in use; stop the other process or pass --listen"
    ));
    assert_eq!(ended.status.code(), Some(98));
    assert!(
        !testnet.node(1).join("started").exists(),
        "a start that failed is no start"
    );
    // A bad flag, a bad variable, an unknown variable.
    run(testnet.node_command(1, &["--in-flight", "0"])).refused("in_flight = 0: expected 1 to 256");
    let mut command = testnet.node_command(1, &[]);
    command.env("TWOSTEP_T0_MS", "soon");
    run(command).refused("TWOSTEP_T0_MS: expected a whole number, found \"soon\"");
    let mut command = testnet.node_command(1, &[]);
    command.env("TWOSTEP_TO_MS", "100");
    run(command).refused("unknown variable `TWOSTEP_TO_MS`; did you mean `TWOSTEP_T0_MS`?");
    // An unknown key names file, line and the nearest key.
    edit(&testnet.node(1).join("config.toml"), "t0_ms", "t0ms");
    let ended = run(testnet.node_command(1, &[]));
    ended
        .refused("config.toml line ")
        .refused("unknown key `t0ms`; did you mean `t0_ms`?");
    // A changed cluster file.
    edit(
        &testnet.node(2).join("cluster.toml"),
        "window = 256",
        "window = 512",
    );
    run(testnet.node_command(2, &[])).refused("something that all nodes share was changed");
    // Keys that others can read, and keys of somebody else.
    let identity = testnet.node(3).join("identity");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    run(testnet.node_command(3, &[])).refused("run: chmod 600");
    fs::remove_file(&identity).unwrap();
    fs::copy(testnet.node(4).join("identity"), &identity).unwrap();
    run(testnet.node_command(3, &[])).refused("is not the one of node 3");
    fs::write(&identity, "hello\n").unwrap();
    run(testnet.node_command(3, &[])).refused("identity");
    // No file at all.
    fs::remove_file(testnet.node(5).join("config.toml")).unwrap();
    run(testnet.node_command(5, &[])).refused("config.toml: cannot read: No such file");
}
