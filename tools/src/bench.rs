//! `twostep bench`: load on a cluster, closed loop or at a rate, and what it comes to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use twostep_bench::LoadReport;
use twostep_bench::config::StopFlag;
use twostep_engine::node::tunables::StateMachineKind;
use twostep_engine::node::{ClientFolder, NodeOptions};
use twostep_engine::quorum::FaultModel;
use twostep_tests::actors::live;

use crate::arguments::{CarrierFlags, Mode, Tunables, duration};
use crate::cluster::{LocalCluster, LocalPlan, NotReady};
use crate::compare::{Comparison, Plan};
use crate::interrupt::Interrupt;
use crate::load::{
    LoadDefaults, LoadFlags, Rate, grouped, grouped_rate, half_of, report_lines, sample_line,
};
use crate::measure::{Cost, NodeSums};

const LOAD_DEFAULTS: LoadDefaults = LoadDefaults {
    clients: 32,
    pipeline: 32,
    drain: Duration::from_secs(10),
};
/// How long the load lasts if nothing is said.
const LOAD_FOR: Duration = Duration::from_secs(10);
/// How long a slice lasts if nothing is said: long enough for thousands of lone operations, short enough that both sides
/// meet the same machine.
const SLICE: Duration = Duration::from_secs(1);
/// How long the nodes of a cluster of its own may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The flags of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// The folder of a client of a running cluster; a cluster of its own if not given
    #[arg(long, value_name = "DIR/client-K")]
    cluster: Option<PathBuf>,
    /// How long; with --floor each slice [default: 10s; 1s with --floor]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Compare with the floor: the same messages between as many processes, with no protocol, no MACs and no hashing.
    /// Slices of both alternate: a lone operation, and the load, on a cluster with a null state machine, on the floor, and
    /// on a cluster with the key-value store
    #[arg(long, conflicts_with_all = ["cluster", "misbehave", "rate"])]
    floor: bool,
    /// With --floor: how many rounds of slices
    #[arg(long, value_name = "N", default_value_t = 5, requires = "floor")]
    rounds: usize,
    /// Print the report as a last line of JSON
    #[arg(long)]
    json: bool,
    /// Of the cluster of its own: how many faulty nodes it bears
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "cluster"
    )]
    f: usize,
    /// Of the cluster of its own: which faults
    #[arg(long, value_enum, default_value_t = Mode::Fab, conflicts_with = "cluster")]
    mode: Mode,
    /// Lie as a client, as the named strategy says (an unknown name shows all); in clusters made with `testnet
    /// --allow-misbehaviour`, and in one of its own. The report is a liar's then, so nothing in it makes the command fail
    #[arg(long, value_name = "STRATEGY")]
    misbehave: Option<String>,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    carrier: CarrierFlags,
    #[command(flatten)]
    tunables: Tunables,
}

/// Makes the load and prints what it comes to; ends with status 0 if every call was executed exactly once.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    if let Some(folder) = &args.cluster {
        let cluster = ClientFolder::load(folder)?.cluster;
        if let Some(strategy) = &args.misbehave
            && !cluster.misbehaviour
        {
            bail!(
                "--misbehave {strategy}: {} does not allow it; make a cluster for it with `twostep testnet \
                 --allow-misbehaviour`, or leave --cluster out",
                cluster.path.display()
            );
        }
        let (report, lies) = under_load(args, folder, true, &interrupt)?;
        let mut own = json!({ "cluster": cluster.configuration.cluster() });
        tell_lies(args, lies, &mut own);
        return print(args, &report, &own);
    }
    let mode = FaultModel::from(args.mode);
    if args.f == 0 || args.f > 8 {
        bail!("--f {}: expected 1 to 8 on one machine", args.f);
    }
    let options = args.tunables.apply_to_all(NodeOptions::default())?;
    if args.floor {
        return compare(args, mode, &options, &interrupt);
    }
    let checked = options.state_machine == StateMachineKind::KeyValue;
    let mut cluster = start(args, mode, options, &interrupt)?;
    let before = NodeSums::of_cluster(&mut cluster)?;
    let (report, lies) = under_load(args, &cluster.client(0), checked, &interrupt)?;
    let after = NodeSums::of_cluster(&mut cluster)?;
    let cost = Cost::of_load(&report, &before, &after);
    let mut own = cost.to_json();
    describe(args, mode, &cluster, &mut own);
    tell_lies(args, lies, &mut own);
    if !args.json {
        cost.lines().iter().for_each(|line| println!("{line}"));
    }
    print(args, &report, &own)
}

