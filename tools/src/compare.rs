//! `bench --floor`: slices of the real cluster and of the floor in turn, their medians and ratios.
//!
//! All processes stay up for the whole run and block while they are idle, so that what the machine does to one side it
//! does to the other as well. A round is a slice of each kind; the medians are over the rounds.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use twostep_bench::report::Percentile;
use twostep_bench::{LoadConfig, LoadReport};
use twostep_engine::node::tunables::{NodeOptions, StateMachineKind};
use twostep_engine::quorum::FaultModel;
use twostep_net::{Carrier, Transport};

use crate::cluster::LocalCluster;
use crate::floor::FloorCluster;
use crate::interrupt::Interrupt;
use crate::load::grouped_rate;
use crate::measure::{Cost, NodeSums, rounded};

/// What is compared.
pub struct Plan {
    /// The fault model.
    pub mode: FaultModel,
    /// How many faults.
    pub f: usize,
    /// What every node is told; the state machine is chosen here.
    pub options: NodeOptions,
    /// How nodes and clients talk.
    pub carrier: Carrier,
    /// How many rounds.
    pub rounds: usize,
    /// The length of each slice.
    pub slice: Duration,
    /// Whether to keep silent until the end.
    pub quiet: bool,
}

/// The kinds of slices, in the order of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One operation at a time, on the real cluster with the null state machine.
    Lone,
    /// The same on the floor.
    FloorLone,
    /// Under load, on the real cluster with the null state machine.
    Loaded,
    /// The same on the floor.
    FloorLoaded,
    /// Under load, on the real cluster with the key-value store.
    KeyValue,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::Lone,
        Kind::FloorLone,
        Kind::Loaded,
        Kind::FloorLoaded,
        Kind::KeyValue,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lone => "lone, real",
            Kind::FloorLone => "lone, floor",
            Kind::Loaded => "loaded, null",
            Kind::FloorLoaded => "loaded, floor",
            Kind::KeyValue => "loaded, key-value",
        }
    }
}

/// What came out.
pub struct Comparison {
    /// By [`Kind`]: what each slice cost, and its percentiles.
    slices: [Vec<(Cost, Vec<Percentile>)>; 5],
    costs: [Vec<Cost>; 5],
    lone: Cost,
    floor_lone: Cost,
    loaded: Cost,
    floor_loaded: Cost,
    key_value: Cost,
    /// All slices of the loaded real cluster with the null state machine in one: sums, medians, worst values.
    pub report: LoadReport,
    /// Whether every call of every slice ended as it should.
    pub clean: bool,
    /// How many messages the recorded operation has.
    pub trace_messages: usize,
}

impl Comparison {
    /// Runs all rounds. `load` makes the load of a client folder.
    pub fn run(
        plan: &Plan,
        start: impl Fn(NodeOptions) -> Result<LocalCluster>,
        load: impl Fn(&LocalCluster) -> Result<LoadConfig>,
        interrupt: &Interrupt,
    ) -> Result<Comparison> {
        let with = |state_machine| {
            start(NodeOptions {
                state_machine,
                ..plan.options.clone()
            })
        };
        let mut null = with(StateMachineKind::Null)?;
        let mut key_value = with(StateMachineKind::KeyValue)?;
        let wanted = load(&null)?;
        let in_flight = u32::try_from(wanted.pipeline).unwrap_or(u32::MAX);
        let in_flight = in_flight.saturating_mul(wanted.sessions);
        let mut floor = FloorCluster::start(
            plan.mode,
            plan.f,
            &plan.options,
            plan.carrier,
            wanted.op_bytes,
            interrupt,
        )?;
        let loses = plan.carrier.transport == Transport::Udp;
        let mut slices = Slices::default();
        let mut reports = Vec::new();
        for round in 0..plan.rounds {
            if interrupt.is_raised() {
                bail!("interrupted");
            }
            let mut lone = load(&null)?;
            (lone.sessions, lone.pipeline, lone.checked) = (1, 1, false);
            slices.real(Kind::Lone, &mut null, lone, plan.slice)?;
            slices.floor(Kind::FloorLone, &mut floor, None, plan.slice)?;
            let mut loaded = load(&null)?;
            loaded.checked = false;
            let report = slices.real(Kind::Loaded, &mut null, loaded, plan.slice)?;
            reports.push(report);
            // Nothing on the floor repairs what datagrams lose under load.
            if !loses {
                slices.floor(Kind::FloorLoaded, &mut floor, Some(in_flight), plan.slice)?;
            }
            let loaded = load(&key_value)?;
            slices.real(Kind::KeyValue, &mut key_value, loaded, plan.slice)?;
            if !plan.quiet {
                println!("{}", slices.line(round));
            }
        }
        Ok(slices.end(&reports, floor.trace.len()))
    }

