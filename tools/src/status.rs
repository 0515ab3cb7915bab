//! `twostep status`: one node, or all nodes in the folder of a testnet.

use std::collections::BTreeMap;
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
    let known = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    let digests = known.map(|status| (status.node, status.clients_digest.as_str()));
    if let Some(warning) = differing_clients(digests) {
        eprintln!("WARNING: {warning}");
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

/// What to say if not all nodes have the same list of clients.
fn differing_clients<'a>(digests: impl Iterator<Item = (u16, &'a str)>) -> Option<String> {
    let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (node, digest) in digests {
        lists.entry(digest).or_default().push(node.to_string());
    }
    if lists.len() < 2 {
        return None;
    }
    let lists: Vec<String> = lists
        .iter()
        .map(|(digest, nodes)| {
            let short = digest.get(..16).unwrap_or(digest);
            format!("nodes {} have {short}", nodes.join(", "))
        })
        .collect();
    Some(format!(
        "the nodes' lists of clients differ ({}); requests of a client that only some nodes know can stall the \
         order. Give all nodes the same cluster file and restart those that differ",
        lists.join("; ")
    ))
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

/// Until when a node abstains, in words.
fn until(status: &NodeStatus) -> String {
    if status.without_disks.len() > status.f {
        let nodes: Vec<String> = status.without_disks.iter().map(u16::to_string).collect();
        return format!(
            "; nodes {} lost theirs, which is more than f: they cannot come back by themselves",
            nodes.join(", ")
        );
    }
    match status.abstains_until {
        Some(until) => format!(
            " until decree {} is certified, in regency {} or above",
            until.low, until.regency
        ),
        None => "; it asks the others what they remember".to_owned(),
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
            .map_or(String::new(), |why| format!(
                ", abstaining: {why}{}",
                until(status)
            )),
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
        "regency {} (node {} leads)  low {}  learned {}  executed {}  up {:.0} s  cpu {:.1} s  {} MiB  clients {}",
        status.regency,
        status.leader,
        status.low,
        status.learned,
        status.executed,
        status.uptime_s,
        status.cpu_s,
        status.resident_bytes >> 20,
        status.client_links
    ));
    let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    line(format!(
        "signatures made {} ({} at checkpoints), checked {} ({})  refused {} messages in {} ms of CPU time",
        status.signatures_made.total(),
        status.signatures_made.checkpoints,
        status.signatures_checked.total(),
        status.signatures_checked.checkpoints,
        counted("refused.messages"),
        counted("refused.cpu_us") / 1000
    ));
    line(format!(
        "links: {} system calls, {} packets out with {} messages, {} tags, {} MiB in, {} MiB out",
        counted("net.reads") + counted("net.writes") + counted("net.polls"),
        counted("net.packets_out"),
        counted("net.messages_out"),
        counted("net.macs"),
        counted("net.bytes_in") >> 20,
        counted("net.bytes_out") >> 20,
    ));
    if let Some(journal) = &status.journal {
        let trouble = journal.error.as_deref().filter(|_| journal.state != "ok");
        line(format!(
            "journal {}: {} records durable, {} MiB written, {} MiB in {} files{}{}",
            journal.state,
            journal.records,
            journal.written_bytes >> 20,
            journal.bytes >> 20,
            journal.segments,
            if journal.low_space {
                "; LITTLE ROOM IS LEFT"
            } else {
                ""
            },
            trouble.map_or(String::new(), |why| format!("; {why}")),
        ));
    }
    let misses: Vec<String> = off_the_fast_path(&status.counters)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !misses.is_empty() {
        line(format!("off the fast path: {}", misses.join(", ")));
    }
    for (name, stage) in &status.stages {
        line(format!(
            "stage {name:<8} p50 {:>8}  p99 {:>8}  p99.9 {:>8}  longest {:>8}  of {}",
            in_time(stage.p50_ns),
            in_time(stage.p99_ns),
            in_time(stage.p999_ns),
            in_time(stage.max_ns),
            stage.count,
        ));
    }
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
    if let Some(lying) = &status.misbehaviour
        && let Some(strategy) = &lying.strategy
    {
        line(format!(
            "LIES as it was told to: {strategy}, {} times",
            lying.lies
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

/// The counters of decrees that were not learned from votes on first proposals, and of what was said again, by reason.
fn off_the_fast_path(counters: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, u64)> {
    let reasons = counters.iter().filter_map(|(name, count)| {
        let reason = name.strip_prefix("sent_again.").or(match name.as_str() {
            "decrees.by_pull" => Some("pulled"),
            "proposals.doubted" => Some("doubted"),
            "regencies" => Some("regencies"),
            _ => None,
        });
        reason.map(|reason| (reason, *count))
    });
    reasons.filter(|(_, count)| *count > 0)
}

/// A time with a unit that suits it.
fn in_time(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..10_000_000 => format!("{} µs", nanos / 1_000),
        _ => format!("{} ms", nanos / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_lists_of_clients_are_told_with_who_has_which() {
        let same = [(0, "aa"), (1, "aa"), (2, "aa")];
        assert_eq!(differing_clients(same.into_iter()), None);
        assert_eq!(differing_clients(std::iter::empty()), None);
        let differing = [(0, "aa"), (1, "bb"), (2, "aa")];
        let warning = differing_clients(differing.into_iter()).unwrap();
        assert!(
            warning.contains("nodes 0, 2 have aa; nodes 1 have bb"),
            "{warning}"
        );
    }
}
