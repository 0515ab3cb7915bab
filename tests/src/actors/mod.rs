//! Byzantine nodes: named strategies that wrap a real replica and hold the keys of their own node only.
//!
//! A [`liar::Liar`] is a [`twostep_engine::machine::Machine`]. Its strategies see what the replica inside hears and
//! is about to say, and say something else in its place, or nothing. All liars of a world collude
//! ([`plot::Plot`]). In real processes each lies alone ([`live`]). Clients lie too: [`clients`].
//!
//! | strategy | role | what it does | what bears it (PROTOCOL.md) |
//! |---|---|---|---|
//! | `silent` | any | says nothing at all | every quorum leaves out f (section 2) |
//! | `equivocating-leader` | proposer | one value to 2f+1 acceptors, others to f and f | select finds what may be chosen (3) |
//! | `two-faced` | proposer | another value to every acceptor | the same |
//! | `poisoned-window` | proposer | fills the whole window with values for some acceptors only | one plan covers the window (3) |
//! | `stale-proposals` | proposer | proposes in old and foreign regencies, out of the window, against its plan | the vote rule (3) |
//! | `double-voter` | acceptor | tells learners different votes | 4f+1 equal votes decide (3) |
//! | `lying-reporter` | acceptor | reports nothing after voting, or votes that never were | 2f+1 of 4f+1 reports bind (3) |
//! | `body-withholder` | any | proposes to n − f acceptors only and serves no body | a body needs one peer only (3) |
//! | `voucher-forger` | proposer | two vouchers in one regency, repeated signers, too few, an old voucher | the voucher's rules (3) |
//! | `proof-forger` | proposer | proofs of one voter, and of forged ones | distinct, verified votes (1, 4) |
//! | `proof-hoarder` | proposer | keeps proofs back and shows old ones later | votes go to all (4) |
//! | `vote-inflater` | proposer | votes for 2^64 − 1 | f+1 votes amplify, 2f+1 prove (4) |
//! | `lying-learner` | learner | wrong values, acks, checkpoints, replies, states | f+1 equal answers, 2f+1 checkpoints (5) |
//! | `snapshot-liar` | learner | snapshots of states that never were, forged certificates, wrong chunks or none | f+1 signatures, every chunk under the signed root (5.4) |
//! | `censoring-leader` | proposer | is deaf for some clients | overdue requests (4) |
//! | `slow-leader` | proposer | proposes once in 1.01 T | the timer (4) |
//! | `twins` | any | two copies of the node, each true to the part of the network that it hears | one key counts once (2, 3) |
//! | `tag-spoiler` | proposer | spoils the tags of what it proposes, for all acceptors but one | a leader change; signed retries (5.1) |
//! | `false-doubter` | acceptor | doubts every bundle, and vouches for whatever others doubt | f+1 doubt or vouch, fewer do nothing (5.1) |
//! | `favouring-leader` | any | lets one correct learner learn and nobody else, slowly | n_l − f learners make progress (4) |
//! | `flooder` | any | votes, gathers, far decrees, states without end | bounded state (3, 4) |

pub mod clients;
pub mod electing;
pub mod favouring;
pub mod leading;
pub mod learning;
pub mod liar;
pub mod live;
pub mod plot;
pub mod troupe;
pub mod twins;
pub mod voting;

use twostep_engine::configuration::Roles;
use twostep_engine::machine::To;
use twostep_engine::message::Message;
use twostep_engine::types::{Party, Time};

use self::liar::Mouth;

/// What a liar does differently from the replica inside it.
pub trait Strategy: Send {
    /// The replica is about to hear something; false keeps it from the replica.
    fn hear(&mut self, _from: Party, _message: &Message<'_>, _mouth: &mut Mouth<'_>) -> bool {
        true
    }

    /// The replica is about to say something; true if that is settled, so that it is not said as it is.
    fn say(&mut self, _to: To, _message: &Message<'_>, _mouth: &mut Mouth<'_>) -> bool {
        false
    }

    /// A turn ends.
    fn tick(&mut self, _mouth: &mut Mouth<'_>) {}

    /// When it wants the next turn at the latest.
    fn deadline(&self) -> Option<Time> {
        None
    }
}

/// A strategy by its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Whether a node with these roles can play it.
    pub fits: fn(&Roles) -> bool,
    /// Makes it.
    pub make: fn() -> Box<dyn Strategy>,
}

/// All strategies.
pub const STRATEGIES: [Entry; 21] = [
    entry("silent", any, || Box::new(voting::Silent)),
    entry("equivocating-leader", proposer, || {
        Box::new(leading::Equivocator::split())
    }),
    entry("two-faced", proposer, || {
        Box::new(leading::Equivocator::all_different())
    }),
    entry("poisoned-window", proposer, || {
        Box::<leading::Poisoner>::default()
    }),
    entry("stale-proposals", proposer, || {
        Box::<leading::Stale>::default()
    }),
    entry("double-voter", acceptor, || Box::new(voting::DoubleVoter)),
    entry("lying-reporter", acceptor, || Box::new(voting::Reporter)),
    entry("body-withholder", any, || Box::new(voting::Withholder)),
    entry("voucher-forger", proposer, || {
        Box::<electing::VoucherForger>::default()
    }),
    entry("proof-forger", proposer, || {
        Box::<electing::ProofForger>::default()
    }),
    entry("proof-hoarder", proposer, || {
        Box::<electing::Hoarder>::default()
    }),
    entry("vote-inflater", proposer, || {
        Box::<electing::Inflater>::default()
    }),
    entry("lying-learner", learner, || {
        Box::new(learning::LyingLearner)
    }),
    entry("snapshot-liar", learner, || {
        Box::<learning::SnapshotLiar>::default()
    }),
    entry("censoring-leader", proposer, || Box::new(leading::Censor)),
    entry("slow-leader", proposer, || Box::<leading::Slow>::default()),
    entry("tag-spoiler", proposer, || Box::new(leading::TagSpoiler)),
    entry("false-doubter", acceptor, || Box::new(voting::FalseDoubter)),
    entry("favouring-leader", any, || {
        Box::<favouring::Favourer>::default()
    }),
    entry("flooder", any, || Box::<electing::Flooder>::default()),
    entry("twins", any, || Box::<twins::Twins>::default()),
];

/// The strategies that only a simulated node can play: a second copy of a node needs a link of its own to everybody.
pub const SIMULATED: [&str; 1] = ["twins"];

const fn entry(
    name: &'static str,
    fits: fn(&Roles) -> bool,
    make: fn() -> Box<dyn Strategy>,
) -> Entry {
    Entry { name, fits, make }
}

fn any(_: &Roles) -> bool {
    true
}

fn proposer(roles: &Roles) -> bool {
    roles.proposer
}

fn acceptor(roles: &Roles) -> bool {
    roles.acceptor
}

fn learner(roles: &Roles) -> bool {
    roles.learner
}

/// The strategy of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Entry> {
    STRATEGIES.iter().find(|entry| entry.name == name)
}

/// Something done once in a while.
#[derive(Clone, Copy, Debug, Default)]
struct Every(Time);

impl Every {
    /// Whether it is due; if so the next time is `pause` later.
    fn due(&mut self, now: Time, pause: std::time::Duration) -> bool {
        let due = self.0 <= now;
        if due {
            self.0 = now + pause;
        }
        due
    }
}
