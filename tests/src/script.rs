//! Stories: a small command language, with the expected transcript next to each command.
//!
//! ```text
//! # What this story shows.
//! cluster fab f=1 roles=separate W=8 K=4 T0=100 clients=1
//! open
//! ----
//! 4  all sessions are open
//!
//! call c0 1
//! run 4
//! ----
//! 4  c0 says to n0: Submit 1
//! …
//! ```
//!
//! Commands stand above a line of dashes, what they must print below it, up to an empty line. Links take one
//! unit each, and times are in units since the start. Lines of several nodes that say the same at the same moment are
//! one line; values are named A, B, C … in the order of their appearance. `Status` and arrivals are left out.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster fab\|crash f= roles=separate\|shared W= K= S= log= T0= retry= clients= pipeline=` | makes the world; T0 and the client's first retry (2·T0 unless said) in units; no snapshots unless S is said, `log` decrees are kept for others |
//! | `open` | runs until all sessions are open; prints only that |
//! | `call c0 3` | a client makes so many calls |
//! | `run 4` | time passes: so many units, the moment at their end included |
//! | `quiet 40` | the same, but nothing is printed |
//! | `lose SENDERS -> RECEIVERS Kind 2` | so many messages of a kind are lost (all, without a number) |
//! | `double SENDERS -> RECEIVERS Kind 1` | so many arrive twice |
//! | `let pass` | ends both |
//! | `cut SENDERS -> RECEIVERS 30` | a link is cut for so many units |
//! | `stop n3` | a node stops for good |
//! | `invent d1 c0` | the leader proposes a request that the client never made |
//! | `status` | how far every node is |
//!
//! Senders and receivers are `n3`, `n4-n9`, `c0`, `acceptors`, `learners`, `proposers`, or several of them with commas.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use twostep_engine::batch::{Batch, Bundle, BundleWriter, Request, RequestKind};
use twostep_engine::configuration::{Admission, Limits};
use twostep_engine::message::Message;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{Decree, NodeId, NodeSet, Regency, Seq, SessionId, Time};
use twostep_net::pool::Pool;

use crate::describe;
use crate::network::End;
use crate::plan::Plan;
use crate::topology::{Topology, client_identity};
use crate::trace::Line;
use crate::workload;
use crate::world::{Honest, Intercept, World};

/// How long a unit is in the world of a script. Nanoseconds.
const UNIT_NS: u64 = 1_000_000;
/// `open` gives up after so many units.
const OPEN_UNITS_MAX: u64 = 10_000;

/// One block of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Comments and commands, as they stand in the file.
    pub commands: String,
    /// What they must print.
    pub expected: String,
}

/// Splits a script into its blocks.
#[must_use]
pub fn parse(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((commands, after)) = rest.split_once("----\n") {
        let (expected, after) = match after.strip_prefix('\n') {
            Some(after) => ("", after),
            None => after.split_once("\n\n").unwrap_or((after, "")),
        };
        let expected = expected.trim_end().to_owned();
        blocks.push(Block {
            commands: commands.trim_start_matches('\n').to_owned(),
            expected,
        });
        rest = after;
    }
    blocks
}

/// Puts blocks together to a script again.
#[must_use]
pub fn render(blocks: &[Block]) -> String {
    let texts: Vec<String> = blocks
        .iter()
        .map(|block| format!("{}----\n{}\n", block.commands, block.expected))
        .collect();
    texts.join("\n")
}

/// Runs the commands of all blocks; gives the same blocks with what was printed.
///
/// # Errors
/// What is wrong with a command, and which one it is.
pub fn run(blocks: &[Block]) -> Result<Vec<Block>, String> {
    let mut stage = Stage::default();
    let mut told = Vec::new();
    for block in blocks {
        for command in block
            .commands
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            stage
                .obey(command)
                .map_err(|error| format!("{command}: {error}"))?;
        }
        let expected = std::mem::take(&mut stage.printed).trim_end().to_owned();
        told.push(Block {
            commands: block.commands.clone(),
            expected,
        });
    }
    Ok(told)
}

#[derive(Default)]
struct Stage {
    world: Option<World<'static>>,
    /// Values by the order of their appearance.
    values: BTreeMap<String, String>,
    printed: String,
}

