//! The `twostep` command: one subcommand a file.

mod arguments;
mod node;
mod status;
mod testnet;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Byzantine fault-tolerant ordering service that commits in two message delays.
#[derive(Parser)]
#[command(name = "twostep", version, about, max_term_width = 110)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run one node of a cluster
    Node(node::NodeArgs),
    /// Make the folders of a new cluster: keys, cluster file, configuration
    Testnet(testnet::TestnetArgs),
    /// Ask the running nodes how they are
    Status(status::StatusArgs),
}

fn main() -> ExitCode {
    let result = match Command::parse().what {
        What::Node(args) => node::run(&args),
        What::Testnet(args) => testnet::run(&args),
        What::Status(args) => status::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("twostep: {error:#}");
        ExitCode::FAILURE
    })
}
