//! What only this driver can get wrong; what all drivers share is tested over links. Where `io_uring` is refused there is nothing to test.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::*;

const A: Key = Key(0);
const B: Key = Key(1);
const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Option<Duration> = Some(Duration::from_millis(20));

fn driver(count: u16, buffer_bytes: usize) -> Option<UringDriver> {
    match UringDriver::with_buffers(count, buffer_bytes) {
        Ok(driver) => Some(driver),
        Err(refused) => {
            eprintln!("not tested: {refused}");
            None
        }
    }
}

/// A connection of the driver under `key` to a plain socket.
fn connect(driver: &mut UringDriver, key: Key) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    driver.connect(key, listener.local_addr().unwrap()).unwrap();
    assert!(!driver.connected(key).unwrap(), "nothing was handed over");
    let event = until(driver, |event| event.key == key && event.writable);
    assert!(!event.readable);
    assert!(driver.connected(key).unwrap());
    listener.accept().unwrap().0
}

fn until(driver: &mut UringDriver, holds: impl Fn(&Event) -> bool) -> Event {
    let end = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    while Instant::now() < end {
        driver.wait(SOON, &mut events).unwrap();
        if let Some(&event) = events.iter().find(|event| holds(event)) {
            return event;
        }
        events.clear();
    }
    panic!("no such event came in time");
}

/// Waits until the kernel has answered for everything that was closed.
fn until_free(driver: &mut UringDriver) {
    let end = Instant::now() + PATIENCE;
    while driver.free.len() < driver.slots.len() {
        assert!(Instant::now() < end, "slots stay in use");
        driver.wait(SOON, &mut Vec::new()).unwrap();
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at / 7 % 251).to_le_bytes()[0])
        .collect()
}

/// Reads until `count` bytes have come, in parts that fit no buffer.
fn read_all(driver: &mut UringDriver, key: Key, count: usize) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 1000]);
    while all.len() < count {
        match driver.read(key, &mut part) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&part[..count]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                until(driver, |event| event.key == key && event.readable);
            }
        }
    }
    all
}

#[test]
fn two_small_buffers_carry_streams_of_any_length() {
    let Some(mut driver) = driver(2, 512) else {
        return;
    };
    let (mut a, mut b) = (connect(&mut driver, A), connect(&mut driver, B));
    let sent = pattern(1 << 20);
    let expected = sent.clone();
    let other = thread::spawn(move || {
        a.write_all(&sent).unwrap();
        drop(a);
        b.write_all(b"not starved").unwrap();
        b
    });
    assert!(read_all(&mut driver, A, usize::MAX) == expected, "in order");
    assert_eq!(driver.read(A, &mut [0]).unwrap(), 0, "the end stays");
    assert_eq!(read_all(&mut driver, B, 11), b"not starved");
    other.join().unwrap();
}

