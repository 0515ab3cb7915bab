//! Planning a whole window from a voucher: what a new leader and every acceptor compute once per regency.

use criterion::{Criterion, criterion_group, criterion_main};
use twostep_engine::quorum::{Choice, FaultModel, Quorums, Reported, select};
use twostep_engine::types::{Digest, Regency, Value};

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("select, window of 256");
    for f in [1, 2, 3] {
        let model = FaultModel::Fab;
        let quorums = Quorums::new(
            model,
            f,
            model.acceptors(f),
            model.learners(f),
            model.proposers(f),
        );
        let quorums = quorums.expect("sizes of the model");
        // f reporters have nothing, the others agree: the usual case after a crash of the leader.
        let reports: Vec<Option<Reported>> = (0..quorums.report)
            .map(|place| {
                (place >= f).then_some(Reported {
                    psn: Regency(0),
                    value: Value(Digest([7; 32])),
                })
            })
            .collect();
        group.bench_function(format!("f = {f}"), |b| {
            b.iter(|| {
                (0..256)
                    .filter(|_| matches!(select(&quorums, &reports), Choice::Must(_)))
                    .count()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
