//! `twostep sim`: whole clusters in one thread, in virtual time, with seeded faults; and one seed again, line by line.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use twostep_engine::quorum::FaultModel;
use twostep_tests::actors::STRATEGIES;
use twostep_tests::actors::clients::CLIENT_STRATEGIES;
use twostep_tests::mutants::{self, MUTANTS, Mutant};
use twostep_tests::plan::{Faults, SimOptions};
use twostep_tests::runner::{SeedReport, SimReport, run_range, run_seed, trace};
use twostep_tests::topology::Topology;

use crate::arguments::Mode;
use crate::load::grouped;

/// How often progress is shown in a terminal.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The flags of `sim`.
#[derive(Args)]
pub struct SimArgs {
    /// The seeds to run, the last one not included
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..100", conflicts_with = "seed")]
    seeds: Range<u64>,
    /// Run this one seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print everything that happens in the seed, line by line
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Which faults the clusters bear; with `--faults all` drawn from the seed if not given, else fab
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How many; with `--faults all` one or two, drawn from the seed, if not given, else 1
    #[arg(long, value_name = "N")]
    f: Option<usize>,
    /// Where the roles are; drawn from the seed if not given
    #[arg(long, value_enum)]
    topology: Option<TopologyFlag>,

    /// Let the first leader stop as well, so that another proposer must take over
    #[arg(long)]
    leader_stops: bool,
    /// Whether up to that many nodes lie; in crash mode the first leader stops
    #[arg(long, value_enum, default_value_t = FaultsFlag::None)]
    faults: FaultsFlag,
    /// Let logs in memory hold next to nothing, and journals serve learners that lag
    #[arg(long)]
    archives: bool,
    /// A way to lie that some node has in every seed, as in `slow-leader`; sets `--faults all`
    #[arg(long, value_name = "NAME", value_parser = strategy)]
    strategy: Option<&'static str>,
    /// Let replicas follow a wrong rule, as in `s1-literal`, in a cluster where it does harm; ends with status 0 once a
    /// seed shows it
    #[arg(long, value_name = "NAME", value_parser = rules, default_value = "standard",
        conflicts_with_all = ["mode", "f", "topology", "leader_stops", "faults", "strategy", "archives"])]
    rules: RulesFlag,
    /// Print the report as a last line of JSON
    #[arg(long)]
    json: bool,
}

/// Which rules replicas follow.
#[derive(Clone, Copy, Debug)]
enum RulesFlag {
    /// Those of the protocol
    Standard,
    /// Wrong ones
    Wrong(&'static Mutant),
}

/// Where the roles are.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TopologyFlag {
    /// Several in a node, as a real cluster has them
    Shared,
    /// Every role on a node of its own
    Separate,
}

/// What is wrong with nodes beside stopping.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FaultsFlag {
    /// Nothing
    None,
    /// They play every strategy there is
    All,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("expected A..B such as 0..1000, found \"{text}\"");
    let (start, end) = text.split_once("..").ok_or_else(wrong)?;
    let range = start.parse().map_err(|_| wrong())?..end.parse().map_err(|_| wrong())?;
    if range.is_empty() {
        Err(format!("\"{text}\" holds no seed"))
    } else {
        Ok(range)
    }
}

fn strategy(text: &str) -> Result<&'static str, String> {
    let nodes = STRATEGIES.iter().map(|entry| entry.name);
    let clients = CLIENT_STRATEGIES.iter().map(|entry| entry.name);
    let names: Vec<&'static str> = nodes.chain(clients).collect();
    let found = names.iter().find(|name| **name == text).copied();
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn rules(text: &str) -> Result<RulesFlag, String> {
    if text == "standard" {
        return Ok(RulesFlag::Standard);
    }
    let names = || MUTANTS.map(|mutant| mutant.name).join(", ");
    mutants::by_name(text)
        .map(RulesFlag::Wrong)
        .ok_or_else(|| format!("expected standard or one of {}", names()))
}

/// Runs the seeds; ends with status 0 if nothing was violated and nothing stalled. With wrong rules, if something was
/// violated.
pub fn run(args: &SimArgs) -> Result<ExitCode> {
    if let RulesFlag::Wrong(mutant) = args.rules {
        return hunt(args, mutant);
    }
    if let Some(f) = args.f.filter(|f| !(1..=8).contains(f)) {
        bail!("--f {f}: expected 1 to 8");
    }
    if args.strategy.is_some() && args.mode.map(FaultModel::from) == Some(FaultModel::Crash) {
        bail!("--strategy: nodes lie in mode fab only");
    }
    let options = SimOptions {
        model: args.mode.map(FaultModel::from),
        f: args.f,
        topology: args.topology.map(|topology| match topology {
            TopologyFlag::Shared => Topology::Shared,
            TopologyFlag::Separate => Topology::Separate,
        }),
        leader_stops: args.leader_stops,
        faults: match args.faults {
            FaultsFlag::None if args.strategy.is_none() => Faults::None,
            _ => Faults::All,
        },
        strategy: args.strategy,
        archives: args.archives,
    };
    match args.seed {
        Some(seed) => one(args, &options, seed),
        None => many(args, &options),
    }
}

fn one(args: &SimArgs, options: &SimOptions, seed: u64) -> Result<ExitCode> {
    let report = if args.trace {
        let mut out = BufWriter::new(io::stdout().lock());
        let report = match trace(options, seed, &mut out) {
            // `| head` has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            report => report?,
        };
        out.flush()?;
        report
    } else {
        run_seed(options, seed)
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", seed_line(args, &report));
    }
    Ok(status(report.is_clean()))
}

