//! What a load comes to.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The largest latency that is told apart. Microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// One second of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Which second, from 1.
    pub second: u64,
    /// Calls that committed in it.
    pub operations: u64,
    /// The same per second of its true length.
    pub ops_per_s: f64,
    /// Half of them took at most so long. Microseconds.
    pub p50_us: u64,
    /// 99 of 100 took at most so long. Microseconds.
    pub p99_us: u64,
    /// Errors since the start.
    pub errors: u64,
    /// Calls that ended unknown since the start.
    pub unknown: u64,
    /// Calls under way at its end.
    pub in_flight: u64,
}

/// How long calls took: so many per cent of them at most so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentile {
    /// Per cent of the calls.
    pub percent: f64,
    /// Microseconds.
    pub us: u64,
}

/// The percentiles of a report, as far as there are calls enough to tell.
const PERCENTS: [f64; 16] = [
    1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99,
    99.999,
];

/// A whole load.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LoadReport {
    /// How many sessions made calls.
    pub sessions: u32,
    /// How many calls each kept under way at most.
    pub pipeline: usize,
    /// The rate that was asked for, calls per second; null in a closed loop.
    pub rate: Option<u64>,
    /// The size of one operation. Bytes.
    pub op_bytes: usize,
    /// How long calls were made and answered. Seconds.
    pub seconds: f64,
    /// Calls that committed.
    pub operations: u64,
    /// The same per second.
    pub ops_per_s: f64,
    /// Half of the calls took at most so long, from the intended time of the call to the f+1st equal reply. Microseconds.
    pub p50_us: u64,
    /// 99 of 100 calls took at most so long. Microseconds.
    pub p99_us: u64,
    /// 999 of 1000 calls took at most so long. Microseconds.
    pub p999_us: u64,
    /// The longest call. Microseconds.
    pub max_us: u64,
    /// The same for more percentiles, ascending.
    pub percentiles: Vec<Percentile>,
    /// From the start of the load, before its sessions are open, until its first call committed. Microseconds.
    pub first_commit_us: u64,
    /// The longest time without a commit of any session while calls were made and answered: how long nothing went on.
    /// Microseconds.
    pub longest_pause_us: u64,
    /// CPU time of the thread that made the calls, from the first to the last of them. Seconds.
    pub client_cpu_s: f64,
    /// Calls that were rejected, or answered with something that no increment can give.
    pub errors: u64,
    /// Calls that were sent and whose outcome is not known.
    pub unknown: u64,
    /// Calls that ended busy: nothing was sent before their deadline.
    pub busy: u64,
    /// Values that no call got although none ended unknown (see [`crate::ledger`]).
    pub gaps: u64,
    /// Values that came more than once, or executions that nobody called (see [`crate::ledger`]).
    pub duplicates: u64,
    /// Sessions whose key could not be read back at the end.
    pub unverified: u32,
    /// Whether the answers were checked; if not, gaps, duplicates and unverified say nothing.
    pub checked: bool,
    /// Bundles that were sent for the first time.
    pub bundles: u64,
    /// Bundles that were sent again, signed, because no answer came in time.
    pub retries: u64,
    /// Why the first error was one.
    pub first_error: Option<String>,
}

