//! Every outcome of a call, and what liars cannot do.

use std::sync::Arc;
use std::time::Duration;

use twostep_crypto::{Identity, Party, Signed, authenticator_key};
use twostep_net::pool::Pool;

use super::*;
use crate::batch::{Authenticator, Bundle, BundleClaim, RequestKind};
use crate::client::{CallOutcome, OpenError, Rejection};
use crate::configuration::{Admission, Configuration, Limits, Member, Roles};
use crate::message::{Message, Outcome, Reply, ReplyEntries, reply_digest};
use crate::quorum::FaultModel;
use crate::types::{Decree, Digest};
use crate::wire::write_replies;

#[path = "core_tests/bundles.rs"]
mod bundles;
#[path = "core_tests/retries.rs"]
mod retries;

const SESSION: SessionId = SessionId {
    decree: Decree(3),
    index: 7,
};

/// What a request looked like when it left.
#[derive(Clone, Debug, PartialEq)]
struct Left {
    to: Vec<u16>,
    retry: bool,
    proof: &'static str,
    kind: RequestKind,
    seq: u64,
    operation: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
enum Ended {
    Opened(Result<SessionId, OpenError>),
    Committed(u64, Option<Vec<u8>>),
    Rejected(Rejection),
    Busy,
    Unknown(u64),
}

/// Takes what the core does; checks and unpacks every bundle as a node would.
struct Sink {
    configuration: Arc<Configuration>,
    identity: Arc<Identity>,
    left: Vec<Left>,
    bundles: usize,
    /// The digest of the last bundle.
    digest: Digest,
    /// The bundles that were signed when a node asked, with whom they were sent to.
    signed: Vec<(Vec<u16>, Digest)>,
    ended: Vec<(u64, Ended)>,
}

impl ClientEffects for Sink {
    fn send(&mut self, to: NodeSet, message: &Message<'_>) {
        let (scope, limits) = (self.configuration.scope(), *self.configuration.limits());
        if let Message::BundleSignature {
            client,
            bundle,
            signature,
        } = message
        {
            let claim = Signed {
                signer: Party::Client(*client),
                content: BundleClaim(*bundle),
                signature: *signature,
            };
            claim
                .check(&scope, &self.identity.public().sign)
                .expect("the signature verifies");
            let to = to.iter().map(|node| node.0).collect();
            self.signed.push((to, *bundle));
            return;
        }
        let Message::Submit { retry, bundle } = message else {
            panic!("a client submits and signs, nothing else: {message:?}")
        };
        let bundle = Bundle::parse(Pool::new(0).copy(bundle), &scope, &limits)
            .expect("a correct client's bundle");
        let view = bundle.view();
        let public = self.identity.public();
        assert_eq!(view.client, public.client_id());
        let proof = match view.authenticator {
            Authenticator::None => "none",
            Authenticator::Mac(_) => {
                for (place, node) in self.configuration.voting().iter().enumerate() {
                    let member = self.configuration.member(*node).unwrap().public;
                    let key =
                        authenticator_key(&scope, &self.identity, &member, view.client, *node)
                            .unwrap();
                    let tag = twostep_crypto::Tag(
                        view.authenticator
                            .tag(place)
                            .expect("a tag for every voting node"),
                    );
                    key.verify(&[&bundle.digest().0], &tag)
                        .expect("the tag verifies");
                }
                "tags"
            }
            Authenticator::Signature(signature) => {
                let signer = Party::Client(view.client);
                let claim = Signed {
                    signer,
                    content: BundleClaim(bundle.digest()),
                    signature,
                };
                claim
                    .check(&scope, &public.sign)
                    .expect("the signature verifies");
                "signature"
            }
        };
        self.bundles += 1;
        self.digest = bundle.digest();
        self.left.extend(view.requests().map(|request| Left {
            to: to.iter().map(|node| node.0).collect(),
            retry: *retry,
            proof,
            kind: request.kind,
            seq: request.seq.0,
            operation: request.operation.to_vec(),
        }));
    }

    fn opened(&mut self, _: SessionHandle, token: u64, result: Result<SessionId, OpenError>) {
        self.ended.push((token, Ended::Opened(result)));
    }

