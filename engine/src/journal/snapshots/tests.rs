//! Snapshots in files: what a test of a host needs as well, and what damage does to them.

use twostep_crypto::{Identity, Signature};

use super::super::memory::MemoryFolder;
use super::*;
use crate::batch::Batch;
use crate::configuration::{Admission, Configuration, Limits, Member, Roles};
use crate::executor::Executor;
use crate::key_value::{KeyValue, Operation};
use crate::machine::{SnapshotNews, SnapshotTask};
use crate::message::{Snapshot, SnapshotCertificate, SnapshotVoice};
use crate::quorum::FaultModel;
use crate::snapshot::{Keeper, KeeperOutcome, chunk_bytes};
use crate::state_machine::{Context, StateMachine};
use crate::types::{ClientId, Digest, NodeId, Seq, SessionId};

const CHUNK: usize = 8;

fn store(folder: &Arc<MemoryFolder>) -> FolderStore {
    FolderStore::new(Arc::clone(folder) as Arc<dyn Folder>, CHUNK)
}

fn put(store: &mut FolderStore, decree: u64, pieces: &[(u32, &[u8])]) {
    for (place, bytes) in pieces {
        let piece = Body::from_vec(bytes.to_vec());
        store
            .put(Decree(decree), *place, piece)
            .expect("a folder in memory");
    }
}

#[test]
fn sealed_snapshots_and_those_on_their_way_are_found_again() {
    let folder = MemoryFolder::new();
    let mut first = store(&folder);
    put(
        &mut first,
        16,
        &[(2, b"tail"), (1, b"12345678"), (0, b"manifest")],
    );
    first.seal(Decree(16), b"sixteen").expect("sealed");
    first.begin(Decree(32), b"thirty-two").expect("begun");
    put(&mut first, 32, &[(0, b"m"), (2, b"abcdefgh")]);
    put(&mut first, 24, &[(1, b"nobody")]);

    let mut second = store(&folder);
    let stock: Vec<(u64, Vec<u8>, bool)> = second
        .stock()
        .into_iter()
        .map(|stock| (stock.decree.0, stock.certificate, stock.sealed))
        .collect();
    let (sixteen, more) = (b"sixteen".to_vec(), b"thirty-two".to_vec());
    assert_eq!(stock, [(16, sixteen, true), (32, more, false)]);
    assert_eq!(&*second.get(Decree(16), 0).expect("kept"), b"manifest");
    assert_eq!(&*second.get(Decree(16), 2).expect("kept"), b"tail");
    assert_eq!(&*second.get(Decree(32), 2).expect("kept"), b"abcdefgh");
    assert_eq!(&*second.get(Decree(32), 1).expect("a hole"), &[0; CHUNK]);
    assert!(second.get(Decree(24), 1).is_err(), "nobody certified it");
    let mut source = second.source(Decree(16)).expect("sealed");
    let (mut chunk, mut read) = (Vec::new(), Vec::new());
    while source.next(&mut chunk).expect("whole") {
        read.push(chunk.clone());
    }
    assert_eq!(read, [b"12345678".to_vec(), b"tail".to_vec()]);
    second.remove(Decree(16));
    assert!(second.source(Decree(16)).is_err());
}

/// Mode C, whose certificates need no keys: f = 1, S = 4.
pub(crate) fn configuration() -> Configuration {
    let member = |seed: u8| Member {
        roles: Roles::ALL,
        public: Identity::from_seed([seed; 32]).public(),
    };
    let limits = Limits {
        window: 8,
        checkpoint_every: 4,
        snapshot_every: 4,
        body_bytes_max: 4096,
        request_bytes_max: 512,
        ..Limits::default()
    };
    let members = (1..=3).map(member).collect();
    let (model, admission) = (FaultModel::Crash, Admission::Link);
    Configuration::new(model, 1, members, limits, admission, [0; 16]).expect("consistent")
}

pub(crate) fn keeper(folder: &Arc<MemoryFolder>, configuration: &Configuration) -> Keeper {
    let chunk_bytes = chunk_bytes(configuration.limits());
    let folder = Arc::clone(folder) as Arc<dyn Folder>;
    Keeper::new(
        configuration,
        Box::new(FolderStore::new(folder, chunk_bytes)),
    )
}

/// A folder with one certified snapshot of a state of several chunks, and the digest of that state.
pub(crate) fn with_a_snapshot(configuration: &Configuration) -> (Arc<MemoryFolder>, Digest) {
    let mut store = KeyValue::new();
    for key in 0..200_u8 {
        let (mut bytes, key) = (Vec::new(), [key]);
        let put = Operation::Put {
            key: &key,
            value: &[key[0]; 100],
        };
        put.encode(&mut bytes);
        let context = Context {
            decree: Decree(1),
            client: ClientId([0; 16]),
            session: SessionId::NONE,
            seq: Seq(1),
        };
        store.execute(&context, &bytes, &mut Vec::new());
    }
    let mut executor = Executor::new(configuration, store);
    let noop = Batch::noop(&configuration.scope());
    for decree in 1..=4 {
        executor.execute(Decree(decree), &noop);
    }
    let folder = MemoryFolder::new();
    let mut keeper = keeper(&folder, configuration);
    keeper.image(executor.take_image().expect("a multiple of S"));
    while keeper.has_work() {
        keeper.work();
    }
    let Some(KeeperOutcome::News(SnapshotNews::Imaged { decree, root })) = keeper.outcome() else {
        panic!("an image is made of it");
    };
    let snapshot = Snapshot {
        decree,
        chain: Digest([1; 32]),
        results: executor.results(),
        root,
    };
    let voice = |learner| SnapshotVoice {
        learner: NodeId(learner),
        signature: Signature([0; 64]),
    };
    let certificate = SnapshotCertificate {
        snapshot,
        voices: vec![voice(0), voice(2)],
    };
    keeper.perform(SnapshotTask::Certified(Box::new(certificate)));
    (folder, executor.state_digest())
}

