//! Large messages over a network that loses datagrams: what is lost of them is asked for and said again.

use std::time::Duration;

use twostep_net::{Direction, FaultRule, SendOutcome};

use crate::common::{Setup, node};

#[test]
fn large_messages_come_whole_though_datagrams_are_lost() {
    const MESSAGES: u8 = 60;
    let (a, b) = (Setup::node(1).start(), Setup::node(2).start());
    a.dial(&b);
    let link = a.until_up(node(2));
    b.until_up(node(1));
    let loss = FaultRule {
        datagram_loss_ppm: 50_000,
        ..FaultRule::default()
    };
    // One in twenty both ways: pieces, and what asks for them.
    a.ask(move |net| {
        net.faults().set_everyone(Direction::Out, loss);
        net.faults().set_everyone(Direction::In, loss);
    });
    let mut fills = Vec::new();
    for first in (0..MESSAGES).step_by(20) {
        // About 70 datagrams each: without repair three in a hundred would come. No more at once than a receiver holds in pieces.
        for fill in first..first + 20 {
            assert_eq!(a.send(link, vec![fill; 100_000]), SendOutcome::Queued);
        }
        for _ in 0..20 {
            let message = b.until_message();
            assert!(message.len() == 100_000 && message.iter().all(|byte| *byte == message[0]));
            fills.push(message[0]);
        }
    }
    fills.sort_unstable();
    assert_eq!(fills, (0..MESSAGES).collect::<Vec<u8>>(), "each once");
    let (asked, lost) = (
        b.counters().repairs,
        a.ask(|net| net.faults().counts().lost),
    );
    assert!(asked > 0 && lost > 100, "{asked} questions, {lost} lost");
    // Nothing is asked for once everything has come.
    std::thread::sleep(Duration::from_millis(300));
    let before = b.counters().repairs;
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(b.counters().repairs, before);
}

#[test]
fn without_loss_nothing_is_asked_for() {
    let (a, b) = (Setup::node(1).start(), Setup::node(2).start());
    a.dial(&b);
    let link = a.until_up(node(2));
    b.until_up(node(1));
    for fill in 0..50 {
        assert_eq!(a.send(link, vec![fill; 100_000]), SendOutcome::Queued);
        assert_eq!(b.until_message(), vec![fill; 100_000]);
    }
    let counters = b.counters();
    // A loop that stands still for a moment may ask; it must not be the rule.
    assert!(counters.repairs < 10, "{} questions", counters.repairs);
    assert_eq!(counters.refusals().count(), 0);
}
