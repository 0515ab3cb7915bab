//! Why links end, in words that both sides can log.
//!
//! A wrong cluster id or key must not look like a hang. So whoever refuses says why before it closes, in two wordings: one for its own log, one
//! for the other side's, which reads it as "it refused us: …". Every reason has a name, and names are counted.

use std::fmt;
use std::io;

use twostep_crypto::{ClusterId, Epoch, PROTOCOL_VERSION, Party};

use crate::packet::PacketError;

/// Most bytes of wording that travel in a refusal.
pub(crate) const DETAIL_BYTES_MAX: usize = 400;

macro_rules! refusals {
    ($($(#[$doc:meta])+ $variant:ident = $code:literal $name:literal,)+) => {
        /// The named reasons. The number travels on the wire and stays with its reason for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Refusal { $($(#[$doc])+ $variant = $code,)+ }

        impl Refusal {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant,)+];

            /// The reason's name in logs, metrics and status.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)+ }
            }

            /// The reason with this number; a number of a newer version reads as [`Refusal::Unspecified`].
            #[must_use]
            pub(crate) const fn from_code(code: u16) -> Refusal {
                match code { $($code => Refusal::$variant,)+ _ => Refusal::Unspecified }
            }
        }
    };
}

refusals! {
    /// A reason that this version does not know.
    Unspecified = 0 "unspecified",
    /// The first bytes are no handshake of this protocol.
    NotTwostep = 1 "not-twostep",
    /// The other side speaks another protocol version.
    Version = 2 "version",
    /// The other side belongs to another cluster, or has another configuration of it.
    Cluster = 3 "cluster",
    /// The other side is in another epoch.
    Epoch = 4 "epoch",
    /// The other side is nobody that the directory lists.
    UnknownParty = 5 "unknown-party",
    /// The other side shows another key than the directory lists.
    UnknownKey = 6 "unknown-key",
    /// The dialler wanted to reach somebody else.
    WrongParty = 7 "wrong-party",
    /// Both sides claim to be the same party.
    SameParty = 8 "same-party",
    /// The other side does not have the link key.
    BadProof = 9 "bad-proof",
    /// A packet that does not belong here, such as data before the proof.
    Unexpected = 10 "unexpected",
    /// Bytes that are no packet, frame or handshake field.
    Malformed = 11 "malformed",
    /// A packet or message above the limits.
    TooLarge = 12 "too-large",
    /// A packet whose tag does not verify.
    BadTag = 13 "bad-tag",
    /// A packet that came before.
    Replayed = 14 "replayed",
    /// The handshake took too long.
    HandshakeTimeout = 15 "handshake-timeout",
    /// Too many connections are in their handshake.
    TooManyHalfOpen = 16 "too-many-half-open",
    /// Too many connections, of all or of one client.
    TooManyLinks = 17 "too-many-links",
    /// The same node connected again; the newer connection stays.
    Replaced = 18 "replaced",
    /// The other side sends datagrams of another size.
    Mtu = 19 "mtu",
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal as one side tells it: the reason, and a sentence in which "we" is the side that logs it and "it" is the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The named reason.
    pub reason: Refusal,
    /// The sentence, without control characters.
    pub detail: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.reason)
    }
}

/// Why a link refuses the other side: both wordings of one reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{local} ({reason})")]
pub struct LinkError {
    /// The named reason.
    pub reason: Refusal,
    /// The sentence for our log.
    pub local: String,
    /// The sentence for the other side's log.
    pub remote: String,
}

impl LinkError {
    fn new(reason: Refusal, local: impl Into<String>, remote: impl Into<String>) -> Self {
        Self {
            reason,
            local: local.into(),
            remote: remote.into(),
        }
    }

    pub(crate) fn not_twostep() -> Self {
        let local = "its first bytes are no handshake of this protocol; check what connects to this address";
        Self::new(
            Refusal::NotTwostep,
            local,
            "our first bytes are no handshake of its protocol; check the address that we dial",
        )
    }

    pub(crate) fn version(theirs: u16) -> Self {
        let words = |it, we| {
            format!(
                "it speaks protocol version {it}, we speak version {we}; run the same release on both sides"
            )
        };
        Self::new(
            Refusal::Version,
            words(theirs, PROTOCOL_VERSION),
            words(PROTOCOL_VERSION, theirs),
        )
    }

