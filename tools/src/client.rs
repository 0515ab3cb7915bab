//! `twostep client`: one operation of the key-value store, ordered and executed once.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use twostep_engine::client::{Client, ClientOptions, ClientSetup};
use twostep_engine::key_value::{KeyValueReply, Operation};
use twostep_engine::node::ClientFolder;
use twostep_net::DriverChoice;

use crate::arguments::duration;

/// The flags of `client`.
#[derive(Args)]
pub struct ClientArgs {
    #[command(subcommand)]
    what: What,
    /// The folder of a client, as `testnet` makes it and `dev` prints it
    #[arg(long, value_name = "DIR/client-K", global = true)]
    cluster: Option<PathBuf>,
    /// How long to wait for f+1 equal answers
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s", global = true)]
    timeout: Duration,
    /// What moves the bytes: `mio`, `uring` (mio where io_uring is refused) or `auto`
    #[arg(long, value_name = "NAME", default_value_t, global = true)]
    driver: DriverChoice,
}

#[derive(Subcommand)]
enum What {
    /// Set a value
    Put {
        /// Of this key
        key: String,
        /// To this
        value: String,
    },
    /// Print a value, read in the order of all operations
    Get {
        /// Of this key
        key: String,
    },
    /// Remove a value
    Del {
        /// Of this key
        key: String,
    },
    /// Add to a number and print the sum
    Incr {
        /// Of this key
        key: String,
        /// How much
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
}

impl What {
    fn operation(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let operation = match self {
            What::Put { key, value } => Operation::Put {
                key: key.as_bytes(),
                value: value.as_bytes(),
            },
            What::Get { key } => Operation::Get {
                key: key.as_bytes(),
            },
            What::Del { key } => Operation::Delete {
                key: key.as_bytes(),
            },
            What::Incr { key, by } => Operation::Increment {
                key: key.as_bytes(),
                by: *by,
                padding: &[],
            },
        };
        operation.encode(&mut bytes);
        bytes
    }
}

/// Calls and prints: the value alone on standard output, where it was ordered on standard error.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let Some(folder) = &args.cluster else {
        bail!(
            "--cluster is missing: the folder of a client, such as DIR/client-0 in the folder that `twostep testnet` wrote"
        );
    };
    let client = ClientFolder::load(folder)?;
    let nodes = client.cluster.resolve()?;
    let carrier = client.cluster.carrier;
    let mut setup = ClientSetup::new(client.cluster.configuration, client.identity, 0)?;
    setup.tuning.deadline = args.timeout;
    let mut options = ClientOptions::new(setup, nodes);
    options.tuning.carrier = carrier;
    options.connect_timeout = args.timeout;
    options.tuning.driver = args.driver;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("no runtime for the client")?;
    let committed = runtime.block_on(async {
        let client = Client::connect(options).await?;
        let session = client.session().await?;
        anyhow::Ok(session.call(args.what.operation()).await?)
    })?;
    let decree = committed.decree;
    match KeyValueReply::decode(&committed.reply)? {
        KeyValueReply::Done => eprintln!("done in decree {decree}"),
        KeyValueReply::Value(value) => {
            println!("{}", String::from_utf8_lossy(value));
            eprintln!("read in decree {decree}");
        }
        KeyValueReply::Number(number) => {
            println!("{number}");
            eprintln!("done in decree {decree}");
        }
        KeyValueReply::Absent => {
            eprintln!("the key has no value at decree {decree}");
            return Ok(ExitCode::FAILURE);
        }
        KeyValueReply::Mismatch(_) => {
            bail!("the cluster answered another question; does it run the key-value store?")
        }
        KeyValueReply::Error(why) => bail!("{why} (decree {decree})"),
    }
    Ok(ExitCode::SUCCESS)
}
