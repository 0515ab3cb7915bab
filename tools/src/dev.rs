//! `twostep dev`: a whole cluster of processes on this machine, with load, faults and lies at a key press, and a verdict.
//!
//! ```text
//! start ─► READY ─► load ─┬─ a line per second ──────┬─► drain ─► learners at rest ─► verdict ─► nothing is left behind
//!                         └─ keys and set times: ────┘
//!                            kill, lie, part, heal
//! ```

mod deeds;
mod scene;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use twostep_engine::configuration::{Limits, Roles};
use twostep_engine::node::status::MissingNode;
use twostep_engine::node::tunables::Durability;
use twostep_engine::node::{NodeOptions, roles_in_words, testnet};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NodeId;

use self::deeds::{Deed, Lie, Timed, Whom, kill_at, lie, schedule};
use self::scene::Scene;
use crate::arguments::{CarrierFlags, Mode, Tunables, duration};
use crate::cluster::{LocalCluster, LocalPlan, NotReady};
use crate::interrupt::Interrupt;
use crate::load::{LoadDefaults, LoadFlags};
use crate::screen::Screen;

/// How long the nodes may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Nodes on one machine are close to each other: half of the default.
const T0_MS: u64 = 250;

/// What single keys do.
const KEYS: &str = "keys: k kill the leader   n kill any node   e the leader equivocates   l an acceptor votes twice\n      \
                    p part the nodes in two   h heal everything   q quit";

const LOAD_DEFAULTS: LoadDefaults = LoadDefaults {
    clients: 16,
    pipeline: 4,
    drain: Duration::from_secs(2),
};

/// The flags of `dev`.
#[derive(Args)]
pub struct DevArgs {
    /// How many faulty nodes the cluster shall bear
    #[arg(long, value_name = "N", default_value_t = 1)]
    f: usize,
    /// Which faults
    #[arg(long, value_enum, default_value_t = Mode::Fab)]
    mode: Mode,
    /// End after so long, such as 10s; until `q` or Ctrl-C if not given
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Kill a node after so long, such as 3s=4; may be given several times
    #[arg(long, value_name = "TIME=NODE", value_parser = kill_at)]
    kill_at: Vec<Timed>,
    /// Kill whoever leads after so long, such as 3s; may be given several times
    #[arg(long, value_name = "TIME", value_parser = duration)]
    kill_leader_at: Vec<Duration>,
    /// Let a node lie; the one that fits if none is named: the leader for lies of leaders. May be given several times.
    /// An unknown name shows all strategies
    #[arg(long, value_name = "STRATEGY[@NODE]", value_parser = lie)]
    misbehave: Vec<Lie>,
    /// When it begins to lie, such as 3s; with the load if not given
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "misbehave")]
    misbehave_at: Option<Duration>,
    /// Cut all links between two halves of the nodes after so long, such as 3s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    partition_at: Option<Duration>,
    /// Make all links whole and end all lies after so long, such as 5s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    heal_at: Option<Duration>,
    /// Print the verdict as a last line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    carrier: CarrierFlags,
    #[command(flatten)]
    tunables: Tunables,
}

impl DevArgs {
    /// What the flags ask for in a cluster of these nodes, in order.
    fn deeds(&self, nodes: &[(NodeId, Roles)]) -> Result<VecDeque<Timed>> {
        let mut deeds = self.kill_at.clone();
        let mut add = |after: Duration, deed: Deed| deeds.push(Timed { after, deed });
        for after in &self.kill_leader_at {
            add(*after, Deed::Kill(Whom::Leader));
        }
        for lie in &self.misbehave {
            add(self.misbehave_at.unwrap_or_default(), lie.resolve(nodes)?);
        }
        if let Some(after) = self.partition_at {
            add(after, Deed::Partition);
        }
        if let Some(after) = self.heal_at {
            add(after, Deed::Heal);
        }
        schedule(deeds, nodes.len(), self.f)
    }
}

