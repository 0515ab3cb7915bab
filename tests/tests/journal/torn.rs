//! A power cut in the middle of a write: what was durable is there, the rest is there or not, and nothing else.

use proptest::prelude::*;
use twostep_engine::journal::memory::MemoryFolder;
use twostep_engine::record::OwnedRecord;

use crate::samples::{batch, create, open, read, records, store, vote};

const FILE: &str = "segment-0000000001";

fn content(folder: &MemoryFolder) -> Vec<u8> {
    let mut content = Vec::new();
    folder.damage(FILE, |bytes| content = bytes.clone());
    content
}

/// Reads back what a cut leaves of the second of two groups; `tear` mixes the bytes before and after the write.
fn cut(
    first: &[OwnedRecord],
    second: &[OwnedRecord],
    tear: impl Fn(&[u8], &[u8]) -> Vec<u8>,
) -> Vec<OwnedRecord> {
    let folder = MemoryFolder::new();
    let mut appender = create(&folder);
    store(&mut appender, first);
    let before = content(&folder);
    store(&mut appender, second);
    let after = content(&folder);
    drop(appender);
    folder.damage(FILE, |bytes| *bytes = tear(&before, &after));
    let found = read(&folder).expect("a torn tail is no damage");
    // The journal goes on behind the cut.
    let (mut appender, _) = open(&folder).unwrap().unwrap().into_appender();
    let more = [vote(9, 11, &batch(9, b"after the cut"))];
    store(&mut appender, &more);
    let expected: Vec<_> = found.iter().chain(&more).cloned().collect();
    assert_eq!(read(&folder).unwrap(), expected);
    found
}

#[test]
fn a_write_that_is_torn_at_any_length_is_cut() {
    let all = records();
    let (first, second) = all.split_at(9);
    let mut kept = std::collections::BTreeSet::new();
    let written = {
        let folder = MemoryFolder::new();
        let mut appender = create(&folder);
        store(&mut appender, first);
        let before = content(&folder);
        store(&mut appender, second);
        let after = content(&folder);
        let differs = |(one, other): (&u8, &u8)| one != other;
        let from = before.iter().zip(&after).position(differs).unwrap();
        from..before.iter().zip(&after).rposition(differs).unwrap() + 1
    };
    for length in written {
        let found = cut(first, second, |before, after| {
            let mut torn = after[..length].to_vec();
            torn.extend_from_slice(&before[length..]);
            torn
        });
        assert!(found.len() >= first.len(), "what was durable is there");
        assert_eq!(found, all[..found.len()], "and nothing else");
        kept.insert(found.len());
    }
    assert!(
        kept.len() > second.len() / 2,
        "whole entries of it stay: {kept:?}"
    );
}

#[test]
fn what_two_cuts_left_does_not_add_up() {
    let all = records();
    let folder = MemoryFolder::new();
    let mut appender = create(&folder);
    store(&mut appender, &all[..2]);
    let before = content(&folder);
    store(&mut appender, &all[2..7]);
    // The first of the second group is lost, the others were written.
    let after = content(&folder);
    let first = before.iter().rposition(|byte| *byte != 0).unwrap() / 8 * 8 + 8;
    folder.damage(FILE, |bytes| bytes[first..first + 8].fill(0));
    assert_ne!(content(&folder), after);
    let (mut appender, _) = open(&folder).unwrap().unwrap().into_appender();
    store(&mut appender, &all[2..3]);
    assert_eq!(
        read(&folder).unwrap(),
        all[..3],
        "the rest does not come back"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Disks write sectors in any order, and part of them.
    #[test]
    fn sectors_in_any_order(
        split in 1_usize..13,
        end in 1_usize..14,
        sector in prop::sample::select(vec![8_usize, 64, 512]),
        written in prop::collection::vec(any::<bool>(), 2048),
    ) {
        let all = records();
        let end = (split + end).min(all.len());
        let found = cut(&all[..split], &all[split..end], |before, after| {
            let mut torn = before.to_vec();
            for (place, keep) in (0..after.len()).step_by(sector).zip(written.iter().cycle()) {
                if *keep {
                    let to = (place + sector).min(after.len());
                    torn[place..to].copy_from_slice(&after[place..to]);
                }
            }
            torn
        });
        prop_assert!(found.len() >= split);
        prop_assert_eq!(&found[..], &all[..found.len()]);
    }
}
