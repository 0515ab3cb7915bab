//! Signatures that were checked before, remembered for simulations: one thread that plays all nodes of a cluster would
//! check each signature once per node.
//!
//! Off unless a thread asks for it; no real node does. Exact all the same: whether a signature is valid is a function of
//! key, digest and signature alone (`sign.rs`), and all three are what is looked up.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// Answers that a thread remembers before it starts anew; some 20 MB.
const ANSWERS_MAX: usize = 1 << 16;

type Answers = BTreeMap<[u8; 32], bool>;

thread_local! {
    static ANSWERS: RefCell<Option<Answers>> = const { RefCell::new(None) };
}

/// From now on this thread remembers which signatures are valid. For simulations; forgets what it remembered before.
pub fn remember_signatures() {
    ANSWERS.set(Some(Answers::new()));
}

/// Whether this thread remembers.
pub(crate) fn is_on() -> bool {
    ANSWERS.with_borrow(Option::is_some)
}

/// The answer that is remembered for a key, a digest and a signature, or else that of `check`.
pub(crate) fn known_or(question: [&[u8]; 3], check: impl FnOnce() -> bool) -> bool {
    ANSWERS.with_borrow_mut(|answers| {
        let Some(answers) = answers else {
            return check();
        };
        let mut hasher = blake3::Hasher::new();
        for part in question {
            hasher.update(part);
        }
        let name = *hasher.finalize().as_bytes();
        if let Some(answer) = answers.get(&name) {
            return *answer;
        }
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        *answers.entry(name).or_insert_with(check)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_asked_for_once_and_only_if_the_thread_remembers() {
        let one: [&[u8]; 3] = [&[1; 32], &[2; 32], &[3; 64]];
        let other: [&[u8]; 3] = [&[1; 32], &[2; 32], &[4; 64]];
        assert!(!is_on());
        assert!(known_or(one, || true));
        assert!(!known_or(one, || false));

        remember_signatures();
        assert!(is_on());
        assert!(known_or(one, || true));
        assert!(known_or(one, || unreachable!("remembered")));
        assert!(!known_or(other, || false));
        assert!(!known_or(other, || unreachable!("remembered")));
    }
}
