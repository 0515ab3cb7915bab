//! The sleep and wake-up protocol of the queues over many interleavings, by the shuttle model checker: its atomics, queue and threads stand in for
//! those of the machine. A lost wake-up leaves a thread parked for ever, which the checker reports as a deadlock.

use std::collections::VecDeque;
use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use shuttle::sync::mpsc::{self, Receiver as Ear};
use shuttle::thread;
use twostep_net::queue::{self, Flag, Receiver, Sender, Slots, WakeUp};

/// Interleavings per test: a few seconds.
const RUNS: usize = 3_000;
/// Preemptions that the targeted search places.
const DEPTH: usize = 4;

struct Atomic(AtomicU8);

impl Flag for Atomic {
    fn new(value: u8) -> Self {
        Atomic(AtomicU8::new(value))
    }
    fn swap(&self, value: u8) -> u8 {
        self.0.swap(value, Ordering::AcqRel)
    }
    fn replace(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// What must be found: it goes to sleep though it was notified.
struct Careless(AtomicU8);

impl Flag for Careless {
    fn new(value: u8) -> Self {
        Careless(AtomicU8::new(value))
    }
    fn swap(&self, value: u8) -> u8 {
        self.0.swap(value, Ordering::AcqRel)
    }
    fn replace(&self, _from: u8, to: u8) -> bool {
        self.0.store(to, Ordering::Release);
        true
    }
}

/// A bounded queue with a point of interleaving in every operation.
struct Queue {
    items: Mutex<VecDeque<u32>>,
    capacity: usize,
}

impl Slots<u32> for Queue {
    fn push(&self, item: u32) -> Result<(), u32> {
        let mut items = self.items.lock().unwrap();
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        Ok(())
    }
    fn pop(&self) -> Option<u32> {
        self.items.lock().unwrap().pop_front()
    }
    fn len(&self) -> usize {
        self.items.lock().unwrap().len()
    }
    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// One loop's wait without a deadline, and how often it slept and was rung.
struct Sleep<F> {
    wake_up: WakeUp<F>,
    /// Hears each ring once: unlike a parked thread it never wakes by itself.
    ear: Ear<()>,
    slept: Arc<AtomicUsize>,
    rung: Arc<AtomicUsize>,
}

impl<F: Flag> Sleep<F> {
    fn new() -> Sleep<F> {
        let rung = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rung);
        let (bell, ear) = mpsc::channel();
        let bell = Mutex::new(bell);
        let wake_up = WakeUp::over(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            // A loop that has all it waits for is gone.
            let _ = bell.lock().unwrap().send(());
        });
        Sleep {
            wake_up,
            ear,
            slept: Arc::new(AtomicUsize::new(0)),
            rung,
        }
    }

    fn wait(&self) {
        if self.wake_up.may_sleep() {
            self.slept.fetch_add(1, Ordering::SeqCst);
            self.ear.recv().expect("its bell lives as long");
        }
        self.wake_up.woke();
    }

    /// Every ring ended a sleep: a loop that is awake is never rung.
    fn check(slept: &AtomicUsize, rung: &AtomicUsize) {
        let (slept, rung) = (slept.load(Ordering::SeqCst), rung.load(Ordering::SeqCst));
        assert!(rung <= slept, "rung {rung} times for {slept} sleeps");
    }
}

fn take_all<F: Flag>(
    sleep: &Sleep<F>,
    receivers: &[Receiver<u32, Queue, F>],
    items: u32,
) -> Vec<Vec<u32>> {
    let mut taken = vec![Vec::new(); receivers.len()];
    let mut count = 0;
    loop {
        for (receiver, taken) in receivers.iter().zip(&mut taken) {
            while let Some(item) = receiver.receive() {
                taken.push(item);
                count += 1;
            }
        }
        if count == items {
            return taken;
        }
        sleep.wait();
    }
}

fn give_all<F: Flag>(sleep: &Sleep<F>, sender: &Sender<u32, Queue, F>, items: u32) {
    for item in 0..items {
        while sender.send(item).is_err() {
            sleep.wait();
        }
    }
}

/// Lanes that hand over to one loop through queues of one place, each sleeping while its own is full.
fn lanes_and_an_order_loop<F: Flag>(lanes: usize, items: u32) {
    let order = Sleep::<F>::new();
    let (slept, rung) = (Arc::clone(&order.slept), Arc::clone(&order.rung));
    let mut receivers = Vec::new();
    let mut threads = Vec::new();
    let mut counts = Vec::new();
    for _ in 0..lanes {
        let lane = Sleep::<F>::new();
        counts.push((Arc::clone(&lane.slept), Arc::clone(&lane.rung)));
        let slots = Queue {
            items: Mutex::new(VecDeque::new()),
            capacity: 1,
        };
        let room = Some(lane.wake_up.clone());
        let (sender, receiver) = queue::over(slots, order.wake_up.clone(), room);
        receivers.push(receiver);
        threads.push(thread::spawn(move || give_all(&lane, &sender, items)));
    }
    let total = items * u32::try_from(lanes).unwrap();
    let taken = take_all(&order, &receivers, total);
    for thread in threads {
        thread.join().unwrap();
    }
    let expected: Vec<u32> = (0..items).collect();
    assert!(taken.iter().all(|taken| *taken == expected), "{taken:?}");
    Sleep::<F>::check(&slept, &rung);
    for (slept, rung) in counts {
        Sleep::<F>::check(&slept, &rung);
    }
}

#[test]
fn no_wake_up_is_lost_and_nobody_is_rung_awake_between_one_lane_and_the_order_loop() {
    shuttle::check_random(|| lanes_and_an_order_loop::<Atomic>(1, 3), RUNS);
    shuttle::check_pct(|| lanes_and_an_order_loop::<Atomic>(1, 3), RUNS, DEPTH);
}

#[test]
fn nor_between_two_lanes_and_the_order_loop() {
    shuttle::check_random(|| lanes_and_an_order_loop::<Atomic>(2, 2), RUNS);
    shuttle::check_pct(|| lanes_and_an_order_loop::<Atomic>(2, 2), RUNS, DEPTH);
}

#[test]
fn every_interleaving_of_the_smallest_case_is_well() {
    shuttle::check_dfs(|| lanes_and_an_order_loop::<Atomic>(1, 1), None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_loop_that_sleeps_though_it_was_notified_is_found() {
    shuttle::check_random(|| lanes_and_an_order_loop::<Careless>(1, 2), RUNS);
}
