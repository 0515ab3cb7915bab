//! What the liars of one world know of each other, and the count of their lies.

use std::collections::BTreeMap;

use serde::Serialize;
use twostep_crypto::Signed;
use twostep_engine::message::{NewRegency, Report};
use twostep_engine::types::{Decree, NodeId, NodeSet, Regency, Value};

/// Decrees whose values are remembered.
const DECREES_MAX: usize = 1024;
/// Values remembered of one decree.
const VALUES_MAX: usize = 4;
/// Regencies whose reports and vouchers are remembered.
const REGENCIES_MAX: usize = 4;

/// How often a strategy lied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lies {
    /// Lies that were told, one per message and set of receivers.
    pub sent: u64,
    /// Lies that reached a correct node that was up, or a client; for what is withheld: nodes that were not told.
    pub received: u64,
}

/// Shared by all liars of one world: they collude.
#[derive(Debug, Default)]
pub struct Plot {
    byzantine: NodeSet,
    /// Nobody sees its lies arrive, so they need not be known again.
    alone: bool,
    lies: BTreeMap<&'static str, Lies>,
    /// Who said it and its digest, so that a lie is known again where it arrives.
    told: BTreeMap<(NodeId, [u8; 32]), &'static str>,
    values: BTreeMap<Decree, Vec<Value>>,
    reports: BTreeMap<Regency, BTreeMap<NodeId, Signed<Report>>>,
    vouchers: BTreeMap<Regency, NewRegency>,
    progress: Decree,
}

impl Plot {
    /// A plot of these nodes.
    #[must_use]
    pub fn new(byzantine: NodeSet) -> Plot {
        Plot {
            byzantine,
            ..Plot::default()
        }
    }

    /// The plot of one node among strangers: what arrives where is not counted.
    #[must_use]
    pub fn alone(node: NodeId) -> Plot {
        Plot {
            alone: true,
            ..Plot::new(NodeSet::one(node))
        }
    }

    /// The nodes that are in it.
    #[must_use]
    pub fn liars(&self) -> NodeSet {
        self.byzantine
    }

    /// The learner that they favour has learned so far.
    pub(super) fn progressed(&mut self, learned: Decree) {
        self.progress = self.progress.max(learned);
    }

    /// How far it has.
    pub(super) fn progress(&self) -> Decree {
        self.progress
    }

    /// A lie was told in these bytes.
    pub(super) fn lied(&mut self, name: &'static str, from: NodeId, bytes: &[u8]) {
        self.lies.entry(name).or_default().sent += 1;
        if self.alone {
            return;
        }
        let digest = *blake3::hash(bytes).as_bytes();
        self.told.insert((from, digest), name);
    }

    /// Something was kept from these nodes, and from so many clients.
    pub(super) fn withheld(&mut self, name: &'static str, from: NodeSet, clients: u64) {
        let lies = self.lies.entry(name).or_default();
        lies.sent += 1;
        lies.received += from.minus(self.byzantine).len() as u64 + clients;
    }

    /// A correct party takes in what a liar said.
    pub fn arrived(&mut self, from: NodeId, bytes: &[u8]) {
        let digest = *blake3::hash(bytes).as_bytes();
        if let Some(name) = self.told.get(&(from, digest)) {
            self.lies.entry(name).or_default().received += 1;
        }
    }

    /// The count by strategy.
    #[must_use]
    pub fn lies(&self) -> &BTreeMap<&'static str, Lies> {
        &self.lies
    }

    /// A value was proposed for a decree.
    pub(super) fn learn_value(&mut self, decree: Decree, value: Value) {
        let values = self.values.entry(decree).or_default();
        if values.len() < VALUES_MAX && !values.contains(&value) {
            values.push(value);
        }
        if self.values.len() > DECREES_MAX {
            self.values.pop_first();
        }
    }

    /// Another value that was proposed for the decree, or for any decree.
    pub(super) fn rival(&self, decree: Decree, value: Value) -> Option<Value> {
        let same = self.values.get(&decree).into_iter().flatten();
        let others = self.values.values().rev().take(4).flatten();
        same.chain(others).find(|other| **other != value).copied()
    }

    /// A report reached a liar.
    pub(super) fn learn_report(&mut self, report: &Signed<Report>) {
        let Some(signer) = report.signer.node() else {
            return;
        };
        let regency = report.content.regency;
        self.reports
            .entry(regency)
            .or_default()
            .insert(signer, report.clone());
        if self.reports.len() > REGENCIES_MAX {
            self.reports.pop_first();
        }
    }

    /// The reports for a regency, by signer.
    pub(super) fn reports(&self, regency: Regency) -> BTreeMap<NodeId, Signed<Report>> {
        self.reports.get(&regency).cloned().unwrap_or_default()
    }

    /// A voucher was shown.
    pub(super) fn learn_voucher(&mut self, shown: &NewRegency) {
        self.vouchers.insert(shown.regency, shown.clone());
        if self.vouchers.len() > REGENCIES_MAX {
            self.vouchers.pop_first();
        }
    }

    /// The newest voucher below a regency.
    pub(super) fn voucher_below(&self, regency: Regency) -> Option<&NewRegency> {
        self.vouchers
            .range(..regency)
            .next_back()
            .map(|(_, shown)| shown)
    }
}
