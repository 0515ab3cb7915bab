//! `twostep testnet`: the folders of a new cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use twostep_engine::configuration::{Admission, Limits};
use twostep_engine::node::testnet::{TestnetPlan, create, nodes_of};
use twostep_engine::node::tunables::{Durability, NodeOptions};
use twostep_engine::quorum::FaultModel;

use crate::arguments::{CarrierFlags, Mode, Tunables};

/// The flags of `testnet`.
#[derive(Args)]
pub struct TestnetArgs {
    /// How many faulty nodes the cluster shall bear
    #[arg(long, value_name = "N", default_value_t = 1)]
    f: usize,
    /// Where to make the folders node-K and client-K
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Which faults
    #[arg(long, value_enum, default_value_t = Mode::Fab)]
    mode: Mode,
    /// How many clients get keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: usize,
    /// The host that every node gets in the cluster file; correct it there if nodes run on several machines
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Node K listens on this port plus K
    #[arg(long, value_name = "PORT", default_value_t = 27_100)]
    base_port: u16,
    /// How clients prove their requests [default: mac in mode fab, link in mode crash]
    #[arg(long, value_enum)]
    admission: Option<AdmissionFlag>,
    /// W: decrees that may be open at once
    #[arg(long, value_name = "DECREES", default_value_t = Limits::default().window)]
    window: u64,
    /// K: decrees between checkpoints, at most half of the window
    #[arg(long, value_name = "DECREES", default_value_t = Limits::default().checkpoint_every)]
    checkpoint_every: u64,
    /// S: decrees between snapshots of the state, a multiple of K; the bodies of so many fit a node's --log-bytes
    #[arg(long, value_name = "DECREES", default_value_t = Limits::default().snapshot_every)]
    snapshot_every: u64,
    /// Let nodes and clients of this cluster be told to lie (`--misbehave`): for tests only
    #[arg(long)]
    allow_misbehaviour: bool,
    #[command(flatten)]
    carrier: CarrierFlags,
    #[command(flatten)]
    tunables: Tunables,
}

/// How clients prove their requests.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AdmissionFlag {
    /// One tag for every node that accepts or proposes
    Mac,
    /// A signature on every bundle
    Signed,
    /// Not at all, the links authenticate: mode crash only
    Link,
}

/// Makes the folders and says what to do with them.
pub fn run(args: &TestnetArgs) -> Result<ExitCode> {
    let mode = FaultModel::from(args.mode);
    if args.f == 0 || args.f > 25 {
        bail!("--f {}: expected 1 to 25", args.f);
    }
    let nodes = nodes_of(mode, args.f);
    let ports = (0..nodes).map(|node| args.base_port.checked_add(u16::try_from(node).ok()?));
    let Some(ports) = ports.collect::<Option<Vec<u16>>>() else {
        bail!(
            "--base-port {}: {nodes} nodes would need ports above 65535",
            args.base_port
        );
    };
    let plan = TestnetPlan {
        mode,
        f: args.f,
        admission: args.admission.map(|admission| match admission {
            AdmissionFlag::Mac => Admission::Mac,
            AdmissionFlag::Signed => Admission::Signed,
            AdmissionFlag::Link => Admission::Link,
        }),
        addresses: ports
            .iter()
            .map(|port| format!("{}:{port}", args.host))
            .collect(),
        clients: args.clients,
        limits: Limits {
            window: args.window,
            checkpoint_every: args.checkpoint_every,
            snapshot_every: args.snapshot_every,
            ..Limits::default()
        },
        options: args.tunables.apply_to_all(NodeOptions::default())?,
        carrier: args.carrier.carrier()?,
        misbehaviour: args.allow_misbehaviour,
    };
    let durability = plan.options.durability;
    let configuration = create(&args.dir, &plan).context("no cluster was made")?;
    let dir = args.dir.display();
    println!(
        "cluster {}: mode {mode}, f = {}, {nodes} nodes, {} clients in {dir}",
        configuration.cluster(),
        args.f,
        args.clients
    );
    // Without a journal only the launcher knows that a node has never run.
    let first = match durability {
        Durability::Sync => "",
        Durability::Memory => " --first-start",
    };
    println!(
        "start one node:   twostep node --config {dir}/node-0/config.toml{first}     (0 to {})",
        nodes - 1
    );
    println!(
        "all, in a shell:  (for node in {dir}/node-*; do twostep node --config \"$node/config.toml\"{first} & done; wait)"
    );
    println!("then:             twostep status --dir {dir}");
    if args.clients > 0 {
        println!("                  twostep client put hello world --cluster {dir}/client-0");
    }
    Ok(ExitCode::SUCCESS)
}
