//! Loops on threads of their own, driven and watched by the tests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use twostep_crypto::{ClusterId, Epoch, Identity, NodeId, Party, PublicIdentity, Scope};
use twostep_net::queue::{self, Receiver, Sender};
use twostep_net::{
    Counters, Limits, LinkDown, LinkId, Net, Reactor, ReactorConfig, SendOutcome, Service,
};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn node(id: u16) -> Party {
    Party::Node(NodeId(id))
}

pub fn client(seed: u8) -> Party {
    Party::Client(identity(seed).public().client_id())
}

/// Node `n` has the identity of seed `n`.
pub fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

pub fn scope(cluster: u8) -> Scope {
    Scope::new(ClusterId([cluster; 32]), Epoch(0))
}

/// Nodes 1 to 9, and clients with the seeds 101 to 109.
pub fn directory(party: Party) -> Option<PublicIdentity> {
    match party {
        Party::Node(NodeId(id)) => (1..=9)
            .contains(&id)
            .then(|| identity(id.to_le_bytes()[0]).public()),
        Party::Client(_) => (101..=109)
            .map(identity)
            .map(|identity| identity.public())
            .find(|public| party == Party::Client(public.client_id())),
    }
}

#[derive(Debug)]
pub enum Seen {
    Up(Party, LinkId),
    Down(Option<Party>, LinkDown),
    Message(Vec<u8>),
}

type Command = Box<dyn FnOnce(&mut Net) + Send>;

struct Probe {
    commands: Receiver<Option<Command>>,
    seen: mpsc::Sender<Seen>,
    echoes: bool,
    deaf: Arc<AtomicBool>,
    full_at_one: bool,
    stopping: bool,
}

impl Service for Probe {
    fn message(&mut self, net: &mut Net, link: LinkId, _: Party, bytes: &[u8]) {
        if self.echoes {
            assert_eq!(net.send(link, bytes), SendOutcome::Queued);
        } else {
            let _ = self.seen.send(Seen::Message(bytes.to_vec()));
        }
        if self.full_at_one {
            self.deaf.store(true, Ordering::Release);
        }
    }

    fn link_up(&mut self, _: &mut Net, link: LinkId, party: Party) {
        let _ = self.seen.send(Seen::Up(party, link));
    }

    fn link_down(&mut self, _: &mut Net, _: LinkId, party: Option<Party>, why: &LinkDown) {
        let why = match why {
            LinkDown::Refused(refused) => LinkDown::Refused(refused.clone()),
            LinkDown::RefusedUs(refused) => LinkDown::RefusedUs(refused.clone()),
            LinkDown::Closed => LinkDown::Closed,
            LinkDown::ClosedHere => LinkDown::ClosedHere,
            LinkDown::Io(error) => LinkDown::Io(error.kind().into()),
        };
        let _ = self.seen.send(Seen::Down(party, why));
    }

    fn turn(&mut self, net: &mut Net, _: Instant) {
        while let Some(command) = self.commands.receive() {
            match command {
                Some(command) => command(net),
                None => self.stopping = true,
            }
        }
    }

    fn takes_messages(&self) -> bool {
        !self.deaf.load(Ordering::Acquire)
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn stopping(&self) -> bool {
        self.stopping
    }
}

/// What differs between the loops of the tests.
pub struct Setup {
    pub me: Party,
    pub seed: u8,
    pub cluster: u8,
    pub echoes: bool,
    pub listen: SocketAddr,
    /// Whether other loops listen at the same address.
    pub shared: bool,
    /// While it is set the loop takes no messages.
    pub deaf: Arc<AtomicBool>,
    /// Whether each message sets it.
    pub full_at_one: bool,
    pub config: ReactorConfig,
}

impl Setup {
    pub fn node(id: u8) -> Self {
        Self {
            me: node(id.into()),
            seed: id,
            cluster: 1,
            echoes: false,
            listen: "127.0.0.1:0".parse().unwrap(),
            shared: false,
            deaf: Arc::default(),
            full_at_one: false,
            config: crate::config(),
        }
    }

