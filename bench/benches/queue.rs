//! Hand-off between loops: items through one queue, and there and back between two threads that do not sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twostep_net::queue::{Receiver, Sender, WakeUp, bounded};

const CAPACITY: usize = 1024;

fn pair() -> (Sender<u64>, Receiver<u64>) {
    // Both sides poll, so that nobody has to be woken.
    bounded(CAPACITY, WakeUp::new(|| {}))
}

/// Waits for the next item; lets the other thread run where both share a core.
fn next(receiver: &Receiver<u64>) -> u64 {
    loop {
        if let Some(item) = receiver.receive() {
            return item;
        }
        thread::yield_now();
    }
}

fn queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    let (sender, receiver) = pair();
    group.throughput(Throughput::Elements(CAPACITY as u64));
    group.bench_function("fill and empty in one thread", |b| {
        b.iter(|| {
            for item in 0..CAPACITY as u64 {
                sender.send(item).expect("room");
            }
            let mut sum = 0;
            while let Some(item) = receiver.receive() {
                sum += item;
            }
            assert_eq!(sum, (CAPACITY * (CAPACITY - 1) / 2) as u64);
        });
    });

    let (there, at_the_echo) = pair();
    let (back, here) = pair();
    let ended = Arc::new(AtomicBool::new(false));
    let echo = thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            while !ended.load(Ordering::Acquire) {
                match at_the_echo.receive() {
                    Some(item) => back.send(item).expect("as much room as there"),
                    None => thread::yield_now(),
                }
            }
        }
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("there and back between two threads", |b| {
        b.iter(|| {
            there.send(1).expect("room");
            next(&here)
        });
    });
    group.throughput(Throughput::Elements(256));
    group.bench_function("256 there and back between two threads", |b| {
        b.iter(|| {
            (0..256).for_each(|item| there.send(item).expect("room"));
            (0..256).map(|_| next(&here)).sum::<u64>()
        });
    });
    ended.store(true, Ordering::Release);
    echo.join().expect("the echo ends");
    group.finish();
}

criterion_group!(benches, queue);
criterion_main!(benches);
