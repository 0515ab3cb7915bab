//! The load that `dev` and `bench` put on a cluster, as flags, and its numbers for people.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use twostep_bench::config::StopFlag;
use twostep_bench::{LoadConfig, LoadReport, Sample};
use twostep_engine::client::ClientSetup;
use twostep_engine::node::ClientFolder;

/// The flags of the load.
#[derive(Args, Clone, Debug)]
pub struct LoadFlags {
    /// Sessions that call independently of each other [default: 16 in dev, 32 in bench]
    #[arg(long, value_name = "N")]
    pub clients: Option<u32>,
    /// Calls that each of them keeps under way [default: 4 in dev, 32 in bench]
    #[arg(long, value_name = "N")]
    pub pipeline: Option<usize>,
    /// Calls per second in all, due at their times whatever the cluster does; `10%`: that share of what it can, measured
    /// for 3 s before; `half`: 50%; `closed`: a call follows a call [default: closed, and half in dev if something is to
    /// happen at a set time]
    #[arg(long, value_name = "R|N%|half|closed", value_parser = rate)]
    pub rate: Option<Rate>,
    /// The size of an operation
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub op_bytes: usize,
    /// Sign every bundle instead of tagging it
    #[arg(long)]
    pub signed: bool,
    /// Do not hold answers against exactly once: for a running cluster whose state machine is not the key-value store
    #[arg(long)]
    pub unchecked: bool,
}

/// How often to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// So often a second.
    PerSecond(u64),
    /// So many per cent of what a closed loop does.
    OfPeak(u32),
    /// A call follows a call.
    Closed,
}

impl Rate {
    /// Half as often as a closed loop does.
    pub const HALF: Rate = Rate::OfPeak(50);
}

fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || {
        format!(
            "expected calls per second such as 20000, a share of the peak such as 10% (1% to 200%), half or closed, found \"{text}\""
        )
    };
    match text {
        "half" => Ok(Rate::HALF),
        "closed" => Ok(Rate::Closed),
        _ => match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 1..=200) => Ok(Rate::OfPeak(percent)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Rate::PerSecond).map_err(|_| wrong()),
        },
    }
}

/// How long the peak is measured.
pub const PEAK_FOR: Duration = Duration::from_secs(3);

/// What a command takes where the flags say nothing.
#[derive(Clone, Copy, Debug)]
pub struct LoadDefaults {
    /// Sessions.
    pub clients: u32,
    /// Calls that each keeps under way.
    pub pipeline: usize,
    /// How long to wait at the end for what is under way.
    pub drain: Duration,
}

impl LoadFlags {
    /// The load that these flags ask for, made by the client in `folder`, for `duration` or until `stop`. A closed
    /// loop unless [`Rate::PerSecond`] is said.
    pub fn config(
        &self,
        folder: &Path,
        duration: Option<Duration>,
        stop: &StopFlag,
        defaults: LoadDefaults,
    ) -> Result<LoadConfig> {
        let client = ClientFolder::load(folder)?;
        let nodes = client.cluster.resolve()?;
        let carrier = client.cluster.carrier;
        // The loop draws the nonces itself, so the seed says nothing.
        let mut setup = ClientSetup::new(client.cluster.configuration, client.identity, 0)?;
        setup.tuning.signed = self.signed;
        let mut config = LoadConfig::new(setup, nodes);
        config.tuning.carrier = carrier;
        config.sessions = self.clients.unwrap_or(defaults.clients);
        config.pipeline = self.pipeline.unwrap_or(defaults.pipeline);
        config.rate = match self.rate {
            Some(Rate::PerSecond(rate)) => Some(rate),
            Some(Rate::OfPeak(_) | Rate::Closed) | None => None,
        };
        config.op_bytes = self.op_bytes;
        config.duration = duration;
        config.drain = defaults.drain;
        config.checked = !self.unchecked;
        config.stop = stop.clone();
        Ok(config)
    }

    /// The closed loop that tells what the peak is.
    pub fn peak(
        &self,
        folder: &Path,
        stop: &StopFlag,
        defaults: LoadDefaults,
    ) -> Result<LoadConfig> {
        let closed = LoadFlags {
            rate: Some(Rate::Closed),
            ..self.clone()
        };
        closed.config(folder, Some(PEAK_FOR), stop, defaults)
    }
}

/// So many per cent of what a closed loop did, at least 1 call per second.
pub fn share_of(peak: &LoadReport, percent: u32) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is a small positive number, and `as` saturates"
    )]
    let share = (peak.ops_per_s * f64::from(percent) / 100.0) as u64;
    share.max(1)
}

/// One second in words.
pub fn sample_line(sample: &Sample) -> String {
    format!(
        "{:>4} s  {:>9} ops/s  p50 {:>8}  p99 {:>8}  errors {}  unknown {}",
        sample.second,
        grouped_rate(sample.ops_per_s),
        time(sample.p50_us),
        time(sample.p99_us),
        sample.errors,
        sample.unknown
    )
}

/// A whole load in words.
pub fn report_lines(report: &LoadReport) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{} operations of {} bytes in {:.1} s: {} ops/s, {} clients with {} calls each{}",
            grouped(report.operations),
            report.op_bytes,
            report.seconds,
            grouped_rate(report.ops_per_s),
            report.sessions,
            report.pipeline,
            report.rate.map_or(String::new(), |rate| format!(
                ", {} calls due per second",
                grouped(rate)
            ))
        ),
        format!(
            "latency p50 {}, p99 {}, p99.9 {}, at most {}; longest pause {}",
            time(report.p50_us),
            time(report.p99_us),
            time(report.p999_us),
            time(report.max_us),
            time(report.longest_pause_us)
        ),
        format!(
            "gaps {}, duplicates {}, errors {}, unknown {}, busy {}, unverified {}",
            report.gaps,
            report.duplicates,
            report.errors,
            report.unknown,
            report.busy,
            report.unverified
        ),
    ];
    if let Some(why) = &report.first_error {
        lines.push(format!("the first error: {why}"));
    }
    lines
}

/// `12345` as `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate, rounded to a whole number.
pub fn grouped_rate(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is a small positive number, and `as` saturates"
    )]
    let whole = rate.round() as u64;
    grouped(whole)
}

/// Microseconds in the unit that reads best.
pub fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([7, 1_250, 3_900_000].map(time), ["7 µs", "1.2 ms", "3.9 s"]);
        assert_eq!(grouped_rate(51_999.6), "52,000");
    }

    #[test]
    fn a_rate_is_a_number_or_a_share_of_the_peak() {
        assert_eq!(rate("20000"), Ok(Rate::PerSecond(20_000)));
        assert_eq!(rate("half"), Ok(Rate::OfPeak(50)));
        assert_eq!(rate("10%"), Ok(Rate::OfPeak(10)));
        assert!(
            ["0%", "201%", "%", "-5%", "1.5%"]
                .iter()
                .all(|text| rate(text).is_err())
        );
        assert!(rate("fast").unwrap_err().contains("half or closed"));
        let peak = LoadReport {
            ops_per_s: 9_001.0,
            ..LoadReport::default()
        };
        assert_eq!(
            (share_of(&peak, 50), share_of(&LoadReport::default(), 50)),
            (4_500, 1)
        );
    }
}
