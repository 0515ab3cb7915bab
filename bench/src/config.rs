//! What load to make.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use twostep_engine::client::ClientSetup;
use twostep_engine::client::host::LoopTuning;
use twostep_engine::types::NodeId;

/// The most unresolved calls of one session (PROTOCOL.md section 5.1).
pub const PIPELINE_MAX: usize = 64;

/// What load to make, and on which cluster.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// The cluster, the client's identity, its time-outs.
    pub setup: ClientSetup,
    /// Where the nodes are.
    pub nodes: Vec<(NodeId, SocketAddr)>,
    /// How the loop runs.
    pub tuning: LoopTuning,
    /// How many sessions: "clients" that share links and are independent in everything else.
    pub sessions: u32,
    /// How many calls each session keeps under way, 1 to [`PIPELINE_MAX`].
    pub pipeline: usize,
    /// Calls per second of all sessions together (open loop); none means closed loop.
    pub rate: Option<u64>,
    /// The size of an operation, filled up with padding; smaller than the operation itself means no padding. Bytes.
    pub op_bytes: usize,
    /// How long to make calls; none means until stopped.
    pub duration: Option<Duration>,
    /// How many calls to make at most; none means no limit.
    pub operations: Option<u64>,
    /// How long to try to reach the leader and f+1 learners at the start.
    pub connect_timeout: Duration,
    /// How long to wait at the end for calls that are under way; what is still open then counts as unknown.
    pub drain: Duration,
    /// Whether answers are held against exactly once. Off for state machines other than the key-value store, whose answers
    /// say nothing: then only that f+1 learners agree on each of them is known.
    pub checked: bool,
    /// Where to write what each call was and how it ended ([`twostep_engine::client::history`]); nowhere if not said.
    pub history: Option<PathBuf>,
    /// Ends the load from another thread.
    pub stop: StopFlag,
}

impl LoadConfig {
    /// 32 sessions with 32 calls of 64 bytes each, closed loop, 10 s.
    #[must_use]
    pub fn new(setup: ClientSetup, nodes: Vec<(NodeId, SocketAddr)>) -> LoadConfig {
        LoadConfig {
            setup,
            nodes,
            tuning: LoopTuning::default(),
            sessions: 32,
            pipeline: 32,
            rate: None,
            op_bytes: 64,
            duration: Some(Duration::from_secs(10)),
            operations: None,
            connect_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            checked: true,
            history: None,
            stop: StopFlag::default(),
        }
    }

    /// What contradicts itself or the cluster, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let limits = self.setup.configuration.limits();
        if self.sessions == 0 || self.sessions > limits.sessions_per_client_max {
            return Err(format!(
                "{} clients: expected 1 to {}, the cluster's sessions_per_client_max",
                self.sessions, limits.sessions_per_client_max
            ));
        }
        if self.pipeline == 0 || self.pipeline > PIPELINE_MAX {
            return Err(format!(
                "a pipeline of {}: expected 1 to {PIPELINE_MAX} calls",
                self.pipeline
            ));
        }
        if self.op_bytes > limits.request_bytes_max as usize {
            return Err(format!(
                "operations of {} bytes: the cluster takes at most {}",
                self.op_bytes, limits.request_bytes_max
            ));
        }
        match self.rate {
            Some(rate) if rate == 0 || rate > 1_000_000_000 => Err(format!(
                "a rate of {rate}: expected 1 to 1000000000 calls per second"
            )),
            _ => Ok(()),
        }
    }
}

/// Ends a load from any thread: no more calls, those under way are waited for, then the report. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Ends the load within a tenth of a second, plus what draining takes.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
