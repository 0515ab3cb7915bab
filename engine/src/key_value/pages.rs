//! A sorted map in pages behind counted pointers: a copy of it costs one pointer per page, and writing to a page
//! that a copy still holds copies that page alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A page with more entries is split.
const ENTRIES_MAX: usize = 128;
/// A page with more bytes is split, unless a single entry has them.
const BYTES_MAX: usize = 64 << 10;

/// The map. No page is empty; keys ascend strictly within and across pages.
#[derive(Clone, Default)]
pub(super) struct Pages {
    pages: Vec<Arc<Page>>,
    len: usize,
    /// Page and place of the key that was found last, perhaps: most keys are read before they are written.
    last: Place,
}

/// A page and a place in it that may be wrong: whoever looks there compares the key.
#[derive(Default)]
struct Place(AtomicUsize, AtomicUsize);

impl Place {
    fn get(&self) -> (usize, usize) {
        let Place(page, place) = self;
        (page.load(Ordering::Relaxed), place.load(Ordering::Relaxed))
    }

    fn set(&self, page: usize, place: usize) {
        self.0.store(page, Ordering::Relaxed);
        self.1.store(place, Ordering::Relaxed);
    }
}

impl Clone for Place {
    fn clone(&self) -> Place {
        Place::default()
    }
}

#[derive(Clone, Default)]
struct Page {
    entries: Vec<Entry>,
    /// The length of all keys and values.
    bytes: usize,
}

#[derive(Clone)]
struct Entry {
    key: Box<[u8]>,
    value: Vec<u8>,
}

impl Pages {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (at, Ok(place)) = self.find(key) else {
            return None;
        };
        Some(&self.pages[at].entries[place].value)
    }

    /// Lets `write` set the value of `key`, which is empty at first if the key is new.
    pub(super) fn put(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let (at, place) = self.find(key);
        if at == self.pages.len() {
            self.pages.push(Arc::default());
        }
        let page = Arc::make_mut(&mut self.pages[at]);
        let place = place.unwrap_or_else(|place| {
            page.entries.insert(
                place,
                Entry {
                    key: key.into(),
                    value: Vec::new(),
                },
            );
            page.bytes += key.len();
            self.len += 1;
            place
        });
        let value = &mut page.entries[place].value;
        page.bytes -= value.len();
        write(value);
        page.bytes += value.len();
        if let Some(upper) = page.split() {
            self.pages.insert(at + 1, Arc::new(upper));
        }
    }

    /// Removes `key`; false if it was absent.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let (at, Ok(place)) = self.find(key) else {
            return false;
        };
        let page = Arc::make_mut(&mut self.pages[at]);
        let entry = page.entries.remove(place);
        page.bytes -= entry.key.len() + entry.value.len();
        self.len -= 1;
        if page.entries.is_empty() {
            self.pages.remove(at);
        }
        true
    }

    /// The entry at `(page, place)`, which then names the next one; none at the end.
    pub(super) fn next(&self, cursor: &mut (usize, usize)) -> Option<(&[u8], &[u8])> {
        let (page, place) = *cursor;
        let entries = &self.pages.get(page)?.entries;
        *cursor = if place + 1 < entries.len() {
            (page, place + 1)
        } else {
            (page + 1, 0)
        };
        let entry = &entries[place];
        Some((&entry.key, &entry.value))
    }

    /// The page in which `key` stands or would stand, and where in it; beyond the last page only if there is none.
    fn find(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        let (at, place) = self.last.get();
        let last = self.pages.get(at).and_then(|page| page.entries.get(place));
        if last.is_some_and(|entry| *entry.key == *key) {
            return (at, Ok(place));
        }
        let at = self.page_of(key);
        let place = self.pages.get(at).map_or(Err(0), |page| page.find(key));
        if let Ok(place) = place {
            self.last.set(at, place);
        }
        (at, place)
    }

    /// The page in which `key` stands or would stand; beyond the last only if there is none.
    fn page_of(&self, key: &[u8]) -> usize {
        self.pages
            .partition_point(|page| *page.entries[0].key <= *key)
            .saturating_sub(1)
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A state may have gigabytes; what helps in a log is its size.
        write!(f, "Pages({} keys in {} pages)", self.len, self.pages.len())
    }
}

impl Page {
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| (*entry.key).cmp(key))
    }

    /// Cuts a page that is too large in two and returns the upper part.
    fn split(&mut self) -> Option<Page> {
        let large = self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX;
        if !large || self.entries.len() < 2 {
            return None;
        }
        let upper = self.entries.split_off(self.entries.len() / 2);
        let bytes = upper
            .iter()
            .map(|entry| entry.key.len() + entry.value.len())
            .sum();
        self.bytes -= bytes;
        Some(Page {
            entries: upper,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Asserts what must hold of all pages, and returns what they hold.
    fn checked(pages: &Pages) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let (mut map, mut cursor, mut last) = (BTreeMap::new(), (0, 0), None);
        while let Some((key, value)) = pages.next(&mut cursor) {
            assert!(last < Some(key.to_vec()), "keys ascend");
            last = Some(key.to_vec());
            map.insert(key.to_vec(), value.to_vec());
        }
        for page in &pages.pages {
            assert!(!page.entries.is_empty());
            let bytes: usize = page
                .entries
                .iter()
                .map(|entry| entry.key.len() + entry.value.len())
                .sum();
            assert_eq!(bytes, page.bytes);
        }
        assert_eq!(map.len(), pages.len());
        map
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn behaves_like_a_map_and_copies_stand_still(
            steps in prop::collection::vec((0u16..600, 0u8..4, 0usize..3000), 0..2000),
            copy_at in 0usize..2000,
        ) {
            let (mut pages, mut map) = (Pages::default(), BTreeMap::new());
            let mut copy = None;
            for (at, (key, what, len)) in steps.into_iter().enumerate() {
                if at == copy_at {
                    copy = Some((pages.clone(), map.clone()));
                }
                let key = key.to_be_bytes().to_vec();
                if what == 0 {
                    prop_assert_eq!(pages.remove(&key), map.remove(&key).is_some());
                } else {
                    let value = vec![what; len];
                    pages.put(&key, |kept| kept.clone_from(&value));
                    map.insert(key.clone(), value);
                }
                prop_assert_eq!(pages.get(&key), map.get(&key).map(Vec::as_slice));
            }
            prop_assert_eq!(checked(&pages), map);
            if let Some((pages, map)) = copy {
                prop_assert_eq!(checked(&pages), map);
            }
        }
    }

    #[test]
    fn pages_stay_small() {
        let mut pages = Pages::default();
        for key in 0..10_000u32 {
            pages.put(&key.to_be_bytes(), |value| value.push(0));
        }
        assert!(pages.pages.len() >= 10_000 / ENTRIES_MAX);
        assert!(
            pages
                .pages
                .iter()
                .all(|page| page.entries.len() <= ENTRIES_MAX)
        );
        pages.put(&7u32.to_be_bytes(), |value| value.resize(BYTES_MAX * 3, 0));
        pages.put(&8u32.to_be_bytes(), |value| value.resize(BYTES_MAX * 3, 0));
        pages.put(&7u32.to_be_bytes(), |value| value.push(1));
        assert_eq!(checked(&pages).len(), 10_000);
    }
}
