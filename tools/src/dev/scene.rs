//! A cluster under load: what is done to it, what is seen of it, and what it comes to.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use twostep_bench::config::StopFlag;
use twostep_bench::{LoadConfig, LoadError, LoadReport, Sample};
use twostep_engine::node::NodeOptions;
use twostep_engine::node::status::NodeStatus;
use twostep_engine::types::NodeId;

use super::deeds::{Deed, Timed, Whom};
use super::{DevArgs, LOAD_DEFAULTS};
use crate::cluster::LocalCluster;
use crate::interrupt::Interrupt;
use crate::load::{Rate, grouped, grouped_rate, sample_line, share_of};
use crate::screen::{Key, Screen};
use crate::verdict::{Course, Misbehaved, NodeCost, Verdict, compare_learners};

/// How long learners may take to come to rest.
const REST_WITHIN: Duration = Duration::from_secs(5);
/// The same after an interrupt: whoever presses Ctrl-C wants the end.
const REST_WITHIN_INTERRUPTED: Duration = Duration::from_millis(1000);
/// How often keys, children and the clock are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A cluster, what watches it, and what is still to be done to it.
pub struct Scene<'a> {
    /// The flags.
    pub args: &'a DevArgs,
    /// The cluster.
    pub cluster: LocalCluster,
    /// Where lines go.
    pub screen: Screen,
    /// Whether the user wants the end.
    pub interrupt: Interrupt,
    /// What the flags ask for and is not done yet.
    pub deeds: VecDeque<Timed>,
    /// What has happened.
    pub course: Course,
    /// When every quorum answered, or something committed last: a stall counts from there.
    pub quiet_since: Instant,
    /// When the load began.
    began: Instant,
    seen: Seen,
    parted: bool,
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

/// How a load is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Only to see how much the cluster can.
    Peak,
    /// With everything that is done to it.
    Show,
}

