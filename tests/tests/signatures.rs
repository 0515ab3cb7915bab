//! Signatures are for leader changes and checkpoints: under steady load the counters of nodes stand still but for
//! checkpoints, also after a leader change (PROTOCOL.md section 3).

use std::cell::RefCell;
use std::rc::Rc;

use twostep_engine::configuration::Limits;
use twostep_engine::machine::{Effects, Input, Machine};
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::signatures::Signatures;
use twostep_engine::types::{Decree, NodeId, Time};
use twostep_tests::plan::Plan;
use twostep_tests::topology::Topology;
use twostep_tests::world::{Cast, World};

const UNIT_NS: u64 = 1_000_000;
const K: u64 = 8;

/// Replicas that can be looked into while the world steps them.
#[derive(Default)]
struct Glass {
    replicas: RefCell<Vec<Rc<RefCell<Replica>>>>,
}

struct Shown(Rc<RefCell<Replica>>);

impl Machine for Shown {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        self.0.borrow_mut().step(now, input, fx);
    }

    fn deadline(&self) -> Option<Time> {
        self.0.borrow().deadline()
    }
}

impl Cast for Glass {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let replica = Replica::new(setup).expect("the simulator's keys are sound");
        let replica = Rc::new(RefCell::new(replica));
        self.replicas.borrow_mut().push(Rc::clone(&replica));
        Box::new(Shown(replica))
    }
}

impl Glass {
    /// What each node that is up made and checked.
    fn signatures(&self) -> Vec<(Signatures, Signatures)> {
        let replicas = self.replicas.borrow();
        let reports = replicas[1..]
            .iter()
            .map(|replica| replica.borrow().report());
        reports
            .map(|report| (report.made, report.checked))
            .collect()
    }
}

fn without_checkpoints(signatures: Signatures) -> Signatures {
    Signatures {
        checkpoints: 0,
        ..signatures
    }
}

fn call(world: &mut World<'_>, calls: u64) {
    let goal = world.committed() + calls;
    world.ask(0, calls);
    let long = Time(u64::MAX);
    let done = |world: &World<'_>| world.committed() == goal;
    assert!(world.run(long, done).expect("clean"));
    let quiet = world.now() + world.plan().tuning.t0 * 4;
    world.run(quiet, |_| false).expect("clean");
}

#[test]
fn steady_load_makes_and_checks_signatures_of_checkpoints_only() {
    let glass = Glass::default();
    let mut plan = Plan::unit(FaultModel::Fab, 1, Topology::Shared, UNIT_NS);
    plan.limits = Limits {
        window: 2 * K,
        checkpoint_every: K,
        // Snapshots have a cost of their own, which is not the subject here.
        snapshot_every: 1024 * K,
        ..Limits::default()
    };
    // The next leader hears of the call before anybody suspects it.
    plan.clients.retry = plan.tuning.t0 / 2;
    plan.clients.retry_max = plan.tuning.t0 / 2;
    let mut world = World::new(plan, 1, &glass, false);
    world.set_clients_busy(false);
    let open = world.run(Time(u64::MAX), World::sessions_open);
    assert!(open.expect("clean"));
    let none = Signatures::default();
    let open = Signatures { bundles: 1, ..none };
    for (made, checked) in glass.signatures() {
        assert_eq!(
            (made, checked),
            (none, open),
            "an Open is signed, nothing else"
        );
    }

    world.stop(NodeId(0)).expect("clean");
    call(&mut world, 1);
    let after_change = glass.signatures();
    for (node, (made, checked)) in (1..).map(NodeId).zip(&after_change) {
        let proposes = node < NodeId(4);
        assert_eq!(made.votes, u64::from(proposes), "{node:?}: {made:?}");
        assert_eq!(made.reports, 1, "{node:?}: {made:?}");
        let leads = node == NodeId(1);
        let reports = if leads { 5 } else { 0 };
        assert_eq!(checked.reports, reports, "{node:?}: {checked:?}");
        let vouchers = if leads { 0 } else { 5 };
        assert_eq!(checked.vouchers, vouchers, "{node:?}: {checked:?}");
        assert_eq!(checked.votes > 0, proposes, "{node:?}: {checked:?}");
        assert!(leads || checked.proofs >= 3, "{node:?}: {checked:?}");
        // The call was retried, signed: proposers check it when it comes, acceptors before they vote.
        assert!(checked.bundles > open.bundles, "{node:?}: {checked:?}");
    }

    let (first, low) = (world.decrees(), world.certified());
    call(&mut world, 10 * K);
    let checkpoints = (world.certified().0 - low.0) / K;
    assert_eq!(world.decrees(), Decree(first.0 + 10 * K));
    assert_eq!(checkpoints, 10);
    for (node, (before, after)) in (1..)
        .map(NodeId)
        .zip(after_change.into_iter().zip(glass.signatures()))
    {
        let rest = |(made, checked)| (without_checkpoints(made), without_checkpoints(checked));
        assert_eq!(rest(before), rest(after), "{node:?}");
        let (made, checked) = (
            after.0.checkpoints - before.0.checkpoints,
            after.1.checkpoints - before.1.checkpoints,
        );
        let learns = u64::from(node < NodeId(4));
        assert_eq!(made, checkpoints * learns, "{node:?}");
        // Three learners are up, and all three make a certificate.
        assert_eq!(checked, checkpoints * 3, "{node:?}");
    }
}
