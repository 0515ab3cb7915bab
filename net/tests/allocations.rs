//! The steady path allocates nothing: pooled bodies, and messages between two loops over loopback.

mod counting;

use std::time::Instant;

use twostep_crypto::{ClusterId, Epoch, Identity, NodeId, Party, PublicIdentity, Scope};
use twostep_net::{LinkDown, LinkId, Net, Pool, Reactor, ReactorConfig, SendOutcome, Service};

fn party(id: u16) -> Party {
    Party::Node(NodeId(id))
}

fn identity(id: u16) -> Identity {
    Identity::from_seed([id.to_le_bytes()[0]; 32])
}

fn directory(party: Party) -> Option<PublicIdentity> {
    party.node().map(|node| identity(node.0).public())
}

fn reactor(id: u16) -> Reactor {
    let scope = Scope::new(ClusterId([1; 32]), Epoch(0));
    Reactor::new(
        ReactorConfig::default(),
        scope,
        identity(id),
        party(id),
        directory,
    )
    .unwrap()
}

/// Sends each batch back when it has come, and measures from one round to another.
struct Rally {
    serves: bool,
    large: Vec<u8>,
    came: u32,
    rounds: u32,
    pool: Pool,
    at_start: u64,
    during: Option<u64>,
    down: bool,
}

/// Messages per round: small ones, and one that travels in fragments.
const RALLIES: usize = 4;
const BATCH: u32 = 20;
const WARM_ROUNDS: u32 = 300;
const ROUNDS: u32 = 600;

impl Rally {
    fn new(serves: bool) -> Self {
        Self {
            serves,
            large: vec![3; 200_000],
            came: 0,
            rounds: 0,
            pool: Pool::default(),
            at_start: 0,
            during: None,
            down: false,
        }
    }

    fn serve(&self, net: &mut Net, link: LinkId) {
        for _ in 1..BATCH {
            assert_eq!(
                net.send_parts(link, &[b"a small ", b"message"]),
                SendOutcome::Queued
            );
        }
        assert_eq!(net.send(link, &self.large), SendOutcome::Queued);
    }
}

impl Service for Rally {
    fn message(&mut self, net: &mut Net, link: LinkId, _: Party, bytes: &[u8]) {
        let body = self.pool.copy(bytes);
        let shared = (body.clone(), body.slice(1..));
        drop(body);
        assert_eq!(shared.0.len(), shared.1.len() + 1);
        self.came += 1;
        if self.came < BATCH {
            return;
        }
        self.came = 0;
        self.rounds += 1;
        if self.serves && self.rounds == WARM_ROUNDS {
            self.at_start = counting::allocations();
        }
        if self.serves && self.rounds == ROUNDS {
            self.during = Some(counting::allocations() - self.at_start);
            return;
        }
        self.serve(net, link);
    }

    fn link_up(&mut self, net: &mut Net, link: LinkId, _: Party) {
        if self.serves {
            self.serve(net, link);
        }
    }

    fn link_down(&mut self, _: &mut Net, _: LinkId, _: Option<Party>, _: &LinkDown) {
        self.down = true;
    }

    fn turn(&mut self, _: &mut Net, _: Instant) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn stopping(&self) -> bool {
        self.during.is_some() || self.down
    }
}

/// The allocations of one rally between two new links.
fn rally() -> Option<u64> {
    let (mut a, mut b) = (reactor(1), reactor(2));
    let addr = b.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    a.net().dial(party(2), addr);
    let other = std::thread::spawn(move || b.run(&mut Rally::new(false)).unwrap());
    let mut rally = Rally::new(true);
    a.run(&mut rally).unwrap();
    drop(a);
    other.join().unwrap();
    rally.during
}

/// The first packet that comes in two parts makes its link a buffer, once, and when that happens is for the kernel to say: so
/// one rally of several is to be without.
#[test]
fn the_steady_path_allocates_nothing() {
    let messages = (ROUNDS - WARM_ROUNDS) * BATCH * 2;
    let rallies: Vec<_> = (0..RALLIES).map(|_| rally()).collect();
    assert!(
        rallies.contains(&Some(0)),
        "allocations in {messages} messages: {rallies:?}"
    );
}
