//! Which packet counters were taken, where packets may overtake each other: a window of bits behind the newest one (as in RFC 6479).

/// Counters at and behind the newest one that can be told apart; older ones are refused. About 6 MB of packets of 1,472 bytes, more than may be under way.
pub(crate) const WINDOW_PACKETS: u64 = 4096;
const WORDS: usize = (WINDOW_PACKETS / 64) as usize;

/// Takes every counter above zero at most once.
#[derive(Debug)]
pub(crate) struct Window {
    newest: u64,
    /// The bit of a counter stands at its remainder by the size of the window.
    taken: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            newest: 0,
            taken: [0; WORDS],
        }
    }
}

impl Window {
    /// The highest counter taken.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether `counter` was taken, or is too old to tell.
    pub fn has(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        let old = counter.saturating_add(WINDOW_PACKETS) <= self.newest;
        old || counter <= self.newest && self.taken[word] & bit != 0
    }

    /// Takes `counter`, unless it was taken before or is too old to tell.
    pub fn take(&mut self, counter: u64) -> bool {
        if counter == 0 || counter.saturating_add(WINDOW_PACKETS) <= self.newest {
            return false;
        }
        if counter > self.newest {
            if counter - self.newest >= WINDOW_PACKETS {
                self.taken = [0; WORDS];
            } else {
                for skipped in self.newest + 1..=counter {
                    let (word, bit) = place(skipped);
                    self.taken[word] &= !bit;
                }
            }
            self.newest = counter;
        }
        let (word, bit) = place(counter);
        let fresh = self.taken[word] & bit == 0;
        self.taken[word] |= bit;
        fresh
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW_PACKETS;
    let word = usize::try_from(at / 64).expect("below the number of words");
    (word, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_edge_of_the_window_is_exact() {
        let mut window = Window::default();
        assert!(!window.take(0), "counters begin at 1");
        assert!(window.take(WINDOW_PACKETS + 10));
        assert!(!window.take(10) && window.take(11));
        assert!(!window.take(11) && !window.take(WINDOW_PACKETS + 10));
        assert!(window.take(u64::MAX >> 1) && !window.take(11));
        assert!(!window.take(u64::MAX >> 1));
    }

    proptest! {
        #[test]
        fn every_counter_of_the_window_is_taken_once(steps in prop::collection::vec((0u64..2 * WINDOW_PACKETS, any::<bool>()), 1..200)) {
            let mut window = Window::default();
            let (mut model, mut newest) = (BTreeSet::new(), 0);
            for (step, ahead) in steps {
                let counter = if ahead { newest + step % 100 } else { (newest + 50).saturating_sub(step) };
                let fresh = counter > 0 && counter + WINDOW_PACKETS > newest && model.insert(counter);
                prop_assert_eq!(window.take(counter), fresh);
                newest = newest.max(counter);
                prop_assert_eq!(window.newest(), newest);
            }
        }
    }
}
