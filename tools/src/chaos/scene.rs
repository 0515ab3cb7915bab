//! Carries troubles out, heals them, and demands progress.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use twostep_bench::LoadError;
use twostep_bench::config::StopFlag;
use twostep_bench::mixture::{MixtureConfig, MixtureReport, Watch, run_mixture};
use twostep_engine::client::history;
use twostep_engine::journal::faults::DiskFaults;
use twostep_engine::node::NodeOptions;
use twostep_engine::node::control::{Fault, FaultDirection, Request};
use twostep_engine::node::tunables::Durability;
use twostep_engine::types::NodeId;
use twostep_tests::checkers::calls::judge;

use super::troubles::{Draws, Round, Trouble};
use super::verdict::{Suffered, Verdict};
use super::{ChaosArgs, in_words};
use crate::cluster::LocalCluster;
use crate::interrupt::Interrupt;
use crate::load::{LoadDefaults, LoadFlags, Rate};
use crate::screen::Screen;
use crate::verdict::{Agreement, compare_learners};

/// How long the cluster may take, once everything is healed, until every worker has read its counter and every node is ready.
const PROGRESS_WITHIN: Duration = Duration::from_secs(45);
/// How long learners may take to come to rest.
const REST_WITHIN: Duration = Duration::from_secs(30);
/// How long the end of the load may take: draining and reading have this each.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a call may take before nobody knows.
const CALL_WITHIN: Duration = Duration::from_millis(1500);
/// How often the cluster is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A cluster, its load, and what is done to it.
pub struct Scene<'a> {
    args: &'a ChaosArgs,
    seed: u64,
    /// What is wrong with all disks all the time.
    disk: DiskFaults,
    journals: bool,
    cluster: LocalCluster,
    screen: Screen,
    interrupt: Interrupt,
    began: Instant,
    rounds: u64,
    /// Who does not start again before this round has ended. A cluster serves without f of its nodes.
    away: Option<(NodeId, u64)>,
    troubles: BTreeMap<String, Suffered>,
    kills: u64,
    longest_recovery: Duration,
    wrong: Vec<String>,
}

type Load = JoinHandle<Result<MixtureReport, LoadError>>;

