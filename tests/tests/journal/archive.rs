//! What was learned is read back while the journal is written, after a restart too, until its segment goes.

use std::sync::Arc;

use twostep_engine::batch::Batch;
use twostep_engine::journal::Journal;
use twostep_engine::journal::archive::Archive;
use twostep_engine::journal::folder::Folder;
use twostep_engine::journal::memory::MemoryFolder;
use twostep_engine::machine::{ArchiveNews, ArchiveTask};
use twostep_engine::record::OwnedRecord;
use twostep_engine::types::{Decree, NodeId, Value};
use twostep_net::pool::Pool;

use crate::samples::{batch, open, shape, store, vote};

const ASKER: NodeId = NodeId(1);

/// Votes for decrees, each learned after the next one's vote, so that most bodies stand in votes.
fn learned(decrees: std::ops::Range<u64>) -> Vec<(u64, Batch)> {
    let batches = decrees.map(|decree| (decree, batch(decree, &[7; 400])));
    batches.collect()
}

fn records(batches: &[(u64, Batch)]) -> Vec<OwnedRecord> {
    let each = batches.iter().flat_map(|(decree, batch)| {
        let learned = OwnedRecord::Learned {
            decree: Decree(*decree),
            batch: batch.clone(),
        };
        // Of some decrees the vote comes late, or never.
        let vote = (decree % 3 > 0).then(|| vote(6, *decree, batch));
        vote.into_iter().chain([learned])
    });
    each.collect()
}

fn values(archive: &mut Archive, first: u64, count: u64) -> Vec<u8> {
    let task = ArchiveTask::Values {
        asker: ASKER,
        first: Decree(first),
        count,
    };
    match archive.answer(task) {
        Some(ArchiveNews::Values {
            asker: ASKER,
            first: Decree(told),
            values,
        }) => {
            assert_eq!(told, first);
            values
        }
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn body(archive: &mut Archive, decree: u64, value: Value) -> Option<Vec<u8>> {
    let task = ArchiveTask::Body {
        asker: ASKER,
        decree: Decree(decree),
        value,
    };
    match archive.answer(task) {
        Some(ArchiveNews::Body { body, .. }) => Some(body.to_vec()),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn of(batches: &[(u64, Batch)]) -> Vec<u8> {
    let values = batches.iter().flat_map(|(_, batch)| batch.value().0.0);
    values.collect()
}

fn holds(archive: &mut Archive, batches: &[(u64, Batch)]) {
    for (decree, batch) in batches {
        let found = body(archive, *decree, batch.value());
        assert_eq!(found.as_deref(), Some(&**batch.body()), "decree {decree}");
    }
}

#[test]
fn what_was_learned_is_read_back_until_it_is_pruned_and_after_a_restart() {
    let folder = MemoryFolder::new();
    let files: Arc<dyn Folder> = Arc::<MemoryFolder>::clone(&folder);
    let journal = Journal::create(files, shape(), true).unwrap();
    let mut archive = journal.archive(Pool::default());
    let (mut appender, _) = journal.into_appender();
    let all = learned(1..200);
    store(&mut appender, &records(&all));
    assert!(folder.list().unwrap().len() > 3);

    holds(&mut archive, &all);
    assert_eq!(values(&mut archive, 1, 5), of(&all[..5]));
    assert_eq!(values(&mut archive, 190, 50), of(&all[189..]), "to the end");
    assert!(values(&mut archive, 200, 5).is_empty(), "not learned yet");
    let another = all[0].1.value();
    assert_eq!(body(&mut archive, 2, another), None, "another value");

    assert!(appender.prune(Decree(150)));
    appender.commit().unwrap();
    for number in appender.retire() {
        folder.remove(&format!("segment-{number:010}")).unwrap();
    }
    assert!(values(&mut archive, 150, 5).is_empty(), "pruned");
    assert_eq!(values(&mut archive, 151, 5), of(&all[150..155]));
    holds(&mut archive, &all[150..]);

    drop(appender);
    let journal = open(&folder).unwrap().unwrap();
    let mut archive = journal.archive(Pool::default());
    assert!(values(&mut archive, 150, 5).is_empty(), "pruned");
    assert_eq!(values(&mut archive, 151, 100), of(&all[150..]));
    holds(&mut archive, &all[150..]);
}

#[test]
fn what_was_learned_again_from_below_supersedes_what_was() {
    let folder = MemoryFolder::new();
    let files: Arc<dyn Folder> = Arc::<MemoryFolder>::clone(&folder);
    let journal = Journal::create(files, shape(), true).unwrap();
    let mut archive = journal.archive(Pool::default());
    let (mut appender, _) = journal.into_appender();
    let all = learned(1..20);
    store(&mut appender, &records(&all));
    store(&mut appender, &records(&all[9..12]));
    assert_eq!(values(&mut archive, 1, 50), of(&all[..12]));
    holds(&mut archive, &all[..12]);
    // And above a gap: a snapshot was taken up.
    let above = learned(40..45);
    store(&mut appender, &records(&above));
    assert_eq!(values(&mut archive, 10, 50), of(&all[9..12]));
    assert!(values(&mut archive, 13, 50).is_empty());
    assert_eq!(values(&mut archive, 40, 50), of(&above));
}

#[test]
fn nothing_damaged_is_given_and_nothing_that_is_not_written_yet() {
    let folder = MemoryFolder::new();
    let files: Arc<dyn Folder> = Arc::<MemoryFolder>::clone(&folder);
    let journal = Journal::create(files, shape(), true).unwrap();
    let mut archive = journal.archive(Pool::default());
    let (mut appender, _) = journal.into_appender();
    let all = learned(1..4);
    for record in records(&all) {
        appender.append(&record.borrowed()).unwrap();
    }
    assert_eq!(values(&mut archive, 1, 3), of(&all), "values need no read");
    assert_eq!(body(&mut archive, 1, all[0].1.value()), None, "not written");
    appender.commit().unwrap();
    holds(&mut archive, &all);
    folder.damage("segment-0000000001", |content| {
        let places = 0..content.len() - 400;
        let at = places.rev().find(|at| content[*at..at + 400] == [7; 400]);
        content[at.expect("a body") + 200] ^= 1;
    });
    holds(&mut archive, &all[..2]);
    assert_eq!(body(&mut archive, 3, all[2].1.value()), None, "damaged");
}
