//! What tests with strangers share, over streams and datagrams: a server with a good peer, and the Hello of a stranger by hand.

use twostep_crypto::PROTOCOL_VERSION;
use twostep_net::packet::{Header, Kind};
use twostep_net::{LinkId, SendOutcome};

use crate::common::{self, Loop, Setup, client, node};

/// The seed of the stranger's identity: client 101.
pub const SEED: u8 = 101;
/// Bytes of its Hello, as the module docs lay it out.
pub const HELLO_BYTES: usize = 198;
const MAGIC: &[u8; 16] = b"twostep link v1+";

/// A server (node 2) with a good peer (node 1) that must not notice anything.
pub struct Scene {
    pub server: Loop,
    pub good: Loop,
    pub link: LinkId,
}

impl Scene {
    pub fn new(server: Setup) -> Self {
        let (server, good) = (server.echoing().start(), Setup::node(1).start());
        good.dial(&server);
        let link = good.until_up(node(2));
        server.until_up(node(1));
        Self { server, good, link }
    }

    pub fn assert_good(&self) {
        assert_eq!(
            self.good.send(self.link, b"still here".to_vec()),
            SendOutcome::Queued
        );
        assert_eq!(self.good.until_message(), b"still here");
    }
}

/// The Hello of client 101 to node 2 with `nonce`, as the module docs lay it out, after `change`.
pub fn hello(nonce: [u8; 16], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header {
        length: HELLO_BYTES.try_into().unwrap(),
        version: PROTOCOL_VERSION,
        kind: Kind::Hello as u16,
        counter: 0,
        tag: *MAGIC,
    };
    change(&mut header);
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
        &nonce,
    ]
    .concat()
}
