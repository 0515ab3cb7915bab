//! Nodes that lie in real processes: `twostep node --misbehave NAME`, or told to while they run; and clients that do:
//! `twostep bench --misbehave NAME`.
//!
//! The same [`Liar`] as in the simulator. It begins truthful, costs nothing while it is, and lies once it is told to,
//! with the strategies of [`super::STRATEGIES`] and those that make sense against a real clock only:
//!
//! | strategy | what it does |
//! |---|---|
//! | `flooder:N` | N lies for every message that its replica says: votes, gathers, far decrees, states, with bad signatures |
//! | `regency-flooder:N` | the same with vouchers: a `NewRegency` of forged reports each time |
//! | `burner:P` | burns P percent of a core and says nothing: what a flood is compared with |
//! | `censoring-leader` | as in the simulator, but always deaf for the first client that it hears |
//!
//! `A+B` plays two; of two that want to change the same message the first does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use twostep_crypto::Signed;
use twostep_engine::batch::Batch;
use twostep_engine::client::ClientSetup;
use twostep_engine::client::host::Voice;
use twostep_engine::configuration::Roles;
use twostep_engine::machine::To;
use twostep_engine::message::{
    Message, NewRegency, ProofOfLeadership, RegencyVote, Report, ReportedVote, Status,
};
use twostep_engine::node::status::Misbehaviour;
use twostep_engine::node::{Hosted, NodeConfig, cpu_seconds};
use twostep_engine::replica::Replica;
use twostep_engine::types::{ClientId, Decree, Party, Regency, Time};
use twostep_net::pool::Pool;

use super::clients::{CLIENT_STRATEGIES, ClientLiar, client_by_name};
use super::liar::{Liar, Means, Mouth, Part};
use super::plot::Plot;
use super::voting::invented;
use super::{Entry, SIMULATED, STRATEGIES, Strategy, any, proposer};
use crate::random::Random;

/// Free memory that a liar keeps for the bodies that it makes up. Bytes.
const POOL_BYTES: usize = 16 << 20;

/// Strategies against a real clock. A number may follow the name after a colon.
struct Live {
    name: &'static str,
    fits: fn(&Roles) -> bool,
    /// The number if none is said, and the largest.
    number: (u64, u64),
    make: fn(u64) -> Box<dyn Strategy>,
}

const LIVE: [Live; 4] = [
    Live {
        name: "flooder",
        fits: any,
        number: (10, 1000),
        make: |times| Box::new(Flood::new(times, false)),
    },
    Live {
        name: "regency-flooder",
        fits: any,
        number: (10, 1000),
        make: |times| Box::new(Flood::new(times, true)),
    },
    Live {
        name: "burner",
        fits: any,
        number: (50, 100),
        make: |percent| Box::new(Burner::new(percent)),
    },
    Live {
        name: "censoring-leader",
        fits: proposer,
        number: (0, 0),
        make: |_| Box::<Censor>::default(),
    },
];

/// The names of all strategies that a real node can play.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let playable = STRATEGIES
        .iter()
        .filter(|entry| !SIMULATED.contains(&entry.name));
    let mut names: Vec<&str> = playable.map(|entry| entry.name).collect();
    names.extend(LIVE.iter().map(|live| live.name));
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether this is a lie of leaders, which a node tells only while it leads.
#[must_use]
pub fn is_for_leaders(strategy: &str) -> bool {
    let part = |one: &str| {
        let name = one.split(':').next().unwrap_or(one);
        let fits = |roles: &Roles| part(name, roles).is_ok();
        fits(&Roles::ALL) && !fits(&Roles::ACCEPTOR) && !fits(&Roles::LEARNER)
    };
    strategy.split('+').any(part)
}

/// What a node with these roles plays under this name.
///
/// # Errors
/// Says which name or number is wrong and what there is.
pub fn part(strategy: &str, roles: &Roles) -> Result<Part, String> {
    strategy.split('+').map(|one| part_of(one, roles)).collect()
}

