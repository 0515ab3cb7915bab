//! What must hold after every step, judged from outside: from what nodes say, store and deliver, and from what
//! clients submit and are told. Nothing here asks the engine for a quorum or a verdict.
//!
//! | property | in one sentence | where |
//! |---|---|---|
//! | agreement | every decree has one outcome, at all learners | [`order`] |
//! | order | learners deliver 1, 2, 3 … | [`order`] |
//! | validity | what is delivered was submitted by the client it names | [`order`] |
//! | exactly once | an operation has one effect; a reply is what the effect was | [`history`] |
//! | chosen | what is delivered has a learn quorum of durable votes | [`said`] |
//! | durability | what is said rests on durable records | [`said`] |
//! | I3′ | no vote while another value is choosable below | [`anchor`] |

pub mod anchor;
pub mod calls;
pub mod history;
pub mod order;
pub mod said;

use std::fmt;

use twostep_engine::types::Time;

/// Which property is violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Two learners delivered different things as one decree.
    Agreement,
    /// A learner skipped or repeated a decree.
    Order,
    /// Something was delivered that nobody submitted.
    Validity,
    /// An operation had more or less than one effect, or a client was told another result.
    ExactlyOnce,
    /// Something was delivered without enough durable votes.
    Chosen,
    /// Something was said before what it rests on was durable, or after it was lost.
    Durability,
    /// A correct node said two different things where only one is allowed.
    OneValue,
    /// A vote while another value was choosable in a lower regency.
    Anchoring,
    /// Learners that executed the same decrees differ in results or state.
    Divergence,
    /// A node made bytes that the wire does not take, or never rests.
    Conduct,
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub property: Property,
    /// When it was seen, in virtual time.
    pub at: Time,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ns: {}", self.property, self.at.0, self.what)
    }
}

/// A violation without its time, which the world adds.
pub type Finding = (Property, String);

/// Shorthand for a check that fails.
pub(crate) fn found<T>(property: Property, what: String) -> Result<T, Finding> {
    Err((property, what))
}