    fn done(&mut self, _: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        let ended = match outcome {
            CallOutcome::Committed { decree, reply } => {
                Ended::Committed(decree.0, reply.map(<[u8]>::to_vec))
            }
            CallOutcome::Rejected(why) => Ended::Rejected(why),
            CallOutcome::Busy { .. } => Ended::Busy,
            CallOutcome::Unknown { session, seq } => {
                assert_eq!(session, SESSION);
                Ended::Unknown(seq.0)
            }
        };
        self.ended.push((token, ended));
    }
}

/// A client of a cluster with f = 1, and the words of its replicas.
struct Bed {
    core: ClientCore,
    sink: Sink,
    now: Time,
}

impl Bed {
    fn with(model: FaultModel, admission: Admission, tune: impl FnOnce(&mut ClientTuning)) -> Bed {
        let nodes = model.acceptors(1);
        let members = (1..).take(nodes).map(|seed: u8| Member {
            roles: if usize::from(seed) <= model.learners(1) {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            },
            public: Identity::from_seed([seed; 32]).public(),
        });
        let limits = Limits {
            body_bytes_max: 8192,
            request_bytes_max: 1024,
            ..Limits::default()
        };
        let configuration =
            Configuration::new(model, 1, members.collect(), limits, admission, [0; 16]).unwrap();
        let configuration = Arc::new(configuration);
        let identity = Arc::new(Identity::from_seed([200; 32]));
        let mut setup = ClientSetup::new(configuration.clone(), identity.clone(), 42).unwrap();
        setup.tuning.retry = Duration::from_millis(100);
        setup.tuning.deadline = Duration::from_secs(5);
        tune(&mut setup.tuning);
        let mut core = ClientCore::new(setup);
        configuration
            .nodes()
            .iter()
            .for_each(|node| core.link_up(node));
        let sink = Sink {
            configuration,
            identity,
            left: Vec::new(),
            bundles: 0,
            digest: Digest::ZERO,
            signed: Vec::new(),
            ended: Vec::new(),
        };
        Bed {
            core,
            sink,
            now: Time(1),
        }
    }

    fn new() -> Bed {
        Bed::with(FaultModel::Fab, Admission::Mac, |_| {})
    }

    /// A bed with one open session.
    fn open() -> (Bed, SessionHandle) {
        let mut bed = Bed::new();
        let handle = bed.open_one();
        (bed, handle)
    }

    fn open_one(&mut self) -> SessionHandle {
        let handle = self.core.open_session(1000, self.now).unwrap();
        let nonce = self.flush()[0].seq;
        for learner in (0..).take(self.core.reply_quorum) {
            self.says(learner, SessionId::NONE, nonce, 3, Outcome::Opened(SESSION));
        }
        assert_eq!(self.ended(), [(1000, Ended::Opened(Ok(SESSION)))]);
        handle
    }

    fn call(&mut self, handle: SessionHandle, operation: &[u8], token: u64) -> u64 {
        self.core
            .call(handle, operation, token, self.now)
            .unwrap()
            .0
    }

    fn flush(&mut self) -> Vec<Left> {
        self.core.flush(self.now, &mut self.sink);
        std::mem::take(&mut self.sink.left)
    }

    /// Lets time pass up to the core's own deadline and flushes then.
    fn pass(&mut self) -> Vec<Left> {
        self.now = self
            .now
            .max(self.core.deadline().expect("something is under way"));
        self.flush()
    }

    fn ended(&mut self) -> Vec<(u64, Ended)> {
        std::mem::take(&mut self.sink.ended)
    }

    fn hears(&mut self, from: u16, message: &Message<'_>) {
        self.core
            .on_message(self.now, NodeId(from), message, &mut self.sink);
    }

    /// Learner `from` says what a decree made of this request.
    fn says(&mut self, from: u16, session: SessionId, seq: u64, decree: u64, outcome: Outcome<'_>) {
        let (regency, bytes) = (Regency(0), entry(session, seq, decree, outcome));
        let entries = ReplyEntries::new(&bytes);
        self.hears(from, &Message::Replies { regency, entries });
    }

    /// Learner `from` says the same when it is asked again.
    fn finds(
        &mut self,
        from: u16,
        session: SessionId,
        seq: u64,
        decree: u64,
        outcome: Outcome<'_>,
    ) {
        let (regency, bytes) = (Regency(0), entry(session, seq, decree, outcome));
        let entries = ReplyEntries::new(&bytes);
        self.hears(from, &Message::Found { regency, entries });
    }

    /// Learner `from` says that `seq` was executed in decree 9 with this reply.
    fn executed(&mut self, from: u16, seq: u64, reply: &[u8]) {
        self.says(from, SESSION, seq, 9, Outcome::Executed(reply));
    }
}

fn entry(session: SessionId, seq: u64, decree: u64, outcome: Outcome<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reply = Reply {
        session,
        seq: Seq(seq),
        decree: Decree(decree),
        outcome,
    };
    write_replies([reply], &mut bytes);
    bytes
}

#[test]
fn a_call_commits_with_two_equal_replies() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    let left = bed.flush();
    let expected = Left {
        to: vec![0],
        retry: false,
        proof: "tags",
        kind: RequestKind::Operation,
        seq: 1,
        operation: b"incr".to_vec(),
    };
    assert_eq!(left, [expected], "tagged, once, to the leader alone");
    bed.executed(2, seq, b"1");
    assert_eq!(bed.ended(), []);
    bed.executed(1, seq, b"1");
    assert_eq!(bed.ended(), [(5, Ended::Committed(9, Some(b"1".to_vec())))]);
    assert_eq!(bed.core.unresolved(), 0);
    assert_eq!(bed.core.deadline(), None, "nothing is under way");
    // The late ones and repeats of them change nothing.
    for learner in [0, 3, 1, 2] {
        bed.executed(learner, seq, b"1");
        bed.executed(learner, seq, b"2");
    }
    assert_eq!(bed.ended(), []);
    assert_eq!(bed.core.counters().late, 2, "two say each once more");
}

