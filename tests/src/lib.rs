//! The deterministic simulator of `twostep`: whole clusters in one thread, in virtual time.
//!
//! A [`world::World`] hosts the very replicas, executors and client cores that a real node hosts, over links,
//! disks and clocks that a seed decides. Every message passes through the wire codec. After every step,
//! [`checkers`] judge what nodes said, stored and delivered, with arithmetic of their own (PROTOCOL.md section 7).
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | what a seed draws: topology, W, K, links, disks, faults, clients; and the progress bound |
//! | [`world`], [`host`], [`client`] | the event loop, a node in it, a client in it |
//! | [`actors`] | Byzantine nodes: named strategies around real replicas |
//! | [`network`], [`disk`], [`random`] | virtual links, virtual disks, the one source of chance |
//! | [`checkers`] | agreement, order, validity, exactly once, chosen, durability, I3′ |
//! | [`trace`], [`describe`] | the hash of a run, and its transcript for people |
//! | [`runner`] | one seed to its verdict, or a range of seeds on all cores: what `twostep sim` runs |
//! | [`rules`], [`mutants`] | wrong rules, and the clusters in which they do harm: each must be found |
//! | [`script`] | little stories with their expected transcripts (`tests/scripts`) |
//!
//! A seed that fails is replayed with `twostep sim --seed N --trace`: same seed, same run, same trace hash.

pub mod actors;
pub mod checkers;
pub mod client;
pub mod describe;
pub mod disk;
pub mod host;
pub mod mutants;
pub mod network;
pub mod plan;
pub mod random;
pub mod rules;
pub mod runner;
pub mod script;
pub mod shelf;
pub mod topology;
pub mod trace;
pub mod workload;
pub mod world;