/// The digest of the state that a new keeper over the folder gives, if it gives one.
fn found(folder: &Arc<MemoryFolder>, configuration: &Configuration) -> Option<Digest> {
    let (_, mut source) = keeper(folder, configuration).newest()?;
    let mut executor = Executor::new(configuration, KeyValue::new());
    let snapshot = Snapshot {
        decree: Decree(4),
        chain: Digest::ZERO,
        results: Digest::ZERO,
        root: Digest::ZERO,
    };
    let installed = executor.install(&snapshot, &mut *source);
    installed.expect("what is sound can be taken up");
    Some(executor.state_digest())
}

#[test]
fn a_damaged_byte_anywhere_is_found_and_the_snapshot_is_not_used() {
    let configuration = configuration();
    let (folder, state) = with_a_snapshot(&configuration);
    assert_eq!(found(&folder, &configuration), Some(state));
    let names = folder.list().expect("a folder in memory");
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let size = folder.open(&name).and_then(|file| file.size());
        for at in 0..usize::try_from(size.expect("a file in memory")).expect("small") {
            let copy = folder.copy();
            copy.damage(&name, |bytes| bytes[at] ^= 1);
            // A name or a number in the certificate of mode C may be another valid one; the state is not.
            let found = found(&copy, &configuration);
            assert!(
                found.is_none() || (name.ends_with("certificate") && found == Some(state)),
                "byte {at} of {name}"
            );
        }
    }
}

#[test]
fn a_snapshot_that_is_cut_short_anywhere_is_not_used() {
    let configuration = configuration();
    let (folder, _) = with_a_snapshot(&configuration);
    for name in folder.list().expect("a folder in memory") {
        let size = folder.open(&name).and_then(|file| file.size());
        for len in (0..usize::try_from(size.expect("a file")).expect("small")).step_by(7) {
            let copy = folder.copy();
            copy.damage(&name, |bytes| bytes.truncate(len));
            assert_eq!(found(&copy, &configuration), None, "{name} cut at {len}");
        }
    }
}

/// What a keeper says it holds of what it receives.
fn held(keeper: &mut Keeper) -> Option<Vec<bool>> {
    let said = std::iter::from_fn(|| keeper.outcome());
    let held = said.filter_map(|outcome| match outcome {
        KeeperOutcome::News(SnapshotNews::Receiving { held, .. }) => Some(held),
        _ => None,
    });
    held.last().expect("it says what it holds")
}

#[test]
fn a_transfer_goes_on_after_a_restart_with_what_is_sound_on_the_disk() {
    let configuration = configuration();
    let (folder, state) = with_a_snapshot(&configuration);
    let mut giver = keeper(&folder, &configuration);
    let Some(KeeperOutcome::News(SnapshotNews::Held(certificate))) = giver.outcome() else {
        panic!("it is certified");
    };
    let decree = certificate.snapshot.decree;
    let mut give = |receiver: &mut Keeper, place| {
        let asker = NodeId(1);
        giver.perform(SnapshotTask::Serve {
            asker,
            decree,
            place,
        });
        let Some(KeeperOutcome::News(SnapshotNews::Chunk { bytes, .. })) = giver.outcome() else {
            panic!("piece {place} is held");
        };
        receiver.perform(SnapshotTask::Keep {
            from: NodeId(0),
            decree,
            place,
            bytes,
        });
    };
    let receive = || SnapshotTask::Receive(certificate.clone());
    let mine = MemoryFolder::new();
    let mut receiver = keeper(&mine, &configuration);
    receiver.perform(receive());
    assert_eq!(held(&mut receiver), None, "not even the manifest");
    for place in [0, 1, 2, 4] {
        give(&mut receiver, place);
    }
    drop(receiver);

    // What was synced or not: of one piece the disk kept half.
    let chunk_bytes = chunk_bytes(configuration.limits());
    mine.damage(&Kind::Part.name(decree), |bytes| {
        bytes[chunk_bytes + chunk_bytes / 2..2 * chunk_bytes].fill(0);
    });
    let mut receiver = keeper(&mine, &configuration);
    receiver.perform(receive());
    let found = held(&mut receiver).expect("the manifest");
    assert!(found.len() > 4, "{} chunks", found.len());
    let expected = (0..found.len()).map(|chunk| chunk == 0 || chunk == 3);
    assert_eq!(found, expected.collect::<Vec<bool>>());

    for (chunk, _) in found.iter().enumerate().filter(|(_, held)| !**held) {
        give(&mut receiver, u32::try_from(chunk + 1).expect("a few"));
    }
    receiver.perform(SnapshotTask::Install { decree });
    let mut outcomes = std::iter::from_fn(|| receiver.outcome());
    let install = outcomes.find_map(|outcome| match outcome {
        KeeperOutcome::Install(certificate, source) => Some((certificate, source)),
        KeeperOutcome::News(_) => None,
    });
    let (certificate, mut source) = install.expect("all of it is held");
    let mut executor = Executor::new(&configuration, KeyValue::new());
    let installed = executor.install(&certificate.snapshot, &mut *source);
    installed.expect("what is sound can be taken up");
    assert_eq!(executor.state_digest(), state);
}
