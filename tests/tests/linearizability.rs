//! The judge of histories, judged: planted violations are found, valid histories are not blamed, a search without any cleverness agrees
//! on small histories, and a long history over hot keys takes seconds.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use twostep_engine::client::history::{Call, End};
use twostep_engine::key_value::{KeyValue, Operation};
use twostep_engine::state_machine::{Context, StateMachine};
use twostep_engine::types::{ClientId, Decree, Seq, SessionId};
use twostep_tests::checkers::calls::{Judgement, judge};
use twostep_tests::random::Random;

const CONTEXT: Context = Context {
    decree: Decree(1),
    client: ClientId([0; 16]),
    session: SessionId::NONE,
    seq: Seq(1),
};

fn bytes_of(operation: &Operation<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    operation.encode(&mut bytes);
    bytes
}

fn run(store: &mut KeyValue, operation: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    store.execute(&CONTEXT, operation, &mut reply);
    reply
}

/// Calls that are written down one by one, each with the reply of a store of its own or with another one.
#[derive(Default)]
struct Story {
    store: KeyValue,
    calls: Vec<Call>,
}

impl Story {
    /// Makes a call that the store does now; its reply is what it should be.
    fn call(&mut self, times: (u64, u64), decree: u64, operation: &Operation<'_>) -> &mut Story {
        let reply = run(&mut self.store, &bytes_of(operation));
        self.told(times, decree, operation, &reply)
    }

    /// Makes a call that is answered like this, whatever the store does.
    fn told(
        &mut self,
        (invoked, answered): (u64, u64),
        decree: u64,
        operation: &Operation<'_>,
        reply: &[u8],
    ) -> &mut Story {
        let end = End::Committed {
            decree: Decree(decree),
            reply: Some(reply.to_vec()),
        };
        self.push(invoked, Some(answered), operation, end)
    }

    /// Makes a call of which nobody knows what became of it.
    fn open(&mut self, invoked: u64, operation: &Operation<'_>) -> &mut Story {
        self.push(invoked, None, operation, End::Unknown)
    }

    fn push(
        &mut self,
        invoked: u64,
        answered: Option<u64>,
        operation: &Operation<'_>,
        end: End,
    ) -> &mut Story {
        let seq = Seq(self.calls.len() as u64 + 1);
        self.calls.push(Call {
            invoked,
            answered,
            session: SessionId {
                decree: Decree(1),
                index: 0,
            },
            seq,
            operation: bytes_of(operation),
            end,
        });
        self
    }

    fn judged(&self) -> Judgement {
        judge(&self.calls)
    }
}

const KEY: &[u8] = b"key";
const GET: Operation<'_> = Operation::Get { key: KEY };
const DELETE: Operation<'_> = Operation::Delete { key: KEY };
const ADD: Operation<'_> = Operation::Increment {
    key: KEY,
    by: 1,
    padding: &[],
};

fn put(value: &[u8]) -> Operation<'_> {
    Operation::Put { key: KEY, value }
}

fn swap<'a>(expected: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::CompareAndSwap {
        key: KEY,
        expected: Some(expected),
        value,
    }
}

fn value(bytes: &[u8]) -> Vec<u8> {
    [&[2], bytes].concat()
}

const DONE: &[u8] = &[0];

#[test]
fn a_stale_read_is_found() {
    let mut story = Story::default();
    story
        .call((1, 2), 2, &put(b"a"))
        .call((3, 4), 3, &put(b"b"));
    assert!(story.judged().is_clean());
    story.told((5, 6), 4, &GET, &value(b"a"));
    let judged = story.judged();
    assert!(!judged.linearizable && judged.violations == 1, "{judged:?}");
    assert!(
        judged.told[0].contains("get (number 3 of session 1.0, decree 4"),
        "{judged:?}"
    );
    assert!(judged.told[0].contains("the key holds \"b\""), "{judged:?}");
}

