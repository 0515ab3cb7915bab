//! When to ask for what is missing of a message, and how often.
//!
//! Nothing more of it has come for one *trip*: it is asked for, and again after two trips, after four, at most [`ASKS_MAX`] times. What may
//! not have left yet is waited for four trips long. A trip is measured: from the first time of asking until something of that message comes, smoothed
//! as RFC 6298 does, and left alone where it was asked for twice (Karn), because nobody knows which question was answered.

use std::time::{Duration, Instant};

/// Most times that one message is asked for: over a second in all, so that no loop that stands still for a moment uses them up.
const ASKS_MAX: u32 = 10;
/// A trip until one has been measured, and its bounds.
const TRIP_FIRST: Duration = Duration::from_millis(5);
const TRIP_MIN: Duration = Duration::from_millis(1);
const TRIP_MAX: Duration = Duration::from_millis(100);
/// How many trips long nothing comes where the end of a message is awaited.
const QUIET_TRIPS: u32 = 4;

/// What a message has been asked for.
#[derive(Debug)]
pub(super) struct Asked {
    times: u32,
    at: Instant,
    /// Something has come since then.
    answered: bool,
    heard: Instant,
    due: Instant,
}

impl Asked {
    /// Something of the message has come for the first time.
    pub fn new(now: Instant) -> Self {
        Self {
            times: 0,
            at: now,
            answered: false,
            heard: now,
            due: now,
        }
    }

    /// When it is to be asked for; none if it was too often.
    pub fn due(&self) -> Option<Instant> {
        (self.times < ASKS_MAX).then_some(self.due)
    }
}

/// How long to wait on a link.
#[derive(Debug)]
pub(super) struct Patience {
    trip: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { trip: TRIP_FIRST }
    }
}

impl Patience {
    /// Something of the message has come.
    pub fn heard(&mut self, asked: &mut Asked, now: Instant) {
        if asked.times == 1 && !asked.answered {
            let sample = now.saturating_duration_since(asked.at);
            self.trip = (self.trip * 7 / 8 + sample / 8).clamp(TRIP_MIN, TRIP_MAX);
        }
        asked.answered = true;
        asked.heard = now;
        asked.due = now + self.wait(asked.times);
    }

    /// It is asked for.
    pub fn asks(&self, asked: &mut Asked, now: Instant) {
        asked.times += 1;
        asked.at = now;
        asked.answered = false;
        asked.due = now + self.wait(asked.times);
    }

    /// Nothing is missing but its end, which may still be on its way.
    pub fn waits_for_the_end(&self, asked: &mut Asked) {
        asked.due = asked.heard + self.trip * QUIET_TRIPS;
    }

    /// Whether nothing of it has come for so long that its end has left.
    pub fn is_quiet(&self, asked: &Asked, now: Instant) -> bool {
        now.saturating_duration_since(asked.heard) >= self.trip * QUIET_TRIPS
    }

    fn wait(&self, times: u32) -> Duration {
        self.trip * (1 << times.min(ASKS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trip_is_what_the_first_question_took() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for _ in 0..60 {
            let mut asked = Asked::new(now);
            patience.asks(&mut asked, now);
            patience.heard(&mut asked, now + Duration::from_millis(20));
            // The second piece of the same answer says nothing.
            patience.heard(&mut asked, now + Duration::from_secs(1));
        }
        let millis = patience.trip.as_micros();
        assert!((19_000..=20_000).contains(&millis), "{millis} µs");
        let mut asked = Asked::new(now);
        patience.asks(&mut asked, now);
        patience.asks(&mut asked, now);
        let before = patience.trip;
        patience.heard(&mut asked, now + Duration::from_secs(9));
        assert_eq!(patience.trip, before, "asked for twice");
    }

    #[test]
    fn it_asks_ever_more_seldom_and_then_no_more() {
        let (patience, now) = (Patience::default(), Instant::now());
        let mut asked = Asked::new(now);
        let mut last = now;
        for times in 1..=ASKS_MAX {
            let due = asked.due().unwrap();
            patience.asks(&mut asked, due);
            assert_eq!(
                asked.due.saturating_duration_since(due),
                TRIP_FIRST * (1 << times)
            );
            last = due;
        }
        assert!(last > now && asked.due().is_none());
    }
}
