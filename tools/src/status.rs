//! `twostep status`: one node, or all nodes in the folder of a testnet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use twostep_engine::node::config::CONFIG_FILE;
use twostep_engine::node::control::{self, ControlError};
use twostep_engine::node::status::NodeStatus;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The flags of `status`.
#[derive(Args)]
pub struct StatusArgs {
    /// The folder of a node, or one that holds the folders node-K
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Print one line of JSON: a list with what every node says
    #[arg(long)]
    json: bool,
}

/// Asks and prints; ends with status 0 if every node answered.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let folders = node_folders(&args.dir)?;
    let answers: Vec<_> = folders
        .iter()
        .map(|folder| (folder, control::status(folder, true, PATIENCE)))
        .collect();
    if args.json {
        let list: Vec<Value> = answers
            .iter()
            .map(|(folder, answer)| as_json(folder, answer))
            .collect();
        println!("{}", serde_json::to_string(&list)?);
    } else {
        for (folder, answer) in &answers {
            match answer {
                Ok(status) => print!("{}", in_words(status)),
                Err(error) => println!("{}: {error}", name_of(folder)),
            }
        }
    }
    let all = answers.iter().all(|(_, answer)| answer.is_ok());
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn node_folders(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join(CONFIG_FILE).exists() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = fs::read_dir(dir).with_context(|| format!("--dir {}", dir.display()))?;
    let mut numbered = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = name_of(&path)
            .strip_prefix("node-")
            .and_then(|number| number.parse::<u16>().ok());
        if let Some(number) = number {
            numbered.push((number, path));
        }
    }
    if numbered.is_empty() {
        bail!(
            "--dir {}: neither the folder of a node ({CONFIG_FILE}) nor one with folders node-K as `twostep testnet` makes them",
            dir.display()
        );
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(
        || folder.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn as_json(folder: &Path, answer: &Result<NodeStatus, ControlError>) -> Value {
    match answer {
        Ok(status) => json!(status),
        Err(error) => json!({ "folder": name_of(folder), "error": error.to_string() }),
    }
}

fn in_words(status: &NodeStatus) -> String {
    let mut text = format!(
        "node {} ({}): {}{}\n",
        status.node,
        status.roles,
        if status.ready { "ready" } else { "not ready" },
        status
            .abstaining
            .as_ref()
            .map_or(String::new(), |why| format!(", abstaining: {why}")),
    );
    let mut line = |words: String| text.push_str(&format!("  {words}\n"));
    line(format!(
        "cluster {}  mode {}  f {}  listens on {}  driver {}",
        status.cluster.get(..8).unwrap_or(&status.cluster),
        status.mode,
        status.f,
        status.listen,
        status.driver
    ));
    line(format!(
        "regency {} (node {} leads)  low {}  learned {}  executed {}  up {:.0} s  cpu {:.1} s  clients {}",
        status.regency,
        status.leader,
        status.low,
        status.learned,
        status.executed,
        status.uptime_s,
        status.cpu_s,
        status.client_links
    ));
    if let Some(digests) = &status.digests {
        let short = |digest: &str| digest.get(..16).unwrap_or(digest).to_owned();
        let chain = digests.chain.as_deref().map_or("-".to_owned(), short);
        line(format!(
            "at decree {}: order {chain}  results {}  state {}",
            digests.decree,
            short(&digests.results),
            short(&digests.state)
        ));
    }
    if let Some(decree) = status.diverged {
        line(format!(
            "DIVERGED at decree {decree}: its results differ from those of other learners"
        ));
    }
    for missing in &status.missing {
        line(format!("missing node {}: {}", missing.node, missing.why));
    }
    for (title, refusals) in [
        ("refused", &status.refusals),
        ("refused by peers", &status.refused_by_peers),
    ] {
        if !refusals.is_empty() {
            let list: Vec<String> = refusals
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            line(format!("{title}: {}", list.join(", ")));
        }
    }
    text
}