#[test]
fn a_lost_update_is_found() {
    let mut story = Story::default();
    story
        .call((1, 2), 2, &put(b"a"))
        .told((3, 6), 3, &swap(b"a", b"b"), DONE)
        .told((4, 7), 3, &swap(b"a", b"c"), DONE);
    assert!(!story.judged().linearizable, "both swapped the one value");

    let mut counter = Story::default();
    counter.call((1, 2), 2, &ADD).call((3, 4), 3, &ADD);
    assert!(counter.judged().is_clean());
    counter.told((5, 6), 4, &GET, &value(b"1"));
    let judged = counter.judged();
    assert!(!judged.linearizable);
    assert_eq!((judged.lost, judged.duplicates), (1, 0));
}

#[test]
fn a_second_execution_is_found() {
    let mut story = Story::default();
    story.call((1, 2), 2, &ADD);
    run(&mut story.store, &bytes_of(&ADD));
    story.call((3, 4), 3, &GET);
    let judged = story.judged();
    assert!(!judged.linearizable);
    assert_eq!((judged.lost, judged.duplicates), (0, 1));

    let mut story = Story::default();
    story
        .call((1, 2), 2, &put(b"a"))
        .call((3, 4), 3, &put(b"b"))
        .call((5, 6), 4, &DELETE)
        .told((7, 8), 5, &GET, &value(b"b"));
    assert!(!story.judged().linearizable, "the second put came again");
}

#[test]
fn a_value_from_nowhere_is_found() {
    let mut story = Story::default();
    story.told((1, 2), 2, &GET, &value(b"made up"));
    assert!(!story.judged().linearizable);
    // What was refused for good and shows nevertheless is from nowhere too.
    let mut story = Story::default();
    let refused = End::Rejected(twostep_engine::client::Rejection::SessionLapsed);
    story
        .push(1, Some(2), &put(b"refused"), refused)
        .told((3, 4), 2, &GET, &value(b"refused"));
    assert!(!story.judged().linearizable);
    // And a value before it was written.
    let mut story = Story::default();
    story
        .told((1, 2), 2, &GET, &value(b"late"))
        .told((3, 4), 3, &put(b"late"), DONE);
    assert!(!story.judged().linearizable);
}

#[test]
fn acknowledgements_in_another_order_are_found() {
    let mut story = Story::default();
    story
        .told((1, 2), 5, &put(b"a"), DONE)
        .told((3, 4), 4, &put(b"b"), DONE);
    let judged = story.judged();
    assert!(judged.linearizable, "the values alone show nothing");
    assert_eq!(judged.violations, 1);
    assert!(
        judged.told[0].contains("after the answer from decree 5 and was executed in decree 4"),
        "{judged:?}"
    );
    // Where the answers of one counter stand the wrong way round, the values show it.
    let mut story = Story::default();
    story
        .told(
            (1, 2),
            2,
            &ADD,
            &[[3].as_slice(), &2_i64.to_le_bytes()].concat(),
        )
        .told(
            (3, 4),
            3,
            &ADD,
            &[[3].as_slice(), &1_i64.to_le_bytes()].concat(),
        );
    assert!(!story.judged().linearizable);
}

#[test]
fn two_answers_to_one_number_are_found() {
    let mut story = Story::default();
    story
        .told(
            (1, 2),
            2,
            &ADD,
            &[[3].as_slice(), &1_i64.to_le_bytes()].concat(),
        )
        .told(
            (3, 4),
            2,
            &ADD,
            &[[3].as_slice(), &2_i64.to_le_bytes()].concat(),
        );
    story.calls[1].seq = story.calls[0].seq;
    let judged = story.judged();
    assert!(
        judged.told[0].contains("answered twice and differently"),
        "{judged:?}"
    );
}

#[test]
fn what_happens_at_one_time_may_stand_in_any_order() {
    let mut story = Story::default();
    story
        .told((1, 9), 3, &put(b"a"), DONE)
        .told((2, 8), 3, &put(b"b"), DONE)
        .told((3, 4), 3, &GET, &value(b"b"))
        .told((5, 6), 3, &GET, &value(b"a"));
    assert!(story.judged().is_clean());
    story.told((7, 8), 3, &GET, &value(b"b"));
    assert!(!story.judged().linearizable, "b was overwritten");
}

