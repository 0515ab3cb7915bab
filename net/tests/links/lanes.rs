//! What several loops of one node need: a shared address, and a loop that does not read while it has no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
