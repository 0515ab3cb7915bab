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
use crate::wire::write_reply;

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

    fn says(&mut self, from: u16, session: SessionId, seq: u64, decree: u64, outcome: Outcome<'_>) {
        let mut bytes = Vec::new();
        write_reply(
            &Reply {
                session,
                seq: Seq(seq),
                decree: Decree(decree),
                outcome,
            },
            &mut bytes,
        );
        self.hears(
            from,
            &Message::Replies {
                regency: Regency(0),
                entries: ReplyEntries::new(&bytes),
            },
        );
    }

    /// Learner `from` says that `seq` was executed in decree 9 with this reply.
    fn executed(&mut self, from: u16, seq: u64, reply: &[u8]) {
        self.says(from, SESSION, seq, 9, Outcome::Executed(reply));
    }
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
    assert_eq!(bed.core.counters().late, 8);
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
fn digests_and_one_full_reply_complete() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"get", 5);
    bed.flush();
    let digest = reply_digest(&bed.core.scope, b"value");
    bed.says(0, SESSION, seq, 9, Outcome::ExecutedDigest(digest));
    bed.says(1, SESSION, seq, 9, Outcome::ExecutedDigest(digest));
    assert_eq!(bed.ended(), [], "the reply itself is still missing");
    let again = bed.pass();
    assert!(again[0].retry, "so that it is asked for");
    bed.executed(3, seq, b"value");
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

#[test]
fn a_retry_is_signed_goes_to_everybody_and_backs_off() {
    let (mut bed, handle) = Bed::open();
    let start = bed.now;
    bed.call(handle, b"incr", 5);
    bed.flush();
    let mut waits = Vec::new();
    let mut before = start;
    for _ in 0..7 {
        let left = bed.pass();
        let expected = Left {
            to: vec![0, 1, 2, 3],
            retry: true,
            proof: "signature",
            kind: RequestKind::Operation,
            seq: 1,
            operation: b"incr".to_vec(),
        };
        if left.is_empty() {
            break;
        }
        assert_eq!(left, [expected]);
        waits.push((bed.now - before).as_millis());
        before = bed.now;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600], "doubling");
    assert_eq!(
        bed.now,
        start + Duration::from_secs(5),
        "then the deadline of the call"
    );
    assert_eq!(bed.ended(), [(5, Ended::Unknown(1))]);
    assert_eq!(bed.core.deadline(), None);
    assert_eq!(bed.core.counters().retries, 5);
    bed.executed(0, 1, b"1");
    bed.executed(1, 1, b"1");
    assert_eq!(bed.ended(), [], "it has ended already");
}

impl Bed {
    fn wants_signature(&mut self, from: u16, regency: u64, bundle: Digest) {
        let regency = Regency(regency);
        self.hears(from, &Message::WantSignature { regency, bundle });
    }
}

#[test]
fn a_client_signs_what_it_sent_and_nothing_else() {
    let (mut bed, handle) = Bed::open();
    bed.call(handle, b"incr", 5);
    assert_eq!(bed.flush()[0].proof, "tags");
    let sent = bed.sink.digest;
    bed.wants_signature(0, 0, Digest([9; 32]));
    assert_eq!(bed.sink.signed, [], "it never sent that");
    assert_eq!(bed.core.counters().refused, 1);
    // Somebody who does not lead gets the signature, but cannot make the client sign everything.
    bed.wants_signature(3, 0, sent);
    assert_eq!(bed.sink.signed, [(vec![3], sent)]);
    bed.call(handle, b"incr", 6);
    assert_eq!(bed.flush()[0].proof, "tags");
}

#[test]
fn the_leader_can_make_a_client_sign_until_another_one_leads() {
    let (mut bed, handle) = Bed::open();
    bed.call(handle, b"incr", 5);
    bed.flush();
    let sent = bed.sink.digest;
    bed.wants_signature(0, 0, sent);
    bed.wants_signature(0, 0, sent);
    assert_eq!(bed.sink.signed.len(), 2, "it may have been lost");
    let again = bed.flush();
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].proof, again[0].retry, again[0].seq),
        ("signature", true, 1),
        "what was sent with tags is sent again at once"
    );
    bed.call(handle, b"incr", 6);
    assert_eq!(bed.flush()[0].proof, "signature");
    for from in [1, 2] {
        bed.hears(
            from,
            &Message::Busy {
                regency: Regency(1),
                retry_after_ms: 0,
            },
        );
    }
    bed.flush();
    bed.call(handle, b"incr", 7);
    let left = bed.flush();
    assert_eq!((left[0].proof, &left[0].to), ("tags", &vec![1]));
}

