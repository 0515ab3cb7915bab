//! The answered calls of a search that have not been put: makings and answers in the order of their times.
//!
//! A list with two links each way (Knuth's dancing links): calls are taken from it and given back in the opposite order, in no time.

use std::collections::BTreeMap;

use super::search::Step;

/// The calls that are left. The last entry of the links is the list's head.
#[derive(Debug)]
pub struct UnderWay {
    next: Vec<u32>,
    before: Vec<u32>,
    /// For each entry its step, and whether it is the answer.
    entries: Vec<(usize, bool)>,
    /// The entries of each step.
    of: BTreeMap<usize, [u32; 2]>,
}

impl Default for UnderWay {
    fn default() -> UnderWay {
        UnderWay::new(&[], &[])
    }
}

impl UnderWay {
    /// These ones of the steps.
    ///
    /// # Panics
    /// If there are 2^31 of them: a history has fewer calls.
    #[must_use]
    pub fn new(steps: &[Step], members: &[usize]) -> UnderWay {
        let index = |number: usize| u32::try_from(number).expect("fewer than 2^31 calls");
        let both = |place: &usize| {
            let step = &steps[*place];
            [(step.invoked, false, *place), (step.answered, true, *place)]
        };
        let mut times: Vec<(u64, bool, usize)> = members.iter().flat_map(both).collect();
        // At one moment makings come first: such calls are under way together.
        times.sort_unstable();
        let entries: Vec<(usize, bool)> = times
            .iter()
            .map(|(_, answer, step)| (*step, *answer))
            .collect();
        let mut of = BTreeMap::<usize, [u32; 2]>::new();
        for (place, (step, answer)) in entries.iter().enumerate() {
            of.entry(*step).or_default()[usize::from(*answer)] = index(place);
        }
        let count = index(entries.len());
        UnderWay {
            next: (1..=count).chain([0]).collect(),
            before: [count].into_iter().chain(0..count).collect(),
            entries,
            of,
        }
    }

    /// Whether all were taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The step that is answered first.
    #[must_use]
    pub fn first_answer(&self) -> Option<usize> {
        let mut answers = self.iter().filter(|(_, answer)| *answer);
        answers.next().map(|(step, _)| step)
    }

    /// The steps that were made before that.
    pub fn candidates(&self) -> impl Iterator<Item = usize> {
        let made = self.iter().take_while(|(_, answer)| !answer);
        made.map(|(step, _)| step)
    }

    /// Takes a step out.
    pub fn take(&mut self, step: usize) {
        for entry in self.of[&step] {
            let (before, next) = (self.before[entry as usize], self.next[entry as usize]);
            self.next[before as usize] = next;
            self.before[next as usize] = before;
        }
    }

    /// Puts the step back that was taken last.
    pub fn give_back(&mut self, step: usize) {
        for entry in self.of[&step].into_iter().rev() {
            let (before, next) = (self.before[entry as usize], self.next[entry as usize]);
            self.next[before as usize] = entry;
            self.before[next as usize] = entry;
        }
    }

    /// From the first entry on.
    fn iter(&self) -> impl Iterator<Item = (usize, bool)> {
        let head = self.entries.len();
        let mut at = self.next[head] as usize;
        std::iter::from_fn(move || {
            let entry = *self.entries.get(at)?;
            at = self.next[at] as usize;
            Some(entry)
        })
    }
}
