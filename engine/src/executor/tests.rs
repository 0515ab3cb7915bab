//! What a decree comes to: what is executed, what is refused, what is remembered.

mod replies;

use std::collections::{BTreeSet, VecDeque};
use std::io;

use proptest::prelude::*;
use twostep_crypto::Identity;
use twostep_net::pool::{Body, Pool};

use super::*;
use crate::batch::BundleWriter;
use crate::configuration::{Admission, Limits, Member, Roles};
use crate::key_value::{KeyValue, Operation};
use crate::quorum::FaultModel;
use crate::state_machine::{ChunkSource, SnapshotReader, TroubleKind};
use crate::types::Seq;

const ALICE: ClientId = ClientId([1; 16]);
const BOB: ClientId = ClientId([2; 16]);

fn configuration(limits: Limits) -> Configuration {
    let members = (0..3).map(|node| Member {
        roles: Roles::ALL,
        public: Identity::from_seed([node; 32]).public(),
    });
    Configuration::new(
        FaultModel::Crash,
        1,
        members.collect(),
        limits,
        Admission::Link,
        [0; 16],
    )
    .unwrap()
}

fn small() -> Configuration {
    configuration(Limits {
        sessions_max: 4,
        sessions_per_client_max: 3,
        session_decrees: 5,
        reply_bytes_max: 16,
        ..Limits::default()
    })
}

fn id(decree: u64, index: u32) -> SessionId {
    SessionId {
        decree: Decree(decree),
        index,
    }
}

fn open(nonce: u64) -> Request<'static> {
    Request {
        kind: RequestKind::Open,
        session: SessionId::NONE,
        seq: Seq(nonce),
        operation: b"",
    }
}

fn call(session: SessionId, seq: u64, operation: &[u8]) -> Request<'_> {
    Request {
        kind: RequestKind::Operation,
        session,
        seq: Seq(seq),
        operation,
    }
}

fn bundle(configuration: &Configuration, client: ClientId, requests: &[Request<'_>]) -> Bundle {
    let scope = configuration.scope();
    let mut writer = BundleWriter::new(client);
    assert!(requests.iter().all(|request| writer.push(request)));
    let bytes = writer.finish_bare(&scope).to_vec();
    Bundle::parse(Body::from_vec(bytes), &scope, configuration.limits()).unwrap()
}

fn batch(configuration: &Configuration, bundles: &[(ClientId, &[Request<'_>])]) -> Batch {
    let bundles = bundles
        .iter()
        .map(|(client, requests)| bundle(configuration, *client, requests));
    let mut waiting: VecDeque<Bundle> = bundles.collect();
    if waiting.is_empty() {
        return Batch::noop(&configuration.scope());
    }
    let batch = Batch::assemble(
        &Pool::default(),
        &configuration.scope(),
        &mut waiting,
        1 << 20,
    );
    assert!(waiting.is_empty());
    batch
}

/// Client, request and what became of it.
type Line = (ClientId, SessionId, u64, u64, String);

fn lines(replies: &Replies) -> Vec<Line> {
    let mut lines = Vec::new();
    for (client, entries) in replies.groups() {
        for reply in entries.iter().map(Result::unwrap) {
            let outcome = match reply.outcome {
                Outcome::Executed(bytes) => format!("= {}", String::from_utf8_lossy(bytes)),
                other => format!("{other:?}"),
            };
            lines.push((client, reply.session, reply.seq.0, reply.decree.0, outcome));
        }
    }
    lines
}

fn line(session: SessionId, seq: u64, decree: u64, outcome: &str) -> Line {
    (ALICE, session, seq, decree, outcome.to_owned())
}

/// Replies with how many operations it executed, and as many bytes more as the operation says.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    fn execute(&mut self, context: &Context, operation: &[u8], reply: &mut Vec<u8>) {
        assert!(reply.is_empty());
        assert_ne!(context.decree, Decree::NONE);
        self.0 += 1;
        reply.extend_from_slice(self.0.to_string().as_bytes());
        reply.resize(
            reply.len() + operation.first().map_or(0, |len| usize::from(*len)),
            b'.',
        );
    }

    fn query(&self, _question: &[u8], _reply: &mut Vec<u8>) {}

    fn digest(&self) -> Digest {
        Digest([u8::try_from(self.0 % 251).unwrap(); 32])
    }

    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        Box::new(crate::null::Null)
    }

    fn restore(&mut self, _chunks: &mut dyn ChunkSource) -> io::Result<()> {
        Ok(())
    }
}

/// Counts, until it is in trouble: from so many operations on.
struct Fragile(Count, u64);

impl StateMachine for Fragile {
    fn execute(&mut self, context: &Context, operation: &[u8], reply: &mut Vec<u8>) {
        self.0.execute(context, operation, reply);
    }

    fn query(&self, _question: &[u8], _reply: &mut Vec<u8>) {}

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn snapshot(&self) -> Box<dyn SnapshotReader> {
        self.0.snapshot()
    }

    fn restore(&mut self, _chunks: &mut dyn ChunkSource) -> io::Result<()> {
        Ok(())
    }

    fn trouble(&self) -> Option<StateTrouble> {
        (self.0.0 >= self.1).then(|| StateTrouble {
            kind: TroubleKind::Failing,
            what: "it has counted enough".to_owned(),
            why: "so it was made".to_owned(),
        })
    }
}

#[test]
fn of_a_state_machine_in_trouble_nothing_is_heard() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Fragile(Count::default(), 3));
    let session = id(1, 0);
    let retry = bundle(&configuration, ALICE, &[call(session, 1, b"")]);
    let first = [open(7), call(session, 1, b""), call(session, 2, b"")];
    let executed = executor.try_execute(Decree(1), &batch(&configuration, &[(ALICE, &first)]));
    let lines = lines(executed.expect("two are not enough").replies);
    assert_eq!(lines.len(), 3);
    let question = Question::Retried(retry);
    assert!(matches!(executor.answer(&question), Some(Input::Found(_))));

    let third = batch(&configuration, &[(ALICE, &[call(session, 3, b"")])]);
    let trouble = executor.try_execute(Decree(2), &third).unwrap_err();
    assert!(
        trouble
            .to_string()
            .starts_with("it has counted enough: so it was made; ")
    );
    assert!(executor.answer(&question).is_none());
    let again = executor.try_execute(Decree(3), &third).unwrap_err();
    assert_eq!(again, trouble);
    assert_eq!(executor.machine().0.0, 3, "nothing more is executed");
}

