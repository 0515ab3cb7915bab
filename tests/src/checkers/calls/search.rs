//! Linearizability of one key: Wing and Gong's search with Lowe's memory of what was seen.
//!
//! A history is linearizable if every answered call can be put at one moment between its making and its answer, and every open
//! call at one moment after its making or nowhere, so that the key, doing them one by one, gives the answers that were given.
//!
//! ```text
//! calls      ├── put 1 ──┤      ├───── get: 2 ─────┤
//!                  ├──────── put 2 ────────┤
//! moments         1            2      3                 put 1, put 2, get
//! ```
//!
//! The search puts calls in order from the left. A call may come next if it was made before the first answer among those that
//! are left; if none fits, the last choice was wrong. A configuration (which calls have been put, what the key holds) that
//! was seen once leads nowhere new, so it is remembered as one word of 128 bits: calls that were put are the exclusive or of
//! random words, so that the memory is one word for each configuration, however long the history is. Two configurations with
//! one word are as unlikely as a broken digest.
//!
//! What keeps it linear in practice:
//!
//! - a call that fits and by its answer changes nothing, such as a get, is put at once: whatever may come may come after it;
//! - an open call is put only where it changes something, and what follows it does not fit without it: else it can be left out;
//! - open calls that ask the same are put in the order in which they were made: they can change places;
//! - answers tell decrees, and calls are tried in their order, so that a correct history is found without a wrong choice. Where the
//!   first one does not fit, what brings the key closer to it is tried first.
//!
//! [`layers`](super::layers) runs the same search on the calls of one decree after those of another.
//!
//! *Bounds.* [`CONFIGURATIONS_MAX`] configurations; beyond it a key is undecided, which is no acquittal.
//!
//! *Sources.* Wing and Gong, "Testing and verifying concurrent objects", 1993; Lowe, "Testing for linearizability", 2017.

use std::collections::{BTreeMap, HashSet};

use super::register::{Asked, Held, Texts, Told};
use super::under_way::UnderWay;

/// The most configurations of one key that are looked at.
pub const CONFIGURATIONS_MAX: usize = 2 << 20;

/// One call of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was made.
    pub invoked: u64,
    /// When it was answered; the end of time for an open one.
    pub answered: u64,
    /// What was asked.
    pub asked: Asked,
    /// What was told; none for an open call and for one whose answer is gone.
    pub told: Option<Told>,
    /// Where to try it: its decree, if it is known.
    pub hint: u64,
    /// Which call it is, for whoever asks.
    pub call: usize,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violated(Furthest),
    /// There were too many configurations.
    Undecided,
}

/// Where the longest order ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Furthest {
    /// How many answered steps it has.
    pub put: usize,
    /// The place of the step that is answered first among those that are left.
    pub step: usize,
    /// What the key holds then.
    pub held: Held,
}

impl Step {
    /// A call that was answered, or is open; without a hint.
    #[must_use]
    pub fn new(invoked: u64, answered: Option<u64>, asked: Asked, told: Option<Told>) -> Step {
        Step {
            invoked,
            answered: answered.unwrap_or(u64::MAX),
            asked,
            told,
            hint: 0,
            call: 0,
        }
    }

    /// Whether nobody knows what became of it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.answered == u64::MAX
    }
}

/// Searches any order for the calls of a key that holds nothing at first.
#[must_use]
pub fn search(texts: &Texts, steps: &[Step]) -> Found {
    let mut search = Search::new(texts, steps);
    let answered = (0..steps.len()).filter(|step| !steps[*step].is_open());
    search.begin(&answered.collect::<Vec<_>>(), u64::MAX, Held::Absent, &[]);
    match search.advance() {
        Advance::End => Found::Linearizable,
        Advance::OverBound => Found::Undecided,
        Advance::Exhausted => search.furthest.map_or(Found::Linearizable, Found::Violated),
    }
}

/// Open calls that ask the same.
struct Likes {
    asked: Asked,
    /// The steps, in the order in which they were made.
    steps: Vec<usize>,
    /// How many of them have been put.
    put: usize,
}

