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
use twostep_bench::config::StopFlag;
use twostep_bench::{LoadConfig, LoadReport, Sample};
use twostep_engine::configuration::Limits;
use twostep_engine::node::tunables::Durability;
use twostep_engine::node::tunables::StateMachineKind;
use twostep_engine::node::{ClientFolder, NodeOptions};
use twostep_engine::quorum::FaultModel;
use twostep_tests::actors::live;

use crate::arguments::{CarrierFlags, Mode, Tunables, duration};
use crate::cluster::{LocalCluster, LocalPlan, NotReady};
use crate::compare::{Comparison, Plan};
use crate::interrupt::Interrupt;
use crate::laggard;
use crate::load::{
    LoadDefaults, LoadFlags, Rate, grouped, grouped_rate, report_lines, sample_line, share_of,
};
use crate::measure::{Cost, NodeSums, rounded};
use crate::pages;

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
/// How long --laggard measures before and after if nothing is said, and how long it waits for the laggard.
const STRETCH: Duration = Duration::from_secs(5);
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(120);
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
    /// Kill a learner of the cluster of its own, start it again when operations have gone by, and measure how it catches up under
    /// the same load; --for is how long it goes before and after [default: 5s]
    #[arg(long, conflicts_with_all = ["cluster", "misbehave", "floor", "history", "report"])]
    laggard: bool,
    /// With --laggard: how many operations go by
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        requires = "laggard"
    )]
    missed: u64,
    /// Print the report as a last line of JSON
    #[arg(long)]
    json: bool,
    /// Write a page of HTML that shows everything about the run and needs nothing else
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write what every call was and how it ended to a new file, for `twostep check`
    #[arg(long, value_name = "FILE", conflicts_with = "floor")]
    history: Option<PathBuf>,
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
        let mut own = json!({ "cluster": cluster.configuration.cluster() });
        let config = config(args, folder, true, &interrupt, &mut own)?;
        let (report, samples, lies) = under_load(args, config)?;
        tell_lies(args, lies, &mut own);
        if let Some(file) = &args.report {
            let settings = settings(args, &report, &[("cluster", folder.display().to_string())]);
            pages::write(&pages::of_load(&settings, &report, &samples, None), file)?;
        }
        return print(args, &report, &own);
    }
    let mode = FaultModel::from(args.mode);
    if args.f == 0 || args.f > 8 {
        bail!("--f {}: expected 1 to 8 on one machine", args.f);
    }
    let options = args.tunables.apply_to_all(NodeOptions {
        durability: Durability::Memory,
        ..NodeOptions::default()
    })?;
    if args.floor {
        return compare(args, mode, &options, &interrupt);
    }
    let checked = options.state_machine == StateMachineKind::KeyValue;
    let mut cluster = start(args, mode, options, &interrupt)?;
    let mut own = json!({});
    let config = config(args, &cluster.client(0), checked, &interrupt, &mut own)?;
    if args.laggard {
        return lag(args, mode, &mut cluster, config, own, &interrupt);
    }
    let before = NodeSums::of_cluster(&mut cluster)?;
    let (report, samples, lies) = under_load(args, config)?;
    let after = NodeSums::of_cluster(&mut cluster)?;
    let cost = Cost::of_load(&report, &before, &after);
    own = merged(own, &cost.to_json());
    let expected = messages_of_a_decree(mode, args.f);
    own["mode"] = json!(mode.to_string());
    own["f"] = json!(args.f);
    own["nodes"] = json!(mode.acceptors(args.f));
    own["messages_per_decree"] = json!(rounded(cost.messages_per_decree));
    own["expected_messages_per_decree"] = json!(expected);
    own["operations_per_decree"] = json!(rounded(cost.operations_per_decree));
    tell_lies(args, lies, &mut own);
    if !args.json {
        println!(
            "mode {mode}, f = {}: {} processes on this machine; {:.1} messages of the nodes per decree, {expected} by the formula",
            args.f,
            mode.acceptors(args.f),
            cost.messages_per_decree
        );
        cost.lines().iter().for_each(|line| println!("{line}"));
    }
    if let Some(file) = &args.report {
        let settings = settings(args, &report, &cluster_settings(args, mode));
        pages::write(
            &pages::of_load(&settings, &report, &samples, Some(&cost)),
            file,
        )?;
    }
    print(args, &report, &own)
}

/// Messages that the nodes send for a decree that nobody has to repeat and whose learners acknowledge it by itself:
/// the proposal to every other node, the vote of every acceptor to every other learner, an acknowledgement of every other
/// learner to the leader, and the answers of the learners (PROTOCOL.md section 3). Under load one acknowledgement stands for
/// several decrees, so fewer are measured; checkpoints, `Status` and the acknowledgements to all, eight times in T0 at
/// most, come on top.
fn messages_of_a_decree(mode: FaultModel, f: usize) -> usize {
    let (nodes, learners) = (mode.acceptors(f), mode.learners(f));
    let proposals = nodes - 1;
    let votes = nodes * learners - learners;
    let acknowledgements = learners - 1;
    proposals + votes + acknowledgements + learners
}

