//! The load for hard times against real nodes in easy ones: every kind of call is made, and nothing that it says is wrong.

#[path = "../../engine/tests/cluster/mod.rs"]
#[expect(dead_code, reason = "a load needs less of a cluster than tests do")]
mod cluster;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cluster::Cluster;
use twostep_bench::LoadConfig;
use twostep_bench::config::StopFlag;
use twostep_bench::mixture::{MixtureConfig, MixtureReport, Watch, run_mixture};
use twostep_engine::client::history::{Call, End, read};
use twostep_engine::key_value::{KeyValueReply, Operation};
use twostep_engine::node::NodeOptions;
use twostep_engine::node::control::{Fault, Request, ask};
use twostep_engine::quorum::FaultModel;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);
const WORKERS: u32 = 5;
const KEYS: u64 = 3;

fn config(cluster: &Cluster, history: &Path, watch: &Watch, stop: &StopFlag) -> MixtureConfig {
    let options = cluster.client().options().unwrap();
    let mut load = LoadConfig::new(options.setup, options.nodes);
    load.sessions = WORKERS;
    load.rate = Some(1000);
    load.drain = PATIENCE;
    load.stop = stop.clone();
    load.history = Some(history.to_owned());
    MixtureConfig {
        load,
        keys: KEYS,
        seed: 7,
        watch: watch.clone(),
    }
}

/// Waits for it, and fails the test if it does not come.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the load while `meanwhile` does, then ends it. What it reported and what it recorded.
fn run(
    change: impl FnOnce(&mut MixtureConfig),
    meanwhile: impl FnOnce(&Cluster, &Watch),
) -> (MixtureReport, Vec<Call>) {
    let options = NodeOptions {
        faults: true,
        ..cluster::in_memory()
    };
    let cluster = Cluster::start_with(FaultModel::Fab, options);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let (watch, stop) = (Watch::default(), StopFlag::default());
    let mut config = config(&cluster, &path, &watch, &stop);
    change(&mut config);
    let load = thread::spawn(move || run_mixture(config).unwrap());
    meanwhile(&cluster, &watch);
    stop.stop();
    let report = load.join().unwrap();
    let calls = read(BufReader::new(File::open(path).unwrap())).unwrap();
    (report, calls)
}

#[test]
fn every_kind_of_call_is_made_and_counters_count_what_was_acknowledged() {
    let (report, calls) = run(
        |_| {},
        |_, watch| {
            eventually("calls commit", || watch.committed() > 1000);
            let asked = watch.ask_round();
            eventually("everybody reads", || watch.is_done(asked));
            assert!(!watch.is_done(asked + 1));
        },
    );
    assert_eq!((report.unknown, report.unread, report.rejected), (0, 0, 0));
    assert_eq!(report.sessions, u64::from(WORKERS));
    assert_eq!(report.committed, calls.len() as u64 - report.busy);

    let mut kinds = [0; 5];
    // Of each key: increments that were acknowledged, and what was read last.
    let mut counters: BTreeMap<Vec<u8>, (i64, Option<i64>)> = BTreeMap::new();
    for call in &calls {
        let End::Committed { reply, .. } = &call.end else {
            continue;
        };
        let reply = KeyValueReply::decode(reply.as_ref().expect("it is kept")).unwrap();
        let (kind, key) = match Operation::decode(&call.operation).unwrap() {
            Operation::Get { key } => (0, key),
            Operation::Put { key, .. } => (1, key),
            Operation::Delete { key } => (2, key),
            Operation::Increment { key, .. } => (3, key),
            Operation::CompareAndSwap { key, .. } => (4, key),
        };
        kinds[kind] += 1;
        if key.starts_with(b"counter ") {
            let counter = counters.entry(key.to_owned()).or_default();
            match reply {
                KeyValueReply::Number(_) => counter.0 += 1,
                KeyValueReply::Value(text) => {
                    counter.1 = Some(std::str::from_utf8(text).unwrap().parse().unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(kinds.iter().all(|count| *count > 5), "{kinds:?}");
    assert_eq!(counters.len(), WORKERS as usize);
    for (key, (added, read)) in counters {
        assert_eq!(Some(added), read, "{}", String::from_utf8_lossy(&key));
    }
}

/// Too many nodes are gone for a while: calls end as unknown, some are made again under their numbers, and it goes on.
#[test]
fn it_goes_on_when_calls_end_as_unknown() {
    let (report, calls) = run(
        |config| config.load.setup.tuning.deadline = Duration::from_millis(100),
        |cluster, watch| {
            eventually("calls commit", || watch.committed() > 100);
            let nodes = cluster.node_folders();
            for cut in [true, false] {
                for node in &nodes {
                    let fault = Fault {
                        cut,
                        ..Fault::default()
                    };
                    ask(node, &Request::Fault(fault), PATIENCE).unwrap();
                }
                if cut {
                    thread::sleep(Duration::from_millis(700));
                }
            }
            let asked = watch.ask_round();
            eventually("everybody reads", || watch.is_done(asked));
        },
    );
    assert!(report.unknown > 0 && report.called_again > 0, "{report:?}");
    assert_eq!(report.unread, 0);
    assert!(report.longest_pause_us > 500_000, "{report:?}");
    let mut again = BTreeMap::new();
    for call in &calls {
        *again
            .entry((call.session, call.seq, &call.operation))
            .or_insert(0) += 1;
    }
    assert!(
        again.values().any(|times| *times > 1),
        "one number, one operation, several calls"
    );
}
