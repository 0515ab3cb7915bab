//! Two links of datagrams over memory, with whatever a network or a stranger does to what travels.

use std::time::{Duration, Instant};

use super::super::ends::{End, RECEIVE_BYTES, converse, good_pair};
use crate::fault::SplitMix;
use crate::link::SendOutcome;
use crate::packet::HEADER_BYTES;

#[test]
fn loss_disorder_and_doubles_lose_messages_and_change_none() {
    let (mut a, mut b) = good_pair();
    let mut random = SplitMix(7);
    let message = |number: u64| {
        let size = [20, 700, 3_000, 65_536][usize::try_from(number % 4).unwrap()];
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(size, number.to_le_bytes()[0]);
        bytes
    };
    let (mut whole, mut lost, mut doubled) = (Vec::new(), 0, 0);
    for round in 0..100 {
        let numbers = round * 8..round * 8 + 8;
        for number in numbers.clone() {
            assert_eq!(a.link.send(&[&message(number)], &[]), SendOutcome::Queued);
        }
        // Each is doubled, one in twenty is lost, and all come shuffled.
        let mut way: Vec<_> = a
            .says()
            .into_iter()
            .flat_map(|one| [one.clone(), one])
            .collect();
        for at in (1..way.len()).rev() {
            let other = usize::try_from(random.next() % (at as u64 + 1)).unwrap();
            way.swap(at, other);
        }
        let loses = round % 2 == 1;
        let before = b.received.len();
        for datagram in way {
            if loses && random.next().is_multiple_of(20) {
                lost += 1;
                continue;
            }
            doubled += 1;
            b.hears(&datagram);
        }
        if !loses {
            assert_eq!(
                b.received.len() - before,
                8,
                "without loss everything comes"
            );
        }
        whole.extend(numbers);
        converse(&mut a, &mut b, |_| true);
    }
    assert!(lost > 100 && b.strays > doubled / 3);
    let mut numbers = Vec::new();
    for bytes in &b.received {
        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(
            *bytes == message(number),
            "message {number} is as it was sent"
        );
        numbers.push(number);
    }
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "none comes twice");
    assert!(a.refused.is_none() && b.refused.is_none());
}

#[test]
fn a_lost_fragment_loses_one_message_of_64_kib_and_not_the_next() {
    let (mut a, mut b) = good_pair();
    for fill in [1, 2] {
        assert_eq!(
            a.link.send(&[&vec![fill; 65_536]], &[]),
            SendOutcome::Queued
        );
    }
    let mut count = 0;
    converse(&mut a, &mut b, |_| {
        count += 1;
        count != 20
    });
    assert_eq!(b.received, [vec![2; 65_536]]);
}

/// Carries messages both ways with one datagram in `one_in` lost, asks for what is missing, and says how many rounds that took.
fn mend(a: &mut End, b: &mut End, one_in: u64, messages: usize) -> usize {
    let mut random = SplitMix(11);
    let mut now = Instant::now();
    for round in 0..1000 {
        converse(a, b, |_| !random.next().is_multiple_of(one_in));
        if b.received.len() >= messages {
            return round;
        }
        now = now.max(b.link.ask_at().expect("something is missing"));
        b.link.ask_for_missing(now);
    }
    panic!("{} of {messages} messages came", b.received.len());
}

#[test]
fn lost_pieces_are_said_again_until_the_message_is_whole() {
    let (mut a, mut b) = good_pair();
    let gap = 100..9_000;
    for fill in 1..=10 {
        let parts: [&[u8]; 2] = [&[fill; 500], &[fill; 18_000]];
        let sent = a.link.send(&parts, std::slice::from_ref(&gap));
        assert_eq!(sent, SendOutcome::Queued);
    }
    // Each message has 16 pieces, and nine in ten messages lose one or more.
    let rounds = mend(&mut a, &mut b, 8, 10);
    assert!(
        (1..60).contains(&rounds),
        "six times per message at most, not {rounds}"
    );
    let mut fills: Vec<u8> = b.received.iter().map(|message| message[0]).collect();
    for message in &b.received {
        assert_eq!(*message, vec![message[0]; 18_500]);
    }
    fills.sort_unstable();
    assert_eq!(fills, (1..=10).collect::<Vec<u8>>(), "each once");
    assert!(b.link.ask_at().is_none() && a.refused.is_none() && b.refused.is_none());
}

