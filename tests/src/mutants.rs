//! Clusters whose replicas follow a wrong rule, with the trouble and the liar that turn it into harm: what
//! `twostep sim --rules NAME` runs. Each must be found, or the checkers check nothing (PROTOCOL.md section 7).
//!
//! | rules | the wrong rule | what turns it into harm |
//! |---|---|---|
//! | `s1-literal` | an acceptor without a vote accepts psn 0 whatever it reported | a deposed leader that goes on proposing in regency 0 |
//! | `s3-repeated-signer` | the signers of a voucher need not differ | a new leader that signs all reports of its voucher, and proposes other values |
//! | `s6-any-regency` | a learner counts equal values of different regencies | a leader that equivocates and is deposed |
//! | `s7-pairs` | a voucher counts pairs of value and psn | a second leader that equivocates and lies in its report |
//! | `accept-below-promise` | an acceptor votes below its promise | as for `s1-literal` |
//! | `voucher-of-4f` | 4f reports make a voucher | a leader that proposes to n − f acceptors and lies in its report |
//! | `learn-quorum-less-one` | 4f votes decide | loss alone |
//! | `promise-forgotten` | a node that starts again is in regency 0 | as for `s1-literal`, and restarts |
//! | `votes-forgotten` | a node that starts again has not voted | restarts, and leaders that are not heard |
//! | `syncs-ignored` | what is said to be durable is not | power cuts |
//!
//! The liars are strategies of [`crate::actors`], never more than f nodes, and with the rules of PROTOCOL.md every one of
//! these clusters is clean: what is found is the rule's fault.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use twostep_engine::machine::{Effects, Input, Machine, To};
use twostep_engine::message::{Checkpoint, Message, Report};
use twostep_engine::record::OwnedRecord;
use twostep_engine::replica::{Execute, Replica, RestoreError, Setup};
use twostep_engine::rules::{Rules, Standard};
use twostep_engine::types::{NodeId, NodeSet, Regency, Time};

use crate::actors::liar::{Liar, Mouth};
use crate::actors::plot::Plot;
use crate::actors::troupe::Actor;
use crate::actors::{self, Strategy};
use crate::disk::Fate;
use crate::plan::{Fault, FaultKind, OPERATIONS_MIN, Plan, SimOptions};
use crate::random::Random;
use crate::rules::{
    AcceptBelowPromise, LearnQuorumLessOne, S1Literal, S3RepeatedSigner, S6AnyRegency, S7Pairs,
    VoucherOf4f,
};
use crate::runner::{SeedReport, run_plan, run_seeds, trace_plan};
use crate::topology::{Topology, roles};
use crate::world::Cast;

/// A wrong rule, and what turns it into harm.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// Makes the replicas that do not lie.
    replica: fn(Setup) -> Box<dyn Machine>,
    /// Makes them when they start again.
    restored: Restored,
    /// Who lies, and how.
    liar: Option<(NodeId, &'static [&'static str])>,
    /// The first leader is not heard for a while, so that the second one has its turn.
    unheard: bool,
    /// What becomes of disks.
    disks: Disks,
}

/// As [`Cast::restored`].
type Restored = fn(
    Setup,
    Option<&Checkpoint>,
    Vec<OwnedRecord>,
    Execute<'_>,
) -> Result<Box<dyn Machine>, RestoreError>;

/// What becomes of disks beside what a seed draws.
#[derive(Clone, Copy)]
enum Disks {
    /// Nothing.
    Whole,
    /// Nodes that do not lie stop for a moment, with their disks.
    Restarts,
    /// The power fails, everywhere, and leaves this.
    PowerCuts(Fate),
}

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mutant").field(&self.name).finish()
    }
}

const FIRST: NodeId = NodeId(0);
const SECOND: NodeId = NodeId(1);