impl LoadReport {
    /// Several loads of the same kind as one: counts are added up, latencies and rates are medians, `max_us` and the
    /// longest pause are the worst.
    #[must_use]
    pub fn together(loads: &[LoadReport]) -> LoadReport {
        let Some(first) = loads.first() else {
            return LoadReport::default();
        };
        let mut all = first.clone();
        for load in &loads[1..] {
            all.seconds += load.seconds;
            all.operations += load.operations;
            all.client_cpu_s += load.client_cpu_s;
            all.errors += load.errors;
            all.unknown += load.unknown;
            all.busy += load.busy;
            all.gaps += load.gaps;
            all.duplicates += load.duplicates;
            all.unverified += load.unverified;
            all.bundles += load.bundles;
            all.retries += load.retries;
            all.max_us = all.max_us.max(load.max_us);
            all.longest_pause_us = all.longest_pause_us.max(load.longest_pause_us);
            all.first_error = all.first_error.or_else(|| load.first_error.clone());
        }
        let middle = |figure: fn(&LoadReport) -> u64| {
            let mut figures: Vec<u64> = loads.iter().map(figure).collect();
            figures.sort_unstable();
            figures[figures.len() / 2]
        };
        all.p50_us = middle(|load| load.p50_us);
        if let Some(load) = loads.iter().find(|load| load.p50_us == all.p50_us) {
            all.percentiles.clone_from(&load.percentiles);
        }
        all.p99_us = middle(|load| load.p99_us);
        all.p999_us = middle(|load| load.p999_us);
        let mut rates: Vec<f64> = loads.iter().map(|load| load.ops_per_s).collect();
        rates.sort_unstable_by(f64::total_cmp);
        all.ops_per_s = rates[rates.len() / 2];
        all
    }

    /// Whether every call was executed exactly once, as far as anybody can tell from outside.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors == 0 && self.gaps == 0 && self.duplicates == 0 && self.unverified == 0
    }

    /// Nothing committed for so long.
    pub(crate) fn paused(&mut self, pause: Duration) {
        self.longest_pause_us = self.longest_pause_us.max(micros(pause));
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Latencies: of the second that runs, and of all before.
pub(crate) struct Latencies {
    second: Histogram<u64>,
    total: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Latencies {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("bounds of a histogram");
        Latencies {
            second: histogram(),
            total: histogram(),
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.second.saturating_record(micros(latency));
    }

    /// The same for `count` calls that took equally long.
    pub(crate) fn record_many(&mut self, latency: Duration, count: u64) {
        self.second.saturating_record_n(micros(latency), count);
    }

    /// Ends the second; its count, p50 and p99.
    pub(crate) fn end_second(&mut self) -> (u64, u64, u64) {
        let (count, p50, p99) = (
            self.second.len(),
            quantile(&self.second, 0.5),
            quantile(&self.second, 0.99),
        );
        self.total.add(&self.second).expect("equal bounds");
        self.second.reset();
        (count, p50, p99)
    }

    /// Writes count and percentiles of everything into the report.
    pub(crate) fn finish(&mut self, report: &mut LoadReport) {
        self.end_second();
        report.operations = self.total.len();
        report.p50_us = quantile(&self.total, 0.5);
        report.p99_us = quantile(&self.total, 0.99);
        report.p999_us = quantile(&self.total, 0.999);
        report.max_us = self.total.max();
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let calls = self.total.len() as f64;
        report.percentiles = PERCENTS
            .into_iter()
            .filter(|percent| calls * (100.0 - percent) >= 100.0)
            .map(|percent| Percentile {
                percent,
                us: quantile(&self.total, percent / 100.0),
            })
            .collect();
    }
}

/// CPU time of the calling thread, user and system.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn quantile(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    if histogram.is_empty() {
        0
    } else {
        histogram.value_at_quantile(quantile)
    }
}

/// `count` per second of `time`; 0 if no time has passed.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
    let count = count as f64;
    count / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_add_up_to_the_total() {
        let mut latencies = Latencies::new();
        (1..=99).for_each(|_| latencies.record(Duration::from_micros(100)));
        assert_eq!(latencies.end_second(), (99, 100, 100));
        assert_eq!(latencies.end_second(), (0, 0, 0));
        latencies.record(Duration::from_secs(3600));
        let mut report = LoadReport::default();
        latencies.finish(&mut report);
        assert_eq!((report.operations, report.p50_us), (100, 100));
        let percents: Vec<f64> = report.percentiles.iter().map(|one| one.percent).collect();
        assert_eq!(
            percents.last(),
            Some(&99.0),
            "one call in 100 is the rarest that 100 calls tell of"
        );
        assert!(
            report.max_us >= LATENCY_US_MAX,
            "what is too long is cut, not lost"
        );
    }
}
