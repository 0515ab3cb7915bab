//! Runs seeds: one to its verdict, or a range of them on all cores.
//!
//! A seed goes through three phases:
//!
//! 1. **trouble**: the drawn links, disks and faults, until enough is committed and certified and every fault
//!    has struck and passed;
//! 2. **progress**: the links and the disks heal, and once the last hung sync has ended and a correct proposer
//!    knows of work, every correct learner must learn a decree above all earlier ones within
//!    [`World::progress_bound`] and [`World::catch_up_bound`], else the seed stalls;
//! 3. **rest**: clients stop calling; every call must end, every live learner execute everything, and all states
//!    be equal.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use crate::actors::plot::Lies;
use crate::actors::troupe::Troupe;
use crate::checkers::Violation;
use crate::plan::{CHECKPOINTS_MIN, OPERATIONS_MIN, Plan, SimOptions};
use crate::world::{Cast, Honest, World};

/// What became of one seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// The fault model.
    pub mode: String,
    /// The faults that it bears.
    pub f: usize,
    /// Things that happened.
    pub events: u64,
    /// Decrees that were delivered.
    pub decrees: u64,
    /// Operations that clients know to be committed.
    pub operations: u64,
    /// Certified checkpoints.
    pub checkpoints: u64,
    /// Virtual time. Milliseconds.
    pub virtual_ms: u64,
    /// How much of the time that it may take the progress after healing took. In 1000.
    pub recovery_per_mille: u64,
    /// Regencies above 0 that correct nodes entered.
    pub regency_changes: u64,
    /// Snapshots that learners took up from others.
    pub snapshots_installed: u64,
    /// Questions of learners that journals answered.
    pub archived: u64,
    /// How often the liars lied, by strategy.
    pub lies: BTreeMap<&'static str, Lies>,
    /// The property that was violated, and how.
    pub violation: Option<String>,
    /// What did not happen in time.
    pub stall: Option<String>,
    /// The hash of everything that happened, in hexadecimal.
    pub trace: String,
}

/// What became of a range of seeds.
#[derive(Clone, Debug, Serialize)]
pub struct SimReport {
    /// How many seeds ran.
    pub seeds: u64,
    /// Things that happened in all of them.
    pub events: u64,
    /// Seeds that violated a property.
    pub violations: u64,
    /// Seeds in which something did not happen in time.
    pub stalls: u64,
    /// Decrees per seed.
    pub decrees: Spread,
    /// Committed operations per seed.
    pub operations: Spread,
    /// Certified checkpoints per seed.
    pub checkpoints: Spread,
    /// Regencies above 0 that correct nodes entered, in all seeds.
    pub regency_changes: u64,
    /// Seeds in which the regency changed.
    pub seeds_with_regency_change: u64,
    /// The slowest progress after healing of the clean seeds: how much it took of the time that it may take. In 1000.
    pub recovery_per_mille_max: u64,
    /// How often which strategy was played, and lied.
    pub strategies: BTreeMap<&'static str, Played>,
    /// The seeds that violated or stalled, at most [`FAILURES_MAX`] of them.
    pub failures: Vec<SeedReport>,
}

/// How often a strategy was played in a range of seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Played {
    /// Seeds in which some node played it.
    pub seeds: u64,
    /// Seeds in which a lie of it was received.
    pub seeds_received: u64,
    /// Lies that were told.
    pub lies_sent: u64,
    /// Lies that a correct party took in.
    pub lies_received: u64,
}

/// Failing seeds that a report lists.
pub const FAILURES_MAX: usize = 100;

/// The smallest and the middle of many numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: u64,
    /// The middle one; of an even count the lower of the two.
    pub median: u64,
}

impl Spread {
    fn of(mut numbers: Vec<u64>) -> Spread {
        numbers.sort_unstable();
        let median = numbers
            .get(numbers.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(0);
        Spread {
            min: numbers.first().copied().unwrap_or(0),
            median,
        }
    }
}

impl SeedReport {
    /// Whether nothing was violated and nothing stalled.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violation.is_none() && self.stall.is_none()
    }
}

/// Runs one seed.
#[must_use]
pub fn run_seed(options: &SimOptions, seed: u64) -> SeedReport {
    let plan = Plan::draw(options, seed);
    if plan.actors.is_empty() {
        return run_plan(plan, seed, &Honest);
    }
    let troupe = Troupe::new(plan.actors.clone(), seed);
    run_plan(plan, seed, &troupe)
}

/// Runs one plan with a cast of its own.
#[must_use]
pub fn run_plan(plan: Plan, seed: u64, cast: &dyn Cast) -> SeedReport {
    let mut world = World::new(plan, seed, cast, false);
    let verdict = live(&mut world, &mut |_| Ok(()));
    report(&world, seed, verdict)
}

/// Runs one seed and writes what happens, line by line.
///
/// # Errors
/// When a line cannot be written.
pub fn trace(options: &SimOptions, seed: u64, out: &mut dyn Write) -> io::Result<SeedReport> {
    let plan = Plan::draw(options, seed);
    let troupe = Troupe::new(plan.actors.clone(), seed);
    trace_plan(plan, seed, &troupe, out)
}

