//! `bench --laggard`: a learner is down while operations go by, starts again under the same load, and catches up.
//!
//! ```text
//! before ──► kill ──► down, until so many operations went by ──► start ──► catching up ──► caught up ──► after
//! ```
//!
//! It has caught up when it has executed what another learner had learned when that one was asked, just before. Throughput is that of all
//! calls in the seconds of each stretch; memory is what the system says of every process, each tenth of a second.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use twostep_bench::config::StopFlag;
use twostep_bench::{LoadConfig, LoadReport, Sample};
use twostep_engine::types::NodeId;

use crate::cluster::LocalCluster;
use crate::interrupt::Interrupt;
use crate::load::{grouped, grouped_rate};
use crate::measure::rounded;

/// How often nodes are asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Throughput is counted by seconds: so long a stretch has a whole one in it, wherever it begins.
const SECONDS_MIN: Duration = Duration::from_secs(2);

/// What is to be measured.
pub struct Plan {
    /// How many operations go by.
    pub missed: u64,
    /// How long the stretches before and after are.
    pub stretch: Duration,
    /// How long it may take to catch up.
    pub patience: Duration,
    /// Whether to keep silent.
    pub quiet: bool,
}

/// The stretches of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stretch {
    Before,
    Down,
    CatchingUp,
    After,
}

impl Stretch {
    const ALL: [Stretch; 4] = [
        Stretch::Before,
        Stretch::Down,
        Stretch::CatchingUp,
        Stretch::After,
    ];

    fn name(self) -> &'static str {
        match self {
            Stretch::Before => "before",
            Stretch::Down => "down",
            Stretch::CatchingUp => "catching_up",
            Stretch::After => "after",
        }
    }
}

/// What came out.
pub struct Outcome {
    /// The whole load.
    pub report: LoadReport,
    /// From the start of the process to the end of its lag; none if it did not catch up in time.
    caught_up: Option<Duration>,
    node: NodeId,
    missed_operations: u64,
    missed_decrees: u64,
    ops_per_s: [f64; 4],
    memory: BTreeMap<NodeId, [Memory; 4]>,
    /// What the laggard counted of snapshots and pulls.
    counters: BTreeMap<String, u64>,
    /// What the others were asked for that only their journals hold.
    archive_questions: u64,
    /// Milliseconds since it started, what it had executed, and what the other had learned.
    way: Vec<(u64, u64, u64)>,
}

/// The most that was resident in a stretch. Bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// All of it.
    resident: u64,
    /// What is no file's.
    anonymous: u64,
}

impl Memory {
    /// Of a process; nothing where the system does not tell.
    fn of(pid: u32) -> Memory {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0) << 10
        };
        Memory {
            resident: field("VmRSS:"),
            anonymous: field("RssAnon:"),
        }
    }

    fn max(self, other: Memory) -> Memory {
        Memory {
            resident: self.resident.max(other.resident),
            anonymous: self.anonymous.max(other.anonymous),
        }
    }
}

impl Outcome {
    /// Whether it caught up, and every call ended as it should.
    pub fn is_clean(&self) -> bool {
        self.caught_up.is_some() && self.report.is_clean()
    }

    /// Throughput while it caught up, as a share of that before.
    fn share(&self) -> f64 {
        self.ops_per_s[Stretch::CatchingUp as usize] / self.ops_per_s[Stretch::Before as usize]
    }

