//! Two and more loops over loopback: messages of all sizes, restarts, replacement, slow readers, faults.

use std::time::{Duration, Instant};

use crate::common::{self, Loop, PATIENCE, Seen, Setup, client, node};
use twostep_crypto::NodeId;
use twostep_net::{
    Direction, FaultRule, LinkDown, LinkId, Net, NetError, Reactor, Refusal, SendOutcome, Transport,
};

/// Two nodes of which the first has dialled the second, and the first's link.
fn pair(a: Setup, b: Setup) -> (Loop, Loop, LinkId) {
    let (a, b) = (a.start(), b.start());
    a.dial(&b);
    let link = a.until_up(b.me);
    b.until_up(a.me);
    (a, b, link)
}

fn message(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(4), number.to_le_bytes()[0]);
    bytes
}

#[test]
fn ten_thousand_messages_and_some_of_a_mebibyte_are_echoed_in_order() {
    let (a, _b, link) = pair(Setup::node(1), Setup::node(2).echoing());
    let len = |number: u32| {
        if number.is_multiple_of(1000) {
            1 << 20
        } else {
            (number as usize * 37) % 300
        }
    };
    let mut next = 0;
    for batch in 0..20 {
        a.ask(move |net| {
            for number in batch * 500..(batch + 1) * 500 {
                assert_eq!(
                    net.send(link, &message(number, len(number))),
                    SendOutcome::Queued
                );
            }
        });
        while next < (batch + 1) * 500 {
            assert!(
                a.until_message() == message(next, len(next)),
                "message {next} is echoed as it was"
            );
            next += 1;
        }
    }
    let counters = a.counters();
    assert_eq!(
        (counters.messages_out, counters.messages_in),
        (10_000, 10_000)
    );
    // Large messages fill datagrams of 1,472 bytes by the thousand.
    let datagrams = match crate::config().transport {
        Transport::Tcp => 0,
        Transport::Udp => (12 << 20) / 1400,
    };
    assert!(
        counters.packets_out < 1_000 + datagrams,
        "messages share packets: {} were sealed",
        counters.packets_out
    );
    assert!(
        counters.syscalls.writes < 2_000,
        "links write once per turn: {} writes",
        counters.syscalls.writes
    );
    assert!(counters.macs >= counters.packets_in + counters.packets_out);
}

#[test]
fn one_message_in_parts_arrives_as_one() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    assert_eq!(
        a.ask(move |net| net.send_parts(link, &[b"in ", b"", b"parts"])),
        SendOutcome::Queued
    );
    assert_eq!(b.until_message(), b"in parts");
}

#[test]
fn both_ways_at_once_with_messages_above_the_socket_buffers() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    let back = b.ask(|net| net.link_to(NodeId(1))).unwrap();
    for number in 0..10 {
        assert_eq!(a.send(link, message(number, 1 << 20)), SendOutcome::Queued);
        assert_eq!(
            b.send(back, message(number + 100, 1 << 20)),
            SendOutcome::Queued
        );
    }
    for number in 0..10 {
        assert!(b.until_message() == message(number, 1 << 20));
        assert!(a.until_message() == message(number + 100, 1 << 20));
    }
}

#[test]
fn a_restarted_peer_is_dialled_again_and_shows_another_boot_nonce() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    let addr = b.addr;
    let boot = a.ask(move |net| net.peer(link).unwrap().boot);
    assert_eq!(boot, b.boot);
    b.stop();
    let (party, why) = a.until_down();
    assert_eq!(party, Some(node(2)));
    assert!(matches!(why, LinkDown::Closed | LinkDown::Io(_)), "{why}");
    assert_eq!(
        a.ask(move |net| net.send(link, b"to nobody")),
        SendOutcome::NoLink
    );
    a.until("a refused dial", |net| {
        net.peers().any(|peer| {
            peer.last_error
                .is_some_and(|error| error.starts_with("cannot connect to"))
        })
    });
    let b = Setup {
        listen: addr,
        ..Setup::node(2)
    }
    .start();
    let link = a.until_up(node(2));
    assert_ne!(a.ask(move |net| net.peer(link).unwrap().boot), boot);
    assert_eq!(a.send(link, b"again".to_vec()), SendOutcome::Queued);
    assert_eq!(b.until_message(), b"again");
}

#[test]
fn a_newer_connection_of_a_node_replaces_the_older() {
    let (a, b, _) = pair(Setup::node(1), Setup::node(2));
    // A second process with the same identity, as after a restart whose old connection nobody closed.
    let twin = Setup::node(1).start();
    a.ask(|net| net.undial(node(2)));
    a.until_down();
    a.dial(&b);
    a.until_up(node(2));
    twin.dial(&b);
    twin.until_up(node(2));
    let (_, why) = a.until_down();
    assert!(
        matches!(&why, LinkDown::RefusedUs(refused) if refused.reason == Refusal::Replaced),
        "{why}"
    );
    a.ask(|net| net.undial(node(2)));
    b.until("the replacement", |net| {
        net.counters().refused(Refusal::Replaced) >= 1 && net.link_to(NodeId(1)).is_some()
    });
}