/// All wrong rules.
pub const MUTANTS: [Mutant; 10] = [
    Mutant {
        name: "s1-literal",
        replica: replica::<S1Literal>,
        restored: restored::<S1Literal>,
        liar: Some((FIRST, &["two-faced", "stale-proposals"])),
        unheard: false,
        disks: Disks::Whole,
    },
    Mutant {
        name: "s3-repeated-signer",
        replica: replica::<S3RepeatedSigner>,
        restored: restored::<S3RepeatedSigner>,
        liar: Some((SECOND, &[REPEATED_SIGNER])),
        unheard: true,
        disks: Disks::Whole,
    },
    Mutant {
        name: "s6-any-regency",
        replica: replica::<S6AnyRegency>,
        restored: restored::<S6AnyRegency>,
        liar: Some((FIRST, &["equivocating-leader"])),
        unheard: false,
        disks: Disks::Whole,
    },
    Mutant {
        name: "s7-pairs",
        replica: replica::<S7Pairs>,
        restored: restored::<S7Pairs>,
        liar: Some((SECOND, &["equivocating-leader", "lying-reporter"])),
        unheard: true,
        disks: Disks::Whole,
    },
    Mutant {
        name: "accept-below-promise",
        replica: replica::<AcceptBelowPromise>,
        restored: restored::<AcceptBelowPromise>,
        liar: Some((FIRST, &["two-faced", "stale-proposals"])),
        unheard: false,
        disks: Disks::Whole,
    },
    Mutant {
        name: "voucher-of-4f",
        replica: replica::<VoucherOf4f>,
        restored: restored::<VoucherOf4f>,
        liar: Some((
            FIRST,
            &["body-withholder", "lying-reporter", "censoring-leader"],
        )),
        unheard: false,
        disks: Disks::Whole,
    },
    Mutant {
        name: "learn-quorum-less-one",
        replica: replica::<LearnQuorumLessOne>,
        restored: restored::<LearnQuorumLessOne>,
        liar: None,
        unheard: false,
        disks: Disks::Whole,
    },
    Mutant {
        name: "promise-forgotten",
        replica: replica::<Standard>,
        restored: |setup, base, mut records, execute| {
            records.retain(|record| !is_above_regency_0(record));
            restored::<Standard>(setup, base, records, execute)
        },
        liar: Some((FIRST, &["two-faced", "stale-proposals"])),
        unheard: false,
        disks: Disks::Restarts,
    },
    Mutant {
        name: "votes-forgotten",
        replica: replica::<Standard>,
        restored: |setup, base, mut records, execute| {
            records.retain(|record| !matches!(record, OwnedRecord::Vote { .. }));
            restored::<Standard>(setup, base, records, execute)
        },
        liar: None,
        unheard: true,
        disks: Disks::Restarts,
    },
    Mutant {
        name: "syncs-ignored",
        replica: replica::<Standard>,
        restored: restored::<Standard>,
        liar: None,
        unheard: false,
        disks: Disks::PowerCuts(Fate::SyncedLost),
    },
];

/// The mutant of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Mutant> {
    MUTANTS.iter().find(|mutant| mutant.name == name)
}

impl Mutant {
    /// The same cluster with the rules of PROTOCOL.md: it must be clean.
    #[must_use]
    pub fn cured(&self) -> Mutant {
        Mutant {
            replica: replica::<Standard>,
            restored: restored::<Standard>,
            disks: match self.disks {
                Disks::PowerCuts(_) => Disks::PowerCuts(Fate::TailLost),
                disks => disks,
            },
            ..*self
        }
    }