    fn memory_of(&self, of: impl Fn(NodeId) -> bool, figure: fn(&Memory) -> u64) -> u64 {
        let nodes = self.memory.iter().filter(|(node, _)| of(**node));
        let most = nodes
            .flat_map(|(_, memory)| memory.iter().map(figure))
            .max();
        most.unwrap_or(0)
    }

    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let [before, down, catching_up, after] = self.ops_per_s.map(grouped_rate);
        let caught_up = self.caught_up.map_or_else(
            || "did not catch up in time".to_owned(),
            |time| format!("caught up in {:.1} s", time.as_secs_f64()),
        );
        let mib = |bytes: u64| bytes >> 20;
        let mine = |figure| mib(self.memory_of(|node| node == self.node, figure));
        let theirs = |figure| mib(self.memory_of(|node| node != self.node, figure));
        vec![
            format!(
                "node {} missed {} operations in {} decrees and {caught_up}",
                self.node,
                grouped(self.missed_operations),
                grouped(self.missed_decrees)
            ),
            format!(
                "operations per second: {before} before, {down} without it, {catching_up} while it caught up ({:.0} %), {after} after",
                100.0 * self.share()
            ),
            format!(
                "resident at most {} MiB in it, {} MiB in the others; anonymous memory {} MiB and {} MiB",
                mine(|memory| memory.resident),
                theirs(|memory| memory.resident),
                mine(|memory| memory.anonymous),
                theirs(|memory| memory.anonymous)
            ),
        ]
    }

    /// As fields.
    pub fn to_json(&self) -> Value {
        let throughput = Stretch::ALL.map(|stretch| {
            (
                stretch.name().to_owned(),
                json!(rounded(self.ops_per_s[stretch as usize])),
            )
        });
        let memory = self.memory.iter().map(|(node, memory)| {
            let stretches = Stretch::ALL.map(|stretch| {
                let memory = memory[stretch as usize];
                let fields = json!({
                    "resident_bytes": memory.resident,
                    "anonymous_bytes": memory.anonymous,
                });
                (stretch.name().to_owned(), fields)
            });
            (
                node.to_string(),
                Value::Object(stretches.into_iter().collect()),
            )
        });
        let memory: serde_json::Map<String, Value> = memory.collect();
        json!({
            "node": self.node.0,
            "missed_operations": self.missed_operations,
            "missed_decrees": self.missed_decrees,
            "caught_up_s": self.caught_up.map(|time| rounded(time.as_secs_f64())),
            "ops_per_s": Value::Object(throughput.into_iter().collect()),
            "share": rounded(self.share()),
            "resident_bytes_max": self.memory_of(|node| node == self.node, |memory| memory.resident),
            "resident_bytes_max_of_others": self.memory_of(|node| node != self.node, |memory| memory.resident),
            "memory": memory,
            "counters": self.counters,
            "archive_questions": self.archive_questions,
            "way": self.way,
        })
    }
}

/// The load, its seconds as they come, and when each of them ended.
struct Watched {
    seconds: Receiver<Sample>,
    samples: Vec<(Sample, Instant)>,
    operations: u64,
    quiet: bool,
}