#[test]
fn a_long_gap_is_said_again_part_by_part() {
    let (mut a, mut b) = good_pair();
    let sent = a.link.send(&[&[4; 199_000]], &[]);
    assert_eq!(sent, SendOutcome::Queued);
    let mut count = 0;
    converse(&mut a, &mut b, |_| {
        count += 1;
        count == 1
    });
    let mut most = 0;
    while let Some(at) = b.link.ask_at() {
        b.link.ask_for_missing(at + Duration::from_secs(1));
        b.says().iter().for_each(|datagram| a.hears(datagram));
        let again = a.says();
        most = most.max(again.iter().map(Vec::len).sum());
        again.iter().for_each(|datagram| b.hears(datagram));
    }
    assert_eq!(b.received, [vec![4; 199_000]]);
    assert!((100_000..150_000).contains(&most), "{most} bytes at once");
}

#[test]
fn what_is_asked_for_in_vain_is_given_up() {
    let (mut a, mut b) = good_pair();
    let sent = a.link.send(&[&[1; 50_000]], &[]);
    assert_eq!(sent, SendOutcome::Queued);
    let mut count = 0;
    converse(&mut a, &mut b, |_| {
        count += 1;
        count != 5
    });
    let mut asked = 0;
    while let Some(at) = b.link.ask_at() {
        assert!(b.link.ask_for_missing(at) && b.says().len() == 1);
        asked += 1;
        assert!(asked < 20, "it ends");
    }
    assert!(asked > 3 && b.received.is_empty());
    // Later messages come all the same.
    let sent = a.link.send(&[&[2; 50_000]], &[]);
    assert_eq!(sent, SendOutcome::Queued);
    converse(&mut a, &mut b, |_| true);
    assert_eq!(b.received, [vec![2; 50_000]]);
}

#[test]
fn a_forged_or_repeated_want_is_a_stray() {
    let (mut a, mut b) = good_pair();
    let sent = a.link.send(&[&[1; 50_000]], &[]);
    assert_eq!(sent, SendOutcome::Queued);
    let mut count = 0;
    converse(&mut a, &mut b, |_| {
        count += 1;
        count != 5
    });
    let at = b.link.ask_at().unwrap();
    b.link.ask_for_missing(at);
    let want = b.says().remove(0);
    let mut forged = want.clone();
    forged[HEADER_BYTES] ^= 1;
    a.hears(&forged);
    assert!(a.strays == 1 && a.says().is_empty());
    a.hears(&want);
    let again = a.says();
    assert_eq!(again.len(), 1);
    a.hears(&want);
    assert!(a.strays == 2 && a.says().is_empty());
    b.hears(&again[0]);
    assert_eq!(b.received, [vec![1; 50_000]]);
}

#[test]
fn a_close_is_believed_once_it_verifies() {
    let (mut a, mut b) = good_pair();
    a.link.push_close();
    for datagram in a.says() {
        b.hears(&datagram);
    }
    assert!(b.closed && b.link.peer().is_none());
}

#[test]
fn what_waits_for_credit_leaves_when_it_comes() {
    let (mut a, mut b) = good_pair();
    for _ in 0..40 {
        assert_eq!(a.link.send(&[&[5; 99_000]], &[]), SendOutcome::Queued);
    }
    let mut most = 0;
    let mut rounds = 0;
    while a.link.queued_bytes() > 0 {
        let way = a.says();
        most = most.max(way.iter().map(|one| one.len() + 1024).sum());
        way.iter().for_each(|datagram| b.hears(datagram));
        b.says().iter().for_each(|datagram| a.hears(datagram));
        rounds += 1;
        assert!(rounds < 100, "credit comes");
    }
    assert!(most <= RECEIVE_BYTES / 2, "{most} bytes were under way");
    assert_eq!(b.received.len(), 40);
}
