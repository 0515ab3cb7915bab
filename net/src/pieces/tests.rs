//! Pieces of messages in any order, some of them missing.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MAX: usize = 8000;

fn message(id: u64, total: usize) -> Vec<u8> {
    (0..total)
        .map(|at| u8::try_from((at as u64 * 7 + id) % 251).unwrap())
        .collect()
}

fn add(pieces: &mut Pieces, id: u64, total: usize, start: usize, end: usize) -> Option<Vec<u8>> {
    let bytes = &message(id, total)[start..end];
    let (offset, total) = (u32::try_from(start).unwrap(), u32::try_from(total).unwrap());
    let fragment = Fragment {
        id,
        offset,
        total,
        bytes,
    };
    pieces.next_packet(1);
    pieces.add(&fragment, MAX, Instant::now()).unwrap()
}

#[test]
fn a_lost_fragment_loses_its_message_and_no_other() {
    let mut pieces = Pieces::new();
    assert_eq!(add(&mut pieces, 1, 2400, 0, 800), None);
    assert_eq!(add(&mut pieces, 1, 2400, 1600, 2400), None);
    for id in 2..100 {
        assert_eq!(add(&mut pieces, id, 7200, 3200, 7200), None);
        assert_eq!(add(&mut pieces, id, 7200, 0, 3200), Some(message(id, 7200)));
        assert!(pieces.bytes <= MAX);
    }
    assert_eq!(add(&mut pieces, 1, 2400, 800, 1600), None, "it is late");
    assert_eq!(pieces.bytes, 0, "and begins nothing");
}

#[test]
fn the_oldest_makes_room() {
    let mut pieces = Pieces::new();
    for id in 1..=10 {
        add(&mut pieces, id, 3200, 0, 800);
        assert!(pieces.bytes <= MAX);
    }
    assert_eq!(add(&mut pieces, 9, 3200, 800, 3200), Some(message(9, 3200)));
    assert_eq!(
        add(&mut pieces, 10, 3200, 800, 3200),
        Some(message(10, 3200))
    );
    for id in 11..=200 {
        add(&mut pieces, id, 200, 150, 200);
    }
    assert_eq!(pieces.messages.len(), MESSAGES_MAX);
    assert_eq!(add(&mut pieces, 11, 200, 150, 200), None);
}

#[test]
fn contradictions_are_refused() {
    let mut pieces = Pieces::new();
    add(&mut pieces, 1, 2400, 800, 1600);
    for (offset, total, bytes) in [
        (1600, 2400, &[][..]),
        (1600, 2401, &[0; 801]),
        (1600, 2400, &[0; 801]),
        (900, 2400, &[0; 500]),
        (0, 8001, &[0; 8001]),
        (u32::MAX, u32::MAX, &[0; 1]),
    ] {
        let fragment = Fragment {
            id: 1,
            offset,
            total,
            bytes,
        };
        assert!(
            pieces.add(&fragment, MAX, Instant::now()).is_err(),
            "{fragment:?}"
        );
    }
    assert_eq!(add(&mut pieces, 1, 2400, 0, 800), None);
    assert_eq!(
        add(&mut pieces, 1, 2400, 1600, 2400),
        Some(message(1, 2400))
    );
}

#[test]
fn what_came_before_is_left_out() {
    let mut pieces = Pieces::new();
    let total = 4000;
    for (start, end) in [(600, 1200), (1800, 2400), (600, 1200), (700, 1212)] {
        assert_eq!(add(&mut pieces, 1, total, start, end), None);
    }
    // Over both runs, the gap between them, and beyond.
    assert_eq!(add(&mut pieces, 1, total, 0, 3000), None);
    assert_eq!(pieces.messages[0].arrived, 3000);
    let whole = add(&mut pieces, 1, total, 2900, 4000);
    assert_eq!(whole, Some(message(1, total)));
    // It is said again, and begins nothing.
    for (start, end) in [(0, 4000), (600, 1200)] {
        assert_eq!(add(&mut pieces, 1, total, start, end), None);
    }
    assert!(pieces.messages.is_empty() && pieces.bytes == 0);
    // Not even in a packet that has begun all that it may.
    pieces.next_packet(9);
    for id in [2, 3, 1] {
        let bytes = &message(id, total)[..600];
        let (offset, total) = (0, u32::try_from(total).unwrap());
        let fragment = Fragment {
            id,
            offset,
            total,
            bytes,
        };
        assert_eq!(pieces.add(&fragment, MAX, Instant::now()), Ok(None));
    }
}