#[test]
fn a_client_may_hold_several_connections_up_to_a_bound() {
    let server = Setup::node(1)
        .limits(|limits| limits.links_per_client_max = 2)
        .start();
    let clients: Vec<Loop> = (0..2).map(|_| Setup::client(101).start()).collect();
    for one in &clients {
        one.dial(&server);
        one.until_up(node(1));
        server.until_up(client(101));
    }
    let third = Setup::client(101).start();
    third.dial(&server);
    // The server learns that the client has the key only after the client has come up.
    let (_, why) = third.until_down();
    assert!(
        matches!(&why, LinkDown::RefusedUs(refused) if refused.reason == Refusal::TooManyLinks),
        "{why}"
    );
    assert_eq!(
        server.counters().refused(Refusal::TooManyLinks),
        server
            .counters()
            .refusals()
            .map(|(_, count)| count)
            .sum::<u64>()
    );
    let other = Setup::client(102).start();
    other.dial(&server);
    other.until_up(node(1));
}

#[test]
fn mismatches_are_told_to_both_sides() {
    let stranger = |setup: Setup, reason: Refusal, words: &str| {
        let b = Setup::node(2).start();
        let a = setup.start();
        a.dial(&b);
        let (party, why) = b.until_down();
        let LinkDown::Refused(ours) = &why else {
            panic!("{why}")
        };
        assert_eq!((party, ours.reason), (Some(a.me), reason));
        let (party, why) = a.until_down();
        let LinkDown::RefusedUs(told) = &why else {
            panic!("{why}")
        };
        assert_eq!((party, told.reason), (Some(b.me), reason));
        assert!(told.detail.contains(words), "{told}");
        a.until("the reason in the peer's state", move |net| {
            net.peers().any(|peer| {
                peer.party == node(2)
                    && peer.link.is_none()
                    && peer
                        .last_error
                        .is_some_and(|error| error.contains(reason.name()))
            })
        });
        assert!(b.counters().refused(reason) >= 1 && a.counters().refused_us(reason) >= 1);
    };
    stranger(
        Setup {
            cluster: 2,
            ..Setup::node(1)
        },
        Refusal::Cluster,
        "it belongs to cluster 010101010101…, we are of 020202020202…",
    );
    stranger(
        Setup {
            me: node(77),
            ..Setup::node(1)
        },
        Refusal::UnknownParty,
        "does not list us, node 77",
    );
    stranger(
        Setup {
            seed: 9,
            ..Setup::node(1)
        },
        Refusal::UnknownKey,
        "lists another key for us, node 1",
    );
}

#[test]
fn a_slow_reader_costs_bounded_memory_and_nobody_else() {
    let (a, b, slow) = pair(Setup::node(1), Setup::node(2));
    let c = Setup::node(3).start();
    a.dial(&c);
    let quick = a.until_up(node(3));
    let (release, hold) = std::sync::mpsc::channel::<()>();
    b.tell(move |_| {
        assert!(
            hold.recv_timeout(PATIENCE).is_ok(),
            "the test releases the loop"
        );
    });
    let bound = a.ask(|net| net.limits().send_bytes_max);
    let mut dropped = 0;
    let end = Instant::now() + PATIENCE / 2;
    while dropped < 20 {
        assert!(
            Instant::now() < end,
            "the send buffer of a peer that does not read fills up"
        );
        let outcome = a.send(slow, vec![1; 1 << 20]);
        dropped += u64::from(outcome == SendOutcome::Dropped);
        assert!(a.ask(move |net| net.queued_bytes(slow)) <= bound);
    }
    assert_eq!(a.counters().dropped_full, dropped);
    assert_eq!(a.send(quick, b"not held up".to_vec()), SendOutcome::Queued);
    assert_eq!(c.until_message(), b"not held up");
    release.send(()).unwrap();
    a.until("the drain", move |net| net.queued_bytes(slow) == 0);
    assert_eq!(a.send(slow, b"still up".to_vec()), SendOutcome::Queued);
    while b.until_message() != b"still up" {}
}

#[test]
fn a_message_above_the_limit_is_not_sent() {
    let (a, _b, link) = pair(Setup::node(1), Setup::node(2));
    assert_eq!(a.send(link, vec![0; (8 << 20) + 1]), SendOutcome::TooLarge);
    assert_eq!(a.counters().dropped_too_large, 1);
}

fn set_rule(of: &Loop, direction: Direction, rule: FaultRule) {
    of.ask(move |net: &mut Net| net.faults().set_everyone(direction, rule));
}

