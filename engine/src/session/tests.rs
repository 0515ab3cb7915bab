//! Every verdict at its edges.

mod model;

use super::*;

const ALICE: ClientId = ClientId([1; 16]);
const BOB: ClientId = ClientId([2; 16]);

fn table(change: impl FnOnce(&mut Limits)) -> SessionTable {
    let mut limits = Limits::default();
    change(&mut limits);
    SessionTable::new(&limits)
}

fn id(decree: u64, index: u32) -> SessionId {
    SessionId {
        decree: Decree(decree),
        index,
    }
}

fn operation(name: u8) -> Fingerprint {
    Fingerprint::of(&[name])
}

/// Executes a request that must be new, with `reply`.
fn execute(table: &mut SessionTable, session: SessionId, seq: u64, decree: u64, reply: &[u8]) {
    match table.judge(ALICE, session, Seq(seq), operation(0)) {
        Verdict::Execute(ticket) => {
            table.record(ticket, Decree(decree), operation(0), Some(reply));
        }
        other => panic!("seq {seq} should be new: {other:?}"),
    }
}

fn judged(table: &mut SessionTable, session: SessionId, seq: u64) -> Verdict<'_> {
    table.judge(ALICE, session, Seq(seq), operation(0))
}

fn repeat(decree: u64, outcome: Outcome<'_>) -> Verdict<'_> {
    Verdict::Repeat {
        decree: Decree(decree),
        outcome,
    }
}

fn image_of(mut image: SessionImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    while image.next(&mut bytes) {}
    bytes
}

/// A table with the limits of `like`, read from an image in pieces of so many bytes.
fn restored(like: &SessionTable, image: &[u8], piece: usize) -> Result<SessionTable, BadSessions> {
    let limits = Limits {
        sessions_max: u32::try_from(like.sessions_max).unwrap(),
        sessions_per_client_max: like.share_max,
        session_decrees: like.idle_decrees_max,
        session_reply_bytes_max: u32::try_from(like.session_reply_bytes_max).unwrap(),
        reply_bytes_total_max: like.reply_bytes_total_max,
        ..Limits::default()
    };
    let mut reader = SessionReader::new(&limits);
    for piece in image.chunks(piece) {
        reader.feed(piece)?;
    }
    reader.finish()
}

fn bytes_of(table: &SessionTable) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.write_canonical(|piece| bytes.extend_from_slice(piece));
    bytes
}

#[test]
fn a_repeat_gets_the_first_reply_and_its_decree() {
    let mut table = table(|_| {});
    let session = table.open(ALICE, Seq(7), id(1, 0));
    execute(&mut table, session, 1, 2, b"first");
    table.begin(Decree(9));
    assert_eq!(
        judged(&mut table, session, 1),
        repeat(2, Outcome::Executed(b"first"))
    );
    let found = table.recall(ALICE, session, Seq(1), operation(0));
    assert_eq!(found, Some((Decree(2), Outcome::Executed(b"first"))));
    assert_eq!(
        table.recall(ALICE, session, Seq(2), operation(0)),
        None,
        "not executed yet"
    );
}

#[test]
fn another_operation_under_a_used_seq_is_refused() {
    let mut table = table(|_| {});
    let session = table.open(ALICE, Seq(7), id(1, 0));
    execute(&mut table, session, 1, 2, b"first");
    let verdict = table.judge(ALICE, session, Seq(1), operation(1));
    assert_eq!(verdict, Verdict::Refuse(Outcome::SeqReused));
    assert_eq!(table.recall(ALICE, session, Seq(1), operation(1)), None);
}

#[test]
fn the_window_of_seqs_has_sharp_edges() {
    let mut table = table(|_| {});
    let session = table.open(ALICE, Seq(7), id(1, 0));
    assert_eq!(
        judged(&mut table, session, 0),
        Verdict::Refuse(Outcome::Stale),
        "0 is no seq"
    );
    assert_eq!(
        judged(&mut table, session, 65),
        Verdict::Refuse(Outcome::TooFar)
    );
    assert_eq!(
        judged(&mut table, session, u64::MAX),
        Verdict::Refuse(Outcome::TooFar)
    );
    execute(&mut table, session, 64, 2, b"64");
    execute(&mut table, session, 1, 3, b"1");
    execute(&mut table, session, 65, 4, b"65");
    assert_eq!(
        judged(&mut table, session, 1),
        Verdict::Refuse(Outcome::Stale),
        "65 − 64 fell out"
    );
    execute(&mut table, session, 2, 5, b"2");
    assert_eq!(
        judged(&mut table, session, 2),
        repeat(5, Outcome::Executed(b"2"))
    );
    assert_eq!(
        judged(&mut table, session, 64),
        repeat(2, Outcome::Executed(b"64"))
    );
    assert_eq!(
        judged(&mut table, session, 130),
        Verdict::Refuse(Outcome::TooFar)
    );
    execute(&mut table, session, 129, 6, b"129");
    assert_eq!(
        judged(&mut table, session, 65),
        Verdict::Refuse(Outcome::Stale)
    );
    assert_eq!(
        judged(&mut table, session, 64),
        Verdict::Refuse(Outcome::Stale)
    );
    execute(&mut table, session, 66, 7, b"66");
    assert_eq!(table.reply_bytes(), 3 + 2, "what fell out is forgotten");
}

