//! What a node says about itself when it is asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use twostep_net::{Counters, Net, PeerState};

use crate::admission::ClientDirectory;
use crate::executor::Executor;
use crate::node::core::Core;
use crate::node::roles_in_words;
use crate::node::status::{AbstainsUntil, Digests, JournalStatus, NodeStatus, PeerStatus, missing};
use crate::state_machine::StateMachine;
use crate::types::{Decree, Digest, NodeId, Party, Time};

/// What the links of a node have done, and which are up: those of one loop, or of all lanes together.
#[derive(Clone, Debug)]
pub(super) struct LinksReport {
    /// Counts of all loops.
    pub counters: Counters,
    /// The driver, and why it is this one.
    pub driver: String,
    /// What is known of every peer.
    pub peers: Vec<PeerState>,
    /// Links of clients that are up.
    pub client_links: usize,
    /// Counts that only a node with lanes has, by name.
    pub lanes: Vec<(String, u64)>,
}

impl LinksReport {
    /// That of one loop.
    pub fn of(net: &Net, client_links: usize) -> LinksReport {
        LinksReport {
            counters: net.counters(),
            driver: format!("{} ({})", net.driver_name(), net.driver_why()),
            peers: net.peers().collect(),
            client_links,
            lanes: Vec::new(),
        }
    }

    /// Adds that of another loop of the same node.
    pub fn add(&mut self, other: LinksReport) {
        self.counters.add(&other.counters);
        self.client_links += other.client_links;
        self.lanes.extend(other.lanes);
        for peer in other.peers {
            match self.peers.iter_mut().find(|one| one.party == peer.party) {
                // The loop with the link knows best, then the one that dials.
                Some(known)
                    if known.link.is_none() && (peer.link.is_some() || known.dialled.is_none()) =>
                {
                    *known = peer;
                }
                Some(_) => {}
                None => self.peers.push(peer),
            }
        }
    }
}

/// How far execution has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExecutionReport {
    /// The newest executed decree.
    pub executed: Decree,
    /// The digest of all replies up to it.
    pub results: Digest,
    /// The digest of the state, if it was asked for and can be had.
    pub state: Option<Digest>,
}

impl ExecutionReport {
    /// With digests it reads the whole state; none if it cannot.
    pub fn of<S: StateMachine>(executor: &Executor<S>, digests: bool) -> ExecutionReport {
        let state = digests.then(|| executor.state_digest());
        ExecutionReport {
            executed: executor.executed(),
            results: executor.results(),
            state: state.filter(|_| executor.trouble().is_none()),
        }
    }
}