#[test]
fn what_the_socket_has_no_room_for_waits_and_goes_on() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let mut peer = connect(&mut driver, A);
    let bytes = pattern(64 << 20);
    let mut written = 0;
    loop {
        match driver.write(A, &bytes[written..]) {
            Ok(count) => {
                assert!(count <= SEND_BYTES_MAX);
                written += count;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
        driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    }
    assert!(written < bytes.len(), "nobody reads");
    // Nothing more comes: told only after the last byte.
    driver.shutdown_write(A);
    let mut events = Vec::new();
    driver.wait(SOON, &mut events).unwrap();
    assert!(events.is_empty(), "there is no room yet: {events:?}");
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    until(&mut driver, |event| event.writable);
    assert!(
        reader.join().unwrap() == bytes[..written],
        "all of it, in order"
    );
}

#[test]
fn a_send_that_fits_costs_one_call_and_ends_no_wait() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let mut peer = connect(&mut driver, A);
    // The receive of the connection is handed over with the next call.
    driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    let before = driver.syscalls().polls;
    for round in 1..=10 {
        assert_eq!(driver.write(A, b"sixteen bytes...").unwrap(), 16);
        let (start, mut events) = (Instant::now(), Vec::new());
        driver.wait(SOON, &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
        assert!(start.elapsed() >= SOON.unwrap(), "it waited");
        assert_eq!(driver.syscalls().polls - before, round);
    }
    let mut all = [0; 160];
    peer.read_exact(&mut all).unwrap();
    assert_eq!(all, *b"sixteen bytes...".repeat(10));
    // Without anything to do, a turn that does not wait makes no call.
    driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    assert_eq!(driver.syscalls().polls - before, 10);
}

#[test]
fn a_key_used_again_hears_nothing_of_the_socket_before() {
    let Some(mut driver) = driver(8, 4096) else {
        return;
    };
    for round in 0..50u8 {
        let mut old = connect(&mut driver, A);
        // Something to read and a send that waits are under way when it is closed.
        old.write_all(b"for the socket that was closed").unwrap();
        if round % 2 == 0 {
            until(&mut driver, |event| event.readable);
        }
        while driver.write(A, &[1; SEND_BYTES_MAX]).is_ok() {}
        driver.close(A);
        assert_eq!(
            driver.read(A, &mut [0; 8]).unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        let mut new = connect(&mut driver, A);
        new.write_all(&[round; 5]).unwrap();
        assert_eq!(read_all(&mut driver, A, 5), [round; 5]);
        assert_eq!(driver.write(A, &[round; 5]).unwrap(), 5);
        driver.flush();
        let mut back = [0; 5];
        new.read_exact(&mut back).unwrap();
        assert_eq!(back, [round; 5]);
        driver.close(A);
        until_free(&mut driver);
        assert_eq!(new.read(&mut back).unwrap(), 0, "closed for the other side");
        assert!(driver.slots.len() <= 2, "slots are used again");
    }
}

#[test]
fn the_other_side_hears_of_the_end_whoever_still_holds_the_socket() {
    let Some(mut driver) = driver(8, 4096) else {
        return;
    };
    let (mut first, mut second) = (connect(&mut driver, A), connect(&mut driver, B));
    // As the table of registered files does before Linux 6.13.
    let held: Vec<_> = driver
        .slots
        .iter()
        .map(|slot| slot.socket.as_ref().unwrap().try_clone().unwrap())
        .collect();
    assert_eq!(driver.write(A, b"the last words").unwrap(), 14);
    driver.close(A);
    let end = Instant::now() + PATIENCE;
    while driver.free.is_empty() {
        assert!(Instant::now() < end, "the slot stays in use");
        driver.wait(SOON, &mut Vec::new()).unwrap();
    }
    let mut all = Vec::new();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"the last words");
    // A driver that ends on another thread can ask the kernel for nothing more.
    thread::spawn(move || drop(driver)).join().unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    drop(held);
}

#[test]
fn sockets_that_are_not_registered_do_the_same() {
    let Some(mut driver) = driver(8, 4096) else {
        return;
    };
    // As before Linux 6.13.
    driver.ring.files = 0;
    let mut peer = connect(&mut driver, A);
    assert!(driver.slots.iter().all(|slot| !slot.registered));
    peer.write_all(b"there").unwrap();
    assert_eq!(read_all(&mut driver, A, 5), b"there");
    assert_eq!(driver.write(A, b"and back").unwrap(), 8);
    driver.close(A);
    until_free(&mut driver);
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"and back");
}

