//! One damaged byte anywhere: detected, or cut off where nothing durable stood; never applied.

use std::sync::Arc;

use twostep_engine::journal::JournalError;
use twostep_engine::journal::folder::Folder;
use twostep_engine::journal::memory::MemoryFolder;

use crate::samples::{SEGMENT_BYTES, create, open, read, records, store};

/// A journal that was closed properly, in one segment.
fn closed() -> Arc<MemoryFolder> {
    let folder = MemoryFolder::new();
    let mut appender = create(&folder);
    for group in records().chunks(3) {
        store(&mut appender, group);
    }
    appender.mark();
    appender.commit().unwrap();
    folder
}

/// Where the entries of the only segment end.
fn end(folder: &MemoryFolder) -> usize {
    let mut end = 0;
    folder.damage("segment-0000000001", |bytes| {
        end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    });
    end
}

#[test]
fn every_damaged_byte_of_a_closed_journal_is_detected() {
    let (folder, all) = (closed(), records());
    assert_eq!(read(&folder.copy()).unwrap(), all);
    let end = end(&folder);
    // The mark itself says nothing that others do not know: it has 32 bytes.
    let mark = end.next_multiple_of(8) - 32;
    for at in 0..end {
        let harm = [0x01, 0x80, 0xff][at % 3];
        let damaged = folder.copy();
        damaged.damage("segment-0000000001", |bytes| bytes[at] ^= harm);
        match read(&damaged) {
            Err(JournalError::Damaged { offset, .. }) => {
                assert!(offset <= at as u64, "byte {at}: told at {offset}");
            }
            Ok(found) if at >= mark => {
                assert_eq!(found, all, "byte {at}: all but the mark is there");
            }
            other => panic!("byte {at}, harm {harm:#x}: {other:?}"),
        }
    }
}

#[test]
fn damage_behind_the_end_is_cut_off() {
    let folder = closed();
    let end = end(&folder);
    let behind = (end..usize::try_from(SEGMENT_BYTES).unwrap()).step_by(397);
    for at in behind {
        let damaged = folder.copy();
        damaged.damage("segment-0000000001", |bytes| bytes[at] = 0x55);
        let journal = open(&damaged).unwrap().expect("there is a journal");
        let cut = journal.cut().expect("something was cut");
        assert!((cut.offset..cut.offset + cut.bytes).contains(&(at as u64)));
        assert_eq!(read(&damaged).unwrap(), records());
        assert!(open(&damaged).unwrap().unwrap().cut().is_none(), "cut once");
    }
}

#[test]
fn an_earlier_segment_may_not_be_damaged_even_without_a_mark() {
    let folder = MemoryFolder::new();
    let mut appender = create(&folder);
    let all = records();
    store(&mut appender, &all);
    let next = appender.make_next().unwrap();
    appender.turn_over(next);
    store(&mut appender, &all[..2]);
    let expected: Vec<_> = all.iter().chain(&all[..2]).cloned().collect();
    assert_eq!(read(&folder.copy()).unwrap(), expected);
    let end = end(&folder);
    for at in (0..end).step_by(7) {
        let damaged = folder.copy();
        damaged.damage("segment-0000000001", |bytes| bytes[at] ^= 0x20);
        let found = read(&damaged);
        assert!(
            matches!(found, Err(JournalError::Damaged { .. })),
            "byte {at}: {found:?}"
        );
    }
    folder.remove("segment-0000000001").unwrap();
    // The second one repeats what it needs of the first, but not that votes were cast in it.
    read(&folder).expect("older segments may be removed, from the oldest on");
}

#[test]
fn a_segment_that_was_cut_short_is_detected() {
    let folder = closed();
    for length in (0..usize::try_from(SEGMENT_BYTES).unwrap()).step_by(111) {
        let damaged = folder.copy();
        damaged.damage("segment-0000000001", |bytes| bytes.truncate(length));
        let error = read(&damaged).expect_err("it is shorter than it says");
        assert!(
            matches!(error, JournalError::Damaged { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn a_damaged_header_is_no_harm_where_a_segment_was_made_ahead_and_never_used() {
    let folder = closed();
    let (mut appender, _) = open(&folder).unwrap().unwrap().into_appender();
    drop(appender.make_next().unwrap());
    let next = "segment-0000000002";
    for at in (0..4096).step_by(61) {
        let damaged = folder.copy();
        damaged.damage(next, |bytes| bytes[at] ^= 1);
        assert_eq!(read(&damaged).unwrap(), records(), "byte {at}");
        assert!(!damaged.list().unwrap().contains(&next.to_owned()));
    }
    // Once it is used the header tells damage from what was never there.
    let used = appender.make_next().unwrap();
    appender.turn_over(used);
    appender.commit().unwrap();
    folder.damage(next, |bytes| bytes[9] ^= 1);
    let error = read(&folder).expect_err("it was used");
    assert!(matches!(error, JournalError::Damaged { offset: 0, .. }));
}