/// Runs one plan with a cast of its own and writes what happens, line by line.
///
/// # Errors
/// When a line cannot be written.
pub fn trace_plan(
    plan: Plan,
    seed: u64,
    cast: &dyn Cast,
    out: &mut dyn Write,
) -> io::Result<SeedReport> {
    writeln!(out, "seed {seed}: {plan:#?}")?;
    let mut world = World::new(plan, seed, cast, true);
    let mut failed = None;
    let verdict = live(&mut world, &mut |world| {
        for line in world.take_lines() {
            writeln!(out, "{line}")?;
        }
        Ok(())
    });
    let verdict = match verdict {
        Err(Ended::Output(error)) => {
            failed = Some(error);
            Ok(0)
        }
        verdict => verdict,
    };
    if let Some(error) = failed {
        return Err(error);
    }
    for line in world.take_lines() {
        writeln!(out, "{line}")?;
    }
    let report = report(&world, seed, verdict);
    match (&report.violation, &report.stall) {
        (Some(what), _) => writeln!(out, "VIOLATION {what}")?,
        (None, Some(what)) => writeln!(out, "STALL {what}")?,
        (None, None) => writeln!(
            out,
            "clean: {} operations in {} decrees",
            report.operations, report.decrees
        )?,
    }
    writeln!(out, "trace {}", report.trace)?;
    Ok(report)
}

/// Runs seeds on all cores. `each` sees every report in the order of the seeds and says whether to go on.
///
/// # Panics
/// If a thread that runs seeds panics, which is a defect of the engine or the simulator.
pub fn run_range(
    options: &SimOptions,
    seeds: Range<u64>,
    each: impl FnMut(&SeedReport) -> bool,
) -> SimReport {
    run_seeds(seeds, |seed| run_seed(options, seed), each)
}

/// The same for seeds that `run` knows how to run.
///
/// # Panics
/// As [`run_range`].
pub fn run_seeds(
    seeds: Range<u64>,
    run: impl Fn(u64) -> SeedReport + Sync,
    mut each: impl FnMut(&SeedReport) -> bool,
) -> SimReport {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::sync_channel(threads * 4);
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, stop, run, end) = (sender.clone(), &next, &stop, &run, seeds.end);
            scope.spawn(move || {
                twostep_crypto::remember_signatures();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(run(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // Threads finish out of order; what the caller sees does not depend on that.
        let mut early = BTreeMap::new();
        let mut expected = seeds.start;
        for report in receiver {
            early.insert(report.seed, report);
            while let Some(report) = early.remove(&expected) {
                expected += 1;
                if !stop.load(Ordering::Relaxed) {
                    let go_on = each(&report);
                    totals.add(report);
                    stop.store(!go_on, Ordering::Relaxed);
                }
            }
        }
    });
    totals.finish()
}

#[derive(Debug, Default)]
struct Totals {
    events: u64,
    violations: u64,
    stalls: u64,
    decrees: Vec<u64>,
    operations: Vec<u64>,
    checkpoints: Vec<u64>,
    regency_changes: u64,
    seeds_with_regency_change: u64,
    recovery_per_mille_max: u64,
    strategies: BTreeMap<&'static str, Played>,
    failures: Vec<SeedReport>,
}

impl Totals {
    fn add(&mut self, report: SeedReport) {
        self.events += report.events;
        self.violations += u64::from(report.violation.is_some());
        self.stalls += u64::from(report.stall.is_some());
        self.decrees.push(report.decrees);
        self.operations.push(report.operations);
        self.checkpoints.push(report.checkpoints);
        self.regency_changes += report.regency_changes;
        self.seeds_with_regency_change += u64::from(report.regency_changes > 0);
        self.recovery_per_mille_max = self.recovery_per_mille_max.max(report.recovery_per_mille);
        for (name, lies) in &report.lies {
            let played = self.strategies.entry(name).or_default();
            played.seeds += 1;
            played.seeds_received += u64::from(lies.received > 0);
            played.lies_sent += lies.sent;
            played.lies_received += lies.received;
        }
        if !report.is_clean() && self.failures.len() < FAILURES_MAX {
            self.failures.push(report);
        }
    }

    fn finish(self) -> SimReport {
        SimReport {
            seeds: self.decrees.len() as u64,
            events: self.events,
            violations: self.violations,
            stalls: self.stalls,
            decrees: Spread::of(self.decrees),
            operations: Spread::of(self.operations),
            checkpoints: Spread::of(self.checkpoints),
            regency_changes: self.regency_changes,
            seeds_with_regency_change: self.seeds_with_regency_change,
            recovery_per_mille_max: self.recovery_per_mille_max,
            strategies: self.strategies,
            failures: self.failures,
        }
    }
}

/// How a run ends before its time.
#[derive(Debug)]
enum Ended {
    Violated(Violation),
    Stalled(String),
    Output(io::Error),
}

impl From<Violation> for Ended {
    fn from(violation: Violation) -> Ended {
        Ended::Violated(violation)
    }
}

/// In units of T0: far above what 300 operations take at 30 % loss.
const TROUBLE_T0_MAX: u32 = 20_000;

/// How much of the time that it may take the progress after healing took. In 1000.
type Recovery = u64;

/// Called after every step that a person may want to see.
type Watch<'a> = &'a mut dyn FnMut(&mut World<'_>) -> io::Result<()>;

fn live(world: &mut World<'_>, watch: Watch<'_>) -> Result<Recovery, Ended> {
    let checkpoints = CHECKPOINTS_MIN * world.plan().limits.checkpoint_every;
    let enough = |world: &World<'_>| {
        world.committed() >= OPERATIONS_MIN
            && world.certified().0 >= checkpoints
            && !world.trouble_ahead()
    };
    let limit = world.plan().tuning.t0 * TROUBLE_T0_MAX;
    phase(world, limit, watch, enough, |world| {
        format!(
            "{} operations committed, checkpoint {} certified, {} delivered",
            world.committed(),
            world.certified(),
            world.decrees()
        )
    })?;

    let settled = world.heal();
    let before = world.decrees();
    let (progress, catch_up) = (world.progress_bound(), world.catch_up_bound());
    let bound = progress + catch_up;
    let all_moved = |world: &World<'_>| {
        world
            .correct_learners()
            .iter()
            .all(|node| world.delivered_by(node) > before)
    };
    // Where nothing waits nobody retries, and only whoever is behind has still to move.
    let patience = world.plan().clients.retry_max * 2 + settled.since(world.now()) + catch_up;
    let starts =
        |world: &World<'_>| world.now() >= settled && world.work_is_known() || all_moved(world);
    phase(world, patience, watch, starts, |_| {
        "no retried request reached a correct proposer after healing".to_owned()
    })?;
    let since = world.now();
    phase(world, bound, watch, all_moved, |world| {
        let stuck = world
            .correct_learners()
            .iter()
            .filter(|node| world.delivered_by(*node) <= before);
        let stuck: Vec<String> = stuck
            .map(|node| format!("n{} at {}", node.0, world.delivered_by(node)))
            .collect();
        format!(
            "no decree above {before} after healing at {}",
            stuck.join(", ")
        )
    })?;
    let took = world.now().since(since).as_nanos();
    let recovery = u64::try_from(took * 1000 / bound.as_nanos()).expect("at most 1000");

    world.set_clients_busy(false);
    let bound = world.rest_bound();
    let at_rest = |world: &World<'_>| {
        let top = world.decrees();
        world.unresolved() == 0
            && world
                .live_learners()
                .iter()
                .all(|node| world.executed_by(node) == top)
    };
    phase(world, bound, watch, at_rest, |world| {
        let behind = world
            .live_learners()
            .iter()
            .filter(|node| world.executed_by(*node) < world.decrees());
        let behind: Vec<String> = behind
            .map(|node| format!("n{} at {}", node.0, world.executed_by(node)))
            .collect();
        format!(
            "{} calls have not ended; of {} decrees executed: {}",
            world.unresolved(),
            world.decrees(),
            behind.join(", ")
        )
    })?;
    world.compare_states()?;
    Ok(recovery)
}