#[test]
fn faults_cut_one_way_duplicate_and_delay_and_end() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    let back = b.ask(|net| net.link_to(NodeId(1))).unwrap();
    set_rule(&a, Direction::Out, FaultRule::cut());
    assert_eq!(a.send(link, b"lost".to_vec()), SendOutcome::Queued);
    assert_eq!(b.send(back, b"the other way".to_vec()), SendOutcome::Queued);
    assert_eq!(a.until_message(), b"the other way");

    set_rule(
        &a,
        Direction::Out,
        FaultRule {
            duplicate_ppm: 1_000_000,
            ..FaultRule::default()
        },
    );
    assert_eq!(a.send(link, b"twice".to_vec()), SendOutcome::Queued);
    assert_eq!([b.until_message(), b.until_message()], [b"twice", b"twice"]);

    let delay = Duration::from_millis(80);
    set_rule(
        &a,
        Direction::Out,
        FaultRule {
            delay_min: delay,
            delay_max: delay,
            ..FaultRule::default()
        },
    );
    let sent = Instant::now();
    assert_eq!(a.send(link, b"late".to_vec()), SendOutcome::Queued);
    assert_eq!(b.until_message(), b"late");
    assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());

    a.ask(|net| net.faults().clear());
    set_rule(
        &b,
        Direction::In,
        FaultRule {
            delay_min: delay,
            delay_max: delay,
            ..FaultRule::default()
        },
    );
    let sent = Instant::now();
    assert_eq!(
        a.send(link, b"late on arrival".to_vec()),
        SendOutcome::Queued
    );
    assert_eq!(b.until_message(), b"late on arrival");
    assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());

    b.ask(|net| net.faults().clear());
    assert_eq!(a.send(link, b"as usual".to_vec()), SendOutcome::Queued);
    assert_eq!(b.until_message(), b"as usual");
    assert_eq!(a.ask(|net| net.faults().counts().lost), 1);
}

#[test]
fn loss_loses_about_its_share() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    set_rule(
        &a,
        Direction::Out,
        FaultRule {
            loss_ppm: 300_000,
            ..FaultRule::default()
        },
    );
    a.ask(move |net| {
        for number in 0..2_000 {
            assert_eq!(net.send(link, &message(number, 8)), SendOutcome::Queued);
        }
        net.faults().clear();
        assert_eq!(net.send(link, b"end"), SendOutcome::Queued);
    });
    let mut came = 0;
    while b.until_message() != b"end" {
        came += 1;
    }
    assert!((1_300..1_500).contains(&came), "{came} of 2000 came");
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let taken = Setup::node(1).start();
    let mut reactor = Reactor::new(
        crate::config(),
        common::scope(1),
        common::identity(2),
        node(2),
        common::directory,
    )
    .unwrap();
    let error = reactor.listen(taken.addr).unwrap_err();
    assert!(matches!(error, NetError::AddressInUse(addr) if addr == taken.addr));
    let words = error.to_string();
    assert!(
        words.contains(&taken.addr.to_string()) && words.contains("pass --listen"),
        "{words}"
    );
}

#[test]
fn closing_reports_and_the_dialler_comes_back() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    a.ask(move |net| net.close(link));
    assert!(matches!(a.until_down(), (Some(party), LinkDown::ClosedHere) if party == node(2)));
    assert!(matches!(b.until_down(), (Some(party), LinkDown::Closed) if party == node(1)));
    assert_ne!(
        a.until_up(node(2)),
        link,
        "a link's name is never used again"
    );
    a.ask(|net| net.undial(node(2)));
    assert!(matches!(a.until_down(), (_, LinkDown::ClosedHere)));
    assert!(
        a.events.recv_timeout(Duration::from_millis(300)).is_err(),
        "nobody dials any more"
    );
    assert!(!matches!(b.next(), Seen::Message(..)));
}

#[test]
fn idle_loops_sleep() {
    let (a, _b, _) = pair(Setup::node(1), Setup::node(2));
    let before = a.counters().turns;
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        a.counters().turns - before <= 4,
        "a loop without work takes no turns"
    );
}

#[test]
fn nodes_that_dial_each_other_settle_on_one_link() {
    let (a, b) = (Setup::node(1).start(), Setup::node(2).start());
    a.dial(&b);
    b.dial(&a);
    let mut quiet = 0;
    let end = Instant::now() + PATIENCE;
    while quiet < 10 {
        assert!(Instant::now() < end, "they settle in time");
        let before = a.counters().links_up + b.counters().links_up;
        std::thread::sleep(Duration::from_millis(50));
        let after = a.counters().links_up + b.counters().links_up;
        quiet = if before == after { quiet + 1 } else { 0 };
    }
    let link = a.ask(|net| net.link_to(NodeId(2))).expect("a link is up");
    assert_eq!(a.send(link, b"settled".to_vec()), SendOutcome::Queued);
    assert_eq!(b.until_message(), b"settled");
}

#[test]
fn undialling_leaves_links_that_the_other_side_opened() {
    let (a, b, link) = pair(Setup::node(1), Setup::node(2));
    b.ask(|net| net.undial(node(1)));
    assert_eq!(a.send(link, b"still up".to_vec()), SendOutcome::Queued);
    assert_eq!(b.until_message(), b"still up");
}