impl<'a> Scene<'a> {
    /// A cluster that is ready since `ready_at`.
    pub fn new(
        args: &'a DevArgs,
        cluster: LocalCluster,
        screen: Screen,
        interrupt: Interrupt,
        deeds: VecDeque<Timed>,
        ready_at: Instant,
    ) -> Scene<'a> {
        Scene {
            args,
            cluster,
            screen,
            interrupt,
            deeds,
            course: Course::default(),
            quiet_since: ready_at,
            began: ready_at,
            seen: Seen::default(),
            parted: false,
        }
    }

    /// Makes the load and does everything that is to be done meanwhile. None if it was stopped before its first call.
    pub fn play(&mut self) -> Result<Option<LoadReport>> {
        self.look();
        let stop = StopFlag::default();
        let (load, folder) = (&self.args.load, self.cluster.client(0));
        let mut config = load.config(&folder, self.args.duration, &stop, LOAD_DEFAULTS)?;
        let own = self.args.tunables.apply_to_all(NodeOptions::default())?;
        config.tuning.driver = own.driver;
        // Who does something at a set time wants to see what it costs: calls that are due whatever happens.
        let rate = load.rate.or((!self.deeds.is_empty()).then_some(Rate::HALF));
        if let Some(Rate::OfPeak(percent)) = rate {
            let peak = load.peak(&folder, &stop, LOAD_DEFAULTS)?;
            let Some(peak) = self.under_load(Phase::Peak, peak, &stop)? else {
                return Ok(None);
            };
            let half = share_of(&peak, percent);
            self.screen.line(&format!(
                "the peak is {} ops/s; from now on {} calls are due per second",
                grouped_rate(peak.ops_per_s),
                grouped(half)
            ));
            self.course.peak_ops_per_s = Some(peak.ops_per_s);
            self.course.other_errors += u64::from(!peak.is_clean());
            config.rate = Some(half);
        }
        self.look();
        self.course.cpu_before_s = self.cluster.cpu_s();
        self.course.costs = self.costs();
        let report = self.under_load(Phase::Show, config, &stop)?;
        self.look();
        Ok(report)
    }

    fn under_load(
        &mut self,
        phase: Phase,
        config: LoadConfig,
        stop: &StopFlag,
    ) -> Result<Option<LoadReport>> {
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
        let watched = self.watch(phase, &load, &seconds, stop);
        if watched.is_err() {
            stop.stop();
        }
        let ended = load
            .join()
            .map_err(|_| anyhow!("the load generator panicked"))?;
        watched?;
        match ended {
            Ok(report) => {
                let before_us = u64::try_from((self.began - self.quiet_since).as_micros());
                let first_us = before_us
                    .unwrap_or(u64::MAX)
                    .saturating_add(report.first_commit_us);
                self.course
                    .stalled_us(first_us.max(report.longest_pause_us));
                self.quiet_since = Instant::now();
                Ok(Some(report))
            }
            Err(LoadError::Stopped) if self.interrupt.is_raised() => Ok(None),
            Err(error) => Err(error).context("there was no load"),
        }
    }

    fn watch(
        &mut self,
        phase: Phase,
        load: &thread::JoinHandle<Result<LoadReport, LoadError>>,
        seconds: &mpsc::Receiver<Sample>,
        stop: &StopFlag,
    ) -> Result<()> {
        while !load.is_finished() {
            if let Some(key) = self.screen.key(LOOK_EVERY) {
                self.pressed(key)?;
            }
            if self.interrupt.is_raised() {
                stop.stop();
            }
            if phase == Phase::Show {
                self.do_what_is_due()?;
            }
            if self.leader_is_gone() {
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
                Some(leader) if self.cluster.down().contains(&leader) => {
                    format!("leader {leader} is down")
                }
                Some(leader) => format!("node {leader} leads"),
                None => "no leader".to_owned(),
            };
            let regency = self.seen.regency;
            format!("  decree {learned}  regency {regency} ({leader})")
        });
        let up = statuses.iter().flatten().count();
        let lies: Vec<String> = statuses
            .iter()
            .flatten()
            .filter_map(|status| {
                let lying = status.misbehaviour.as_ref()?;
                let strategy = lying.strategy.as_ref()?;
                Some(format!(
                    "  node {} lies: {strategy}, {} times",
                    status.node, lying.lies
                ))
            })
            .collect();
        let parted = if self.parted { "  PARTITION" } else { "" };
        let diverged = statuses
            .iter()
            .flatten()
            .any(|status| status.diverged.is_some());
        let clean = sample.errors == 0 && !diverged;
        let so_far = if clean { "clean so far" } else { "NOT CLEAN" };
        self.screen.line(&format!(
            "{}  nodes {up}/{nodes}{order}{}{parted}  {so_far}",
            sample_line(sample),
            lies.concat()
        ));
    }

    /// Asks all nodes, and tells if somebody else leads now.
    fn look(&mut self) -> Vec<Option<NodeStatus>> {
        let answers = self.cluster.statuses(false);
        let liars = self.cluster.liars();
        // Who lies may lie about this as well.
        let truthful = answers
            .iter()
            .filter(|(node, _)| liars.iter().all(|(liar, _)| liar != node));
        let highest = truthful
            .filter_map(|(_, status)| status.as_ref())
            .max_by_key(|status| status.regency);
        if let Some(status) = highest
            && self.seen.look(status.regency, NodeId(status.leader))
        {
            self.screen.line(&format!(
                "regency {}: node {} leads",
                status.regency, status.leader
            ));
        }
        answers.into_iter().map(|(_, status)| status).collect()
    }

    /// Whether the leader that was seen last is down or lies: then the next one is awaited.
    fn leader_is_gone(&self) -> bool {
        let leader = self.seen.leader;
        leader.is_some_and(|leader| self.cluster.faulty().contains(&leader))
    }

    fn pressed(&mut self, key: Key) -> Result<()> {
        match key {
            Key::Quit => self.interrupt.raise(),
            Key::KillLeader => self.key_deed(|leader| Deed::Kill(Whom::Node(leader)))?,
            Key::Equivocate => self.key_deed(|leader| {
                Deed::Misbehave("equivocating-leader".to_owned(), Whom::Node(leader))
            })?,
            Key::KillNode => match self.any_node() {
                Some(node) => self.kill(node)?,
                None => self.refuse(),
            },
            Key::VoteTwice => {
                let acceptors = self.cluster.configuration().acceptors();
                let last = acceptors.iter().filter(|node| self.may_fail(*node)).last();
                match last {
                    Some(node) => self.misbehave("double-voter", node)?,
                    None => self.refuse(),
                }
            }
            Key::Partition => self.partition()?,
            Key::Heal => self.heal()?,
        }
        Ok(())
    }

    /// Does something to whoever leads now.
    fn key_deed(&mut self, deed: impl FnOnce(NodeId) -> Deed) -> Result<()> {
        self.look();
        match self.seen.leader {
            Some(leader) => self.act(&deed(leader)).map(|_| ()),
            None => {
                self.screen.line("nobody leads now");
                Ok(())
            }
        }
    }

    /// The next deed that the flags ask for, if it is due.
    fn do_what_is_due(&mut self) -> Result<()> {
        let elapsed = self.began.elapsed();
        let due = |timed: &&Timed| elapsed >= timed.after;
        if let Some(timed) = self.deeds.front().filter(due).cloned()
            && self.act(&timed.deed)?
        {
            self.deeds.pop_front();
        }
        Ok(())
    }

    /// False if it has to wait: between two leaders nobody leads.
    fn act(&mut self, deed: &Deed) -> Result<bool> {
        let node = |scene: &mut Scene<'_>, whom: &Whom| match whom {
            Whom::Node(node) => Some(*node),
            Whom::Leader => {
                scene.look();
                scene.seen.leader.filter(|_| !scene.leader_is_gone())
            }
        };
        match deed {
            Deed::Kill(whom) => match node(self, whom) {
                Some(node) => self.kill(node)?,
                None => return Ok(false),
            },
            Deed::Misbehave(strategy, whom) => match node(self, whom) {
                Some(node) => self.misbehave(strategy, node)?,
                None => return Ok(false),
            },
            Deed::Partition => self.partition()?,
            Deed::Heal => self.heal()?,
        }
        Ok(true)
    }

    /// One of the nodes that may fail.
    fn any_node(&self) -> Option<NodeId> {
        let live = self.cluster.live();
        let may_go: Vec<NodeId> = live
            .into_iter()
            .filter(|node| self.may_fail(*node))
            .collect();
        // When somebody presses a key is as random as it has to be.
        let drawn = self.began.elapsed().subsec_micros() as usize % may_go.len().max(1);
        may_go.get(drawn).copied()
    }

    /// Whether no more than f are faulty with this one. One that came back without its disk counts among f already.
    fn may_fail(&self, node: NodeId) -> bool {
        let faulty = self.cluster.faulty();
        faulty.len() < self.args.f || faulty.contains(&node)
    }

    fn refuse(&self) {
        let faulty = self.cluster.faulty();
        let list: Vec<String> = faulty.iter().map(NodeId::to_string).collect();
        self.screen.line(&format!(
            "at most f = {} nodes may be faulty, and {} is down, lied, or abstains since it lost its disk",
            self.args.f,
            list.join(", ")
        ));
    }

    fn led(&self, node: NodeId) -> &'static str {
        if self.seen.leader == Some(node) {
            ", which leads,"
        } else {
            ""
        }
    }

    fn kill(&mut self, node: NodeId) -> Result<()> {
        if self.cluster.down().contains(&node) {
            self.screen.line(&format!("node {node} is down already"));
            return Ok(());
        }
        if !self.may_fail(node) {
            self.refuse();
            return Ok(());
        }
        let led = self.led(node);
        self.cluster.kill(node)?;
        self.course.killed.push(node.0);
        self.screen
            .line(&format!("node {node}{led} is killed (SIGKILL)"));
        Ok(())
    }

    fn misbehave(&mut self, strategy: &str, node: NodeId) -> Result<()> {
        if self.cluster.down().contains(&node) {
            self.screen.line(&format!("node {node} is down"));
            return Ok(());
        }
        if !self.may_fail(node) {
            self.refuse();
            return Ok(());
        }
        let led = self.led(node);
        self.cluster.misbehave(node, strategy)?;
        self.screen
            .line(&format!("node {node}{led} lies from now on: {strategy}"));
        Ok(())
    }

    fn partition(&mut self) -> Result<()> {
        let nodes: Vec<NodeId> = self.cluster.configuration().nodes().iter().collect();
        let (one, other) = nodes.split_at(nodes.len() / 2);
        self.cluster.partition(one)?;
        self.parted = true;
        let list = |side: &[NodeId]| {
            let list: Vec<String> = side.iter().map(NodeId::to_string).collect();
            list.join(", ")
        };
        let acceptors = self.cluster.configuration().acceptors();
        let most = [one, other].map(|side| {
            side.iter()
                .filter(|node| acceptors.contains(**node))
                .count()
        });
        let quorum = self.cluster.configuration().quorums().learn;
        let stands = if most.iter().all(|count| *count < quorum) {
            format!(
                "no half has the {quorum} acceptors that decide, so the order stands still until it is healed"
            )
        } else {
            format!("the half with {quorum} acceptors goes on")
        };
        self.screen.line(&format!(
            "nodes {} and {} do not hear each other any more; {stands}",
            list(one),
            list(other)
        ));
        Ok(())
    }

    fn heal(&mut self) -> Result<()> {
        let liars = self.cluster.liars().len();
        let (parted, down) = (self.parted, self.cluster.down().first().copied());
        self.cluster.calm()?;
        self.parted = false;
        if parted {
            self.screen.line("all links are whole again");
        }
        if liars > 0 {
            self.screen
                .line("nobody lies any more; who lied still counts among f");
        }
        if let Some(node) = down {
            self.cluster.heal(node)?;
            let what = if self.cluster.remembers() {
                "as what it was: its journal tells it"
            } else {
                "abstaining: lost disk. It learns what it can still get, and counts among f"
            };
            self.screen.line(&format!("node {node} runs again; {what}"));
        }
        if !parted && liars == 0 && down.is_none() {
            self.screen.line("nothing is broken");
        }
        Ok(())
    }

    /// What every node has cost up to now.
    fn costs(&self) -> Vec<NodeCost> {
        self.cluster
            .last_said()
            .filter_map(|(_, status)| status.map(NodeCost::of))
            .collect()
    }

    /// What it all came to.
    pub fn judge(&mut self, load: LoadReport, ready_ms: u64) -> Verdict {
        let patience = if self.interrupt.is_raised() {
            REST_WITHIN_INTERRUPTED
        } else {
            REST_WITHIN
        };
        let after = self.costs();
        self.course.costs.retain_mut(|cost| {
            let after = after.iter().find(|after| after.node == cost.node);
            after.is_some_and(|after| cost.until(after))
        });
        self.course.cpu_s = self.cluster.cpu_s() - self.course.cpu_before_s;
        let agreement = compare_learners(&mut self.cluster, patience);
        (self.course.regency, self.course.regency_changes) = (self.seen.regency, self.seen.changes);
        let lies = |node: NodeId| {
            let mut said = self.cluster.last_said();
            said.find(|(one, _)| *one == node)
                .and_then(|(_, status)| Some(status?.misbehaviour.as_ref()?.lies))
        };
        let liars = self.cluster.liars();
        let misbehaved = liars.into_iter().map(|(node, strategy)| Misbehaved {
            node: node.0,
            strategy: strategy.to_owned(),
            lies: lies(node).unwrap_or(0),
        });
        self.course.misbehaved = misbehaved.collect();
        let course = std::mem::take(&mut self.course);
        Verdict::new(
            self.cluster.configuration(),
            course,
            agreement,
            load,
            ready_ms,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