    pub fn client(seed: u8) -> Self {
        Self {
            me: client(seed),
            seed,
            ..Self::node(0)
        }
    }

    pub fn echoing(mut self) -> Self {
        self.echoes = true;
        self
    }

    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.config.limits);
        self
    }

    pub fn start(self) -> Loop {
        let mut reactor = Reactor::new(
            self.config,
            scope(self.cluster),
            identity(self.seed),
            self.me,
            directory,
        )
        .unwrap();
        let addr = if self.shared {
            reactor.listen_shared(self.listen).unwrap()
        } else {
            reactor.listen(self.listen).unwrap()
        };
        let boot = reactor.net().boot();
        let (commands, receiver) = queue::bounded(1024, reactor.waker());
        let (seen, events) = mpsc::channel();
        let mut probe = Probe {
            commands: receiver,
            seen,
            echoes: self.echoes,
            deaf: self.deaf,
            full_at_one: self.full_at_one,
            stopping: false,
        };
        let thread = std::thread::spawn(move || reactor.run(&mut probe).unwrap());
        Loop {
            me: self.me,
            addr,
            boot,
            commands,
            events,
            thread: Some(thread),
        }
    }
}

/// A loop that runs.
pub struct Loop {
    pub me: Party,
    pub addr: SocketAddr,
    pub boot: [u8; 16],
    commands: Sender<Option<Command>>,
    pub events: mpsc::Receiver<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    /// Runs `work` on the loop and returns what it returns.
    pub fn ask<T: Send + 'static>(&self, work: impl FnOnce(&mut Net) -> T + Send + 'static) -> T {
        let (answer, answers) = mpsc::channel();
        let command: Command = Box::new(move |net| answer.send(work(net)).unwrap());
        self.commands
            .send(Some(command))
            .ok()
            .expect("the queue has room");
        answers.recv_timeout(PATIENCE).expect("the loop answers")
    }

    /// Runs `work` on the loop without waiting for it.
    pub fn tell(&self, work: impl FnOnce(&mut Net) + Send + 'static) {
        assert!(
            self.commands.send(Some(Box::new(work))).is_ok(),
            "the queue has room"
        );
    }

    pub fn dial(&self, other: &Loop) {
        let (party, addr) = (other.me, other.addr);
        self.ask(move |net| net.dial(party, addr));
    }

    pub fn counters(&self) -> Counters {
        self.ask(|net| net.counters())
    }

    pub fn next(&self) -> Seen {
        self.events
            .recv_timeout(PATIENCE)
            .expect("something happens in time")
    }

    /// Skips to the moment when `party` is up.
    pub fn until_up(&self, party: Party) -> LinkId {
        loop {
            if let Seen::Up(up, link) = self.next()
                && up == party
            {
                return link;
            }
        }
    }

    /// Skips to the next end of a link.
    pub fn until_down(&self) -> (Option<Party>, LinkDown) {
        loop {
            if let Seen::Down(party, why) = self.next() {
                return (party, why);
            }
        }
    }

    pub fn until_message(&self) -> Vec<u8> {
        loop {
            if let Seen::Message(bytes) = self.next() {
                return bytes;
            }
        }
    }

    /// Asks again until `holds`.
    pub fn until(&self, what: &str, holds: impl Fn(&mut Net) -> bool + Clone + Send + 'static) {
        let end = Instant::now() + PATIENCE;
        while !self.ask(holds.clone()) {
            assert!(Instant::now() < end, "{what} did not happen in time");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn send(&self, link: LinkId, message: Vec<u8>) -> SendOutcome {
        self.ask(move |net| net.send(link, &message))
    }

    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.commands.send(None);
            let outcome = thread.join();
            assert!(
                outcome.is_ok() || std::thread::panicking(),
                "the loop panicked"
            );
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.end();
    }
}
