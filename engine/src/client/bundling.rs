//! How many bundles a client keeps on their way: fewer where the leader orders them together anyway.
//!
//! ```text
//! each in a decree of its own     a bundle leaves as soon as there is a call            room grows by 1/16 for each
//! two of them in one decree       sending them apart gained nothing: calls gather       room: 1 less than are on their way
//! ```
//!
//! A bundle costs whoever sends and whoever receives it about as much as ten calls in it: a packet, a wake-up, a proof, a digest. Where
//! the cluster has time for it, that is the price of not waiting. Where two of a client's bundles end in one decree, the leader had
//! more to do than to order them as they came; calls that are held back until an answer comes leave together then, and travel no later
//! than they would have been ordered. On a machine with too few cores for its nodes that takes a sixth off the latency of an open loop.
//!
//! *Bounds.* From one up to `ROOM_MAX` bundles are on their way. Nothing is held back for longer than twice what quick answers take, and
//! `PATIENCE`: the bundle may be lost, or its decree wait for something that is. Where that happens there is hardly ever any patience
//! (`wager.rs`). Patience is for those where nothing is lost: a timer that is due before the kernel's
//! next tick is set in hardware for every wait, which on a virtual machine leaves the guest; at a tenth of the peak that was a quarter of all
//! times that a decree did.

use std::time::Duration;

use crate::types::{Decree, Time};
use crate::wager::Wager;

/// More bundles than this are never on their way for want of answers.
const ROOM_MAX: u32 = 256;
/// By which part at most a slow answer raises what quick ones are thought to take.
const SLOW: u32 = 16;
/// By how much longer an answer may take before calls that gather go without it.
const PATIENCE: Duration = Duration::from_millis(8);
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
    /// Whether calls wait for a slow answer.
    wager: Wager,
    patient: bool,
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
            wager: Wager::default(),
            patient: true,
        }
    }

    /// The number of the bundle that is being filled.
    pub(super) fn filling(&self) -> u64 {
        self.sent + 1
    }

    /// It is sent.
    pub(super) fn sent(&mut self, now: Time) {
        if self.patient && self.has_no_room() && self.gathers_until() <= now {
            self.wager.in_vain();
        }
        self.patient = self.wager.waits();
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
            // Room that nothing took up says nothing.
            let under_way = u32::try_from(self.sent - self.ended).unwrap_or(ROOM_MAX);
            let taken = self.room.min(under_way.saturating_mul(APART));
            self.room = taken.saturating_sub(APART).max(APART);
        }
        self.ordered = (decree, bundle);
    }

    /// A call of a bundle ended, whichever way.
    pub(super) fn ended(&mut self, bundle: u64) {
        if bundle > self.ended {
            self.ended = bundle;
            if self.patient {
                self.wager.came();
            }
        }
    }

    /// Another leader is to take what comes: what was sent to the last one says nothing.
    pub(super) fn forget(&mut self) {
        self.ended = self.sent;
    }

    /// Until when calls gather, if nothing ends before.
    pub(super) fn gathers_until(&self) -> Time {
        match self.quick {
            Some(quick) if self.has_no_room() => {
                let patience = if self.patient {
                    PATIENCE
                } else {
                    Duration::ZERO
                };
                self.at + quick * 2 + patience
            }
            _ => Time(0),
        }
    }

    fn has_no_room(&self) -> bool {
        self.sent - self.ended >= u64::from(self.room / APART)
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

    /// What two bundles in one decree have made careful.
    fn one_at_a_time() -> Bundling {
        let mut bundling = Bundling::new();
        for decree in 1..=u64::from(ROOM_MAX) {
            let pair = [send(&mut bundling, decree), send(&mut bundling, decree)];
            for bundle in pair {
                end(&mut bundling, bundle, decree);
            }
        }
        bundling
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
        let mut bundling = one_at_a_time();
        let last = send(&mut bundling, 1_000);
        assert_eq!(bundling.gathers_until(), Time(1_000) + 2 * TOOK + PATIENCE);
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
    fn room_that_nothing_took_up_is_lost_at_once() {
        let mut bundling = Bundling::new();
        let bundles = [1, 2, 3].map(|now| send(&mut bundling, now));
        for bundle in &bundles[..2] {
            end(&mut bundling, *bundle, 1);
        }
        assert_ne!(
            bundling.gathers_until(),
            Time(0),
            "the third is all that may be on its way"
        );
        end(&mut bundling, bundles[2], 2);
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
        let bounds = 2 * TOOK + PATIENCE..3 * TOOK + PATIENCE;
        assert!(bounds.contains(&waits), "{waits:?}");
    }

    #[test]
    fn where_bundles_are_lost_there_is_no_patience() {
        let mut bundling = one_at_a_time();
        let lost = send(&mut bundling, 1_000);
        let until = bundling.gathers_until();
        assert_eq!(until, Time(1_000) + 2 * TOOK + PATIENCE);
        let next = send(&mut bundling, until.0);
        assert_eq!(bundling.gathers_until(), until + 2 * TOOK);
        end(&mut bundling, lost, 1_000);
        end(&mut bundling, next, 1_001);
        for number in 1..=64 {
            let now = until.0 + number;
            let bundle = send(&mut bundling, now);
            let patience = if number < 64 {
                Duration::ZERO
            } else {
                PATIENCE
            };
            assert_eq!(
                bundling.gathers_until(),
                Time(now) + 2 * TOOK + patience,
                "{number}"
            );
            end(&mut bundling, bundle, 1_001);
        }
    }
}
