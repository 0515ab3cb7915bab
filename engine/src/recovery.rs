//! The way of a new leader: Following → Gathering → Leading.
//!
//! | state | event | rule (PROTOCOL.md section 3) |
//! |---|---|---|
//! | Following | `Pol(r)`, and r is mine | broadcast `Gather(r, Pol)` |
//! | Gathering | `Report` from n − f acceptors | compute the plan; fetch the bodies of the values it must propose |
//! | Gathering | all those bodies are held | log and broadcast `NewRegency(r)`; propose `select(d)` for `(H, top]` |
//! | Leading | | ordinary batches from top + 1 |
//! | any | a higher regency | Following |
//!
//! Nothing is proposed before Leading. One value per (r, d), ever: the plan is computed once, from the first n − f
//! valid reports. Cost: one gather, one report with one signature per acceptor, one voucher, whatever the window.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::types::{Decree, NodeId, Regency, Time, Value};
use crate::voucher::{CheckedReport, Plan, bound};

/// Where a proposer stands in its regency.
#[derive(Debug, Default)]
pub enum Lead {
    /// Somebody else leads, or nobody yet.
    #[default]
    Following,
    /// It collects reports and bodies.
    Gathering(Gathering),
    /// It proposes.
    Leading,
}

/// What a new leader has collected.
#[derive(Debug)]
pub struct Gathering {
    /// Its regency.
    pub regency: Regency,
    /// When to ask again for what is missing.
    pub again_at: Time,
    /// How often it asked.
    pub times: u32,
    /// The reports so far, by acceptor; exactly a report quorum once `plan` is there.
    reports: BTreeMap<NodeId, CheckedReport>,
    plan: Option<Plan>,
    /// The bodies of the values that must be proposed.
    bodies: BTreeMap<Decree, Batch>,
}

impl Gathering {
    /// Nothing collected yet.
    #[must_use]
    pub fn new(regency: Regency, again_at: Time) -> Gathering {
        Gathering {
            regency,
            again_at,
            times: 0,
            reports: BTreeMap::new(),
            plan: None,
            bodies: BTreeMap::new(),
        }
    }

    /// Whether a report of this acceptor is of use: no signature is checked for one that is not.
    #[must_use]
    pub fn wants(&self, acceptor: NodeId) -> bool {
        self.plan.is_none() && !self.reports.contains_key(&acceptor)
    }

    /// Takes a report; true if it completes the voucher.
    pub fn take(&mut self, acceptor: NodeId, report: CheckedReport, quorum: usize) -> bool {
        self.reports.insert(acceptor, report);
        self.plan.is_none() && self.reports.len() == quorum
    }

    /// The reports, ascending by acceptor.
    #[must_use]
    pub fn voucher(&self) -> Vec<CheckedReport> {
        self.reports.values().cloned().collect()
    }

    /// Fixes the plan of a complete voucher.
    pub fn fix(&mut self, plan: Plan) {
        assert!(self.plan.is_none(), "one plan per regency");
        self.plan = Some(plan);
    }

    /// The plan, once the voucher is complete.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The bodies that are bound and not held, each with acceptors that reported to have it.
    #[must_use]
    pub fn lacking(&self) -> Vec<(Decree, Value, crate::types::NodeSet)> {
        let Some(plan) = &self.plan else {
            return Vec::new();
        };
        let reports: Vec<CheckedReport> = self.voucher();
        bound(plan, &reports)
            .filter(|(decree, _, _)| !self.bodies.contains_key(decree))
            .collect()
    }

    /// Whether a body is bound and not held.
    #[must_use]
    pub fn lacks(&self, decree: Decree, value: Value) -> bool {
        let choice = self
            .plan
            .as_ref()
            .and_then(|plan| plan.choices.get(&decree));
        choice == Some(&crate::quorum::Choice::Must(value)) && !self.bodies.contains_key(&decree)
    }

    /// Takes a body that is bound.
    pub fn keep(&mut self, decree: Decree, batch: Batch) {
        self.bodies.insert(decree, batch);
    }

    /// The body that must be proposed for a decree.
    #[must_use]
    pub fn body(&self, decree: Decree) -> Option<&Batch> {
        self.bodies.get(&decree)
    }
}
