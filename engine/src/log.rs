//! The log of a learner: what was learned lately, for others to pull and for execution to catch up.

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::types::Decree;

/// Consecutive learned decrees, the newest last.
///
/// The number of decrees is a bound for what a snapshot covers: above the last but one certified snapshot others may need it
/// (PROTOCOL.md section 5.4). The bound of bytes holds whatever is certified: what goes then is in the journal, or covered by the
/// next snapshot. While others are known to catch up ([`Log::hold`]) twice as much is kept for them: without a journal nothing but the
/// log leads from the snapshot that they take up to where the order is.
#[derive(Debug)]
pub struct Log {
    batches: VecDeque<Batch>,
    newest: Decree,
    /// Decrees above this one are needed by the node itself and are never dropped.
    needed_above: Decree,
    /// The last but one certified snapshot.
    covered: Decree,
    /// Others are about to ask for what is above this one.
    held_above: Option<Decree>,
    bytes: usize,
    decrees_max: usize,
    bytes_max: usize,
}

impl Log {
    /// An empty log with these bounds (decrees, bytes of bodies).
    #[must_use]
    pub fn new(decrees_max: usize, bytes_max: usize) -> Log {
        let batches = VecDeque::new();
        Log {
            batches,
            newest: Decree::NONE,
            needed_above: Decree::NONE,
            covered: Decree::NONE,
            held_above: None,
            bytes: 0,
            decrees_max,
            bytes_max,
        }
    }

    /// Appends the next decree.
    ///
    /// # Panics
    /// If it is not the next one: learners learn in order.
    pub fn push(&mut self, decree: Decree, batch: Batch) {
        assert_eq!(decree, self.newest.next(), "a log has no gaps");
        self.newest = decree;
        self.bytes += cost(&batch);
        self.batches.push_back(batch);
        self.trim();
    }

    /// Forgets everything and begins anew above `decree`.
    pub fn resume(&mut self, decree: Decree) {
        self.batches.clear();
        self.bytes = 0;
        (self.newest, self.needed_above) = (decree, decree);
    }

    /// The node itself is done with everything up to `decree`: from now on the bounds may drop it.
    pub fn release(&mut self, decree: Decree) {
        self.needed_above = self.needed_above.max(decree);
        self.trim();
    }

    /// Two certified snapshots hold everything up to `decree`.
    pub fn cover(&mut self, decree: Decree) {
        self.covered = self.covered.max(decree);
        self.trim();
    }

    /// Others are about to ask for what is above `decree`; nobody is if none.
    pub fn hold(&mut self, decree: Option<Decree>) {
        if decree != self.held_above {
            self.held_above = decree;
            self.trim();
        }
    }

    /// A decree that is still kept.
    #[must_use]
    pub fn get(&self, decree: Decree) -> Option<&Batch> {
        let back = self.newest.0.checked_sub(decree.0)?;
        let place = (self.batches.len() as u64).checked_sub(back + 1)?;
        self.batches.get(usize::try_from(place).ok()?)
    }

    /// The decree below the oldest that is still kept.
    #[must_use]
    pub fn base(&self) -> Decree {
        Decree(self.newest.0 - self.batches.len() as u64)
    }

    fn trim(&mut self) {
        loop {
            let many = self.batches.len() > self.decrees_max && self.base() < self.covered;
            let held = self.held_above.is_some_and(|held| held <= self.base());
            let bytes_max = self.bytes_max.saturating_mul(if held { 2 } else { 1 });
            let large = self.bytes > bytes_max;
            if !(many || large) || self.base() >= self.needed_above {
                return;
            }
            let dropped = self
                .batches
                .pop_front()
                .expect("a log above a bound is not empty");
            self.bytes -= cost(&dropped);
        }
    }
}

/// What a batch takes in memory, at least: small bodies live in buffers of a minimal size. Bytes.
fn cost(batch: &Batch) -> usize {
    batch.body().len().max(512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, Epoch};
    use twostep_crypto::Scope;

    #[test]
    fn bounded_but_never_below_what_is_needed() {
        let batch = Batch::noop(&Scope::new(ClusterId([0; 32]), Epoch(0)));
        let mut log = Log::new(3, usize::MAX);
        for decree in 1..=5 {
            log.push(Decree(decree), batch.clone());
        }
        assert!(log.get(Decree(1)).is_some(), "nothing was released yet");
        log.release(Decree(1));
        assert!(log.get(Decree(1)).is_some(), "no snapshot covers it");
        log.cover(Decree(4));
        assert!(log.get(Decree(1)).is_none());
        assert!(log.get(Decree(2)).is_some());
        log.release(Decree(5));
        assert_eq!(log.base(), Decree(2), "three are kept for others");
        assert!(log.get(Decree(5)).is_some() && log.get(Decree(6)).is_none());

        log.resume(Decree(9));
        assert_eq!(log.base(), Decree(9));
        assert!(log.get(Decree(5)).is_none() && log.get(Decree(9)).is_none());
        log.push(Decree(10), batch);
        assert!(log.get(Decree(10)).is_some());
    }

    #[test]
    fn bytes_are_bounded_whatever_is_certified() {
        let batch = Batch::noop(&Scope::new(ClusterId([0; 32]), Epoch(0)));
        let mut log = Log::new(usize::MAX, 2 * cost(&batch));
        for decree in 1..=5 {
            log.push(Decree(decree), batch.clone());
            log.release(Decree(decree));
        }
        assert_eq!(log.base(), Decree(3));
        log.resume(Decree(16));
        assert_eq!(log.base(), Decree(16));
        log.push(Decree(17), batch);
        assert!(log.get(Decree(17)).is_some() && log.get(Decree(16)).is_none());
    }

    #[test]
    fn twice_as_much_is_held_for_those_that_catch_up_but_nothing_below_what_they_need() {
        let batch = Batch::noop(&Scope::new(ClusterId([0; 32]), Epoch(0)));
        let mut log = Log::new(usize::MAX, 2 * cost(&batch));
        let grow = |log: &mut Log, decrees: std::ops::RangeInclusive<u64>| {
            for decree in decrees {
                log.push(Decree(decree), batch.clone());
                log.release(Decree(decree));
            }
        };
        grow(&mut log, 1..=3);
        assert_eq!(log.base(), Decree(1));
        log.hold(Some(Decree(2)));
        grow(&mut log, 4..=6);
        assert_eq!(log.base(), Decree(2), "decree 2 goes, the next one is held");
        grow(&mut log, 7..=9);
        assert_eq!(log.base(), Decree(5), "whatever is held, there is a bound");
        log.hold(None);
        assert_eq!(log.base(), Decree(7));
    }
}
