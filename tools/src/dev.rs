//! `twostep dev`: a whole cluster of processes on this machine, with load, kills at a key press, and a verdict.
//!
//! ```text
//! start ─► READY ─► load ─┬─ a line per second ─┬─► drain ─► learners at rest ─► verdict ─► nothing is left behind
//!                         └─ k, l kill, h heal ─┘
//! ```

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use twostep_bench::config::StopFlag;
use twostep_bench::{LoadError, LoadReport, Sample};
use twostep_engine::node::status::{MissingNode, NodeStatus};
use twostep_engine::node::{NodeOptions, roles_in_words};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NodeId;

use crate::arguments::{Mode, Tunables, duration};
use crate::cluster::{LocalCluster, LocalPlan, NotReady};
use crate::interrupt::Interrupt;
use crate::load::{LoadDefaults, LoadFlags, sample_line};
use crate::screen::{Key, Screen};
use crate::verdict::{Verdict, compare_learners};

/// How long the nodes may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long learners may take to come to rest.
const REST_WITHIN: Duration = Duration::from_secs(5);
/// The same after an interrupt: whoever presses Ctrl-C wants the end.
const REST_WITHIN_INTERRUPTED: Duration = Duration::from_millis(1000);
/// How often keys, children and the clock are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Nodes on one machine are close to each other: half of the default.
const T0_MS: u64 = 250;

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
    kill_at: Vec<KillAt>,
    /// Kill whoever leads after so long, such as 3s; may be given several times
    #[arg(long, value_name = "TIME", value_parser = duration)]
    kill_leader_at: Vec<Duration>,
    /// Print the verdict as a last line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    tunables: Tunables,
}

/// When to kill whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KillAt {
    after: Duration,
    whom: Whom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Node(NodeId),
    /// Who leads at that time.
    Leader,
}

fn kill_at(text: &str) -> Result<KillAt, String> {
    let wrong = || format!("expected TIME=NODE such as 3s=4, found \"{text}\"");
    let (after, node) = text.split_once('=').ok_or_else(wrong)?;
    Ok(KillAt {
        after: duration(after)?,
        whom: Whom::Node(NodeId(node.parse().map_err(|_| wrong())?)),
    })
}

impl DevArgs {
    /// The kills that the flags ask for, the first one first.
    fn kills(&self) -> VecDeque<KillAt> {
        let leaders = self.kill_leader_at.iter().map(|after| KillAt {
            after: *after,
            whom: Whom::Leader,
        });
        let mut kills: Vec<KillAt> = self.kill_at.iter().copied().chain(leaders).collect();
        kills.sort_by_key(|kill| kill.after);
        kills.into()
    }
}