    /// What a seed draws: mode F, f = 1, roles shared, links as always; no node stops for good, since one lies.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        let options = SimOptions {
            topology: Some(Topology::Shared),
            ..SimOptions::default()
        };
        let mut plan = Plan::draw(&options, seed);
        plan.faults
            .retain(|fault| !matches!(fault.what, FaultKind::Crash { .. }));
        if self.unheard {
            plan.faults.push(unheard(&plan, seed));
        }
        plan.faults.extend(self.disks.faults(&plan, seed));
        plan.faults.sort_by_key(|fault| fault.at);
        let actor = self.liar.map(|(node, strategies)| Actor {
            node,
            strategies: strategies.to_vec(),
        });
        plan.actors = actor.into_iter().collect();
        plan
    }

    /// Runs one seed.
    #[must_use]
    pub fn run(&self, seed: u64) -> SeedReport {
        let plan = self.plan(seed);
        let cast = self.cast(&plan, seed);
        run_plan(plan, seed, &cast)
    }

    /// Runs one seed and writes what happens, line by line.
    ///
    /// # Errors
    /// When a line cannot be written.
    pub fn trace(&self, seed: u64, out: &mut dyn Write) -> io::Result<SeedReport> {
        let plan = self.plan(seed);
        let cast = self.cast(&plan, seed);
        trace_plan(plan, seed, &cast, out)
    }

    /// Runs seeds on all cores until one violates a property, and gives the lowest that does. `each` is told of every
    /// seed before it.
    pub fn hunt(&self, seeds: Range<u64>, mut each: impl FnMut()) -> Option<SeedReport> {
        let mut found = None;
        run_seeds(
            seeds,
            |seed| self.run(seed),
            |report| {
                each();
                found = report.violation.is_some().then(|| report.clone());
                found.is_none()
            },
        );
        found
    }

    fn cast(&self, plan: &Plan, seed: u64) -> Impostors {
        let byzantine = plan.actors.iter().map(|actor| actor.node).collect();
        Impostors {
            actors: plan.actors.clone(),
            seed,
            plot: Arc::new(Mutex::new(Plot::new(byzantine))),
            replica: self.replica,
            restored: self.restored,
        }
    }
}

impl Disks {
    /// What strikes, eight times, the first leader left out: it lies in some of these clusters.
    fn faults(self, plan: &Plan, seed: u64) -> Vec<Fault> {
        let random = &mut Random::fork(seed, "disks");
        let nodes = roles(plan.model, plan.f, plan.topology).len();
        let mut faults = Vec::new();
        for _ in 0..8 {
            let after = plan.tuning.t0 / u32::try_from(random.between(1, 50)).expect("small");
            let node = random.between(1, nodes as u64 - 1);
            let node = NodeId(u16::try_from(node).expect("a configuration has few nodes"));
            let at = random.between(OPERATIONS_MIN / 6, OPERATIONS_MIN);
            let what = match self {
                Disks::Whole => return faults,
                Disks::Restarts => FaultKind::Crash {
                    node,
                    fate: Fate::Kept,
                    rejoin_after: Some(after),
                },
                Disks::PowerCuts(fate) => FaultKind::Blackout { fate, after },
            };
            faults.push(Fault { at, what });
        }
        faults
    }
}

/// The first leader is not heard by anybody for longer than anybody waits.
fn unheard(plan: &Plan, seed: u64) -> Fault {
    let nodes = roles(plan.model, plan.f, plan.topology).len();
    let everyone: NodeSet = (0..nodes)
        .map(|node| NodeId(u16::try_from(node).expect("a configuration has few nodes")))
        .collect();
    let first = NodeSet::one(FIRST);
    let random = &mut Random::fork(seed, "unheard");
    Fault {
        at: random.between(OPERATIONS_MIN / 6, OPERATIONS_MIN / 2),
        what: FaultKind::Cut {
            from: first,
            to: everyone.minus(first),
            lasting: Duration::max(plan.tuning.t0, plan.clients.retry) * 8,
        },
    }
}

fn replica<R: Rules + Default + Send + 'static>(setup: Setup) -> Box<dyn Machine> {
    Box::new(Replica::with_rules(setup, R::default()).expect("the simulator's keys are sound"))
}

fn restored<R: Rules + Default + Send + 'static>(
    setup: Setup,
    base: Option<&Checkpoint>,
    records: Vec<OwnedRecord>,
    execute: Execute<'_>,
) -> Result<Box<dyn Machine>, RestoreError> {
    let replica = Replica::restore_with_rules(setup, R::default(), base, records, execute)?;
    Ok(Box::new(replica))
}

