//! A cluster of child processes on this machine, in a temporary folder. `dev` and `bench` run on it.
//!
//! Nothing outlives it: children end when their standard input closes, whatever becomes of this process; when the
//! value is dropped they are told to, and killed if they do not; then the folder goes.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;
use twostep_engine::configuration::{Configuration, Limits};
use twostep_engine::node::control::{self, Fault, Request};
use twostep_engine::node::status::{MissingNode, NodeStatus};
use twostep_engine::node::testnet::{self, TestnetPlan};
use twostep_engine::node::tunables::{Durability, NodeOptions};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NodeId;
use twostep_net::{Carrier, Transport};

use crate::interrupt::Interrupt;
use crate::node::EXIT_ADDRESS_IN_USE;
use crate::process::LocalNode;

/// How often a start is tried again with other ports, should somebody take one between the choice and its use.
const PORT_TRIES: usize = 5;
/// Where ports are looked for: below those that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 18_000..32_000;
/// How long children may take to end before they are killed.
const END_WITHIN: Duration = Duration::from_millis(1500);
/// The same for nodes that will start again: they may have much to write.
const ORDERLY_END_WITHIN: Duration = Duration::from_secs(8);
/// How often it is told who is missing.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What a local cluster is made of.
#[derive(Clone, Debug)]
pub struct LocalPlan {
    /// Which faults it bears.
    pub mode: FaultModel,
    /// How many.
    pub f: usize,
    /// How many clients get keys.
    pub clients: usize,
    /// What every node is told.
    pub options: NodeOptions,
    /// How they talk to each other.
    pub carrier: Carrier,
    /// What they share: window, checkpoints, snapshots.
    pub limits: Limits,
    /// Whether nodes and clients may be told to lie.
    pub misbehaviour: bool,
}

/// A running cluster.
pub struct LocalCluster {
    configuration: Configuration,
    durability: Durability,
    nodes: Vec<LocalNode>,
    interrupt: Interrupt,
    // Dropped last: the children's files are in it.
    folder: TempDir,
}

/// Why a cluster is not ready.
#[derive(Debug)]
pub enum NotReady {
    /// These nodes are missing, and why.
    Missing(Vec<MissingNode>),
    /// The user wants the end.
    Interrupted,
}

impl LocalCluster {
    /// Makes keys and folders and starts every node.
    pub fn start(plan: &LocalPlan, interrupt: &Interrupt) -> Result<LocalCluster> {
        let mut taken = Vec::new();
        for _ in 0..PORT_TRIES {
            match LocalCluster::try_start(plan, interrupt, &mut taken)? {
                Some(cluster) => return Ok(cluster),
                None if interrupt.is_raised() => bail!("interrupted"),
                None => {}
            }
        }
        bail!("no free ports on 127.0.0.1 after {PORT_TRIES} tries with other ones each time")
    }

