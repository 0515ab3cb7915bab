//! The `twostep` command: one subcommand a file.

mod arguments;
mod bench;
mod chaos;
mod check;
mod client;
mod cluster;
mod compare;
mod dev;
mod floor;
mod interrupt;
mod laggard;
mod load;
mod measure;
mod node;
mod pages;
mod process;
mod screen;
mod sim;
mod status;
mod testnet;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Byzantine fault-tolerant ordering service that commits in two message delays.
#[derive(Parser)]
#[command(name = "twostep", version, max_term_width = 110)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Start a whole cluster of processes on this machine, with load, and judge it at the end
    #[command(
        after_help = "dev takes a T0 of 250 ms unless told otherwise: its nodes are close to each other."
    )]
    Dev(dev::DevArgs),
    /// Run one node of a cluster
    Node(node::NodeArgs),
    /// Make the folders of a new cluster: keys, cluster file, configuration
    Testnet(testnet::TestnetArgs),
    /// Ask the running nodes how they are
    Status(status::StatusArgs),
    /// Order one operation of the key-value store
    Client(client::ClientArgs),
    /// Put load on a cluster and measure it
    Bench(bench::BenchArgs),
    /// Kill, cut off, slow down and corrupt a cluster of processes, by a seed, and judge what its clients saw
    Chaos(Box<chaos::ChaosArgs>),
    /// Judge histories that `bench --history` wrote: linearizable, nothing lost, nothing done twice
    Check(check::CheckArgs),
    /// Be one process of the floor; `bench --floor` starts it
    #[command(hide = true)]
    FloorNode(floor::FloorNodeArgs),
    /// Run the deterministic simulator: seeded faults, checkers after every step
    Sim(sim::SimArgs),
}

fn main() -> ExitCode {
    let result = match Command::parse().what {
        What::Dev(args) => dev::run(&args),
        What::Node(args) => node::run(&args),
        What::Testnet(args) => testnet::run(&args),
        What::Status(args) => status::run(&args),
        What::Client(args) => client::run(&args),
        What::Bench(args) => bench::run(&args),
        What::Chaos(args) => chaos::run(&args),
        What::Check(args) => check::run(&args),
        What::FloorNode(args) => floor::run(&args),
        What::Sim(args) => sim::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("twostep: {error:#}");
        ExitCode::FAILURE
    })
}
