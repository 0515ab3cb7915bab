//! `twostep chaos`: a cluster of real processes under load, and trouble drawn from a seed; everything that clients saw is judged.
//!
//! ```text
//! READY ─► load ─► ┌ trouble ─► heal ─► every worker reads what it was told ┐ ─► drain, read all ─► judge the history, compare learners
//!                  └──────────────────────── round after round ─────────────┘
//! ```
//!
//! What happens in which round is a function of the seed, so a run is repeated with `--seed`; when exactly it meets which message is
//! not. At most f nodes are ever faulty, that is lie, have disks that lose what they are told to sync, or are still away when
//! progress is demanded; all others may be killed, cut off or slowed as it pleases, until it is healed. Snapshots are frequent and logs short, so that who was away for a second needs a
//! transfer. Each wait has a bound, so the run has one. *Where*: [`troubles`] draws, [`scene`] carries out, [`verdict`] tells.

mod scene;
mod troubles;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use twostep_engine::configuration::Limits;
use twostep_engine::node::NodeOptions;
use twostep_engine::node::status::MissingNode;
use twostep_engine::node::tunables::{Durability, StartFaults, StateMachineKind, Tunable};
use twostep_engine::quorum::FaultModel;

use self::scene::Scene;
use self::troubles::Kind;
use crate::arguments::{CarrierFlags, Mode, Tunables, duration};
use crate::cluster::{LocalCluster, LocalPlan, NotReady};
use crate::interrupt::Interrupt;
use crate::screen::Screen;

/// How long the nodes may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Nodes on one machine are close to each other: half of the default.
const T0_MS: u64 = 250;
/// What is wrong with all disks if nothing else is said.
const DISK_FAULT: &str = "lose-unsynced";
/// Decrees between two snapshots: some seconds of the load.
const SNAPSHOT_EVERY: u64 = 1024;
/// Decrees that learners keep for others: less than a second of the load beyond the window.
const LOG_DECREES: usize = 512;
/// So that segments of the journal end, are pruned and removed. Bytes.
const SEGMENT_BYTES: u64 = 2 << 20;
/// How long it lasts if neither time nor rounds are said.
const LASTS: Duration = Duration::from_secs(60);
/// The most calls of a run: its history is read as a whole.
const CALLS_MAX: u64 = 5_000_000;
/// The longest that a run of a number of rounds may last.
const ROUND_TIME_MAX: Duration = Duration::from_secs(90);

/// The flags of `chaos`.
#[derive(Args)]
pub struct ChaosArgs {
    /// How long to make trouble, such as 5m [default: 60s, unless --rounds is said]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Begin with this draw; a new one if not said. The verdict tells it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End after so many rounds of trouble
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Only these troubles; all if not said
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,
    /// What is wrong with all disks all the time; `lose-unsynced` makes the end of a process a power cut. With `ignored-syncs` or
    /// `told-early` besides, nodes break their word: then something must be found, or chaos finds nothing [default: lose-unsynced]
    #[arg(long, value_name = "NAMES")]
    disk_fault: Option<String>,
    /// How many faulty nodes the cluster shall bear
    #[arg(long, value_name = "N", default_value_t = 1)]
    f: usize,
    /// Which faults
    #[arg(long, value_enum, default_value_t = Mode::Fab)]
    mode: Mode,
    /// Calls per second
    #[arg(long, value_name = "R", default_value_t = 1000)]
    rate: u64,
    /// Sessions that call independently of each other
    #[arg(long, value_name = "N", default_value_t = 12)]
    clients: u32,
    /// Keys that all of them share
    #[arg(long, value_name = "N", default_value_t = 6)]
    keys: u64,
    /// Keep the history in this new file, for `twostep check`
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Leave the cluster's folder behind if the verdict is not clean: logs, journals and the history
    #[arg(long)]
    keep: bool,
    /// Print the verdict as a last line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    carrier: CarrierFlags,
    #[command(flatten)]
    tunables: Tunables,
}

impl ChaosArgs {
    /// How long it may last at most, all in all.
    fn lasts(&self) -> Duration {
        match (self.duration, self.rounds) {
            (Some(lasts), _) => lasts,
            (None, Some(rounds)) => {
                ROUND_TIME_MAX.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
            }
            (None, None) => LASTS,
        }
    }

