//! What one operation costs in the two forms of the key-value store, and what making and taking up a whole image costs.
//!
//! The database has an eighth of its state as cache, so most of what is asked for comes from its file.

use std::collections::VecDeque;
use std::io;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twostep_engine::journal::folder::DiskFolder;
use twostep_engine::key_value::{DiskKeyValue, KeyValue, Operation};
use twostep_engine::state_machine::{ChunkSource, Context, StateMachine};
use twostep_engine::types::{ClientId, Decree, Seq, SessionId};

const KEYS: u64 = 300_000;
const VALUE_BYTES: usize = 200;
const CACHE_BYTES: usize = 8 << 20;

const CONTEXT: Context = Context {
    decree: Decree(1),
    client: ClientId([0; 16]),
    session: SessionId::NONE,
    seq: Seq(1),
};

/// Numbers that look like chance, so that neighbours in time are none in the order of keys.
struct Draws(u64);

impl Draws {
    fn key(&mut self) -> [u8; 8] {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.0 >> 20) % KEYS).to_be_bytes()
    }
}

/// Chunks that were read from an image.
struct Chunks(VecDeque<Vec<u8>>);

impl ChunkSource for Chunks {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        let next = self.0.pop_front();
        chunk.extend_from_slice(next.as_deref().unwrap_or_default());
        Ok(next.is_some())
    }
}

fn image(store: &impl StateMachine) -> VecDeque<Vec<u8>> {
    let (mut image, mut chunks) = (store.snapshot(), VecDeque::new());
    loop {
        let mut chunk = Vec::new();
        if !image.next(&mut chunk).expect("a sound disk") {
            return chunks;
        }
        chunks.push_back(chunk);
    }
}

fn one_form(c: &mut Criterion, form: &str, mut store: impl StateMachine) {
    let (mut operation, mut reply) = (Vec::new(), Vec::new());
    let mut execute = |store: &mut dyn StateMachine, what: &Operation<'_>| {
        operation.clear();
        reply.clear();
        what.encode(&mut operation);
        store.execute(&CONTEXT, &operation, &mut reply);
        assert!(!reply.is_empty());
    };
    let value = [7; VALUE_BYTES];
    for key in 0..KEYS {
        let key = &key.to_be_bytes();
        execute(&mut store, &Operation::Put { key, value: &value });
    }
    let mut draws = Draws(1);
    let mut group = c.benchmark_group(format!("key-value store {form}, {KEYS} keys"));
    group.throughput(Throughput::Elements(1));
    group.bench_function("put", |b| {
        b.iter(|| {
            let key = &draws.key();
            execute(&mut store, &Operation::Put { key, value: &value });
        });
    });
    group.bench_function("get", |b| {
        b.iter(|| execute(&mut store, &Operation::Get { key: &draws.key() }));
    });
    let chunks = image(&store);
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    group.sample_size(10);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("image", |b| b.iter(|| image(&store)));
    group.bench_function("restore", |b| {
        b.iter(|| {
            let restored = store.restore(&mut Chunks(chunks.clone()));
            restored.expect("an image");
        });
    });
    group.finish();
}

fn state(c: &mut Criterion) {
    one_form(c, "in memory", KeyValue::new());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = DiskFolder::open(folder.path()).expect("it is there");
    let store = DiskKeyValue::create(&*folder, CACHE_BYTES).expect("a sound disk");
    one_form(c, "on disk", store);
}

criterion_group!(benches, state);
criterion_main!(benches);
