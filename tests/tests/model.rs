//! Every reachable state of one decree: agreement never breaks, and nothing gets stuck (PROTOCOL.md sections 3, 6, 7).
//!
//! The simulator draws histories by chance; this test visits all of them, for one decree, small sizes and a few
//! regencies. [`select`] and [`vote_rule`], with the thresholds of [`Quorums`], are the production functions, called
//! through the trait [`Rules`], whose wrong versions live in `twostep_tests::rules` and `model/rules.rs`. The checker is stateright.
//!
//! ```text
//! cargo test -p twostep-tests --release --test model           the full form, about a minute, figures and traces printed
//! cargo test -p twostep-tests --test model -- --nocapture      the small form: two regencies, seconds
//! ```
//! A release build runs the full form, a dev build (so also `cargo test --workspace`) the small one;
//! `TWOSTEP_MODEL=full` or `TWOSTEP_MODEL=small` overrides that. The full form adds the third regency of mode F, the
//! fourth of mode C, and S7, which does not exist below three.
//!
//! # What a state is
//! | who | in the state |
//! |---|---|
//! | correct acceptor | the promised regency, the newest vote, the report sent for each regency, the votes told for each regency |
//! | f Byzantine acceptors | nothing: at every moment they have said everything that they could ever say |
//! | leaders in mode F | nothing: **every** leader is Byzantine, has equivocated to everybody, and shows each acceptor whatever voucher it can prove |
//! | leaders in mode C | the one value that the leader of each regency proposed |
//! | learners | nothing: a value is chosen when so many correct acceptors told (r, v) that with all liars a learner would decide it |
//! | network | nothing: a thing said may be received at any later time, or never |
//!
//! Steps: an acceptor enters a regency and reports (`Gather`); it gets a voucher and a proposal, and votes if
//! `vote_rule` lets it (`NewRegency`, `Propose`; it enters first if it must); in mode C a leader proposes.
//!
//! A voucher is any `n − f` reports for that regency by distinct signers, of which the correct acceptors sent theirs
//! and the liars sign any report with a lower psn. `select` is run over every order of every such bag of reports
//! (`model/voucher.rs`), not over one representative: its independence of the order is not taken for granted.
//!
//! # What is checked, in every state
//! - **Agreement** (CS2): no two values are chosen.
//! - **Anchoring** (I3′): below a correct vote for v, no other value is or can become chosen.
//! - **Never stuck**: if all correct acceptors enter the next regency and its leader is correct, then whatever the liars
//!   report and whichever reports come first, `select` yields a plan, a value that fits can be had from f+1 correct
//!   acceptors (or is the leader's own), no correct acceptor refuses it, and they alone are enough to decide.
//! - That it is not empty talk: either value can be chosen, and the last regency can choose one while the other has votes.
//!
//! # Why so few states are enough
//! - *Liars as a set of all they could say*: every rule that reads messages is monotone in them (more reports and votes of
//!   liars only allow more vouchers and more decisions), so a liar that has said everything includes every liar.
//!   Fewer than f liars is a liar that behaves.
//! - *Every proof of leadership exists*: an acceptor may enter any higher regency at any time. That includes all pacemakers.
//! - *Bags*: correct acceptors run one program and rules never read their names, so a state is a sorted list.
//!   `symmetry_loses_nothing` compares it with named acceptors.
//! - *Voucher and proposal in one step*: reports sent stay sent, so a leader that shows a voucher early could as well show
//!   it with its proposal, and a plan is read by nothing else. The plan is forgotten after the vote, which also covers
//!   a restarted acceptor that takes another plan of the same regency. `merging_voucher_and_proposal_loses_nothing`
//!   compares it with plans that are kept.
//! - *Crashes*: a crashed acceptor is one that takes no further step. Disks are kept; lost ones are the simulator's part.
//! - *One decree*: a report promises for all decrees alike and plans are made decree by decree. Checkpoints, the
//!   window, bodies and signatures are outside: the simulator and the tests of the wire check those.
//! - *Two values*: a violation is about two. Two regencies are also checked with three.
//!
//! # Cost
//! Mode F, n = 6, three regencies: 703,700 states, 3.4 million transitions, about 10 s on one core.
//! PROTOCOL.md says 352,289: the same states up to exchange of A and B, which is not reduced here since rules under test
//! need not treat values alike; the test counts those classes and gets the same number.
//! stateright tells states apart by 64-bit fingerprints; `model/walk.rs` counts whole states and must agree.
//! stateright's own symmetry reduction works in depth-first search only, whose traces are not the shortest; a state that
//! is kept sorted needs none.
//!
//! [`select`]: twostep_engine::quorum::select
//! [`vote_rule`]: twostep_engine::rules::vote_rule
//! [`Quorums`]: twostep_engine::quorum::Quorums
//! [`Rules`]: twostep_engine::rules::Rules

mod model {
    mod acceptor;
    mod broken;
    mod decree;
    mod form;
    mod rules;
    mod safe;
    mod story;
    mod voucher;
    mod walk;
}
