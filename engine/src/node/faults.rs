//! Faults that the control socket asks for, as the links take them.

use std::time::Duration;

use tracing::warn;
use twostep_net::{CLOCK_OFFSET_MS_MAX, ClockOffset, Net};

use crate::journal::faults::{DiskFaultHandle, DiskFaults};
use crate::node::control::{Answer, Fault, FaultDirection};
use crate::types::{NodeId, Party};

/// What is answered where they are not allowed.
pub(super) const FAULTS_FORBIDDEN: &str = "this node takes no faults; start it with --faults true";

/// Lets the clocks of all loops jump.
pub(super) fn set_clock_offset(clock: &ClockOffset, ms: i64) -> Answer {
    if ms.unsigned_abs() > CLOCK_OFFSET_MS_MAX.unsigned_abs() {
        return Answer::Error(format!(
            "clock-offset: expected -{CLOCK_OFFSET_MS_MAX} to {CLOCK_OFFSET_MS_MAX} ms, found {ms}"
        ));
    }
    clock.set_ms(ms);
    warn!("the clock is {ms} ms ahead from now on");
    Answer::Done
}

/// Sets what is wrong with the disk of the journal from now on.
pub(super) fn set_disk_faults(handle: Option<&DiskFaultHandle>, faults: DiskFaults) -> Answer {
    let Some(handle) = handle else {
        return Answer::Error(
            "this node keeps nothing on disk; start it with --durability sync".to_owned(),
        );
    };
    handle.set(faults);
    warn!("the disk of the journal from now on: {faults:?}");
    Answer::Done
}

/// Injects a fault into the links of one loop from now on.
pub(super) fn set_fault(net: &mut Net, fault: &Fault) {
    let rule = twostep_net::FaultRule {
        cut: fault.cut,
        loss_ppm: fault.loss_ppm,
        datagram_loss_ppm: fault.datagram_loss_ppm,
        duplicate_ppm: fault.duplicate_ppm,
        delay_min: Duration::from_micros(fault.delay_min_us),
        delay_max: Duration::from_micros(fault.delay_max_us.max(fault.delay_min_us)),
    };
    let directions: &[twostep_net::Direction] = match fault.direction {
        Some(FaultDirection::In) => &[twostep_net::Direction::In],
        Some(FaultDirection::Out) => &[twostep_net::Direction::Out],
        None => &[twostep_net::Direction::In, twostep_net::Direction::Out],
    };
    for direction in directions {
        match fault.peer {
            Some(peer) => net
                .faults()
                .set_peer(Party::Node(NodeId(peer)), *direction, rule),
            None => net.faults().set_everyone(*direction, rule),
        }
    }
}