#[test]
fn an_open_call_takes_effect_late_or_never() {
    for late in [false, true] {
        let mut story = Story::default();
        story.call((1, 2), 2, &put(b"a")).open(3, &put(b"open"));
        story.call((4, 5), 3, &GET);
        if late {
            run(&mut story.store, &bytes_of(&put(b"open")));
        }
        story.call((600, 700), 9, &GET);
        assert!(story.judged().is_clean(), "late: {late}");
        // But not before it was made, and only once.
        story.calls[1].invoked = 800;
        assert_eq!(story.judged().linearizable, !late);
    }
    let mut story = Story::default();
    story
        .open(1, &put(b"open"))
        .told((2, 3), 2, &GET, &value(b"open"))
        .told((4, 5), 3, &put(b"a"), DONE)
        .told((6, 7), 4, &GET, &value(b"open"));
    assert!(!story.judged().linearizable, "it takes effect once");
}

#[test]
fn a_history_whose_answer_is_gone_is_judged_by_its_effect() {
    let mut story = Story::default();
    story.call((1, 2), 2, &ADD).call((3, 4), 3, &ADD);
    let End::Committed { reply, .. } = &mut story.calls[0].end else {
        unreachable!("it was executed")
    };
    *reply = None;
    assert!(story.judged().is_clean());
    story.told((5, 6), 4, &GET, &value(b"1"));
    assert!(!story.judged().linearizable);
}

/// Whether some order explains the calls, by trying all of them on the real store.
fn brute(calls: &[Call]) -> bool {
    fn go(calls: &[Call], left: u32, store: &KeyValue) -> bool {
        let is_left = |place: &usize| left & (1 << place) != 0;
        let places: Vec<usize> = (0..calls.len()).filter(is_left).collect();
        let first = places
            .iter()
            .filter_map(|place| calls[*place].answered)
            .min();
        let Some(first) = first else { return true };
        places.iter().any(|place| {
            let call = &calls[*place];
            if call.invoked > first {
                return false;
            }
            let mut after = store.clone();
            let reply = run(&mut after, &call.operation);
            let fits = match &call.end {
                End::Committed {
                    reply: Some(told), ..
                } => *told == reply,
                _ => true,
            };
            fits && go(calls, left & !(1 << place), &after)
        })
    }
    go(calls, (1 << calls.len()) - 1, &KeyValue::new())
}

/// One call of a small history: what is asked, when it begins, how long it lasts, when it has its effect, and whether nobody
/// knows what became of it.
type Sketch = (usize, u64, u64, u64, u8);

