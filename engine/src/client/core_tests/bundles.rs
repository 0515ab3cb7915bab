//! What travels together and when, and how many calls and sessions there may be.

use super::*;

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
    let bytes = entry(SESSION, seq, 9, Outcome::Executed(b"1"));
    for learner in 0..4 {
        for len in 0..bytes.len() {
            let entries = ReplyEntries::new(&bytes[..len]);
            let regency = Regency(0);
            bed.hears(learner, &Message::Found { regency, entries });
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
