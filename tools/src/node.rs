//! `twostep node`: one node, until it is told to end.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use twostep_engine::key_value::{DiskKeyValue, KeyValue};
use twostep_engine::node::tunables::{StateForm, StateMachineKind};
use twostep_engine::node::{Node, NodeConfig, NodeError};
use twostep_engine::null::Null;
use twostep_tests::actors::live;

use crate::arguments::Tunables;

/// The status with which a node ends whose address another process has: who chose it may choose another one.
pub const EXIT_ADDRESS_IN_USE: u8 = 98;

/// How long an orphan may take to end by itself.
const ORPHAN_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// The flags of `node`.
#[derive(Args)]
pub struct NodeArgs {
    /// The node's configuration file; its folder holds keys, cluster file, lock and control socket
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// With durability memory: say that this node has never run. Without it the node takes its disk for lost and only learns.
    /// A node with a journal knows it from there
    #[arg(long)]
    first_start: bool,
    /// End when standard input ends, as it does when the process that started this one is gone
    #[arg(long)]
    exit_with_parent: bool,
    /// Lie, as the named strategy says (an unknown name shows all); only in clusters made with
    /// `testnet --allow-misbehaviour`. In such a cluster any node can also be told to while it runs (see the control
    /// socket)
    #[arg(long, value_name = "STRATEGY")]
    misbehave: Option<String>,
    #[command(flatten)]
    tunables: Tunables,
}

/// Runs the node until a signal, or the end of its parent.
pub fn run(args: &NodeArgs) -> Result<ExitCode> {
    let config = NodeConfig::load(&args.config, &args.tunables.overrides()?)?;
    let allowed = config.cluster.misbehaviour;
    if let Some(strategy) = &args.misbehave {
        check_misbehaviour(strategy, &config)?;
    }
    let filter = EnvFilter::try_new(&config.options.log_filter).with_context(|| {
        format!(
            "log_filter = \"{}\" is no filter",
            config.options.log_filter
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    let (kind, form) = (config.options.state_machine, config.options.state);
    let hook = allowed.then(|| live::hook(&config, args.misbehave.as_deref()));
    let mut builder = Node::builder(config).first_start(args.first_start);
    if let Some(hook) = hook {
        builder = builder.machine(hook);
    }
    if let Some(strategy) = &args.misbehave {
        warn!("lying from the start: {strategy}");
    }
    let built = match (kind, form) {
        (StateMachineKind::KeyValue, StateForm::Memory) => builder.build(KeyValue::new()),
        (StateMachineKind::KeyValue, StateForm::Disk) => {
            builder.build_with(|place| DiskKeyValue::create(&*place.folder()?, place.cache_bytes))
        }
        (StateMachineKind::Null, _) => builder.build(Null),
    };
    let node = match built {
        Ok(node) => node,
        Err(error) if error.is_address_in_use() => return Ok(address_in_use(&error)),
        Err(error) => return Err(error.into()),
    };
    let stopper = node.stopper();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot take signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                info!("signal {signal}: ending");
                stopper.stop();
            }
        })?;
    if args.exit_with_parent {
        let stopper = node.stopper();
        thread::Builder::new()
            .name("parent".to_owned())
            .spawn(move || {
                wait_for_end_of_input();
                info!("the parent process is gone: ending");
                stopper.stop();
                // Nobody is left who could end a loop that hangs.
                thread::sleep(ORPHAN_ENDS_WITHIN);
                std::process::exit(1);
            })?;
    }
    node.run()?;
    Ok(ExitCode::SUCCESS)
}

fn check_misbehaviour(strategy: &str, config: &NodeConfig) -> Result<()> {
    let cluster = &config.cluster;
    if !cluster.misbehaviour {
        bail!(
            "--misbehave {strategy}: {} does not allow it; make a cluster for it with `twostep testnet \
             --allow-misbehaviour`, or let `twostep dev --misbehave {strategy}` do so",
            cluster.path.display()
        );
    }
    let member = cluster.configuration.member(config.node);
    let roles = member.map(|member| member.roles).unwrap_or_default();
    live::part(strategy, &roles)
        .map(|_| ())
        .map_err(|why| anyhow!("--misbehave: {why}"))
}

fn address_in_use(error: &NodeError) -> ExitCode {
    eprintln!("twostep: {error}");
    ExitCode::from(EXIT_ADDRESS_IN_USE)
}

/// What comes before the end is ignored; an error is an end as well.
pub fn wait_for_end_of_input() {
    let mut bytes = [0; 256];
    let mut input = io::stdin().lock();
    loop {
        match input.read(&mut bytes) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}
