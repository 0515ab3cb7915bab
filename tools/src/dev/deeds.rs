//! What `dev` does to its cluster at set times: flags become deeds in the order of their times.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use twostep_engine::configuration::Roles;
use twostep_engine::types::NodeId;
use twostep_tests::actors::live;

use crate::arguments::duration;

/// Something that is done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL.
    Kill(Whom),
    /// Lies from then on.
    Misbehave(String, Whom),
    /// Two halves that do not hear each other.
    Partition,
    /// Links are whole again, and nobody lies any more.
    Heal,
}

/// To which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// This one.
    Node(NodeId),
    /// Who leads at that time.
    Leader,
}

/// When what is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// Since the load began.
    pub after: Duration,
    /// What.
    pub deed: Deed,
}

/// `3s=4`: when to kill whom.
pub fn kill_at(text: &str) -> Result<Timed, String> {
    let wrong = || format!("expected TIME=NODE such as 3s=4, found \"{text}\"");
    let (after, node) = text.split_once('=').ok_or_else(wrong)?;
    Ok(Timed {
        after: duration(after)?,
        deed: Deed::Kill(Whom::Node(NodeId(node.parse().map_err(|_| wrong())?))),
    })
}

/// A lie, and the node that tells it if one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    strategy: String,
    node: Option<NodeId>,
}

/// `double-voter` or `double-voter@4`.
pub fn lie(text: &str) -> Result<Lie, String> {
    let (strategy, node) = match text.split_once('@') {
        Some((strategy, node)) => {
            let wrong =
                |_| format!("expected STRATEGY@NODE such as double-voter@4, found \"{text}\"");
            (strategy, Some(NodeId(node.parse().map_err(wrong)?)))
        }
        None => (text, None),
    };
    live::part(strategy, &Roles::ALL)?;
    Ok(Lie {
        strategy: strategy.to_owned(),
        node,
    })
}

impl Lie {
    /// Who tells it in a cluster of these nodes: the named one, else the leader for a lie of leaders, else the last one
    /// with the role for it.
    pub fn resolve(&self, nodes: &[(NodeId, Roles)]) -> Result<Deed> {
        let fits = |roles: &Roles| live::part(&self.strategy, roles);
        let whom = match self.node {
            Some(named) => {
                let node = nodes.iter().find(|(node, _)| *node == named);
                let (_, roles) = node.ok_or_else(|| {
                    let last = nodes.len() - 1;
                    anyhow!("--misbehave: there is no node {named}, only 0 to {last}")
                })?;
                fits(roles)
                    .map_err(|why| anyhow!("--misbehave {}@{named}: {why}", self.strategy))?;
                Whom::Node(named)
            }
            None if live::is_for_leaders(&self.strategy) => Whom::Leader,
            None => {
                let node = nodes.iter().rfind(|(_, roles)| fits(roles).is_ok());
                let (node, _) =
                    node.ok_or_else(|| anyhow!("--misbehave {}: no node fits", self.strategy))?;
                Whom::Node(*node)
            }
        };
        Ok(Deed::Misbehave(self.strategy.clone(), whom))
    }
}

