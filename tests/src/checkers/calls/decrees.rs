//! What answers say about the one order: a call that was made after another was answered stands in no lower decree.
//!
//! An answer tells its decree, and all decrees up to it are executed then, so whatever is ordered later comes behind. For a session
//! with one call at a time this says that its decrees ascend; with several under way, and between sessions, it says as much
//! as the times allow. And nothing is executed in a session before the session was opened. *Cost*: two sorts.

use super::merged::Effect;

/// What stands at a place where it cannot: one sentence for each call.
pub fn disorder(effects: &[Effect<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    let executed = || effects.iter().filter(|effect| effect.decree.is_some());
    let mut answers: Vec<&Effect<'_>> = executed().collect();
    answers.sort_by_key(|effect| effect.answered);
    let mut answers = answers.into_iter().peekable();
    let mut highest: Option<&Effect<'_>> = None;
    // Effects come in the order in which they were made.
    for effect in executed() {
        let earlier = |other: &&Effect<'_>| other.answered < Some(effect.invoked);
        while let Some(other) = answers.next_if(earlier) {
            if highest.is_none_or(|highest| highest.decree < other.decree) {
                highest = Some(other);
            }
        }
        let (session, seq) = effect.name;
        let decree = effect.decree.expect("it was executed");
        if let Some(highest) = highest.filter(|highest| highest.decree > Some(decree)) {
            found.push(format!(
                "number {seq} of session {session} was made after the answer from decree {} and was executed in decree {decree}",
                highest.decree.expect("it was executed")
            ));
        }
        if decree < session.decree {
            found.push(format!(
                "number {seq} of session {session} was executed in decree {decree}, before its session was opened"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::merged::merge;
    use super::super::testing::{call, committed};
    use super::*;
    use twostep_engine::client::history::{Call, End};

    fn found(calls: &[Call]) -> usize {
        disorder(&merge(calls).0).len()
    }

    #[test]
    fn what_was_made_after_an_answer_is_executed_behind_it() {
        let one = |invoked, answered, seq, decree| {
            call(invoked, Some(answered), seq, b"op", committed(decree, b""))
        };
        assert_eq!(found(&[one(1, 2, 1, 5), one(3, 4, 2, 5)]), 0);
        assert_eq!(found(&[one(1, 2, 1, 5), one(3, 4, 2, 4)]), 1);
        // Under way together, any order goes.
        assert_eq!(found(&[one(1, 4, 1, 5), one(3, 6, 2, 4)]), 0);
        assert_eq!(found(&[one(1, 3, 1, 5), one(3, 6, 2, 4)]), 0);
        // The highest answer counts, not the last one.
        assert_eq!(
            found(&[one(1, 2, 1, 9), one(1, 3, 2, 5), one(4, 5, 3, 7)]),
            1
        );
        let open = call(1, None, 1, b"op", End::Unknown);
        assert_eq!(found(&[open, one(3, 4, 2, 4)]), 0);
    }

    #[test]
    fn nothing_is_executed_before_its_session_was_opened() {
        let mut early = call(1, Some(2), 1, b"op", committed(6, b""));
        early.session.decree.0 = 7;
        assert_eq!(found(&[early]), 1);
    }
}