#[test]
fn foreign_and_unknown_sessions_have_lapsed() {
    let mut table = table(|_| {});
    let session = table.open(ALICE, Seq(7), id(1, 0));
    execute(&mut table, session, 1, 2, b"hers");
    let lapsed = || Verdict::Refuse(Outcome::SessionLapsed);
    assert_eq!(table.judge(BOB, session, Seq(1), operation(0)), lapsed());
    assert_eq!(table.judge(BOB, session, Seq(2), operation(0)), lapsed());
    assert_eq!(table.recall(BOB, session, Seq(1), operation(0)), None);
    assert_eq!(judged(&mut table, id(1, 1), 1), lapsed());
    assert_eq!(judged(&mut table, SessionId::NONE, 1), lapsed());
}

#[test]
fn no_session_is_found_in_a_closed_slot() {
    let mut table = table(|limits| limits.session_decrees = 1);
    let session = table.open(ALICE, Seq(7), id(1, 0));
    execute(&mut table, session, 1, 1, b"x");
    table.begin(Decree(3));
    for lapsed in [session, SessionId::NONE] {
        assert_eq!(
            judged(&mut table, lapsed, 2),
            Verdict::Refuse(Outcome::SessionLapsed)
        );
    }
}

#[test]
fn a_repeated_open_opens_nothing_twice() {
    let mut table = table(|_| {});
    let session = table.open(ALICE, Seq(7), id(1, 0));
    assert_eq!(table.open(ALICE, Seq(7), id(5, 3)), session);
    assert_eq!(table.len(), 1);
    assert_eq!(table.opened(ALICE, Seq(7)), Some(session));
    assert_ne!(
        table.open(ALICE, Seq(8), id(5, 4)),
        session,
        "another nonce, another session"
    );
    assert_ne!(
        table.open(BOB, Seq(7), id(5, 5)),
        session,
        "another client, another session"
    );
    assert_eq!(table.len(), 3);
}

#[test]
fn a_session_expires_after_whole_idle_decrees() {
    let mut table = table(|limits| limits.session_decrees = 3);
    let session = table.open(ALICE, Seq(7), id(1, 0));
    table.begin(Decree(4));
    execute(&mut table, session, 1, 4, b"in time");
    // Decrees 5, 6 and 7 execute nothing of it; neither a repeat nor a refusal nor an Open counts.
    for decree in 5..=7 {
        table.begin(Decree(decree));
        assert_eq!(
            judged(&mut table, session, 1),
            repeat(4, Outcome::Executed(b"in time"))
        );
        assert_eq!(
            judged(&mut table, session, 0),
            Verdict::Refuse(Outcome::Stale)
        );
        assert_eq!(table.open(ALICE, Seq(7), id(decree, 0)), session);
    }
    table.begin(Decree(8));
    assert_eq!(
        judged(&mut table, session, 1),
        Verdict::Refuse(Outcome::SessionLapsed)
    );
    assert_eq!((table.len(), table.reply_bytes()), (0, 0));
    assert_eq!(
        table.open(ALICE, Seq(7), id(8, 0)),
        id(8, 0),
        "an old Open opens a new session, never the old"
    );
}

#[test]
fn the_longest_idle_session_makes_room() {
    let mut table = table(|limits| limits.sessions_max = 2);
    let first = table.open(ALICE, Seq(1), id(1, 0));
    let second = table.open(ALICE, Seq(2), id(1, 1));
    execute(&mut table, first, 1, 1, b"busy");
    let third = table.open(ALICE, Seq(3), id(2, 0));
    assert_eq!(
        judged(&mut table, second, 1),
        Verdict::Refuse(Outcome::SessionLapsed)
    );
    assert_eq!(
        judged(&mut table, first, 1),
        repeat(1, Outcome::Executed(b"busy"))
    );
    execute(&mut table, third, 1, 2, b"");
    assert_eq!(table.len(), 2);
}