fn is_above_regency_0(record: &OwnedRecord) -> bool {
    match record {
        OwnedRecord::Promise { .. }
        | OwnedRecord::Entered { .. }
        | OwnedRecord::NewRegency(_)
        | OwnedRecord::RegencyVote(_)
        | OwnedRecord::Rejoined { .. } => true,
        OwnedRecord::Lead(regency)
        | OwnedRecord::Proposal { regency, .. }
        | OwnedRecord::Vote { regency, .. } => *regency > Regency(0),
        OwnedRecord::Learned { .. } | OwnedRecord::Low(_) | OwnedRecord::Checkpoint(_) => false,
    }
}

/// Signs every report of its voucher itself, all of nothing, and proposes what such a voucher would allow. Not one of the
/// strategies that the swarm draws: there the wire stops `voucher-forger`, which does the same.
struct RepeatedSigner;

const REPEATED_SIGNER: &str = "repeated-signer";

impl Strategy for RepeatedSigner {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let To::Nodes(to) = to else { return false };
        match message {
            Message::NewRegency(shown) => {
                let nothing = mouth.means.sign(Report {
                    regency: shown.regency,
                    low: None,
                    votes: Vec::new(),
                });
                let mut forged = shown.clone();
                forged.voucher = vec![nothing];
                mouth.lie(to, &Message::NewRegency(forged));
                true
            }
            Message::Propose {
                regency,
                decree,
                body,
                ..
            } if *regency > Regency(0) => {
                let other = mouth.means.variant(body, 1);
                let lie = Message::Propose {
                    regency: *regency,
                    decree: *decree,
                    value: other.value(),
                    body: other.body().clone(),
                };
                mouth.lie(to, &lie);
                true
            }
            _ => false,
        }
    }
}

/// The wire carries no signer twice, so no rule ever sees such a voucher. Here it does: a voucher of one report stands for
/// one of as many copies of it as a voucher needs.
struct Unpacking {
    inner: Box<dyn Machine>,
    reports: usize,
}

impl Machine for Unpacking {
    fn step(&mut self, now: Time, mut input: Input<'_>, fx: &mut dyn Effects) {
        if let Input::Message {
            message: Message::NewRegency(shown),
            ..
        } = &mut input
            && let [report] = &shown.voucher[..]
        {
            shown.voucher = vec![report.clone(); self.reports];
        }
        self.inner.step(now, input, fx);
    }

    fn deadline(&self) -> Option<Time> {
        self.inner.deadline()
    }
}

fn strategy(name: &'static str) -> (&'static str, Box<dyn Strategy>) {
    if name == REPEATED_SIGNER {
        return (name, Box::new(RepeatedSigner));
    }
    let entry = actors::by_name(name).expect("mutants name strategies that exist");
    (entry.name, (entry.make)())
}

/// Replicas with wrong rules, and a liar among them.
struct Impostors {
    actors: Vec<Actor>,
    seed: u64,
    plot: Arc<Mutex<Plot>>,
    replica: fn(Setup) -> Box<dyn Machine>,
    restored: Restored,
}

impl Cast for Impostors {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let Some(actor) = self.actors.iter().find(|actor| actor.node == setup.me) else {
            let reports = setup.configuration.quorums().report;
            let inner = (self.replica)(setup);
            return Box::new(Unpacking { inner, reports });
        };
        let strategies = actor.strategies.iter().map(|name| strategy(name));
        let random = Random::fork(self.seed, &format!("liar {}", setup.me.0));
        let plot = Arc::clone(&self.plot);
        Box::new(Liar::new(setup, strategies.collect(), plot, random))
    }

    fn restored(
        &self,
        setup: Setup,
        base: Option<&Checkpoint>,
        records: Vec<OwnedRecord>,
        execute: Execute<'_>,
    ) -> Result<Box<dyn Machine>, RestoreError> {
        let reports = setup.configuration.quorums().report;
        let inner = (self.restored)(setup, base, records, execute)?;
        Ok(Box::new(Unpacking { inner, reports }))
    }

    fn byzantine(&self) -> NodeSet {
        self.actors.iter().map(|actor| actor.node).collect()
    }
}