impl Core {
    /// How the node is.
    pub fn status(
        &self,
        now: Instant,
        links: LinksReport,
        execution: &ExecutionReport,
    ) -> NodeStatus {
        let uptime = now.saturating_duration_since(self.started);
        let recorder = self.outbox.recorder.as_ref();
        let figures = recorder.map(|recorder| (recorder, recorder.figures()));
        let (real, now) = (now, self.time(now));
        let (replica, who) = (self.machine.replica(), &self.identification);
        let report = replica.report();
        let readiness = replica.readiness(now);
        let configuration = &who.cluster.configuration;
        let roles = configuration
            .member(who.node)
            .map(|member| member.roles)
            .unwrap_or_default();
        let ExecutionReport {
            executed, results, ..
        } = *execution;
        let state = execution.state.filter(|_| roles.learner);
        let digests = state.map(|state| Digests {
            decree: executed.0,
            chain: (report.learned == executed).then(|| report.chain.to_string()),
            results: results.to_string(),
            state: state.to_string(),
        });
        let peers = self.peers(links.peers.into_iter(), now, &report.peers);
        let counters = links.counters;
        let mut refusals: BTreeMap<String, u64> = counters
            .refusals()
            .map(|(name, count)| (format!("link.{name}"), count))
            .collect();
        refusals.extend(
            self.outbox
                .refusals
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count)),
        );
        let refused_us = twostep_net::Refusal::ALL
            .iter()
            .map(|&why| (why.name().to_owned(), counters.refused_us(why)));
        let refused_us_estimate =
            u64::try_from(self.refused.estimate().as_micros()).unwrap_or(u64::MAX);
        NodeStatus {
            node: who.node.0,
            cluster: configuration.cluster().to_string(),
            clients_digest: ClientDirectory::new(who.cluster.clients.iter().copied())
                .digest(&configuration.scope())
                .to_string(),
            mode: configuration.model().to_string(),
            f: configuration.f(),
            roles: roles_in_words(roles),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: who.listen.to_string(),
            driver: links.driver,
            uptime_s: uptime.as_secs_f64(),
            cpu_s: cpu_seconds(),
            resident_bytes: resident_bytes(),
            misbehaviour: self.machine.misbehaviour(),
            signatures_made: report.made,
            signatures_checked: report.checked,
            ready: readiness.ready,
            missing: missing(
                &peers,
                &readiness.missing.iter().collect::<Vec<_>>(),
                report.abstaining.then_some(who.node),
            ),
            abstaining: report.abstaining.then(|| "lost disk".to_owned()),
            abstains_until: report.abstains_until.map(|floor| AbstainsUntil {
                regency: floor.regency.0,
                low: floor.decree.0,
            }),
            without_disks: report.without_disks.iter().map(|node| node.0).collect(),
            regency: report.regency.0,
            leader: report.leader.0,
            low: report.low.0,
            learned: report.learned.0,
            executed: report.executed.0,
            proposed: report.proposed.0,
            waiting: report.waiting,
            diverged: report.diverged.map(|decree| decree.0),
            digests,
            peers,
            client_links: links.client_links,
            refusals,
            refused_by_peers: refused_us.filter(|(_, count)| *count > 0).collect(),
            counters: self
                .outbox
                .counts
                .named()
                .chain(named(&counters))
                .chain([
                    ("refused.messages", self.outbox.refused),
                    ("refused.cpu_us", refused_us_estimate),
                ])
                .map(|(name, count)| (name.to_owned(), count))
                .chain(links.lanes)
                .collect(),
            durability: if figures.is_some() { "sync" } else { "memory" }.to_owned(),
            state: who.state.to_string(),
            journal: figures.as_ref().map(|(recorder, figures)| JournalStatus {
                state: format!("{:?}", recorder.state(real)).to_lowercase(),
                error: figures.error.clone(),
                bytes: figures.bytes,
                segments: figures.segments,
                low_space: recorder.low_space(),
                durable: recorder.durable().0,
                records: figures.records,
                written_bytes: figures.written_bytes,
            }),
            stages: self
                .outbox
                .stages
                .summaries(figures.as_ref().map(|(_, figures)| &figures.syncs)),
        }
    }

    /// Every other node, as this one sees it.
    pub fn peers(
        &self,
        links: impl Iterator<Item = PeerState>,
        now: Time,
        heard: &[(NodeId, Option<(crate::message::Status, Time)>)],
    ) -> Vec<PeerStatus> {
        let links: BTreeMap<Party, PeerState> = links.map(|peer| (peer.party, peer)).collect();
        let of = |(node, heard): &(NodeId, Option<(crate::message::Status, Time)>)| {
            let link = links.get(&Party::Node(*node));
            let up = link.is_some_and(|peer| peer.link.is_some());
            let why = link.and_then(|peer| peer.last_error.clone());
            let ms = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
            PeerStatus {
                node: node.0,
                address: self.identification.cluster.addresses[usize::from(node.0)].clone(),
                up,
                why: why.or_else(|| (!up).then(|| "it has not connected yet".to_owned())),
                heard_ms_ago: heard.map(|(_, at)| ms(at)),
                low: heard.map(|(status, _)| status.low.0),
                learned: heard.map(|(status, _)| status.learned.0),
                abstaining: heard.is_some_and(|(status, _)| status.abstaining),
            }
        };
        heard.iter().map(of).collect()
    }
}

/// CPU time of this process, user and system. Seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}

/// Memory of this process that is resident. Bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    // Pages: size, resident, shared, …
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages
        .unwrap_or(0)
        .saturating_mul(rustix::param::page_size() as u64)
}

fn named(counters: &Counters) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    [
        ("net.turns", counters.turns),
        ("net.packets_in", counters.packets_in),
        ("net.packets_out", counters.packets_out),
        ("net.messages_in", counters.messages_in),
        ("net.messages_out", counters.messages_out),
        ("net.bytes_in", counters.bytes_in),
        ("net.bytes_out", counters.bytes_out),
        ("net.macs", counters.macs),
        ("net.reads", counters.syscalls.reads),
        ("net.writes", counters.syscalls.writes),
        ("net.polls", counters.syscalls.polls),
        ("net.dropped_full", counters.dropped_full),
        ("net.dropped_too_large", counters.dropped_too_large),
        ("net.strays", counters.strays),
        ("net.credit_timeouts", counters.credit_timeouts),
        ("net.links_up", counters.links_up),
        ("net.links_down", counters.links_down),
    ]
    .into_iter()
}
