//! `twostep check`: holds the histories of clients against what a key-value store may do.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use twostep_engine::client::history;
use twostep_tests::checkers::calls::{Judgement, judge};

use crate::load::grouped;

/// The flags of `check`.
#[derive(Args)]
pub struct CheckArgs {
    /// What `bench --history` wrote; several if clients of one machine called one cluster at one time
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the verdict as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Reads, judges and prints; ends with status 0 if everything is as it should be.
pub fn run(args: &CheckArgs) -> Result<ExitCode> {
    let mut calls = Vec::new();
    for path in &args.files {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let history = history::read(BufReader::new(file));
        calls.extend(history.with_context(|| path.display().to_string())?);
    }
    let began = Instant::now();
    let judgement = judge(&calls);
    if args.json {
        let mut fields = json!(judgement);
        fields["seconds"] = json!(began.elapsed().as_secs_f64());
        println!("{fields}");
    } else {
        lines(&judgement).iter().for_each(|line| println!("{line}"));
    }
    Ok(if judgement.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A judgement in words.
pub fn lines(judgement: &Judgement) -> Vec<String> {
    let linearizable = match (judgement.linearizable, judgement.undecided) {
        (true, _) => "linearizable".to_owned(),
        (false, 0) => "NOT LINEARIZABLE".to_owned(),
        (false, keys) => format!("{keys} keys UNDECIDED: too many orders to try"),
    };
    let mut lines = vec![format!(
        "{} calls of {} keys: {} committed, {} unknown, {} rejected, {} never sent; {linearizable}; violations {}, lost {}, duplicates {}",
        grouped(judgement.calls),
        judgement.keys,
        grouped(judgement.committed),
        grouped(judgement.unknown),
        grouped(judgement.rejected),
        grouped(judgement.busy),
        judgement.violations,
        judgement.lost,
        judgement.duplicates
    )];
    lines.extend(judgement.told.iter().map(|what| format!("  {what}")));
    lines
}
