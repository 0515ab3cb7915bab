//! Which bodies the kept log holds, so that each is written once: vote, proposal and learned value of one decree share it.
//!
//! One place per decree modulo the number of places, the newest wins: no search, no growth. A body that has lost its place is written
//! again. Writer and reader keep the same places in the same way, so what one refers to the other finds.

use crate::types::{Decree, Value};

/// The bodies that may be referred to. `T` is what is known of each.
#[derive(Debug)]
pub struct Bodies<T> {
    places: Vec<Option<Held<T>>>,
}

#[derive(Debug)]
struct Held<T> {
    decree: Decree,
    value: Value,
    what: T,
}

impl<T> Bodies<T> {
    /// Room for so many decrees: twice the window, since learners lag behind votes.
    ///
    /// # Panics
    /// If there is no room at all.
    #[must_use]
    pub fn new(places: usize) -> Bodies<T> {
        assert!(places > 0, "a body has a place");
        Bodies {
            places: (0..places).map(|_| None).collect(),
        }
    }

    /// What is known of the body of `value` for `decree`.
    #[must_use]
    pub fn find(&self, decree: Decree, value: Value) -> Option<&T> {
        let held = self.places[self.place(decree)].as_ref()?;
        (held.decree == decree && held.value == value).then_some(&held.what)
    }

    /// A body was written for `decree`.
    pub fn put(&mut self, decree: Decree, value: Value, what: T) {
        let place = self.place(decree);
        self.places[place] = Some(Held {
            decree,
            value,
            what,
        });
    }

    fn place(&self, decree: Decree) -> usize {
        let place = decree.0 % self.places.len() as u64;
        usize::try_from(place).expect("below the number of places")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    #[test]
    fn the_newest_body_of_a_place_is_found() {
        let value = |byte| Value(Digest([byte; 32]));
        let mut bodies = Bodies::new(4);
        bodies.put(Decree(2), value(1), 'a');
        assert_eq!(bodies.find(Decree(2), value(1)), Some(&'a'));
        assert_eq!(bodies.find(Decree(2), value(2)), None);
        assert_eq!(bodies.find(Decree(6), value(1)), None);
        bodies.put(Decree(6), value(1), 'b');
        assert_eq!(bodies.find(Decree(2), value(1)), None);
        assert_eq!(bodies.find(Decree(6), value(1)), Some(&'b'));
    }
}
