//! A raw socket that speaks the protocol by hand, well or badly. Whatever it sends ends its own connection with a named, counted reason that it is told, and no other.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use twostep_crypto::{Context, LinkKeys, PROTOCOL_VERSION, link_keys};
use twostep_net::packet::{
    HEADER_BYTES, Header, Kind, Opener, PacketLimits, Sealer, frames, split,
};
use twostep_net::{LinkDown, Refusal};

use crate::common::{self, Loop, PATIENCE, Setup, client, node};
use crate::scene::{self, HELLO_BYTES, SEED, Scene};

impl Scene {
    /// The server has refused once for `reason`, has told `raw`, and still serves its good peer.
    fn assert_refused(&self, raw: &mut Raw, reason: Refusal) {
        let (_, why) = self.server.until_down();
        assert!(
            matches!(&why, LinkDown::Refused(refused) if refused.reason == reason),
            "expected {reason}, got: {why}"
        );
        assert_eq!(raw.read_refusal(), reason as u16);
        let counters = self.server.counters();
        assert_eq!(
            counters.refusals().collect::<Vec<_>>(),
            [(reason.name(), 1)]
        );
        self.assert_good();
    }

    fn connect(&self) -> Raw {
        Raw::connect(&self.server)
    }

    /// A raw connection that has come up as a client.
    fn connect_up(&self) -> Raw {
        let mut raw = self.connect();
        raw.shake_hands();
        self.server.until_up(client(SEED));
        raw
    }
}

struct Raw {
    stream: TcpStream,
    sealer: Option<Sealer>,
}

impl Raw {
    fn connect(server: &Loop) -> Self {
        let stream = TcpStream::connect(server.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            sealer: None,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads one packet.
    fn read_packet(&mut self) -> Vec<u8> {
        let mut packet = self.read(HEADER_BYTES);
        let length = Header::read(&packet).length as usize;
        packet.extend(self.read(length - HEADER_BYTES));
        packet
    }

    /// Skips to the refusal, checks that the connection ends after it, and returns its number.
    fn read_refusal(&mut self) -> u16 {
        loop {
            let packet = self.read_packet();
            if Header::read(&packet).kind == Kind::Refuse as u16 {
                let mut after = [0];
                let end = self.stream.read(&mut after);
                assert!(
                    matches!(end, Ok(0))
                        || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
                    "nothing follows a refusal"
                );
                let text = std::str::from_utf8(&packet[HEADER_BYTES + 2..]).unwrap();
                assert!(text.len() > 20, "a refusal says why: {text}");
                return u16::from_le_bytes([packet[HEADER_BYTES], packet[HEADER_BYTES + 1]]);
            }
        }
    }

    fn shake_hands(&mut self) {
        let ours = hello(|_| {});
        self.write(&ours);
        let theirs = self.read(HELLO_BYTES);
        let (scope, identity) = (common::scope(1), common::identity(SEED));
        let nonce = |hello: &[u8]| {
            <[u8; 16]>::try_from(&scope.digest(Context::Hello, hello).0[..16]).unwrap()
        };
        let server = common::identity(2).public();
        let LinkKeys { send, receive } = link_keys(
            &scope,
            &identity,
            client(SEED),
            node(2),
            &server,
            nonce(&ours),
            nonce(&theirs),
        )
        .unwrap();
        let proof = self.read_packet();
        assert_eq!(Header::read(&proof).kind, Kind::Proof as u16);
        Opener::new(receive, 0)
            .check(&proof)
            .expect("the server proves itself");
        let mut sealer = Sealer::new(send, PacketLimits::default(), 0);
        let mut out = Vec::new();
        sealer.push_packet(&mut out, Kind::Proof, &[]);
        self.write(&out);
        self.sealer = Some(sealer);
    }

    fn sealer(&mut self) -> &mut Sealer {
        self.sealer.as_mut().expect("the handshake is done")
    }

    fn sealed(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.sealer().push(&mut out, &[message], &[]);
        self.sealer().seal(&mut out);
        out
    }
}

fn hello(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    scene::hello([6; 16], change)
}

#[test]
fn the_layout_by_hand_is_understood() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    let bytes = raw.sealed(b"by hand");
    raw.write(&bytes);
    let packet = raw.read_packet();
    assert_eq!(split(&packet, 65536).unwrap().unwrap(), packet);
    assert_eq!(frames(&packet[HEADER_BYTES..]).unwrap().count(), 1);
    assert_eq!(&packet[HEADER_BYTES + 4..], b"by hand");
    scene.assert_good();
}

#[test]
fn garbage_instead_of_a_handshake() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect();
    raw.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    scene.assert_refused(&mut raw, Refusal::NotTwostep);
}

#[test]
fn another_magic() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect();
    raw.write(&hello(|header| header.tag[3] ^= 1));
    scene.assert_refused(&mut raw, Refusal::NotTwostep);
}

