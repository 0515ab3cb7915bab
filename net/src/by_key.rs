//! What a driver has under each key: keys are small numbers that are used again, so a table finds them at once.

use crate::driver::Key;

/// One `T` at most per key. It grows to the largest key.
#[derive(Debug)]
pub(crate) struct ByKey<T>(Vec<Option<T>>);

impl<T> Default for ByKey<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByKey<T> {
    /// Puts `value` under `key`.
    ///
    /// # Panics
    /// When something is there.
    pub fn put(&mut self, key: Key, value: T) {
        let index = key.0 as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        assert!(self.0[index].is_none(), "a key names one socket at a time");
        self.0[index] = Some(value);
    }

    /// What is under `key`.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.0.get(key.0 as usize)?.as_ref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.0.get_mut(key.0 as usize)?.as_mut()
    }

    /// Takes it out; the key is free then.
    pub fn take(&mut self, key: Key) -> Option<T> {
        self.0.get_mut(key.0 as usize)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_what_was_put_there_until_it_is_taken() {
        let mut sockets = ByKey::default();
        sockets.put(Key(3), "three");
        assert_eq!((sockets.get(Key(2)), sockets.get(Key(9))), (None, None));
        assert_eq!(sockets.get_mut(Key(3)), Some(&mut "three"));
        assert_eq!(sockets.take(Key(3)), Some("three"));
        assert_eq!(sockets.take(Key(3)), None);
        sockets.put(Key(3), "again");
        assert_eq!(sockets.get(Key(3)), Some(&"again"));
    }

    #[test]
    #[should_panic(expected = "one socket at a time")]
    fn a_key_is_not_used_twice() {
        let mut sockets = ByKey::default();
        sockets.put(Key(0), ());
        sockets.put(Key(0), ());
    }
}
