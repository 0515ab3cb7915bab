//! Running the command, and clusters of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a cluster may take to be ready, and a short command to end. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// On standard output.
    pub stdout: String,
    /// On standard error.
    pub stderr: String,
}

impl Ended {
    /// The last line of standard output as JSON.
    pub fn json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Checks that it failed and said so.
    pub fn refused(&self, expected: &str) -> &Ended {
        assert!(!self.status.success(), "it should have failed: {self:?}");
        assert!(
            self.stderr.contains(expected),
            "expected \"{expected}\" in {self:?}"
        );
        self
    }

    /// Checks that it succeeded.
    pub fn ok(&self) -> &Ended {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

/// The command with these arguments, without the variables of whoever runs the tests.
pub fn twostep(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twostep"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TWOSTEP_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end; fails the test if that takes longer than `PATIENCE`.
pub fn run(mut command: Command) -> Ended {
    let child = command.spawn().unwrap();
    end_of(child, PATIENCE)
}

/// Waits for a child at most `patience`.
pub fn end_of(mut child: Child, patience: Duration) -> Ended {
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut text).unwrap();
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let until = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    match status {
        Some(status) => Ended {
            status,
            stdout,
            stderr,
        },
        None => panic!("it did not end within {patience:?}; it said:\n{stdout}\n{stderr}"),
    }
}

/// Asks until the answer is there; fails the test after `PATIENCE`.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A port such that it and the `count − 1` after it are free, and no other test of this run gets them.
pub fn base_port(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(count, Ordering::SeqCst);
        let offset = std::process::id()
            .wrapping_mul(131)
            .wrapping_add(u32::from(step))
            % 7_000;
        let base = 10_000 + u16::try_from(offset).unwrap();
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (base..base + count).all(free) {
            return base;
        }
    }
}

/// Processes whose command line names `path`.
pub fn processes_of(path: &Path) -> Vec<u32> {
    let needle = path.to_string_lossy().into_owned();
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let names_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&needle)
    };
    numbers.filter(names_it).collect()
}

/// A cluster made by `testnet` whose nodes the test starts and ends.
pub struct Testnet {
    /// Where its folders are.
    pub dir: TempDir,
    /// Node K listens on this port plus K.
    pub base_port: u16,
    nodes: Vec<Option<Child>>,
}

impl Testnet {
    /// Makes the folders of a cluster of `count` nodes.
    pub fn new(count: u16, arguments: &[&str]) -> Testnet {
        let (dir, base_port) = (tempfile::tempdir().unwrap(), base_port(count));
        let (path, port) = (
            dir.path().to_str().unwrap().to_owned(),
            base_port.to_string(),
        );
        let mut all = vec![
            "testnet",
            "--dir",
            &path,
            "--base-port",
            &port,
            "--t0-ms",
            "200",
        ];
        all.extend(arguments);
        run(twostep(&all)).ok();
        let nodes = (0..count).map(|_| None).collect();
        Testnet {
            dir,
            base_port,
            nodes,
        }
    }

    /// The same with every node running and ready.
    pub fn running(count: u16, arguments: &[&str]) -> Testnet {
        let mut testnet = Testnet::new(count, arguments);
        for node in 0..usize::from(count) {
            testnet.start(node, &["--first-start"]);
        }
        testnet.wait_ready();
        testnet
    }

    /// The folder of a node.
    pub fn node(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// The folder of a client.
    pub fn client(&self, client: usize) -> PathBuf {
        self.dir.path().join(format!("client-{client}"))
    }

    /// The command that runs a node.
    pub fn node_command(&self, node: usize, arguments: &[&str]) -> Command {
        let config = self.node(node).join("config.toml");
        let mut all = vec!["node", "--config", config.to_str().unwrap()];
        all.extend(arguments);
        twostep(&all)
    }

    /// Starts a node; what it logs goes to the file `log` in its folder.
    pub fn start(&mut self, node: usize, arguments: &[&str]) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.node(node).join("log"))
            .unwrap();
        let mut command = self.node_command(node, arguments);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.nodes[node] = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Takes a node's process out of the test's care.
    pub fn take(&mut self, node: usize) -> Child {
        self.nodes[node].take().expect("it runs")
    }

    /// What a node says; none while it does not answer.
    pub fn status(&self, node: usize) -> Option<Value> {
        let dir = self.node(node);
        let said = run(twostep(&[
            "status",
            "--json",
            "--dir",
            dir.to_str().unwrap(),
        ]));
        said.status.success().then(|| said.json()[0].clone())
    }

    /// Waits until every running node says that it is ready.
    pub fn wait_ready(&self) {
        for node in (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some()) {
            eventually(&format!("node {node} is ready"), || {
                self.status(node).filter(|status| status["ready"] == true)
            });
        }
    }

    /// Waits until a node has counted refusals under this name.
    pub fn wait_refused(&self, node: usize, name: &str) {
        eventually(&format!("node {node} counts {name}"), || {
            let status = self.status(node)?;
            status["refusals"][name].as_u64().filter(|count| *count > 0)
        });
    }

    /// Runs `client` with the identity of a client's folder.
    pub fn call(&self, folder: &Path, arguments: &[&str]) -> Ended {
        let mut all = vec![
            "client",
            "--timeout",
            "20s",
            "--cluster",
            folder.to_str().unwrap(),
        ];
        all.extend(arguments);
        run(twostep(&all))
    }

    /// What a node logged.
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.node(node).join("log")).unwrap_or_default()
    }
}

impl Drop for Testnet {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            // Ended or not, it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            for node in 0..self.nodes.len() {
                eprintln!("---- log of node {node}\n{}", self.log(node));
            }
        }
    }
}

/// One line to a node's control socket, and its answer.
pub fn control(testnet: &Testnet, node: usize, request: &str) -> String {
    let mut stream = UnixStream::connect(testnet.node(node).join("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

/// Replaces the first `old` in a file.
pub fn edit(path: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(old), "\"{old}\" is in {}", path.display());
    fs::write(path, text.replacen(old, new, 1)).unwrap();
}
