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
    /// Datagrams that did not verify, came twice or came too late: anybody may have sent them.
    pub strays: u64,
    /// How often packets waited for credit of the other side until what was under way to it counted as lost; datagrams only.
    pub credit_timeouts: u64,
    /// How often pieces of messages were missing and were asked for; datagrams only.
    pub repairs: u64,
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

    /// Adds what another loop of the same node has done.
    pub fn add(&mut self, other: &Counters) {
        // By name, so that a count that is added later cannot be forgotten here.
        let Counters {
            turns,
            packets_in,
            packets_out,
            messages_in,
            messages_out,
            bytes_in,
            bytes_out,
            macs,
            syscalls,
            dropped_full,
            dropped_too_large,
            strays,
            credit_timeouts,
            repairs,
            accepted,
            dialled,
            links_up,
            links_down,
            refused,
            refused_us,
        } = other;
        self.turns += turns;
        self.packets_in += packets_in;
        self.packets_out += packets_out;
        self.messages_in += messages_in;
        self.messages_out += messages_out;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.macs += macs;
        self.syscalls.reads += syscalls.reads;
        self.syscalls.writes += syscalls.writes;
        self.syscalls.polls += syscalls.polls;
        self.dropped_full += dropped_full;
        self.dropped_too_large += dropped_too_large;
        self.strays += strays;
        self.credit_timeouts += credit_timeouts;
        self.repairs += repairs;
        self.accepted += accepted;
        self.dialled += dialled;
        self.links_up += links_up;
        self.links_down += links_down;
        for (sum, count) in self.refused.iter_mut().zip(refused) {
            *sum += count;
        }
        for (sum, count) in self.refused_us.iter_mut().zip(refused_us) {
            *sum += count;
        }
    }

    pub(crate) fn count_refused(&mut self, reason: Refusal) {
        self.refused[reason as usize] += 1;
    }

    pub(crate) fn count_refused_us(&mut self, reason: Refusal) {
        self.refused_us[reason as usize] += 1;
    }
}
