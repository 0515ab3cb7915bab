//! Flags that several subcommands share: tunables, fault model, times.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, ValueEnum};
use twostep_engine::node::config::{Override, overrides_of_environment};
use twostep_engine::node::tunables::{NodeOptions, TUNABLES};
use twostep_engine::quorum::FaultModel;
use twostep_net::packet::{DATAGRAM_BYTES, DATAGRAM_BYTES_MAX};
use twostep_net::{Carrier, Transport};

/// The flags of all tunables of a node, made from the one table that also makes keys and variables.
#[derive(Clone, Debug, Default)]
pub struct Tunables {
    said: Vec<Override>,
}

impl Tunables {
    /// What environment and flags say, in the order in which they win.
    pub fn overrides(&self) -> Result<Vec<Override>> {
        let mut overrides = overrides_of_environment(std::env::vars())?;
        overrides.extend(self.said.iter().cloned());
        Ok(overrides)
    }

    /// `options` for every node of a cluster, with what environment and flags say.
    pub fn apply_to_all(&self, mut options: NodeOptions) -> Result<NodeOptions> {
        for said in self.overrides()? {
            let tunable = TUNABLES.iter().find(|tunable| tunable.key == said.key);
            let tunable = tunable.expect("overrides are made from the table");
            if let Err(what) = (tunable.set)(&mut options, &said.value) {
                bail!("{}: {what}", said.said_by);
            }
        }
        if options.listen.is_some() {
            bail!(
                "--listen (or TWOSTEP_LISTEN) is for one node; nodes of a cluster listen where its cluster file says"
            );
        }
        Ok(options)
    }
}

impl Args for Tunables {
    fn augment_args(command: Command) -> Command {
        TUNABLES.iter().fold(command, |command, tunable| {
            let default = match tunable.default_text() {
                text if text.is_empty() => String::new(),
                text => format!(" [default: {text}]"),
            };
            let help = format!("{}{default} [env: {}]", tunable.help, tunable.variable());
            let arg = Arg::new(tunable.key)
                .long(tunable.flag())
                .value_name(tunable.unit)
                .help(help);
            command.arg(
                arg.action(ArgAction::Set)
                    .help_heading("What a node chooses for itself"),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Tunables {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Tunables, clap::Error> {
        let said = TUNABLES.iter().filter_map(|tunable| {
            let value = matches.get_one::<String>(tunable.key)?.clone();
            Some(Override {
                key: tunable.key,
                value,
                said_by: format!("--{}", tunable.flag()),
            })
        });
        Ok(Tunables {
            said: said.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The fault model, as a flag says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Fast Byzantine Paxos: 5f+1 nodes, f of them may do anything
    Fab,
    /// Paxos: 2f+1 nodes, f of them may crash, none lies
    Crash,
}

impl From<Mode> for FaultModel {
    fn from(mode: Mode) -> FaultModel {
        match mode {
            Mode::Fab => FaultModel::Fab,
            Mode::Crash => FaultModel::Crash,
        }
    }
}

/// How the nodes and clients of a new cluster talk to each other.
#[derive(Args, Clone, Copy, Debug)]
pub struct CarrierFlags {
    /// How nodes and clients talk to each other; the cluster file says it to all of them
    #[arg(long, value_enum, default_value_t = TransportFlag::Tcp)]
    transport: TransportFlag,
    /// With udp: the most bytes of a datagram, headers of UDP and IP left out. 1472 fits into a frame of Ethernet, 1200 through
    /// every network; up to 65000 on one machine or where frames are larger [default: 1472 in testnet, 65000 in dev and bench]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<usize>,
}

impl CarrierFlags {
    /// What they say, checked, for nodes that may be on several machines.
    pub fn carrier(self) -> Result<Carrier> {
        self.carrier_or(DATAGRAM_BYTES)
    }

    /// The same for nodes that are all on this machine, where nothing cuts large datagrams.
    pub fn local_carrier(self) -> Result<Carrier> {
        self.carrier_or(DATAGRAM_BYTES_MAX)
    }

    fn carrier_or(self, mtu: usize) -> Result<Carrier> {
        let carrier = Carrier {
            transport: match self.transport {
                TransportFlag::Tcp => Transport::Tcp,
                TransportFlag::Udp => Transport::Udp,
            },
            mtu: self.mtu.unwrap_or(mtu),
        };
        carrier.check().map_err(|what| anyhow!("--{what}"))?;
        if carrier.transport == Transport::Tcp
            && let Some(mtu) = self.mtu
        {
            bail!("--mtu {mtu}: only with --transport udp");
        }
        Ok(carrier)
    }
}

/// Streams or datagrams, as a flag says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TransportFlag {
    /// Streams
    Tcp,
    /// Datagrams
    Udp,
}

/// Reads `10s`, `500ms`, `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("expected a time such as 10s, 500ms or 2m, found \"{text}\"");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    let time = number
        .checked_mul(ms)
        .filter(|ms| *ms <= 366 * 24 * 3_600_000);
    time.map(Duration::from_millis)
        .ok_or_else(|| format!("\"{text}\" is longer than a year"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "1h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(
            duration("99999999999m")
                .unwrap_err()
                .contains("longer than a year")
        );
    }

    #[test]
    fn every_tunable_is_a_flag_with_its_default_in_the_help() {
        let mut command = Tunables::augment_args(Command::new("node"));
        let help = command.render_long_help().to_string();
        let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for tunable in TUNABLES {
            assert!(
                help.contains(&format!("--{} <{}>", tunable.flag(), tunable.unit)),
                "{}",
                tunable.key
            );
            assert!(
                help.contains(&format!("[env: {}]", tunable.variable())),
                "{}",
                tunable.key
            );
            let default = tunable.default_text();
            assert!(
                default.is_empty() || help.contains(&format!("[default: {default}]")),
                "{}",
                tunable.key
            );
        }
        let matches = command.get_matches_from(["node", "--t0-ms", "77"]);
        let tunables = Tunables::from_arg_matches(&matches).unwrap();
        assert_eq!(tunables.said.len(), 1);
        assert_eq!(
            (tunables.said[0].key, tunables.said[0].value.as_str()),
            ("t0_ms", "77")
        );
    }
}
