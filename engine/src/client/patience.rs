//! How long a call waits for its answer before it is sent again.

use std::time::Duration;

/// A time-out that follows the answers, as RFC 6298 does for TCP: the smoothed time that answers take plus four times
/// its deviation, within bounds.
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
}

impl Patience {
    /// Starts at `least`, and never waits longer than `most`, if that is not shorter.
    pub(super) fn new(least: Duration, most: Duration) -> Patience {
        Patience {
            least,
            most: most.max(least),
            smoothed: None,
            deviation: Duration::ZERO,
        }
    }

    /// A call that was sent once was answered after so long.
    pub(super) fn answered(&mut self, took: Duration) {
        let smoothed = self.smoothed.unwrap_or(took);
        self.deviation = (self.deviation * 3 + took.abs_diff(smoothed)) / 4;
        self.smoothed = Some((smoothed * 7 + took) / 8);
    }

    /// Another leader serves: what the last one took says nothing.
    pub(super) fn forget(&mut self) {
        *self = Patience::new(self.least, self.most);
    }

    /// How long to wait for an answer.
    pub(super) fn wait(&self) -> Duration {
        let expected = self.smoothed.unwrap_or_default() + self.deviation * 4;
        expected.clamp(self.least, self.most)
    }

    /// How long to wait after a call was sent for the `sent`th time, the first try not counted: twice as long each time.
    pub(super) fn wait_after(&self, sent: u32) -> Duration {
        self.wait().saturating_mul(1 << sent.min(16)).min(self.most)
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
}
