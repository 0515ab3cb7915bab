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
use twostep_engine::node::{ClientFolder, NodeOptions};
use twostep_engine::quorum::FaultModel;
use twostep_tests::actors::live;

use crate::arguments::{Mode, Tunables, duration};
use crate::cluster::{LocalCluster, LocalPlan, NotReady};
use crate::interrupt::Interrupt;
use crate::load::{
    LoadDefaults, LoadFlags, Rate, grouped, grouped_rate, half_of, report_lines, sample_line,
};

const LOAD_DEFAULTS: LoadDefaults = LoadDefaults {
    clients: 32,
    pipeline: 32,
    drain: Duration::from_secs(10),
};
/// How long the nodes of a cluster of its own may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The flags of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// The folder of a client of a running cluster; a cluster of its own if not given
    #[arg(long, value_name = "DIR/client-K")]
    cluster: Option<PathBuf>,
    /// How long
    #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "10s")]
    duration: Duration,
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
        let (report, lies) = under_load(args, folder, &interrupt)?;
        let mut own = json!({ "cluster": cluster.configuration.cluster() });
        tell_lies(args, lies, &mut own);
        return print(args, &report, &own);
    }
    let mode = FaultModel::from(args.mode);
    if args.f == 0 || args.f > 8 {
        bail!("--f {}: expected 1 to 8 on one machine", args.f);
    }
    let options = args.tunables.apply_to_all(NodeOptions::default())?;
    let mut cluster = LocalCluster::start(
        &LocalPlan {
            mode,
            f: args.f,
            clients: 1,
            options,
            misbehaviour: args.misbehave.is_some(),
        },
        &interrupt,
    )?;
    match cluster.wait_ready(READY_WITHIN, |_| {})? {
        Ok(()) => {}
        Err(NotReady::Interrupted) => bail!("interrupted"),
        Err(NotReady::Missing(missing)) => {
            let list: Vec<String> = missing
                .iter()
                .map(|node| format!("node {}: {}", node.node, node.why))
                .collect();
            bail!("the cluster is not ready: {}", list.join("; "));
        }
    }
    cluster.statuses(false);
    let cpu_before_s = cluster.cpu_s();
    let (report, lies) = under_load(args, &cluster.client(0), &interrupt)?;
    cluster.statuses(false);
    #[expect(clippy::cast_precision_loss, reason = "a mean is rounded anyway")]
    let operations = report.operations.max(1) as f64;
    let cpu_us_per_op = ((cluster.cpu_s() - cpu_before_s) * 1e7 / operations).round() / 10.0;
    let nodes = cluster.configuration().members().len();
    let mut own = json!({ "mode": mode.to_string(), "f": args.f, "nodes": nodes, "cpu_us_per_op": cpu_us_per_op });
    tell_lies(args, lies, &mut own);
    if !args.json {
        println!(
            "mode {mode}, f = {}: {nodes} processes on this machine, {cpu_us_per_op} µs of CPU per operation in all of them together",
            args.f
        );
    }
    print(args, &report, &own)
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
fn under_load(args: &BenchArgs, folder: &Path, interrupt: &Interrupt) -> Result<(LoadReport, u64)> {
    let stop = StopFlag::default();
    let mut config = args
        .load
        .config(folder, Some(args.duration), &stop, LOAD_DEFAULTS)?;
    let (quiet, interrupt) = (args.json, interrupt.clone());
    let stopper = stop.clone();
    // Ends with the process: it only passes the user's wish on.
    thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            while !interrupt.is_raised() {
                thread::sleep(Duration::from_millis(50));
            }
            stopper.stop();
        })?;
    if args.load.rate == Some(Rate::HalfPeak) {
        let peak = args.load.peak(folder, &stop, LOAD_DEFAULTS)?;
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
