//! When something is to be said again: T0/4 after it was said, doubling to T0, until it is acknowledged
//! (PROTOCOL.md section 3, "Nothing is said only once").

use std::time::Duration;

use crate::machine::earlier;
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
    pub fn said(now: Time, t0: Duration) -> Resend {
        Resend {
            at: Some(now + wait(t0, 0)),
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

    /// It was acknowledged.
    pub fn stop(&mut self) {
        self.at = None;
    }

    /// Whether it is to be said again now; if so, the next time is set.
    pub fn due(&mut self, now: Time, t0: Duration) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.times = self.times.saturating_add(1);
            self.at = Some(now + wait(t0, self.times));
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

/// How long to wait after having said something so many times more than once.
#[must_use]
pub fn wait(t0: Duration, times: u32) -> Duration {
    (t0 / 4).saturating_mul(1 << times.min(2))
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
}
