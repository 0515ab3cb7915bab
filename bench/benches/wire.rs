//! Messages to bytes and back.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twostep_bench::lab;
use twostep_engine::configuration::{Admission, Configuration, Limits};
use twostep_engine::message::{Message, Outcome, Reply, ReplyEntries};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, Digest, Regency, Seq, SessionId, Value};
use twostep_engine::wire::{Bounds, decode, encode, write_replies};
use twostep_net::pool::Pool;

fn wire(c: &mut Criterion) {
    let limits = Limits::default();
    let members = lab::members(FaultModel::Fab, 1);
    let configuration =
        Configuration::new(FaultModel::Fab, 1, members, limits, Admission::Mac, [0; 16]);
    let bounds = Bounds::of(&configuration.expect("a sound configuration"));
    let pool = Pool::default();
    let (regency, decree, value) = (Regency(1), Decree(7), Value(Digest([9; 32])));
    let session = SessionId {
        decree: Decree(3),
        index: 1,
    };
    let replies = (1..=32).map(|seq| Reply {
        session,
        seq: Seq(seq),
        decree,
        outcome: Outcome::Executed(&[3, 0, 0, 0, 0, 0, 0, 0, 0]),
    });
    let mut entries = Vec::new();
    write_replies(replies, &mut entries);
    let messages = [
        (
            "Accepted",
            Message::Accepted {
                regency,
                decree,
                value,
            },
        ),
        (
            "Propose 64 KiB",
            Message::Propose {
                regency,
                decree,
                value,
                body: pool.copy(&vec![1; 64 << 10]),
            },
        ),
        (
            "Replies to 32 requests",
            Message::Replies {
                regency,
                entries: ReplyEntries::new(&entries),
            },
        ),
    ];
    let mut group = c.benchmark_group("wire");
    let mut bytes = Vec::new();
    for (name, message) in &messages {
        bytes.clear();
        encode(message, &mut bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| {
                bytes.clear();
                encode(message, &mut bytes);
                bytes.len()
            });
        });
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(
                || match decode(&bytes, &pool, &bounds).expect("what was encoded decodes") {
                    Message::Replies { entries, .. } => {
                        entries.iter().filter(Result::is_ok).count()
                    }
                    _ => 1,
                },
            );
        });
    }
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
