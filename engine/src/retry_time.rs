//! How long to wait for an answer before something is said again: measured, within bounds.

use std::time::Duration;

use crate::types::Time;

/// A time-out that follows the answers, as RFC 6298 does for TCP: the smoothed time that answers take plus four times
/// its deviation, within bounds. When it was too short, it is doubled for all calls at once, and stays so until a call is
/// answered that was sent once: else a cluster that becomes slow at a stroke would have every call sent twice for ever.
///
/// Retries are signed, and everybody checks them: a cluster that is merely slow, with calls queued in front of it, would
/// be made slower by its clients' impatience. Only calls that were sent once are heard, since of others nobody knows which
/// copy was answered (Karn's rule). A proposal and its acknowledgements are such a call as well ([`crate::resend`]).
#[derive(Clone, Copy, Debug)]
pub struct RetryTime {
    /// What it waits before anything was answered.
    first: Duration,
    least: Duration,
    most: Duration,
    smoothed: Option<Duration>,
    deviation: Duration,
    /// How often it was doubled since the last answer.
    doubled: u32,
    /// Calls made before this were waited for with less patience: their time-outs say nothing new.
    since: Time,
}

impl RetryTime {
    /// Waits `first` before anything was answered, then what answers take: never less than `least`, and never longer
    /// than `most`, if that is not shorter.
    #[must_use]
    pub fn new(first: Duration, least: Duration, most: Duration) -> RetryTime {
        RetryTime {
            first,
            least,
            most: most.max(least),
            smoothed: None,
            deviation: Duration::ZERO,
            doubled: 0,
            since: Time(0),
        }
    }

    /// A call that was sent once was answered after so long.
    pub fn answered(&mut self, took: Duration) {
        let smoothed = self.smoothed.unwrap_or(took);
        self.deviation = (self.deviation * 3 + took.abs_diff(smoothed)) / 4;
        self.smoothed = Some((smoothed * 7 + took) / 8);
        self.doubled = 0;
    }

    /// A call that was made at `made` and sent once is about to be sent again.
    pub fn ran_out(&mut self, made: Time, now: Time) {
        if made >= self.since && self.wait() < self.most {
            self.doubled += 1;
            self.since = now;
        }
    }

    /// Another leader serves: what the last one took says nothing.
    pub fn forget(&mut self) {
        *self = RetryTime::new(self.first, self.least, self.most);
    }

    /// How long to wait for an answer.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.times(self.doubled)
    }

    /// How long to wait after a call was sent for the `sent`th time, the first try not counted: twice as long each time.
    #[must_use]
    pub fn wait_after(&self, sent: u32) -> Duration {
        self.times(self.doubled.max(sent))
    }

    fn times(&self, doublings: u32) -> Duration {
        // Steady answers are no promise that the next one does not come a moment later.
        let spread = |smoothed: Duration| self.deviation.max(smoothed / 8) * 4;
        let expected = self.smoothed.map(|smoothed| smoothed + spread(smoothed));
        let wait = expected.unwrap_or(self.first).max(self.least);
        wait.saturating_mul(1 << doublings.min(16)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn quick_answers_leave_it_at_its_least() {
        let mut time = RetryTime::new(200 * MS, 200 * MS, 2000 * MS);
        (0..100).for_each(|_| time.answered(MS));
        assert_eq!(time.wait(), 200 * MS);
        assert_eq!(time.wait_after(1), 400 * MS);
        assert_eq!(time.wait_after(30), 2000 * MS);
    }

    #[test]
    fn slow_answers_are_waited_for_up_to_a_bound() {
        let mut time = RetryTime::new(200 * MS, 200 * MS, 2000 * MS);
        (0..100).for_each(|at| time.answered((400 + at % 2 * 100) * MS));
        let wait = time.wait();
        assert!((500 * MS..800 * MS).contains(&wait), "{wait:?}");
        (0..100).for_each(|_| time.answered(10_000 * MS));
        assert_eq!(time.wait(), 2000 * MS);
        time.forget();
        assert_eq!(time.wait(), 200 * MS);
    }

    #[test]
    fn a_sudden_slowness_is_learned() {
        let mut time = RetryTime::new(200 * MS, 200 * MS, 2000 * MS);
        (0..100).for_each(|_| time.answered(MS));
        let at = |ms: u64| Time(ms * 1_000_000);
        for _ in 0..1000 {
            time.ran_out(at(0), at(200));
        }
        assert_eq!(time.wait(), 400 * MS, "one time-out, however many calls");
        time.ran_out(at(200), at(600));
        assert_eq!(time.wait(), 800 * MS);
        time.answered(500 * MS);
        assert!(time.wait() < 800 * MS, "{:?}", time.wait());
    }
}