/// Puts the deeds in order, and refuses those that would make more than `f` nodes faulty.
pub fn schedule(mut deeds: Vec<Timed>, nodes: usize, f: usize) -> Result<VecDeque<Timed>> {
    let mut named = BTreeSet::new();
    let mut leaders = 0;
    for timed in &deeds {
        match &timed.deed {
            Deed::Kill(Whom::Node(node)) => {
                if usize::from(node.0) >= nodes {
                    bail!(
                        "--kill-at: there is no node {node}, only 0 to {}",
                        nodes - 1
                    );
                }
                if !named.insert(*node) {
                    bail!(
                        "--kill-at: node {node} is killed or lies already; each node is faulty once"
                    );
                }
            }
            Deed::Misbehave(_, Whom::Node(node)) => {
                if !named.insert(*node) {
                    bail!(
                        "--misbehave: node {node} is killed or lies already; several lies of one node are said with a plus, \
                         such as silent+double-voter@4"
                    );
                }
            }
            Deed::Kill(Whom::Leader) | Deed::Misbehave(_, Whom::Leader) => leaders += 1,
            Deed::Partition | Deed::Heal => {}
        }
    }
    if named.len() + leaders > f {
        bail!(
            "--kill-at, --kill-leader-at and --misbehave: at most f = {f} nodes may be faulty, that is down or lying, and these are {}; \
             raise --f",
            named.len() + leaders
        );
    }
    deeds.sort_by_key(|timed| timed.after);
    Ok(deeds.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, deed: Deed) -> Timed {
        Timed {
            after: Duration::from_millis(ms),
            deed,
        }
    }

    fn six() -> Vec<(NodeId, Roles)> {
        let roles = |node: u16| {
            if node < 4 {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            }
        };
        (0..6).map(|node| (NodeId(node), roles(node))).collect()
    }

    #[test]
    fn kills_are_a_time_and_a_node() {
        assert_eq!(
            kill_at("3s=4"),
            Ok(at(3000, Deed::Kill(Whom::Node(NodeId(4)))))
        );
        assert_eq!(
            kill_at("3s").unwrap_err(),
            "expected TIME=NODE such as 3s=4, found \"3s\""
        );
        assert!(
            kill_at("3s=x")
                .unwrap_err()
                .starts_with("expected TIME=NODE")
        );
        assert!(
            kill_at("soon=4")
                .unwrap_err()
                .starts_with("expected a time")
        );
    }

    #[test]
    fn a_lie_finds_its_node() {
        let found = |text: &str| lie(text).unwrap().resolve(&six());
        let of = |text: &str, whom| Deed::Misbehave(text.to_owned(), whom);
        assert_eq!(
            found("equivocating-leader").unwrap(),
            of("equivocating-leader", Whom::Leader)
        );
        assert_eq!(
            found("double-voter").unwrap(),
            of("double-voter", Whom::Node(NodeId(5)))
        );
        assert_eq!(
            found("lying-learner").unwrap(),
            of("lying-learner", Whom::Node(NodeId(3)))
        );
        assert_eq!(
            found("flooder:3@2").unwrap(),
            of("flooder:3", Whom::Node(NodeId(2)))
        );
        let error = |text: &str| found(text).unwrap_err().to_string();
        assert!(error("silent@6").contains("there is no node 6, only 0 to 5"));
        assert!(error("lying-learner@5").contains("for nodes with another role"));
        assert!(
            lie("liar")
                .unwrap_err()
                .contains("there is no strategy `liar`")
        );
        assert!(lie("silent@x").unwrap_err().contains("STRATEGY@NODE"));
    }

    #[test]
    fn at_most_f_nodes_become_faulty_in_the_order_of_their_times() {
        let kill = |ms, node| at(ms, Deed::Kill(Whom::Node(NodeId(node))));
        let lies = |ms, whom| at(ms, Deed::Misbehave("silent".to_owned(), whom));
        let order = schedule(
            vec![kill(3, 1), lies(1, Whom::Leader), at(2, Deed::Heal)],
            6,
            2,
        );
        let times: Vec<u128> = order
            .unwrap()
            .iter()
            .map(|one| one.after.as_millis())
            .collect();
        assert_eq!(times, [1, 2, 3]);
        for (deeds, expected) in [
            (vec![kill(1, 6)], "there is no node 6"),
            (
                vec![kill(1, 1), kill(2, 2)],
                "at most f = 1 nodes may be faulty",
            ),
            (vec![kill(1, 1), kill(2, 1)], "each node is faulty once"),
            (
                vec![kill(1, 1), lies(2, Whom::Leader)],
                "at most f = 1 nodes may be faulty",
            ),
            (
                vec![kill(1, 1), lies(2, Whom::Node(NodeId(1)))],
                "with a plus",
            ),
        ] {
            let error = schedule(deeds, 6, 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
