//! Whether it pays to wait for something that usually comes soon.
//!
//! ```text
//! it came                      wait the next time, too
//! it was waited for in vain    the next 64 times do not wait; twice as many the next time in vain, up to 4,096,
//!                              less those that came in between
//! ```
//!
//! So what never comes, or fails to come once in a few dozen times, is waited for in vain once in 4,096 times, and what always comes is always
//! waited for.

/// So many times nothing waits after one that waited in vain.
const LOST_MIN: u32 = 64;
/// The same after many in a row.
const LOST_MAX: u32 = 4096;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Wager {
    /// How many more times nothing waits.
    left: u32,
    /// How many there were after the last wait in vain, less what came since.
    lost: u32,
}

impl Wager {
    /// Whether to wait this time.
    pub(crate) fn waits(&mut self) -> bool {
        let waits = self.left == 0;
        self.left = self.left.saturating_sub(1);
        waits
    }

    /// What was waited for came.
    pub(crate) fn came(&mut self) {
        self.lost = self.lost.saturating_sub(1);
    }

    /// It did not.
    pub(crate) fn in_vain(&mut self) {
        self.lost = (self.lost * 2).clamp(LOST_MIN, LOST_MAX);
        self.left = self.lost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many do not wait before the next one does.
    fn passed_over(wager: &mut Wager) -> usize {
        (0..).take_while(|_| !wager.waits()).count()
    }

    #[test]
    fn what_never_comes_is_waited_for_less_and_less() {
        let mut wager = Wager::default();
        let mut passed = Vec::new();
        for _ in 0..9 {
            passed.push(passed_over(&mut wager));
            wager.in_vain();
        }
        assert_eq!(passed, [0, 64, 128, 256, 512, 1024, 2048, 4096, 4096]);
        (0..LOST_MAX).for_each(|_| wager.came());
        wager.in_vain();
        assert_eq!(passed_over(&mut wager), 64);
    }

    #[test]
    fn what_fails_to_come_once_in_twenty_times_is_hardly_waited_for() {
        let mut wager = Wager::default();
        let mut waits = 0;
        for _ in 0..20_000 {
            if wager.waits() {
                waits += 1;
                match waits % 20 {
                    0 => wager.in_vain(),
                    _ => wager.came(),
                }
            }
        }
        assert!(waits < 400, "{waits}");
    }

    #[test]
    fn what_comes_is_always_waited_for() {
        let mut wager = Wager::default();
        for _ in 0..10_000 {
            assert!(wager.waits());
            wager.came();
        }
    }
}