#[test]
fn closing_what_is_under_way_frees_it() {
    let Some(mut driver) = driver(8, 4096) else {
        return;
    };
    let addr = driver.listen(A, "127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody answers at an address for documentation (RFC 5737), unless a router refuses it.
    driver.connect(B, "192.0.2.1:9".parse().unwrap()).unwrap();
    let waiting = TcpStream::connect(addr).unwrap();
    until(&mut driver, |event| event.key == A && event.readable);
    driver.close(A);
    driver.close(B);
    until_free(&mut driver);
    assert!(TcpStream::connect(addr).is_err(), "nobody listens");
    let mut waiting = waiting;
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = waiting.read(&mut [0]);
    assert!(
        matches!(&read, Ok(0))
            || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "an accepted connection that nobody took is closed"
    );
}

#[test]
fn more_connections_than_are_accepted_ahead_all_come() {
    let Some(mut driver) = driver(8, 4096) else {
        return;
    };
    let addr = driver
        .listen(Key(9999), "127.0.0.1:0".parse().unwrap())
        .unwrap();
    let count = 3 * ACCEPTED_AHEAD;
    let peers: Vec<_> = (0..count)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    let mut taken = 0;
    while taken < count {
        until(&mut driver, |event| {
            event.key == Key(9999) && event.readable
        });
        loop {
            let key = Key(u32::try_from(taken).unwrap());
            match driver.accept(Key(9999), key) {
                Ok(addr) => {
                    assert!(peers.iter().any(|peer| peer.local_addr().unwrap() == addr));
                    taken += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
    }
    assert_eq!(taken, count);
    // The kernel was asked to pause when many waited; the loop took them before it had paused, which it does with the next call.
    driver.wait(SOON, &mut Vec::new()).unwrap();
    let _late = TcpStream::connect(addr).unwrap();
    until(&mut driver, |event| {
        event.key == Key(9999) && event.readable
    });
    let key = Key(u32::try_from(taken).unwrap());
    driver.accept(Key(9999), key).unwrap();
}

#[test]
fn a_refused_connection_says_so() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    driver.connect(A, addr).unwrap();
    until(&mut driver, |event| event.key == A && event.writable);
    assert_eq!(
        driver.connected(A).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    driver.close(A);
    until_free(&mut driver);
}

#[test]
fn what_was_written_leaves_before_the_driver_ends() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let mut peer = connect(&mut driver, A);
    assert_eq!(driver.write(A, b"the last words").unwrap(), 14);
    drop(driver);
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"the last words");
}

#[test]
fn a_driver_may_end_on_another_thread_or_before_it_began() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let mut peer = connect(&mut driver, A);
    thread::spawn(move || drop(driver)).join().unwrap();
    assert_eq!(
        peer.read(&mut [0]).unwrap_or(0),
        0,
        "the connection has ended"
    );
    let mut unused = UringDriver::new().unwrap();
    unused.listen(A, "127.0.0.1:0".parse().unwrap()).unwrap();
    unused.connect(B, "127.0.0.1:1".parse().unwrap()).unwrap();
    drop(unused);
}

#[test]
fn a_loop_may_be_built_on_one_thread_and_run_on_another_which_is_woken_up() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let addr = driver.listen(A, "127.0.0.1:0".parse().unwrap()).unwrap();
    let wake_up = driver.wake_up();
    let runs = thread::spawn(move || {
        let mut events = Vec::new();
        for _ in 0..3 {
            if driver.wake_up().may_sleep() {
                driver.wait(Some(PATIENCE), &mut events).unwrap();
            }
            driver.wake_up().woke();
        }
        (driver.accept(A, B).is_ok(), events.len())
    });
    let start = Instant::now();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(10));
        wake_up.wake();
    }
    thread::sleep(Duration::from_millis(10));
    let _peer = TcpStream::connect(addr).unwrap();
    assert_eq!(runs.join().unwrap(), (true, 1));
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn more_entries_than_the_queue_holds_are_all_handed_over() {
    let Some(mut driver) = driver(4, 4096) else {
        return;
    };
    let addr = driver.listen(A, "127.0.0.1:0".parse().unwrap()).unwrap();
    let count: u32 = 700;
    for key in 1..=count {
        driver.connect(Key(key), addr).unwrap();
    }
    let (mut connected, mut events) = (0, Vec::new());
    let end = Instant::now() + PATIENCE;
    while connected < count && Instant::now() < end {
        driver.wait(SOON, &mut events).unwrap();
        for event in events.drain(..).filter(|event| event.key != A) {
            assert!(driver.connected(event.key).unwrap());
            connected += 1;
        }
    }
    assert_eq!(connected, count);
}
