//! How a loop without sockets waits: the order loop and the execution loop of a node with lanes.
//!
//! It is the [reactor](crate::reactor)'s wait without the driver: spin for a while if told to, then park the thread until a deadline or a [`WakeUp`].

use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::queue::WakeUp;
use crate::reactor::Idle;

/// The wait of one loop on one thread.
#[derive(Debug)]
pub struct Sleeper {
    wake_up: WakeUp,
    thread: Arc<OnceLock<Thread>>,
    idle: Idle,
    worked_at: Option<Instant>,
}

impl Sleeper {
    /// A wait with this idle strategy.
    #[must_use]
    pub fn new(idle: Idle) -> Self {
        let thread = Arc::new(OnceLock::<Thread>::new());
        let sleeping = Arc::clone(&thread);
        // Before the loop has named its thread it cannot sleep.
        let wake_up = WakeUp::new(move || {
            if let Some(thread) = sleeping.get() {
                thread.unpark();
            }
        });
        Self {
            wake_up,
            thread,
            idle,
            worked_at: None,
        }
    }

    /// What ends the wait, from any thread. Give it to the [queues](crate::queue) into the loop.
    #[must_use]
    pub fn waker(&self) -> WakeUp {
        self.wake_up.clone()
    }

    /// Ends a turn that began at `now` and in which the loop `worked` or found nothing to do: waits for the next one until somebody wakes the
    /// loop or `deadline` has passed. It may end early.
    ///
    /// # Panics
    /// When it is called from a second thread.
    pub fn wait(&mut self, now: Instant, worked: bool, deadline: Option<Instant>) {
        let me = thread::current();
        let sleeper = self.thread.get_or_init(|| me.clone());
        assert_eq!(sleeper.id(), me.id(), "one thread runs a loop");
        if worked {
            self.worked_at = Some(now);
        }
        let spin = Duration::from_micros(u64::from(self.idle.spin_us));
        let spins = self.idle.busy_poll
            || self
                .worked_at
                .is_some_and(|at| now.saturating_duration_since(at) < spin);
        if spins {
            std::hint::spin_loop();
        } else if self.wake_up.may_sleep() {
            match deadline {
                Some(deadline) => {
                    thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
                }
                None => thread::park(),
            }
        }
        self.wake_up.woke();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue;

    /// A lost wake-up would leave the loop parked: it has no deadline.
    #[test]
    fn no_wake_up_is_lost_between_two_loops_and_a_full_queue() {
        const ITEMS: u32 = 20_000;
        let (mut giver, mut taker) = (Sleeper::new(Idle::default()), Sleeper::new(Idle::default()));
        let (sender, receiver) = queue::bounded_both(4, taker.waker(), giver.waker());
        let giving = thread::spawn(move || {
            let mut next = 0;
            while next < ITEMS {
                let now = Instant::now();
                let mut worked = false;
                while next < ITEMS && sender.send(next).is_ok() {
                    (next, worked) = (next + 1, true);
                }
                if next < ITEMS {
                    giver.wait(now, worked, None);
                }
            }
        });
        let mut expected = 0;
        while expected < ITEMS {
            let now = Instant::now();
            let mut worked = false;
            while let Some(item) = receiver.receive() {
                assert_eq!(item, expected);
                (expected, worked) = (expected + 1, true);
            }
            if expected < ITEMS {
                taker.wait(now, worked, None);
            }
        }
        giving.join().unwrap();
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let mut sleeper = Sleeper::new(Idle::default());
        let now = Instant::now();
        let deadline = now + Duration::from_millis(5);
        while Instant::now() < deadline {
            sleeper.wait(now, false, Some(deadline));
        }
        assert!(now.elapsed() < Duration::from_secs(5));
    }
}