#[test]
fn a_duplicate_is_answered_and_not_executed() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 1);
    let first = batch(
        &configuration,
        &[
            (BOB, &[open(9)]),
            (ALICE, &[open(7), call(session, 1, b"")]),
        ],
    );
    let executed = executor.execute(Decree(1), &first);
    let opened = |session: SessionId| format!("Opened({session:?})");
    let expected = [
        (BOB, SessionId::NONE, 9, 1, opened(id(1, 0))),
        line(SessionId::NONE, 7, 1, &opened(session)),
        line(session, 1, 1, "= 1"),
    ];
    assert_eq!(
        lines(executed.replies),
        expected,
        "a session is named by its place in the whole batch"
    );

    let again = [
        open(7),
        call(session, 2, b""),
        call(session, 1, b""),
        call(session, 2, b""),
        call(session, 1, b"x"),
    ];
    let executed = executor.execute(Decree(2), &batch(&configuration, &[(ALICE, &again)]));
    let expected = [
        line(SessionId::NONE, 7, 1, &opened(session)),
        line(session, 2, 2, "= 2"),
        line(session, 1, 1, "= 1"),
        line(session, 2, 2, "= 2"),
        line(session, 1, 2, "SeqReused"),
    ];
    assert_eq!(lines(executed.replies), expected);
    assert_eq!(executor.machine().0, 2);
}

#[test]
fn what_is_refused_is_answered_with_the_decree_that_refused_it() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 0);
    executor.execute(
        Decree(1),
        &batch(
            &configuration,
            &[(ALICE, &[open(7), call(session, 64, b"")])],
        ),
    );
    let calls = [
        call(session, 0, b""),
        call(session, 129, b""),
        call(id(1, 5), 1, b""),
        call(session, u64::MAX, b""),
    ];
    let stolen = [call(session, 65, b"")];
    let executed = executor.execute(
        Decree(2),
        &batch(&configuration, &[(ALICE, &calls), (BOB, &stolen)]),
    );
    let expected = [
        line(session, 0, 2, "Stale"),
        line(session, 129, 2, "TooFar"),
        line(id(1, 5), 1, 2, "SessionLapsed"),
        line(session, u64::MAX, 2, "TooFar"),
        (BOB, session, 65, 2, "SessionLapsed".to_owned()),
    ];
    assert_eq!(lines(executed.replies), expected);
    assert_eq!(executor.machine().0, 1, "nothing of it was executed");
}

