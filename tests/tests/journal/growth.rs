//! Many segments: what they repeat, what may be removed, and how small they stay.

use std::sync::Arc;

use twostep_engine::journal::JournalError;
use twostep_engine::journal::folder::Folder;
use twostep_engine::journal::memory::MemoryFolder;
use twostep_engine::record::OwnedRecord;
use twostep_engine::types::Decree;

use crate::samples::{batch, certificate, create, open, read, records, store, vote};

/// Votes and learned values of many decrees, with a low that follows.
fn long(decrees: u64) -> Vec<OwnedRecord> {
    let mut all = records();
    for decree in 13..13 + decrees {
        let batch = batch(decree, &[7; 400]);
        all.push(vote(6, decree, &batch));
        if decree % 4 == 0 {
            all.push(OwnedRecord::Low(certificate(decree - 4)));
        }
        all.push(OwnedRecord::Learned {
            decree: Decree(decree),
            batch,
        });
    }
    all
}

fn segments(folder: &MemoryFolder) -> Vec<String> {
    folder.list().unwrap()
}

#[test]
fn what_spans_segments_reads_back_in_order_and_bodies_are_written_once() {
    let folder = MemoryFolder::new();
    let all = long(200);
    store(&mut create(&folder), &all);
    assert!(segments(&folder).len() > 3, "{:?}", segments(&folder));
    assert_eq!(read(&folder).unwrap(), all);
    let mut bodies = 0;
    for name in segments(&folder) {
        folder.damage(&name, |content| {
            bodies += content
                .windows(404)
                .filter(|bytes| bytes[..4] == 400_u32.to_le_bytes() && bytes[4..] == [7; 400])
                .count();
        });
    }
    assert_eq!(
        bodies, 200,
        "one for each decree, though two records hold it"
    );
}

#[test]
fn segments_below_what_was_pruned_can_be_removed_whole() {
    let folder = MemoryFolder::new();
    let all = long(200);
    let mut appender = create(&folder);
    store(&mut appender, &all);
    let before = segments(&folder).len();
    assert!(!appender.prune(Decree(12)), "the first segment holds more");
    assert!(appender.prune(Decree(150)));
    appender.commit().unwrap();
    let retired = appender.retire();
    assert_eq!(retired[0], 1);
    for number in &retired {
        folder.remove(&format!("segment-{number:010}")).unwrap();
    }
    assert!(segments(&folder).len() < before);
    store(&mut appender, &long(4)[records().len()..]);
    let found = read(&folder).unwrap();

    let above: Vec<_> = all
        .iter()
        .filter(|record| matches!(record, OwnedRecord::Vote { decree, .. } if decree.0 > 150))
        .collect();
    for record in above {
        assert!(
            found.contains(record),
            "a vote above what was pruned is kept"
        );
    }
    // Of the kinds of which the newest counts, the newest is there.
    let kept = |is: fn(&OwnedRecord) -> bool| found.iter().rfind(|record| is(record)).cloned();
    let newest = |is: fn(&OwnedRecord) -> bool| all.iter().rfind(|record| is(record)).cloned();
    let promise = |record: &OwnedRecord| matches!(record, OwnedRecord::Promise { .. });
    let shown = |record: &OwnedRecord| matches!(record, OwnedRecord::NewRegency(_));
    assert_eq!(kept(promise), newest(promise));
    assert_eq!(kept(shown), newest(shown));
    assert!(
        found
            .iter()
            .any(|record| matches!(record, OwnedRecord::Low(_)))
    );
    assert!(
        open(&folder).unwrap().unwrap().born(),
        "it stays known for ever"
    );
}

#[test]
fn a_segment_in_the_middle_may_not_be_missing() {
    let folder = MemoryFolder::new();
    store(&mut create(&folder), &long(200));
    folder.remove("segment-0000000002").unwrap();
    let error = read(&folder).expect_err("it is missing");
    assert!(matches!(error, JournalError::Missing { .. }), "{error}");
}

#[test]
fn a_segment_made_ahead_is_taken_over_by_the_next_start() {
    let folder = MemoryFolder::new();
    let mut appender = create(&folder);
    store(&mut appender, &records());
    appender.make_next().unwrap();
    drop(appender);
    let journal = open(&folder).unwrap().unwrap();
    assert_eq!(
        journal.records(crate::samples::reading()).count(),
        records().len()
    );
    let (mut appender, spare) = journal.into_appender();
    appender.turn_over(spare.expect("it was made ahead"));
    store(&mut appender, &records()[..1]);
    assert_eq!(read(&folder).unwrap().len(), records().len() + 1);
}

#[test]
fn a_journal_is_made_once_and_says_whether_the_node_was_born_with_it() {
    let folder = MemoryFolder::new();
    assert!(open(&folder).unwrap().is_none(), "there is none");
    create(&folder);
    let journal = open(&folder).unwrap().unwrap();
    assert!(journal.born() && journal.is_untouched());
    let shape = crate::samples::shape();
    let again: Arc<dyn Folder> = Arc::<MemoryFolder>::clone(&folder);
    let error = twostep_engine::journal::Journal::create(again, shape, true).unwrap_err();
    assert!(matches!(error, JournalError::Exists { .. }), "{error}");
    let other = MemoryFolder::new();
    twostep_engine::journal::Journal::create(other.clone(), shape, false).unwrap();
    assert!(!open(&other).unwrap().unwrap().born());
}