impl Stage {
    fn obey(&mut self, command: &str) -> Result<(), String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["cluster", rest @ ..] => self.cluster(rest),
            ["open"] => self.open(),
            ["call", client, calls] => {
                let calls = number(calls)?;
                let client = self.client(client)?;
                self.world()?.ask(client, calls);
                Ok(())
            }
            ["run", units] => self.run(units, true),
            ["quiet", units] => self.run(units, false),
            ["lose", from, "->", to, kind, times @ ..] => self.intercept(from, to, kind, times, 0),
            ["double", from, "->", to, kind, times @ ..] => {
                self.intercept(from, to, kind, times, 2)
            }
            ["let", "pass"] => {
                self.world()?.clear_intercepts();
                Ok(())
            }
            ["cut", from, "->", to, units] => {
                let (from, to) = (self.nodes(from)?, self.nodes(to)?);
                let lasting = Duration::from_nanos(number(units)? * UNIT_NS);
                self.world()?.cut(from, to, lasting);
                Ok(())
            }
            ["stop", node] => {
                let nodes = self.nodes(node)?;
                for node in nodes.iter() {
                    self.world()?
                        .stop(node)
                        .map_err(|violation| violation.to_string())?;
                }
                Ok(())
            }
            ["invent", decree, client] => self.invent(decree, client),
            ["status"] => self.status(),
            _ => Err("no such command".to_owned()),
        }
    }

    fn cluster(&mut self, words: &[&str]) -> Result<(), String> {
        let (mode, settings) = words.split_first().ok_or("which mode?")?;
        let model = match *mode {
            "fab" => FaultModel::Fab,
            "crash" => FaultModel::Crash,
            _ => return Err("the modes are fab and crash".to_owned()),
        };
        let (mut f, mut topology, mut limits) = (1, Topology::Separate, Limits::default());
        let (mut every, mut log) = (None, None);
        let (mut t0, mut retry, mut clients, mut pipeline) = (100, None, 1, 1);
        for setting in settings {
            let (name, value) = setting.split_once('=').ok_or("settings are name=value")?;
            match name {
                "f" => f = small(value)?,
                "roles" if value == "separate" => topology = Topology::Separate,
                "roles" if value == "shared" => topology = Topology::Shared,
                "W" => limits.window = number(value)?,
                "K" => limits.checkpoint_every = number(value)?,
                "S" => every = Some(number(value)?),
                "log" => log = Some(small(value)?),
                "T0" => t0 = number(value)?,
                "retry" => retry = Some(number(value)?),
                "clients" => clients = small(value)?,
                "pipeline" => pipeline = small(value)?,
                _ => return Err(format!("no such setting: {setting}")),
            }
        }
        limits.snapshot_every = every.unwrap_or(limits.checkpoint_every << 20);
        let mut plan = Plan::unit(model, f, topology, UNIT_NS);
        plan.limits = limits;
        plan.tuning.t0 = Duration::from_nanos(t0 * UNIT_NS);
        plan.tuning.log_decrees_max = log.unwrap_or(plan.tuning.log_decrees_max);
        plan.clients.count = clients;
        plan.clients.pipeline = pipeline;
        plan.clients.retry = Duration::from_nanos(retry.unwrap_or(t0 * 2) * UNIT_NS);
        plan.clients.retry_max = plan.tuning.t0 * 16;
        let mut world = World::new(plan, 0, &Honest, true);
        world.set_clients_busy(false);
        self.world = Some(world);
        Ok(())
    }

    fn open(&mut self) -> Result<(), String> {
        let world = self.world()?;
        let open = world.run(Time(OPEN_UNITS_MAX * UNIT_NS), World::sessions_open);
        if !open.map_err(|violation| violation.to_string())? {
            return Err("the sessions do not open".to_owned());
        }
        let at = world.now().0 / UNIT_NS;
        world.take_lines();
        // Writing to a string cannot fail.
        let _ = writeln!(self.printed, "{at:>4}  all sessions are open");
        Ok(())
    }

    fn run(&mut self, units: &str, loud: bool) -> Result<(), String> {
        let units = number(units)?;
        let world = self.world()?;
        let until = Time((world.now().0 / UNIT_NS + units) * UNIT_NS);
        let ran = world.run(until, |_| false);
        let lines = world.take_lines();
        if loud {
            self.print(&lines);
        }
        ran.map(|_| ()).map_err(|violation| violation.to_string())
    }

    fn intercept(
        &mut self,
        from: &str,
        to: &str,
        kind: &str,
        times: &[&str],
        copies: usize,
    ) -> Result<(), String> {
        let times = match times {
            [] => u32::MAX,
            [times] => times.parse().map_err(|_| "how many times?".to_owned())?,
            _ => return Err("too many words".to_owned()),
        };
        let (from, to, kind) = (self.ends(from)?, self.ends(to)?, kind.to_owned());
        self.world()?.add_intercept(Intercept {
            from,
            to,
            kind,
            times,
            copies,
        });
        Ok(())
    }

    /// The leader of regency 0 proposes a request with a session and number of its own choice, tagged with
    /// whatever it likes: it does not have the client's keys.
    fn invent(&mut self, decree: &str, client: &str) -> Result<(), String> {
        let decree = decree
            .strip_prefix('d')
            .ok_or("decrees are d1, d2 …")
            .and_then(|text| text.parse().map_err(|_| "which decree?"));
        let decree = Decree(decree?);
        let client = client_identity(self.client(client)?).public().client_id();
        let world = self.world()?;
        let configuration = world.configuration().clone();
        let scope = configuration.scope();
        let mut writer = BundleWriter::new(client);
        let operation = workload::increment(7);
        let session = SessionId {
            decree: Decree(1),
            index: 0,
        };
        let request = Request {
            kind: RequestKind::Operation,
            session,
            seq: Seq(9),
            operation: &operation,
        };
        assert!(writer.push(&request), "one request fits");
        let tags = match configuration.admission() {
            Admission::Mac => {
                vec![twostep_crypto::MacKey::from_bytes([7; 32]); configuration.voting().len()]
            }
            Admission::Signed | Admission::Link => {
                return Err("this cluster takes no tags".to_owned());
            }
        };
        let pool = Pool::default();
        let bytes = pool.copy(writer.finish_mac(&scope, &tags));
        let bundle = Bundle::parse(bytes, &scope, configuration.limits())
            .map_err(|error| error.to_string())?;
        let batch = Batch::assemble(&pool, &scope, &mut [bundle].into(), usize::MAX);
        let leader = configuration.leader(Regency(0));
        let everyone = configuration.acceptors().union(configuration.learners());
        let message = Message::Propose {
            regency: Regency(0),
            decree,
            value: batch.value(),
            body: batch.body().clone(),
        };
        world.forge(leader, everyone.minus(NodeSet::one(leader)), &message);
        Ok(())
    }

    fn status(&mut self) -> Result<(), String> {
        let progress: Vec<_> = self.world()?.progress().collect();
        let learners = self.world()?.configuration().learners();
        let mut groups: Vec<(String, NodeSet)> = Vec::new();
        for (node, far) in progress {
            let text = match far {
                None => "down".to_owned(),
                Some((low, ..)) if !learners.contains(node) => format!("low {low}"),
                Some((low, delivered, executed)) => {
                    format!("low {low}, delivered {delivered}, executed {executed}")
                }
            };
            group(&mut groups, text, node);
        }
        for (text, nodes) in groups {
            let _ = writeln!(self.printed, "      {}: {text}", describe::nodes(nodes));
        }
        Ok(())
    }

    /// Prints what people want to see of what happened, one line per thing said by however many nodes.
    fn print(&mut self, lines: &[Line]) {
        let mut rest = lines;
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|line| line.at == first.at).count();
            let (moment, after) = rest.split_at(count);
            rest = after;
            let mut groups: Vec<(String, NodeSet)> = Vec::new();
            let (mut others, mut lost) = (Vec::new(), Vec::new());
            for line in moment.iter().filter(|line| is_telling(&line.text)) {
                let text = self.name_values(&line.text);
                match speaker(&text) {
                    Some((node, what)) => group(&mut groups, what.to_owned(), node),
                    None if text.ends_with(": lost") => lost.push(text),
                    None => others.push(text),
                }
            }
            let at = first.at.0 / UNIT_NS;
            for text in others {
                let _ = writeln!(self.printed, "{at:>4}  {text}");
            }
            for (text, nodes) in groups {
                let _ = writeln!(self.printed, "{at:>4}  {} {text}", describe::nodes(nodes));
            }
            for text in lost {
                let _ = writeln!(self.printed, "{at:>4}  {text}");
            }
        }
    }

    /// Puts letters in the place of values, which would change with every detail of a configuration.
    fn name_values(&mut self, text: &str) -> String {
        let named = text.split(' ').map(|word| {
            let digits = word.strip_prefix('v').filter(|digits| digits.len() == 8);
            match digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
                None => word.to_owned(),
                Some(_) => {
                    let next = name_of(self.values.len());
                    self.values.entry(word.to_owned()).or_insert(next).clone()
                }
            }
        });
        named.collect::<Vec<_>>().join(" ")
    }

    fn world(&mut self) -> Result<&mut World<'static>, String> {
        self.world
            .as_mut()
            .ok_or_else(|| "first say what cluster there is".to_owned())
    }

    fn client(&mut self, word: &str) -> Result<usize, String> {
        match self.ends(word)?.as_slice() {
            [End::Client(client)] => Ok(*client),
            _ => Err(format!("{word} is no client")),
        }
    }

    fn nodes(&mut self, words: &str) -> Result<NodeSet, String> {
        let node = |end: End| match end {
            End::Node(node) => Ok(node),
            End::Client(client) => Err(format!("c{client} is no node")),
        };
        self.ends(words)?.into_iter().map(node).collect()
    }

    fn ends(&mut self, words: &str) -> Result<Vec<End>, String> {
        let configuration = self.world()?.configuration().clone();
        let mut ends = Vec::new();
        for word in words.split(',') {
            match word {
                "acceptors" => ends.extend(configuration.acceptors().iter().map(End::Node)),
                "learners" => ends.extend(configuration.learners().iter().map(End::Node)),
                "proposers" => {
                    ends.extend(configuration.proposers().iter().copied().map(End::Node));
                }
                _ => match word.split_once('-') {
                    Some((first, last)) => {
                        let (first, last) = (node(first)?, node(last)?);
                        ends.extend((first..=last).map(|node| End::Node(NodeId(node))));
                    }
                    None if word.starts_with('c') => ends.push(End::Client(small(&word[1..])?)),
                    None => ends.push(End::Node(NodeId(node(word)?))),
                },
            }
        }
        Ok(ends)
    }
}