    /// None if one of the chosen ports was taken meanwhile.
    fn try_start(
        plan: &LocalPlan,
        interrupt: &Interrupt,
        taken: &mut Vec<u16>,
    ) -> Result<Option<LocalCluster>> {
        let count = testnet::nodes_of(plan.mode, plan.f);
        let ports = free_ports(count, taken, plan.carrier.transport)?;
        taken.extend(&ports);
        let folder = tempfile::Builder::new()
            .prefix("twostep-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        interrupt.add_folder(folder.path());
        let configuration = testnet::create(
            folder.path(),
            &TestnetPlan {
                mode: plan.mode,
                f: plan.f,
                admission: None,
                addresses: ports
                    .iter()
                    .map(|port| format!("127.0.0.1:{port}"))
                    .collect(),
                clients: plan.clients,
                limits: plan.limits,
                options: plan.options.clone(),
                carrier: plan.carrier,
                misbehaviour: plan.misbehaviour,
            },
        )?;
        let nodes = configuration
            .nodes()
            .iter()
            .zip(&ports)
            .map(|(id, port)| LocalNode {
                id,
                address: format!("127.0.0.1:{port}"),
                folder: testnet::node_folder(folder.path(), id),
                child: None,
                restarted: false,
                cpu_before_s: 0.0,
                lied: None,
                last: None,
            });
        let nodes = nodes.collect();
        let mut cluster = LocalCluster {
            configuration,
            durability: plan.options.durability,
            nodes,
            interrupt: interrupt.clone(),
            folder,
        };
        for node in &mut cluster.nodes {
            node.start(interrupt, true)?;
        }
        // A port that is taken shows at once: the node listens before anything else.
        let up_by = Instant::now() + Duration::from_secs(20);
        while !interrupt.is_raised() {
            let mut waiting = false;
            for node in &mut cluster.nodes {
                match node.ended()? {
                    Some(status) if status.code() == Some(i32::from(EXIT_ADDRESS_IN_USE)) => {
                        return Ok(None);
                    }
                    Some(status) => return Err(node.death(status)),
                    None => waiting |= !node.folder.join(control::SOCKET_FILE).exists(),
                }
            }
            if !waiting {
                return Ok(Some(cluster));
            }
            if Instant::now() > up_by {
                bail!("the nodes did not start within 20 s");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    }

    /// What all nodes share.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Every node that runs: its process and address.
    pub fn processes(&self) -> Vec<(NodeId, u32, String)> {
        let running = self
            .nodes
            .iter()
            .filter_map(|node| Some((node, node.child.as_ref()?.id())));
        running
            .map(|(node, pid)| (node.id, pid, node.address.clone()))
            .collect()
    }

    /// The folder of a client.
    pub fn client(&self, client: usize) -> PathBuf {
        testnet::client_folder(self.folder.path(), client)
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder behind when it ends, with everything in it; where.
    pub fn keep_folder(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.interrupt.remove_folder(self.folder.path());
        self.folder.path()
    }

    /// Waits until every node says that every quorum answers. `waiting` hears once a second who is missing.
    pub fn wait_ready(
        &mut self,
        patience: Duration,
        mut waiting: impl FnMut(&[MissingNode]),
    ) -> Result<Result<(), NotReady>> {
        let until = Instant::now() + patience;
        let mut tell_at = Instant::now() + TELL_EVERY;
        loop {
            if self.interrupt.is_raised() {
                return Ok(Err(NotReady::Interrupted));
            }
            self.check_children()?;
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(Ok(()));
            }
            if Instant::now() > until {
                return Ok(Err(NotReady::Missing(missing)));
            }
            if Instant::now() > tell_at {
                tell_at += TELL_EVERY;
                waiting(&missing);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Who is missing, as the first node that runs sees it and is not ready; nobody once all are.
    pub fn missing(&mut self) -> Vec<MissingNode> {
        for node in self.nodes.iter_mut().filter(|node| node.child.is_some()) {
            match node.ask(false) {
                Some(status) if status.ready => {}
                Some(status) => return status.missing,
                None => {
                    let why = "it does not answer on its control socket".to_owned();
                    return vec![MissingNode {
                        node: node.id.0,
                        why,
                    }];
                }
            }
        }
        Vec::new()
    }

    /// Fails if a node has ended that nobody killed.
    pub fn check_children(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.ended()? {
                self.interrupt
                    .remove_process(node.child.as_ref().map_or(0, Child::id));
                node.child = None;
                return Err(node.death(status));
            }
        }
        Ok(())
    }

    /// Asks every live node how it is; those that do not answer are none.
    pub fn statuses(&mut self, digests: bool) -> Vec<(NodeId, Option<NodeStatus>)> {
        self.nodes
            .iter_mut()
            .map(|node| (node.id, node.ask(digests)))
            .collect()
    }

    /// Asks a node how it is, without digests; none if it does not answer.
    pub fn status(&mut self, id: NodeId) -> Option<NodeStatus> {
        self.node(id).ok()?.ask(false)
    }

    /// CPU seconds of all node processes so far, as they last said.
    pub fn cpu_s(&self) -> f64 {
        self.nodes
            .iter()
            .map(|node| node.cpu_before_s + node.last.as_ref().map_or(0.0, |last| last.cpu_s))
            .sum()
    }

    /// The nodes that run.
    pub fn live(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|node| node.child.is_some())
            .map(|node| node.id)
            .collect()
    }

    /// The nodes that count among f: those that do not run, those that run again and abstain, and those that lied.
    pub fn faulty(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|node| node.child.is_none() || node.restarted || node.lied.is_some())
            .map(|node| node.id)
            .collect()
    }

    /// The nodes that were told to lie, and as what.
    pub fn liars(&self) -> Vec<(NodeId, &str)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((node.id, node.lied.as_deref()?)))
            .collect()
    }

    /// What every node last said.
    pub fn last_said(&self) -> impl Iterator<Item = (NodeId, Option<&NodeStatus>)> {
        self.nodes.iter().map(|node| (node.id, node.last.as_ref()))
    }

    /// Tells a node to lie.
    pub fn misbehave(&mut self, id: NodeId, strategy: &str) -> Result<()> {
        let node = self.node(id)?;
        node.tell(&Request::Misbehave {
            strategy: Some(strategy.to_owned()),
        })?;
        node.lied = Some(match node.lied.take() {
            Some(before) if before != strategy => format!("{before}, then {strategy}"),
            _ => strategy.to_owned(),
        });
        Ok(())
    }

    /// Cuts every link between these nodes and the others, both ways; clients keep theirs.
    pub fn partition(&mut self, side: &[NodeId]) -> Result<()> {
        let cut = |peer: &LocalNode| {
            Request::Fault(Fault {
                peer: Some(peer.id.0),
                cut: true,
                ..Fault::default()
            })
        };
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            let there = side.contains(&node.id);
            for peer in self
                .nodes
                .iter()
                .filter(|peer| side.contains(&peer.id) != there)
            {
                node.tell(&cut(peer))?;
            }
        }
        Ok(())
    }

