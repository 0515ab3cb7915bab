use super::*;
use crate::batch::{Bundle, BundleWriter, Request};
use crate::configuration::Limits;
use crate::message::Reply;
use crate::types::{ClusterId, Decree, Epoch};
use crate::wire::write_replies;
use twostep_crypto::Scope;
use twostep_net::pool::Body;

const ALICE: ClientId = ClientId([1; 16]);
const BOB: ClientId = ClientId([2; 16]);
const PROGRESS: Decree = Decree(1);
const ME: NodeId = NodeId(0);
const LIMIT: Duration = Duration::from_nanos(100);
const PATIENCE: Patience = Patience {
    time: LIMIT,
    decrees: 8,
    least: Duration::from_nanos(1),
};
const SESSION: SessionId = SessionId {
    decree: Decree(1),
    index: 0,
};

fn tracking() -> Tracking {
    Tracking::new(1 << 16, 2)
}

fn bundle(client: ClientId, kind: RequestKind, seqs: impl Iterator<Item = u64>) -> Bundle {
    let scope = Scope::new(ClusterId([0; 32]), Epoch(0));
    let mut writer = BundleWriter::new(client);
    for seq in seqs {
        let request = Request {
            kind,
            session: if kind == RequestKind::Open {
                SessionId::NONE
            } else {
                SESSION
            },
            seq: Seq(seq),
            operation: b"",
        };
        assert!(writer.push(&request));
    }
    let bytes = writer.finish_bare(&scope).to_vec();
    Bundle::parse(Body::from_vec(bytes), &scope, &Limits::default()).unwrap()
}

fn calls(client: ClientId, seqs: impl Iterator<Item = u64>) -> Bundle {
    bundle(client, RequestKind::Operation, seqs)
}