fn part_of(strategy: &str, roles: &Roles) -> Result<(&'static str, Box<dyn Strategy>), String> {
    let (name, number) = match strategy.split_once(':') {
        Some((name, number)) => (name, Some(number)),
        None => (strategy, None),
    };
    let misfit = || format!("strategy `{name}` is for nodes with another role than this one's");
    if let Some(live) = LIVE.iter().find(|live| live.name == name) {
        let (usual, most) = live.number;
        let number = match number {
            None => usual,
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| *number <= most)
                .ok_or_else(|| {
                    format!("`{strategy}`: expected a number from 0 to {most} after the colon")
                })?,
        };
        return (live.fits)(roles)
            .then(|| (live.name, (live.make)(number)))
            .ok_or_else(misfit);
    }
    let entry: Option<&Entry> =
        super::by_name(name).filter(|_| number.is_none() && !SIMULATED.contains(&name));
    let entry = entry.ok_or_else(|| {
        format!(
            "there is no strategy `{strategy}`; there are {}",
            names().join(", ")
        )
    })?;
    (entry.fits)(roles)
        .then(|| (entry.name, (entry.make)()))
        .ok_or_else(misfit)
}

/// Speaks for a client that lies: the voice of `bench --misbehave NAME`. `lies` counts what it lied.
///
/// # Errors
/// Says what strategies of clients there are, if this is none.
pub fn voice(strategy: &str, setup: &ClientSetup, lies: Arc<AtomicU64>) -> Result<Voice, String> {
    if client_by_name(strategy).is_none() {
        let names: Vec<&str> = CLIENT_STRATEGIES.iter().map(|entry| entry.name).collect();
        return Err(format!(
            "there is no strategy `{strategy}` of clients; there are {}",
            names.join(", ")
        ));
    }
    let (configuration, identity) = (&setup.configuration, &setup.identity);
    let mut liar = ClientLiar::new(strategy, 0, configuration, identity).alone();
    let pool = Pool::new(POOL_BYTES);
    Ok(Box::new(move |leader, to, message, say| {
        for said in liar.alter(to, message, leader, &pool) {
            say(said.to, &said.bytes);
        }
        lies.store(liar.lies().1.sent, Ordering::Relaxed);
    }))
}

/// Puts a liar around the replica of a real node, truthful until it is told otherwise: the hook for
/// [`NodeBuilder::machine`](twostep_engine::node::NodeBuilder::machine).
///
/// # Panics
/// If there is no such strategy, or not for this node; [`part`] tells.
pub fn hook(
    config: &NodeConfig,
    strategy: Option<&str>,
) -> impl FnOnce(Replica) -> Box<dyn Hosted> + use<> + 'static {
    let means = Means::new(
        Arc::clone(&config.cluster.configuration),
        config.node,
        config.options.tuning().t0,
        Arc::clone(&config.identity),
        Pool::new(POOL_BYTES),
    );
    let plot = Arc::new(Mutex::new(Plot::alone(config.node)));
    let random = Random::fork(u64::from(std::process::id()), "live");
    let strategy = strategy.map(str::to_owned);
    move |replica| {
        let mut liar = Liar::around(replica, means, plot, random);
        liar.misbehave(strategy.as_deref())
            .expect("the strategy was checked");
        Box::new(liar)
    }
}

impl Hosted for Liar {
    fn replica(&self) -> &Replica {
        self.replica()
    }

    fn misbehave(&mut self, strategy: Option<&str>) -> Result<(), String> {
        let means = self.means();
        let roles = means
            .configuration
            .member(means.me)
            .map(|member| member.roles);
        let part = match strategy {
            Some(strategy) => part(strategy, &roles.unwrap_or_default())?,
            None => Part::new(),
        };
        self.play(part);
        Ok(())
    }

    fn misbehaviour(&self) -> Option<Misbehaviour> {
        let names = self.plays();
        let plot = self.plot().lock().unwrap_or_else(PoisonError::into_inner);
        Some(Misbehaviour {
            strategy: (!names.is_empty()).then(|| names.join("+")),
            lies: plot.lies().values().map(|lies| lies.sent).sum(),
        })
    }
}

