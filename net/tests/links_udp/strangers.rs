//! What anybody can send to the port of a node: it costs no link, and is answered with little or nothing.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use twostep_net::packet::{HEADER_BYTES, Header, Kind};
use twostep_net::{COOKIE_BYTES, DATAGRAM_HELLO_BYTES, Refusal};

use crate::common::{PATIENCE, Setup, node};
use crate::scene::{self, HELLO_BYTES, Scene};

/// How long a test waits for what must not happen.
const QUIET: Duration = Duration::from_millis(200);
const NONCE: [u8; 16] = [6; 16];

/// A socket that nobody knows, connected to the server.
fn stranger(scene: &Scene) -> UdpSocket {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.connect(scene.server.addr).unwrap();
    stranger
}

/// The next datagram that the server sends to the stranger.
fn answer(stranger: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    stranger.set_read_timeout(Some(patience)).unwrap();
    let mut bytes = vec![0; 2000];
    match stranger.recv(&mut bytes) {
        Ok(count) => Some(bytes[..count].to_vec()),
        Err(error) => {
            assert!(matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut
            ));
            None
        }
    }
}

/// The Hello of client 101 to node 2, as the module docs lay it out, for datagrams of `mtu` bytes.
fn question(mtu: u64, nonce: [u8; 16], cookie: [u8; COOKIE_BYTES]) -> Vec<u8> {
    let mut question = scene::hello(nonce, |header| {
        header.length = 214;
        header.counter = mtu;
    });
    question.extend(cookie);
    assert_eq!(question.len(), DATAGRAM_HELLO_BYTES);
    question
}

/// The cookie that the server gives `stranger` for its question.
fn cookie(stranger: &UdpSocket, nonce: [u8; 16]) -> [u8; COOKIE_BYTES] {
    stranger
        .send(&question(1472, nonce, [0; COOKIE_BYTES]))
        .unwrap();
    let answer = answer(stranger, PATIENCE).expect("a Hello is answered");
    assert_eq!(Header::read(&answer).kind, Kind::Cookie as u16);
    answer[HEADER_BYTES..].try_into().unwrap()
}

#[test]
fn what_is_no_hello_gets_no_answer() {
    let scene = Scene::new(Setup::node(2));
    let stranger = stranger(&scene);
    let whole = question(1472, NONCE, [0; COOKIE_BYTES]);
    let short = &whole[..213];
    for datagram in [b"GET / HTTP/1.1\r\n\r\n", short, &[0; 1400], &[]] {
        stranger.send(datagram).unwrap();
    }
    let mut other_magic = whole.clone();
    other_magic[20] ^= 1;
    stranger.send(&other_magic).unwrap();
    assert_eq!(answer(&stranger, QUIET), None);
    assert_eq!(scene.server.counters().accepted, 1, "only the good peer");
    scene.assert_good();
}

#[test]
fn a_hello_that_is_said_again_gets_the_same_answer() {
    let scene = Scene::new(Setup::node(2));
    let stranger = stranger(&scene);
    let cookie = cookie(&stranger, NONCE);
    let mut answers = Vec::new();
    for _ in 0..3 {
        stranger.send(&question(1472, NONCE, cookie)).unwrap();
        let answer = answer(&stranger, PATIENCE).expect("a Hello is answered");
        assert_eq!(Header::read(&answer).kind, Kind::Hello as u16);
        assert_eq!(answer.len(), DATAGRAM_HELLO_BYTES);
        // It shows that its sender has seen our Hello.
        assert_eq!(Header::read(&answer).counter, u64::from_le_bytes([6; 8]));
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(scene.server.counters().accepted, 2);
    scene.assert_good();
}

#[test]
fn nobody_can_foretell_the_nonce_of_the_next_link() {
    // Who could would refuse dialled links in the other side's name. This undoes the generator of jitter (SplitMix64) and runs it on.
    let undone = |value: u64| {
        let unshift = |mut z: u64, by: u32| {
            let whole = z;
            for _ in 0..64 / by {
                z = whole ^ (z >> by);
            }
            z
        };
        let z = unshift(value, 31).wrapping_mul(0x3196_42b2_d24d_8ec3);
        let z = unshift(z, 27).wrapping_mul(0x96de_1b17_3f11_9089);
        unshift(z, 30)
    };
    let step = 0x9e37_79b9_7f4a_7c15_u64;
    let scene = Scene::new(Setup::node(2));
    let mut nonces = Vec::new();
    for _ in 0..4 {
        let stranger = stranger(&scene);
        let cookie = cookie(&stranger, NONCE);
        stranger.send(&question(1472, NONCE, cookie)).unwrap();
        let answer = answer(&stranger, PATIENCE).expect("a Hello is answered");
        assert_eq!(answer.len(), DATAGRAM_HELLO_BYTES);
        let half = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().unwrap());
        nonces.push((half(182), half(190)));
    }
    for pair in nonces.windows(2) {
        let (before, now) = (undone(pair[0].0), undone(pair[1].0));
        let steps = (1..100u64).map(|count| before.wrapping_add(step.wrapping_mul(count)));
        assert!(!steps.into_iter().any(|state| state == now));
        assert!(pair[1].1.abs_diff(pair[0].1) > 1000, "the back half counts");
    }
}

