//! What of replies does not fit: into the limit of one, into a decree, into a message.

use super::*;

/// Replies of 200 bytes, of which the 520 bytes of a decree hold two.
fn tight() -> Configuration {
    configuration(Limits {
        reply_bytes_max: 240,
        decree_reply_bytes_max: 520,
        ..Limits::default()
    })
}

#[test]
fn a_reply_above_the_limit_is_gone_for_everybody() {
    let configuration = small();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 0);
    let calls = [
        open(7),
        call(session, 1, &[15]),
        call(session, 2, &[16]),
        call(session, 2, &[16]),
    ];
    let executed = executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &calls)]));
    let expected = [
        line(session, 1, 1, "= 1..............."),
        line(session, 2, 1, "ExecutedReplyGone"),
        line(session, 2, 1, "ExecutedReplyGone"),
    ];
    assert_eq!(lines(executed.replies)[1..], expected);
    assert_eq!(executor.machine().0, 2);
}

#[test]
fn what_a_decree_cannot_carry_is_answered_by_digest_and_fetched_by_a_retry() {
    let configuration = tight();
    let scope = configuration.scope();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 0);
    let calls: Vec<Request<'_>> = (1..=64).map(|seq| call(session, seq, &[199])).collect();
    let requests = [&[open(7)], calls.as_slice()].concat();
    let executed = executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &requests)]));
    let full = |number: u64| format!("{number}{}", ".".repeat(199));
    for (line, number) in lines(executed.replies)[1..].iter().zip(1..) {
        let digest = reply_digest(&scope, full(number).as_bytes());
        let expected = match number {
            1 | 2 => format!("= {}", full(number)),
            _ => format!("{:?}", Outcome::ExecutedDigest(digest)),
        };
        assert_eq!(line.4, expected, "operation {number}");
    }
    assert_eq!(executor.machine().0, 64, "all of them are executed");

    // A duplicate costs its client 25 bytes and must not make replies of any length.
    let duplicates = vec![calls[0]; 1000];
    let executed = executor.execute(Decree(2), &batch(&configuration, &[(ALICE, &duplicates)]));
    assert!(executed.replies.bytes().len() < 1000 * 64 + 520);

    let retry = bundle(&configuration, ALICE, &calls[40..]);
    let found = lines(executor.lookup(&retry).unwrap());
    let expected = [41, 42].map(|seq| line(session, seq, 1, &format!("= {}", full(seq))));
    assert_eq!(found, expected, "in full, as much as fits");
    let repeated = bundle(&configuration, ALICE, &duplicates);
    assert!(executor.lookup(&repeated).unwrap().bytes().len() <= 520);
}

#[test]
fn what_a_message_does_not_hold_goes_into_several() {
    let configuration = configuration(Limits {
        body_bytes_max: 8192,
        request_bytes_max: 1024,
        reply_bytes_max: 1024,
        ..Limits::default()
    });
    let bytes_max = Bounds::of(&configuration).replies_bytes_max();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 0);
    let calls: Vec<_> = (1..=60).map(|seq| call(session, seq, &[255; 2])).collect();
    executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &[open(7)])]));
    let holds = |replies: &Replies| {
        let lengths: Vec<_> = (replies.groups())
            .map(|(_, entries)| entries.bytes().len())
            .collect();
        assert!(lengths.len() > 1, "{lengths:?}");
        assert!(lengths.iter().all(|length| *length <= bytes_max));
        assert_eq!(lines(replies).len(), 60, "nothing is left out");
    };
    let all = batch(&configuration, &[(ALICE, &calls)]);
    holds(executor.execute(Decree(2), &all).replies);
    holds(
        executor
            .lookup(&bundle(&configuration, ALICE, &calls))
            .unwrap(),
    );
}

#[test]
fn replies_no_longer_than_their_digest_are_always_sent() {
    let configuration = tight();
    let mut executor = Executor::new(&configuration, Count::default());
    let session = id(1, 0);
    let calls = (1..=64).map(|seq| call(session, seq, &[30]));
    let requests: Vec<_> = std::iter::once(open(7)).chain(calls).collect();
    let executed = executor.execute(Decree(1), &batch(&configuration, &[(ALICE, &requests)]));
    assert!(executed.replies.bytes().len() > 520);
    assert_eq!(
        lines(executed.replies)[64].4,
        format!("= 64{}", ".".repeat(30))
    );
}
