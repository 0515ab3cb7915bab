//! The client of the floor, in the process of the load generator.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::links::{Heard, Links, NodeCounters, Scratch, Serve};
use super::node::{reached, say};
use super::trace::{Kind, Trace};
use super::{ASK, FloorPlan, LONE, TOLD};
use crate::report::{Latencies, LoadReport, Percentile, per_second, thread_cpu};

/// How long the processes may take to reach each other.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take before the floor is given up: nothing is ever lost on it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often a node is asked again: a datagram that met nobody is lost.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What a stretch on the floor came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FloorReport {
    /// Operations that ended.
    pub operations: u64,
    /// The same per second.
    pub ops_per_s: f64,
    /// Half of them took at most so long. Microseconds.
    pub p50_us: u64,
    /// 99 of 100 took at most so long. Microseconds.
    pub p99_us: u64,
    /// The same for more percentiles, ascending.
    pub percentiles: Vec<Percentile>,
    /// CPU time of the client's thread. Seconds.
    pub client_cpu_s: f64,
}

/// A client with its connections.
pub struct FloorClient {
    plan: FloorPlan,
    links: Links,
    scratch: Scratch,
    /// The last operation of a replay, and the last decree under load.
    operation: u64,
    decree: u64,
    bundle: u64,
}

impl FloorClient {
    /// Dials every node and waits until everybody reaches everybody.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn connect(plan: FloorPlan) -> io::Result<FloorClient> {
        let links = Links::new(&plan, plan.addresses.len())?;
        let scratch = Scratch::default();
        let mut client = FloorClient {
            plan,
            links,
            scratch,
            operation: 0,
            decree: 0,
            bundle: 0,
        };
        let mut greeting = Greeting {
            until: Instant::now() + CONNECT_WITHIN,
            now: Instant::now(),
            complete: false,
        };
        client.run(&mut greeting)?;
        let nodes = client.plan.addresses.len();
        let until = Instant::now() + CONNECT_WITHIN;
        while client.links.complete() && Instant::now() < until {
            let counters = client.counters()?;
            if counters
                .iter()
                .all(|counters| counters.links == nodes as u64)
            {
                return Ok(client);
            }
        }
        Err(timed_out(
            "the processes of the floor did not reach each other",
        ))
    }

    /// What every node did until now.
    ///
    /// # Errors
    /// When a node does not answer.
    pub fn counters(&mut self) -> io::Result<Vec<NodeCounters>> {
        let nodes = self.plan.addresses.len();
        let mut asking = Asking {
            nodes,
            ask_at: Instant::now(),
            told: vec![None; nodes],
            began: Instant::now(),
            now: Instant::now(),
        };
        self.run(&mut asking)?;
        let told: Option<Vec<NodeCounters>> = asking.told.into_iter().collect();
        told.ok_or_else(|| timed_out("a node of the floor did not say what it did"))
    }

    /// Replays the recorded operation for `duration`, one after the other.
    ///
    /// # Errors
    /// When an operation does not end.
    pub fn lone(&mut self, duration: Duration) -> io::Result<FloorReport> {
        let began = Instant::now();
        let mut lone = Lone {
            trace: self.plan.trace.clone(),
            number: self.operation,
            heard: [0; 6],
            taken: 0,
            under_way: false,
            sent_at: began,
            ends_at: began + duration,
            now: began,
            latencies: Latencies::new(),
        };
        let cpu_before = thread_cpu();
        self.run(&mut lone)?;
        self.operation = lone.number;
        if lone.under_way {
            return Err(timed_out("a replayed operation did not end"));
        }
        Ok(report(&mut lone.latencies, began, lone.now, cpu_before))
    }

    /// Keeps `in_flight` operations under way for `duration`, and waits for the last ones.
    ///
    /// # Errors
    /// When an operation does not end.
    pub fn load(&mut self, in_flight: u32, duration: Duration) -> io::Result<FloorReport> {
        let began = Instant::now();
        let mut load = Load {
            plan: &self.plan,
            credits: in_flight,
            in_flight,
            sent: VecDeque::new(),
            bundle: self.bundle,
            decree: self.decree,
            heard: VecDeque::new(),
            ends_at: began + duration,
            now: began,
            latencies: Latencies::new(),
        };
        let cpu_before = thread_cpu();
        self.links.run(&self.plan, &mut self.scratch, &mut load)?;
        if load.credits < in_flight {
            return Err(timed_out("operations under load did not end"));
        }
        let report = report(&mut load.latencies, began, load.now, cpu_before);
        (self.bundle, self.decree) = (load.bundle, load.decree);
        Ok(report)
    }

    fn run(&mut self, service: &mut impl Serve) -> io::Result<()> {
        self.links.run(&self.plan, &mut self.scratch, service)
    }
}

