//! What a loop has done so far, counted. Read by `status`, metrics and benchmarks.

use crate::driver::Syscalls;
use crate::refusal::Refusal;

/// Counts since the start of the loop. Plain numbers: only the loop's thread writes them; a copy is a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Loop turns.
    pub turns: u64,
    /// Packets received and verified.
    pub packets_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages queued for sending.
    pub messages_out: u64,
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes written to sockets.
    pub bytes_out: u64,
    /// MACs computed, for sealing and for checking.
    pub macs: u64,
    /// System calls of the driver.
    pub syscalls: Syscalls,
    /// Messages dropped because the peer's send buffer was full.
    pub dropped_full: u64,
    /// Messages dropped because they exceed the limit.
    pub dropped_too_large: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that we began to open.
    pub dialled: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Links that went down after they were up.
    pub links_down: u64,
    /// By [`Refusal`]: how often we refused the other side.
    refused: [u64; Refusal::ALL.len()],
    /// By [`Refusal`]: how often the other side refused us.
    refused_us: [u64; Refusal::ALL.len()],
}

impl Counters {
    /// How often we refused another side for `reason`.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// How often another side refused us for `reason`.
    #[must_use]
    pub fn refused_us(&self, reason: Refusal) -> u64 {
        self.refused_us[reason as usize]
    }

    /// Our refusals by name, those that happened.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refusal::ALL
            .iter()
            .map(|&reason| (reason.name(), self.refused(reason)))
            .filter(|&(_, count)| count > 0)
    }

    pub(crate) fn count_refused(&mut self, reason: Refusal) {
        self.refused[reason as usize] += 1;
    }

    pub(crate) fn count_refused_us(&mut self, reason: Refusal) {
        self.refused_us[reason as usize] += 1;
    }
}
