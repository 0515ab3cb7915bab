//! Orders of the calls of one key in which they stand as their decrees say: a layer of configurations after each decree.
//!
//! ```text
//! decree 7          decree 8          decree 9
//! ┌ put a ┐         ┌ get ┐           ┌ add ┐            all ways to put the calls of one decree, from each configuration of the
//! └ put b ┘  a, b   └ b   ┘   b       └ …   ┘            layer before; open calls may come in between
//! ```
//!
//! Answers tell decrees, so this is what the cluster claims. It is also cheap: a wrong choice ends at the next decree or two, and does
//! not hide behind thousands of right ones. Of two configurations that hold the same, one that has used more open
//! calls is dropped: whatever the rest needs, the other has it too. If an order is found the key is linearizable; if none is,
//! the cluster has contradicted itself, and [`search`](super::search) says whether any order at all explains the answers.
//!
//! *Cost*: a search of a few steps for each decree of the key. *Bounds*: of a layer those [`WIDTH_MAX`] configurations are kept that have used
//! the fewest open calls, and each decree has the bound of the search. Where that left something out, no order is no verdict.

use super::register::{Held, Texts};
use super::search::{Advance, Found, Search, Step};

/// The most configurations that are kept of a layer.
pub const WIDTH_MAX: usize = 4;

/// What a key may hold after a decree, and the open calls that this took.
struct Configuration {
    held: Held,
    /// In ascending order.
    used: Vec<usize>,
}

/// Searches an order by decrees for the calls of a key that holds nothing at first.
#[must_use]
pub fn search_by_decrees(texts: &Texts, steps: &[Step]) -> Found {
    let mut answered: Vec<usize> = (0..steps.len())
        .filter(|step| !steps[*step].is_open())
        .collect();
    answered.sort_by_key(|step| (steps[*step].hint, *step));
    let decrees: Vec<&[usize]> = answered
        .chunk_by(|one, other| steps[*one].hint == steps[*other].hint)
        .collect();
    // When the first call of the decrees behind each one is answered: nothing before may have been made later.
    let mut until = vec![u64::MAX; decrees.len()];
    for place in (1..decrees.len()).rev() {
        let first = decrees[place].iter().map(|step| steps[*step].answered);
        let first = first.min().expect("a decree has calls");
        until[place - 1] = until[place].min(first);
    }
    let mut search = Search::new(texts, steps);
    let mut left_out = false;
    let mut layer = vec![Configuration {
        held: Held::Absent,
        used: Vec::new(),
    }];
    for (decree, until) in decrees.into_iter().zip(until) {
        let mut after = Vec::new();
        search.next_layer();
        for before in &layer {
            search.begin(decree, until, before.held, &before.used);
            loop {
                match search.advance() {
                    Advance::End => {
                        let mut used = before.used.clone();
                        used.extend(search.opened());
                        used.sort_unstable();
                        let held = search.held();
                        add(&mut after, Configuration { held, used });
                    }
                    Advance::Exhausted => break,
                    Advance::OverBound => return Found::Undecided,
                }
                if after.len() > 2 * WIDTH_MAX {
                    after.sort_by_key(|one: &Configuration| one.used.len());
                    after.truncate(WIDTH_MAX);
                    left_out = true;
                }
            }
        }
        if after.is_empty() && left_out {
            return Found::Undecided;
        }
        if after.is_empty() {
            let furthest = search.furthest().expect("a decree has calls");
            return Found::Violated(furthest);
        }
        // The fewest first, so that what is as good is met first.
        after.sort_by_key(|one| one.used.len());
        layer = after;
    }
    Found::Linearizable
}

/// Adds a configuration unless another is as good, and drops those that are not as good as it.
fn add(layer: &mut Vec<Configuration>, new: Configuration) {
    let as_good = |one: &Configuration, other: &Configuration| {
        one.held == other.held && is_part(&one.used, &other.used)
    };
    if !layer.iter().any(|one| as_good(one, &new)) {
        layer.retain(|other| !as_good(&new, other));
        layer.push(new);
    }
}

/// Whether everything in the ascending `one` is in the ascending `other`, as often.
fn is_part(one: &[usize], other: &[usize]) -> bool {
    let mut other = other.iter();
    one.len() <= other.len() && one.iter().all(|item| other.any(|found| found == item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_count_what_comes_twice() {
        assert!(is_part(&[], &[1]) && is_part(&[1, 3], &[1, 2, 3]));
        assert!(is_part(&[1, 1], &[1, 1]) && !is_part(&[1, 1], &[1, 2]));
        assert!(!is_part(&[2], &[1, 3]) && !is_part(&[1, 2], &[1]));
    }

    #[test]
    fn who_has_used_less_is_kept() {
        let of = |used: &[usize]| Configuration {
            held: Held::Absent,
            used: used.to_vec(),
        };
        let mut layer = Vec::new();
        for used in [&[1, 2][..], &[1], &[1, 3], &[4]] {
            add(&mut layer, of(used));
        }
        let kept: Vec<&[usize]> = layer.iter().map(|one| one.used.as_slice()).collect();
        assert_eq!(kept, [&[1][..], &[4]]);
    }
}