/// Runs the cluster and judges it; ends with status 0 if the verdict is clean.
pub fn run(args: &DevArgs) -> Result<ExitCode> {
    let mode = FaultModel::from(args.mode);
    check(args, mode)?;
    let interrupt = Interrupt::install()?;
    let options = args.tunables.apply_to_all(NodeOptions {
        t0_ms: T0_MS,
        ..NodeOptions::default()
    })?;
    let screen = Screen::open(!args.json);
    let began = Instant::now();
    let plan = LocalPlan {
        mode,
        f: args.f,
        clients: 2,
        options,
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
        screen.line("keys: k kill a node   l kill the leader   h heal it   q quit");
    }
    let mut run = Run {
        args,
        cluster,
        screen,
        interrupt,
        killed: Vec::new(),
        ready_at,
        began: Instant::now(),
        kills: args.kills(),
        seen: Seen::default(),
    };
    let Some((load, cpu_s)) = run.under_load()? else {
        return Ok(ExitCode::SUCCESS);
    };
    let verdict = run.judge(load, ready_ms, cpu_s);
    verdict
        .lines()
        .iter()
        .for_each(|line| run.screen.line(line));
    if args.json {
        run.screen.line(&serde_json::to_string(&verdict)?);
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

fn check(args: &DevArgs, mode: FaultModel) -> Result<()> {
    if args.f == 0 || args.f > 8 {
        bail!(
            "--f {}: expected 1 to 8 on one machine ({} nodes for 8)",
            args.f,
            mode.acceptors(8)
        );
    }
    let nodes = mode.acceptors(args.f);
    let named = args.kill_at.iter().filter_map(|kill| match kill.whom {
        Whom::Node(node) => Some(node),
        Whom::Leader => None,
    });
    let mut killed: Vec<NodeId> = named.collect();
    killed.sort_unstable();
    killed.dedup();
    if let Some(node) = killed.iter().find(|node| usize::from(node.0) >= nodes) {
        bail!(
            "--kill-at: there is no node {node}, only 0 to {}",
            nodes - 1
        );
    }
    if killed.len() + args.kill_leader_at.len() > args.f || killed.len() < args.kill_at.len() {
        bail!(
            "--kill-at and --kill-leader-at: at most f = {} nodes may be down, each killed once",
            args.f
        );
    }
    Ok(())
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

/// A cluster under load.
struct Run<'a> {
    args: &'a DevArgs,
    cluster: LocalCluster,
    screen: Screen,
    interrupt: Interrupt,
    killed: Vec<u16>,
    ready_at: Instant,
    /// When the load began.
    began: Instant,
    /// The kills that the flags ask for and that are not done yet.
    kills: VecDeque<KillAt>,
    seen: Seen,
}

/// What is known of regencies and leaders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    regency: u64,
    changes: u64,
    leader: Option<NodeId>,
}

impl Seen {
    /// Whether that is a new regency.
    fn look(&mut self, regency: u64, leader: NodeId) -> bool {
        let changed = regency > self.regency;
        if regency >= self.regency {
            self.leader = Some(leader);
        }
        if changed {
            self.regency = regency;
            self.changes += 1;
        }
        changed
    }
}

impl Run<'_> {
    /// The load's report and the CPU seconds that the nodes took meanwhile; none if it was stopped before its first call.
    fn under_load(&mut self) -> Result<Option<(LoadReport, f64)>> {
        self.look();
        let cpu_before_s = self.cluster.cpu_s();
        let stop = StopFlag::default();
        let config = self.args.load.config(
            &self.cluster.client(0),
            self.args.duration,
            &stop,
            LOAD_DEFAULTS,
        )?;
        let (samples, seconds) = mpsc::channel();
        self.began = Instant::now();
        let load = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                // Whoever listened may be gone already; the report is what counts.
                twostep_bench::run(config, move |sample| {
                    let _ = samples.send(*sample);
                })
            })?;
        let watched = self.watch(&load, &seconds, &stop);
        stop.stop();
        let ended = load
            .join()
            .map_err(|_| anyhow!("the load generator panicked"))?;
        watched?;
        self.look();
        let cpu_s = self.cluster.cpu_s() - cpu_before_s;
        match ended {
            Ok(report) => Ok(Some((report, cpu_s))),
            Err(LoadError::Stopped) if self.interrupt.is_raised() => Ok(None),
            Err(error) => Err(error).context("there was no load"),
        }
    }

    fn watch(
        &mut self,
        load: &thread::JoinHandle<Result<LoadReport, LoadError>>,
        seconds: &mpsc::Receiver<Sample>,
        stop: &StopFlag,
    ) -> Result<()> {
        while !load.is_finished() {
            match self.screen.key(LOOK_EVERY) {
                Some(Key::Quit) => self.interrupt.raise(),
                Some(Key::Kill) => self.kill_one()?,
                Some(Key::KillLeader) => self.kill_leader()?,
                Some(Key::Heal) => self.heal_one()?,
                None => {}
            }
            if self.interrupt.is_raised() {
                stop.stop();
            }
            self.scheduled_kill()?;
            if self.leader_is_down() {
                self.look();
            }
            self.cluster.check_children()?;
            while let Ok(sample) = seconds.try_recv() {
                self.live_line(&sample);
            }
        }
        Ok(())
    }

    fn live_line(&mut self, sample: &Sample) {
        let statuses = self.look();
        let nodes = statuses.len();
        let learned = statuses.iter().flatten().map(|status| status.learned);
        let order = learned.max().map_or(String::new(), |learned| {
            let leader = match self.seen.leader {
                Some(leader) if self.leader_is_down() => format!("leader {leader} is down"),
                Some(leader) => format!("node {leader} leads"),
                None => "no leader".to_owned(),
            };
            let regency = self.seen.regency;
            format!("  decree {learned}  regency {regency} ({leader})")
        });
        let up = statuses.iter().flatten().count();
        self.screen.line(&format!(
            "{}  nodes {up}/{nodes}{order}",
            sample_line(sample)
        ));
    }

    /// Asks all nodes, and tells if somebody else leads now.
    fn look(&mut self) -> Vec<Option<NodeStatus>> {
        let answers = self.cluster.statuses(false);
        let statuses: Vec<_> = answers.into_iter().map(|(_, status)| status).collect();
        let highest = statuses
            .iter()
            .flatten()
            .max_by_key(|status| status.regency);
        if let Some(status) = highest
            && self.seen.look(status.regency, NodeId(status.leader))
        {
            self.screen.line(&format!(
                "regency {}: node {} leads",
                status.regency, status.leader
            ));
        }
        statuses
    }

    fn leader_is_down(&self) -> bool {
        let leader = self.seen.leader;
        leader.is_some_and(|leader| self.cluster.down().contains(&leader))
    }

    /// The next kill that the flags ask for, if it is due.
    fn scheduled_kill(&mut self) -> Result<()> {
        let elapsed = self.began.elapsed();
        let Some(kill) = self
            .kills
            .front()
            .copied()
            .filter(|kill| elapsed >= kill.after)
        else {
            return Ok(());
        };
        let node = match kill.whom {
            Whom::Node(node) => Some(node),
            Whom::Leader => {
                self.look();
                self.seen.leader
            }
        };
        // Between two leaders nobody leads: the kill waits for the next one.
        if kill.whom == Whom::Leader && (node.is_none() || self.leader_is_down()) {
            return Ok(());
        }
        self.kills.pop_front();
        node.map_or(Ok(()), |node| self.kill(node))
    }

    fn kill_leader(&mut self) -> Result<()> {
        self.look();
        match self.seen.leader {
            Some(leader) => self.kill(leader),
            None => {
                self.screen.line("nobody leads now");
                Ok(())
            }
        }
    }

    /// Kills any of the nodes that may go.
    fn kill_one(&mut self) -> Result<()> {
        let live = self.cluster.live();
        let may_go: Vec<NodeId> = live.into_iter().filter(|node| self.may_go(*node)).collect();
        // When somebody presses a key is as random as it has to be.
        let drawn = self.began.elapsed().subsec_micros() as usize % may_go.len().max(1);
        match may_go.get(drawn) {
            Some(node) => self.kill(*node),
            None => {
                self.refuse_to_kill();
                Ok(())
            }
        }
    }

    /// Whether no more than f are faulty without this one. One that came back without its disk counts among f already.
    fn may_go(&self, node: NodeId) -> bool {
        let faulty = self.cluster.faulty();
        faulty.len() < self.args.f || faulty.contains(&node)
    }

    fn refuse_to_kill(&self) {
        let faulty = self.cluster.faulty();
        let list: Vec<String> = faulty.iter().map(NodeId::to_string).collect();
        self.screen.line(&format!(
            "at most f = {} nodes may be faulty, and {} is down or abstains since it lost its disk",
            self.args.f,
            list.join(", ")
        ));
    }

    fn kill(&mut self, node: NodeId) -> Result<()> {
        if self.cluster.down().contains(&node) {
            self.screen.line(&format!("node {node} is down already"));
            return Ok(());
        }
        if !self.may_go(node) {
            self.refuse_to_kill();
            return Ok(());
        }
        self.cluster.kill(node)?;
        self.killed.push(node.0);
        let led = if self.seen.leader == Some(node) {
            ", which led"
        } else {
            ""
        };
        self.screen
            .line(&format!("killed node {node}{led} (SIGKILL)"));
        Ok(())
    }

    fn heal_one(&mut self) -> Result<()> {
        let Some(node) = self.cluster.down().first().copied() else {
            self.screen.line("every node runs");
            return Ok(());
        };
        self.cluster.heal(node)?;
        self.screen.line(&format!("node {node} runs again; abstaining: lost disk. It learns what it can still get, and counts among f"));
        Ok(())
    }

    fn judge(&mut self, load: LoadReport, ready_ms: u64, cpu_s: f64) -> Verdict {
        let patience = if self.interrupt.is_raised() {
            REST_WITHIN_INTERRUPTED
        } else {
            REST_WITHIN
        };
        let agreement = compare_learners(&mut self.cluster, patience);
        let before_load = self.began - self.ready_at;
        let before_load_us = u64::try_from(before_load.as_micros()).unwrap_or(u64::MAX);
        let configuration = self.cluster.configuration();
        #[expect(clippy::cast_precision_loss, reason = "a mean is rounded anyway")]
        let operations = load.operations.max(1) as f64;
        Verdict {
            clean: load.is_clean() && agreement.agree,
            mode: configuration.model().to_string(),
            f: configuration.f(),
            nodes: configuration.members().len(),
            ready_ms,
            cpu_us_per_op: (cpu_s * 1e6 / operations * 10.0).round() / 10.0,
            learners_agree: agreement.agree,
            agreed_decree: agreement.decree,
            learners_compared: agreement.compared,
            learners_left_out: agreement.left_out,
            longest_stall_ms: load
                .longest_pause_us
                .max(before_load_us.saturating_add(load.first_commit_us))
                / 1000,
            regency_changes: self.seen.changes,
            regency: self.seen.regency,
            killed: self.killed.clone(),
            load,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_a_time_and_a_node() {
        assert_eq!(
            kill_at("3s=4"),
            Ok(KillAt {
                after: Duration::from_secs(3),
                whom: Whom::Node(NodeId(4))
            })
        );
        assert_eq!(
            kill_at("3s").unwrap_err(),
            "expected TIME=NODE such as 3s=4, found \"3s\""
        );
        assert!(
            kill_at("3s=x")
                .unwrap_err()
                .starts_with("expected TIME=NODE")
        );
        assert!(
            kill_at("soon=4")
                .unwrap_err()
                .starts_with("expected a time")
        );
    }

    #[test]
    fn a_higher_regency_is_a_change_and_a_lower_one_is_old_news() {
        let mut seen = Seen::default();
        assert!(!seen.look(0, NodeId(0)));
        assert_eq!((seen.changes, seen.leader), (0, Some(NodeId(0))));
        assert!(seen.look(2, NodeId(2)));
        assert!(!seen.look(1, NodeId(1)));
        assert_eq!(
            seen,
            Seen {
                regency: 2,
                changes: 1,
                leader: Some(NodeId(2))
            }
        );
    }
}
