//! What `bench --report FILE.html` writes: one page from which everything about a run can be learned.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use twostep_bench::page::{Axis, Chart, Page, Series, Table};
use twostep_bench::report::Percentile;
use twostep_bench::{LoadReport, Sample};

use crate::compare::{Comparison, Kind, times};
use crate::load::{grouped, grouped_rate, time};
use crate::measure::Cost;

/// What was asked for and where it ran, as pairs.
pub type Settings<'a> = [(&'a str, String)];

/// Writes the page.
pub fn write(page: &Page, file: &Path) -> Result<()> {
    fs::write(file, page.to_html())
        .with_context(|| format!("cannot write the report {}", file.display()))
}

/// The page of a load on one cluster. `cost` is known of clusters that `bench` started.
pub fn of_load(
    settings: &Settings<'_>,
    report: &LoadReport,
    samples: &[Sample],
    cost: Option<&Cost>,
) -> Page {
    let by_second = |figure: fn(&Sample) -> f64| {
        let point = |sample: &Sample| (number(sample.second), figure(sample));
        samples.iter().map(point).collect()
    };
    let line = |name: &str, points| Series {
        name: name.to_owned(),
        points,
    };
    let mut tables = vec![Table::of_pairs("Settings", settings), outcome(report)];
    tables.extend(cost.map(|cost| costs(&[("real", cost)])));
    Page {
        title: format!("twostep: {} operations a second", grouped_rate(report.ops_per_s)),
        about: "Latency counts from the intended time of each call to the (f+1)-th equal reply, so that a stall shows.".to_owned(),
        tables,
        charts: vec![
            percentiles(&[("real", &report.percentiles)], "Latency by percentile"),
            over_time("Throughput over time", "operations a second", Axis::Linear, vec![line("committed", by_second(|sample| sample.ops_per_s))]),
            over_time(
                "Latency over time",
                "µs",
                Axis::Logarithmic,
                vec![
                    line("p50", by_second(|sample| number(sample.p50_us))),
                    line("p99", by_second(|sample| number(sample.p99_us))),
                ],
            ),
        ],
    }
}

/// The page of a comparison with the floor.
pub fn of_comparison(settings: &Settings<'_>, comparison: &Comparison) -> Page {
    let by_round = |kind: Kind, figure: fn(&Cost) -> f64| {
        let costs = comparison.costs(kind).iter().enumerate();
        costs
            .map(|(round, cost)| (number(round as u64 + 1), figure(cost)))
            .collect()
    };
    let chart = |title: &str, unit: &str, kinds: &[Kind], figure: fn(&Cost) -> f64| Chart {
        title: title.to_owned(),
        x_name: "round".to_owned(),
        y_name: unit.to_owned(),
        x: Axis::Linear,
        y: Axis::Linear,
        series: kinds
            .iter()
            .map(|kind| Series {
                name: kind.name().to_owned(),
                points: by_round(*kind, figure),
            })
            .collect(),
    };
    let lone = [Kind::Lone, Kind::FloorLone];
    let loaded = [Kind::Loaded, Kind::FloorLoaded, Kind::KeyValue];
    let medians: Vec<(Kind, Cost)> = Kind::ALL
        .map(|kind| (kind, comparison.median(kind)))
        .to_vec();
    let columns: Vec<(&str, &Cost)> = medians
        .iter()
        .map(|(kind, cost)| (kind.name(), cost))
        .collect();
    let ratios = [
        (
            "latency of a lone operation, p50",
            times(comparison.latency_ratio()),
        ),
        (
            "CPU per operation under load, clients included",
            times(comparison.cpu_ratio()),
        ),
        (
            "messages between processes of a lone operation",
            comparison.trace_messages.to_string(),
        ),
    ];
    let curves = |kinds: &[Kind], title: &str| {
        let curves: Vec<(&str, &[Percentile])> = kinds
            .iter()
            .map(|kind| (kind.name(), comparison.percentiles(*kind)))
            .collect();
        percentiles(&curves, title)
    };
    Page {
        title: "twostep beside its floor".to_owned(),
        about: "The floor moves the same messages between as many processes over the same driver, with no protocol, no MACs and no \
                hashing. Slices of all kinds alternate in one run; figures are medians over the rounds."
            .to_owned(),
        tables: vec![
            Table::of_pairs("Settings", settings),
            Table::of_pairs("Real over floor", &ratios),
            costs(&columns),
            outcome(&comparison.report),
        ],
        charts: vec![
            curves(&lone, "Latency of a lone operation by percentile"),
            curves(&loaded, "Latency under load by percentile"),
            chart("Throughput by round", "operations a second", &loaded, |cost| cost.ops_per_s),
            chart("CPU per operation by round, clients included", "µs", &loaded, Cost::cpu_us),
            chart("p50 of a lone operation by round", "µs", &lone, |cost| cost.p50_us),
            chart("p99 of a lone operation by round", "µs", &lone, |cost| cost.p99_us),
        ],
    }
}