/// Is deaf for one client while it leads.
#[derive(Default)]
struct Censor(Option<ClientId>);

impl Strategy for Censor {
    fn hear(&mut self, _from: Party, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let Message::Submit { bundle, .. } = message else {
            return true;
        };
        if !mouth.means.leads() {
            return true;
        }
        let Some(client) = mouth.means.client_of(bundle) else {
            return true;
        };
        let censored = *self.0.get_or_insert(client) == client;
        if censored {
            mouth.withhold(To::Client(client));
        }
        !censored
    }
}

/// Says much for everything that its replica says, all of it useless.
struct Flood {
    times: u64,
    vouchers: bool,
    /// Lies that are due.
    owed: u64,
    /// Rises, so that nothing that it says was said before.
    number: u64,
    /// A true signature of its own, over something else than what it will stand under.
    signature: Option<Signed<RegencyVote>>,
}

/// Lies in one turn: the links' buffers are bounded as well.
const LIES_MAX: u64 = 512;

impl Flood {
    fn new(times: u64, vouchers: bool) -> Flood {
        Flood {
            times,
            vouchers,
            owed: 0,
            number: 0,
            signature: None,
        }
    }

    /// A vote in the name of `signer` under a signature that costs a full check to refuse.
    fn forged(&self, signer: Party, regency: Regency) -> Option<Signed<RegencyVote>> {
        let mut vote = self.signature.clone()?;
        vote.signer = signer;
        vote.content = RegencyVote { regency };
        Some(vote)
    }

    fn proof(&self, regency: Regency, mouth: &Mouth<'_>) -> Option<ProofOfLeadership> {
        let proposers = mouth.means.configuration.proposers();
        let needed = 2 * mouth.means.configuration.f() + 1;
        let voters = proposers.iter().take(needed);
        let votes = voters.map(|node| self.forged(Party::Node(*node), regency));
        Some(ProofOfLeadership {
            votes: votes.collect::<Option<_>>()?,
        })
    }

    /// The next regency that this node would lead.
    fn own_regency(&self, mouth: &Mouth<'_>) -> Regency {
        let proposers = mouth.means.configuration.proposers();
        let place = proposers.iter().position(|node| *node == mouth.means.me);
        let lap = mouth.means.regency().0 / proposers.len() as u64 + 1 + self.number % 1000;
        Regency(lap * proposers.len() as u64 + place.unwrap_or(0) as u64)
    }

    fn voucher(&self, mouth: &mut Mouth<'_>) -> Option<NewRegency> {
        let regency = self.own_regency(mouth);
        let needed = mouth.means.configuration.quorums().report;
        let acceptors = mouth.means.configuration.acceptors();
        let low = mouth.means.low();
        let vote = ReportedVote {
            decree: Decree(low.0 + 1),
            psn: Regency(0),
            value: invented(mouth),
        };
        let content = Report {
            regency,
            low: None,
            votes: vec![vote],
        };
        let signature = self.signature.as_ref()?.signature;
        let voucher = acceptors.iter().take(needed).map(|node| Signed {
            signer: Party::Node(node),
            content: content.clone(),
            signature,
        });
        Some(NewRegency {
            regency,
            proof: self.proof(regency, mouth)?,
            voucher: voucher.collect(),
        })
    }