fn done(tracking: &mut Tracking, client: ClientId, replies: &[(SessionId, u64, Outcome<'_>)]) {
    let mut bytes = Vec::new();
    let replies = replies.iter().map(|(session, seq, outcome)| Reply {
        session: *session,
        seq: Seq(*seq),
        decree: Decree(2),
        outcome: *outcome,
    });
    write_replies(replies, &mut bytes);
    tracking.done(client, ReplyEntries::new(&bytes));
}

#[test]
fn one_client_cannot_fill_the_memory_nor_crowd_out_another() {
    let mut tracking = tracking();
    assert!(
        tracking
            .track(&calls(ALICE, 0..1000), ME, Time(0), PROGRESS)
            .requests
    );
    assert!(
        !tracking
            .track(&calls(ALICE, 1000..1001), ME, Time(0), PROGRESS)
            .requests
    );
    assert!(
        tracking
            .track(&calls(BOB, 0..1), ME, Time(0), PROGRESS)
            .requests
    );
    let counts: Vec<usize> = tracking
        .clients
        .values()
        .map(|waiting| waiting.requests.len())
        .collect();
    assert_eq!(counts, [TRACKED_MAX, 1]);
}

#[test]
fn a_request_is_tracked_until_it_is_answered() {
    let mut tracking = tracking();
    assert!(
        tracking
            .track(&calls(ALICE, 1..4), ME, Time(0), PROGRESS)
            .requests
    );
    assert!(
        !tracking
            .track(&calls(ALICE, 1..3), ME, Time(0), PROGRESS)
            .requests,
        "known"
    );
    done(&mut tracking, BOB, &[(SESSION, 1, Outcome::Executed(b""))]);
    assert_eq!(tracking.deadline(LIMIT), Some(Time(0) + LIMIT));
    let answers = [
        (SESSION, 1, Outcome::Executed(b"reply")),
        (SESSION, 2, Outcome::Stale),
    ];
    done(&mut tracking, ALICE, &answers);
    assert!(!tracking.is_empty(), "3 waits");
    done(
        &mut tracking,
        ALICE,
        &[(SESSION, 3, Outcome::SessionLapsed)],
    );
    assert!(tracking.is_empty());
    assert_eq!(tracking.deadline(LIMIT), None);
}

#[test]
fn an_open_is_done_when_its_session_is_there() {
    let mut tracking = tracking();
    let nonce = 77;
    let open = bundle(ALICE, RequestKind::Open, [nonce].into_iter());
    assert!(tracking.track(&open, ME, Time(0), PROGRESS).requests);
    // The reply may name the new session or none: the nonce says which Open it was.
    done(
        &mut tracking,
        ALICE,
        &[(SESSION, nonce, Outcome::Opened(SESSION))],
    );
    assert!(tracking.is_empty());
}

#[test]
fn the_oldest_request_is_overdue_first_and_then_all_wait_anew() {
    let mut tracking = tracking();
    tracking.track(&calls(ALICE, 1..2), ME, Time(10), PROGRESS);
    tracking.track(&calls(BOB, 1..2), ME, Time(50), PROGRESS);
    tracking.track(&calls(ALICE, 1..2), ME, Time(60), PROGRESS);
    assert_eq!(
        tracking.deadline(LIMIT),
        Some(Time(110)),
        "a retry is not younger"
    );
    assert!(!tracking.overdue(Time(109), Decree::NONE, PATIENCE));
    assert!(tracking.overdue(Time(110), Decree::NONE, PATIENCE));
    assert!(
        !tracking.overdue(Time(209), Decree::NONE, PATIENCE),
        "each waits anew"
    );
    assert!(tracking.overdue(Time(210), Decree::NONE, PATIENCE));
}

#[test]
fn a_new_leader_gets_as_much_time_as_the_old_one() {
    let mut tracking = tracking();
    tracking.track(&calls(ALICE, 1..2), ME, Time(10), PROGRESS);
    tracking.restart(Time(90), PROGRESS);
    assert_eq!(tracking.deadline(LIMIT), Some(Time(190)));
    assert!(!tracking.overdue(Time(189), Decree::NONE, PATIENCE));
}

fn names(seqs: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in seqs {
        RequestNames::write(SESSION, Seq(*seq), &mut bytes);
    }
    bytes
}

#[test]
fn bundles_are_kept_while_one_of_their_requests_waits_and_no_longer() {
    let mut tracking = tracking();
    let (first, second) = (calls(ALICE, 1..3), calls(ALICE, 2..4));
    assert!(tracking.track(&first, ME, Time(0), PROGRESS).requests);
    assert!(
        tracking.track(&second, ME, Time(0), PROGRESS).requests,
        "3 is new"
    );
    let again = calls(ALICE, 1..4);
    assert!(!tracking.track(&again, ME, Time(0), PROGRESS).requests);
    let kept =
        |tracking: &Tracking| -> Vec<Digest> { tracking.bundles().map(Bundle::digest).collect() };
    assert_eq!(kept(&tracking), [first.digest(), second.digest()]);
    assert!(tracking.kept(ALICE, &first.digest()).is_some());
    assert!(tracking.kept(ALICE, &again.digest()).is_none());
    assert!(tracking.kept(BOB, &first.digest()).is_none());

    done(
        &mut tracking,
        ALICE,
        &[(SESSION, 2, Outcome::Executed(b""))],
    );
    assert_eq!(kept(&tracking), [first.digest(), second.digest()]);
    done(
        &mut tracking,
        ALICE,
        &[(SESSION, 1, Outcome::Executed(b""))],
    );
    assert_eq!(kept(&tracking), [second.digest()]);
    done(
        &mut tracking,
        ALICE,
        &[(SESSION, 3, Outcome::Executed(b""))],
    );
    assert_eq!((kept(&tracking).len(), tracking.bytes), (0, 0));
}

#[test]
fn no_more_bytes_are_kept_than_allowed() {
    let bundle = calls(ALICE, 1..2);
    let mut tracking = Tracking::new(bundle.len() + bundle.len() / 2, 2);
    assert!(tracking.track(&bundle, ME, Time(0), PROGRESS).requests);
    assert!(
        !tracking
            .track(&calls(BOB, 1..2), ME, Time(0), PROGRESS)
            .requests
    );
    assert_eq!(
        tracking.clients.len(),
        1,
        "nothing is left of what found no room"
    );
    done(&mut tracking, ALICE, &[(SESSION, 1, Outcome::Stale)]);
    assert!(
        tracking
            .track(&calls(BOB, 1..2), ME, Time(0), PROGRESS)
            .requests
    );
}

#[test]
fn what_enough_proposers_relayed_is_overdue_after_a_window_of_decrees() {
    let mut tracking = tracking();
    let call = calls(ALICE, 1..2);
    let overdue = |tracking: &mut Tracking, progress: u64| {
        tracking.overdue(Time(1), Decree(progress), PATIENCE)
    };
    tracking.track(&call, ME, Time(0), Decree(10));
    tracking.track(&call, ME, Time(0), Decree(11));
    assert!(!overdue(&mut tracking, 100), "one proposer knows it, twice");
    tracking.track(&call, NodeId(3), Time(0), Decree(20));
    assert!(!overdue(&mut tracking, 27));
    assert!(overdue(&mut tracking, 28));
    assert!(!overdue(&mut tracking, 35), "it waits anew");
    tracking.restart(Time(0), Decree(35));
    assert!(
        !overdue(&mut tracking, 42),
        "a new leader gets a whole window"
    );
    assert!(overdue(&mut tracking, 43));
}

#[test]
fn enough_learners_end_the_tracking_and_one_cannot() {
    let mut tracking = tracking();
    tracking.track(&calls(ALICE, 1..4), ME, Time(0), PROGRESS);
    let waiting: Vec<(ClientId, Vec<u8>)> = tracking.names().collect();
    assert_eq!(waiting, [(ALICE, names(&[1, 2, 3]))]);
    let mut say = |learner: u16, seqs: &[u64]| {
        let bytes = names(seqs);
        let names = RequestNames::new(ALICE, &bytes).unwrap();
        tracking.settled(NodeId(learner), names, 2);
        tracking.names().map(|(_, names)| names).collect::<Vec<_>>()
    };
    assert_eq!(say(1, &[1, 2]), [names(&[1, 2, 3])]);
    assert_eq!(
        say(1, &[1, 2]),
        [names(&[1, 2, 3])],
        "the same learner again"
    );
    assert_eq!(say(2, &[2, 3, 9]), [names(&[1, 3])]);
    assert_eq!(say(3, &[1, 3]), [] as [Vec<u8>; 0]);
}

#[test]
fn what_nobody_will_ever_execute_is_not_waited_for() {
    let mut tracking = tracking();
    let track = |tracking: &mut Tracking, session: SessionId, progress: u64| {
        let scope = Scope::new(ClusterId([0; 32]), Epoch(0));
        let mut writer = BundleWriter::new(ALICE);
        assert!(writer.push(&Request {
            kind: RequestKind::Operation,
            session,
            seq: Seq(1),
            operation: b"",
        }));
        let bytes = Body::from_vec(writer.finish_bare(&scope).to_vec());
        let bundle = Bundle::parse(bytes, &scope, &Limits::default()).unwrap();
        tracking
            .track(&bundle, ME, Time(0), Decree(progress))
            .requests
    };
    let later = SessionId {
        decree: Decree(9),
        index: 0,
    };
    assert!(
        !track(&mut tracking, SessionId::NONE, 20),
        "no session at all"
    );
    assert!(!track(&mut tracking, later, 8), "nobody can have opened it");
    assert!(tracking.is_empty());
    assert!(track(&mut tracking, later, 9));
}

#[test]
fn each_relayer_is_news_once() {
    let mut tracking = tracking();
    let call = calls(ALICE, 1..2);
    let mut track = |relayer: u16| {
        let news = tracking.track(&call, NodeId(relayer), Time(0), PROGRESS);
        (news.requests, news.relayer)
    };
    assert_eq!(track(3), (true, true));
    assert_eq!(track(0), (false, true), "known, and yet to be passed on");
    assert_eq!(track(0), (false, false));
}