#[test]
fn sessions_expire_while_nothing_is_ordered() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &[open(7)])]));
    for decree in 2..=6 {
        executor.execute(Decree(decree), &batch(&configuration, &[]));
        assert_eq!(executor.sessions().len(), 1);
    }
    executor.execute(Decree(7), &batch(&configuration, &[]));
    assert!(
        executor.sessions().is_empty(),
        "after 5 decrees that executed nothing of it"
    );
}

#[test]
fn lookup_answers_what_was_executed_and_changes_nothing() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 0);
    let calls = [open(7), call(session, 1, b"")];
    executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &calls)]));
    let (state, results) = (executor.state_digest(), executor.results());

    let fresh = bundle(
        &configuration,
        ALICE,
        &[open(8), call(session, 2, b""), call(session, 1, b"other")],
    );
    assert!(executor.lookup(&fresh).is_none());
    let foreign = bundle(&configuration, BOB, &calls);
    assert!(
        executor.lookup(&foreign).is_none(),
        "another client learns nothing"
    );
    let retried = bundle(
        &configuration,
        ALICE,
        &[open(7), call(session, 2, b""), call(session, 1, b"")],
    );
    let expected = [
        line(SessionId::NONE, 7, 1, &format!("Opened({session:?})")),
        line(session, 1, 1, "= 1"),
    ];
    assert_eq!(lines(executor.lookup(&retried).unwrap()), expected);
    assert_eq!(
        (executor.state_digest(), executor.results()),
        (state, results)
    );
    assert_eq!(executor.machine().0, 1);
}

#[test]
fn what_ordering_would_not_execute_is_settled() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    // A client has three sessions at most, so the fourth Open drops the session of the first.
    let opens = [open(7), open(8), open(9), open(10)];
    executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &opens)]));
    assert!(executor.sessions().opened(ALICE, Seq(7)).is_none());
    let mut settled = |client, session: SessionId, seq: u64| {
        let mut names = Vec::new();
        RequestNames::write(session, Seq(seq), &mut names);
        let question = Question::Settled {
            asker: crate::types::NodeId(3),
            client,
            names: names.clone(),
        };
        match executor.answer(&question) {
            None => false,
            Some(Input::Settled { asker, names: told }) => {
                assert_eq!(
                    (asker.0, told.client, told.bytes()),
                    (3, client, &names[..])
                );
                true
            }
            Some(other) => panic!("{other:?}"),
        }
    };
    for nonce in 7..=10 {
        assert!(
            settled(ALICE, SessionId::NONE, nonce),
            "Open {nonce} was ordered"
        );
    }
    assert!(
        settled(ALICE, SessionId::NONE, 11),
        "it has all the sessions that it may have"
    );
    assert!(!settled(BOB, SessionId::NONE, 7), "never ordered");
    let session = id(1, 3);
    assert!(!settled(ALICE, session, 1), "it would be executed");
    assert!(settled(ALICE, session, 65), "too far ahead");
    assert!(
        settled(ALICE, id(1, 9), 1),
        "no such session, and never again"
    );
    assert!(!settled(ALICE, id(3, 0), 1), "not reached yet");
}

#[test]
fn without_sessions_a_retry_is_executed_twice() {
    let configuration = small();
    let mut executor = Executor::without_sessions(&configuration, Count::default());
    let session = id(1, 0);
    let calls = [open(7), call(session, 1, b""), call(session, 1, b"")];
    let executed = executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &calls)]));
    assert_eq!(
        lines(executed.replies)[1..],
        [line(session, 1, 1, "= 1"), line(session, 1, 1, "= 2")]
    );
}

