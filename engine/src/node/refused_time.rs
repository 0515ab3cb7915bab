//! How much time goes into messages that are refused: what a flood costs a node.
//!
//! | what is refused | clock | which |
//! |---|---|---|
//! | what shows signatures and was read: rare, and dear | CPU time of the thread, a system call | every one |
//! | anything else: cheaper than that call | wall clock, no call; a sample that took longer than it can was interrupted | one in [`SAMPLE_EVERY`] |

use std::time::{Duration, Instant};

/// Prime, so that a pattern in what arrives does not hide from it.
const SAMPLE_EVERY: u32 = 61;
/// The largest body is copied and hashed in less than that.
const SAMPLE_MAX: Duration = Duration::from_micros(500);

/// The sum of a node.
#[derive(Debug, Default)]
pub(super) struct RefusedTime {
    messages: u32,
    sampled: Duration,
    measured: Duration,
}

/// When a message came, by the clock that suits it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begun {
    /// It is not measured.
    Unseen,
    /// It is one of the samples.
    Sample(Instant),
    /// It shows signatures.
    Dear(Duration),
}

impl RefusedTime {
    /// A message came; `dear` if its signatures may be checked.
    pub fn begin(&mut self, dear: bool) -> Begun {
        if dear {
            return Begun::Dear(thread_time());
        }
        self.messages = self.messages.wrapping_add(1);
        if self.messages.is_multiple_of(SAMPLE_EVERY) {
            Begun::Sample(Instant::now())
        } else {
            Begun::Unseen
        }
    }

    /// It was refused.
    pub fn end(&mut self, begun: Begun) {
        match begun {
            Begun::Unseen => {}
            Begun::Sample(begun) => self.sampled += begun.elapsed().min(SAMPLE_MAX),
            Begun::Dear(begun) => self.measured += thread_time().saturating_sub(begun),
        }
    }

    /// What it comes to, from reading to refusing. The time of a link to receive and authenticate is not in it.
    pub fn estimate(&self) -> Duration {
        self.measured + self.sampled * SAMPLE_EVERY
    }
}

/// CPU time of this thread, which is a loop's.
pub(super) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ended_counts_and_samples_stand_for_the_rest() {
        let mut refused = RefusedTime::default();
        let begun: Vec<Begun> = (0..10 * SAMPLE_EVERY)
            .map(|_| refused.begin(false))
            .collect();
        let samples = begun.iter().filter(|one| matches!(one, Begun::Sample(_)));
        assert_eq!(samples.count(), 10);
        assert_eq!(refused.estimate(), Duration::ZERO, "none was refused");
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        refused.end(Begun::Sample(long_ago));
        assert_eq!(refused.estimate(), SAMPLE_MAX * SAMPLE_EVERY);
        let begun = refused.begin(true);
        let spin = Instant::now();
        while spin.elapsed() < Duration::from_millis(2) {}
        refused.end(begun);
        assert!(refused.estimate() > SAMPLE_MAX * SAMPLE_EVERY);
    }
}
