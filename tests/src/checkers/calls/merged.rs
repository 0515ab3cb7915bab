//! One call for every number of a session: what was called again under its number is one call with one effect.
//!
//! It begins when it was made for the first time. If any of its answers says that it was executed it was, and it had been when the
//! first of them came; answers that differ are a violation. Otherwise it is open if any of its ends was unknown: a later
//! refusal, such as that its number is too old, says nothing about the earlier ones. What is left was never executed.

use std::collections::BTreeMap;

use twostep_engine::client::history::{Call, End};
use twostep_engine::types::{Decree, Seq, SessionId};

/// A call that was or may have been executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect<'a> {
    /// When it was made first.
    pub invoked: u64,
    /// When it was answered first; none if it is open.
    pub answered: Option<u64>,
    /// Its session and number.
    pub name: (SessionId, Seq),
    /// What was asked.
    pub operation: &'a [u8],
    /// The decree that executed it, if it is known to be executed.
    pub decree: Option<Decree>,
    /// What was answered, if that is known.
    pub reply: Option<&'a [u8]>,
}

/// The effects of some calls, in the order in which they were made, and what contradicts itself.
pub fn merge(calls: &[Call]) -> (Vec<Effect<'_>>, Vec<String>) {
    let mut by_name: BTreeMap<(SessionId, Seq), Effect<'_>> = BTreeMap::new();
    let mut contradictions = Vec::new();
    for call in calls {
        let Some(one) = effect_of(call) else { continue };
        let whole = match by_name.entry(one.name) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(one);
                continue;
            }
            std::collections::btree_map::Entry::Occupied(occupied) => occupied.into_mut(),
        };
        let (session, seq) = one.name;
        if whole.operation != one.operation {
            contradictions.push(format!(
                "two operations were executed as number {seq} of session {session}"
            ));
            continue;
        }
        whole.invoked = whole.invoked.min(one.invoked);
        let Some(decree) = one.decree else { continue };
        match whole.decree {
            None => {
                (whole.answered, whole.decree, whole.reply) = (one.answered, one.decree, one.reply);
            }
            Some(before) => {
                whole.answered = whole.answered.min(one.answered);
                let replies_differ =
                    matches!((whole.reply, one.reply), (Some(one), Some(other)) if one != other);
                if before != decree || replies_differ {
                    contradictions.push(format!(
                        "number {seq} of session {session} was answered twice and differently, from decrees {before} and {decree}"
                    ));
                }
                whole.reply = whole.reply.or(one.reply);
            }
        }
    }
    let mut effects: Vec<Effect<'_>> = by_name.into_values().collect();
    effects.sort_by_key(|effect| (effect.invoked, effect.name));
    (effects, contradictions)
}

fn effect_of(call: &Call) -> Option<Effect<'_>> {
    let (decree, reply) = match &call.end {
        End::Committed { decree, reply } => (Some(*decree), reply.as_deref()),
        End::Unknown => (None, None),
        End::Rejected(_) | End::Busy => return None,
    };
    Some(Effect {
        invoked: call.invoked,
        answered: call.answered,
        name: (call.session, call.seq),
        operation: &call.operation,
        decree,
        reply,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{call, committed};
    use super::*;
    use twostep_engine::client::Rejection;

    #[test]
    fn what_was_called_again_is_one_call() {
        let calls = [
            call(1, None, 1, b"op", End::Unknown),
            call(5, Some(9), 1, b"op", committed(3, b"r")),
            call(6, Some(8), 2, b"op", End::Busy),
            call(
                6,
                Some(7),
                3,
                b"op",
                End::Rejected(Rejection::SessionLapsed),
            ),
        ];
        let (effects, contradictions) = merge(&calls);
        assert!(contradictions.is_empty());
        assert_eq!(effects.len(), 1);
        let one = &effects[0];
        assert_eq!(
            (one.invoked, one.answered, one.decree, one.reply),
            (1, Some(9), Some(Decree(3)), Some(&b"r"[..]))
        );
    }

    #[test]
    fn a_refusal_after_an_unknown_end_leaves_it_open() {
        let calls = [
            call(1, None, 1, b"op", End::Unknown),
            call(5, Some(9), 1, b"op", End::Rejected(Rejection::Stale)),
        ];
        let (effects, _) = merge(&calls);
        assert_eq!((effects.len(), effects[0].answered), (1, None));
    }

    #[test]
    fn one_number_has_one_operation_and_one_answer() {
        let differing = |one: End, other: End| {
            let calls = [
                call(1, Some(2), 1, b"op", one),
                call(3, Some(4), 1, b"op", other),
            ];
            merge(&calls).1.len()
        };
        assert_eq!(differing(committed(3, b"r"), committed(3, b"r")), 0);
        assert_eq!(differing(committed(3, b"r"), committed(4, b"r")), 1);
        assert_eq!(differing(committed(3, b"r"), committed(3, b"s")), 1);
        let reused = [
            call(1, Some(2), 1, b"op", committed(3, b"r")),
            call(3, Some(4), 1, b"another", committed(3, b"r")),
        ];
        assert_eq!(merge(&reused).1.len(), 1);
    }
}
