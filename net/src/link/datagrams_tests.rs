//! Two links of datagrams over memory, with whatever a network or a stranger does to what travels.

use super::super::ends::{RECEIVE_BYTES, converse, good_pair};
use crate::fault::SplitMix;
use crate::link::SendOutcome;

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
