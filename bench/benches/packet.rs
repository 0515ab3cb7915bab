//! Sealing and opening packets: many small messages under one MAC, and a body in fragments.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twostep_crypto::MacKey;
use twostep_net::packet::{Opener, PacketLimits, Sealer, split};

/// About the size of `Accepted`.
const SMALL_BYTES: usize = 49;

fn key() -> MacKey {
    MacKey::from_bytes([7; 32])
}

fn packet(c: &mut Criterion) {
    let limits = PacketLimits::default();
    let mut group = c.benchmark_group("packet");
    for (name, count, bytes, covered) in [
        ("1 small message", 1, SMALL_BYTES, false),
        ("32 small messages", 32, SMALL_BYTES, false),
        ("a body of 1 KiB", 1, 1 << 10, false),
        (
            "256 KiB in fragments, all under the tag",
            1,
            256 << 10,
            false,
        ),
        (
            "256 KiB in fragments, a body that its digest covers",
            1,
            256 << 10,
            true,
        ),
    ] {
        // The digest covers everything behind what a vote has as well.
        let body = SMALL_BYTES..bytes;
        let gaps = if covered {
            std::slice::from_ref(&body)
        } else {
            &[]
        };
        let message = vec![1; bytes];
        group.throughput(Throughput::Elements(count));
        let mut sealer = Sealer::new(key(), limits, 0);
        let mut out = Vec::new();
        let mut seal = |out: &mut Vec<u8>| {
            out.clear();
            for _ in 0..count {
                sealer.push(out, &[&message], gaps);
            }
            sealer.seal(out);
        };
        group.bench_function(format!("seal {name}"), |b| {
            b.iter(|| {
                seal(&mut out);
                out.len()
            });
        });
        seal(&mut out);
        group.bench_function(format!("open {name}"), |b| {
            b.iter(|| {
                let (mut opener, mut at, mut frames) = (Opener::new(key(), 0), 0, 0);
                while let Some(packet) =
                    split(&out[at..], limits.packet_bytes_max).expect("packets")
                {
                    at += packet.len();
                    frames += opener.open(packet).expect("the key is the same").count();
                    if at == out.len() {
                        break;
                    }
                }
                assert!(at == out.len() && frames as u64 >= count);
                frames
            });
        });
    }
    group.finish();
}

criterion_group!(benches, packet);
criterion_main!(benches);