    /// Ends all faults of links and all lies.
    pub fn calm(&mut self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            node.tell(&Request::Heal {})?;
            if node.lied.is_some() {
                node.tell(&Request::Misbehave { strategy: None })?;
            }
        }
        Ok(())
    }

    /// The nodes that do not run.
    pub fn down(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|node| node.child.is_none())
            .map(|node| node.id)
            .collect()
    }

    /// Tells a node something over its control socket.
    pub fn tell(&mut self, id: NodeId, request: &Request) -> Result<()> {
        self.node(id)?.tell(request)
    }

    /// Ends nodes with SIGKILL, as much at once as can be; those that do not run stay as they are. How many it ended.
    pub fn kill_at_once(&mut self, ids: &[NodeId]) -> Result<u64> {
        let running = |node: &&mut LocalNode| ids.contains(&node.id) && node.child.is_some();
        for node in self.nodes.iter_mut().filter(running) {
            let child = node.child.as_mut().expect("it runs");
            child
                .kill()
                .with_context(|| format!("cannot kill node {}", node.id))?;
        }
        let mut ended = 0;
        for node in self.nodes.iter_mut().filter(running) {
            let mut child = node.child.take().expect("it runs");
            child
                .wait()
                .with_context(|| format!("cannot wait for node {}", node.id))?;
            self.interrupt.remove_process(child.id());
            ended += 1;
        }
        Ok(ended)
    }

    /// Tells nodes to end, as the end of whoever started them does; kills those that do not within some seconds, which a hung
    /// disk explains.
    pub fn end(&mut self, ids: &[NodeId]) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| ids.contains(&node.id)) {
            // The node ends when its standard input does.
            drop(node.child.as_mut().and_then(|child| child.stdin.take()));
        }
        let until = Instant::now() + ORDERLY_END_WITHIN;
        let ended = |node: &mut LocalNode| node.ended().map(|ended| ended.is_some());
        for node in self.nodes.iter_mut().filter(|node| ids.contains(&node.id)) {
            while node.child.is_some() && !ended(node)? && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill_at_once(ids).map(drop)
    }

    /// Ends a node with SIGKILL.
    pub fn kill(&mut self, id: NodeId) -> Result<()> {
        let interrupt = self.interrupt.clone();
        let node = self.node(id)?;
        // For the CPU time that goes with it.
        node.ask(false);
        let Some(mut child) = node.child.take() else {
            bail!("node {id} does not run");
        };
        child
            .kill()
            .with_context(|| format!("cannot kill node {id}"))?;
        child
            .wait()
            .with_context(|| format!("cannot wait for node {id}"))?;
        interrupt.remove_process(child.id());
        Ok(())
    }

    /// Whether nodes that start again are what they were: whether they have journals.
    pub fn remembers(&self) -> bool {
        self.durability == Durability::Sync
    }

    /// Starts a node again that was killed. Without a journal it has lost its disk, so it only learns.
    pub fn heal(&mut self, id: NodeId) -> Result<()> {
        let (interrupt, remembers) = (self.interrupt.clone(), self.remembers());
        let node = self.node(id)?;
        if node.child.is_some() {
            bail!("node {id} runs");
        }
        node.cpu_before_s += node.last.take().map_or(0.0, |last| last.cpu_s);
        node.restarted = !remembers;
        node.start(&interrupt, false)
    }

    fn node(&mut self, id: NodeId) -> Result<&mut LocalNode> {
        let nodes = self.nodes.len();
        let node = self.nodes.iter_mut().find(|node| node.id == id);
        node.ok_or_else(|| anyhow!("there is no node {id}, only 0 to {}", nodes - 1))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                // The node ends when its standard input does.
                drop(child.stdin.take());
            }
        }
        let until = Instant::now() + END_WITHIN;
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else {
                continue;
            };
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(5));
            }
            // Both do nothing to a child that has been waited for, and there is nobody to tell of an error.
            let _ = child.kill();
            let _ = child.wait();
            self.interrupt.remove_process(child.id());
        }
        self.interrupt.remove_folder(self.folder.path());
    }
}

/// Ports that nobody listens on now, other than those in `taken`. Where the search begins differs from process to process.
pub fn free_ports(count: usize, taken: &[u16], transport: Transport) -> Result<Vec<u16>> {
    let length = PORTS.end - PORTS.start;
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(length)).unwrap_or(0);
    let candidates = (0..length).map(|step| PORTS.start + (start + step) % length);
    let is_free = |port: u16| match transport {
        Transport::Tcp => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(),
        Transport::Udp => UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok(),
    };
    let free = candidates.filter(|port| !taken.contains(port) && is_free(*port));
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() < count {
        bail!(
            "fewer than {count} free ports on 127.0.0.1 between {} and {}",
            PORTS.start,
            PORTS.end
        );
    }
    Ok(ports)
}
