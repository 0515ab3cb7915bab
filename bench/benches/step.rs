//! What a cluster computes for one decree: every message of six (or three) nodes and the client, links and disks excepted.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twostep_bench::lab::Lab;
use twostep_engine::key_value::{KeyValue, Operation};
use twostep_engine::quorum::FaultModel;

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("whole cluster, one decree");
    for model in [FaultModel::Fab, FaultModel::Crash] {
        for requests in [1, 32] {
            let mut lab = Lab::new(model, 1, KeyValue::new);
            let session = lab.open();
            let mut operation = Vec::new();
            Operation::Increment {
                key: b"counter",
                by: 1,
                padding: &[0; 46],
            }
            .encode(&mut operation);
            group.throughput(Throughput::Elements(requests as u64));
            group.bench_function(format!("{model}, {requests} requests of 64 B"), |b| {
                b.iter(|| lab.commit(session, &operation, requests));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