#[test]
fn another_size_of_datagrams_is_refused_by_name() {
    let scene = Scene::new(Setup::node(2));
    let stranger = stranger(&scene);
    let cookie = cookie(&stranger, NONCE);
    stranger.send(&question(9000, NONCE, cookie)).unwrap();
    let refusal = answer(&stranger, PATIENCE).expect("it is told");
    assert_eq!(Header::read(&refusal).kind, Kind::Refuse as u16);
    assert_eq!(refusal[HEADER_BYTES], Refusal::Mtu as u8);
    let words = String::from_utf8_lossy(&refusal[HEADER_BYTES + 2..]).into_owned();
    assert!(words.contains("at most 1472 bytes, ours 9000"), "{words}");
    scene.assert_good();
}

#[test]
fn who_never_proves_anything_is_forgotten() {
    let scene = Scene::new(
        Setup::node(2).limits(|limits| limits.handshake_max = Duration::from_millis(150)),
    );
    let stranger = stranger(&scene);
    let cookie = cookie(&stranger, NONCE);
    stranger.send(&question(1472, NONCE, cookie)).unwrap();
    scene.server.until("the refusal", |net| {
        net.counters().refused(Refusal::HandshakeTimeout) == 1
    });
    scene.assert_good();
}

#[test]
fn a_flood_of_hellos_is_bounded_and_costs_no_link() {
    let scene = Scene::new(Setup::node(2).limits(|limits| limits.half_open_max = 8));
    let strangers: Vec<_> = (0..100)
        .map(|_| stranger(&scene))
        .map(|stranger| {
            let question = question(1472, NONCE, cookie(&stranger, NONCE));
            (stranger, question)
        })
        .collect();
    // They say it again, as diallers do: what comes while the server makes a socket for another may be lost.
    let end = Instant::now() + PATIENCE;
    while scene.server.counters().refused(Refusal::TooManyHalfOpen) < 92 {
        assert!(Instant::now() < end, "all of them");
        for (stranger, question) in &strangers {
            stranger.send(question).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.assert_good();
}

#[test]
fn a_cookie_opens_the_door_to_its_own_address_and_nonce_alone() {
    let scene = Scene::new(Setup::node(2));
    let (one, other) = (stranger(&scene), stranger(&scene));
    let (of_one, of_other) = (cookie(&one, NONCE), cookie(&other, NONCE));
    assert_ne!(of_one, of_other);
    for (cookie, nonce) in [
        ([0; COOKIE_BYTES], NONCE),
        (of_other, NONCE),
        (of_one, [9; 16]),
    ] {
        one.send(&question(1472, nonce, cookie)).unwrap();
        let answer = answer(&one, PATIENCE).expect("another cookie");
        assert_eq!(Header::read(&answer).kind, Kind::Cookie as u16);
        assert!(answer.len() < DATAGRAM_HELLO_BYTES, "no amplification");
    }
    assert_eq!(scene.server.counters().accepted, 1, "only the good peer");
    one.send(&question(1472, NONCE, of_one)).unwrap();
    let answer = answer(&one, PATIENCE).expect("the answer");
    assert_eq!(Header::read(&answer).kind, Kind::Hello as u16);
    // It shows the server's Hello, with the proof behind it.
    assert_eq!(&answer[32..64], &[1; 32]);
    assert_ne!(answer[HELLO_BYTES..], [0; COOKIE_BYTES]);
    assert_eq!(scene.server.counters().accepted, 2);
    scene.assert_good();
}

#[test]
fn forged_hellos_leave_nothing_behind_and_keep_nobody_out() {
    // Whoever forges addresses never sees a cookie: here those who send do not read.
    let scene = Scene::new(Setup::node(2).limits(|limits| limits.half_open_max = 4));
    let strangers: Vec<_> = (0..200).map(|_| stranger(&scene)).collect();
    let over = AtomicBool::new(false);
    let (sent, came) = std::thread::scope(|threads| {
        let flood = threads.spawn(|| {
            let mut sent = 0u64;
            while !over.load(Ordering::Relaxed) || sent < 20_000 {
                for stranger in &strangers {
                    let mut nonce = [0; 16];
                    nonce[..8].copy_from_slice(&sent.to_le_bytes());
                    let guessed = [sent.to_le_bytes()[0]; COOKIE_BYTES];
                    // A full receive buffer of the stranger's own host is no matter.
                    let _ = stranger.send(&question(1472, nonce, guessed));
                    sent += 1;
                }
                // A Hello of the good one shares the receive buffer with the flood: leave it a place, as a network would.
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        let latecomer = Setup::node(3).start();
        let began = Instant::now();
        latecomer.dial(&scene.server);
        latecomer.until_up(node(2));
        let came = began.elapsed();
        scene.server.until_up(node(3));
        over.store(true, Ordering::Relaxed);
        (flood.join().unwrap(), came)
    });
    assert!(sent >= 20_000);
    assert!(came < PATIENCE, "{came:?}");
    let counters = scene.server.counters();
    assert_eq!(counters.accepted, 2, "the good peer and the latecomer");
    assert_eq!(counters.refusals().count(), 0, "nobody took a place");
    scene.assert_good();
}

#[test]
fn a_flood_of_noise_costs_no_link() {
    let scene = Scene::new(Setup::node(2));
    let stranger = stranger(&scene);
    for _ in 0..10_000 {
        stranger.send(&[7; 64]).unwrap();
    }
    scene.assert_good();
    assert_eq!(scene.server.counters().accepted, 1);
}
