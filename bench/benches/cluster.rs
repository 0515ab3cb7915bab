//! A whole cluster over loopback under the load generator: nodes and client on threads of this process.
//!
//! No criterion: the load generator measures. With `cargo bench` 5 s per line, as a test a blink.

#[path = "../../engine/tests/cluster/mod.rs"]
#[expect(dead_code, reason = "a load needs less of a cluster than tests do")]
mod cluster;

use std::time::Duration;

use cluster::Cluster;
use twostep_bench::{LoadConfig, run};
use twostep_engine::quorum::FaultModel;

fn main() {
    let said = |flag: &str| std::env::args().any(|argument| argument == flag);
    let long = said("--bench") && !said("--test");
    for mode in [FaultModel::Fab, FaultModel::Crash] {
        for (sessions, pipeline) in [(1, 1), (32, 32)] {
            let cluster = Cluster::start(mode);
            let options = cluster.client().options().expect("a sound client");
            let mut load = LoadConfig::new(options.setup, options.nodes);
            (load.sessions, load.pipeline) = (sessions, pipeline);
            load.duration = Some(Duration::from_millis(if long { 5000 } else { 200 }));
            let report = run(load, |_| {}).expect("the cluster answers");
            assert!(report.is_clean(), "{report:#?}");
            println!(
                "{mode}, {sessions} × {pipeline} calls of {} B: {:.0} per second, p50 {} µs, p99 {} µs, p99.9 {} µs",
                report.op_bytes, report.ops_per_s, report.p50_us, report.p99_us, report.p999_us
            );
        }
    }
}