fn phase(
    world: &mut World<'_>,
    lasting: Duration,
    watch: Watch<'_>,
    done: impl Fn(&World<'_>) -> bool,
    describe: impl Fn(&World<'_>) -> String,
) -> Result<(), Ended> {
    let until = world.now() + lasting;
    while !done(world) {
        if world.next_at().is_none_or(|at| at > until) {
            return Err(Ended::Stalled(format!(
                "after {lasting:?}: {}",
                describe(world)
            )));
        }
        world.step()?;
        watch(world).map_err(Ended::Output)?;
    }
    Ok(())
}

fn report(world: &World<'_>, seed: u64, verdict: Result<Recovery, Ended>) -> SeedReport {
    let recovery_per_mille = *verdict.as_ref().unwrap_or(&0);
    let (violation, stall) = match verdict {
        Ok(_) => (None, None),
        Err(Ended::Violated(violation)) => (Some(violation.to_string()), None),
        Err(Ended::Stalled(what)) => (None, Some(what)),
        Err(Ended::Output(error)) => (None, Some(error.to_string())),
    };
    SeedReport {
        seed,
        mode: world.plan().model.to_string(),
        f: world.plan().f,
        events: world.events(),
        decrees: world.decrees().0,
        operations: world.committed(),
        checkpoints: world.certified().0 / world.plan().limits.checkpoint_every,
        virtual_ms: world.now().0 / 1_000_000,
        recovery_per_mille,
        regency_changes: world.regency_changes(),
        snapshots_installed: world.installed(),
        archived: world.archived(),
        lies: world.lies(),
        violation,
        stall,
        trace: world.trace_hash(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_smallest_and_the_middle() {
        assert_eq!(Spread::of(vec![5, 1, 9]), Spread { min: 1, median: 5 });
        assert_eq!(Spread::of(vec![4, 1, 2, 3]), Spread { min: 1, median: 2 });
        assert_eq!(Spread::of(vec![]), Spread::default());
    }
}
