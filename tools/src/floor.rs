//! The floor as processes: `twostep floor-node`, which `bench --floor` starts, and the client that talks to them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tempfile::TempDir;
use twostep_bench::floor::pattern::Pattern;
use twostep_bench::floor::trace::Trace;
use twostep_bench::floor::{FloorClient, FloorPlan, serve};
use twostep_bench::lab;
use twostep_engine::key_value::Operation;
use twostep_engine::node::tunables::NodeOptions;
use twostep_engine::null::Null;
use twostep_engine::quorum::FaultModel;
use twostep_net::packet::{FRAME_HEADER_BYTES, HEADER_BYTES};
use twostep_net::{Carrier, Transport};

use crate::cluster::free_ports;
use crate::interrupt::Interrupt;
use crate::node::wait_for_end_of_input;

/// How often a start is tried again with other ports, should somebody take one between the choice and its use.
const PORT_TRIES: usize = 5;
/// Requests in the bundle that tells what each of them adds to a message.
const MANY: usize = 33;

/// The flags of `floor-node`.
#[derive(Args)]
pub struct FloorNodeArgs {
    /// What to move, made by `bench --floor`
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Which node this is
    #[arg(long, value_name = "N")]
    node: usize,
}

/// Moves messages until standard input ends.
pub fn run(args: &FloorNodeArgs) -> Result<ExitCode> {
    let plan = fs::read(&args.plan)
        .with_context(|| format!("cannot read the plan {}", args.plan.display()))?;
    let plan: FloorPlan = serde_json::from_slice(&plan).context("the plan has another form")?;
    if args.node >= plan.addresses.len() {
        bail!(
            "--node {}: the plan has {} nodes",
            args.node,
            plan.addresses.len()
        );
    }
    thread::Builder::new().name("parent".to_owned()).spawn(|| {
        wait_for_end_of_input();
        std::process::exit(0);
    })?;
    serve(&plan, args.node).with_context(|| format!("node {} of the floor", args.node))?;
    Ok(ExitCode::SUCCESS)
}

/// The processes of the floor, and their client.
pub struct FloorCluster {
    /// What puts load on it.
    pub client: FloorClient,
    /// The operation that a lone one replays.
    pub trace: Trace,
    // Dropped after the client: a node ends when somebody it talks to is gone.
    _children: Children,
}

impl FloorCluster {
    /// Records an operation of `operation_bytes` and starts as many processes as the real cluster has, with what the real
    /// nodes are told about idling and slots.
    pub fn start(
        mode: FaultModel,
        f: usize,
        options: &NodeOptions,
        carrier: Carrier,
        operation_bytes: usize,
        interrupt: &Interrupt,
    ) -> Result<FloorCluster> {
        let operation = operation(operation_bytes);
        let trace = Trace::record(mode, f, || Null, &operation, 1);
        let many = Trace::record(mode, f, || Null, &operation, MANY);
        let pattern = Pattern::new(
            &lab::configuration(mode, f),
            options.in_flight,
            options.tuning().t0,
            &trace,
            &many,
            MANY,
        );
        let datagram_bytes = (carrier.transport == Transport::Udp).then_some(carrier.mtu);
        if let Some(most) = datagram_bytes
            && trace.message_bytes_max() + HEADER_BYTES + FRAME_HEADER_BYTES > most
        {
            bail!(
                "--floor cuts no message into datagrams: the largest message of an operation has {} bytes; raise --mtu or lower \
                 --op-bytes",
                trace.message_bytes_max()
            );
        }
        let mut taken = Vec::new();
        let mut problem = None;
        for _ in 0..PORT_TRIES {
            let ports = free_ports(trace.nodes, &taken, carrier.transport)?;
            taken.extend(&ports);
            let address = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            let plan = FloorPlan {
                addresses: ports.iter().map(address).collect(),
                trace: trace.clone(),
                pattern: pattern.clone(),
                driver: options.driver.to_string(),
                datagram_bytes,
                spin_us: u32::try_from(options.spin_us).unwrap_or(u32::MAX),
                busy_poll: options.busy_poll,
            };
            let children = Children::start(&plan, interrupt)?;
            match FloorClient::connect(plan) {
                Ok(client) => {
                    return Ok(FloorCluster {
                        client,
                        trace,
                        _children: children,
                    });
                }
                Err(error) => problem = Some(children.why(error)),
            }
        }
        Err(problem.expect("it was tried at least once")).context("the floor did not start")
    }
}

/// An increment of this size, as the load generator makes it.
fn operation(bytes: usize) -> Vec<u8> {
    let increment = |padding: &[u8]| {
        let mut operation = Vec::new();
        let key = b"bench/1000000.10";
        Operation::Increment {
            key,
            by: 1,
            padding,
        }
        .encode(&mut operation);
        operation
    };
    let bare = increment(&[]).len();
    increment(&vec![0; bytes.saturating_sub(bare)])
}

/// The node processes and their folder.
struct Children {
    children: Vec<Child>,
    interrupt: Interrupt,
    folder: TempDir,
}

impl Children {
    fn start(plan: &FloorPlan, interrupt: &Interrupt) -> Result<Children> {
        let folder = tempfile::Builder::new()
            .prefix("twostep-floor-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        interrupt.add_folder(folder.path());
        let mut children = Children {
            children: Vec::new(),
            interrupt: interrupt.clone(),
            folder,
        };
        let file = children.folder.path().join("plan.json");
        fs::write(&file, serde_json::to_vec(plan)?).context("cannot write the floor's plan")?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        for node in 0..plan.addresses.len() {
            // Ctrl-C in the terminal is for the parent alone, so children get a process group of their own.
            let child = Command::new(&program)
                .args(["floor-node", "--node", &node.to_string(), "--plan"])
                .arg(&file)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(File::create(children.log(node)).context("cannot make a log")?)
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start node {node} of the floor"))?;
            interrupt.add_process(child.id());
            children.children.push(child);
        }
        Ok(children)
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("log-{node}"))
    }

    /// `error`, with what the nodes said.
    fn why(&self, error: std::io::Error) -> anyhow::Error {
        let logs =
            (0..self.children.len()).filter_map(|node| fs::read_to_string(self.log(node)).ok());
        let logs: String = logs.collect();
        match logs.trim() {
            "" => error.into(),
            said => anyhow::Error::from(error).context(said.to_owned()),
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It ends when its standard input does; killing one that has ended does nothing.
            drop(child.stdin.take());
        }
        let until = Instant::now() + Duration::from_millis(500);
        for child in &mut self.children {
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(2));
            }
            let _ = child.kill();
            let _ = child.wait();
            self.interrupt.remove_process(child.id());
        }
        self.interrupt.remove_folder(self.folder.path());
    }
}
