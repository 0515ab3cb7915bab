//! Properties of the thresholds and of `select`, against arithmetic of the test's own.
//!
//! The literal table is PROTOCOL.md section 2 with the numbers put in. The histories below play the acceptor rules of
//! section 3 with every leader free to lie, and then look whether what was chosen is always bound.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select as one_of;
use twostep_engine::quorum::{Choice, FaultModel, QuorumError, Quorums, Reported, select};
use twostep_engine::types::{Digest, Regency, Value};

/// f, acceptors, learners, proposers, learn, report, must, reply, pull, ack, checkpoint, progress, vouch, leadership (0: none)
type Row = [usize; 14];

const TABLE: [(FaultModel, Row); 6] = [
    (FaultModel::Fab, [1, 6, 4, 4, 5, 5, 3, 2, 2, 3, 3, 2, 2, 3]),
    (FaultModel::Fab, [2, 11, 7, 7, 9, 9, 5, 3, 3, 5, 5, 3, 3, 5]),
    (
        FaultModel::Fab,
        [3, 16, 10, 10, 13, 13, 7, 4, 4, 7, 7, 4, 4, 7],
    ),
    (
        FaultModel::Crash,
        [1, 3, 3, 3, 2, 2, 1, 1, 1, 2, 2, 1, 1, 0],
    ),
    (
        FaultModel::Crash,
        [2, 5, 5, 5, 3, 3, 1, 1, 1, 3, 3, 1, 1, 0],
    ),
    (
        FaultModel::Crash,
        [3, 7, 7, 7, 4, 4, 1, 1, 1, 4, 4, 1, 1, 0],
    ),
];

fn row(quorums: &Quorums) -> Row {
    [
        quorums.f,
        quorums.acceptors,
        quorums.learners,
        quorums.proposers,
        quorums.learn,
        quorums.report,
        quorums.must,
        quorums.reply,
        quorums.pull,
        quorums.ack,
        quorums.checkpoint,
        quorums.progress,
        quorums.vouch,
        quorums.leadership.unwrap_or(0),
    ]
}

#[test]
fn thresholds_are_those_of_the_table() {
    for (model, expected) in TABLE {
        let [f, acceptors, learners, proposers, ..] = expected;
        let quorums =
            Quorums::new(model, f, acceptors, learners, proposers).expect("the sizes of the model");
        assert_eq!((quorums.model, row(&quorums)), (model, expected));
    }
}

#[test]
fn thresholds_follow_f_up_to_8() {
    for f in 1..=8 {
        let (n, four, three, two, one) = (5 * f + 1, 4 * f + 1, 3 * f + 1, 2 * f + 1, f + 1);
        let fab =
            Quorums::new(FaultModel::Fab, f, n, three, three).expect("the sizes of the model");
        assert_eq!(
            row(&fab),
            [
                f, n, three, three, four, four, two, one, one, two, two, one, one, two
            ]
        );
        for proposers in [one, two, two + 5] {
            let crash = Quorums::new(FaultModel::Crash, f, two, two, proposers)
                .expect("any number from f + 1 on");
            assert_eq!(
                row(&crash),
                [f, two, two, proposers, one, one, 1, 1, 1, one, one, 1, 1, 0]
            );
        }
    }
}

