//! Calls that are sent again, and how they end if nobody answers or the leader changes.

use super::*;

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
