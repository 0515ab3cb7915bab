//! Slots in the order of their last use: a doubly linked list within a vector, every operation O(1).

/// No slot.
const NONE: u32 = u32::MAX;

/// A list of slots from the longest idle to the latest used.
#[derive(Debug)]
pub(super) struct Recency {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    listed: bool,
    older: u32,
    newer: u32,
}

const UNLISTED: Link = Link {
    listed: false,
    older: NONE,
    newer: NONE,
};

impl Default for Recency {
    fn default() -> Recency {
        Recency {
            links: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Recency {
    /// The slot that was not used for the longest time.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// The slot that was used last.
    pub(super) fn newest(&self) -> Option<u32> {
        (self.newest != NONE).then_some(self.newest)
    }

    /// Makes `slot` the latest used one, whether it was listed or not.
    pub(super) fn touch(&mut self, slot: u32) {
        if self.newest == slot {
            return;
        }
        self.remove(slot);
        let place = slot as usize;
        if place >= self.links.len() {
            self.links.resize(place + 1, UNLISTED);
        }
        self.links[place] = Link {
            listed: true,
            older: self.newest,
            newer: NONE,
        };
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.links[newest as usize].newer = slot,
        }
        self.newest = slot;
    }

    /// Takes `slot` out, if it is listed.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        let Link {
            listed,
            older,
            newer,
        } = std::mem::replace(link, UNLISTED);
        if !listed {
            return;
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }

    /// The slots from the longest idle to the latest used.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let slot = next;
            next = self.links.get(slot as usize)?.newer;
            Some(slot)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_vector(steps in prop::collection::vec((any::<bool>(), 0u32..12), 0..200)) {
            let mut list = Recency::default();
            let mut model: Vec<u32> = Vec::new();
            for (touch, slot) in steps {
                model.retain(|listed| *listed != slot);
                if touch {
                    model.push(slot);
                    list.touch(slot);
                } else {
                    list.remove(slot);
                }
                prop_assert_eq!(list.iter().collect::<Vec<_>>(), model.clone());
                prop_assert_eq!(list.oldest(), model.first().copied());
                prop_assert_eq!(list.newest(), model.last().copied());
            }
        }
    }
}
