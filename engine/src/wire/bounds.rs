//! How large the parts of a message may be, given the configuration that all nodes share.

use super::cursor::VARINT_BYTES_MAX;
use crate::configuration::Configuration;

/// What a decoded message can hold at most. Nothing above it is allocated, whatever the bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most voices of a certificate: one per learner.
    pub learners: usize,
    /// The most reports of a voucher: one per acceptor.
    pub acceptors: usize,
    /// The most votes of a proof of leadership: one per proposer.
    pub proposers: usize,
    /// W: the most votes of a report, and the most values that are pulled at once. Decrees.
    pub window: u64,
    /// The largest body. Bytes.
    pub body_bytes_max: usize,
    /// The largest bundle, so that it fits a body of its own. Bytes.
    pub bundle_bytes_max: usize,
    /// The largest reply of one request. Bytes.
    pub reply_bytes_max: usize,
}

impl Bounds {
    /// The bounds of a cluster.
    #[must_use]
    pub fn of(configuration: &Configuration) -> Bounds {
        let (limits, quorums) = (configuration.limits(), configuration.quorums());
        let body_bytes_max = limits.body_bytes_max as usize;
        Bounds {
            learners: quorums.learners,
            acceptors: quorums.acceptors,
            proposers: quorums.proposers,
            window: limits.window,
            body_bytes_max,
            bundle_bytes_max: body_bytes_max - BODY_HEADER,
            reply_bytes_max: limits.reply_bytes_max as usize,
        }
    }

    /// The most bytes that any message within the bounds takes: what a link must be able to reassemble. Those with replies
    /// stay within it if [`Replies`](crate::machine::Replies) begin new groups at [`Bounds::replies_bytes_max`].
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        let window = usize::try_from(self.window).unwrap_or(usize::MAX);
        let proof = 2 + self.proposers * (2 + 8 + 64);
        let certificate = 8 + 32 + 2 + self.learners * (2 + 32 + 64);
        let report = 2 + 8 + 1 + certificate + 4 + window.saturating_mul(8 + 8 + 32) + 64;
        let new_regency = 1 + 8 + proof + 2 + report.saturating_mul(self.acceptors);
        let propose = 1 + 8 + 8 + 32 + 4 + self.body_bytes_max;
        let pulled = 1 + 8 + 4 + window.saturating_mul(32);
        let replies = 1 + 8 + 4 + self.replies_bytes_max();
        new_regency.max(propose).max(pulled).max(replies)
    }

    /// How many bytes of entries one message with replies holds: a body's worth, and at least the largest entry. Bytes.
    #[must_use]
    pub fn replies_bytes_max(&self) -> usize {
        let entry = super::replies::ENTRY_HEADER_MAX + VARINT_BYTES_MAX + self.reply_bytes_max;
        self.body_bytes_max.max(entry)
    }
}

/// The number of bundles in front of a body (see [`crate::batch`]).
const BODY_HEADER: usize = 4;
