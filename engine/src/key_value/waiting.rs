//! Changes that wait to be written to the database: what was put or removed since its last commit, newest only.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoIter;

/// What one change costs besides its bytes, about: its place in the tree and two allocations. Bytes.
const CHANGE_BYTES: usize = 96;

/// Changes one by one: a key, and its new value or that there is none any more.
pub(super) type Changes = IntoIter<Box<[u8]>, Option<Box<[u8]>>>;

/// The changes, by key: a new value, or that there is none any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    changes: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    bytes: usize,
}

impl Waiting {
    /// What became of `key`; none if it was not changed.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.changes.get(key).map(Option::as_deref)
    }

    /// The key has this value from now on, or none.
    pub(super) fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.bytes += value.map_or(0, <[u8]>::len);
        if let Some(before) = self.changes.get_mut(key) {
            self.bytes -= before.as_ref().map_or(0, |before| before.len());
            match (before, value) {
                // In its memory: what is hot is mostly numbers of one length.
                (Some(before), Some(value)) if before.len() == value.len() => {
                    before.copy_from_slice(value);
                }
                (before, value) => *before = value.map(Box::from),
            }
            return;
        }
        self.bytes += key.len() + CHANGE_BYTES;
        self.changes.insert(key.into(), value.map(Box::from));
    }

    /// About how much memory they take. Bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All changes, keys ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let changes = self.changes.iter();
        changes.map(|(key, value)| (&**key, value.as_deref()))
    }

    /// The changes themselves, keys ascending.
    pub(super) fn into_changes(self) -> Changes {
        self.changes.into_iter()
    }

    /// They were written.
    pub(super) fn clear(&mut self) {
        self.changes.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_change_stands_and_is_paid_for() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.get(b"a"), None);
        for value in [Some(&b"one"[..]), Some(b"two"), None, None, Some(b"three")] {
            waiting.set(b"a", value);
            assert_eq!(waiting.get(b"a"), Some(value));
            let len = value.map_or(0, <[u8]>::len);
            assert_eq!(waiting.bytes(), CHANGE_BYTES + 1 + len);
        }
        waiting.set(b"A", None);
        let changes: Vec<_> = waiting.iter().collect();
        assert_eq!(changes, [(&b"A"[..], None), (b"a", Some(&b"three"[..]))]);
        waiting.clear();
        assert_eq!((waiting.get(b"a"), waiting.bytes()), (None, 0));
    }
}