#[test]
fn another_version() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect();
    raw.write(&hello(|header| header.version = PROTOCOL_VERSION + 1));
    scene.assert_refused(&mut raw, Refusal::Version);
}

#[test]
fn a_hello_that_ends_in_the_middle() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect();
    raw.write(&hello(|_| {})[..100]);
    raw.stream.shutdown(Shutdown::Write).unwrap();
    scene.assert_refused(&mut raw, Refusal::Malformed);
}

#[test]
fn silence_in_the_handshake() {
    let scene = Scene::new(
        Setup::node(2).limits(|limits| limits.handshake_max = Duration::from_millis(150)),
    );
    let mut raw = scene.connect();
    raw.write(&hello(|_| {})[..10]);
    scene.assert_refused(&mut raw, Refusal::HandshakeTimeout);
}

#[test]
fn silence_before_the_proof() {
    let scene = Scene::new(
        Setup::node(2).limits(|limits| limits.handshake_max = Duration::from_millis(150)),
    );
    let mut raw = scene.connect();
    raw.write(&hello(|_| {}));
    scene.assert_refused(&mut raw, Refusal::HandshakeTimeout);
}

#[test]
fn a_forged_proof() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect();
    let proof = Header {
        length: HEADER_BYTES.try_into().unwrap(),
        version: PROTOCOL_VERSION,
        kind: Kind::Proof as u16,
        counter: 1,
        tag: [7; 16],
    };
    raw.write(&[hello(|_| {}), proof.to_bytes().to_vec()].concat());
    scene.assert_refused(&mut raw, Refusal::BadProof);
}

#[test]
fn a_packet_above_the_limit() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    raw.write(&(64 * 1024u32 + 1).to_le_bytes());
    scene.assert_refused(&mut raw, Refusal::TooLarge);
}

#[test]
fn a_packet_below_a_header() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    raw.write(&31u32.to_le_bytes());
    scene.assert_refused(&mut raw, Refusal::Malformed);
}

#[test]
fn a_packet_played_back() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    let bytes = raw.sealed(b"once");
    raw.write(&bytes);
    raw.write(&bytes);
    scene.assert_refused(&mut raw, Refusal::Replayed);
}

#[test]
fn a_flipped_bit() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    let mut bytes = raw.sealed(b"message");
    *bytes.last_mut().unwrap() ^= 1;
    raw.write(&bytes);
    scene.assert_refused(&mut raw, Refusal::BadTag);
}

#[test]
fn a_truncated_packet() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    let bytes = raw.sealed(b"message");
    raw.write(&bytes[..bytes.len() - 1]);
    raw.stream.shutdown(Shutdown::Write).unwrap();
    scene.assert_refused(&mut raw, Refusal::Malformed);
}

#[test]
fn well_sealed_frames_that_are_none() {
    for body in [
        &[9, 0, 0, 0, 1][..],
        &[
            16, 0, 0, 128, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 127,
        ],
    ] {
        let scene = Scene::new(Setup::node(2));
        let mut raw = scene.connect_up();
        let mut out = Vec::new();
        raw.sealer().push_packet(&mut out, Kind::Data, body);
        raw.write(&out);
        scene.assert_refused(&mut raw, Refusal::Malformed);
    }
}

#[test]
fn a_second_hello() {
    let scene = Scene::new(Setup::node(2));
    let mut raw = scene.connect_up();
    let mut out = Vec::new();
    raw.sealer().push_packet(&mut out, Kind::Hello, &[]);
    raw.write(&out);
    scene.assert_refused(&mut raw, Refusal::Unexpected);
}

#[test]
fn too_many_connections_in_their_handshake() {
    let scene = Scene::new(Setup::node(2).limits(|limits| limits.half_open_max = 3));
    let mut all: Vec<Raw> = (0..4).map(|_| scene.connect()).collect();
    scene.assert_refused(&mut all[0], Refusal::TooManyHalfOpen);
    let mut late = scene.connect_up();
    assert_eq!(
        all[1].read_refusal(),
        Refusal::TooManyHalfOpen as u16,
        "a good one still comes in"
    );
    let bytes = late.sealed(b"in time");
    late.write(&bytes);
    assert_eq!(late.read_packet()[HEADER_BYTES + 4..], *b"in time");
}

#[test]
fn too_many_connections_in_all() {
    let scene = Scene::new(Setup::node(2).limits(|limits| limits.links_max = 2));
    let _second = scene.connect_up();
    let mut third = scene.connect();
    scene.assert_refused(&mut third, Refusal::TooManyLinks);
}

#[test]
fn a_flood_of_connections_that_say_nothing_and_go() {
    let scene = Scene::new(Setup::node(2));
    for _ in 0..500 {
        drop(scene.connect());
    }
    scene.server.until("the end of all of them", |net| {
        net.counters().accepted == 501
    });
    scene.assert_good();
    assert_eq!(scene.server.counters().refusals().count(), 0);
}
