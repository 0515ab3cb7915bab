//! Proving whose a bundle is, and checking it: 32 requests of 64 bytes for six voting nodes.

use criterion::{Criterion, criterion_group, criterion_main};
use twostep_bench::lab;
use twostep_crypto::{Context, MacKey, Party, Signed};
use twostep_engine::batch::{BundleClaim, BundleWriter, Request, RequestKind};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, Seq, SessionId};

fn authenticator(c: &mut Criterion) {
    let scope = lab::configuration(FaultModel::Fab, 1).scope();
    let identity = lab::identity(200);
    let client = identity.public().client_id();
    let keys: Vec<MacKey> = (1..=6).map(|key| MacKey::from_bytes([key; 32])).collect();
    let session = SessionId {
        decree: Decree(1),
        index: 0,
    };
    let mut writer = BundleWriter::new(client);
    let content = vec![7; 32 * 89];
    let digest = scope.digest(Context::Bundle, &content);
    let tag = keys[0].tag(&[&digest.0]);
    let signer = Party::Client(client);
    let signed = identity
        .signing()
        .sign(&scope, signer, BundleClaim(digest))
        .signed()
        .signature;
    let public = identity.public().sign;

    let mut group = c.benchmark_group("authenticator");
    group.bench_function("write and tag a bundle", |b| {
        b.iter(|| {
            writer.clear();
            for seq in 1..=32 {
                let request = Request {
                    kind: RequestKind::Operation,
                    session,
                    seq: Seq(seq),
                    operation: &[7; 64],
                };
                assert!(writer.push(&request));
            }
            writer.finish_mac(&scope, &keys).len()
        });
    });
    group.bench_function("digest of a bundle", |b| {
        b.iter(|| scope.digest(Context::Bundle, &content));
    });
    group.bench_function("six tags", |b| {
        b.iter(|| {
            keys.iter()
                .map(|key| key.tag(&[&digest.0]).0[0])
                .fold(0, u8::wrapping_add)
        });
    });
    group.bench_function("check one tag", |b| {
        b.iter(|| keys[0].verify(&[&digest.0], &tag).is_ok());
    });
    group.bench_function("sign", |b| {
        b.iter(|| {
            identity
                .signing()
                .sign(&scope, signer, BundleClaim(digest))
                .signed()
                .signature
        });
    });
    group.bench_function("check one signature", |b| {
        b.iter(|| {
            Signed {
                signer,
                content: BundleClaim(digest),
                signature: signed,
            }
            .check(&scope, &public)
            .is_ok()
        });
    });
    group.finish();
}

criterion_group!(benches, authenticator);
criterion_main!(benches);
