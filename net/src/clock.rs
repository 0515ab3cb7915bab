//! The clock of a loop: time that never falls, whatever the clock below does; and jumps on purpose.
//!
//! | the clock below | the time of the loop |
//! |---|---|
//! | goes on | goes on by as much |
//! | jumps forward | jumps forward: what is due in between is due at once, as after a machine that slept |
//! | jumps backward | stands still for that one reading, and goes on from there |
//!
//! So a jump backward can neither break the order of times nor hold timers up until the old time has come again. The machine's
//! monotonic clock does neither; [`ClockOffset`] makes it, for tests of whole nodes. All loops of a node share one offset.
//! *Cost*: one reading of the clock and one load for each turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The largest offset: one day. Milliseconds.
pub const CLOCK_OFFSET_MS_MAX: i64 = 24 * 3_600_000;

/// Moves the clocks that share it, from any thread. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct ClockOffset(Arc<AtomicI64>);

impl ClockOffset {
    /// Sets by how much the clocks are ahead of the machine's from now on, or behind it; at most [`CLOCK_OFFSET_MS_MAX`]. Milliseconds.
    pub fn set_ms(&self, ms: i64) {
        let ms = ms.clamp(-CLOCK_OFFSET_MS_MAX, CLOCK_OFFSET_MS_MAX);
        self.0.store(ms * 1_000_000, Ordering::Release);
    }
}

/// The clock of one loop.
#[derive(Debug)]
pub struct Clock {
    offset: ClockOffset,
    began: Instant,
    /// What the moved clock said last, since `began`. Nanoseconds.
    last: i64,
    /// The machine's time at the last reading, and the loop's.
    real: Instant,
    now: Instant,
}

impl Clock {
    /// A clock that shares `offset`.
    #[must_use]
    pub fn new(offset: ClockOffset) -> Clock {
        let began = Instant::now();
        let last = offset.0.load(Ordering::Acquire);
        Clock {
            offset,
            began,
            last,
            real: began,
            now: began,
        }
    }

    /// Reads the clock.
    pub fn read(&mut self) -> Instant {
        self.read_at(Instant::now())
    }

    fn read_at(&mut self, real: Instant) -> Instant {
        let elapsed = real.saturating_duration_since(self.began).as_nanos();
        let moved = i64::try_from(elapsed)
            .unwrap_or(i64::MAX)
            .saturating_add(self.offset.0.load(Ordering::Acquire));
        let step = u64::try_from(moved.saturating_sub(self.last)).unwrap_or(0);
        (self.last, self.real) = (moved, real);
        // Instants end somewhere beyond all years to come.
        self.now = self
            .now
            .checked_add(Duration::from_nanos(step))
            .unwrap_or(self.now);
        self.now
    }

    /// The machine's time at the last reading.
    #[must_use]
    pub fn real(&self) -> Instant {
        self.real
    }

    /// When the machine's clock will say what this one will at `time`, unless it is moved meanwhile.
    #[must_use]
    pub fn real_at(&self, time: Instant) -> Instant {
        self.real + time.saturating_duration_since(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_jumps_forward_and_never_falls() {
        let offset = ClockOffset::default();
        let mut clock = Clock::new(offset.clone());
        let began = clock.began;
        let ms = Duration::from_millis;
        let mut read = |real: u64| clock.read_at(began + ms(real)) - began;
        assert_eq!(read(10), ms(10));
        offset.set_ms(5_000);
        assert_eq!(read(11), ms(5_011));
        assert_eq!(read(12), ms(5_012));
        // Back by ten seconds: it stands still once and goes on at once.
        offset.set_ms(-5_000);
        assert_eq!(read(13), ms(5_012));
        assert_eq!(read(14), ms(5_013));
        offset.set_ms(0);
        assert_eq!(read(15), ms(10_014));
        offset.set_ms(i64::MIN);
        assert_eq!(read(16), ms(10_014));
        assert_eq!(read(17), ms(10_015));
        offset.set_ms(i64::MAX);
        assert!(read(18) > Duration::from_secs(2 * 86_400));
        offset.set_ms(0);
        let before = read(19);
        assert_eq!(read(20), before + ms(1));
    }

    #[test]
    fn deadlines_are_told_in_the_machines_time() {
        let offset = ClockOffset::default();
        let mut clock = Clock::new(offset.clone());
        offset.set_ms(60_000);
        let now = clock.read();
        let due = now + Duration::from_millis(30);
        assert_eq!(clock.real_at(due) - clock.real(), Duration::from_millis(30));
        assert_eq!(clock.real_at(clock.began), clock.real());
    }
}
