//! Why a machine refuses what peers and clients say.

use thiserror::Error;

use crate::batch::Malformed;

/// Why something was refused. Each has a name under which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A batch or bundle is not well-formed.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The sender does not hold the role that says such things.
    #[error("the sender does not hold the role for this message")]
    Role,
    /// A proposal from somebody who does not lead the regency.
    #[error("the sender does not lead this regency")]
    NotLeader,
    /// A regency below the promised one.
    #[error("the regency is below the one that was promised")]
    OldRegency,
    /// A regency whose plan is not held.
    #[error("the plan of this regency is not held")]
    NoPlan,
    /// A decree that is not open.
    #[error("the decree is outside the window")]
    OutsideWindow,
    /// A second value in one regency.
    #[error("another value was voted for in this regency")]
    SecondValue,
    /// A value that the plan excludes.
    #[error("the plan binds this decree to another value")]
    AgainstPlan,
    /// A body that does not hash to its value.
    #[error("the body does not hash to the value")]
    WrongBody,
    /// A client that the node does not know.
    #[error("the client is not known here")]
    UnknownClient,
    /// A request that its client did not authenticate for this node.
    #[error("the client's authenticator does not verify")]
    Unauthentic,
    /// A bundle with tags of a client whose tags are doubted; it was asked for its signature.
    #[error("the client's tags are doubted: it must sign")]
    MustSign,
    /// A bundle from another client than the link's.
    #[error("the bundle belongs to another client")]
    ForeignBundle,
    /// A checkpoint or certificate that does not verify.
    #[error("the checkpoint does not verify")]
    BadCheckpoint,
    /// A snapshot or its certificate that does not verify.
    #[error("the snapshot does not verify")]
    BadSnapshot,
    /// A piece of a snapshot that is not the one that was asked for.
    #[error("the piece is not the one under the signed root")]
    WrongChunk,
    /// A body or value that nobody asked for.
    #[error("nobody asked for this")]
    Unasked,
    /// The node lost its disk and abstains from this.
    #[error("the node abstains since it lost its disk")]
    Abstaining,
    /// Too many bundles wait already.
    #[error("too many bundles wait")]
    Full,
    /// More questions than one peer gets answered, or more signatures than it gets checked.
    #[error("the peer takes more than its share")]
    Share,
    /// A signature that does not verify.
    #[error("the signature does not verify")]
    BadSignature,
    /// A proof of leadership without enough distinct voters.
    #[error("the votes prove no such regency")]
    BadProof,
    /// A report that contradicts itself or its regency.
    #[error("the report is not one for this regency")]
    BadReport,
    /// A voucher without exactly n − f distinct reporters.
    #[error("the voucher does not hold exactly n − f reports of distinct acceptors")]
    BadVoucher,
}

impl Refusal {
    /// The name under which it is counted.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::Role => "role",
            Refusal::NotLeader => "not_leader",
            Refusal::OldRegency => "old_regency",
            Refusal::NoPlan => "no_plan",
            Refusal::OutsideWindow => "outside_window",
            Refusal::SecondValue => "second_value",
            Refusal::AgainstPlan => "against_plan",
            Refusal::WrongBody => "wrong_body",
            Refusal::UnknownClient => "unknown_client",
            Refusal::Unauthentic => "unauthentic",
            Refusal::MustSign => "must_sign",
            Refusal::ForeignBundle => "foreign_bundle",
            Refusal::BadCheckpoint => "bad_checkpoint",
            Refusal::BadSnapshot => "bad_snapshot",
            Refusal::WrongChunk => "wrong_chunk",
            Refusal::Unasked => "unasked",
            Refusal::Abstaining => "abstaining",
            Refusal::Full => "full",
            Refusal::Share => "share",
            Refusal::BadSignature => "bad_signature",
            Refusal::BadProof => "bad_proof",
            Refusal::BadReport => "bad_report",
            Refusal::BadVoucher => "bad_voucher",
        }
    }
}
