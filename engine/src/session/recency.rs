//! Slots in the order of their last use: doubly linked lists within a vector, every operation O(1).

/// No slot.
const NONE: u32 = u32::MAX;

/// One list of slots from the longest idle to the latest used.
#[derive(Debug, Default)]
pub(super) struct Recency {
    links: Links,
    ends: Ends,
}

impl Recency {
    /// The slot that was not used for the longest time.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.ends.oldest()
    }

    /// The slot that was used last.
    pub(super) fn newest(&self) -> Option<u32> {
        (self.ends.newest != NONE).then_some(self.ends.newest)
    }

    /// Makes `slot` the latest used one, whether it was listed or not.
    pub(super) fn touch(&mut self, slot: u32) {
        self.links.touch(&mut self.ends, slot);
    }

    /// Takes `slot` out, if it is listed.
    pub(super) fn remove(&mut self, slot: u32) {
        self.links.remove(&mut self.ends, slot);
    }

    /// The slots from the longest idle to the latest used.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let mut next = self.ends.oldest;
        std::iter::from_fn(move || {
            let slot = next;
            next = self.links.0.get(slot as usize)?.newer;
            Some(slot)
        })
    }
}

/// The neighbours of every slot, in whichever list it stands; a slot stands in at most one of those that share them.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Link>);

/// Where one list begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
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

impl Default for Ends {
    fn default() -> Ends {
        Ends {
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Ends {
    /// The slot of this list that was not used for the longest time.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

impl Links {
    /// Makes `slot` the latest used one of the list with these ends, whether it was listed there or nowhere.
    pub(super) fn touch(&mut self, ends: &mut Ends, slot: u32) {
        if ends.newest == slot {
            return;
        }
        self.remove(ends, slot);
        let place = slot as usize;
        if place >= self.0.len() {
            self.0.resize(place + 1, UNLISTED);
        }
        self.0[place] = Link {
            listed: true,
            older: ends.newest,
            newer: NONE,
        };
        match ends.newest {
            NONE => ends.oldest = slot,
            newest => self.0[newest as usize].newer = slot,
        }
        ends.newest = slot;
    }

    /// Takes `slot` out of the list with these ends, if it is listed.
    pub(super) fn remove(&mut self, ends: &mut Ends, slot: u32) {
        let Some(link) = self.0.get_mut(slot as usize) else {
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
            NONE => ends.oldest = newer,
            older => self.0[older as usize].newer = newer,
        }
        match newer {
            NONE => ends.newest = older,
            newer => self.0[newer as usize].older = older,
        }
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
