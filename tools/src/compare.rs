//! `bench --floor`: slices of the real cluster and of the floor in turn, their medians and ratios.
//!
//! All processes stay up for the whole run and block while they are idle, so that what the machine does to one side it
//! does to the other as well. A round is a slice of each kind; the medians are over the rounds.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use twostep_bench::{LoadConfig, LoadReport};
use twostep_engine::node::tunables::{NodeOptions, StateMachineKind};
use twostep_engine::quorum::FaultModel;

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
    /// How many rounds.
    pub rounds: usize,
    /// The length of each slice.
    pub slice: Duration,
    /// Whether to keep silent until the end.
    pub quiet: bool,
}

/// What came out.
pub struct Comparison {
    /// One operation at a time, on the real cluster with the null state machine.
    pub lone: Cost,
    /// The same on the floor.
    pub floor_lone: Cost,
    /// Under load, on the real cluster with the null state machine.
    pub loaded: Cost,
    /// The same on the floor.
    pub floor_loaded: Cost,
    /// Under load, on the real cluster with the key-value store.
    pub key_value: Cost,
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
        let mut floor =
            FloorCluster::start(plan.mode, plan.f, &plan.options, wanted.op_bytes, interrupt)?;
        let mut slices = Slices::default();
        for round in 0..plan.rounds {
            if interrupt.is_raised() {
                bail!("interrupted");
            }
            let mut lone = load(&null)?;
            (lone.sessions, lone.pipeline, lone.checked) = (1, 1, false);
            slices
                .lone
                .push(slices.reports.real(&mut null, lone, plan.slice)?.0);
            slices.floor_lone.push(floor.slice(None, plan.slice)?);
            let mut loaded = load(&null)?;
            loaded.checked = false;
            let (cost, report) = slices.reports.real(&mut null, loaded, plan.slice)?;
            slices.loaded.push(cost);
            slices.loaded_reports.push(report);
            slices
                .floor_loaded
                .push(floor.slice(Some(in_flight), plan.slice)?);
            let loaded = load(&key_value)?;
            slices
                .key_value
                .push(slices.reports.real(&mut key_value, loaded, plan.slice)?.0);
            if !plan.quiet {
                println!("{}", slices.line(round));
            }
        }
        let trace_messages = floor.trace.len();
        Ok(slices.end(trace_messages))
    }

    /// How many times the floor's latency of a lone operation the real one is.
    pub fn latency_ratio(&self) -> f64 {
        ratio(self.lone.p50_us, self.floor_lone.p50_us)
    }

    /// How many times the floor's CPU per operation under load the real one is, clients included in both.
    pub fn cpu_ratio(&self) -> f64 {
        ratio(self.loaded.cpu_us(), self.floor_loaded.cpu_us())
    }

    /// The comparison in words.
    pub fn lines(&self) -> Vec<String> {
        let row = |name: &str, real: f64, floor: f64, unit: &str| {
            format!(
                "{name:<44} {:>12} {:>12} {unit:<3} {:>6.2} ×",
                figure(real),
                figure(floor),
                ratio(real, floor)
            )
        };
        let (lone, floor_lone) = (&self.lone, &self.floor_lone);
        let (loaded, floor_loaded) = (&self.loaded, &self.floor_loaded);
        vec![
            format!(
                "{:<44} {:>12} {:>12}     {:>8}",
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
        fields["floor"] = self.floor_loaded.to_json();
        fields["floor"]["p50_us"] = json!(self.floor_lone.p50_us);
        fields["floor"]["ops_per_s"] = json!(rounded(self.floor_loaded.ops_per_s));
        fields["floor"]["lone"] = self.floor_lone.to_json_with_speed();
        fields["floor"]["loaded"] = self.floor_loaded.to_json_with_speed();
        fields["floor"]["messages_of_a_lone_operation"] = json!(self.trace_messages);
        fields["ratio"] = json!({
            "latency": rounded(self.latency_ratio()),
            "cpu": rounded(self.cpu_ratio()),
            "cpu_nodes": rounded(ratio(self.loaded.nodes_cpu_us, self.floor_loaded.nodes_cpu_us)),
            "cpu_clients": rounded(ratio(self.loaded.client_cpu_us, self.floor_loaded.client_cpu_us)),
            "cpu_key_value": rounded(ratio(self.key_value.cpu_us(), self.floor_loaded.cpu_us())),
            "ops_per_s": rounded(ratio(self.loaded.ops_per_s, self.floor_loaded.ops_per_s)),
        });
        fields
    }
}

fn ratio(real: f64, floor: f64) -> f64 {
    if floor > 0.0 { real / floor } else { 0.0 }
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

#[derive(Default)]
struct Slices {
    lone: Vec<Cost>,
    floor_lone: Vec<Cost>,
    loaded: Vec<Cost>,
    floor_loaded: Vec<Cost>,
    key_value: Vec<Cost>,
    loaded_reports: Vec<LoadReport>,
    reports: Judge,
}

impl Slices {
    fn line(&self, round: usize) -> String {
        let of = |costs: &[Cost]| costs.last().copied().unwrap_or_default();
        let (lone, floor_lone) = (of(&self.lone), of(&self.floor_lone));
        let (loaded, floor_loaded) = (of(&self.loaded), of(&self.floor_loaded));
        let key_value = of(&self.key_value);
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

    fn end(self, trace_messages: usize) -> Comparison {
        let loaded = Cost::median(&self.loaded);
        let mut report = LoadReport::together(&self.loaded_reports);
        report.ops_per_s = loaded.ops_per_s;
        Comparison {
            lone: Cost::median(&self.lone),
            floor_lone: Cost::median(&self.floor_lone),
            loaded,
            floor_loaded: Cost::median(&self.floor_loaded),
            key_value: Cost::median(&self.key_value),
            report,
            clean: self.reports.clean,
            trace_messages,
        }
    }
}

/// Whether all slices were clean.
struct Judge {
    clean: bool,
}

impl Default for Judge {
    fn default() -> Judge {
        Judge { clean: true }
    }
}

impl Judge {
    /// A slice on a real cluster.
    fn real(
        &mut self,
        cluster: &mut LocalCluster,
        mut config: LoadConfig,
        slice: Duration,
    ) -> Result<(Cost, LoadReport)> {
        config.duration = Some(slice);
        let before = NodeSums::of_cluster(cluster)?;
        let report = twostep_bench::run(config, |_| {})?;
        let after = NodeSums::of_cluster(cluster)?;
        self.clean &= report.is_clean();
        Ok((Cost::of_load(&report, &before, &after), report))
    }
}

impl FloorCluster {
    /// A slice on the floor: a lone operation after the other, or so many in flight.
    fn slice(&mut self, in_flight: Option<u32>, slice: Duration) -> Result<Cost> {
        let before = NodeSums::of_floor(&self.client.counters()?);
        let report = match in_flight {
            None => self.client.lone(slice)?,
            Some(in_flight) => self.client.load(in_flight, slice)?,
        };
        let after = NodeSums::of_floor(&self.client.counters()?);
        Ok(Cost::of_floor(&report, &before, &after))
    }
}
