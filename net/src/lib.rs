//! Event loops, authenticated links and pooled buffers of twostep.
//!
//! ```text
//!  other threads                     one loop, one thread
//!  ─────────────   queue    ┌───────────────────────────────────────────────────────────────┐
//!  commands ───► Sender ══► │ Service (a node's replica, a client, a load generator)         │
//!                 WakeUp    │   ▲ message, link_up, link_down, turn      │ Net: send, dial   │
//!                           │   │                                        ▼                   │
//!                           │ Reactor ── reads ── Link ── opens      Link ── seals ── Net    │
//!                           │   │        packet: header, MAC, frames, fragments      │ flush │
//!                           │   ▼                                                    ▼       │
//!                           │ Driver (mio, io_uring): sockets by key, edges, one wait        │
//!                           └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! * [`pool`]: buffers behind counted handles; [`pool::Body`] is what roles share.
//! * [`queue`]: bounded lock-free hand-off into a loop, and its wake-up. [`sleeper`]: the wait of a loop without sockets.
//! * [`packet`]: framing and MACs, sans-IO. [`link`]: one authenticated peer, sans-IO. [`refusal`]: why links end, told to both sides.
//! * `cookie`: what strangers must bring back before a datagram of theirs costs anything.
//! * `reassembly`: messages in fragments on a stream. `replay`, `pieces`, `repair`, `flow`: what links need where datagrams are lost and overtake each other:
//!   which counters were taken, messages in pieces, what is missing of them, and how much may be under way.
//! * [`driver`], [`mio`], `uring` (Linux) and, for datagrams, `udp` (Linux): the operating system's side. [`choice`]: which driver runs. `by_key`: what
//!   a driver has under each key. `tcp`: socket options and when to dial again.
//! * [`net`](mod@net): the links of a loop. [`reactor`]: the loop. [`clock`]: time that never falls. [`fault`]: faults on purpose. [`counters`]: what happened.
//!
//! A peer, a client or anybody who reaches the port can send any bytes: what does not verify ends that connection with a counted, named reason, and
//! nothing else. Everything is bounded by [`Limits`]. Nothing blocks the loop: a full send buffer drops the message, and the protocol sends again
//! what matters.

mod by_key;
pub mod choice;
pub mod clock;
mod cookie;
pub mod counters;
pub mod driver;
pub mod fault;
mod flow;
mod hello;
pub mod link;
pub mod mio;
pub mod net;
mod outbox;
pub mod packet;
mod pieces;
pub mod pool;
pub mod queue;
pub mod reactor;
mod reassembly;
pub mod refusal;
mod repair;
mod replay;
pub mod sleeper;
mod tcp;
#[cfg(target_os = "linux")]
pub mod udp;
#[cfg(target_os = "linux")]
pub mod uring;

pub use choice::{Carrier, DriverChoice, Transport, UnknownDriver};
pub use clock::{CLOCK_OFFSET_MS_MAX, Clock, ClockOffset};
pub use cookie::{COOKIE_BYTES, Cookies};
pub use counters::Counters;
pub use fault::{Direction, FaultRule, Faults};
pub use hello::{DATAGRAM_HELLO_BYTES, Directory, HELLO_BYTES, MAGIC};
pub use link::{LinkId, PeerIdentity, SendOutcome, dials};
pub use net::{Limits, Net, PeerState};
pub use pool::{Body, BodyMut, Pool};
pub use queue::WakeUp;
pub use reactor::{Idle, NetError, Reactor, ReactorConfig, Service, free_address, pin};
pub use refusal::{LinkDown, Refusal, Refused};
pub use sleeper::Sleeper;