#[test]
fn a_client_at_its_share_closes_only_its_own_sessions() {
    let mut table =
        table(|limits| (limits.sessions_max, limits.sessions_per_client_max) = (100, 2));
    let bobs = table.open(BOB, Seq(1), id(1, 0));
    let first = table.open(ALICE, Seq(1), id(1, 1));
    let second = table.open(ALICE, Seq(2), id(1, 2));
    execute(&mut table, first, 1, 2, b"busy");
    for nonce in 3..1000 {
        table.open(ALICE, Seq(nonce), id(nonce, 0));
        assert_eq!(table.len(), 3);
        if nonce == 3 {
            let lapsed = Verdict::Refuse(Outcome::SessionLapsed);
            assert_eq!(judged(&mut table, second, 1), lapsed, "the longest idle");
            let executed = repeat(2, Outcome::Executed(b"busy"));
            assert_eq!(judged(&mut table, first, 1), executed);
        }
    }
    assert_eq!(table.opened(BOB, Seq(1)), Some(bobs));
    table.begin(Decree(1 << 30));
    assert!(table.is_empty());
    table.open(ALICE, Seq(1), id(1 << 30, 0));
    assert_eq!(table.shares.len(), 2, "places of clients are used again");
}

#[test]
fn a_session_forgets_the_replies_to_its_smallest_seqs() {
    let mut table = table(|limits| limits.session_reply_bytes_max = 10);
    let session = table.open(ALICE, Seq(7), id(1, 0));
    execute(&mut table, session, 2, 2, b"4444");
    execute(&mut table, session, 1, 3, b"55555");
    execute(&mut table, session, 3, 4, b"");
    execute(&mut table, session, 4, 5, b"22");
    assert_eq!(
        judged(&mut table, session, 1),
        repeat(3, Outcome::ExecutedReplyGone)
    );
    assert_eq!(
        judged(&mut table, session, 2),
        repeat(2, Outcome::Executed(b"4444"))
    );
    assert_eq!(table.reply_bytes(), 6);
    execute(&mut table, session, 5, 6, b"eleven byte");
    assert_eq!(
        judged(&mut table, session, 5),
        repeat(6, Outcome::ExecutedReplyGone),
        "larger than all room"
    );
    assert_eq!(
        table.reply_bytes(),
        6,
        "what does not fit drives nothing out"
    );
    execute(&mut table, session, 6, 7, b"exactly 10");
    assert_eq!(
        judged(&mut table, session, 3),
        repeat(4, Outcome::Executed(b"")),
        "an empty reply costs nothing"
    );
    assert_eq!(
        judged(&mut table, session, 4),
        repeat(5, Outcome::ExecutedReplyGone)
    );
    assert_eq!(
        judged(&mut table, session, 6),
        repeat(7, Outcome::Executed(b"exactly 10"))
    );
}

#[test]
fn the_longest_idle_session_gives_up_its_replies() {
    let mut table = table(|limits| limits.reply_bytes_total_max = 12);
    let sessions = [0, 1, 2].map(|index| table.open(ALICE, Seq(u64::from(index)), id(1, index)));
    for (place, session) in sessions.into_iter().enumerate() {
        execute(&mut table, session, 1, 2 + place as u64, b"four");
    }
    execute(&mut table, sessions[0], 2, 5, b"5");
    assert_eq!(
        judged(&mut table, sessions[1], 1),
        repeat(3, Outcome::ExecutedReplyGone),
        "idle since decree 3"
    );
    assert_eq!(
        judged(&mut table, sessions[0], 1),
        repeat(2, Outcome::Executed(b"four"))
    );
    assert_eq!(
        judged(&mut table, sessions[2], 1),
        repeat(4, Outcome::Executed(b"four"))
    );
    assert_eq!(table.reply_bytes(), 9);
    execute(&mut table, sessions[0], 3, 6, b"twelve bytes");
    assert_eq!(table.reply_bytes(), 12, "at last its own older replies go");
    assert_eq!(
        judged(&mut table, sessions[0], 1),
        repeat(2, Outcome::ExecutedReplyGone)
    );
    assert_eq!(
        judged(&mut table, sessions[0], 3),
        repeat(6, Outcome::Executed(b"twelve bytes"))
    );
}

#[test]
fn seqs_at_the_end_of_the_numbers_do_not_overflow() {
    let mut history = History::default();
    for seq in [u64::MAX - 70, u64::MAX - 6, u64::MAX] {
        history.execute(Seq(seq), operation(0), Decree(1));
        history.keep(Seq(seq), &seq.to_le_bytes());
    }
    let end = u64::MAX.to_le_bytes();
    let executed = |reply| Found::Executed {
        decree: Decree(1),
        reply: Some(reply),
    };
    assert_eq!(history.find(Seq(u64::MAX), operation(0)), executed(&end));
    assert_eq!(history.find(Seq(u64::MAX - 63), operation(0)), Found::New);
    assert_eq!(history.find(Seq(u64::MAX - 64), operation(0)), Found::Stale);
    assert_eq!(history.find(Seq(u64::MAX - 70), operation(0)), Found::Stale);
    assert_eq!(history.reply_bytes(), 16);
}