fn cluster_settings(args: &BenchArgs, mode: FaultModel) -> [(&'static str, String); 2] {
    let processes = format!("{} processes on this machine", mode.acceptors(args.f));
    [
        ("mode", format!("{mode}, f = {}", args.f)),
        ("cluster", processes),
    ]
}

/// What a reader has to know to take the same measurement again.
fn settings<'a>(
    args: &BenchArgs,
    report: &LoadReport,
    cluster: &[(&'a str, String)],
) -> Vec<(&'a str, String)> {
    let rate = report.rate.map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("{} calls due per second", grouped(rate)),
    );
    let cores = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let command: Vec<String> = std::env::args().skip(1).collect();
    let mut all = cluster.to_vec();
    all.extend([
        (
            "clients",
            format!(
                "{} sessions over one connection to each node, {} calls each",
                report.sessions, report.pipeline
            ),
        ),
        ("load", rate),
        ("bytes of an operation", grouped(report.op_bytes as u64)),
        (
            "bundles",
            if args.load.signed { "signed" } else { "tagged" }.to_owned(),
        ),
        ("cores", cores.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("command", format!("twostep {}", command.join(" "))),
    ]);
    all
}

fn merged(mut fields: Value, more: &Value) -> Value {
    if let (Some(fields), Some(more)) = (fields.as_object_mut(), more.as_object()) {
        fields.extend(more.clone());
    }
    fields
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
        carrier: args.carrier.local_carrier()?,
        limits: Limits::default(),
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
        carrier: args.carrier.local_carrier()?,
        rounds: args.rounds,
        slice: args.duration.unwrap_or(SLICE),
        quiet: args.json,
    };
    let stop = StopFlag::default();
    stop_with(interrupt, &stop)?;
    let load = |cluster: &LocalCluster| {
        let folder = cluster.client(0);
        let mut config = args.load.config(&folder, None, &stop, LOAD_DEFAULTS)?;
        config.tuning.driver = options.driver;
        Ok(config)
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
    if let Some(file) = &args.report {
        let mut about = cluster_settings(args, mode).to_vec();
        about.push((
            "rounds",
            format!("{} of slices of {} ms", plan.rounds, plan.slice.as_millis()),
        ));
        let settings = settings(args, &comparison.report, &about);
        pages::write(&pages::of_comparison(&settings, &comparison), file)?;
    }
    let ended = print(args, &comparison.report, &fields)?;
    Ok(if comparison.clean {
        ended
    } else {
        ExitCode::FAILURE
    })
}

/// A learner that was down catches up.
fn lag(
    args: &BenchArgs,
    mode: FaultModel,
    cluster: &mut LocalCluster,
    config: LoadConfig,
    mut fields: Value,
    interrupt: &Interrupt,
) -> Result<ExitCode> {
    let plan = laggard::Plan {
        missed: args.missed,
        stretch: args.duration.unwrap_or(STRETCH),
        patience: CATCHES_UP_WITHIN,
        quiet: args.json,
    };
    let outcome = laggard::run(&plan, cluster, config, interrupt)?;
    fields["mode"] = json!(mode.to_string());
    fields["f"] = json!(args.f);
    fields["nodes"] = json!(mode.acceptors(args.f));
    fields["laggard"] = outcome.to_json();
    if !args.json {
        outcome.lines().iter().for_each(|line| println!("{line}"));
    }
    let ended = print(args, &outcome.report, &fields)?;
    Ok(if outcome.is_clean() {
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

/// The load that the flags ask for; measures the peak first if the rate is a share of it.
fn config(
    args: &BenchArgs,
    folder: &Path,
    checked: bool,
    interrupt: &Interrupt,
    fields: &mut Value,
) -> Result<LoadConfig> {
    let stop = StopFlag::default();
    let duration = args.duration.unwrap_or(LOAD_FOR);
    let mut config = args
        .load
        .config(folder, Some(duration), &stop, LOAD_DEFAULTS)?;
    config.checked &= checked;
    config.history.clone_from(&args.history);
    config.tuning.driver = args.tunables.apply_to_all(NodeOptions::default())?.driver;
    stop_with(interrupt, &stop)?;
    if let Some(Rate::OfPeak(percent)) = args.load.rate {
        let mut peak = args.load.peak(folder, &stop, LOAD_DEFAULTS)?;
        peak.checked &= checked;
        peak.tuning = config.tuning;
        let peak = twostep_bench::run(peak, |_| {})?;
        if !args.json {
            println!(
                "the peak: {} ops/s in a closed loop",
                grouped_rate(peak.ops_per_s)
            );
        }
        fields["peak_ops_per_s"] = json!(rounded(peak.ops_per_s));
        config.rate = Some(share_of(&peak, percent));
    }
    Ok(config)
}

/// The report, its seconds, and how often the client lied.
fn under_load(args: &BenchArgs, config: LoadConfig) -> Result<(LoadReport, Vec<Sample>, u64)> {
    let mut samples = Vec::new();
    let each = |sample: &Sample| {
        samples.push(*sample);
        if !args.json {
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
    Ok((report, samples, lies.load(Ordering::Relaxed)))
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
        println!("{}", merged(serde_json::to_value(report)?, more));
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

#[cfg(test)]
mod tests {
    use super::*;
    use twostep_bench::floor::trace::{Kind, Trace};
    use twostep_engine::null::Null;

    #[test]
    fn the_formula_is_what_real_replicas_send() {
        for (mode, f) in [
            (FaultModel::Fab, 1),
            (FaultModel::Fab, 2),
            (FaultModel::Crash, 1),
        ] {
            let trace = Trace::record(mode, f, || Null, &[7; 64], 1);
            let by_nodes = trace.len() - trace.messages(Kind::Submit).count();
            assert_eq!(
                messages_of_a_decree(mode, f),
                by_nodes,
                "mode {mode}, f = {f}"
            );
        }
    }
}