fn outcome(report: &LoadReport) -> Table {
    let checked = if report.checked {
        ""
    } else {
        " (not checked: the state machine has no answers)"
    };
    Table::of_pairs(
        "What came of the calls",
        &[
            ("operations", grouped(report.operations)),
            ("operations a second", grouped_rate(report.ops_per_s)),
            ("seconds", format!("{:.2}", report.seconds)),
            ("p50", time(report.p50_us)),
            ("p99", time(report.p99_us)),
            ("p99.9", time(report.p999_us)),
            ("longest", time(report.max_us)),
            ("longest pause", time(report.longest_pause_us)),
            (
                "gaps and duplicates",
                format!("{} and {}{checked}", report.gaps, report.duplicates),
            ),
            (
                "errors, unknown, busy",
                format!("{}, {}, {}", report.errors, report.unknown, report.busy),
            ),
            (
                "first error",
                report
                    .first_error
                    .clone()
                    .unwrap_or_else(|| "none".to_owned()),
            ),
        ],
    )
}

fn costs(columns: &[(&str, &Cost)]) -> Table {
    let mut rows = vec![vec!["per operation".to_owned()]];
    rows[0].extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    let mut row = |name: &str, figure: &dyn Fn(&Cost) -> f64| {
        let cells = columns.iter().map(|(_, cost)| match figure(cost) {
            figure if figure >= 1000.0 => grouped_rate(figure),
            figure => format!("{figure:.3}"),
        });
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    };
    row("operations a second", &|cost| cost.ops_per_s);
    row("p50, µs", &|cost| cost.p50_us);
    row("p99, µs", &|cost| cost.p99_us);
    row("CPU of nodes and client, µs", &Cost::cpu_us);
    row("CPU of the nodes, µs", &|cost| cost.nodes_cpu_us);
    row("CPU of the client, µs", &|cost| cost.client_cpu_us);
    row("system calls of the nodes", &|cost| cost.syscalls);
    row("messages of the nodes", &|cost| cost.messages);
    row("messages per packet", &|cost| cost.messages_per_packet);
    Table {
        title: "Cost".to_owned(),
        rows,
    }
}

fn percentiles(curves: &[(&str, &[Percentile])], title: &str) -> Chart {
    let series = curves.iter().map(|(name, percentiles)| Series {
        name: (*name).to_owned(),
        points: percentiles
            .iter()
            .map(|one| (one.percent, number(one.us)))
            .collect(),
    });
    Chart {
        title: title.to_owned(),
        x_name: "per cent of the operations".to_owned(),
        y_name: "µs".to_owned(),
        x: Axis::Percentiles,
        y: Axis::Logarithmic,
        series: series.collect(),
    }
}

fn over_time(title: &str, unit: &str, y: Axis, series: Vec<Series>) -> Chart {
    Chart {
        title: title.to_owned(),
        x_name: "second".to_owned(),
        y_name: unit.to_owned(),
        x: Axis::Linear,
        y,
        series,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a chart is not that exact")]
fn number(count: u64) -> f64 {
    count as f64
}