    pub(crate) fn cluster(theirs: ClusterId, ours: ClusterId) -> Self {
        let words = |it: ClusterId, we: ClusterId| {
            format!(
                "it belongs to cluster {}, we are of {}; the cluster files of both sides must be equal",
                short(&it),
                short(&we)
            )
        };
        Self::new(Refusal::Cluster, words(theirs, ours), words(ours, theirs))
    }

    pub(crate) fn epoch(theirs: Epoch, ours: Epoch) -> Self {
        let words = |it: Epoch, we: Epoch| format!("it is in epoch {it}, we are in epoch {we}");
        Self::new(Refusal::Epoch, words(theirs, ours), words(ours, theirs))
    }

    pub(crate) fn unknown_party(party: Party) -> Self {
        let local = format!("it says that it is {party}, which our cluster file does not list");
        Self::new(
            Refusal::UnknownParty,
            local,
            format!("its cluster file does not list us, {party}"),
        )
    }

    pub(crate) fn unknown_key(party: Party) -> Self {
        let local =
            format!("it says that it is {party} but shows another key than our cluster file lists");
        Self::new(
            Refusal::UnknownKey,
            local,
            format!(
                "its cluster file lists another key for us, {party}, than our identity file holds"
            ),
        )
    }

    /// We are `me`, the dialler wanted `wanted`.
    pub(crate) fn dialled_for_another(wanted: Party, me: Party) -> Self {
        Self::new(
            Refusal::WrongParty,
            format!("it wants to reach {wanted}, we are {me}; check the address it dials"),
            format!("it is {me}, we want to reach {wanted}; check the address we dial"),
        )
    }

    /// We wanted `wanted` and reached `found`.
    pub(crate) fn reached_another(wanted: Party, found: Party) -> Self {
        Self::new(
            Refusal::WrongParty,
            format!("it is {found}, we want to reach {wanted}; check the address we dial"),
            format!("it wants to reach {wanted}, we are {found}; check the address it dials"),
        )
    }

    pub(crate) fn same_party(me: Party) -> Self {
        let words =
            format!("both sides are {me}: two processes use one identity, or one dials itself");
        Self::new(Refusal::SameParty, words.clone(), words)
    }

    pub(crate) fn bad_proof() -> Self {
        let words =
            "does not prove its identity: the key pair and the cluster file do not belong together";
        Self::new(
            Refusal::BadProof,
            format!("it {words}"),
            "our proof of identity does not verify there: the key pair and the cluster file do not belong together",
        )
    }

    pub(crate) fn unexpected(expected: &str, kind: u16) -> Self {
        Self::new(
            Refusal::Unexpected,
            format!("it sent a packet of kind {kind} where {expected} was expected"),
            format!("we sent a packet of kind {kind} where it expected {expected}"),
        )
    }

    pub(crate) fn malformed(what: &str) -> Self {
        Self::new(
            Refusal::Malformed,
            format!("what it sent is malformed: {what}"),
            format!("what we sent is malformed: {what}"),
        )
    }

    pub(crate) fn handshake_timeout(seconds: f32) -> Self {
        Self::new(
            Refusal::HandshakeTimeout,
            format!("it did not complete the handshake within {seconds} s"),
            format!("we did not complete the handshake within {seconds} s"),
        )
    }

    pub(crate) fn too_many_half_open(max: usize) -> Self {
        let words =
            |who| format!("{who} more than {max} connections in their handshake; the oldest goes");
        Self::new(
            Refusal::TooManyHalfOpen,
            words("there are"),
            words("it has"),
        )
    }

    pub(crate) fn too_many_links(what: &str, max: usize) -> Self {
        Self::new(
            Refusal::TooManyLinks,
            format!("it would exceed the {max} connections that we allow {what}"),
            format!("we would exceed the {max} connections that it allows {what}"),
        )
    }

    pub(crate) fn replaced() -> Self {
        Self::new(
            Refusal::Replaced,
            "it connected again; the newer connection stays",
            "we connected again; the newer connection stays",
        )
    }

    pub(crate) fn mtu(theirs: u64, ours: usize) -> Self {
        let words = |it: &dyn fmt::Display, we: &dyn fmt::Display| {
            format!(
                "its datagrams have at most {it} bytes, ours {we}; `mtu` must be the same in all cluster files"
            )
        };
        Self::new(Refusal::Mtu, words(&theirs, &ours), words(&ours, &theirs))
    }

