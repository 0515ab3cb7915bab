//! A cluster of real nodes over loopback, each on a thread of this process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;

use twostep_engine::configuration::Limits;
use twostep_engine::key_value::KeyValue;
use twostep_engine::node::testnet::{TestnetPlan, client_folder, create, node_folder};
use twostep_engine::node::tunables::Durability;
use twostep_engine::node::{ClientFolder, Node, NodeConfig, NodeOptions, Stopper};
use twostep_engine::quorum::FaultModel;
use twostep_engine::state_machine::StateMachine;
use twostep_engine::types::NodeId;

/// Ends its nodes and removes its folders when dropped.
pub struct Cluster {
    nodes: Vec<Option<(Stopper, JoinHandle<()>)>>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster for f = 1 with the default admission of its mode and one client, in memory.
    pub fn start(mode: FaultModel) -> Cluster {
        Cluster::start_with(mode, in_memory())
    }

    /// The same, with other options for every node.
    pub fn start_with(mode: FaultModel, options: NodeOptions) -> Cluster {
        Cluster::start_as(mode, options, Limits::default(), KeyValue::new)
    }

    /// The same, with other limits and another state machine.
    pub fn start_as<S: StateMachine + 'static>(
        mode: FaultModel,
        options: NodeOptions,
        limits: Limits,
        state_machine: fn() -> S,
    ) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let addresses = free_ports(mode.acceptors(1))
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let plan = TestnetPlan {
            mode,
            f: 1,
            admission: None,
            addresses,
            clients: 1,
            limits,
            options,
            carrier: Default::default(),
            misbehaviour: false,
        };
        let configuration = create(folder.path(), &plan).unwrap();
        let nodes = configuration
            .nodes()
            .iter()
            .map(|node| Some(start_node(folder.path(), node, state_machine)))
            .collect();
        Cluster { nodes, folder }
    }

    /// The folder of the client.
    pub fn client(&self) -> ClientFolder {
        ClientFolder::load(&client_folder(self.folder.path(), 0)).unwrap()
    }

    /// The folders of the nodes, where their control sockets are.
    pub fn node_folders(&self) -> Vec<PathBuf> {
        (0..self.nodes.len())
            .map(|node| {
                let node = NodeId(u16::try_from(node).unwrap());
                node_folder(self.folder.path(), node)
            })
            .collect()
    }

    /// Stops one node for good.
    pub fn stop(&mut self, node: usize) {
        if let Some((stopper, thread)) = self.nodes[node].take() {
            stopper.stop();
            thread.join().unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.stop(node));
    }
}

/// Nodes that keep nothing on disk.
pub fn in_memory() -> NodeOptions {
    NodeOptions {
        durability: Durability::Memory,
        ..NodeOptions::default()
    }
}

/// Free ports, each named once in this process. They lie below those that the system gives to sockets that ask for none,
/// so that no link of a node takes the port of another node before it listens.
fn free_ports(count: usize) -> impl Iterator<Item = u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const LAST: u16 = 20_000;
    let start = u16::try_from(std::process::id() % 7_919).expect("small");
    let candidates = std::iter::repeat_with(move || {
        FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % (LAST - FIRST)
    });
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.filter(free).take(count)
}

fn start_node<S: StateMachine + 'static>(
    folder: &Path,
    node: NodeId,
    state_machine: fn() -> S,
) -> (Stopper, JoinHandle<()>) {
    let config = NodeConfig::load(&node_folder(folder, node).join("config.toml"), &[]).unwrap();
    let (sender, stopper) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let node = Node::builder(config)
            .first_start(true)
            .build(state_machine())
            .unwrap();
        sender.send(node.stopper()).unwrap();
        node.run().unwrap();
    });
    (stopper.recv().expect("the node starts"), thread)
}