#[test]
fn an_unknown_call_can_be_called_again_under_its_number() {
    let (mut bed, handle) = Bed::open();
    bed.call(handle, b"incr", 5);
    while bed.ended().is_empty() {
        bed.pass();
    }
    assert_eq!(
        bed.core.call_again(handle, Seq(2), b"incr", 6, bed.now),
        Err(CallRefused::NotAgain(Seq(2)))
    );
    assert_eq!(
        bed.core.call_again(handle, Seq(1), b"incr", 6, bed.now),
        Ok(Seq(1))
    );
    assert_eq!(bed.flush()[0].seq, 1);
    bed.executed(0, 1, b"1");
    bed.executed(1, 1, b"1");
    assert_eq!(bed.ended(), [(6, Ended::Committed(9, Some(b"1".to_vec())))]);
}

#[test]
fn what_was_never_sent_ends_busy() {
    let (mut bed, handle) = Bed::open();
    bed.sink
        .configuration
        .nodes()
        .iter()
        .for_each(|node| bed.core.link_down(node));
    bed.call(handle, b"incr", 5);
    bed.core.open_session(6, bed.now).unwrap();
    while bed.core.unresolved() > 0 {
        assert_eq!(bed.pass(), [], "there is nobody to send to");
    }
    assert_eq!(
        bed.ended(),
        [(5, Ended::Busy), (6, Ended::Opened(Err(OpenError::Busy)))]
    );
}

#[test]
fn calls_wait_for_the_link_to_the_leader_but_not_for_ever() {
    let (mut bed, handle) = Bed::open();
    bed.core.link_down(NodeId(0));
    bed.call(handle, b"one", 5);
    assert_eq!(bed.flush(), []);
    bed.core.link_up(NodeId(0));
    assert_eq!(
        bed.core.deadline().unwrap().max(bed.now),
        bed.now,
        "it can be sent now"
    );
    assert_eq!(bed.flush()[0].to, [0]);
    bed.core.link_down(NodeId(0));
    bed.call(handle, b"two", 6);
    let left = bed.pass();
    assert_eq!(
        left.iter().map(|left| &left.to[..]).collect::<Vec<_>>(),
        [[1, 2, 3], [1, 2, 3]]
    );
    bed.core.link_up(NodeId(0));
    assert_eq!(bed.flush(), [], "two was sent already");
}

#[test]
fn refusals_end_a_call_that_was_sent_once() {
    for (outcome, why) in [
        (Outcome::Stale, Rejection::Stale),
        (Outcome::TooFar, Rejection::TooFar),
        (Outcome::SeqReused, Rejection::SeqReused),
        (Outcome::SessionLapsed, Rejection::SessionLapsed),
    ] {
        let (mut bed, handle) = Bed::open();
        let seq = bed.call(handle, b"incr", 5);
        bed.flush();
        bed.says(0, SESSION, seq, 9, outcome);
        bed.says(0, SESSION, seq, 10, outcome);
        assert_eq!(bed.ended(), [], "one learner twice is one voice");
        bed.says(2, SESSION, seq, 9, outcome);
        assert_eq!(bed.ended(), [(5, Ended::Rejected(why))]);
        let next = bed.core.call(handle, b"incr", 6, bed.now);
        if why == Rejection::SessionLapsed {
            assert_eq!(next, Err(CallRefused::SessionLapsed));
        } else {
            assert_eq!(next, Ok(Seq(2)));
        }
    }
}

#[test]
fn a_refusal_after_a_retry_may_speak_of_one_copy_only() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"incr", 5);
    bed.flush();
    assert!(bed.pass()[0].retry);
    bed.says(0, SESSION, seq, 9, Outcome::SessionLapsed);
    bed.says(2, SESSION, seq, 9, Outcome::SessionLapsed);
    assert_eq!(
        bed.ended(),
        [(5, Ended::Unknown(1))],
        "the first copy may have been executed before"
    );
}

#[test]
fn busy_of_the_leader_delays_and_never_ends() {
    let (mut bed, handle) = Bed::open();
    bed.call(handle, b"one", 5);
    bed.flush();
    bed.hears(
        1,
        &Message::Busy {
            regency: Regency(0),
            retry_after_ms: 40,
        },
    );
    bed.call(handle, b"two", 6);
    assert_eq!(bed.flush().len(), 1, "only the leader's word delays");
    bed.hears(
        0,
        &Message::Busy {
            regency: Regency(0),
            retry_after_ms: 40,
        },
    );
    bed.call(handle, b"three", 7);
    let asked = bed.now;
    assert_eq!(bed.flush(), []);
    assert_eq!(bed.pass().len(), 1);
    assert_eq!((bed.now - asked).as_millis(), 40);
    // A leader that asks for ever gets at most one time-out more.
    loop {
        bed.hears(
            0,
            &Message::Busy {
                regency: Regency(0),
                retry_after_ms: u32::MAX,
            },
        );
        if !bed.pass().is_empty() {
            break;
        }
        assert!(
            (bed.now - asked).as_millis() <= 200,
            "a lying leader must not silence the client"
        );
    }
    assert_eq!((bed.now - asked).as_millis(), 200);
    assert_eq!(bed.ended(), []);
}