/// A history of real executions on one key.
fn drawn(sketches: &[Sketch]) -> Vec<Call> {
    let menu = [
        GET,
        put(b"1"),
        put(b"x"),
        DELETE,
        ADD,
        swap(b"1", b"x"),
        Operation::CompareAndSwap {
            key: KEY,
            expected: None,
            value: b"2",
        },
    ];
    let mut story = Story::default();
    let mut moments: Vec<(u64, usize)> = Vec::new();
    for (place, (what, invoked, lasts, effect, ends)) in sketches.iter().enumerate() {
        let operation = &menu[what % menu.len()];
        match ends {
            // Open, with an effect or without.
            0 => story.open(*invoked, operation),
            1 => {
                moments.push((invoked + effect, place));
                story.open(*invoked, operation)
            }
            _ => {
                moments.push((invoked + effect % (lasts + 1), place));
                story.told((*invoked, invoked + lasts), 0, operation, &[])
            }
        };
    }
    moments.sort_unstable();
    for (decree, (_, place)) in moments.into_iter().enumerate() {
        let did = run(&mut story.store, &story.calls[place].operation);
        if let End::Committed {
            decree: told,
            reply,
        } = &mut story.calls[place].end
        {
            (*told, *reply) = (Decree(2 + decree as u64 / 2), Some(did));
        }
    }
    story.calls
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    prop::collection::vec((0..7_usize, 0..12_u64, 0..6_u64, 0..8_u64, 0..8_u8), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_executed_is_never_blamed(sketches in sketches()) {
        let calls = drawn(&sketches);
        let judged = judge(&calls);
        prop_assert!(judged.is_clean(), "{:?}", judged);
        prop_assert!(brute(&calls));
    }

    #[test]
    fn the_search_and_all_orders_agree(
        sketches in sketches(),
        spoilt in 0..8_usize,
        reply in 0..8_usize,
        hints in prop::collection::vec(1..6_u64, 8),
    ) {
        let mut calls = drawn(&sketches);
        let replies: [Vec<u8>; 8] = [
            vec![0],
            vec![1],
            value(b"1"),
            value(b"x"),
            value(b"2"),
            [[3].as_slice(), &2_i64.to_le_bytes()].concat(),
            vec![4],
            [[5].as_slice(), b"x"].concat(),
        ];
        let spoilt = spoilt % calls.len();
        if let End::Committed { reply: told, .. } = &mut calls[spoilt].end {
            *told = Some(replies[reply].clone());
        }
        // Where to look first must not matter.
        for (call, hint) in calls.iter_mut().zip(&hints) {
            if let End::Committed { decree, .. } = &mut call.end {
                decree.0 = *hint;
            }
        }
        let judged = judge(&calls);
        prop_assert_eq!(judged.undecided, 0);
        prop_assert_eq!(judged.linearizable, brute(&calls), "{:?}", judged);
    }
}

/// A long history of many sessions over few keys: each call has its effect at some moment while it is under way, and one of two
/// hundred is open.
fn long(calls: usize, sessions: usize, keys: u64) -> Vec<Call> {
    let mut random = Random::fork(7, "long history");
    let mut story = Story::default();
    let mut due: Vec<u64> = vec![0; sessions];
    // The effects in their order: when, and of which call.
    let mut moments = Vec::new();
    for place in 0..calls {
        let session = (0..sessions).min_by_key(|session| due[*session]).unwrap();
        let invoked = due[session] + 1 + random.below(20);
        let answered = invoked + 10 + random.below(200);
        due[session] = answered;
        let key = format!("key {}", random.below(keys));
        let key = key.as_bytes();
        let text = format!("value {place}");
        let operation = match random.below(10) {
            0..3 => Operation::Get { key },
            3..6 => Operation::Put {
                key,
                value: text.as_bytes(),
            },
            6 => Operation::Delete { key },
            7 => Operation::Put { key, value: b"1" },
            8 => Operation::Increment {
                key,
                by: 1,
                padding: &[],
            },
            _ => Operation::CompareAndSwap {
                key,
                expected: Some(b"1"),
                value: text.as_bytes(),
            },
        };
        let effect = invoked + random.below(answered - invoked + 1);
        match random.below(400) {
            0 => story.open(invoked, &operation),
            1 => {
                moments.push((invoked + random.below(5000), place));
                story.open(invoked, &operation)
            }
            _ => {
                moments.push((effect, place));
                story.told((invoked, answered), 0, &operation, &[])
            }
        };
        story.calls[place].session.index = u32::try_from(session).unwrap();
    }
    moments.sort_unstable();
    for (decree, (_, place)) in moments.into_iter().enumerate() {
        let did = run(&mut story.store, &story.calls[place].operation);
        if let End::Committed {
            decree: told,
            reply,
        } = &mut story.calls[place].end
        {
            // A decree orders several of them.
            (*told, *reply) = (Decree(2 + decree as u64 / 8), Some(did));
        }
    }
    story.calls
}

#[test]
fn a_long_history_over_hot_keys_takes_seconds() {
    let calls = long(100_000, 32, 4);
    let began = Instant::now();
    let judged = judge(&calls);
    let took = began.elapsed();
    println!("{} calls in {took:?}", judged.calls);
    assert!(judged.is_clean(), "{judged:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn one_stale_read_in_a_long_history_is_found() {
    let mut calls = long(20_000, 16, 4);
    let is_get = |call: &&mut Call| {
        call.operation[0] == 2
            && matches!(&call.end, End::Committed { reply: Some(reply), .. } if reply[0] == 2)
    };
    let get = calls.iter_mut().filter(is_get).nth(2000).unwrap();
    let End::Committed { reply, .. } = &mut get.end else {
        unreachable!("it was executed")
    };
    *reply = Some(value(b"value 3"));
    let judged = judge(&calls);
    assert!(!judged.linearizable, "{judged:?}");
    assert_eq!(judged.violations, 1);
    assert!(judged.told[0].contains("\"value 3\""), "{judged:?}");
}
