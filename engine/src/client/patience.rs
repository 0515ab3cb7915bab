//! How long a call waits for its answer before it is sent again.

use std::time::Duration;

use crate::types::Time;

/// A time-out that follows the answers, as RFC 6298 does for TCP: the smoothed time that answers take plus four times
/// its deviation, within bounds. When it was too short, it is doubled for all calls at once, and stays so until a call is
/// answered that was sent once: else a cluster that becomes slow at a stroke would have every call sent twice for ever.
///
/// Retries are signed, and everybody checks them: a cluster that is merely slow, with calls queued in front of it, would
/// be made slower by its clients' impatience. Only calls that were sent once are heard, since of others nobody knows
/// which copy was answered (Karn's rule).
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    least: Duration,
    most: Duration,
    smoothed: Option<Duration>,
    deviation: Duration,
    /// How often it was doubled since the last answer.
    doubled: u32,
    /// Calls made before this were waited for with less patience: their time-outs say nothing new.
    since: Time,
}

impl Patience {
    /// Starts at `least`, and never waits longer than `most`, if that is not shorter.
    pub(super) fn new(least: Duration, most: Duration) -> Patience {
        Patience {
            least,
            most: most.max(least),
            smoothed: None,
            deviation: Duration::ZERO,
            doubled: 0,
            since: Time(0),
        }
    }

    /// A call that was sent once was answered after so long.
    pub(super) fn answered(&mut self, took: Duration) {
        let smoothed = self.smoothed.unwrap_or(took);
        self.deviation = (self.deviation * 3 + took.abs_diff(smoothed)) / 4;
        self.smoothed = Some((smoothed * 7 + took) / 8);
        self.doubled = 0;
    }

    /// A call that was made at `made` and sent once is about to be sent again.
    pub(super) fn ran_out(&mut self, made: Time, now: Time) {
        if made >= self.since && self.wait() < self.most {
            self.doubled += 1;
            self.since = now;
        }
    }

    /// Another leader serves: what the last one took says nothing.
    pub(super) fn forget(&mut self) {
        *self = Patience::new(self.least, self.most);
    }

    /// How long to wait for an answer.
    pub(super) fn wait(&self) -> Duration {
        self.times(self.doubled)
    }

    /// How long to wait after a call was sent for the `sent`th time, the first try not counted: twice as long each time.
    pub(super) fn wait_after(&self, sent: u32) -> Duration {
        self.times(self.doubled.max(sent))
    }

    fn times(&self, doublings: u32) -> Duration {
        let expected = self.smoothed.unwrap_or_default() + self.deviation * 4;
        let wait = expected.max(self.least);
        wait.saturating_mul(1 << doublings.min(16)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn quick_answers_leave_it_at_its_least() {
        let mut patience = Patience::new(200 * MS, 2000 * MS);
        (0..100).for_each(|_| patience.answered(MS));
        assert_eq!(patience.wait(), 200 * MS);
        assert_eq!(patience.wait_after(1), 400 * MS);
        assert_eq!(patience.wait_after(30), 2000 * MS);
    }

    #[test]
    fn slow_answers_are_waited_for_up_to_a_bound() {
        let mut patience = Patience::new(200 * MS, 2000 * MS);
        (0..100).for_each(|at| patience.answered((400 + at % 2 * 100) * MS));
        let wait = patience.wait();
        assert!((500 * MS..800 * MS).contains(&wait), "{wait:?}");
        (0..100).for_each(|_| patience.answered(10_000 * MS));
        assert_eq!(patience.wait(), 2000 * MS);
        patience.forget();
        assert_eq!(patience.wait(), 200 * MS);
    }

    #[test]
    fn a_sudden_slowness_is_learned() {
        let mut patience = Patience::new(200 * MS, 2000 * MS);
        (0..100).for_each(|_| patience.answered(MS));
        let at = |ms: u64| Time(ms * 1_000_000);
        for _ in 0..1000 {
            patience.ran_out(at(0), at(200));
        }
        assert_eq!(
            patience.wait(),
            400 * MS,
            "one time-out, however many calls"
        );
        patience.ran_out(at(200), at(600));
        assert_eq!(patience.wait(), 800 * MS);
        patience.answered(500 * MS);
        assert!(patience.wait() < 800 * MS, "{:?}", patience.wait());
    }
}