impl<'a> Scene<'a> {
    /// A cluster that is ready.
    pub fn new(
        args: &'a ChaosArgs,
        seed: u64,
        options: &NodeOptions,
        cluster: LocalCluster,
        screen: Screen,
        interrupt: Interrupt,
    ) -> Scene<'a> {
        Scene {
            args,
            seed,
            disk: options.disk_faults.0,
            journals: options.durability == Durability::Sync,
            cluster,
            screen,
            interrupt,
            began: Instant::now(),
            rounds: 0,
            away: None,
            troubles: BTreeMap::new(),
            kills: 0,
            longest_recovery: Duration::ZERO,
            wrong: Vec::new(),
        }
    }

    /// Makes trouble until it is time, and judges.
    pub fn play(mut self) -> Result<Verdict> {
        let path = self.args.history.clone();
        let path = path.unwrap_or_else(|| self.cluster.folder().join("history"));
        let (watch, stop) = (Watch::default(), StopFlag::default());
        let load = self.start_load(path.clone(), &watch, &stop)?;
        let configuration = self.cluster.configuration().clone();
        let draws = Draws::new(&configuration, self.seed, &self.args.only, self.journals);
        while self.goes_on() && !load.is_finished() {
            let round = draws.round(self.rounds);
            self.rounds += 1;
            if let Err(error) = self.round(&round, &watch) {
                let (number, name) = (self.rounds, round.name());
                self.wrong
                    .push(format!("round {number} ({name}): {error:#}"));
                break;
            }
        }
        self.away = None;
        // Who wants the end at once may have interrupted the start of a node, so that it does not listen yet.
        if let Err(error) = self.heal()
            && !self.interrupt.is_raised()
        {
            self.wrong.push(format!("healing at the end: {error:#}"));
        }
        stop.stop();
        let report = load
            .join()
            .map_err(|_| anyhow!("the load generator panicked"))?
            .context("there was no load")?;
        if report.unread > 0 && !self.interrupt.is_raised() {
            let (unread, within) = (report.unread, DRAIN.as_secs());
            self.wrong.push(format!(
                "{unread} workers could not read everything at the end, within {within} s"
            ));
        }
        self.judge(&draws, report, &path)
    }

    fn goes_on(&self) -> bool {
        self.args.rounds.is_none_or(|most| self.rounds < most)
            && self.began.elapsed() < self.args.lasts()
            && !self.interrupt.is_raised()
    }

    fn start_load(&self, history: PathBuf, watch: &Watch, stop: &StopFlag) -> Result<Load> {
        let flags = LoadFlags {
            clients: Some(self.args.clients),
            pipeline: None,
            rate: Some(Rate::PerSecond(self.args.rate)),
            op_bytes: 0,
            signed: false,
            unchecked: false,
        };
        let defaults = LoadDefaults {
            clients: self.args.clients,
            pipeline: 1,
            drain: DRAIN,
        };
        let mut load = flags.config(&self.cluster.client(0), None, stop, defaults)?;
        load.setup.tuning.deadline = CALL_WITHIN;
        load.history = Some(history);
        let config = MixtureConfig {
            load,
            keys: self.args.keys,
            seed: self.seed,
            watch: watch.clone(),
        };
        let load = thread::Builder::new().name("load".to_owned());
        Ok(load.spawn(move || run_mixture(config))?)
    }

    /// One round: its troubles, their end, and what must follow.
    fn round(&mut self, round: &Round, watch: &Watch) -> Result<()> {
        let committed = watch.committed();
        for strike in &round.strikes {
            self.wait(strike.after, || false)?;
            self.screen.line(&format!(
                "{:>4} s  round {}: {}  {}",
                self.began.elapsed().as_secs(),
                self.rounds,
                strike.kind.name(),
                described(&strike.trouble)
            ));
            self.troubles.entry(strike.kind.name()).or_default().times += 1;
            self.strike(&strike.trouble)?;
        }
        self.wait(round.lasts, || false)?;
        self.heal()?;
        let (healed, asked) = (Instant::now(), watch.ask_round());
        let done = self.wait(PROGRESS_WITHIN, || watch.is_done(asked))?;
        if self.interrupt.is_raised() {
            return Ok(());
        }
        if !done {
            bail!(
                "{} s after everything was healed not every worker could read its counter; {} calls committed since the trouble began; {}",
                PROGRESS_WITHIN.as_secs(),
                watch.committed() - committed,
                self.nodes_in_words()
            );
        }
        self.recovered(round, healed.elapsed());
        self.wait_ready(healed + PROGRESS_WITHIN)
    }

    /// Service was back after so long.
    fn recovered(&mut self, round: &Round, took: Duration) {
        self.longest_recovery = self.longest_recovery.max(took);
        for strike in &round.strikes {
            let suffered = self.troubles.entry(strike.kind.name()).or_default();
            suffered.longest_recovery_ms = suffered.longest_recovery_ms.max(millis(took));
        }
    }

    /// Every node that was started again must come back by itself, whoever else serves already.
    fn wait_ready(&mut self, until: Instant) -> Result<()> {
        loop {
            let missing = self.cluster.missing();
            if missing.is_empty() || self.interrupt.is_raised() {
                return Ok(());
            }
            if Instant::now() > until {
                let (within, list) = (PROGRESS_WITHIN.as_secs(), in_words(&missing));
                bail!(
                    "{within} s after everything was healed not every node is ready: {list}; {}",
                    self.nodes_in_words()
                );
            }
            self.wait(LOOK_EVERY, || false)?;
        }
    }

    /// Waits so long, or until `done` or an interrupt; whether `done`. Fails if a node has ended by itself.
    fn wait(&mut self, time: Duration, done: impl Fn() -> bool) -> Result<bool> {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.interrupt.is_raised() {
            if done() {
                return Ok(true);
            }
            self.cluster.check_children()?;
            thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(done())
    }

    fn strike(&mut self, trouble: &Trouble) -> Result<()> {
        match trouble {
            Trouble::Kill(nodes) if nodes.is_empty() => {
                let leader = self.leader();
                self.kill(&[leader])
            }
            Trouble::Kill(nodes) => self.kill(nodes),
            Trouble::PowerCut { slow_ms, before } => {
                if *slow_ms > 0 {
                    let slow = DiskFaults {
                        slow_ms: *slow_ms,
                        ..self.disk
                    };
                    self.tell_all(&Request::DiskFault(slow))?;
                    self.wait(*before, || false)?;
                }
                self.kill(&self.cluster.live())
            }
            Trouble::Restart(nodes) => {
                self.kills += self.live_among(nodes).len() as u64;
                self.cluster.end(nodes)
            }
            Trouble::Away(node, rounds) if self.away.is_none() => {
                self.away = Some((*node, self.rounds + rounds));
                self.kill(&[*node])
            }
            Trouble::Away(..) => Ok(()),
            Trouble::Partition(side) => self.cluster.partition(side),
            Trouble::OneWay(node, direction) => self.cut_one_way(*node, *direction),
            Trouble::Delay { most_us, loss_ppm } => {
                let fault = Fault {
                    loss_ppm: *loss_ppm,
                    duplicate_ppm: *loss_ppm,
                    delay_max_us: *most_us,
                    ..Fault::default()
                };
                self.tell_all(&Request::Fault(fault))
            }
            Trouble::Disk(nodes, faults) => {
                let faults = with(*faults, self.disk);
                self.tell(nodes, |_| Request::DiskFault(faults))
            }
            Trouble::Clock(jumps) => {
                for (node, ms) in jumps {
                    self.tell(&[*node], |_| Request::ClockOffset { ms: *ms })?;
                }
                Ok(())
            }
            Trouble::Lie(lies) => {
                let live = self.cluster.live();
                for (node, strategy) in lies.iter().filter(|(node, _)| live.contains(node)) {
                    self.cluster.misbehave(*node, strategy)?;
                }
                Ok(())
            }
        }
    }

    /// Clients still hear it, and it hears them.
    fn cut_one_way(&mut self, node: NodeId, direction: FaultDirection) -> Result<()> {
        let others = self.cluster.configuration().nodes();
        for peer in others.iter().filter(|peer| *peer != node) {
            let fault = Fault {
                peer: Some(peer.0),
                direction: Some(direction),
                cut: true,
                ..Fault::default()
            };
            self.tell(&[node], |_| Request::Fault(fault.clone()))?;
        }
        Ok(())
    }

    fn kill(&mut self, nodes: &[NodeId]) -> Result<()> {
        self.kills += self.cluster.kill_at_once(nodes)?;
        Ok(())
    }

    /// Who leads, as far as the nodes say.
    fn leader(&mut self) -> NodeId {
        let statuses = self.cluster.statuses(false);
        let known = statuses.into_iter().filter_map(|(_, status)| status);
        let highest = known.max_by_key(|status| status.regency);
        NodeId(highest.map_or(0, |status| status.leader))
    }

    fn live_among(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let live = self.cluster.live();
        live.into_iter()
            .filter(|node| nodes.contains(node))
            .collect()
    }

    /// Tells it to those of the nodes that run.
    fn tell(&mut self, nodes: &[NodeId], request: impl Fn(NodeId) -> Request) -> Result<()> {
        for node in self.live_among(nodes) {
            self.cluster.tell(node, &request(node))?;
        }
        Ok(())
    }

    fn tell_all(&mut self, request: &Request) -> Result<()> {
        let live = self.cluster.live();
        self.tell(&live, |_| request.clone())
    }

    /// Starts what was ended, who stays away aside, and ends everything that is wrong on purpose.
    fn heal(&mut self) -> Result<()> {
        if self.journals {
            self.tell_all(&Request::DiskFault(self.disk))?;
        }
        self.tell_all(&Request::ClockOffset { ms: 0 })?;
        self.cluster.calm()?;
        self.away = self.away.filter(|(_, until)| self.rounds < *until);
        let away = self.away.map(|(node, _)| node);
        for node in self.cluster.down() {
            if Some(node) != away {
                self.cluster.heal(node)?;
            }
        }
        Ok(())
    }

    /// How every node is, for who looks for the reason of a stall.
    fn nodes_in_words(&mut self) -> String {
        let statuses = self.cluster.statuses(false);
        let words = statuses.into_iter().map(|(node, status)| match status {
            None => format!("node {node} does not answer"),
            Some(status) => format!(
                "node {node}: regency {}, low {}, learned {}, executed {}, journal {}{}",
                status.regency,
                status.low,
                status.learned,
                status.executed,
                status
                    .journal
                    .map_or("none".to_owned(), |journal| journal.state),
                status
                    .abstaining
                    .map_or(String::new(), |why| format!(", abstains: {why}"))
            ),
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// Learners must come to one decree and one state, liars aside.
    fn learners_agree(&mut self) -> bool {
        let agreement = compare_learners(&mut self.cluster, REST_WITHIN);
        let liars = self.cluster.liars();
        let is_liar = |node: u16| liars.iter().any(|(liar, _)| liar.0 == node);
        let left_out = agreement.left_out.iter();
        let behind: Vec<String> = left_out
            .filter(|left| !is_liar(left.node))
            .map(|left| format!("node {}: {}", left.node, left.why))
            .collect();
        let Agreement {
            agree,
            decree,
            compared,
            ..
        } = agreement;
        if !agree {
            self.wrong.push(format!(
                "the learners {compared:?} do not agree at decree {decree}"
            ));
        }
        if !behind.is_empty() && !self.interrupt.is_raised() {
            self.wrong.push(format!(
                "{} s after the load not all learners are at decree {decree}: {}",
                REST_WITHIN.as_secs(),
                behind.join(", ")
            ));
        }
        agree && behind.is_empty()
    }

    fn judge(mut self, draws: &Draws<'_>, load: MixtureReport, path: &Path) -> Result<Verdict> {
        let seconds = self.began.elapsed().as_secs_f64();
        let learners_agree = self.learners_agree();
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let calls = history::read(BufReader::new(file)).context("the history")?;
        let history = judge(&calls);
        let configuration = self.cluster.configuration();
        let had = |kind| self.troubles.contains_key(kind);
        let faulty = match had("lie") || had("disk-failing") {
            true => draws.faulty(),
            false => Vec::new(),
        };
        let verdict = Verdict {
            seed: self.seed,
            mode: configuration.model().to_string(),
            f: configuration.f(),
            seconds,
            rounds: self.rounds,
            kills: self.kills,
            faulty: faulty.into_iter().map(|node| node.0).collect(),
            troubles: self.troubles,
            operations: history.committed,
            violations: history.violations + self.wrong.len() as u64,
            lost: history.lost,
            duplicates: history.duplicates,
            linearizable: history.linearizable,
            longest_unavailability_ms: load.longest_pause_us / 1000,
            longest_recovery_ms: millis(self.longest_recovery),
            learners_agree,
            wrong: self.wrong,
            load,
            history,
        };
        if self.args.keep && !verdict.is_clean() {
            let folder = self.cluster.keep_folder().display();
            self.screen.line(&format!("the folder {folder} is kept"));
        }
        Ok(verdict)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One disk's faults with those that all have all the time.
fn with(mut faults: DiskFaults, mut always: DiskFaults) -> DiskFaults {
    for (_, switch) in DiskFaults::SWITCHES {
        *switch(&mut faults) |= *switch(&mut always);
    }
    faults.slow_ms = faults.slow_ms.max(always.slow_ms);
    faults
}

fn described(trouble: &Trouble) -> String {
    let list = |nodes: &[NodeId]| {
        let list: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        list.join(", ")
    };
    match trouble {
        Trouble::Kill(nodes) if nodes.is_empty() => "the leader".to_owned(),
        Trouble::Disk(nodes, faults) if faults.slow_ms > 0 => {
            format!("nodes {}, by {} ms", list(nodes), faults.slow_ms)
        }
        Trouble::Kill(nodes) | Trouble::Restart(nodes) | Trouble::Disk(nodes, _) => {
            format!("nodes {}", list(nodes))
        }
        Trouble::PowerCut { slow_ms: 0, .. } => "with fast disks".to_owned(),
        Trouble::PowerCut { slow_ms, before } => {
            let before = before.as_millis();
            format!("after {before} ms with syncs that take {slow_ms} ms longer")
        }
        Trouble::Away(node, rounds) => format!("node {node}, for {rounds} more rounds"),
        Trouble::Partition(side) => format!("nodes {} from the others", list(side)),
        Trouble::OneWay(node, direction) => format!("node {node}, {direction:?}").to_lowercase(),
        Trouble::Delay { most_us, loss_ppm } => {
            format!("up to {most_us} µs, {loss_ppm} of a million lost")
        }
        Trouble::Clock(jumps) => {
            let jump = |(node, ms): &(NodeId, i64)| format!("node {node} by {ms} ms");
            jumps.iter().map(jump).collect::<Vec<_>>().join(", ")
        }
        Trouble::Lie(lies) => {
            let lie = |(node, strategy): &(NodeId, String)| format!("node {node}: {strategy}");
            lies.iter().map(lie).collect::<Vec<_>>().join(", ")
        }
    }
}