#[test]
fn the_believed_leader_changes_with_the_second_voice() {
    let (mut bed, handle) = Bed::open();
    bed.call(handle, b"one", 5);
    bed.flush();
    bed.hears(
        3,
        &Message::Busy {
            regency: Regency(u64::MAX),
            retry_after_ms: 0,
        },
    );
    assert_eq!(
        bed.core.leader(),
        NodeId(0),
        "one replica's word is not enough"
    );
    assert_eq!(bed.flush(), []);
    bed.hears(
        2,
        &Message::Replies {
            regency: Regency(5),
            entries: ReplyEntries::new(&[]),
        },
    );
    assert_eq!(
        (bed.core.regency(), bed.core.leader()),
        (Regency(5), NodeId(1)),
        "5 mod 4 proposers"
    );
    let left = bed.flush();
    assert_eq!(
        (left[0].seq, left[0].retry),
        (1, true),
        "what the old leader got is said again at once"
    );
    bed.call(handle, b"two", 6);
    let left = bed.flush();
    assert_eq!((left[0].seq, &left[0].to[..]), (2, &[1][..]));
}

#[test]
fn a_flush_makes_one_bundle_and_more_only_when_a_body_is_full() {
    let (mut bed, handle) = Bed::open();
    bed.sink.bundles = 0;
    for token in 0..10 {
        bed.call(handle, b"small", token);
    }
    assert_eq!(bed.flush().len(), 10);
    assert_eq!(bed.sink.bundles, 1);
    for token in 0..20 {
        bed.call(handle, &[7; 1024], token);
    }
    let seqs: Vec<u64> = bed.flush().iter().map(|left| left.seq).collect();
    assert_eq!(
        seqs,
        (11..=30).collect::<Vec<_>>(),
        "all of them, in order; each bundle fits a body (the sink checks)"
    );
    assert_eq!(bed.sink.bundles, 1 + 3);
    let refused = bed.core.call(handle, &[7; 1025], 0, bed.now);
    assert_eq!(
        refused,
        Err(CallRefused::TooLarge {
            found: 1025,
            limit: 1024
        })
    );
}

#[test]
fn the_window_blocks_at_64_and_frees_in_order() {
    let (mut bed, handle) = Bed::open();
    for token in 0..64 {
        bed.call(handle, b"x", token);
    }
    assert_eq!(bed.core.room(handle), 0);
    assert_eq!(
        bed.core.call(handle, b"x", 64, bed.now),
        Err(CallRefused::WouldBlock)
    );
    bed.flush();
    bed.executed(0, 2, b"");
    bed.executed(1, 2, b"");
    assert_eq!(bed.ended(), [(1, Ended::Committed(9, Some(Vec::new())))]);
    assert_eq!(
        bed.core.call(handle, b"x", 64, bed.now),
        Err(CallRefused::WouldBlock),
        "65 − 64 is not resolved"
    );
    bed.executed(0, 1, b"");
    bed.executed(1, 1, b"");
    assert_eq!(bed.core.room(handle), 2);
    assert_eq!(bed.core.call(handle, b"x", 64, bed.now), Ok(Seq(65)));
}

#[test]
fn closing_ends_every_call_and_voids_the_handle() {
    let (mut bed, handle) = Bed::open();
    bed.call(handle, b"sent", 5);
    bed.flush();
    bed.call(handle, b"unsent", 6);
    bed.core.close_session(handle, &mut bed.sink);
    assert_eq!(
        bed.ended(),
        [
            (5, Ended::Unknown(1)),
            (6, Ended::Rejected(Rejection::NeverSent))
        ]
    );
    assert_eq!(
        bed.core.call(handle, b"x", 7, bed.now),
        Err(CallRefused::Closed)
    );
    let next = bed.core.open_session(8, bed.now).unwrap();
    assert_eq!(next.index(), handle.index(), "the slot is used again");
    assert_ne!(next, handle);
    assert_eq!(
        bed.core.call(handle, b"x", 7, bed.now),
        Err(CallRefused::Closed),
        "by another session"
    );
    assert_eq!(
        bed.flush().len(),
        1,
        "the Open, and nothing of the old session"
    );
    bed.core.close_session(next, &mut bed.sink);
    assert_eq!(bed.ended(), [(8, Ended::Opened(Err(OpenError::Unknown)))]);
    assert_eq!((bed.core.unresolved(), bed.core.deadline()), (0, None));
}

