//! What anybody can send to the port of a node: it costs no link, and is answered with little or nothing.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use twostep_net::packet::{HEADER_BYTES, Header, Kind};
use twostep_net::{LinkId, Refusal, SendOutcome};

use crate::common::{self, Loop, PATIENCE, Setup, client, node};

const MAGIC: &[u8; 16] = b"twostep link v1+";
const SEED: u8 = 101;
/// How long a test waits for what must not happen.
const QUIET: Duration = Duration::from_millis(200);

/// A server (node 2) with a good peer (node 1) that must not notice anything, and a stranger's socket.
struct Scene {
    server: Loop,
    good: Loop,
    link: LinkId,
    stranger: UdpSocket,
}

impl Scene {
    fn new(server: Setup) -> Self {
        let (server, good) = (server.echoing().start(), Setup::node(1).start());
        good.dial(&server);
        let link = good.until_up(node(2));
        server.until_up(node(1));
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.connect(server.addr).unwrap();
        Self {
            server,
            good,
            link,
            stranger,
        }
    }

    fn assert_good(&self) {
        let outcome = self.good.send(self.link, b"still here".to_vec());
        assert_eq!(outcome, SendOutcome::Queued);
        assert_eq!(self.good.until_message(), b"still here");
    }

    /// The next datagram that the server sends to the stranger.
    fn answer(&self, patience: Duration) -> Option<Vec<u8>> {
        self.stranger.set_read_timeout(Some(patience)).unwrap();
        let mut bytes = vec![0; 2000];
        match self.stranger.recv(&mut bytes) {
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
}

/// The Hello of client 101 to node 2, as the module docs lay it out, for datagrams of `mtu` bytes.
fn hello(mtu: u64) -> Vec<u8> {
    let header = Header {
        length: 198,
        version: 1,
        kind: Kind::Hello as u16,
        counter: mtu,
        tag: *MAGIC,
    };
    let public = common::identity(SEED).public();
    [
        &header.to_bytes()[..],
        &[1; 32],
        &[0; 4],
        &client(SEED).encode(),
        &node(2).encode(),
        public.sign.as_bytes(),
        &public.agree,
        &[5; 16],
        &[6; 16],
    ]
    .concat()
}

#[test]
fn what_is_no_hello_gets_no_answer() {
    let scene = Scene::new(Setup::node(2));
    let short = &hello(1472)[..197];
    for datagram in [b"GET / HTTP/1.1\r\n\r\n", short, &[0; 1400], &[]] {
        scene.stranger.send(datagram).unwrap();
    }
    let mut other_magic = hello(1472);
    other_magic[20] ^= 1;
    scene.stranger.send(&other_magic).unwrap();
    assert_eq!(scene.answer(QUIET), None);
    assert_eq!(scene.server.counters().accepted, 1, "only the good peer");
    scene.assert_good();
}

#[test]
fn a_hello_that_is_said_again_gets_the_same_answer() {
    let scene = Scene::new(Setup::node(2));
    let mut answers = Vec::new();
    for _ in 0..3 {
        scene.stranger.send(&hello(1472)).unwrap();
        let answer = scene.answer(PATIENCE).expect("a Hello is answered");
        let proof = scene.answer(PATIENCE).expect("with a proof");
        assert_eq!(Header::read(&proof).kind, Kind::Proof as u16);
        assert!(answer.len() + proof.len() <= 3 * 198);
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
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        stranger.send_to(&hello(1472), scene.server.addr).unwrap();
        let mut answer = [0; 2000];
        let count = stranger.recv(&mut answer).unwrap();
        assert_eq!(count, 198, "a Hello");
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
    scene.stranger.send(&hello(9000)).unwrap();
    let refusal = scene.answer(PATIENCE).expect("it is told");
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
    scene.stranger.send(&hello(1472)).unwrap();
    scene.server.until("the refusal", |net| {
        net.counters().refused(Refusal::HandshakeTimeout) == 1
    });
    scene.assert_good();
}

#[test]
fn a_flood_of_hellos_is_bounded_and_costs_no_link() {
    let scene = Scene::new(Setup::node(2).limits(|limits| limits.half_open_max = 8));
    let strangers: Vec<UdpSocket> = (0..100)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    // They say it again, as diallers do: what comes while the server makes a socket for another may be lost.
    let end = Instant::now() + PATIENCE;
    while scene.server.counters().refused(Refusal::TooManyHalfOpen) < 92 {
        assert!(Instant::now() < end, "all of them");
        for stranger in &strangers {
            stranger.send_to(&hello(1472), scene.server.addr).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.assert_good();
}

#[test]
fn a_flood_of_noise_costs_no_link() {
    let scene = Scene::new(Setup::node(2));
    for _ in 0..10_000 {
        scene.stranger.send(&[7; 64]).unwrap();
    }
    scene.assert_good();
    assert_eq!(scene.server.counters().accepted, 1);
}
