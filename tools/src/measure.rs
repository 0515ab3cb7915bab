//! What a stretch of load cost: operations, latency, CPU, system calls, messages and packets, of all nodes together.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use twostep_bench::LoadReport;
use twostep_bench::floor::{FloorReport, NodeCounters};

use crate::cluster::LocalCluster;

/// What all nodes did until some moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSums {
    cpu_s: f64,
    syscalls: u64,
    messages: u64,
    packets: u64,
    decrees: u64,
}

impl NodeSums {
    /// Asks every node of a real cluster.
    ///
    /// # Errors
    /// When one does not answer: sums without it would say nothing.
    pub fn of_cluster(cluster: &mut LocalCluster) -> Result<NodeSums> {
        let mut sums = NodeSums::default();
        for (node, status) in cluster.statuses(false) {
            let Some(status) = status else {
                bail!("node {node} did not say what it did");
            };
            let count = |name: &str| count(&status.counters, name);
            sums.cpu_s += status.cpu_s;
            sums.syscalls += count("net.reads") + count("net.writes") + count("net.polls");
            sums.messages += count("net.messages_out");
            sums.packets += count("net.packets_out");
            sums.decrees = sums.decrees.max(status.learned);
        }
        Ok(sums)
    }

    /// Adds what the nodes of the floor said.
    pub fn of_floor(counters: &[NodeCounters]) -> NodeSums {
        let mut sums = NodeSums::default();
        for one in counters {
            #[expect(clippy::cast_precision_loss, reason = "a mean is rounded anyway")]
            let cpu_ns = one.cpu_ns as f64;
            sums.cpu_s += cpu_ns / 1e9;
            sums.syscalls += one.syscalls;
            sums.messages += one.messages;
            sums.packets += one.packets;
        }
        sums
    }

    fn since(&self, before: &NodeSums) -> NodeSums {
        NodeSums {
            cpu_s: self.cpu_s - before.cpu_s,
            syscalls: self.syscalls - before.syscalls,
            messages: self.messages - before.messages,
            packets: self.packets - before.packets,
            decrees: self.decrees - before.decrees,
        }
    }
}

fn count(counters: &BTreeMap<String, u64>, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or(0)
}

/// One stretch of load and its cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Operations that ended.
    pub operations: u64,
    /// The same per second.
    pub ops_per_s: f64,
    /// Half of them took at most so long. Microseconds.
    pub p50_us: f64,
    /// 99 of 100 took at most so long. Microseconds.
    pub p99_us: f64,
    /// CPU of all nodes per operation. Microseconds.
    pub nodes_cpu_us: f64,
    /// CPU of the client per operation. Microseconds.
    pub client_cpu_us: f64,
    /// System calls for sockets of all nodes, per operation.
    pub syscalls: f64,
    /// Messages that the nodes sent, per operation.
    pub messages: f64,
    /// Messages that the nodes sent, per packet.
    pub messages_per_packet: f64,
    /// Messages that the nodes sent, per decree; 0 on the floor.
    pub messages_per_decree: f64,
    /// Operations per decree; 0 on the floor.
    pub operations_per_decree: f64,
}

impl Cost {
    /// Of a stretch on a real cluster, from what its nodes had done before and after.
    pub fn of_load(report: &LoadReport, before: &NodeSums, after: &NodeSums) -> Cost {
        Cost {
            ops_per_s: report.ops_per_s,
            p50_us: number(report.p50_us),
            p99_us: number(report.p99_us),
            ..Cost::of(report.operations, report.client_cpu_s, &after.since(before))
        }
    }

    /// Of a stretch on the floor.
    pub fn of_floor(report: &FloorReport, before: &NodeSums, after: &NodeSums) -> Cost {
        Cost {
            ops_per_s: report.ops_per_s,
            p50_us: number(report.p50_us),
            p99_us: number(report.p99_us),
            ..Cost::of(report.operations, report.client_cpu_s, &after.since(before))
        }
    }

    fn of(operations: u64, client_cpu_s: f64, nodes: &NodeSums) -> Cost {
        let per_operation = |what: f64| what / number(operations.max(1));
        Cost {
            operations,
            nodes_cpu_us: per_operation(nodes.cpu_s * 1e6),
            client_cpu_us: per_operation(client_cpu_s * 1e6),
            syscalls: per_operation(number(nodes.syscalls)),
            messages: per_operation(number(nodes.messages)),
            messages_per_packet: number(nodes.messages) / number(nodes.packets.max(1)),
            messages_per_decree: number(nodes.messages) / number(nodes.decrees.max(1)),
            operations_per_decree: number(operations) / number(nodes.decrees.max(1)),
            ..Cost::default()
        }
    }