    /// What our side logs.
    #[must_use]
    pub fn refused(&self) -> Refused {
        Refused {
            reason: self.reason,
            detail: self.local.clone(),
        }
    }

    /// The body of the packet that tells the other side.
    pub(crate) fn to_body(&self) -> Vec<u8> {
        let mut cut = self.remote.len().min(DETAIL_BYTES_MAX);
        while !self.remote.is_char_boundary(cut) {
            cut -= 1;
        }
        let mut body = (self.reason as u16).to_le_bytes().to_vec();
        body.extend_from_slice(&self.remote.as_bytes()[..cut]);
        body
    }
}

impl From<PacketError> for LinkError {
    fn from(error: PacketError) -> Self {
        let reason = match error {
            PacketError::TooShort(_)
            | PacketError::Gaps
            | PacketError::Frame(_)
            | PacketError::Fragment { .. } => Refusal::Malformed,
            PacketError::TooLong { .. } => Refusal::TooLarge,
            PacketError::Version(theirs) => return Self::version(theirs),
            PacketError::BadTag => Refusal::BadTag,
            PacketError::Replayed { .. } => Refusal::Replayed,
        };
        Self::new(
            reason,
            format!("what it sent is refused: {error}"),
            format!("what we sent is refused: {error}"),
        )
    }
}

/// Reads the body of a refusal packet. It is another machine's text: bounded, and without control characters.
pub(crate) fn read_refusal(body: &[u8]) -> Refused {
    let Some((code, text)) = body.split_at_checked(2) else {
        return Refused {
            reason: Refusal::Unspecified,
            detail: "it gave no reason".to_owned(),
        };
    };
    let text = &text[..text.len().min(DETAIL_BYTES_MAX)];
    let detail = String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    Refused {
        reason: Refusal::from_code(u16::from_le_bytes([code[0], code[1]])),
        detail,
    }
}

/// Why a link went down.
#[derive(Debug, thiserror::Error)]
pub enum LinkDown {
    /// We refused the other side.
    #[error("we refused it: {0}")]
    Refused(Refused),
    /// The other side refused us and said why.
    #[error("it refused us: {0}")]
    RefusedUs(Refused),
    /// The other side closed the connection without a word: it stopped, or its process ended.
    #[error("it closed the connection")]
    Closed,
    /// The service closed the link.
    #[error("closed on this side")]
    ClosedHere,
    /// The operating system reports an error.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

/// The first bytes of an id suffice to tell two apart in a log line.
fn short(id: &ClusterId) -> String {
    let mut text = id.to_string();
    text.truncate(12);
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_read_the_same_fact_from_their_own_side() {
        let error = LinkError::cluster(ClusterId([0xcd; 32]), ClusterId([0xab; 32]));
        assert!(
            error
                .local
                .starts_with("it belongs to cluster cdcdcdcdcdcd…, we are of abababababab…"),
            "{error}"
        );
        let told = read_refusal(&error.to_body());
        assert_eq!(told.reason, Refusal::Cluster);
        assert!(
            told.detail
                .starts_with("it belongs to cluster abababababab…, we are of cdcdcdcdcdcd…"),
            "{told}"
        );
    }

    #[test]
    fn numbers_and_names_are_unique() {
        for (at, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, at);
            assert_eq!(Refusal::from_code(*refusal as u16), *refusal);
            assert!(
                Refusal::ALL[..at]
                    .iter()
                    .all(|other| other.name() != refusal.name())
            );
        }
        assert_eq!(Refusal::from_code(999), Refusal::Unspecified);
    }

    #[test]
    fn a_peers_text_is_bounded_and_cannot_write_into_the_terminal() {
        let told = read_refusal(&[[3, 0].as_slice(), b"\x1b[2Jx\n", &[b'y'; 1000]].concat());
        assert_eq!(told.reason, Refusal::Cluster);
        assert!(told.detail.starts_with("?[2Jx?y"));
        assert_eq!(told.detail.len(), DETAIL_BYTES_MAX);
        assert_eq!(read_refusal(&[1]).reason, Refusal::Unspecified);
    }
}