/// What is asked for at `now`, as ranges of message `id`.
fn asked(pieces: &mut Pieces, now: Instant) -> Vec<(u64, u32, u32)> {
    let mut wants = Vec::new();
    pieces.wants(now, &mut wants);
    let named = wants.iter().map(|want| (want.id, want.from, want.to));
    named.collect()
}

#[test]
fn gaps_are_asked_for_when_nothing_more_comes() {
    const MS: Duration = Duration::from_millis(1);
    let (mut pieces, began) = (Pieces::new(), Instant::now());
    let put = |pieces: &mut Pieces, packet, id, start: usize, end: usize| {
        pieces.next_packet(packet);
        let bytes = &message(id, 4000)[start..end];
        let fragment = Fragment {
            id,
            offset: u32::try_from(start).unwrap(),
            total: 4000,
            bytes,
        };
        pieces.add(&fragment, MAX, began).unwrap()
    };
    assert_eq!(pieces.ask_at(), None, "nothing is incomplete");
    put(&mut pieces, 1, 1, 600, 1200);
    put(&mut pieces, 3, 1, 1700, 2400);
    let due = pieces.ask_at().unwrap();
    assert!(due > began && due <= began + 10 * MS);
    assert_eq!(asked(&mut pieces, began), []);
    // The second gap is shorter than a fragment may be. What follows 2400 may not have left yet.
    let gaps = [(1, 0, 600), (1, 1200, 1712)];
    assert_eq!(asked(&mut pieces, due), gaps);
    assert_eq!(asked(&mut pieces, due), [], "once");
    let again = pieces.ask_at().unwrap();
    assert!(again > due);
    // Another message overtakes the end.
    put(&mut pieces, 5, 2, 0, 3000);
    let gaps = [(1, 0, 600), (1, 1200, 1712), (1, 2400, 4000)];
    assert_eq!(asked(&mut pieces, again), gaps);
    // Of which nothing but the end is missing: that is waited for longer.
    assert_eq!(asked(&mut pieces, began + 30 * MS), [(2, 3000, 4000)]);
    put(&mut pieces, 6, 2, 3000, 4000).unwrap();
    let mut now = began;
    let mut times = 0;
    while let Some(at) = pieces.ask_at() {
        now = now.max(at);
        times += usize::from(!asked(&mut pieces, now).is_empty());
        assert!(times < 20, "it gives up");
    }
    assert!(times > 2);
}

#[test]
fn one_want_names_a_bounded_number_of_gaps() {
    let (mut pieces, now) = (Pieces::new(), Instant::now());
    let total = 200 * 1024;
    for at in 0..100 {
        add_at(&mut pieces, at * 2048 + 1024, total, now);
    }
    let due = pieces.ask_at().unwrap();
    let first = asked(&mut pieces, due);
    assert_eq!(first.len(), WANTS_MAX);
    assert_eq!(first[1], (1, 2048, 3072));
}

fn add_at(pieces: &mut Pieces, start: usize, total: usize, now: Instant) {
    let fragment = Fragment {
        id: 1,
        offset: u32::try_from(start).unwrap(),
        total: u32::try_from(total).unwrap(),
        bytes: &[0; 1024],
    };
    assert_eq!(pieces.add(&fragment, total, now), Ok(None));
}

#[test]
fn buffers_are_used_again() {
    let mut pieces = Pieces::new();
    let mut before: *const u8 = std::ptr::null();
    for id in 1..10 {
        add(&mut pieces, id, 4000, 0, 3999);
        let whole = add(&mut pieces, id, 4000, 3999, 4000).unwrap();
        assert!(before.is_null() || before == whole.as_ptr());
        before = whole.as_ptr();
        pieces.give_back(whole);
    }
}