#[test]
fn an_open_is_signed_and_needs_two_equal_answers() {
    let mut bed = Bed::new();
    let handle = bed.core.open_session(1, bed.now).unwrap();
    assert_eq!(
        bed.core.call(handle, b"x", 2, bed.now),
        Err(CallRefused::Opening)
    );
    let left = bed.flush();
    assert_eq!(
        (left[0].kind, left[0].proof, left[0].retry),
        (RequestKind::Open, "signature", false)
    );
    let nonce = left[0].seq;
    let elsewhere = SessionId {
        decree: Decree(4),
        index: 0,
    };
    bed.says(3, SessionId::NONE, nonce, 4, Outcome::Opened(elsewhere));
    bed.says(
        2,
        SessionId::NONE,
        nonce,
        3,
        Outcome::Executed(b"no answer to an Open"),
    );
    bed.says(1, SessionId::NONE, nonce, 3, Outcome::Opened(SESSION));
    assert_eq!(bed.ended(), []);
    bed.says(0, SessionId::NONE, nonce, 3, Outcome::Opened(SESSION));
    assert_eq!(bed.ended(), [(1, Ended::Opened(Ok(SESSION)))]);
    assert_eq!(bed.core.room(handle), 64);
    let other = bed.core.open_session(2, bed.now).unwrap();
    assert_ne!(other.index(), handle.index());
    assert_ne!(bed.flush()[0].seq, nonce, "a nonce is used once");
}

#[test]
fn a_liar_alone_never_completes_a_call() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.flush();
    for _ in 0..3 {
        bed.executed(3, seq, b"lie");
        bed.says(3, SESSION, seq, 9, Outcome::Stale);
        bed.says(3, SESSION, seq, 9, Outcome::SessionLapsed);
        bed.says(3, SESSION, seq, 9, Outcome::ExecutedReplyGone);
        bed.says(3, SESSION, seq, 9, Outcome::ExecutedDigest(Digest::ZERO));
        bed.says(3, SESSION, seq, 9, Outcome::Opened(SESSION));
        bed.finds(3, SESSION, seq, 9, Outcome::Executed(b"lie"));
        bed.finds(3, SESSION, seq, 9, Outcome::Stale);
        bed.finds(3, SESSION, seq, 9, Outcome::ExecutedReplyGone);
        bed.hears(
            3,
            &Message::Busy {
                regency: Regency(0),
                retry_after_ms: u32::MAX,
            },
        );
    }
    assert_eq!(bed.ended(), [], "one node's word never ends a call");
    bed.executed(0, seq, b"1");
    assert_eq!(bed.ended(), []);
    bed.executed(1, seq, b"1");
    assert_eq!(bed.ended(), [(5, Ended::Committed(9, Some(b"1".to_vec())))]);
}

#[test]
fn two_liars_that_disagree_complete_nothing() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.flush();
    bed.executed(2, seq, b"lie");
    bed.executed(3, seq, b"another lie");
    bed.says(1, SESSION, seq, 10, Outcome::Executed(b"lie"));
    bed.finds(2, SESSION, seq, 9, Outcome::Executed(b"lie"));
    bed.finds(1, SESSION, seq, 10, Outcome::Executed(b"lie"));
    assert_eq!(
        bed.ended(),
        [],
        "equal replies at different decrees are not equal"
    );
}

#[test]
fn only_learners_answer() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.flush();
    for acceptor in [4, 5, 6, 127, u16::MAX] {
        bed.executed(acceptor, seq, b"1");
    }
    assert_eq!(bed.ended(), []);
    assert_eq!(bed.core.counters().refused, 5);
}

#[test]
fn replies_before_anything_was_sent_do_not_count() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.executed(0, seq, b"1");
    bed.executed(1, seq, b"1");
    assert_eq!(bed.ended(), []);
}

