//! What one call costs its client: gathering, proving, counting four replies.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twostep_bench::lab;
use twostep_crypto::Scope;
use twostep_engine::client::{CallOutcome, ClientCore, ClientEffects, OpenError, SessionHandle};
use twostep_engine::message::{Message, Outcome, Reply, ReplyEntries};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, NodeId, NodeSet, Regency, Seq, SessionId, Time};
use twostep_engine::wire::{ReplyWriter, write_replies};

const SESSION: SessionId = SessionId {
    decree: Decree(1),
    index: 0,
};
const PIPELINE: u64 = 32;

#[derive(Default)]
struct Ears {
    nonce: Option<Seq>,
    done: u64,
}

impl ClientEffects for Ears {
    fn send(&mut self, _: NodeSet, message: &Message<'_>) {
        let Message::Submit { bundle, .. } = message else {
            unreachable!("a client only submits")
        };
        // The nonce of an Open stands 12 bytes before the end of its content, in front of the empty operation's length.
        if self.nonce.is_none() {
            let content_end =
                7 + u32::from_le_bytes([bundle[0], bundle[1], bundle[2], bundle[3]]) as usize;
            let nonce = bundle[content_end - 12..content_end - 4]
                .try_into()
                .expect("8 bytes");
            self.nonce = Some(Seq(u64::from_le_bytes(nonce)));
        }
    }

    fn opened(&mut self, _: SessionHandle, _: u64, result: Result<SessionId, OpenError>) {
        result.expect("the session opens");
    }

    fn done(&mut self, _: SessionHandle, _: u64, _: CallOutcome<'_>) {
        self.done += 1;
    }
}

/// Two of four learners answer in full.
fn replies(core: &mut ClientCore, scope: &Scope, ears: &mut Ears, bytes: &[u8]) {
    let (regency, entries) = (Regency(0), ReplyEntries::new(bytes));
    let full = Message::Replies { regency, entries };
    let digest = Message::RepliesDigest {
        regency,
        digest: entries.digest(scope),
    };
    for (learner, message) in (0..).zip([&full, &digest, &full, &digest]) {
        core.on_message(Time(1), NodeId(learner), message, ears);
    }
}

fn client(c: &mut Criterion) {
    let configuration = lab::configuration(FaultModel::Fab, 1);
    let mut core = ClientCore::new(lab::client(&configuration));
    configuration
        .nodes()
        .iter()
        .for_each(|node| core.link_up(node));
    let mut ears = Ears::default();
    let handle = core.open_session(0, Time(1)).expect("room for a session");
    core.flush(Time(1), &mut ears);
    let mut bytes = Vec::new();
    let open = Reply {
        session: SessionId::NONE,
        seq: ears.nonce.expect("the Open was sent"),
        decree: SESSION.decree,
        outcome: Outcome::Opened(SESSION),
    };
    let scope = configuration.scope();
    write_replies([open], &mut bytes);
    replies(&mut core, &scope, &mut ears, &bytes);

    let mut group = c.benchmark_group("client");
    group.throughput(Throughput::Elements(PIPELINE));
    group.bench_function(format!("{PIPELINE} calls of 64 B, 4 replies each"), |b| {
        b.iter(|| {
            bytes.clear();
            let mut writer = ReplyWriter::default();
            for _ in 0..PIPELINE {
                let seq = core
                    .call(handle, &[7; 64], 0, Time(1))
                    .expect("room for a call");
                let outcome = Outcome::Executed(&[3, 1, 0, 0, 0, 0, 0, 0, 0]);
                let reply = Reply {
                    session: SESSION,
                    seq,
                    decree: Decree(9),
                    outcome,
                };
                writer.write(&reply, &mut bytes);
            }
            core.flush(Time(1), &mut ears);
            let before = ears.done;
            replies(&mut core, &scope, &mut ears, &bytes);
            assert_eq!(ears.done - before, PIPELINE);
        });
    });
    group.finish();
}

criterion_group!(benches, client);
criterion_main!(benches);
