use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::tests::{CONTEXT, Chunks, chunks_of};
use super::super::{KeyValue, KeyValueReply, Operation};
use super::*;
use crate::journal::faults::{DiskFaultHandle, DiskFaults, FaultyFolder};
use crate::journal::memory::MemoryFolder;

/// A store that writes after every few changes, with hardly any cache.
fn small(folder: &dyn Folder, waiting_bytes_max: usize) -> DiskKeyValue {
    DiskKeyValue {
        waiting_bytes_max,
        ..DiskKeyValue::create(folder, 0).unwrap()
    }
}

fn run(store: &mut impl StateMachine, operation: &Operation<'_>) -> Vec<u8> {
    let (mut bytes, mut reply) = (Vec::new(), Vec::new());
    operation.encode(&mut bytes);
    store.execute(&CONTEXT, &bytes, &mut reply);
    reply
}

fn ask(store: &impl StateMachine, key: &[u8]) -> Vec<u8> {
    let (mut bytes, mut reply) = (Vec::new(), Vec::new());
    Operation::Get { key }.encode(&mut bytes);
    store.query(&bytes, &mut reply);
    reply
}

/// Puts so many keys.
fn fill(store: &mut impl StateMachine, keys: u32) {
    for key in 0..keys {
        let value = vec![key.to_le_bytes()[0]; 100 + (key % 900) as usize];
        let key = key.to_be_bytes();
        run(
            store,
            &Operation::Put {
                key: &key,
                value: &value,
            },
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Get(u8),
    Delete(u8),
    Increment(u8, i64),
    Swap(u8, Option<usize>, usize),
    Garbage(Vec<u8>),
    /// An image is taken, to be read at the end.
    Image,
    /// The store takes up the image that the other form makes now.
    Exchange,
}

fn step() -> impl Strategy<Value = Step> {
    let (key, len) = (0u8..40, 0usize..300);
    prop_oneof![
        6 => (key.clone(), len.clone()).prop_map(|(key, len)| Step::Put(key, len)),
        2 => key.clone().prop_map(Step::Get),
        4 => key.clone().prop_map(Step::Delete),
        4 => (key.clone(), prop_oneof![-9i64..10, Just(i64::MAX)]).prop_map(|(key, by)| Step::Increment(key, by)),
        3 => (key, prop::option::of(len.clone()), len).prop_map(|(key, old, new)| Step::Swap(key, old, new)),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Step::Garbage),
        1 => Just(Step::Image),
        1 => Just(Step::Exchange),
    ]
}

/// Values of few lengths, so that swaps succeed now and then.
fn value(len: usize) -> Vec<u8> {
    vec![b'1'; len / 100]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn both_forms_answer_alike_and_have_the_same_images(
        steps in prop::collection::vec(step(), 0..300),
        waiting_bytes_max in prop_oneof![Just(0usize), 0usize..4000, Just(WAITING_BYTES)],
    ) {
        let folder = MemoryFolder::new();
        let (mut memory, mut disk) = (KeyValue::new(), small(&*folder, waiting_bytes_max));
        let mut images = Vec::new();
        for step in steps {
            let mut bytes = Vec::new();
            match &step {
                Step::Put(key, len) => Operation::Put { key: &[*key], value: &value(*len) }.encode(&mut bytes),
                Step::Get(key) => Operation::Get { key: &[*key] }.encode(&mut bytes),
                Step::Delete(key) => Operation::Delete { key: &[*key] }.encode(&mut bytes),
                Step::Increment(key, by) => {
                    Operation::Increment { key: &[*key], by: *by, padding: b"." }.encode(&mut bytes);
                }
                Step::Swap(key, old, new) => {
                    let old = old.map(value);
                    let swap = Operation::CompareAndSwap { key: &[*key], expected: old.as_deref(), value: &value(*new) };
                    swap.encode(&mut bytes);
                }
                Step::Garbage(garbage) => bytes.clone_from(garbage),
                Step::Image => images.push((memory.snapshot(), disk.snapshot())),
                Step::Exchange => {
                    let (of_memory, of_disk) = (chunks_of(memory.snapshot()), chunks_of(disk.snapshot()));
                    memory.restore(&mut Chunks(of_disk)).unwrap();
                    disk.restore(&mut Chunks(of_memory)).unwrap();
                }
            }
            if !matches!(step, Step::Image | Step::Exchange) {
                let (mut one, mut other) = (Vec::new(), Vec::new());
                memory.execute(&CONTEXT, &bytes, &mut one);
                disk.execute(&CONTEXT, &bytes, &mut other);
                prop_assert_eq!(one, other, "{:?}", step);
            }
        }
        prop_assert_eq!(memory.digest(), disk.digest());
        images.push((memory.snapshot(), disk.snapshot()));
        for (of_memory, of_disk) in images {
            prop_assert_eq!(chunks_of(of_memory), chunks_of(of_disk));
        }
        for key in 0..40 {
            prop_assert_eq!(ask(&memory, &[key]), ask(&disk, &[key]));
        }
        prop_assert_eq!(disk.trouble(), None);
    }
}

#[test]
fn images_of_many_chunks_are_the_same_while_execution_goes_on() {
    let folder = MemoryFolder::new();
    let (mut memory, mut disk) = (KeyValue::new(), DiskKeyValue::create(&*folder, 0).unwrap());
    fill(&mut memory, 8000);
    fill(&mut disk, 8000);
    let big = Operation::Put {
        key: b"\0\0\x10",
        value: &vec![7; 3 << 20],
    };
    assert_eq!(run(&mut memory, &big), run(&mut disk, &big));
    let (digest, image) = (memory.digest(), disk.snapshot());
    assert_eq!(disk.digest(), digest);
    let chunks = chunks_of(memory.snapshot());
    assert!(chunks.len() > 6, "the image is cut");
    for key in 0..8000_u32 {
        run(
            &mut disk,
            &Operation::Delete {
                key: &key.to_be_bytes(),
            },
        );
    }
    assert_ne!(disk.digest(), digest);
    assert_eq!(chunks_of(image), chunks);

    // Whatever stood there before is gone.
    disk.restore(&mut Chunks(chunks.clone())).unwrap();
    assert_eq!(disk.digest(), digest);
    assert_eq!(chunks_of(disk.snapshot()), chunks);
    let mut broken = chunks;
    broken.pop_back();
    disk.restore(&mut Chunks(broken)).unwrap_err();
    assert_eq!(disk.trouble(), None, "the disk did what it should");
}

#[test]
fn an_image_whose_keys_do_not_ascend_is_refused_by_both_forms() {
    let folder = MemoryFolder::new();
    let (mut memory, mut disk) = (KeyValue::new(), small(&*folder, 0));
    for keys in [[b'b', b'a'], [b'a', b'a']] {
        let mut image = b"kv 1\x02\0\0\0\0\0\0\0".to_vec();
        for key in keys {
            image.extend([1, 0, key, 0, 0, 0, 0]);
        }
        let chunks = || Chunks(VecDeque::from([image.clone()]));
        let why = memory.restore(&mut chunks()).unwrap_err();
        assert!(why.to_string().contains("keys do not ascend"), "{why}");
        let why = disk.restore(&mut chunks()).unwrap_err();
        assert!(why.to_string().contains("keys do not ascend"), "{why}");
    }
    assert_eq!(disk.trouble(), None);
}

#[test]
fn what_is_written_over_and_over_does_not_let_the_file_grow() {
    let folder = MemoryFolder::new();
    let mut store = small(&*folder, 50_000);
    let size = || folder.open(DATABASE_FILE).unwrap().size().unwrap();
    fill(&mut store, 2000);
    let mut image = store.snapshot();
    (0..3).for_each(|_| fill(&mut store, 2000));
    assert!(image.next(&mut Vec::new()).unwrap());
    drop(image);
    let before = size();
    (0..30).for_each(|_| fill(&mut store, 2000));
    assert!(size() <= before, "{before} bytes became {}", size());
}

#[test]
fn the_file_of_an_earlier_run_is_of_no_interest() {
    let folder = MemoryFolder::new();
    let mut store = small(&*folder, 0);
    fill(&mut store, 100);
    drop(store);
    let file = folder.open(DATABASE_FILE).unwrap();
    file.write_at(&[0x55; 5000], 100).unwrap();
    let store = small(&*folder, 0);
    assert_eq!(store.digest(), KeyValue::new().digest());
    assert_eq!(folder.list().unwrap(), [DATABASE_FILE]);
}

#[test]
fn a_full_disk_stops_the_store_and_is_told() {
    let (below, handle) = (MemoryFolder::new(), DiskFaultHandle::new());
    let folder = FaultyFolder::new(below, handle.scratch());
    let mut store = small(&*folder, 10_000);
    fill(&mut store, 100);
    assert_eq!(store.trouble(), None);
    handle.set(DiskFaults {
        full: true,
        ..DiskFaults::default()
    });
    fill(&mut store, 100);
    let trouble = store.trouble().expect("nothing can be written");
    assert_eq!(trouble.kind, TroubleKind::Full);
    let words = trouble.to_string();
    assert!(
        words.contains("key-value.redb: cannot execute an operation on it: "),
        "{words}"
    );
    assert!(
        words.contains("make room and start the node again"),
        "{words}"
    );

    // It stays so, and answers nothing, though there is room again.
    handle.set(DiskFaults::default());
    assert_eq!(run(&mut store, &Operation::Get { key: b"a" }), b"");
    assert_eq!(ask(&store, b"a"), b"");
    assert_eq!(store.trouble(), Some(trouble));
    store
        .snapshot()
        .next(&mut Vec::new())
        .expect_err("no image of it");
    let empty = chunks_of(KeyValue::new().snapshot());
    store
        .restore(&mut Chunks(empty))
        .expect_err("nor can it take one up");

    handle.set(DiskFaults {
        read_only: true,
        ..DiskFaults::default()
    });
    let Err(trouble) = DiskKeyValue::create(&*folder, 0) else {
        panic!("nothing can be made");
    };
    assert_eq!(trouble.kind, TroubleKind::Failing);
}

/// Changes one byte in every block of the file.
fn damage(folder: &MemoryFolder) {
    let file = folder.open(DATABASE_FILE).unwrap();
    for at in (0..file.size().unwrap()).step_by(4096) {
        let mut byte = [0];
        file.read_at(&mut byte, at + 77).unwrap();
        file.write_at(&[byte[0] ^ 4], at + 77).unwrap();
    }
}

#[test]
fn a_byte_that_the_disk_changed_is_no_answer_and_no_panic() {
    type Look = fn(&mut DiskKeyValue);
    let looks: [Look; 4] = [
        |store| assert_eq!(run(store, &Operation::Get { key: &[0, 0, 0, 9] }), b""),
        |store| assert_eq!(ask(store, &[0, 0, 0, 9]), b""),
        |store| assert_eq!(store.digest(), Digest::ZERO),
        |store| fill(store, 5000),
    ];
    for look in looks {
        let folder = MemoryFolder::new();
        let mut store = small(&*folder, 10_000);
        fill(&mut store, 1000);
        damage(&folder);
        look(&mut store);
        let trouble = store.trouble().expect("it was noticed");
        assert_eq!(trouble.kind, TroubleKind::Damaged, "{trouble}");
        assert!(
            trouble.to_string().contains("not those that were written"),
            "{trouble}"
        );
    }
}

#[test]
fn an_image_tells_the_store_of_the_damage_that_it_meets() {
    let folder = MemoryFolder::new();
    let mut store = small(&*folder, 10_000);
    fill(&mut store, 5000);
    let mut image = store.snapshot();
    let (mut chunk, mut chunks) = (Vec::new(), VecDeque::new());
    assert!(image.next(&mut chunk).unwrap());
    assert_eq!(store.trouble(), None);
    damage(&folder);
    let failed = loop {
        chunk.clear();
        match image.next(&mut chunk) {
            Ok(more) => assert!(more, "the image ends"),
            Err(why) => break why,
        }
        chunks.push_back(chunk.clone());
    };
    let trouble = store.trouble().expect("it was noticed");
    assert_eq!(failed.to_string(), trouble.to_string());
    assert_eq!(
        run(&mut store, &Operation::Get { key: b"a" }),
        b"",
        "{:?}",
        KeyValueReply::Absent
    );
}