fn report(
    latencies: &mut Latencies,
    began: Instant,
    ended: Instant,
    cpu_before: Duration,
) -> FloorReport {
    let mut sums = LoadReport::default();
    latencies.finish(&mut sums);
    FloorReport {
        operations: sums.operations,
        ops_per_s: per_second(sums.operations, ended - began),
        p50_us: sums.p50_us,
        p99_us: sums.p99_us,
        percentiles: sums.percentiles,
        client_cpu_s: (thread_cpu().saturating_sub(cpu_before)).as_secs_f64(),
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Waits for the connections of the client.
struct Greeting {
    until: Instant,
    now: Instant,
    complete: bool,
}

impl Serve for Greeting {
    fn message(&mut self, _: &mut Links, _: usize, _: Heard<'_>) {}

    fn turn(&mut self, links: &mut Links, now: Instant) {
        self.now = now;
        self.complete = links.complete();
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn stopping(&self) -> bool {
        self.complete || self.now >= self.until
    }
}

/// Asks every node what it did.
struct Asking {
    nodes: usize,
    ask_at: Instant,
    told: Vec<Option<NodeCounters>>,
    began: Instant,
    now: Instant,
}

impl Serve for Asking {
    fn message(&mut self, _: &mut Links, from: usize, heard: Heard<'_>) {
        if heard.kind == TOLD {
            let counters = serde_json::from_slice(heard.rest()).ok();
            if let Some(told) = self.told.get_mut(from) {
                *told = counters;
            }
        }
    }

    fn turn(&mut self, links: &mut Links, now: Instant) {
        self.now = now;
        if now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            (0..self.nodes).for_each(|node| links.say(node, ASK, 0, &[], 0));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.ask_at.min(self.began + ANSWER_WITHIN))
    }

    fn stopping(&self) -> bool {
        self.told.iter().all(Option::is_some) || self.now >= self.began + ANSWER_WITHIN
    }
}

/// One operation after the other.
struct Lone {
    trace: Trace,
    number: u64,
    heard: [u32; 6],
    taken: usize,
    under_way: bool,
    sent_at: Instant,
    ends_at: Instant,
    now: Instant,
    latencies: Latencies,
}

impl Lone {
    fn speak(&mut self, links: &mut Links) {
        let client = self.trace.nodes;
        while let Some(turn) = self.trace.of_party(client).nth(self.taken)
            && reached(&self.heard, &turn.after)
        {
            self.taken += 1;
            say(links, turn, self.number);
        }
    }
}

impl Serve for Lone {
    fn message(&mut self, _: &mut Links, _: usize, heard: Heard<'_>) {
        // What others say after the end of an operation comes while the next one is under way.
        if heard.number == self.number && heard.kind & LONE != 0 {
            self.heard[usize::from(heard.kind & !LONE) % 6] += 1;
        }
    }

    fn turn(&mut self, links: &mut Links, now: Instant) {
        self.now = now;
        if self.under_way && reached(&self.heard, &self.trace.ends_after) {
            self.under_way = false;
            self.latencies.record(now - self.sent_at);
        }
        if !self.under_way && now < self.ends_at {
            self.number += 1;
            (self.heard, self.taken, self.under_way) = ([0; 6], 0, true);
            self.sent_at = now;
        }
        if self.under_way {
            self.speak(links);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.sent_at + ANSWER_WITHIN)
    }

    fn stopping(&self) -> bool {
        !self.under_way || self.now >= self.sent_at + ANSWER_WITHIN
    }
}

/// Many operations at once.
struct Load<'a> {
    plan: &'a FloorPlan,
    /// Operations that may begin.
    credits: u32,
    in_flight: u32,
    /// The bundles under way, first in first out: when each left, and how many of its operations have not ended.
    sent: VecDeque<(Instant, u32)>,
    bundle: u64,
    /// Everything up to it has ended.
    decree: u64,
    /// How many answers each decree above has, and how many operations.
    heard: VecDeque<(usize, u32)>,
    ends_at: Instant,
    now: Instant,
    latencies: Latencies,
}

impl Load<'_> {
    fn end(&mut self, mut operations: u32) {
        self.credits += operations;
        while operations > 0 {
            let (sent_at, open) = self.sent.front_mut().expect("what ends was sent");
            let ended = operations.min(*open);
            self.latencies
                .record_many(self.now - *sent_at, u64::from(ended));
            operations -= ended;
            *open -= ended;
            if *open == 0 {
                self.sent.pop_front();
            }
        }
    }
}

impl Serve for Load<'_> {
    fn message(&mut self, _: &mut Links, _: usize, heard: Heard<'_>) {
        if heard.kind != Kind::Replies as u8 || heard.number <= self.decree {
            return;
        }
        let place =
            usize::try_from(heard.number - self.decree - 1).expect("a decree of the window");
        if self.heard.len() <= place {
            self.heard.resize(place + 1, (0, 0));
        }
        self.heard[place].0 += 1;
        self.heard[place].1 = heard.u32_at(0);
    }

    fn turn(&mut self, links: &mut Links, now: Instant) {
        self.now = now;
        let quorum = self.plan.pattern.reply;
        while let Some((_, operations)) = self.heard.pop_front_if(|(count, _)| *count >= quorum) {
            self.decree += 1;
            self.end(operations);
        }
        if now >= self.ends_at {
            return;
        }
        while self.credits > 0 {
            let operations = self.credits.min(self.plan.pattern.bundle_max());
            self.credits -= operations;
            self.bundle += 1;
            self.sent.push_back((now, operations));
            links.say(
                self.plan.pattern.leader,
                Kind::Submit as u8,
                self.bundle,
                &[&operations.to_le_bytes()],
                self.plan.pattern.submit.of(operations),
            );
        }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(if self.now < self.ends_at {
            self.ends_at
        } else {
            self.ends_at + ANSWER_WITHIN
        })
    }

    fn stopping(&self) -> bool {
        let over = self.now >= self.ends_at && self.credits == self.in_flight;
        over || self.now >= self.ends_at + ANSWER_WITHIN
    }
}