#[test]
fn sessions_are_bounded() {
    let mut bed = Bed::with(FaultModel::Fab, Admission::Mac, |tuning| {
        tuning.sessions_max = 2;
    });
    let now = bed.now;
    assert!(bed.core.open_session(1, now).is_ok());
    assert!(bed.core.open_session(2, now).is_ok());
    assert_eq!(
        bed.core.open_session(3, now),
        Err(CallRefused::TooManySessions)
    );
}

#[test]
fn opens_are_split_into_bundles_that_nodes_take() {
    let mut bed = Bed::new();
    for token in 0..130 {
        bed.core.open_session(token, bed.now).unwrap();
    }
    assert_eq!(bed.flush().len(), 130);
    assert_eq!(bed.sink.bundles, 3, "64, 64 and 2");
}

#[test]
fn signed_and_link_admission() {
    let mut bed = Bed::with(FaultModel::Fab, Admission::Signed, |_| {});
    let handle = bed.open_one();
    bed.call(handle, b"x", 1);
    assert_eq!(bed.flush()[0].proof, "signature");
    let mut bed = Bed::with(FaultModel::Fab, Admission::Mac, |tuning| {
        tuning.signed = true;
    });
    let handle = bed.open_one();
    bed.call(handle, b"x", 1);
    assert_eq!(bed.flush()[0].proof, "signature");
    let mut bed = Bed::with(FaultModel::Crash, Admission::Link, |_| {});
    let handle = bed.open_one();
    bed.call(handle, b"x", 1);
    assert_eq!(
        (bed.flush()[0].proof, bed.pass()[0].proof),
        ("none", "none")
    );
    bed.executed(2, 1, b"1");
    assert_eq!(bed.ended().len(), 1, "one reply suffices where nobody lies");
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let (mut bed, handle) = Bed::open();
    let seq = bed.call(handle, b"x", 1);
    bed.flush();
    let mut bytes = Vec::new();
    let outcome = Outcome::Executed(b"1");
    write_reply(
        &Reply {
            session: SESSION,
            seq: Seq(seq),
            decree: Decree(9),
            outcome,
        },
        &mut bytes,
    );
    for learner in 0..4 {
        for len in 0..bytes.len() {
            let entries = ReplyEntries::new(&bytes[..len]);
            bed.hears(
                learner,
                &Message::Replies {
                    regency: Regency(0),
                    entries,
                },
            );
        }
        bed.hears(learner, &Message::Ack { learned: Decree(1) });
    }
    assert_eq!(bed.ended(), []);
    assert_eq!(
        bed.core.counters().malformed,
        4 * bytes.len() as u64,
        "the empty one is well-formed, the Ack is not for clients"
    );
}

#[test]
fn calls_gather_while_an_answer_is_due_if_bundles_are_ordered_together() {
    let (mut bed, handle) = Bed::open();
    let ms = Duration::from_millis(1);
    let answered = |bed: &mut Bed, seq: u64, decree: u64| {
        for learner in [1, 2] {
            bed.says(learner, SESSION, seq, decree, Outcome::Executed(b"1"));
        }
    };
    // Two bundles end in one decree, over and over.
    for decree in 10..1_000 {
        let pair = [1, 2].map(|token| {
            let seq = bed.call(handle, b"incr", token);
            bed.pass();
            seq
        });
        bed.now = bed.now + ms;
        for seq in pair {
            answered(&mut bed, seq, decree);
        }
    }
    assert_eq!(bed.core.unresolved(), 0);
    let first = bed.call(handle, b"incr", 1);
    assert_eq!(
        bed.flush().len(),
        1,
        "nothing is on its way: it leaves at once"
    );
    let others = [2, 3].map(|token| bed.call(handle, b"incr", token));
    assert_eq!(bed.flush(), [], "they wait for the first");
    assert!(bed.core.gathers_until() > bed.now);
    bed.now = bed.now + ms;
    answered(&mut bed, first, 1_000);
    let bundles = bed.sink.bundles;
    assert_eq!(bed.flush().len(), 2);
    assert_eq!(bed.sink.bundles, bundles + 1, "in one bundle");
    // An answer that stays out holds nothing back for long.
    bed.call(handle, b"incr", 4);
    assert_eq!(bed.flush(), []);
    assert_eq!(bed.pass().len(), 1);
    assert_eq!(bed.core.unresolved(), others.len() + 1);
}