/// One choice that was made, and what to go back to.
struct Choice {
    what: Put,
    /// What the key held before.
    held: Held,
    /// What it had held before that, if that choice was an open call.
    without: Option<Held>,
    /// Where the next choice begins.
    cursor: Cursor,
}

/// What was put: an answered step, or the next one of some open calls.
#[derive(Clone, Copy)]
enum Put {
    Answered(usize),
    Open(usize),
}

/// How far the choices of one configuration have been tried: in four rounds, answered calls by hint and place, open ones by place.
#[derive(Clone, Copy, Default)]
struct Cursor {
    round: u8,
    after: Option<(u64, usize)>,
}

impl Cursor {
    /// Nothing is left to try.
    const SPENT: Cursor = Cursor {
        round: ROUNDS,
        after: None,
    };
}

const ROUNDS: u8 = 4;

/// How far a search came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// All answered steps have been put. There may be other ways.
    End,
    /// There is no other way.
    Exhausted,
    /// There were too many configurations.
    OverBound,
}

/// A search of orders for some answered steps of a key, among all its open ones.
pub struct Search<'a> {
    texts: &'a Texts,
    steps: &'a [Step],
    under_way: UnderWay,
    /// When the first of the steps is answered that come after these.
    until: u64,
    open: Vec<Likes>,
    /// Those among them whose effect depends on what is held: additions and swaps.
    dependent: Vec<usize>,
    /// Whether all additions among them have the same sign.
    one_way: bool,
    /// The puts among them by what they put.
    puts: BTreeMap<Held, usize>,
    /// What may help whatever is needed: deletions, additions and swaps, and puts before those.
    always: Vec<usize>,
    held: Held,
    /// What the key would hold without the open call that was put last; none if an answered one was.
    without: Option<Held>,
    /// The exclusive or of the words of all that was put.
    word: u128,
    seen: HashSet<u128>,
    /// Configurations that were seen since the search was made or its last layer began.
    configurations: usize,
    choices: Vec<Choice>,
    cursor: Cursor,
    /// How many answered steps have been put.
    put: usize,
    furthest: Option<Furthest>,
}

