//! One node process of a local cluster.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use twostep_engine::node::config::CONFIG_FILE;
use twostep_engine::node::control::{self, Request};
use twostep_engine::node::status::NodeStatus;
use twostep_engine::types::NodeId;

use crate::interrupt::Interrupt;

/// How long a node may take to answer a status request.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The part of a log that a message shows.
const LOG_TAIL_BYTES: u64 = 600;

/// A node of a local cluster.
pub struct LocalNode {
    /// Its number.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its process, while it runs.
    pub child: Option<Child>,
    /// It was started again after it had ended, without a journal: it abstains.
    pub restarted: bool,
    /// CPU seconds of its earlier processes, as they last said.
    pub cpu_before_s: f64,
    /// As what it was told to lie. It counts among the faulty ones from then on, even when it is truthful again.
    pub lied: Option<String>,
    /// What it last said.
    pub last: Option<NodeStatus>,
}

impl LocalNode {
    /// Starts its process; `first` says that it has never run.
    pub fn start(&mut self, interrupt: &Interrupt, first: bool) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .context("cannot make a node's log")?;
        let mut command = Command::new(program);
        command
            .arg("node")
            .arg("--config")
            .arg(self.folder.join(CONFIG_FILE))
            .arg("--exit-with-parent");
        if first {
            command.arg("--first-start");
        }
        // Variables of the user were heeded when the folder was made. Ctrl-C in the terminal is for this process
        // alone, so children get a process group of their own.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TWOSTEP_")) {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start node {}", self.id))?;
        interrupt.add_process(child.id());
        self.child = Some(child);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Asks how it is; none if it does not run or does not answer.
    pub fn ask(&mut self, digests: bool) -> Option<NodeStatus> {
        self.child.as_ref()?;
        let status = control::status(&self.folder, digests, ANSWER_WITHIN).ok()?;
        self.last = Some(status.clone());
        Some(status)
    }

    /// Tells it something over its control socket.
    pub fn tell(&self, request: &Request) -> Result<()> {
        control::ask(&self.folder, request, ANSWER_WITHIN)
            .map(|_| ())
            .with_context(|| format!("node {}", self.id))
    }

    /// How its process ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child
                .try_wait()
                .with_context(|| format!("cannot ask for node {}", self.id)),
            None => Ok(None),
        }
    }

    /// What to say of an end that nobody asked for.
    pub fn death(&self, status: ExitStatus) -> anyhow::Error {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with status {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "somehow".to_owned(),
        };
        let tail = tail(&self.log()).unwrap_or_else(|error| format!("(no log: {error})"));
        anyhow!("node {} ended {how}. The end of its log:\n{tail}", self.id)
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = fs::metadata(path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