    fn check(&self, options: &NodeOptions) -> Result<()> {
        let mode = FaultModel::from(self.mode);
        if self.f == 0 || self.f > 8 {
            bail!("--f {}: expected 1 to 8 on one machine", self.f);
        }
        if self.rounds == Some(0) || self.clients == 0 || self.clients > 1000 || self.keys == 0 {
            bail!(
                "--rounds, --clients and --keys: expected at least one, and at most 1000 clients"
            );
        }
        if self.keys > 10_000 {
            bail!("--keys {}: expected at most 10000", self.keys);
        }
        let seconds = self
            .duration
            .or(self.rounds.is_none().then_some(LASTS))
            .map_or(0, |lasts| lasts.as_secs());
        if self.rate == 0 || self.rate > 50_000 || self.rate.saturating_mul(seconds) > CALLS_MAX {
            bail!(
                "--rate {}: expected 1 to 50000 calls per second, and at most {CALLS_MAX} calls in all",
                self.rate
            );
        }
        if options.state_machine != StateMachineKind::KeyValue {
            bail!(
                "--state-machine: the history of a key-value store can be judged, of nothing else"
            );
        }
        if options.durability == Durability::Memory && self.disk_fault.is_some() {
            bail!("--disk-fault: nodes with --durability memory have no disks");
        }
        if options.durability == Durability::Memory
            && let Some(kind) = self.only.iter().find(|kind| kind.needs_journals())
        {
            bail!(
                "--only {}: nodes that forget when they end cannot all bear it; leave --durability memory out",
                kind.name()
            );
        }
        if mode == FaultModel::Crash && self.only.contains(&Kind::Lie) {
            bail!("--only lie: mode crash bears nodes that stop, not nodes that lie");
        }
        Ok(())
    }
}

/// Makes trouble and judges; ends with status 0 if the verdict is clean.
pub fn run(args: &ChaosArgs) -> Result<ExitCode> {
    let options = options(args)?;
    args.check(&options)?;
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let interrupt = Interrupt::install()?;
    let screen = Screen::open(false);
    screen.line(&format!("seed {seed}: repeat with --seed {seed}"));
    let mode = FaultModel::from(args.mode);
    let plan = LocalPlan {
        mode,
        f: args.f,
        clients: 1,
        options: options.clone(),
        carrier: args.carrier.local_carrier()?,
        limits: Limits {
            snapshot_every: SNAPSHOT_EVERY,
            ..Limits::default()
        },
        misbehaviour: mode == FaultModel::Fab,
    };
    let mut cluster = LocalCluster::start(&plan, &interrupt)?;
    match cluster.wait_ready(READY_WITHIN, |_| {})? {
        Ok(()) => {}
        Err(NotReady::Interrupted) => bail!("interrupted before the first call"),
        Err(NotReady::Missing(missing)) => {
            bail!("the cluster is not ready: {}", in_words(&missing));
        }
    }
    let scene = Scene::new(args, seed, &options, cluster, screen, interrupt);
    let verdict = scene.play()?;
    if args.json {
        println!("{}", serde_json::to_string(&verdict)?);
    } else {
        verdict.lines().iter().for_each(|line| println!("{line}"));
    }
    Ok(if verdict.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What every node is told.
fn options(args: &ChaosArgs) -> Result<NodeOptions> {
    let mut options = args.tunables.apply_to_all(NodeOptions {
        t0_ms: T0_MS,
        faults: true,
        durability: Durability::Sync,
        log_decrees: LOG_DECREES,
        journal_segment_bytes: SEGMENT_BYTES,
        ..NodeOptions::default()
    })?;
    let said = args.disk_fault.as_deref();
    let sound = options.disk_faults == StartFaults::default();
    let usual = (sound && options.durability == Durability::Sync).then_some(DISK_FAULT);
    if let Some(names) = said.or(usual) {
        let disk = Tunable::named("disk_faults").expect("it is in the table");
        (disk.set)(&mut options, names).map_err(|what| anyhow!("--disk-fault: {what}"))?;
    }
    Ok(options)
}

/// The nodes that are missing, and why.
fn in_words(missing: &[MissingNode]) -> String {
    let list: Vec<String> = missing
        .iter()
        .map(|node| format!("node {}: {}", node.node, node.why))
        .collect();
    list.join("; ")
}

/// A seed that nobody has had before: short enough to be typed.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.as_nanos());
    u64::try_from(nanos / 1000 % 1_000_000_000).expect("nine digits")
}
