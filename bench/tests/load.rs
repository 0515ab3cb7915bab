//! The load generator against real nodes: small, so that it cannot rot.

#[path = "../../engine/tests/cluster/mod.rs"]
#[expect(dead_code, reason = "a load needs less of a cluster than tests do")]
mod cluster;

use std::time::{Duration, Instant};

use cluster::Cluster;
use twostep_bench::config::StopFlag;
use twostep_bench::{LoadConfig, LoadError, LoadReport, run};
use twostep_engine::node::NodeOptions;
use twostep_engine::quorum::FaultModel;

fn config(cluster: &Cluster) -> LoadConfig {
    let options = cluster.client().options().unwrap();
    let mut config = LoadConfig::new(options.setup, options.nodes);
    config.connect_timeout = Duration::from_secs(20);
    config.sessions = 4;
    config.pipeline = 8;
    config
}

fn assert_clean(report: &LoadReport) {
    assert!(
        report.is_clean() && report.unknown == 0 && report.busy == 0,
        "{report:#?}"
    );
}

#[test]
fn closed_and_open_loop_are_clean() {
    for mode in [FaultModel::Fab, FaultModel::Crash] {
        let cluster = Cluster::start(mode);
        let mut load = config(&cluster);
        load.operations = Some(2000);
        load.duration = Some(Duration::from_secs(30));
        let report = run(load.clone(), |_| {}).unwrap();
        assert_clean(&report);
        assert_eq!((report.operations, report.op_bytes), (2000, 64));
        assert!(
            report.p50_us > 0 && report.p50_us <= report.p99_us && report.p99_us <= report.max_us,
            "{report:#?}"
        );

        // Two seconds at 500 calls per second: one sample at least, and as many calls as that makes.
        load.operations = None;
        load.rate = Some(500);
        load.duration = Some(Duration::from_secs(2));
        let mut samples = Vec::new();
        let report = run(load, |sample| samples.push(*sample)).unwrap();
        assert_clean(&report);
        assert!((900..=1001).contains(&report.operations), "{report:#?}");
        assert!(
            samples[0].second == 1 && (300..=700).contains(&samples[0].operations),
            "{samples:?}"
        );
    }
}

/// A client that retries at once has most of its requests ordered more than once.
#[test]
fn retries_are_executed_once_and_twice_without_the_session_table() {
    for session_table in [true, false] {
        let options = NodeOptions {
            session_table,
            ..cluster::in_memory()
        };
        let cluster = Cluster::start_with(FaultModel::Fab, options);
        let mut load = config(&cluster);
        load.setup.tuning.retry = Duration::from_micros(100);
        load.operations = Some(500);
        let report = run(load, |_| {}).unwrap();
        assert!(report.retries > 0, "{report:#?}");
        assert_eq!(report.operations, 500);
        if session_table {
            assert_clean(&report);
        } else {
            assert!(report.duplicates > 0 && report.gaps > 0, "{report:#?}");
        }
    }
}

#[test]
fn it_stops_when_told() {
    let cluster = Cluster::start(FaultModel::Crash);
    let mut load = config(&cluster);
    load.duration = None;
    let stop: StopFlag = load.stop.clone();
    let started = Instant::now();
    let report = run(load, |_| stop.stop()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_clean(&report);
    assert!(report.operations > 0);
}

#[test]
fn a_load_that_cannot_be_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(FaultModel::Crash);
    let mut load = config(&cluster);
    load.pipeline = 65;
    let error = run(load, |_| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a pipeline of 65: expected 1 to 64 calls"
    );
    let mut load = config(&cluster);
    (0..3).for_each(|node| cluster.stop(node));
    load.connect_timeout = Duration::from_millis(200);
    let error = run(load, |_| {}).unwrap_err();
    assert!(
        matches!(&error, LoadError::Unreachable(missing) if missing.len() == 3),
        "{error}"
    );
}