#[test]
fn results_are_chained_from_zero() {
    let configuration = small();
    let scope = configuration.scope();
    let mut executor = Executor::new(&configuration, Count::default());
    let mut chain = Digest::ZERO;
    let batches = [
        batch(&configuration, &[(ALICE, &[open(7)]), (BOB, &[open(7)])]),
        batch(&configuration, &[]),
    ];
    for (decree, batch) in (1..).zip(&batches) {
        let executed = executor.execute(Decree(decree), batch);
        let digests = (executed.replies.groups()).flat_map(|(_, entries)| entries.digest(&scope).0);
        let mut bytes = [&chain.0, decree.to_le_bytes().as_slice()].concat();
        bytes.extend(digests);
        chain = configuration.scope().digest(DigestContext::Results, &bytes);
        assert_eq!(executed.results, chain);
    }
    assert_eq!(
        (executor.executed(), executor.results()),
        (Decree(2), chain)
    );
}

#[test]
#[should_panic(expected = "in order, each once")]
fn a_gap_is_not_executed() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    executor.execute(Decree(2), &batch(&configuration, &[]));
}

#[test]
fn the_state_digest_covers_sessions_and_machine() {
    let configuration = small();
    let after = |batches: &[Batch]| {
        let mut executor = Executor::new(&configuration, Count::default());
        for (decree, batch) in (1..).zip(batches) {
            executor.execute(Decree(decree), batch);
        }
        executor.state_digest()
    };
    let noop = || batch(&configuration, &[]);
    let opening = batch(&configuration, &[(ALICE, &[open(7)])]);
    let calling = |operation| batch(&configuration, &[(ALICE, &[call(id(1, 0), 1, operation)])]);
    let idle = after(&[opening.clone(), noop()]);
    assert_ne!(idle, after(&[noop(), noop()]), "a session more");
    assert_ne!(
        after(&[opening.clone(), calling(&[1])]),
        after(&[opening.clone(), calling(&[2])]),
        "another operation"
    );
    assert_eq!(
        after(&[opening.clone(), calling(&[1])]),
        after(&[opening, calling(&[1])])
    );
}

/// What clients may do to a key-value store in one decree.
fn requests() -> impl Strategy<Value = Vec<(bool, bool, u64, u64, u8)>> {
    prop::collection::vec(
        (
            any::<bool>(),
            prop::bool::weighted(0.1),
            0u64..6,
            0u64..80,
            0u8..4,
        ),
        0..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn learners_agree_and_nothing_runs_twice(decrees in prop::collection::vec(requests(), 1..30)) {
        let configuration = small();
        let mut one = Executor::new(&configuration, KeyValue::new());
        let mut other = Executor::new(&configuration, KeyValue::new());
        let mut executed_once = BTreeSet::new();
        for (decree, requests) in (1..).zip(decrees) {
            let operations: Vec<Vec<u8>> = requests.iter().map(|request| {
                let mut bytes = Vec::new();
                Operation::Increment { key: &[request.4 + 1], by: 1, padding: &[] }.encode(&mut bytes);
                bytes
            }).collect();
            let bundles: Vec<(ClientId, [Request<'_>; 1])> = requests.iter().zip(&operations).map(|(request, bytes)| {
                let (alice, opening, session, seq, _) = *request;
                let client = if alice { ALICE } else { BOB };
                (client, [if opening { open(seq) } else { call(id(session + 1, 0), seq, bytes) }])
            }).collect();
            let views: Vec<(ClientId, &[Request<'_>])> =
                bundles.iter().map(|(client, requests)| (*client, requests.as_slice())).collect();
            let batch = batch(&configuration, &views);
            let executed = one.execute(Decree(decree), &batch);
            let (replies, results) = (executed.replies.clone(), executed.results);
            let executed = other.execute(Decree(decree), &batch);
            prop_assert_eq!((&replies, results), (executed.replies, executed.results));
            prop_assert_eq!(one.state_digest(), other.state_digest());
            prop_assert_eq!(replies.groups().flat_map(|(_, entries)| entries.iter()).count(), requests.len());
            for (_, session, seq, _, outcome) in lines(&replies) {
                if outcome.starts_with('=') {
                    executed_once.insert((session, seq));
                }
            }
        }
        let value = |key: u8| one.machine().get(&[key]).map_or("0", |text| std::str::from_utf8(text).unwrap());
        let increments: usize = (1..=4).map(|key| value(key).parse::<usize>().unwrap()).sum();
        prop_assert_eq!(increments, executed_once.len());
    }
}