    /// What each slice of a kind cost.
    pub fn costs(&self, kind: Kind) -> &[Cost] {
        &self.costs[kind as usize]
    }

    /// The medians of a kind.
    pub fn median(&self, kind: Kind) -> Cost {
        Cost::median(self.costs(kind))
    }

    /// The percentiles of the slice of a kind whose p50 is the median.
    pub fn percentiles(&self, kind: Kind) -> &[Percentile] {
        let p50_us = self.median(kind).p50_us;
        let slice = self.slices[kind as usize]
            .iter()
            .find(|(cost, _)| cost.p50_us == p50_us);
        slice.map_or(&[], |(_, percentiles)| percentiles)
    }

    /// How many times the floor's latency of a lone operation the real one is.
    pub fn latency_ratio(&self) -> Option<f64> {
        ratio(self.lone.p50_us, self.floor_lone.p50_us)
    }

    /// How many times the floor's CPU per operation under load the real one is, clients included in both.
    pub fn cpu_ratio(&self) -> Option<f64> {
        ratio(self.loaded.cpu_us(), self.floor_loaded.cpu_us())
    }

    /// The comparison in words.
    pub fn lines(&self) -> Vec<String> {
        let row = |name: &str, real: f64, floor: f64, unit: &str| {
            let ratio = times(ratio(real, floor));
            let (real, floor) = (figure(real), figure(floor));
            format!("{name:<44} {real:>12} {floor:>12} {unit:<3} {ratio:>12}")
        };
        let (lone, floor_lone) = (&self.lone, &self.floor_lone);
        let (loaded, floor_loaded) = (&self.loaded, &self.floor_loaded);
        vec![
            format!(
                "{:<44} {:>12} {:>12}     {:>12}",
                "medians", "real", "floor", "ratio"
            ),
            row("lone operation, p50", lone.p50_us, floor_lone.p50_us, "µs"),
            row("lone operation, p99", lone.p99_us, floor_lone.p99_us, "µs"),
            row(
                "lone operation, CPU with the client",
                lone.cpu_us(),
                floor_lone.cpu_us(),
                "µs",
            ),
            row(
                "loaded, null state machine, per second",
                loaded.ops_per_s,
                floor_loaded.ops_per_s,
                "",
            ),
            row(
                "loaded, null, CPU per operation with client",
                loaded.cpu_us(),
                floor_loaded.cpu_us(),
                "µs",
            ),
            row(
                "loaded, null, CPU of the nodes alone",
                loaded.nodes_cpu_us,
                floor_loaded.nodes_cpu_us,
                "µs",
            ),
            row(
                "loaded, null, CPU of the client alone",
                loaded.client_cpu_us,
                floor_loaded.client_cpu_us,
                "µs",
            ),
            row(
                "loaded, null, system calls per operation",
                loaded.syscalls,
                floor_loaded.syscalls,
                "",
            ),
            row(
                "loaded, null, messages per operation",
                loaded.messages,
                floor_loaded.messages,
                "",
            ),
            row(
                "loaded, null, messages per packet",
                loaded.messages_per_packet,
                floor_loaded.messages_per_packet,
                "",
            ),
            row(
                "loaded, key-value, per second",
                self.key_value.ops_per_s,
                floor_loaded.ops_per_s,
                "",
            ),
            row(
                "loaded, key-value, CPU with the client",
                self.key_value.cpu_us(),
                floor_loaded.cpu_us(),
                "µs",
            ),
            format!(
                "the recorded operation has {} messages between processes",
                self.trace_messages
            ),
        ]
    }

