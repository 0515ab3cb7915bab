//! The ring of open decrees `(base, base + W]`: one slot per decree, allocated once.
//!
//! Roles keep what they know of a decree in its slot. Moving the base up empties the slots that fall out;
//! nothing else ever does. A decree outside the window has no slot, so memory is bounded by construction
//! whatever numbers peers send.

use crate::types::Decree;

/// A ring of `T`, one for each decree in `(base, base + size]`.
#[derive(Clone, Debug)]
pub struct Window<T> {
    base: Decree,
    slots: Box<[T]>,
}

/// What a slot can do when its decree falls out of the window.
pub trait Reset {
    /// Makes the slot as good as new, keeping its allocations.
    fn reset(&mut self);
}

impl<T: Reset> Window<T> {
    /// A window of `size ≥ 1` decrees above `base`, its slots made by `make`.
    ///
    /// # Panics
    /// If `size` is 0: a checked configuration never asks for that.
    pub fn new(base: Decree, size: u64, make: impl Fn() -> T) -> Window<T> {
        assert!(size > 0, "a window holds at least one decree");
        Window {
            base,
            slots: (0..size).map(|_| make()).collect(),
        }
    }

    /// The decree below the lowest open one.
    #[must_use]
    pub fn base(&self) -> Decree {
        self.base
    }

    /// The highest open decree.
    #[must_use]
    pub fn top(&self) -> Decree {
        self.base.plus(self.slots.len() as u64)
    }

    /// Whether `decree` is open.
    #[must_use]
    pub fn contains(&self, decree: Decree) -> bool {
        self.base < decree && decree <= self.top()
    }

    /// The slot of an open decree.
    #[must_use]
    pub fn get(&self, decree: Decree) -> Option<&T> {
        self.contains(decree)
            .then(|| &self.slots[self.position(decree)])
    }

    /// The slot of an open decree, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, decree: Decree) -> Option<&mut T> {
        if !self.contains(decree) {
            return None;
        }
        let position = self.position(decree);
        Some(&mut self.slots[position])
    }

    /// Moves the base up to `base` and resets every slot that falls out. A lower base changes nothing.
    pub fn advance(&mut self, base: Decree) {
        if base <= self.base {
            return;
        }
        let falling = base.since(self.base).min(self.slots.len() as u64);
        for step in 1..=falling {
            let position = self.position(self.base.plus(step));
            self.slots[position].reset();
        }
        self.base = base;
    }

    /// The open decrees in ascending order.
    pub fn decrees(&self) -> impl Iterator<Item = Decree> + use<T> {
        (self.base.0.saturating_add(1)..=self.top().0).map(Decree)
    }

    fn position(&self, decree: Decree) -> usize {
        usize::try_from(decree.0 % self.slots.len() as u64)
            .expect("a position is below the window's length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Cell(u64);
    impl Reset for Cell {
        fn reset(&mut self) {
            self.0 = 0;
        }
    }

    #[test]
    fn slots_outside_do_not_exist() {
        let mut window = Window::new(Decree(10), 4, Cell::default);
        assert_eq!(window.get(Decree(10)), None);
        assert_eq!(window.get(Decree(15)), None);
        assert_eq!(window.get_mut(Decree(u64::MAX)), None);
        assert_eq!(
            window.decrees().collect::<Vec<_>>(),
            [11, 12, 13, 14].map(Decree)
        );
    }

    #[test]
    fn advancing_empties_what_falls_out_and_keeps_the_rest() {
        let mut window = Window::new(Decree::NONE, 4, Cell::default);
        for decree in window.decrees() {
            window.get_mut(decree).unwrap().0 = decree.0;
        }
        window.advance(Decree(2));
        let seen: Vec<u64> = window
            .decrees()
            .map(|decree| window.get(decree).unwrap().0)
            .collect();
        assert_eq!(seen, [3, 4, 0, 0]);
        window.advance(Decree(1));
        assert_eq!(window.base(), Decree(2), "the base never falls");
        window.advance(Decree(1_000_003));
        assert!(
            window
                .decrees()
                .all(|decree| window.get(decree) == Some(&Cell(0)))
        );
    }
}