/// Runs the cluster and judges it; ends with status 0 if the verdict is clean.
pub fn run(args: &DevArgs) -> Result<ExitCode> {
    let mode = FaultModel::from(args.mode);
    let deeds = check(args, mode)?;
    let interrupt = Interrupt::install()?;
    let options = args.tunables.apply_to_all(NodeOptions {
        t0_ms: T0_MS,
        faults: true,
        durability: Durability::Memory,
        ..NodeOptions::default()
    })?;
    let screen = Screen::open(!args.json);
    let began = Instant::now();
    let plan = LocalPlan {
        mode,
        f: args.f,
        clients: 2,
        options,
        carrier: args.carrier.local_carrier()?,
        limits: Limits::default(),
        misbehaviour: true,
    };
    let mut cluster = match LocalCluster::start(&plan, &interrupt) {
        Err(_) if interrupt.is_raised() => return Ok(ExitCode::SUCCESS),
        started => started?,
    };
    describe(&screen, &cluster, mode, args.f);
    let waiting = |missing: &[MissingNode]| {
        missing_lines("waiting for", missing)
            .iter()
            .for_each(|line| screen.line(line));
    };
    match cluster.wait_ready(READY_WITHIN, waiting)? {
        Ok(()) => {}
        Err(NotReady::Interrupted) => return Ok(ExitCode::SUCCESS),
        Err(NotReady::Missing(missing)) => {
            missing_lines("missing", &missing)
                .iter()
                .for_each(|line| screen.line(line));
            bail!(
                "not ready after {} s; the nodes above are missing",
                READY_WITHIN.as_secs()
            );
        }
    }
    let ready_at = Instant::now();
    let ready_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    screen.line(&format!("READY after {ready_ms} ms: every quorum answers"));
    screen.line(&format!(
        "try: twostep client put hello world --cluster {}",
        cluster.client(1).display()
    ));
    if screen.has_keys() {
        screen.line(KEYS);
    }
    let mut scene = Scene::new(args, cluster, screen, interrupt, deeds, ready_at);
    let Some(load) = scene.play()? else {
        return Ok(ExitCode::SUCCESS);
    };
    let verdict = scene.judge(load, ready_ms);
    verdict
        .lines()
        .iter()
        .for_each(|line| scene.screen.line(line));
    if args.json {
        scene.screen.line(&serde_json::to_string(&verdict)?);
    }
    Ok(if verdict.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn missing_lines(what: &str, missing: &[MissingNode]) -> Vec<String> {
    missing
        .iter()
        .map(|node| format!("{what} node {}: {}", node.node, node.why))
        .collect()
}

/// Checks the flags against each other; what they ask for, in order.
fn check(args: &DevArgs, mode: FaultModel) -> Result<VecDeque<Timed>> {
    if args.f == 0 || args.f > 8 {
        bail!(
            "--f {}: expected 1 to 8 on one machine ({} nodes for 8)",
            args.f,
            mode.acceptors(8)
        );
    }
    if mode == FaultModel::Crash && !args.misbehave.is_empty() {
        bail!(
            "--misbehave: mode crash bears nodes that stop, not nodes that lie; leave --mode out"
        );
    }
    let nodes = testnet::nodes_of(mode, args.f);
    let roles = (0..nodes).map(|node| {
        let id = NodeId(u16::try_from(node).expect("at most 128 nodes"));
        (id, testnet::roles_of(mode, args.f, node))
    });
    args.deeds(&roles.collect::<Vec<_>>())
}

fn describe(screen: &Screen, cluster: &LocalCluster, mode: FaultModel, f: usize) {
    let configuration = cluster.configuration();
    let nodes = configuration.members().len();
    screen.line(&format!("a cluster of {nodes} processes in mode {mode} that bears f = {f} faulty nodes; key-value store, memory only"));
    screen.line(&format!(
        "folder {} (goes when this ends)",
        cluster.folder().display()
    ));
    for (node, pid, address) in cluster.processes() {
        let roles = configuration
            .member(node)
            .map(|member| member.roles)
            .unwrap_or_default();
        screen.line(&format!(
            "node {node}  {address}  process {pid}  {}",
            roles_in_words(roles)
        ));
    }
}