/// Whether a line belongs into a story: what is said, lost, decided, refused or done, but not what arrives or
/// is said every T0 anyway.
fn is_telling(text: &str) -> bool {
    let arrival = text.contains(" → ") && !text.ends_with(": lost");
    let routine = [": Status", " stores #", " on its disk", " voted "];
    !arrival && !routine.iter().any(|part| text.contains(part))
}

fn speaker(text: &str) -> Option<(NodeId, &str)> {
    let (node, what) = text.strip_prefix('n')?.split_once(' ')?;
    node.parse()
        .ok()
        .filter(|_| !what.starts_with('→'))
        .map(|node| (NodeId(node), what))
}

fn group(groups: &mut Vec<(String, NodeSet)>, text: String, node: NodeId) {
    match groups.iter_mut().find(|(known, _)| *known == text) {
        Some((_, nodes)) => {
            nodes.insert(node);
        }
        None => groups.push((text, NodeSet::one(node))),
    }
}

/// A, B … Z, A1, B1 …
fn name_of(place: usize) -> String {
    let letter = char::from(b'A' + u8::try_from(place % 26).expect("below 26"));
    match place / 26 {
        0 => letter.to_string(),
        round => format!("{letter}{round}"),
    }
}

fn node(word: &str) -> Result<u16, String> {
    word.strip_prefix('n')
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| format!("{word} is no node"))
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn small(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_nothing_is_a_block_too() {
        let blocks = parse("open\n----\n\ncall c0 1\n----\nsomething\n");
        let printed: Vec<&str> = blocks.iter().map(|block| block.expected.as_str()).collect();
        assert_eq!(printed, ["", "something"]);
    }

    #[test]
    fn a_script_is_its_blocks() {
        let text = "# why\ncluster fab f=1\nopen\n----\n   4  all sessions are open\n\nstatus\n----\n      n0: low 0\n";
        let blocks = parse(text);
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].expected, "   4  all sessions are open");
        assert_eq!(render(&blocks), text);
    }

    #[test]
    fn wrong_commands_are_named() {
        let blocks = parse("dance\n----\n\n");
        assert_eq!(run(&blocks), Err("dance: no such command".to_owned()));
        let blocks = parse("cluster fab f=1 X=2\n----\n\n");
        assert_eq!(
            run(&blocks),
            Err("cluster fab f=1 X=2: no such setting: X=2".to_owned())
        );
    }
}