    fn lie(&mut self, mouth: &mut Mouth<'_>) -> Option<()> {
        self.number += 1;
        let configuration = Arc::clone(&mouth.means.configuration);
        let (everyone, learners) = (configuration.nodes(), configuration.learners());
        if self.vouchers {
            let shown = self.voucher(mouth)?;
            mouth.lie(everyone, &Message::NewRegency(Box::new(shown)));
            return Some(());
        }
        let far = Decree(
            mouth
                .means
                .low()
                .0
                .saturating_add(1 << (10 + self.number % 50)),
        );
        let regency = Regency(mouth.means.regency().0.saturating_add(self.number));
        match self.number % 6 {
            0 => {
                let vote = self.forged(Party::Node(mouth.means.me), regency)?;
                mouth.lie(everyone, &Message::Vote(vote));
            }
            // True votes for ever higher regencies: each is news.
            1 if self.number % 16 == 1 => {
                let vote = mouth.means.sign(RegencyVote { regency });
                mouth.lie(everyone, &Message::Vote(vote));
            }
            1 | 2 => {
                let regency = self.own_regency(mouth);
                let proof = self.proof(regency, mouth)?;
                mouth.lie(everyone, &Message::Gather { regency, proof });
            }
            3 => {
                let (regency, value) = (mouth.means.regency(), invented(mouth));
                let lie = Message::Accepted {
                    regency,
                    decree: far,
                    value,
                };
                mouth.lie(learners, &lie);
            }
            4 => {
                let noop: Batch = mouth.means.noop();
                let lie = Message::Propose {
                    regency: mouth.means.regency(),
                    decree: far,
                    value: noop.value(),
                    body: noop.body().clone(),
                };
                mouth.lie(everyone, &lie);
            }
            _ => {
                let lie = Message::Status(Status {
                    regency: Regency(0),
                    plan_held: false,
                    abstaining: false,
                    low: Decree(0),
                    learned: far,
                });
                mouth.lie(everyone, &lie);
            }
        }
        Some(())
    }
}

impl Strategy for Flood {
    fn say(&mut self, _to: To, _message: &Message<'_>, _mouth: &mut Mouth<'_>) -> bool {
        self.owed = (self.owed + self.times).min(LIES_MAX);
        false
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if self.signature.is_none() {
            let regency = Regency(u64::MAX);
            self.signature = Some(mouth.means.sign(RegencyVote { regency }));
        }
        for _ in 0..std::mem::take(&mut self.owed) {
            self.lie(mouth);
        }
    }
}

/// Burns CPU time.
struct Burner {
    percent: u64,
    since: Option<Time>,
    burnt_s: f64,
    next: Time,
}

impl Burner {
    fn new(percent: u64) -> Burner {
        Burner {
            percent,
            since: None,
            burnt_s: 0.0,
            next: Time(0),
        }
    }
}

/// How often a burner burns, and the longest at a time.
const BURN_EVERY: Duration = Duration::from_millis(2);
const BURN_S_MAX: f64 = 0.002;

impl Strategy for Burner {
    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        let since = *self.since.get_or_insert(mouth.now);
        self.next = mouth.now + BURN_EVERY;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share of a core is rounded anyway"
        )]
        let share = self.percent as f64 / 100.0;
        let due_s = mouth.now.since(since).as_secs_f64() * share - self.burnt_s;
        if due_s <= 0.0 {
            return;
        }
        let begun = cpu_seconds();
        let mut spent = 0.0;
        while spent < due_s.min(BURN_S_MAX) {
            std::hint::spin_loop();
            spent = cpu_seconds() - begun;
        }
        self.burnt_s += spent;
    }

    fn deadline(&self) -> Option<Time> {
        Some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_and_misnamed_ones_are_told() {
        let acceptor = Roles::ACCEPTOR;
        for name in names() {
            let played = part(name, &Roles::ALL).unwrap();
            assert_eq!(played[0].0, name);
        }
        assert_eq!(part("flooder:3+silent", &acceptor).unwrap().len(), 2);
        for (wrong, expected) in [
            ("liar", "there is no strategy `liar`; there are "),
            ("silent:3", "there is no strategy `silent:3`"),
            ("burner:101", "expected a number from 0 to 100"),
            ("flooder:x", "expected a number from 0 to 1000"),
            ("equivocating-leader", "is for nodes with another role"),
            ("silent+censoring-leader", "is for nodes with another role"),
        ] {
            let error = part(wrong, &acceptor).err().expect(wrong);
            assert!(error.contains(expected), "{error}");
        }
    }
}