impl Watched {
    /// Takes what has come; false if the load has ended.
    fn look(&mut self) -> bool {
        loop {
            match self.seconds.try_recv() {
                Ok(sample) => {
                    if !self.quiet {
                        println!("{}", crate::load::sample_line(&sample));
                    }
                    self.operations += sample.operations;
                    self.samples.push((sample, Instant::now()));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Mean throughput of the seconds that have a part in a stretch of time, or lie in it as a whole.
    fn rate(&self, from: Instant, to: Instant, whole: bool) -> f64 {
        let second = Duration::from_secs(1);
        let within = self.samples.iter().filter(|(_, end)| {
            let begin = end.checked_sub(second).unwrap_or(*end);
            if whole {
                begin >= from && *end <= to
            } else {
                *end >= from && begin <= to
            }
        });
        let rates: Vec<f64> = within.map(|(sample, _)| sample.ops_per_s).collect();
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let count = rates.len().max(1) as f64;
        rates.iter().sum::<f64>() / count
    }
}

/// Runs all of it. `config` makes the load, without an end.
pub fn run(
    plan: &Plan,
    cluster: &mut LocalCluster,
    mut config: LoadConfig,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let stop = StopFlag::default();
    (config.stop, config.duration) = (stop.clone(), None);
    let (tell, seconds) = channel();
    let load = thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            twostep_bench::run(config, |sample| {
                // Nobody listens any more after an error.
                let _ = tell.send(*sample);
            })
        })?;
    let mut watched = Watched {
        seconds,
        samples: Vec::new(),
        operations: 0,
        quiet: plan.quiet,
    };
    let measured = measure(plan, cluster, &mut watched, interrupt);
    stop.stop();
    let report = load.join().map_err(|_| anyhow!("the load panicked"))??;
    let mut outcome = measured?;
    outcome.report = report;
    Ok(outcome)
}

fn measure(
    plan: &Plan,
    cluster: &mut LocalCluster,
    watched: &mut Watched,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let learners: Vec<NodeId> = cluster.configuration().learners().iter().collect();
    let mut memory: BTreeMap<NodeId, [Memory; 4]> = BTreeMap::new();
    let mut look = |cluster: &mut LocalCluster, watched: &mut Watched, stretch: Stretch| {
        thread::sleep(LOOK_EVERY);
        if interrupt.is_raised() {
            bail!("interrupted");
        }
        cluster.check_children()?;
        for (node, pid, _) in cluster.processes() {
            let most = &mut memory.entry(node).or_default()[stretch as usize];
            *most = most.max(Memory::of(pid));
        }
        if !watched.look() {
            bail!("the load has ended by itself");
        }
        Ok(())
    };

    while watched.samples.is_empty() {
        look(cluster, watched, Stretch::Before)?;
    }
    let began = Instant::now();
    while began.elapsed() < plan.stretch.max(SECONDS_MIN) {
        look(cluster, watched, Stretch::Before)?;
    }
    let (leader, learned_before) = ask(cluster, learners[0])?;
    // The last one that does not lead; another one tells how far the others are.
    let node = *learners
        .iter()
        .rev()
        .find(|node| node.0 != leader)
        .expect("more than one learner");
    let other = *learners
        .iter()
        .find(|other| **other != node)
        .expect("more than one learner");

    let killed = Instant::now();
    cluster.kill(node)?;
    let operations_before = watched.operations;
    // However fast that is, a whole second lies in it.
    while watched.operations - operations_before < plan.missed || killed.elapsed() < SECONDS_MIN {
        look(cluster, watched, Stretch::Down)?;
    }
    let missed_operations = watched.operations - operations_before;
    let missed_decrees = ask(cluster, other)?.1 - learned_before;

    let started = Instant::now();
    cluster.heal(node)?;
    let mut caught_up = None;
    let mut way = Vec::new();
    while caught_up.is_none() && started.elapsed() < plan.patience {
        look(cluster, watched, Stretch::CatchingUp)?;
        let (_, learned) = ask(cluster, other)?;
        let Ok(executed) = executed(cluster, node) else {
            continue;
        };
        let since = started.elapsed();
        way.push((
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            executed,
            learned,
        ));
        caught_up = (executed >= learned).then_some(since);
    }
    let ended = Instant::now();
    let statuses = cluster.statuses(false);
    let counters = statuses
        .into_iter()
        .filter_map(|(id, status)| Some((id, status?.counters)));
    let (mine, theirs): (Vec<_>, Vec<_>) = counters.partition(|(id, _)| *id == node);
    let asked = theirs
        .iter()
        .filter_map(|(_, counters)| counters.get("archive.questions"));
    let archive_questions = asked.sum();
    while ended.elapsed() < plan.stretch.max(SECONDS_MIN) {
        look(cluster, watched, Stretch::After)?;
    }
    let ops_per_s = [
        watched.rate(began, killed, true),
        watched.rate(killed, started, true),
        watched.rate(started, ended, false),
        watched.rate(ended, Instant::now(), true),
    ];
    let told = |(name, _): &(String, u64)| {
        ["snapshots.", "sent_again."]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    Ok(Outcome {
        report: LoadReport::default(),
        caught_up,
        node,
        missed_operations,
        missed_decrees,
        ops_per_s,
        memory,
        counters: mine
            .into_iter()
            .flat_map(|(_, counters)| counters)
            .filter(told)
            .collect(),
        archive_questions,
        way,
    })
}

/// Who leads, and what `node` has learned.
fn ask(cluster: &mut LocalCluster, node: NodeId) -> Result<(u16, u64)> {
    let status = cluster.status(node);
    let status = status.ok_or_else(|| anyhow!("node {node} does not say how it is"))?;
    Ok((status.leader, status.learned))
}

fn executed(cluster: &mut LocalCluster, node: NodeId) -> Result<u64> {
    let status = cluster.status(node);
    let status = status.ok_or_else(|| anyhow!("node {node} does not say how it is"))?;
    Ok(status.executed)
}