/// Looks for a seed in which a wrong rule does harm.
fn hunt(args: &SimArgs, mutant: &Mutant) -> Result<ExitCode> {
    if let (Some(seed), true) = (args.seed, args.trace) {
        let mut out = BufWriter::new(io::stdout().lock());
        return match mutant.trace(seed, &mut out) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            // `| head` has seen enough.
            Err(_) => Ok(ExitCode::SUCCESS),
            Ok(report) => {
                out.flush()?;
                Ok(status(report.violation.is_some()))
            }
        };
    }
    let seeds = args
        .seed
        .map_or_else(|| args.seeds.clone(), |seed| seed..seed + 1);
    let mut tried = 0_u64;
    let found = mutant.hunt(seeds, || tried += 1);
    let (name, what) = (
        mutant.name,
        found.as_ref().and_then(|report| report.violation.as_ref()),
    );
    if args.json {
        let seed = found.as_ref().map(|report| report.seed);
        println!(
            "{}",
            json!({ "rules": name, "seeds": tried, "found": seed, "what": what })
        );
    } else if let (Some(report), Some(what)) = (&found, what) {
        let seed = report.seed;
        println!("found: seed {seed}: {what}");
        println!("  see it: twostep sim --rules {name} --seed {seed} --trace");
    } else {
        println!(
            "{name} was not found in {} seeds: more can be given with --seeds",
            grouped(tried)
        );
    }
    Ok(status(found.is_some()))
}

fn many(args: &SimArgs, options: &SimOptions) -> Result<ExitCode> {
    let began = Instant::now();
    let shows_progress = io::stderr().is_terminal();
    let (mut shown_at, mut done) = (began, 0_u64);
    let report = run_range(options, args.seeds.clone(), |seed| {
        done += 1;
        if !seed.is_clean() {
            println!("{}", seed_line(args, seed));
        }
        if shows_progress && shown_at.elapsed() >= PROGRESS_EVERY {
            shown_at = Instant::now();
            eprint!(
                "\r{} of {} seeds",
                grouped(done),
                grouped(args.seeds.end - args.seeds.start)
            );
        }
        true
    });
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    if args.json {
        let mut line = serde_json::to_value(&report)?;
        if let Some(line) = line.as_object_mut() {
            let drawn = options.faults == Faults::All;
            let mode = match options.model {
                None if drawn => "drawn".to_owned(),
                model => model.unwrap_or(FaultModel::Fab).to_string(),
            };
            let f = match options.f {
                None if drawn => json!("drawn"),
                f => json!(f.unwrap_or(1)),
            };
            line.insert("mode".to_owned(), json!(mode));
            line.insert("f".to_owned(), f);
        }
        println!("{line}");
    } else {
        print_report(&report, began.elapsed());
    }
    Ok(status(report.violations == 0 && report.stalls == 0))
}

fn print_report(report: &SimReport, took: Duration) {
    println!(
        "{} seeds, {} events in {:.1} s: {} violations, {} stalls",
        grouped(report.seeds),
        grouped(report.events),
        took.as_secs_f64(),
        report.violations,
        report.stalls
    );
    println!(
        "per seed, least and median: decrees {} and {}, operations {} and {}, checkpoints {} and {}",
        report.decrees.min,
        report.decrees.median,
        report.operations.min,
        report.operations.median,
        report.checkpoints.min,
        report.checkpoints.median
    );
}

fn seed_line(args: &SimArgs, report: &SeedReport) -> String {
    let what = match (&report.violation, &report.stall) {
        (Some(violation), _) => format!("VIOLATION: {violation}"),
        (None, Some(stall)) => format!("STALL: {stall}"),
        (None, None) => format!(
            "clean, {} decrees, {} operations, {} checkpoints in {} ms of virtual time, trace {}",
            report.decrees, report.operations, report.checkpoints, report.virtual_ms, report.trace
        ),
    };
    let hint = if report.is_clean() || args.trace {
        String::new()
    } else {
        let faults = match (args.strategy, args.faults) {
            (Some(strategy), _) => format!(" --strategy {strategy}"),
            (None, FaultsFlag::None) => String::new(),
            (None, FaultsFlag::All) => " --faults all".to_owned(),
        };
        // What was drawn is drawn again.
        let mode = args.mode.map_or(String::new(), |mode| {
            format!(" --mode {}", FaultModel::from(mode))
        });
        let f = args.f.map_or(String::new(), |f| format!(" --f {f}"));
        let topology = match args.topology {
            Some(TopologyFlag::Shared) => " --topology shared",
            Some(TopologyFlag::Separate) => " --topology separate",
            None => "",
        };
        format!(
            "\n  see it: twostep sim{mode}{f}{topology}{faults} --seed {} --trace",
            report.seed
        )
    };
    format!(
        "seed {} ({}, f = {}): {what}{hint}",
        report.seed, report.mode, report.f
    )
}

fn status(clean: bool) -> ExitCode {
    if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_known_by_their_names() {
        assert!(matches!(rules("standard"), Ok(RulesFlag::Standard)));
        for mutant in &MUTANTS {
            assert!(
                matches!(rules(mutant.name), Ok(RulesFlag::Wrong(found)) if found.name == mutant.name)
            );
        }
        assert!(
            rules("s1")
                .unwrap_err()
                .starts_with("expected standard or one of s1-literal, ")
        );
    }

    #[test]
    fn seeds_are_a_range() {
        assert_eq!(seeds("0..10"), Ok(0..10));
        assert_eq!(seeds("3..3").unwrap_err(), "\"3..3\" holds no seed");
        assert_eq!(
            seeds("10").unwrap_err(),
            "expected A..B such as 0..1000, found \"10\""
        );
        assert!(seeds("0..=4").unwrap_err().starts_with("expected A..B"));
    }
}