/// A cluster of its own whose quorums answer.
fn start(
    args: &BenchArgs,
    mode: FaultModel,
    options: NodeOptions,
    interrupt: &Interrupt,
) -> Result<LocalCluster> {
    let plan = LocalPlan {
        mode,
        f: args.f,
        clients: 1,
        options,
        carrier: args.carrier.carrier()?,
        misbehaviour: args.misbehave.is_some(),
    };
    let mut cluster = LocalCluster::start(&plan, interrupt)?;
    match cluster.wait_ready(READY_WITHIN, |_| {})? {
        Ok(()) => Ok(cluster),
        Err(NotReady::Interrupted) => bail!("interrupted"),
        Err(NotReady::Missing(missing)) => {
            let list: Vec<String> = missing
                .iter()
                .map(|node| format!("node {}: {}", node.node, node.why))
                .collect();
            bail!("the cluster is not ready: {}", list.join("; "));
        }
    }
}

/// What was measured, as fields and, for people, as a line.
fn describe(args: &BenchArgs, mode: FaultModel, cluster: &LocalCluster, fields: &mut Value) {
    let nodes = cluster.configuration().members().len();
    fields["mode"] = json!(mode.to_string());
    fields["f"] = json!(args.f);
    fields["nodes"] = json!(nodes);
    if !args.json {
        println!(
            "mode {mode}, f = {}: {nodes} processes on this machine",
            args.f
        );
    }
}

/// The real cluster beside the floor.
fn compare(
    args: &BenchArgs,
    mode: FaultModel,
    options: &NodeOptions,
    interrupt: &Interrupt,
) -> Result<ExitCode> {
    if args.rounds == 0 {
        bail!("--rounds 0: expected at least one");
    }
    let plan = Plan {
        mode,
        f: args.f,
        options: options.clone(),
        rounds: args.rounds,
        slice: args.duration.unwrap_or(SLICE),
        quiet: args.json,
    };
    let stop = StopFlag::default();
    stop_with(interrupt, &stop)?;
    let load = |cluster: &LocalCluster| {
        let folder = cluster.client(0);
        args.load.config(&folder, None, &stop, LOAD_DEFAULTS)
    };
    let begin = |options| start(args, mode, options, interrupt);
    let comparison = Comparison::run(&plan, begin, load, interrupt)?;
    let mut fields = comparison.to_json();
    fields["mode"] = json!(mode.to_string());
    fields["f"] = json!(args.f);
    fields["nodes"] = json!(mode.acceptors(args.f));
    if !args.json {
        comparison
            .lines()
            .iter()
            .for_each(|line| println!("{line}"));
    }
    let ended = print(args, &comparison.report, &fields)?;
    Ok(if comparison.clean {
        ended
    } else {
        ExitCode::FAILURE
    })
}

fn tell_lies(args: &BenchArgs, lies: u64, own: &mut Value) {
    if let Some(strategy) = &args.misbehave {
        own["misbehaved"] = json!({ "strategy": strategy, "lies": lies });
        if !args.json {
            println!("this client lied {} times: {strategy}", grouped(lies));
        }
    }
}

/// The report, and how often the client lied.
fn under_load(
    args: &BenchArgs,
    folder: &Path,
    checked: bool,
    interrupt: &Interrupt,
) -> Result<(LoadReport, u64)> {
    let stop = StopFlag::default();
    let duration = args.duration.unwrap_or(LOAD_FOR);
    let mut config = args
        .load
        .config(folder, Some(duration), &stop, LOAD_DEFAULTS)?;
    config.checked &= checked;
    let quiet = args.json;
    stop_with(interrupt, &stop)?;
    if args.load.rate == Some(Rate::HalfPeak) {
        let mut peak = args.load.peak(folder, &stop, LOAD_DEFAULTS)?;
        peak.checked &= checked;
        let peak = twostep_bench::run(peak, |_| {})?;
        if !quiet {
            println!(
                "the peak: {} ops/s in a closed loop",
                grouped_rate(peak.ops_per_s)
            );
        }
        config.rate = Some(half_of(&peak));
    }
    let each = |sample: &twostep_bench::Sample| {
        if !quiet {
            println!("{}", sample_line(sample));
        }
    };
    let lies = Arc::new(AtomicU64::new(0));
    let voice = args.misbehave.as_deref();
    let voice = voice.map(|strategy| live::voice(strategy, &config.setup, Arc::clone(&lies)));
    let voice = voice
        .transpose()
        .map_err(|why| anyhow!("--misbehave: {why}"))?;
    let report = twostep_bench::run_as(config, voice, each)?;
    Ok((report, lies.load(Ordering::Relaxed)))
}

/// Ends the load when the user wants the end.
fn stop_with(interrupt: &Interrupt, stop: &StopFlag) -> Result<()> {
    let (interrupt, stop) = (interrupt.clone(), stop.clone());
    // Ends with the process: it only passes the user's wish on.
    thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            while !interrupt.is_raised() {
                thread::sleep(Duration::from_millis(50));
            }
            stop.stop();
        })?;
    Ok(())
}

fn print(args: &BenchArgs, report: &LoadReport, more: &Value) -> Result<ExitCode> {
    if args.json {
        let mut line = serde_json::to_value(report)?;
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        println!("{line}");
    } else {
        report_lines(report)
            .iter()
            .for_each(|line| println!("{line}"));
    }
    Ok(if report.is_clean() || args.misbehave.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