#[test]
fn wrong_sizes_are_refused_and_named() {
    let refused =
        |model, f, sizes: [usize; 3]| match Quorums::new(model, f, sizes[0], sizes[1], sizes[2]) {
            Err(QuorumError::Size {
                class,
                expected,
                found,
                ..
            }) => (class, expected, found),
            other => panic!("{sizes:?} must not have thresholds: {other:?}"),
        };
    for f in 1..=8 {
        let (n, l) = (5 * f + 1, 3 * f + 1);
        for wrong in [n - 1, n + 1, 0] {
            let answer = refused(FaultModel::Fab, f, [wrong, l, l]);
            assert_eq!(answer, ("acceptors", format!("exactly {n}"), wrong));
        }
        for wrong in [l - 1, l + 1, 0] {
            let answer = refused(FaultModel::Fab, f, [n, wrong, l]);
            assert_eq!(answer, ("learners", format!("exactly {l}"), wrong));
            let answer = refused(FaultModel::Fab, f, [n, l, wrong]);
            assert_eq!(answer, ("proposers", format!("exactly {l}"), wrong));
        }
        let n = 2 * f + 1;
        for wrong in [n - 1, n + 1] {
            let answer = refused(FaultModel::Crash, f, [wrong, n, n]);
            assert_eq!(answer, ("acceptors", format!("exactly {n}"), wrong));
            let answer = refused(FaultModel::Crash, f, [n, wrong, n]);
            assert_eq!(answer, ("learners", format!("exactly {n}"), wrong));
        }
        assert_eq!(
            refused(FaultModel::Crash, f, [n, n, f]),
            ("proposers", format!("at least {}", f + 1), f)
        );
    }
    for model in [FaultModel::Fab, FaultModel::Crash] {
        assert_eq!(Quorums::new(model, 0, 1, 1, 1), Err(QuorumError::NoFaults));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn select_answers_any_reports_as_the_rule_reads(
        (quorums, reports) in (quorums(), 1..4u8).prop_flat_map(|(quorums, values)| {
            let reports = proptest::collection::vec(reported(values), quorums.report);
            (Just(quorums), reports)
        }),
    ) {
        let expected = match quorums.model {
            FaultModel::Fab => most_reported(quorums.f, &reports),
            FaultModel::Crash => newest_reported(&reports),
        };
        prop_assert_eq!(select(&quorums, &reports), expected);
    }

    #[test]
    fn select_does_not_depend_on_the_order(
        (quorums, reports, shuffled) in quorums().prop_flat_map(|quorums| {
            let reports = proptest::collection::vec(reported(2), quorums.report);
            (Just(quorums), reports).prop_flat_map(|(quorums, reports)| {
                (Just(quorums), Just(reports.clone()), Just(reports).prop_shuffle())
            })
        }),
    ) {
        prop_assert_eq!(select(&quorums, &reports), select(&quorums, &shuffled));
    }

    #[test]
    fn at_most_one_value_can_be_bound(f in 1..=8usize, bound in 0..=40usize) {
        // Of 4f + 1 reports, `bound` for one value and all others for a second one.
        let reports = 4 * f + 1;
        let bound = bound.min(reports);
        let report = |place: usize| Some(Reported { psn: Regency(0), value: value(u8::from(place >= bound)) });
        let all: Vec<_> = (0..reports).map(report).collect();
        let expected = if bound > 2 * f { value(0) } else { value(1) };
        prop_assert_eq!(select(&fab(f), &all), Choice::Must(expected));
    }
}

#[test]
fn a_value_at_its_threshold_binds_and_one_report_less_does_not() {
    for f in 1..=8 {
        let report = |voted: usize| -> Vec<Option<Reported>> {
            // Every vote at a psn of its own: values are counted whatever their psn (PROTOCOL.md section 6, S7).
            let vote = |place: usize| {
                (place < voted).then(|| Reported {
                    psn: Regency(place as u64),
                    value: value(1),
                })
            };
            (0..4 * f + 1).map(vote).collect()
        };
        assert_eq!(select(&fab(f), &report(2 * f + 1)), Choice::Must(value(1)));
        assert_eq!(select(&fab(f), &report(2 * f)), Choice::Free);
        assert_eq!(select(&fab(f), &report(0)), Choice::Free);
    }
}

#[test]
fn the_highest_psn_binds_in_mode_crash() {
    for f in 1..=8 {
        let mut reports: Vec<_> = (0..=f)
            .map(|psn| {
                Some(Reported {
                    psn: Regency(psn as u64),
                    value: value(u8::from(psn == f)),
                })
            })
            .collect();
        for _ in 0..reports.len() {
            reports.rotate_left(1);
            assert_eq!(select(&crash(f), &reports), Choice::Must(value(1)));
        }
        assert_eq!(select(&crash(f), &vec![None; f + 1]), Choice::Free);
    }
}

#[test]
#[should_panic(expected = "exactly one report quorum")]
fn select_takes_exactly_one_report_quorum() {
    let _ = select(&fab(1), &[None; 4]);
}

/// What was chosen below a regency is bound in every voucher for it, in mode F.
#[test]
fn chosen_values_are_bound_whatever_liars_do() {
    for f in 1..=3 {
        let mut seen = Seen::default();
        for seed in 0..6_000 {
            fab_history(f, seed, &mut seen);
        }
        seen.enough(f);
    }
}

/// What was chosen below a regency is bound in every voucher for it, in mode C.
#[test]
fn chosen_values_are_bound_whoever_crashes() {
    for f in 1..=3 {
        let mut seen = Seen::default();
        for seed in 0..6_000 {
            crash_history(f, seed, &mut seen);
        }
        seen.enough(f);
    }
}

/// How often the histories met what they are about.
#[derive(Debug, Default)]
struct Seen {
    bound: usize,
    disputed: usize,
    free: usize,
}

impl Seen {
    /// Otherwise nothing would have been tested.
    fn enough(&self, f: usize) {
        assert!(
            self.bound > 1_000,
            "f = {f}: vouchers above a chosen value: {self:?}"
        );
        assert!(
            self.disputed > 100,
            "f = {f}: of these, with reports of other values: {self:?}"
        );
        assert!(
            self.free > 100,
            "f = {f}: vouchers that bind nothing: {self:?}"
        );
    }
}

/// A correct acceptor, for one decree.
#[derive(Clone, Default)]
struct Acceptor {
    regency: u64,
    /// What `select` made of the voucher that it took for its regency.
    plan: Option<Choice>,
    vote: Option<Reported>,
    /// What it reported on entering a regency: made once, never changed.
    reports: BTreeMap<u64, Option<Reported>>,
}

impl Acceptor {
    fn enter(&mut self, regency: u64) {
        if regency > self.regency {
            self.regency = regency;
            self.plan = None;
            self.reports.insert(regency, self.vote);
        }
    }
}

/// Reports that a leader showed or used, and what `select` made of them.
struct Voucher {
    regency: u64,
    reports: Vec<Option<Reported>>,
    choice: Choice,
}

/// One random history of one decree.
struct History {
    quorums: Quorums,
    random: Random,
    acceptors: Vec<Acceptor>,
    votes: BTreeMap<(u64, Value), BTreeSet<usize>>,
    vouchers: Vec<Voucher>,
}

const REGENCIES: u64 = 6;
const STEPS_PER_ACCEPTOR: usize = 60;

impl History {
    /// Regency 0 needs no voucher: everything is free there.
    fn new(quorums: Quorums, correct: usize, seed: u64) -> History {
        let born = Acceptor {
            plan: Some(Choice::Free),
            ..Acceptor::default()
        };
        History {
            quorums,
            random: Random(seed.wrapping_mul(16).wrapping_add(quorums.f as u64)),
            acceptors: vec![born; correct],
            votes: BTreeMap::new(),
            vouchers: Vec::new(),
        }
    }

    /// Regencies come one after the other, as far apart as it takes for something to happen in each.
    fn steps(&self) -> impl Iterator<Item = u64> + use<> {
        let steps = (STEPS_PER_ACCEPTOR * self.acceptors.len()) as u64;
        (0..steps).map(move |step| REGENCIES * step / steps)
    }

    /// What correct acceptors reported for `regency`, in any order.
    fn told(&mut self, regency: u64) -> Vec<Option<Reported>> {
        let told = self
            .acceptors
            .iter()
            .filter_map(|acceptor| acceptor.reports.get(&regency));
        let mut told: Vec<_> = told.copied().collect();
        self.random.shuffle(&mut told);
        told
    }

    fn vote(&mut self, who: usize, value: Value) {
        let acceptor = &mut self.acceptors[who];
        let psn = Regency(acceptor.regency);
        if acceptor.vote.is_none_or(|vote| vote.psn < psn) {
            acceptor.vote = Some(Reported { psn, value });
            self.votes.entry((psn.0, value)).or_default().insert(who);
        }
    }

    /// Chosen at any time in a lower regency, by at least `enough` votes: bound. Two values chosen: never.
    fn check(&self, enough: usize, seen: &mut Seen) {
        let chosen = self
            .votes
            .iter()
            .filter(|(_, voters)| voters.len() >= enough)
            .map(|(vote, _)| *vote);
        let chosen: Vec<(u64, Value)> = chosen.collect();
        for pair in chosen.windows(2) {
            assert_eq!(pair[0].1, pair[1].1, "two values are chosen: {chosen:?}");
        }
        for Voucher {
            regency,
            reports,
            choice,
        } in &self.vouchers
        {
            let Some((_, bound)) = chosen.iter().find(|(psn, _)| psn < regency) else {
                seen.free += usize::from(*choice == Choice::Free);
                continue;
            };
            assert_eq!(
                *choice,
                Choice::Must(*bound),
                "{chosen:?}, and a voucher for {regency}: {reports:?}"
            );
            seen.bound += 1;
            seen.disputed += usize::from(
                reports
                    .iter()
                    .flatten()
                    .any(|report| report.value != *bound),
            );
        }
    }
}

/// Mode F: 4f+1 correct acceptors, f that lie, and every leader lies. Leaders show each acceptor a voucher of its own
/// and a value of its own; liars report anything, and another thing each time they are asked.
fn fab_history(f: usize, seed: u64, seen: &mut Seen) {
    let mut history = History::new(fab(f), 4 * f + 1, seed);
    // Each regency has a favourite, pushed to almost all or to almost nobody: often chosen, often split.
    let favourites =
        (0..REGENCIES).map(|_| (value(history.random.byte(2)), 1 << history.random.below(5)));
    let favourites: Vec<(Value, usize)> = favourites.collect();
    for newest in history.steps() {
        let who = history.random.below(4 * f + 1);
        let acceptor = &mut history.acceptors[who];
        match history.random.below(8) {
            0 => acceptor.enter(history.random.up_to(newest)),
            1 | 2 => lying_leader_shows_a_voucher(&mut history, who, newest),
            _ => {
                let any = value(history.random.byte(3));
                let (favourite, pushed) =
                    favourites[usize::try_from(acceptor.regency).expect("few regencies")];
                match acceptor.plan {
                    None => {}
                    Some(Choice::Must(bound)) => history.vote(who, bound),
                    Some(Choice::Free) if history.random.below(pushed) == 0 => {
                        history.vote(who, any);
                    }
                    Some(Choice::Free) => history.vote(who, favourite),
                }
            }
        }
    }
    // 4f+1 equal votes decide, and f of them may be those of liars.
    history.check(3 * f + 1, seen);
}

fn lying_leader_shows_a_voucher(history: &mut History, who: usize, newest: u64) {
    let f = history.quorums.f;
    let regency = history.random.up_to(newest);
    let liars = history.random.below(f + 1);
    let mut reports = history.told(regency);
    if reports.len() + liars < 4 * f + 1 {
        return;
    }
    reports.truncate(4 * f + 1 - liars);
    for _ in 0..liars {
        let psn = Regency(history.random.up_to(regency - 1));
        let lie = Reported {
            psn,
            value: value(history.random.byte(3)),
        };
        reports.push((history.random.below(4) > 0).then_some(lie));
    }
    history.random.shuffle(&mut reports);
    let choice = select(&history.quorums, &reports);
    let acceptor = &mut history.acceptors[who];
    if regency >= acceptor.regency {
        acceptor.enter(regency);
        // A second one for the same regency is ignored: the first stays.
        acceptor.plan.get_or_insert(choice);
    }
    history.vouchers.push(Voucher {
        regency,
        reports,
        choice,
    });
}

/// Mode C: nobody lies. A leader gathers once, believes `select`, and proposes one value to whom it reaches; messages
/// are late or lost, and in some regencies most of them are.
fn crash_history(f: usize, seed: u64, seen: &mut Seen) {
    let mut history = History::new(crash(f), 2 * f + 1, seed);
    let mut proposals: BTreeMap<u64, Value> = [(0, value(0))].into();
    let reach: Vec<usize> = (0..REGENCIES)
        .map(|_| 1 << history.random.below(7))
        .collect();
    for newest in history.steps() {
        let who = history.random.below(2 * f + 1);
        let regency = history.random.up_to(newest);
        match history.random.below(3) {
            0 => history.acceptors[who].enter(regency),
            1 => {
                let mut reports = history.told(regency);
                if proposals.contains_key(&regency) || reports.len() < f + 1 {
                    continue;
                }
                reports.truncate(f + 1);
                let choice = select(&history.quorums, &reports);
                let fresh = value(u8::try_from(regency).expect("few regencies"));
                proposals.insert(
                    regency,
                    if let Choice::Must(bound) = choice {
                        bound
                    } else {
                        fresh
                    },
                );
                history.vouchers.push(Voucher {
                    regency,
                    reports,
                    choice,
                });
            }
            _ => {
                let lost = history
                    .random
                    .below(reach[usize::try_from(regency).expect("few regencies")])
                    > 0;
                let Some(proposed) = proposals.get(&regency).filter(|_| !lost) else {
                    continue;
                };
                // A proposal of a higher regency is a reason to enter it (PROTOCOL.md section 2).
                history.acceptors[who].enter(regency);
                if history.acceptors[who].regency == regency {
                    history.vote(who, *proposed);
                }
            }
        }
    }
    history.check(f + 1, seen);
}

/// Mode F by its words: the value that 2f+1 of 4f+1 report, whatever their psn.
fn most_reported(f: usize, reports: &[Option<Reported>]) -> Choice {
    let mut counts: BTreeMap<Value, usize> = BTreeMap::new();
    reports
        .iter()
        .flatten()
        .for_each(|report| *counts.entry(report.value).or_default() += 1);
    let mut bound = counts
        .into_iter()
        .filter(|(_, count)| *count > 2 * f)
        .map(|(value, _)| value);
    let first = bound.next();
    assert_eq!(bound.next(), None, "two of them would need 4f+2 reports");
    first.map_or(Choice::Free, Choice::Must)
}

/// Mode C by its words: the value of the highest psn. The reports that [`reported`] makes give one psn one value.
fn newest_reported(reports: &[Option<Reported>]) -> Choice {
    let mut newest: Option<Reported> = None;
    for report in reports.iter().flatten() {
        if newest.is_none_or(|newest| report.psn > newest.psn) {
            newest = Some(*report);
        }
    }
    newest.map_or(Choice::Free, |report| Choice::Must(report.value))
}

/// A report of one of so many values, or of none; the psn decides the value, as it does where nobody lies.
fn reported(values: u8) -> impl Strategy<Value = Option<Reported>> {
    let vote = prop_oneof![0..12u64, Just(u64::MAX), Just(u64::MAX - 1)];
    let vote = vote.prop_map(move |psn| {
        let named = u8::try_from(psn % u64::from(values)).expect("below a byte");
        Reported {
            psn: Regency(psn),
            value: value(named),
        }
    });
    proptest::option::weighted(0.8, vote)
}

fn quorums() -> impl Strategy<Value = Quorums> {
    (one_of(vec![FaultModel::Fab, FaultModel::Crash]), 1..=8usize).prop_map(
        |(model, f)| match model {
            FaultModel::Fab => fab(f),
            FaultModel::Crash => crash(f),
        },
    )
}

fn fab(f: usize) -> Quorums {
    Quorums::new(FaultModel::Fab, f, 5 * f + 1, 3 * f + 1, 3 * f + 1)
        .expect("the sizes of the model")
}

fn crash(f: usize) -> Quorums {
    Quorums::new(FaultModel::Crash, f, 2 * f + 1, 2 * f + 1, 2 * f + 1)
        .expect("the sizes of the model")
}

fn value(named: u8) -> Value {
    Value(Digest([named; 32]))
}

/// SplitMix64: a seed in, the same history out.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// `top`, now and then anything below it.
    fn up_to(&mut self, top: u64) -> u64 {
        if self.below(4) > 0 {
            top
        } else {
            self.next() % (top + 1)
        }
    }

    fn byte(&mut self, bound: u8) -> u8 {
        u8::try_from(self.below(usize::from(bound))).expect("below a byte")
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
    }
}
