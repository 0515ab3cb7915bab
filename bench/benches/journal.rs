//! A group of records made durable, against one bare write and sync of as many bytes.
//!
//! The folder for temporary files decides which disk is measured (`TMPDIR`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twostep_bench::lab;
use twostep_engine::batch::Batch;
use twostep_engine::configuration::Configuration;
use twostep_engine::journal::appender::Appender;
use twostep_engine::journal::folder::DiskFolder;
use twostep_engine::journal::format::entry_bytes;
use twostep_engine::journal::{Journal, Recorder, Shape};
use twostep_engine::quorum::FaultModel;
use twostep_engine::record::Record;
use twostep_engine::types::{Decree, NodeId, RecordSeq, Regency};
use twostep_net::WakeUp;

/// Where a bare file is begun anew. Bytes.
const BARE_BYTES: u64 = 32 << 20;
/// Records of a group, and the bytes of each body.
const GROUPS: [(u64, usize); 4] = [(1, 100), (1, 4000), (16, 4000), (4, 64 << 10)];

fn journal(folder: &std::path::Path, configuration: &Configuration) -> Journal {
    let folder = DiskFolder::open(folder).expect("a folder");
    Journal::create(folder, Shape::of(configuration, NodeId(0)), true).expect("a journal")
}

/// Appends a group and makes it durable; a segment that is full is followed by the next one, and what is old goes.
fn store(appender: &mut Appender, decrees: std::ops::Range<u64>, batch: &Batch) {
    for decree in decrees.clone() {
        let record = vote(decree, batch);
        if appender.append(&record).is_err() {
            appender.commit().expect("a disk");
            let next = appender.make_next().expect("room");
            appender.turn_over(next);
            appender.append(&record).expect("room in a new segment");
        }
    }
    appender.commit().expect("a disk");
}

fn vote(decree: u64, batch: &Batch) -> Record<'_> {
    Record::Vote {
        regency: Regency(0),
        decree: Decree(decree),
        batch,
    }
}

fn durable(c: &mut Criterion) {
    let configuration = lab::configuration(FaultModel::Fab, 1);
    let mut group = c.benchmark_group("journal");
    for (records, body) in GROUPS {
        let batch = lab::batch_of(&configuration, body);
        let bytes = records * entry_bytes(49 + batch.body().len()) as u64;
        let name = format!("{records} records of {body} bytes");
        group.throughput(Throughput::Bytes(bytes));

        let folder = tempfile::tempdir().expect("a folder");
        let file = File::create_new(folder.path().join("bare")).expect("a file");
        let zeros = vec![0; 1 << 20];
        for offset in (0..BARE_BYTES).step_by(1 << 20) {
            file.write_all_at(&zeros, offset).expect("room");
        }
        file.sync_all().expect("a disk");
        let content = vec![7; usize::try_from(bytes).expect("it fits")];
        let mut offset = 0;
        group.bench_function(BenchmarkId::new("bare write and sync", &name), |b| {
            b.iter(|| {
                if offset + bytes > BARE_BYTES {
                    offset = 0;
                }
                file.write_all_at(&content, offset).expect("room");
                file.sync_data().expect("a disk");
                offset += bytes;
            });
        });

        let folder = tempfile::tempdir().expect("a folder");
        let (mut appender, _) = journal(folder.path(), &configuration).into_appender();
        let mut decree = 1;
        group.bench_function(BenchmarkId::new("appender", &name), |b| {
            b.iter(|| {
                store(&mut appender, decree..decree + records, &batch);
                decree += records;
            });
        });

        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(folder.path(), &configuration);
        let thread = std::thread::current();
        let waker = WakeUp::new(move || thread.unpark());
        let mut recorder = Recorder::start(journal, waker.clone(), 0).expect("a thread");
        let mut seq = 0;
        group.bench_function(BenchmarkId::new("recorder", &name), |b| {
            b.iter(|| {
                for _ in 0..records {
                    seq += 1;
                    recorder.store(RecordSeq(seq), &vote(seq, &batch));
                }
                recorder.hand_over();
                recorder.prune(Decree(seq.saturating_sub(1024)));
                while recorder.durable() < RecordSeq(seq) {
                    if waker.may_sleep() {
                        std::thread::park();
                    }
                    waker.woke();
                }
            });
        });
    }
    group.finish();
}

/// The folder of the system is what the journal writes to: the same write and sync through its trait.
fn through_the_trait(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = DiskFolder::open(folder.path()).expect("a folder");
    let file: Arc<dyn twostep_engine::journal::folder::File> =
        files.create("file").expect("a file").into();
    file.preallocate(1 << 20).expect("room");
    let (content, mut offset) = (vec![7; 4096], 0);
    c.bench_function("journal/4 KiB through the folder's trait", |b| {
        b.iter(|| {
            file.write_at(&content, offset).expect("room");
            file.sync().expect("a disk");
            offset = (offset + 4096) % (1 << 20);
        });
    });
}

criterion_group!(benches, durable, through_the_trait);
criterion_main!(benches);