    /// CPU of nodes and client per operation. Microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.nodes_cpu_us + self.client_cpu_us
    }

    /// The median of each figure; the operations are added up.
    pub fn median(all: &[Cost]) -> Cost {
        let middle = |figure: fn(&Cost) -> f64| {
            let mut figures: Vec<f64> = all.iter().map(figure).collect();
            figures.sort_unstable_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(0.0)
        };
        Cost {
            operations: all.iter().map(|cost| cost.operations).sum(),
            ops_per_s: middle(|cost| cost.ops_per_s),
            p50_us: middle(|cost| cost.p50_us),
            p99_us: middle(|cost| cost.p99_us),
            nodes_cpu_us: middle(|cost| cost.nodes_cpu_us),
            client_cpu_us: middle(|cost| cost.client_cpu_us),
            syscalls: middle(|cost| cost.syscalls),
            messages: middle(|cost| cost.messages),
            messages_per_packet: middle(|cost| cost.messages_per_packet),
            messages_per_decree: middle(|cost| cost.messages_per_decree),
            operations_per_decree: middle(|cost| cost.operations_per_decree),
        }
    }

    /// What it cost, in words.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "CPU per operation {:.2} µs: {:.2} in all nodes together, {:.2} in the client",
                self.cpu_us(),
                self.nodes_cpu_us,
                self.client_cpu_us
            ),
            format!(
                "{:.2} system calls and {:.2} messages of the nodes per operation, {:.2} messages per packet, {:.1} operations \
                 per decree",
                self.syscalls, self.messages, self.messages_per_packet, self.operations_per_decree
            ),
        ]
    }

    /// What it cost, as fields.
    pub fn to_json(self) -> Value {
        json!({
            "cpu_us_per_op": rounded(self.cpu_us()),
            "nodes_cpu_us_per_op": rounded(self.nodes_cpu_us),
            "clients_cpu_us_per_op": rounded(self.client_cpu_us),
            "syscalls_per_op": rounded(self.syscalls),
            "messages_per_op": rounded(self.messages),
            "messages_per_packet": rounded(self.messages_per_packet),
        })
    }

    /// The same with how much was done and how fast.
    pub fn to_json_with_speed(self) -> Value {
        let mut fields = self.to_json();
        fields["operations"] = json!(self.operations);
        fields["ops_per_s"] = json!(rounded(self.ops_per_s));
        fields["p50_us"] = json!(self.p50_us);
        fields["p99_us"] = json!(self.p99_us);
        fields
    }
}

/// To three decimals.
pub fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a mean is rounded anyway")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_differences_per_operation() {
        let before = NodeSums {
            cpu_s: 1.0,
            syscalls: 100,
            messages: 1000,
            packets: 500,
            decrees: 10,
        };
        let after = NodeSums {
            cpu_s: 2.0,
            syscalls: 300,
            messages: 5000,
            packets: 1500,
            decrees: 60,
        };
        let report = LoadReport {
            operations: 1000,
            client_cpu_s: 0.5,
            ..LoadReport::default()
        };
        let cost = Cost::of_load(&report, &before, &after);
        assert_eq!((cost.nodes_cpu_us, cost.client_cpu_us), (1000.0, 500.0));
        assert_eq!((cost.syscalls, cost.messages), (0.2, 4.0));
        assert_eq!(cost.messages_per_packet, 4.0);
        assert_eq!(
            (cost.messages_per_decree, cost.operations_per_decree),
            (80.0, 20.0)
        );
    }

    #[test]
    fn the_median_is_taken_of_each_figure_by_itself() {
        let cost = |ops_per_s, p50_us| Cost {
            operations: 7,
            ops_per_s,
            p50_us,
            ..Cost::default()
        };
        let median = Cost::median(&[cost(1.0, 30.0), cost(3.0, 10.0), cost(2.0, 20.0)]);
        assert_eq!(
            (median.ops_per_s, median.p50_us, median.operations),
            (2.0, 20.0, 21)
        );
    }
}