/// Memory of all buffers, used or not.
fn memory(pieces: &Pieces) -> usize {
    let runs = pieces.messages.iter().flat_map(|message| &message.runs);
    let buffers = runs.map(|run| &run.bytes).chain(&pieces.spare);
    buffers.map(Vec::capacity).sum()
}

#[test]
fn memory_grows_with_what_has_come() {
    const LARGE: u32 = 8 << 20;
    let mut pieces = Pieces::new();
    for id in 1..1000 {
        for offset in [LARGE / 2, LARGE - 600] {
            pieces.next_packet(1);
            let fragment = Fragment {
                id,
                offset,
                total: LARGE,
                bytes: &[7; 600],
            };
            assert_eq!(
                pieces.add(&fragment, LARGE as usize, Instant::now()),
                Ok(None)
            );
        }
        assert!(memory(&pieces) <= 8 * 600, "{} bytes", memory(&pieces));
    }
}

#[test]
fn a_large_buffer_does_not_serve_small_messages() {
    let mut pieces = Pieces::new();
    for _ in 0..3 {
        pieces.give_back(Vec::with_capacity(1 << 20));
    }
    for id in 1..=3 {
        add(&mut pieces, id, 2000, 0, 1000);
    }
    assert!(memory(&pieces) <= (2 << 20) + 3 * 2000);
    assert_eq!(pieces.spare.len(), SPARE_MAX);
}

#[test]
fn a_packet_begins_no_more_messages_than_an_honest_one() {
    let mut pieces = Pieces::new();
    let begin = |id| Fragment {
        id,
        offset: 0,
        total: 2000,
        bytes: &[0; FRAGMENT_BYTES_MIN],
    };
    for ids in [[1, 2, 3], [4, 5, 6]] {
        pieces.next_packet(1);
        let [first, second, third] = ids.map(|id| pieces.add(&begin(id), MAX, Instant::now()));
        assert_eq!((first, second), (Ok(None), Ok(None)));
        assert!(third.is_err());
    }
    let short = Fragment {
        bytes: &[0; FRAGMENT_BYTES_MIN - 1],
        ..begin(7)
    };
    pieces.next_packet(1);
    assert!(
        pieces.add(&short, MAX, Instant::now()).is_err(),
        "the last one alone may be"
    );
}

#[test]
fn whatever_the_order_bytes_are_copied_seldom_and_runs_stay_few() {
    // Neighbours swapped throughout, then backwards.
    let total = 512 * 512;
    for (id, order) in [(1, true), (2, false)] {
        let mut pieces = Pieces::new();
        let mut came = None;
        for at in 0..512usize {
            let at = if order { at ^ 1 } else { 511 - at };
            let bytes = &message(id, total)[at * 512..][..512];
            let fragment = Fragment {
                id,
                offset: u32::try_from(at * 512).unwrap(),
                total: u32::try_from(total).unwrap(),
                bytes,
            };
            pieces.next_packet(1);
            came = pieces.add(&fragment, total, Instant::now()).unwrap();
            let runs = pieces.messages.first().map_or(0, |one| one.runs.len());
            assert!(runs <= 20, "{runs} runs");
        }
        assert!(came == Some(message(id, total)));
    }
}

proptest! {
    #[test]
    fn whole_messages_come_out_in_whatever_order_their_pieces_come(
        cuts in prop::collection::vec(FRAGMENT_BYTES_MIN..600, 1..10),
        order in prop::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let total: usize = cuts.iter().sum();
        let mut parts = Vec::new();
        for id in [5, 6] {
            let mut start = 0;
            for &cut in &cuts {
                parts.push((id, start, start + cut));
                start += cut;
            }
        }
        let (mut pieces, mut came, mut at) = (Pieces::new(), Vec::new(), 0);
        while !parts.is_empty() {
            let (id, start, end) = parts.remove(order[at % order.len()].index(parts.len()));
            at += 1;
            if total <= MAX / 2 && let Some(whole) = add(&mut pieces, id, total, start, end) {
                prop_assert!(whole == message(id, total));
                came.push(id);
            }
        }
        came.sort_unstable();
        prop_assert!(total > MAX / 2 || came == [5, 6]);
    }
}