impl<'a> Search<'a> {
    /// For the steps of one key.
    pub fn new(texts: &'a Texts, steps: &'a [Step]) -> Search<'a> {
        let mut open: BTreeMap<Asked, Vec<usize>> = BTreeMap::new();
        for (place, step) in steps.iter().enumerate().filter(|(_, step)| step.is_open()) {
            open.entry(step.asked).or_default().push(place);
        }
        let likes = |(asked, mut alike): (Asked, Vec<usize>)| {
            alike.sort_by_key(|place| steps[*place].invoked);
            Likes {
                asked,
                steps: alike,
                put: 0,
            }
        };
        let open: Vec<Likes> = open.into_iter().map(likes).collect();
        let depends = |place: &usize| matches!(open[*place].asked, Asked::Add(_) | Asked::Swap(..));
        let put = |place: usize| match open[place].asked {
            Asked::Put(held) => Some((held, place)),
            _ => None,
        };
        let expected = |held: Held| {
            let expects =
                |likes: &Likes| matches!(likes.asked, Asked::Swap(expected, _) if expected == held);
            open.iter().any(expects)
        };
        let helps = |place: &usize| match open[*place].asked {
            Asked::Put(held) => texts.as_number(held).is_some() || expected(held),
            _ => true,
        };
        Search {
            texts,
            steps,
            under_way: UnderWay::default(),
            until: u64::MAX,
            dependent: (0..open.len()).filter(depends).collect(),
            one_way: one_way(&open),
            puts: (0..open.len()).filter_map(put).collect(),
            always: (0..open.len()).filter(helps).collect(),
            open,
            held: Held::Absent,
            without: None,
            word: 0,
            seen: HashSet::new(),
            configurations: 0,
            choices: Vec::new(),
            cursor: Cursor::default(),
            put: 0,
            furthest: None,
        }
    }

    /// Begins anew with these answered steps, before `until`, where the key holds `held` and the open calls of `used` have been put.
    pub fn begin(&mut self, answered: &[usize], until: u64, held: Held, used: &[usize]) {
        self.under_way = UnderWay::new(self.steps, answered);
        self.until = until;
        self.open.iter_mut().for_each(|likes| likes.put = 0);
        used.iter().for_each(|likes| self.open[*likes].put += 1);
        (self.held, self.without) = (held, None);
        (self.word, self.put, self.cursor) = (0, 0, Cursor::default());
        self.choices.clear();
        self.seen.clear();
    }

    /// Begins with calls that come behind all others up to now: a longer order will be found, and the bound counts anew.
    pub fn next_layer(&mut self) {
        (self.furthest, self.configurations) = (None, 0);
    }

    /// Searches the next way to put all steps.
    pub fn advance(&mut self) -> Advance {
        if self.under_way.is_empty() && !self.back() {
            return Advance::Exhausted;
        }
        while let Some(first) = self.under_way.first_answer() {
            let put = self.put;
            if self.furthest.is_none_or(|furthest| put >= furthest.put) {
                self.furthest = Some(Furthest {
                    put,
                    step: first,
                    held: self.held,
                });
            }
            let mut cursor = self.cursor;
            let goes_on = match self.choose(&mut cursor) {
                Some(what) => self.enter(what, cursor) || self.back(),
                None => self.back(),
            };
            if !goes_on {
                return Advance::Exhausted;
            }
            if self.configurations > CONFIGURATIONS_MAX {
                return Advance::OverBound;
            }
        }
        Advance::End
    }

    /// What the key holds now.
    pub fn held(&self) -> Held {
        self.held
    }

    /// The open calls that were put since it began.
    pub fn opened(&self) -> impl Iterator<Item = usize> {
        self.choices.iter().filter_map(|choice| match choice.what {
            Put::Open(likes) => Some(likes),
            Put::Answered(_) => None,
        })
    }

    /// Where the longest order ends; none if there was nothing to put.
    pub fn furthest(&self) -> Option<Furthest> {
        self.furthest
    }

    /// The time by which whatever comes next was made.
    fn made_by(&self) -> u64 {
        let first = self.under_way.first_answer();
        first.map_or(self.until, |step| self.steps[step].answered.min(self.until))
    }

    /// The next choice of this configuration that has not been tried.
    fn choose(&self, cursor: &mut Cursor) -> Option<Put> {
        if cursor.round == 0 && cursor.after.is_none() {
            // A call that changes nothing is the only choice that there need be.
            if let Some(step) = self.candidates().find(|step| self.is_still(*step)) {
                *cursor = Cursor::SPENT;
                return Some(Put::Answered(step));
            }
        }
        let place_of = |step: usize| (self.steps[step].hint, step);
        let first = self.candidates().min_by_key(|step| place_of(*step))?;
        let made_by = self.made_by();
        let openable = self.openable();
        while cursor.round < ROUNDS {
            let early = cursor.round < 2;
            let next = if cursor.round.is_multiple_of(2) {
                // Answered calls: the first one, and those of its decree that help it; later the others.
                let fitting = self.candidates().filter(|step| {
                    let Some(after) = self.fits(*step, self.held) else {
                        return false;
                    };
                    let alike = self.steps[*step].hint == self.steps[first].hint;
                    early == (*step == first || alike && self.helps(after, first))
                });
                let places = fitting.map(place_of);
                places.filter(|place| Some(*place) > cursor.after).min()
            } else {
                // Open calls: those that help; at the end the others.
                openable.iter().find_map(|place| {
                    let untried = Some((0, *place)) > cursor.after;
                    let after = untried.then(|| self.opens(*place, made_by))??;
                    (early == self.helps(after, first)).then_some((0, *place))
                })
            };
            let Some(place) = next else {
                *cursor = Cursor {
                    round: cursor.round + 1,
                    after: None,
                };
                continue;
            };
            cursor.after = Some(place);
            return Some(match cursor.round {
                0 | 2 => Put::Answered(place.1),
                _ => Put::Open(place.1),
            });
        }
        None
    }

    /// The answered steps that may come next: made before the first answer, and not such that the open call before them could as
    /// well be left out.
    fn candidates(&self) -> impl Iterator<Item = usize> {
        let until = self.until;
        self.under_way.candidates().filter(move |step| {
            let needs = |without| self.needs_more(*step, without);
            self.steps[*step].invoked <= until && self.without.is_none_or(needs)
        })
    }

    /// What the key holds after `step`, if it gives the answer that was given.
    fn fits(&self, step: usize, held: Held) -> Option<Held> {
        let Step { asked, told, .. } = self.steps[step];
        let (after, answer) = self.texts.step(held, asked);
        told.is_none_or(|told| told == answer).then_some(after)
    }

    /// Whether the step does not fit with `held`, or its answer does not tell its effect.
    fn needs_more(&self, step: usize, held: Held) -> bool {
        self.is_vague(step) || self.fits(step, held).is_none()
    }

    /// Whether the answer of the step does not tell its effect.
    fn is_vague(&self, step: usize) -> bool {
        let told = self.steps[step].told;
        matches!(told, None | Some(Told::NotANumber | Told::Overflow))
    }

    /// Whether the call fits, and would change nothing wherever it fits. A put of what is held anyway would, later.
    fn is_still(&self, step: usize) -> bool {
        let Step { asked, told, .. } = self.steps[step];
        let refused = matches!(
            told,
            Some(Told::Absent | Told::Mismatch(_) | Told::NotANumber | Told::Overflow)
        );
        (asked == Asked::Get || refused) && self.fits(step, self.held).is_some()
    }

    /// The open calls that may do what an answered one needs, in the order of their places: none if all that may come next fit
    /// as it is, and of the puts only those of what is needed, unless that is not one thing.
    fn openable(&self) -> Vec<usize> {
        let (mut openable, mut needy) = (Vec::new(), false);
        for step in self
            .candidates()
            .filter(|step| self.needs_more(*step, self.held))
        {
            let needed = match (self.steps[step].asked, self.steps[step].told) {
                (Asked::Get, Some(Told::Value(held))) | (_, Some(Told::Mismatch(held))) => held,
                (Asked::Swap(expected, _), Some(Told::Done)) => expected,
                (Asked::Add(_), Some(Told::Number(_))) | (_, Some(Told::Absent)) => Held::Absent,
                _ => return (0..self.open.len()).collect(),
            };
            openable.extend(self.puts.get(&needed));
            needy = true;
        }
        if needy {
            openable.extend(&self.always);
        }
        openable.sort_unstable();
        openable.dedup();
        openable
    }

    /// What the key holds after the next of these open calls, if that was made in time, changes something, and something may follow
    /// that needs it.
    fn opens(&self, likes: usize, made_by: u64) -> Option<Held> {
        let likes = &self.open[likes];
        let step = *likes.steps.get(likes.put)?;
        let overwrites = matches!(likes.asked, Asked::Put(_) | Asked::Delete);
        if self.steps[step].invoked > made_by || self.without.is_some() && overwrites {
            return None;
        }
        let (after, _) = self.texts.step(self.held, likes.asked);
        let follows =
            |step: usize| self.fits(step, after).is_some() && self.needs_more(step, self.held);
        let useful = || {
            self.under_way.candidates().any(follows)
                || self
                    .dependent
                    .iter()
                    .any(|other| self.depends(*other, after))
        };
        (after != self.held && useful()).then_some(after)
    }

    /// Whether the next of these open calls, an addition or a swap, may do what is needed after an open call that leaves `after`. If all
    /// additions go one way, only one that comes closer to a number that something needs does.
    fn depends(&self, likes: usize, after: Held) -> bool {
        let likes = &self.open[likes];
        let then = self.texts.step(after, likes.asked).0;
        if likes.put == likes.steps.len() || then == after {
            return false;
        }
        let closer = |wanted| self.closer(after, then, wanted);
        let swaps = |other: &usize| match self.open[*other].asked {
            Asked::Swap(Held::Number(wanted), _) => closer(Some(wanted)),
            _ => false,
        };
        !(self.one_way && matches!(likes.asked, Asked::Add(_)))
            || self
                .under_way
                .candidates()
                .any(|step| self.is_vague(step) || closer(self.wanted(step)))
            || self.dependent.iter().any(swaps)
    }

    /// Whether `first`, which does not fit now, does once the key holds `held`, or is closer to it.
    fn helps(&self, held: Held, first: usize) -> bool {
        self.fits(first, self.held).is_none()
            && (self.fits(first, held).is_some()
                || self.closer(self.held, held, self.wanted(first)))
    }

    /// The number that a step needs, if it needs one.
    fn wanted(&self, step: usize) -> Option<i64> {
        match (self.steps[step].asked, self.steps[step].told) {
            (Asked::Add(by), Some(Told::Number(sum))) => sum.checked_sub(by),
            (Asked::Swap(Held::Number(expected), _), Some(Told::Done)) => Some(expected),
            (_, Some(Told::Value(held) | Told::Mismatch(held))) => self.texts.as_number(held),
            _ => None,
        }
    }

    fn closer(&self, before: Held, after: Held, wanted: Option<i64>) -> bool {
        let distance = |held: Held| Some(self.texts.as_number(held)?.abs_diff(wanted?));
        matches!((distance(after), distance(before)), (Some(after), Some(before)) if after < before)
    }

    /// Puts a call; false if that configuration was seen before.
    fn enter(&mut self, what: Put, cursor: Cursor) -> bool {
        self.choices.push(Choice {
            what,
            held: self.held,
            without: self.without,
            cursor,
        });
        let step = match what {
            Put::Answered(step) => {
                self.under_way.take(step);
                self.put += 1;
                self.without = None;
                step
            }
            Put::Open(likes) => {
                let likes = &mut self.open[likes];
                likes.put += 1;
                self.without = Some(self.held);
                likes.steps[likes.put - 1]
            }
        };
        (self.held, _) = self.texts.step(self.held, self.steps[step].asked);
        self.word ^= word(0, step as u64);
        self.cursor = Cursor::default();
        let without = self.without.map_or(0, |without| word_of(4, without));
        let new = self
            .seen
            .insert(self.word ^ word_of(1, self.held) ^ without);
        self.configurations += usize::from(new);
        new
    }

    /// Takes the last choice back; false if there is none.
    fn back(&mut self) -> bool {
        let Some(choice) = self.choices.pop() else {
            return false;
        };
        let step = match choice.what {
            Put::Answered(step) => {
                self.under_way.give_back(step);
                self.put -= 1;
                step
            }
            Put::Open(likes) => {
                let likes = &mut self.open[likes];
                likes.put -= 1;
                likes.steps[likes.put]
            }
        };
        self.word ^= word(0, step as u64);
        (self.held, self.without) = (choice.held, choice.without);
        self.cursor = choice.cursor;
        true
    }
}

fn one_way(open: &[Likes]) -> bool {
    let sign = |likes: &Likes| match likes.asked {
        Asked::Add(by) => Some(by.signum()),
        _ => None,
    };
    let mut signs = open.iter().filter_map(sign);
    let first = signs.next();
    signs.all(|sign| Some(sign) == first)
}

/// The word of what a key holds, of three kinds from `kind` on.
fn word_of(kind: u64, held: Held) -> u128 {
    match held {
        Held::Absent => word(kind, 0),
        Held::Number(number) => word(kind + 1, number.cast_unsigned()),
        Held::Text(text) => word(kind + 2, u64::from(text)),
    }
}

/// A word that looks random, for a number of a kind (SplitMix64, twice).
fn word(kind: u64, number: u64) -> u128 {
    let half = |salt: u64| {
        let mut mixed = number
            .wrapping_add(kind.wrapping_mul(0xd6e8_feb8_6659_fd93))
            .wrapping_add(salt)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(mixed ^ (mixed >> 31))
    };
    half(0x0123_4567) << 64 | half(0x89ab_cdef)
}
