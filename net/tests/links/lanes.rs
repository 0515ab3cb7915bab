//! What several loops of one node need: a shared address, and a loop that does not read while it has no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, Loop, PATIENCE, Setup, node};
use twostep_net::{NetError, Reactor, SendOutcome, free_address};

#[test]
fn loops_that_share_an_address_serve_every_connection_once() {
    let addr = free_address("127.0.0.1:0".parse().unwrap()).unwrap();
    let share = || {
        let mut setup = Setup::node(9);
        (setup.listen, setup.shared) = (addr, true);
        setup.start()
    };
    let lanes = [share(), share()];
    let peers: Vec<Loop> = (1..=8).map(|id| Setup::node(id).start()).collect();
    for peer in &peers {
        peer.ask(move |net| net.dial(node(9), addr));
        peer.until_up(node(9));
    }
    // The side that dialled is up first.
    let end = Instant::now() + PATIENCE;
    for peer in &peers {
        let me = peer.me.node().unwrap();
        let served = || {
            let served = lanes
                .iter()
                .filter(|lane| lane.ask(move |net| net.link_to(me)).is_some());
            served.count()
        };
        while served() == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(served(), 1, "{me}");
    }
    let mut sum = lanes[0].counters();
    sum.add(&lanes[1].counters());
    assert_eq!((sum.links_up, sum.accepted), (8, 8));
    assert!(
        matches!(free_address(addr), Err(NetError::AddressInUse(taken)) if taken == addr),
        "whoever does not share it finds it taken"
    );
    let mut stranger = Reactor::new(
        crate::config(),
        common::scope(1),
        common::identity(9),
        node(9),
        common::directory,
    )
    .unwrap();
    assert!(matches!(
        stranger.listen(addr),
        Err(NetError::AddressInUse(_))
    ));
}

#[test]
fn a_loop_without_room_reads_nothing_and_loses_nothing() {
    const MESSAGES: u32 = 200;
    let deaf = Arc::new(AtomicBool::new(false));
    let mut setup = Setup::node(2);
    setup.deaf = Arc::clone(&deaf);
    let (a, b) = (Setup::node(1).start(), setup.start());
    a.dial(&b);
    let link = a.until_up(b.me);
    b.until_up(a.me);
    deaf.store(true, Ordering::Release);
    let before = b.counters();
    a.ask(move |net| {
        for number in 0..MESSAGES {
            assert_eq!(net.send(link, &number.to_le_bytes()), SendOutcome::Queued);
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    let waiting = b.counters();
    assert_eq!(
        waiting.messages_in, before.messages_in,
        "nothing is delivered"
    );
    assert!(
        waiting.turns - before.turns < 20,
        "it sleeps meanwhile: {} turns",
        waiting.turns - before.turns
    );
    deaf.store(false, Ordering::Release);
    // Whoever makes room wakes the loop.
    b.tell(|_| {});
    for number in 0..MESSAGES {
        assert_eq!(b.until_message(), number.to_le_bytes());
    }
}

#[test]
fn a_loop_that_runs_out_of_room_reads_no_further_link_and_begins_with_those_it_left_out() {
    const PEERS: u8 = 5;
    let deaf = Arc::new(AtomicBool::new(false));
    let mut setup = Setup::node(9);
    (setup.deaf, setup.full_at_one) = (Arc::clone(&deaf), true);
    let full = setup.start();
    let peers: Vec<Loop> = (1..=PEERS).map(|id| Setup::node(id).start()).collect();
    let links: Vec<_> = peers
        .iter()
        .map(|peer| {
            peer.dial(&full);
            full.until_up(peer.me);
            peer.until_up(full.me)
        })
        .collect();
    deaf.store(true, Ordering::Release);
    for (peer, link) in peers.iter().zip(&links) {
        assert_eq!(
            peer.send(*link, vec![peer.me.node().unwrap().0.to_le_bytes()[0]]),
            SendOutcome::Queued
        );
    }
    // What a turn has queued is on its way when the next one answers, and what has come is known a turn later. When it has come nobody
    // can see who does not read: on a busy machine the kernel takes its time.
    for one in &peers {
        one.ask(|_| ());
    }
    thread::sleep(Duration::from_millis(200));
    for _ in 0..2 {
        full.ask(|_| ());
    }
    let mut heard = Vec::new();
    for round in 0..2 * PEERS {
        deaf.store(false, Ordering::Release);
        // A turn that begins after it.
        full.ask(|_| ());
        let said = full.until_message();
        // Whatever a turn reads it has read before it answers.
        full.ask(|_| ());
        let more = full.events.try_recv();
        assert!(more.is_err(), "with room for one message, also {more:?}");
        let from = usize::from(said[0]) - 1;
        if round < PEERS {
            let again = peers[from].send(links[from], said.clone());
            assert_eq!(again, SendOutcome::Queued);
        }
        heard.push(said[0]);
    }
    for half in heard.chunks_mut(usize::from(PEERS)) {
        half.sort_unstable();
        assert_eq!(half, (1..=PEERS).collect::<Vec<u8>>());
    }
}
