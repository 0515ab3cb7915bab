//! The load generator and the benchmarks of `twostep`.
//!
//! [`run`] drives a cluster through real links, over one loop in the calling thread: any number of sessions, each with a
//! pipeline of calls, in a closed loop (a call begins when another ends) or an open one (calls begin at a rate,
//! whatever the cluster does; latency counts from the *intended* time, so a stall shows in the percentiles).
//!
//! It trusts nobody. Every call is an increment of its session's own key, so that the replies of a session are 1, 2, 3, …
//! if and only if every operation was executed exactly once; a [`ledger`] holds each value against that, and an ordered
//! `get` at the end says whether anything happened that nobody was told of.
//!
//! | file | what |
//! |---|---|
//! | [`config`] | what load to make |
//! | [`load`] | opening, running, draining, reading back |
//! | [`ledger`] | gaps and duplicates of one session |
//! | [`mixture`] | another load, for hard times: many kinds of operations on few keys, judged by its history |
//! | [`under_way`], [`recording`] | the calls that have not ended, and the history of all |
//! | [`report`] | what comes out, field by field |
//! | [`page`] | a report as one page of HTML |
//! | [`floor`] | what the message pattern alone costs, in processes that do nothing else |
//! | [`lab`] | a whole cluster in one thread, for benchmarks and for recording the floor's messages |
//!
//! The benchmarks in `benches/` take the parts one by one (wire, packets, authenticators, queues, select, client, one decree of a whole
//! cluster without links) and a cluster over loopback (`cluster`). `cargo test --benches` runs each of them once.

pub mod config;
pub mod floor;
pub mod lab;
pub mod ledger;
pub mod load;
pub mod mixture;
pub mod page;
pub mod recording;
pub mod report;
pub mod under_way;

pub use config::LoadConfig;
pub use load::{LoadError, run, run_as};
pub use report::{LoadReport, Sample};
