//! How many bundles a client keeps on their way: fewer where the leader orders them together anyway.
//!
//! ```text
//! each in a decree of its own     a bundle leaves as soon as there is a call            room grows by 1/16 for each
//! two of them in one decree       sending them apart gained nothing: calls gather       room shrinks by 1
//! ```
//!
//! A bundle costs whoever sends and whoever receives it about as much as ten calls in it: a packet, a wake-up, a proof, a digest. Where
//! the cluster has time for it, that is the price of not waiting. Where two of a client's bundles end in one decree, the leader had
//! more to do than to order them as they came; calls that are held back until an answer comes leave together then, and travel no later
//! than they would have been ordered. On a machine with too few cores for its nodes that takes a sixth off the latency of an open loop.
//!
//! *Bounds.* From one up to `ROOM_MAX` bundles are on their way. Nothing is held back for longer than twice what quick answers take: the
//! bundle may be lost, or its decree wait for something that is.

use std::time::Duration;

use crate::types::{Decree, Time};

/// More bundles than this are never on their way for want of answers.
const ROOM_MAX: u32 = 256;
/// By which part at most a slow answer raises what quick ones are thought to take.
const SLOW: u32 = 16;
/// How many decrees with one bundle make up for one with two.
const APART: u32 = 16;

/// The bundles of one client, by number.
#[derive(Debug)]
pub(super) struct Bundling {
    /// The newest that was sent, and when.
    sent: u64,
    at: Time,
    /// The newest of which a call has ended.
    ended: u64,
    /// How many may be on their way. In parts of [`APART`].
    room: u32,
    /// Which decree and bundle of it ended a call last, and whether that decree is known to have held two.
    ordered: (Decree, u64),
    together: bool,
    /// What quick answers take; none before there was one.
    quick: Option<Duration>,
}

impl Bundling {
    pub(super) fn new() -> Bundling {
        Bundling {
            sent: 0,
            at: Time(0),
            ended: 0,
            room: ROOM_MAX * APART,
            ordered: (Decree::NONE, 0),
            together: false,
            quick: None,
        }
    }

    /// The number of the bundle that is being filled.
    pub(super) fn filling(&self) -> u64 {
        self.sent + 1
    }

    /// It is sent.
    pub(super) fn sent(&mut self, now: Time) {
        self.sent += 1;
        self.at = now;
    }

    /// A call of a bundle that was sent once was ordered in a decree, and answered after so long.
    pub(super) fn ordered(&mut self, bundle: u64, decree: Decree, took: Duration) {
        let (last, other) = self.ordered;
        if decree != last {
            if !self.together {
                self.room = (self.room + 1).min(ROOM_MAX * APART);
            }
            self.together = false;
            let quick = self.quick.unwrap_or(took);
            self.quick = Some(took.min(quick + quick / SLOW + Duration::from_micros(1)));
        } else if bundle != other && !self.together {
            self.together = true;
            self.room = (self.room - APART).max(APART);
        }
        self.ordered = (decree, bundle);
    }

    /// A call of a bundle ended, whichever way.
    pub(super) fn ended(&mut self, bundle: u64) {
        self.ended = self.ended.max(bundle);
    }

    /// Another leader is to take what comes: what was sent to the last one says nothing.
    pub(super) fn forget(&mut self) {
        self.ended = self.sent;
    }

    /// Until when calls gather, if nothing ends before.
    pub(super) fn gathers_until(&self) -> Time {
        let under_way = self.sent - self.ended;
        match self.quick {
            Some(quick) if under_way >= u64::from(self.room / APART) => self.at + quick * 2,
            _ => Time(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(300);

    fn send(bundling: &mut Bundling, at: u64) -> u64 {
        let number = bundling.filling();
        bundling.sent(Time(at));
        number
    }

    fn end(bundling: &mut Bundling, bundle: u64, decree: u64) {
        bundling.ordered(bundle, Decree(decree), TOOK);
        bundling.ended(bundle);
    }

    #[test]
    fn bundles_that_are_ordered_apart_leave_at_once() {
        let mut bundling = Bundling::new();
        for number in 1..=1_000 {
            assert_eq!(bundling.gathers_until(), Time(0), "{number}");
            send(&mut bundling, number);
            if let Some(answered) = number.checked_sub(10) {
                end(&mut bundling, answered, answered);
            }
        }
    }

    #[test]
    fn bundles_that_are_ordered_together_are_sent_together() {
        let mut bundling = Bundling::new();
        for decree in 1..=u64::from(ROOM_MAX) {
            let pair = [send(&mut bundling, decree), send(&mut bundling, decree)];
            for bundle in pair {
                end(&mut bundling, bundle, decree);
            }
        }
        let last = send(&mut bundling, 1_000);
        assert_eq!(bundling.gathers_until(), Time(1_000) + 2 * TOOK);
        end(&mut bundling, last, 100);
        assert_eq!(bundling.gathers_until(), Time(0));
        // One at a time they are ordered apart, so that after a while it tries two again.
        for decree in 101..=100 + u64::from(APART) {
            let bundle = send(&mut bundling, decree);
            end(&mut bundling, bundle, decree);
        }
        send(&mut bundling, 2_000);
        assert_eq!(bundling.gathers_until(), Time(0));
    }

    #[test]
    fn nothing_waits_for_a_first_bundle_or_another_leader() {
        let mut bundling = Bundling::new();
        for decree in 1..=10 * u64::from(ROOM_MAX) {
            let pair = [send(&mut bundling, decree), send(&mut bundling, decree)];
            for bundle in pair {
                end(&mut bundling, bundle, decree);
            }
            assert_eq!(bundling.gathers_until(), Time(0));
        }
        send(&mut bundling, 1_000);
        assert_ne!(bundling.gathers_until(), Time(0));
        bundling.forget();
        assert_eq!(bundling.gathers_until(), Time(0));
    }

    #[test]
    fn slow_answers_do_not_make_calls_wait_for_long() {
        let mut bundling = Bundling::new();
        for decree in 1..=1_000 {
            let pair = [send(&mut bundling, decree), send(&mut bundling, decree)];
            let took = if decree % 4 == 0 { 100 * TOOK } else { TOOK };
            for bundle in pair {
                bundling.ordered(bundle, Decree(decree), took);
                bundling.ended(bundle);
            }
        }
        send(&mut bundling, 1_000);
        let waits = bundling.gathers_until().since(Time(1_000));
        assert!((2 * TOOK..3 * TOOK).contains(&waits), "{waits:?}");
    }
}
