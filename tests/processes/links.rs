//! Strangers and saboteurs at a node's port: refused with a counted, named reason, and the cluster goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use twostep_crypto::PROTOCOL_VERSION;

use crate::support::{Testnet, edit, run, twostep};

/// Bytes of a packet's header, and what stands in the tag's place of a first packet (net/src/packet.rs, hello.rs).
const HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 16] = b"twostep link v1+";

fn connect(testnet: &Testnet) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, testnet.base_port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

fn header(length: u32, version: u16, kind: u16) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(MAGIC);
    bytes
}

#[test]
fn bytes_from_strangers_are_refused_by_name() {
    let testnet = Testnet::running(6, &[]);
    let silent = connect(&testnet);
    let cases: [(&str, Vec<u8>); 3] = [
        (
            "link.not-twostep",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n and then some more bytes of it".to_vec(),
        ),
        ("link.version", {
            let mut hello = header(198, PROTOCOL_VERSION + 1, 1);
            hello.resize(198, 7);
            hello
        }),
        ("link.unexpected", header(32, PROTOCOL_VERSION, 0)),
    ];
    for (name, bytes) in cases {
        let mut stream = connect(&testnet);
        stream.write_all(&bytes).unwrap();
        testnet.wait_refused(0, name);
        // Closed, perhaps after words of refusal.
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        assert!(
            closed.is_ok()
                || closed.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            "{name}"
        );
    }
    // A packet that ends in the middle.
    let mut stream = connect(&testnet);
    stream
        .write_all(&header(198, PROTOCOL_VERSION, 1)[..20])
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    testnet.wait_refused(0, "link.malformed");
    // Silence.
    testnet.wait_refused(0, "link.handshake-timeout");
    drop(silent);
    assert_eq!(
        testnet.call(&testnet.client(0), &["incr", "n"]).ok().stdout,
        "1\n"
    );
}

/// What a proxy does to the first data packet that a client sends.
#[derive(Clone, Copy, Debug)]
enum Sabotage {
    FlipBit,
    PlayTwice,
    CutShort,
    ClaimLength(u32),
}

/// Stands between a client and a node, does its worst once, and passes everything else on.
fn saboteur(node: u16, sabotage: Sabotage) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let done = Arc::new(AtomicBool::new(false));
    // The thread and its connections end with the test's process.
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(node) = TcpStream::connect((Ipv4Addr::LOCALHOST, node)) else {
                continue;
            };
            let (mut from_node, mut to_client) =
                (node.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                // Ends when either side closes.
                let _ = std::io::copy(&mut from_node, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let _ = pass_on(client, &node, sabotage, &done);
                let _ = node.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

fn pass_on(
    mut client: TcpStream,
    mut node: &TcpStream,
    sabotage: Sabotage,
    done: &AtomicBool,
) -> std::io::Result<()> {
    loop {
        let mut packet = vec![0; HEADER_BYTES];
        client.read_exact(&mut packet)?;
        let length = u32::from_le_bytes(packet[..4].try_into().unwrap()) as usize;
        let kind = u16::from_le_bytes(packet[6..8].try_into().unwrap());
        packet.resize(length, 0);
        client.read_exact(&mut packet[HEADER_BYTES..])?;
        if kind != 0 || done.swap(true, Ordering::SeqCst) {
            node.write_all(&packet)?;
            continue;
        }
        match sabotage {
            Sabotage::FlipBit => {
                *packet.last_mut().unwrap() ^= 1;
                node.write_all(&packet)?;
            }
            Sabotage::PlayTwice => {
                node.write_all(&packet)?;
                node.write_all(&packet)?;
            }
            Sabotage::ClaimLength(length) => {
                packet[..4].copy_from_slice(&length.to_le_bytes());
                node.write_all(&packet)?;
            }
            Sabotage::CutShort => {
                node.write_all(&packet[..length - 1])?;
                return Ok(());
            }
        }
    }
}

#[test]
fn packets_that_are_changed_on_the_way_are_refused_and_the_call_still_commits() {
    let testnet = Testnet::running(6, &["--clients", "4"]);
    let cases = [
        (Sabotage::FlipBit, "link.bad-tag"),
        (Sabotage::PlayTwice, "link.replayed"),
        (Sabotage::ClaimLength(u32::MAX), "link.too-large"),
        (Sabotage::CutShort, "link.malformed"),
    ];
    for (client, (sabotage, name)) in cases.into_iter().enumerate() {
        let proxy = saboteur(testnet.base_port, sabotage);
        let folder = testnet.client(client);
        let (direct, through) = (
            format!("127.0.0.1:{}\"", testnet.base_port),
            format!("127.0.0.1:{proxy}\""),
        );
        // Addresses are no part of what the cluster id covers.
        edit(&folder.join("cluster.toml"), &direct, &through);
        let count = testnet.call(&folder, &["incr", "n"]).ok().stdout.clone();
        assert_eq!(
            count,
            format!("{}\n", client + 1),
            "{sabotage:?}: executed once"
        );
        testnet.wait_refused(0, name);
    }
}

#[test]
fn a_client_with_a_wrong_key_or_of_another_cluster_learns_why() {
    let testnet = Testnet::running(6, &["--clients", "2"]);
    let other = Testnet::new(6, &[]);
    // Another cluster's keys with this cluster's file: nobody here knows them.
    let stranger = testnet.client(1);
    fs::remove_file(stranger.join("identity")).unwrap();
    fs::copy(other.client(0).join("identity"), stranger.join("identity")).unwrap();
    let call = |folder: &std::path::Path| {
        run(twostep(&[
            "client",
            "get",
            "x",
            "--timeout",
            "2s",
            "--cluster",
            folder.to_str().unwrap(),
        ]))
    };
    call(&stranger).refused("unknown-party");
    testnet.wait_refused(0, "link.unknown-party");
    // Another cluster's file with this cluster's addresses.
    let lost = other.client(0).join("cluster.toml");
    for node in 0..6 {
        edit(
            &lost,
            &format!("127.0.0.1:{}\"", other.base_port + node),
            &format!("127.0.0.1:{}\"", testnet.base_port + node),
        );
    }
    call(&other.client(0)).refused("belongs to cluster");
    testnet.wait_refused(0, "link.cluster");
    assert_eq!(
        testnet.call(&testnet.client(0), &["incr", "n"]).ok().stdout,
        "1\n"
    );
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_logs_say_so() {
    let mut testnet = Testnet::new(6, &[]);
    let mut other = Testnet::new(6, &[]);
    // Node 0 of the other cluster believes that its node 5 is where ours is.
    let (old, new) = (other.base_port + 5, testnet.base_port + 5);
    edit(
        &other.node(0).join("cluster.toml"),
        &format!("127.0.0.1:{old}\""),
        &format!("127.0.0.1:{new}\""),
    );
    testnet.start(5, &["--first-start"]);
    other.start(0, &["--first-start"]);
    testnet.wait_refused(5, "link.cluster");
    crate::support::eventually("the refused one says why", || {
        let status = other.status(0)?;
        let peer = status["peers"]
            .as_array()?
            .iter()
            .find(|peer| peer["node"] == 5)?
            .clone();
        let why = peer["why"].as_str()?.to_owned();
        (why.contains("cluster") && status["refused_by_peers"]["cluster"].as_u64() > Some(0))
            .then_some(())
    });
    for log in [testnet.log(5), other.log(0)] {
        assert!(log.contains("cluster"), "{log}");
    }
}
