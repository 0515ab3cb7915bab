//! Clients whose tags some acceptors cannot verify, and leaders that spoil the tags of honest ones (PROTOCOL.md
//! section 5.1): a bad tag for at most f correct acceptors costs no leader change, for more at most one per client,
//! and honest clients go on being served.

use std::time::Duration;

use twostep_engine::machine::Event;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{NodeId, Time};
use twostep_tests::actors::clients::ClientActor;
use twostep_tests::actors::troupe::{Actor, Troupe};
use twostep_tests::plan::Plan;
use twostep_tests::topology::Topology;
use twostep_tests::world::{Observed, Sight, World};

const UNIT_NS: u64 = 1_000_000;
const T0: Duration = Duration::from_millis(40);
/// A client's first retry.
const RETRY: Duration = Duration::from_millis(40);
/// One unit is one message delay.
const DELTA: Duration = Duration::from_nanos(UNIT_NS);

/// Virtual time of a run.
const LASTING_MS: u64 = 1_000;

/// What came of a run.
struct Outcome {
    regency_changes: u64,
    /// The longest time in which no honest client was answered.
    longest_pause: Duration,
    put_on_signatures: usize,
    for_good: usize,
    lies_received: u64,
}

/// A calm world with T0 of forty message delays and three honest clients beside those that lie.
fn plan(f: usize, topology: Topology, liars: &[&'static str]) -> Plan {
    let mut plan = Plan::unit(FaultModel::Fab, f, topology, UNIT_NS);
    plan.tuning.t0 = T0;
    plan.clients.count = 3 + liars.len();
    plan.clients.pipeline = 2;
    plan.clients.retry = RETRY;
    plan.clients.retry_max = T0 * 16;
    plan.clients.rest_max_ns = 4 * UNIT_NS;
    let place = |(place, strategy): (usize, &&'static str)| ClientActor {
        client: 3 + place,
        strategy,
    };
    plan.client_actors = liars.iter().enumerate().map(place).collect();
    plan
}

/// Runs for so long in virtual time, then lets every honest call end.
fn run(plan: Plan, actors: Vec<Actor>) -> Outcome {
    let liars = plan.client_actors.clone();
    let troupe = Troupe::new(actors, 1);
    let mut world = World::new(plan, 1, &troupe, false);
    world.keep_observed();
    let end = Time(LASTING_MS * UNIT_NS);
    world.run(end, |_| false).expect("clean");
    let observed = world.take_observed();
    world.set_clients_busy(false);
    let rest = world.now() + T0 * 100;
    let idle = world.run(rest, |world| world.unresolved() == 0);
    assert!(idle.expect("clean"), "honest calls end");

    let honest = |client: &usize| !liars.iter().any(|actor| actor.client == *client);
    let mut answered: Vec<Time> = vec![Time(0)];
    let mut outcome = Outcome {
        regency_changes: world.regency_changes(),
        longest_pause: Duration::ZERO,
        put_on_signatures: 0,
        for_good: 0,
        lies_received: world.lies().values().map(|lies| lies.received).sum(),
    };
    for Observed { at, what } in observed {
        match what {
            Sight::Committed { client, .. } if honest(&client) => answered.push(at),
            Sight::Event(_, Event::OnSignatures { for_good: true, .. }) => outcome.for_good += 1,
            Sight::Event(_, Event::OnSignatures { .. }) => outcome.put_on_signatures += 1,
            _ => {}
        }
    }
    answered.push(end);
    let pauses = answered.windows(2).map(|pair| pair[1].since(pair[0]));
    outcome.longest_pause = pauses.max().expect("there is an end");
    outcome
}

fn report(name: &str, outcome: &Outcome) {
    eprintln!(
        "{name}: longest pause {:?}, {} leader changes, on signatures {}, for good {}",
        outcome.longest_pause, outcome.regency_changes, outcome.put_on_signatures, outcome.for_good
    );
}

const TOPOLOGIES: [Topology; 2] = [Topology::Shared, Topology::Separate];

#[test]
fn a_bad_tag_for_one_acceptor_costs_nobody_anything() {
    for f in [1, 2] {
        for topology in TOPOLOGIES {
            for strategy in ["bad-tag-one", "bad-tag-one-mute"] {
                let outcome = run(plan(f, topology, &[strategy]), Vec::new());
                report(strategy, &outcome);
                assert!(outcome.lies_received > 50, "{}", outcome.lies_received);
                assert_eq!(outcome.regency_changes, 0);
                assert_eq!(outcome.put_on_signatures, 0, "fewer than f+1 never do");
                assert!(outcome.longest_pause <= DELTA * 12);
            }
        }
    }
}

#[test]
fn many_clients_with_one_bad_tag_each_cannot_stop_a_decree_together() {
    // Each spoils the tag of another acceptor, and all their bundles travel in one batch: nobody can verify all of it,
    // but everybody can vouch for most of it.
    let liars = ["bad-tag-one-mute"; 6];
    for topology in TOPOLOGIES {
        let mut plan = plan(1, topology, &liars);
        plan.tuning.in_flight_max = 1;
        let outcome = run(plan, Vec::new());
        report("six clients", &outcome);
        assert_eq!(outcome.regency_changes, 0);
        assert!(outcome.longest_pause <= DELTA * 12);
    }
}

#[test]
fn a_client_that_signs_when_asked_costs_no_leader_change() {
    for f in [1, 2] {
        for topology in TOPOLOGIES {
            for strategy in ["bad-tags-f1", "bad-tags-all-but-leader"] {
                let outcome = run(plan(f, topology, &[strategy]), Vec::new());
                report(strategy, &outcome);
                assert!(outcome.lies_received > 0);
                assert!(outcome.put_on_signatures > 0);
                assert_eq!((outcome.regency_changes, outcome.for_good), (0, 0));
                assert!(outcome.longest_pause <= DELTA * 12);
            }
        }
    }
}

#[test]
fn a_client_that_never_signs_costs_at_most_one_leader_change() {
    for f in [1, 2] {
        for topology in TOPOLOGIES {
            for (strategy, changes) in
                [("bad-tags-f1-mute", 0), ("bad-tags-all-but-leader-mute", 1)]
            {
                let outcome = run(plan(f, topology, &[strategy]), Vec::new());
                report(strategy, &outcome);
                assert!(outcome.lies_received > 10, "it goes on trying");
                assert_eq!(
                    outcome.regency_changes, changes,
                    "{f} {topology:?} {strategy}"
                );
                // Retry, time-out, leader change, and the retry of what the old leader had.
                assert!(outcome.longest_pause <= RETRY + T0 * 2 + DELTA * 12);
            }
        }
    }
}

#[test]
fn three_clients_that_never_sign_cost_at_most_three() {
    for topology in TOPOLOGIES {
        let liars = ["bad-tags-all-but-leader-mute"; 3];
        let outcome = run(plan(1, topology, &liars), Vec::new());
        report("three mutes", &outcome);
        assert!((1..=3).contains(&outcome.regency_changes));
    }
}

#[test]
fn clients_whose_tags_a_leader_spoils_are_served_after_it() {
    for topology in TOPOLOGIES {
        let spoiler = Actor {
            node: NodeId(0),
            strategies: vec!["tag-spoiler"],
        };
        let outcome = run(plan(1, topology, &[]), vec![spoiler]);
        report("tag-spoiler", &outcome);
        assert!(outcome.lies_received > 0);
        assert_eq!(outcome.regency_changes, 1, "the next leader does not lie");
        assert!(outcome.longest_pause <= RETRY + T0 * 2 + DELTA * 12);
    }
}

#[test]
fn acceptors_that_doubt_everything_put_nobody_on_signatures() {
    for f in [1, 2] {
        for topology in TOPOLOGIES {
            let plan = plan(f, topology, &[]);
            let acceptors = match topology {
                Topology::Shared => 5 * f + 1,
                Topology::Separate => 3 * f + 1 + 5 * f + 1,
            };
            let doubters = (acceptors - f..acceptors).map(|node| Actor {
                node: NodeId(u16::try_from(node).expect("few nodes")),
                strategies: vec!["false-doubter"],
            });
            let outcome = run(plan, doubters.collect());
            report("false-doubter", &outcome);
            assert!(outcome.lies_received > 100);
            assert_eq!((outcome.regency_changes, outcome.put_on_signatures), (0, 0));
            assert!(outcome.longest_pause <= DELTA * 12);
        }
    }
}

#[test]
fn numbers_used_twice_count_once() {
    for topology in TOPOLOGIES {
        let outcome = run(plan(1, topology, &["seq-reuser", "seq-reuser"]), Vec::new());
        assert!(outcome.lies_received > 50);
        assert_eq!(outcome.regency_changes, 0);
    }
}
