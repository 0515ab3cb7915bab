//! When something is to be said again: T0/4 after it was said, doubling to T0, until it is acknowledged
//! (PROTOCOL.md section 3, "Nothing is said only once").
//!
//! Proposals and pulls, whose answers come at once, are said again as soon as answers have become overdue by what they
//! usually take ([`Pace`]): where links lose messages, T0/4 is very long. That only ever makes the first repeats earlier.
//! T0 itself is not measured, and nobody is suspected by what is measured here.

use std::time::Duration;

use crate::machine::earlier;
use crate::retry_time::RetryTime;
use crate::types::Time;

/// The repetition of one thing that was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resend {
    /// When it is due; none before it was said, and none any more once it was acknowledged.
    at: Option<Time>,
    times: u32,
}

impl Resend {
    /// It was said for the first time.
    #[must_use]
    pub fn said(now: Time, pace: impl Into<Pace>) -> Resend {
        Resend {
            at: Some(now + pace.into().wait(0)),
            times: 0,
        }
    }

    /// It was said before this node started: nobody knows who heard it, so it is due at once.
    #[must_use]
    pub fn overdue() -> Resend {
        Resend {
            at: Some(Time(0)),
            times: 0,
        }
    }

    /// When it is due.
    #[must_use]
    pub fn at(&self) -> Option<Time> {
        self.at
    }

    /// Whether it was said once, and is not yet acknowledged.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.at.is_some() && self.times == 0
    }

    /// It was acknowledged.
    pub fn stop(&mut self) {
        self.at = None;
    }

    /// Whether it is to be said again now; if so, the next time is set.
    pub fn due(&mut self, now: Time, pace: impl Into<Pace>) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.times = self.times.saturating_add(1);
            self.at = Some(now + pace.into().wait(self.times));
        }
        due
    }
}

/// When the earliest of many is due. It may be too early, never too late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Earliest(Option<Time>);

impl Earliest {
    /// One more is due then.
    pub fn note(&mut self, resend: &Resend) {
        self.0 = earlier(self.0, resend.at);
    }

    /// When.
    #[must_use]
    pub fn at(&self) -> Option<Time> {
        self.0
    }
}

/// How long to wait before saying something again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    t0: Duration,
    answers: RetryTime,
}

impl Pace {
    /// T0/4 until answers were measured, and never longer; never shorter than T0/64.
    #[must_use]
    pub fn new(t0: Duration) -> Pace {
        Pace {
            t0,
            answers: RetryTime::new(t0 / 4, t0 / 64, t0),
        }
    }

    /// What was said once at `said` is answered.
    pub fn answered(&mut self, said: Time, now: Time) {
        self.answers.answered(now.since(said));
    }

    /// What was said once at `said` is said again: the next ones wait twice as long, until one is answered.
    pub fn ran_out(&mut self, said: Time, now: Time) {
        self.answers.ran_out(said, now);
    }

    /// How long to wait after having said something so many times more than once.
    #[must_use]
    pub fn wait(&self, times: u32) -> Duration {
        let most = (self.t0 / 4).saturating_mul(1 << times.min(2));
        self.answers.wait_after(times).min(most)
    }
}

/// Nothing is measured.
impl From<Duration> for Pace {
    fn from(t0: Duration) -> Pace {
        Pace::new(t0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarter_half_and_whole_t0_until_it_is_acknowledged() {
        let t0 = Duration::from_nanos(400);
        let mut resend = Resend::said(Time(0), t0);
        let mut said = Vec::new();
        for now in 0..1_600 {
            if resend.due(Time(now), t0) {
                said.push(now);
            }
        }
        assert_eq!(said, [100, 300, 700, 1_100, 1_500]);
        resend.stop();
        assert!(!resend.due(Time(u64::MAX), t0));
        assert!(
            !Resend::default().due(Time(u64::MAX), t0),
            "never said, never said again"
        );
    }

    #[test]
    fn overdue_answers_are_not_waited_for_a_quarter_of_t0_but_never_longer() {
        let ms = |count: u64| Duration::from_millis(count);
        let mut pace = Pace::new(ms(640));
        assert_eq!(
            [0, 1, 2, 9].map(|times| pace.wait(times)),
            [160, 320, 640, 640].map(ms)
        );
        let at = |ms: u64| Time(ms * 1_000_000);
        (0..100).for_each(|_| pace.answered(at(0), at(3)));
        assert_eq!(
            [0, 1, 2, 5, 9].map(|times| pace.wait(times)),
            [10, 20, 40, 320, 640].map(ms)
        );
        pace.ran_out(at(0), at(10));
        pace.ran_out(at(1), at(11));
        assert_eq!(
            pace.wait(0),
            ms(20),
            "one time-out, however much it says again"
        );
        (0..100).for_each(|_| pace.answered(at(0), at(5_000)));
        assert_eq!(
            [0, 1, 2].map(|times| pace.wait(times)),
            [160, 320, 640].map(ms)
        );
    }
}
