//! The one source of chance in the simulator: xoshiro256**, seeded by splitmix64 as its authors advise.
//!
//! Nothing here reads a clock or the operating system, so one seed is one run, on every machine. Parts of a
//! world draw from streams of their own ([`Random::fork`]): a further draw in one part leaves the others as
//! they were, which keeps a failing seed failing while it is being looked at.

/// A stream of numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        let mut word = seed;
        let state = std::array::from_fn(|_| splitmix(&mut word));
        Random { state }
    }

    /// A stream of its own for one part of a world, named so that two parts never share one.
    #[must_use]
    pub fn fork(seed: u64, part: &str) -> Random {
        let name = part.bytes().fold(0u64, |name, byte| {
            name.wrapping_mul(257).wrapping_add(u64::from(byte))
        });
        Random::new(seed ^ name.rotate_left(17))
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let mut next = [a, b, c ^ a, d ^ b];
        next[1] ^= next[2];
        next[0] ^= next[3];
        next[2] ^= b << 17;
        next[3] = next[3].rotate_left(45);
        self.state = next;
        result
    }

    /// A number below `bound`, which is at least 1. The bias of the multiplication is below 2^-32 for the
    /// small bounds used here.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        let wide = u128::from(self.word()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the product of two words, shifted by a word")
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `low` is above `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no number");
        low + self.below(high - low + 1)
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let place = self.below(items.len() as u64);
        &items[usize::try_from(place).expect("below the length of a slice")]
    }

    /// Takes `count` of `items` away, or all if there are fewer, in an order that chance decides.
    pub fn draw<T>(&mut self, items: &mut Vec<T>, count: usize) -> Vec<T> {
        (0..count.min(items.len()))
            .map(|_| {
                let place = self.below(items.len() as u64);
                items.remove(usize::try_from(place).expect("below the length of a vector"))
            })
            .collect()
    }
}

fn splitmix(word: &mut u64) -> u64 {
    *word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *word;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs of xoshiro256** from the state 1, 2, 3, 4, as in the reference implementation.
        let mut random = Random {
            state: [1, 2, 3, 4],
        };
        let first: Vec<u64> = (0..4).map(|_| random.word()).collect();
        assert_eq!(first, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn ranges_hold_and_are_used_up() {
        let mut random = Random::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            let number = random.between(10, 14);
            assert!((10..=14).contains(&number));
            seen[usize::try_from(number - 10).unwrap()] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert!(!random.chance(0));
        assert!(random.chance(1000));
    }

    #[test]
    fn parts_have_streams_of_their_own() {
        let mut network = Random::fork(1, "network");
        let mut disk = Random::fork(1, "disk");
        assert_ne!(network.word(), disk.word());
        assert_eq!(
            Random::fork(1, "network").word(),
            Random::fork(1, "network").word()
        );
    }
}