    /// The comparison as fields.
    pub fn to_json(&self) -> Value {
        let mut fields = self.loaded.to_json();
        fields["lone"] = self.lone.to_json_with_speed();
        fields["key_value"] = self.key_value.to_json_with_speed();
        let measured = self.floor_loaded.operations > 0;
        let mut floor = if measured {
            let mut floor = self.floor_loaded.to_json();
            floor["ops_per_s"] = json!(rounded(self.floor_loaded.ops_per_s));
            floor["loaded"] = self.floor_loaded.to_json_with_speed();
            floor
        } else {
            json!({})
        };
        floor["p50_us"] = json!(self.floor_lone.p50_us);
        floor["lone"] = self.floor_lone.to_json_with_speed();
        floor["messages_of_a_lone_operation"] = json!(self.trace_messages);
        fields["floor"] = floor;
        let (real, floor, key_value) = (&self.loaded, &self.floor_loaded, &self.key_value);
        fields["ratio"] = json!({
            "latency": self.latency_ratio().map(rounded),
            "cpu": self.cpu_ratio().map(rounded),
            "cpu_nodes": ratio(real.nodes_cpu_us, floor.nodes_cpu_us).map(rounded),
            "cpu_clients": ratio(real.client_cpu_us, floor.client_cpu_us).map(rounded),
            "cpu_key_value": ratio(key_value.cpu_us(), floor.cpu_us()).map(rounded),
            "ops_per_s": ratio(real.ops_per_s, floor.ops_per_s).map(rounded),
        });
        fields
    }
}

/// None where the floor was not measured.
fn ratio(real: f64, floor: f64) -> Option<f64> {
    (floor > 0.0).then(|| real / floor)
}

/// A ratio for people.
pub fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(
        || "not measured".to_owned(),
        |ratio| format!("{ratio:.2} ×"),
    )
}

/// Three digits, or whole thousands.
fn figure(figure: f64) -> String {
    if figure >= 1000.0 {
        grouped_rate(figure)
    } else if figure >= 100.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.2}")
    }
}

struct Slices {
    slices: [Vec<(Cost, Vec<Percentile>)>; 5],
    clean: bool,
}

impl Default for Slices {
    fn default() -> Slices {
        Slices {
            slices: Default::default(),
            clean: true,
        }
    }
}

impl Slices {
    /// A slice on a real cluster.
    fn real(
        &mut self,
        kind: Kind,
        cluster: &mut LocalCluster,
        mut config: LoadConfig,
        slice: Duration,
    ) -> Result<LoadReport> {
        config.duration = Some(slice);
        let before = NodeSums::of_cluster(cluster)?;
        let report = twostep_bench::run(config, |_| {})?;
        let after = NodeSums::of_cluster(cluster)?;
        self.clean &= report.is_clean();
        let cost = Cost::of_load(&report, &before, &after);
        self.slices[kind as usize].push((cost, report.percentiles.clone()));
        Ok(report)
    }

    /// A slice on the floor: a lone operation after the other, or so many in flight.
    fn floor(
        &mut self,
        kind: Kind,
        floor: &mut FloorCluster,
        in_flight: Option<u32>,
        slice: Duration,
    ) -> Result<()> {
        let client = &mut floor.client;
        let before = NodeSums::of_floor(&client.counters()?);
        let report = match in_flight {
            None => client.lone(slice)?,
            Some(in_flight) => client.load(in_flight, slice)?,
        };
        let after = NodeSums::of_floor(&client.counters()?);
        let cost = Cost::of_floor(&report, &before, &after);
        self.slices[kind as usize].push((cost, report.percentiles));
        Ok(())
    }

    /// The last round in a line.
    fn line(&self, round: usize) -> String {
        let [lone, floor_lone, loaded, floor_loaded, key_value] = Kind::ALL.map(|kind| {
            let last = self.slices[kind as usize].last();
            last.map_or_else(Cost::default, |(cost, _)| *cost)
        });
        format!(
            "round {}: lone {} µs, floor {} µs; loaded {} ops/s at {:.2} µs CPU, floor {} at {:.2} µs, key-value {} at {:.2} µs",
            round + 1,
            lone.p50_us,
            floor_lone.p50_us,
            grouped_rate(loaded.ops_per_s),
            loaded.cpu_us(),
            grouped_rate(floor_loaded.ops_per_s),
            floor_loaded.cpu_us(),
            grouped_rate(key_value.ops_per_s),
            key_value.cpu_us()
        )
    }

    fn end(self, reports: &[LoadReport], trace_messages: usize) -> Comparison {
        let costs = self
            .slices
            .each_ref()
            .map(|slices| slices.iter().map(|(cost, _)| *cost).collect());
        let [lone, floor_lone, loaded, floor_loaded, key_value] = costs
            .each_ref()
            .map(|costs: &Vec<Cost>| Cost::median(costs));
        Comparison {
            slices: self.slices,
            costs,
            lone,
            floor_lone,
            loaded,
            floor_loaded,
            key_value,
            report: LoadReport::together(reports),
            clean: self.clean,
            trace_messages,
        }
    }
}