#[test]
fn one_learner_in_full_and_the_digest_of_another_complete_all_calls_of_a_decree() {
    let (mut bed, handle) = Bed::open();
    let seqs = [1, 2, 3].map(|token| bed.call(handle, b"get", token));
    bed.flush();
    let mut bytes = Vec::new();
    let replies = seqs.map(|seq| Reply {
        session: SESSION,
        seq: Seq(seq),
        decree: Decree(9),
        outcome: Outcome::Executed(b"value"),
    });
    write_replies(replies, &mut bytes);
    let (regency, entries) = (Regency(0), ReplyEntries::new(&bytes));
    let digest = entries.digest(&bed.core.scope);
    bed.hears(3, &Message::RepliesDigest { regency, digest });
    bed.hears(1, &Message::RepliesDigest { regency, digest });
    assert_eq!(bed.ended(), [], "nobody has said yet what it is");
    bed.hears(0, &Message::Replies { regency, entries });
    let committed = |token| (token, Ended::Committed(9, Some(b"value".to_vec())));
    assert_eq!(bed.ended(), [1, 2, 3].map(committed));
}

#[test]
fn what_one_learner_found_and_another_said_of_the_decree_are_not_added_up() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"get", 5);
    bed.flush();
    bed.executed(0, seq, b"value");
    bed.pass();
    bed.finds(0, SESSION, seq, 9, Outcome::Executed(b"value"));
    assert_eq!(bed.ended(), [], "one learner, heard twice");
    bed.finds(3, SESSION, seq, 9, Outcome::Executed(b"value"));
    assert_eq!(
        bed.ended(),
        [(5, Ended::Committed(9, Some(b"value".to_vec())))]
    );
}

/// A leader that lies orders a bundle twice. One correct learner said that the first copy was executed, but the
/// others are behind; then the session is dropped, and the second copy refused.
#[test]
fn a_refusal_by_who_may_have_said_executed_rejects_nothing() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.flush();
    bed.executed(0, seq, b"1");
    bed.says(0, SESSION, seq, 12, Outcome::SessionLapsed);
    bed.says(3, SESSION, seq, 12, Outcome::SessionLapsed);
    assert_eq!(bed.ended(), [], "it was executed");
    assert!(bed.flush()[0].retry, "so it is looked up");
    bed.executed(1, seq, b"1");
    assert_eq!(bed.ended(), [(5, Ended::Committed(9, Some(b"1".to_vec())))]);
}

#[test]
fn a_refusal_by_who_found_it_executed_rejects_nothing() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.flush();
    bed.pass();
    bed.finds(0, SESSION, seq, 9, Outcome::Executed(b"1"));
    bed.says(0, SESSION, seq, 12, Outcome::TooFar);
    bed.says(3, SESSION, seq, 12, Outcome::TooFar);
    assert_eq!(bed.ended(), []);
    bed.finds(1, SESSION, seq, 9, Outcome::Executed(b"1"));
    assert_eq!(bed.ended(), [(5, Ended::Committed(9, Some(b"1".to_vec())))]);
}

#[test]
fn a_reply_that_its_decree_had_no_room_for_is_fetched_at_once() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"get", 5);
    bed.flush();
    let digest = reply_digest(&bed.core.scope, b"value");
    for learner in [0, 1] {
        assert_eq!(bed.flush(), []);
        bed.says(learner, SESSION, seq, 9, Outcome::ExecutedDigest(digest));
    }
    assert_eq!(bed.ended(), [], "the reply itself is still missing");
    assert!(bed.flush()[0].retry, "so that it is asked for");
    bed.says(2, SESSION, seq, 9, Outcome::ExecutedDigest(digest));
    bed.finds(3, SESSION, seq, 9, Outcome::ExecutedDigest(digest));
    assert_eq!(bed.flush(), [], "once");
    bed.finds(3, SESSION, seq, 9, Outcome::Executed(b"value"));
    bed.finds(0, SESSION, seq, 9, Outcome::Executed(b"value"));
    assert_eq!(
        bed.ended(),
        [(5, Ended::Committed(9, Some(b"value".to_vec())))]
    );
}

#[test]
fn a_reply_that_is_gone_is_a_commit_without_reply() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"get", 5);
    bed.flush();
    bed.says(0, SESSION, seq, 9, Outcome::ExecutedReplyGone);
    bed.says(1, SESSION, seq, 9, Outcome::ExecutedReplyGone);
    assert_eq!(bed.ended(), [(5, Ended::Committed(9, None))]);
}

#[test]
fn oversized_replies_are_refused() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"get", 5);
    bed.flush();
    let large = vec![0; bed.core.reply_bytes_max + 1];
    bed.executed(0, seq, &large);
    bed.executed(1, seq, &large);
    assert_eq!(bed.ended(), []);
    bed.executed(0, seq, &large[1..]);
    bed.executed(1, seq, &large[1..]);
    assert_eq!(bed.ended().len(), 1, "at the limit it counts");
}
