//! Snapshots in a folder: the store of a node that keeps things on disk.
//!
//! | file | what |
//! |---|---|
//! | `snapshot-D.part` | chunks, each at its place, of one that is made or received |
//! | `snapshot-D.chunks` | the same, whole and sealed |
//! | `snapshot-D.manifest` | the digests of the chunks |
//! | `snapshot-D.certificate` | under which it is received, or sealed |
//!
//! Sealing syncs the files, then renames, then syncs the folder: after a power cut a snapshot is there or not. No file is believed:
//! chunks are checked against the manifest, that against the certificate's root, and the certificate by its
//! signatures ([`crate::snapshot::Keeper`]), so a damaged byte anywhere makes a snapshot useless and never wrong.
//!
//! *Cost.* One write for each chunk, two files more and four syncs for each snapshot, all on the keeper's thread.

use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;

use twostep_net::pool::Body;

use super::folder::{File, Folder};
use crate::snapshot::{Stock, Store};
use crate::state_machine::ChunkSource;
use crate::types::Decree;

/// The largest manifest or certificate that is read back. Bytes.
const HEAD_BYTES_MAX: u64 = 1 << 26;

/// Snapshots in a folder, which may hold other files too.
#[derive(Debug)]
pub struct FolderStore {
    folder: Arc<dyn Folder>,
    chunk_bytes: usize,
    /// The file that chunks were written to or read from last.
    open: Option<(Decree, Box<dyn File>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Part,
    Chunks,
    Manifest,
    Certificate,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Part, Kind::Chunks, Kind::Manifest, Kind::Certificate];

    fn ending(self) -> &'static str {
        match self {
            Kind::Part => "part",
            Kind::Chunks => "chunks",
            Kind::Manifest => "manifest",
            Kind::Certificate => "certificate",
        }
    }

    fn name(self, decree: Decree) -> String {
        // Of one length, so that names stand in the order of the decrees.
        format!("snapshot-{:020}.{}", decree.0, self.ending())
    }

    /// Which snapshot a file belongs to, and what it is of it.
    fn of(name: &str) -> Option<(Decree, Kind)> {
        let (decree, ending) = name.strip_prefix("snapshot-")?.split_once('.')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.ending() == ending)?;
        Some((Decree(decree.parse().ok()?), kind))
    }
}

impl FolderStore {
    /// A store in `folder` for a cluster whose chunks have this length.
    #[must_use]
    pub fn new(folder: Arc<dyn Folder>, chunk_bytes: usize) -> FolderStore {
        FolderStore {
            folder,
            chunk_bytes,
            open: None,
        }
    }

    /// The file with the chunks, sealed or not; made if there is none.
    fn chunks(&mut self, decree: Decree) -> io::Result<&dyn File> {
        let known = self.open.take().filter(|(open, _)| *open == decree);
        let file = match known {
            Some((_, file)) => file,
            None => match self.open_chunks(decree) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.folder.create(&Kind::Part.name(decree))?
                }
                opened => opened?,
            },
        };
        let (_, file) = self.open.insert((decree, file));
        Ok(&**file)
    }

    fn open_chunks(&self, decree: Decree) -> io::Result<Box<dyn File>> {
        match self.folder.open(&Kind::Chunks.name(decree)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder.open(&Kind::Part.name(decree))
            }
            opened => opened,
        }
    }

    /// Writes a small file anew, and makes its bytes durable.
    fn write(&self, decree: Decree, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let name = kind.name(decree);
        match self.folder.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.folder.create(&name)?;
        file.write_at(bytes, 0)?;
        file.sync()
    }

    fn read(&self, decree: Decree, kind: Kind) -> io::Result<Vec<u8>> {
        let file = self.folder.open(&kind.name(decree))?;
        let size = file.size()?;
        if size > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Store for FolderStore {
    fn put(&mut self, decree: Decree, place: u32, piece: Body) -> io::Result<()> {
        let Some(chunk) = place.checked_sub(1) else {
            return self.write(decree, Kind::Manifest, &piece);
        };
        let offset = u64::from(chunk) * self.chunk_bytes as u64;
        self.chunks(decree)?.write_at(&piece, offset)
    }

    fn get(&mut self, decree: Decree, place: u32) -> io::Result<Body> {
        let Some(chunk) = place.checked_sub(1) else {
            return Ok(Body::from_vec(self.read(decree, Kind::Manifest)?));
        };
        let chunk_bytes = self.chunk_bytes;
        let file = self.chunks(decree)?;
        let bytes = read_chunk(file, u64::from(chunk), chunk_bytes)?;
        Ok(Body::from_vec(bytes))
    }

    fn begin(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.write(decree, Kind::Certificate, certificate)?;
        self.folder.sync()
    }

    fn seal(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.chunks(decree)?.sync()?;
        self.write(decree, Kind::Certificate, certificate)?;
        let (part, chunks) = (Kind::Part.name(decree), Kind::Chunks.name(decree));
        // One that is sealed again has its name already.
        match self.folder.rename(&part, &chunks) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.folder.sync()
    }

    fn remove(&mut self, decree: Decree) {
        self.open.take_if(|(open, _)| *open == decree);
        for kind in Kind::ALL {
            // What stays is of no decree that counts, or is overwritten.
            let _ = self.folder.remove(&kind.name(decree));
        }
    }

    fn source(&mut self, decree: Decree) -> io::Result<Box<dyn ChunkSource + Send>> {
        Ok(Box::new(FileChunks {
            file: self.folder.open(&Kind::Chunks.name(decree))?,
            chunk_bytes: self.chunk_bytes,
            next: 0,
        }))
    }

    fn stock(&mut self) -> Vec<Stock> {
        let names = self.folder.list().unwrap_or_default();
        let of: Vec<(Decree, Kind)> = names.iter().filter_map(|name| Kind::of(name)).collect();
        let mut decrees: Vec<Decree> = of.iter().map(|(decree, _)| *decree).collect();
        decrees.sort_unstable();
        decrees.dedup();
        let mut stock = Vec::new();
        for decree in decrees {
            match self.read(decree, Kind::Certificate) {
                Ok(certificate) => stock.push(Stock {
                    decree,
                    certificate,
                    sealed: of.contains(&(decree, Kind::Chunks)),
                }),
                // What nobody certified is made again.
                Err(_) => self.remove(decree),
            }
        }
        stock
    }
}

/// The chunks of a sealed file in order.
struct FileChunks {
    file: Box<dyn File>,
    chunk_bytes: usize,
    next: u64,
}

impl ChunkSource for FileChunks {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        if self.next * self.chunk_bytes as u64 >= self.file.size()? {
            return Ok(false);
        }
        *chunk = read_chunk(&*self.file, self.next, self.chunk_bytes)?;
        self.next += 1;
        Ok(true)
    }
}

impl Debug for FileChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileChunks at {}", self.next)
    }
}

/// A chunk, the last one as short as the file ends.
fn read_chunk(file: &dyn File, chunk: u64, chunk_bytes: usize) -> io::Result<Vec<u8>> {
    let offset = chunk * chunk_bytes as u64;
    let left = file.size()?.checked_sub(offset).filter(|left| *left > 0);
    let left = usize::try_from(left.ok_or(io::ErrorKind::NotFound)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(chunk_bytes)];
    file.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
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
        let Some(KeeperOutcome::News(SnapshotNews::Imaged { decree, root })) = keeper.outcome()
        else {
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
            let Some(KeeperOutcome::News(SnapshotNews::Chunk { bytes, .. })) = giver.outcome()
            else {
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
}
