//! The keeper: reads images, keeps what is certified, serves chunks, takes chunks in.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use twostep_crypto::Scope;
use twostep_net::pool::Body;

use super::certification::Proofs;
use super::image::Image;
use super::manifest::{self, Manifest};
use super::store::{Stock, Store};
use super::{apart_max, chunk_bytes, chunks_max};
use crate::configuration::Configuration;
use crate::machine::{SnapshotNews, SnapshotTask};
use crate::message::SnapshotCertificate;
use crate::state_machine::ChunkSource;
use crate::types::{Decree, Digest, NodeId};
use crate::wire::{self, Bounds};

/// Certificates of snapshots whose images may be under way.
const AWAITED_MAX: usize = 2;

/// The snapshots of one learner. See the [module](super).
#[derive(Debug)]
pub struct Keeper {
    scope: Scope,
    proofs: Proofs,
    bounds: Bounds,
    chunk_bytes: usize,
    chunks_max: usize,
    /// Snapshots that are kept though nobody has certified them yet: learners that make progress are at most W apart, and
    /// the slowest of f+1 certifies.
    uncertified_max: usize,
    store: Box<dyn Store>,
    imaging: Option<Imaging>,
    waiting: Option<Image>,
    /// Whole ones, by decree.
    kept: Vec<Kept>,
    /// What is certified and not whole here, at most [`AWAITED_MAX`]: its image may be under way.
    awaited: VecDeque<SnapshotCertificate>,
    receiving: Option<Receiving>,
    outcomes: VecDeque<KeeperOutcome>,
}

/// What came of a task or of work.
pub enum KeeperOutcome {
    /// The replica is to know this.
    News(SnapshotNews),
    /// The executor is to take this snapshot up; its chunks are checked while they are read.
    Install(Box<SnapshotCertificate>, Box<dyn ChunkSource + Send>),
}

/// An image that is being read.
#[derive(Debug)]
struct Imaging {
    image: Image,
    manifest: Manifest,
}

#[derive(Debug)]
struct Kept {
    decree: Decree,
    root: Digest,
    manifest: Manifest,
    certificate: Option<SnapshotCertificate>,
}

/// A certified snapshot that comes from others.
#[derive(Debug)]
struct Receiving {
    certificate: SnapshotCertificate,
    manifest: Option<Manifest>,
    held: Vec<bool>,
    lacking: usize,
}

impl Keeper {
    /// A keeper over a store, with what the store holds from an earlier run.
    #[must_use]
    pub fn new(configuration: &Configuration, store: Box<dyn Store>) -> Keeper {
        let limits = configuration.limits();
        let mut keeper = Keeper {
            scope: configuration.scope(),
            proofs: Proofs::new(configuration),
            bounds: Bounds::of(configuration),
            chunk_bytes: chunk_bytes(limits),
            chunks_max: chunks_max(limits),
            uncertified_max: apart_max(limits),
            store,
            imaging: None,
            waiting: None,
            kept: Vec::new(),
            awaited: VecDeque::new(),
            receiving: None,
            outcomes: VecDeque::new(),
        };
        for stock in keeper.store.stock() {
            keeper.take_stock(&stock);
        }
        keeper
    }

    /// Takes an image that is to be read. If one waits already, this one is left out: S is too small for the state.
    pub fn image(&mut self, image: Image) {
        let known = |kept: &Kept| kept.decree == image.decree() && kept.certificate.is_some();
        if self.kept.iter().any(known) {
            // Executed again after a restart.
            return;
        }
        if self.waiting.is_some() {
            let decree = image.decree();
            self.tell(SnapshotNews::Failed { decree });
            return;
        }
        self.waiting = Some(image);
    }

    /// Whether there is something to [`Keeper::work`] at.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.imaging.is_some() || self.waiting.is_some()
    }

    /// Reads, hashes and stores one chunk of an image.
    pub fn work(&mut self) {
        if self.imaging.is_none()
            && let Some(image) = self.waiting.take()
        {
            self.remove(image.decree());
            self.imaging = Some(Imaging {
                image,
                manifest: Manifest::default(),
            });
        }
        let Some(mut imaging) = self.imaging.take() else {
            return;
        };
        let decree = imaging.image.decree();
        match self.read_chunk(&mut imaging) {
            Ok(true) => self.imaging = Some(imaging),
            Ok(false) => self.end_image(decree, imaging.manifest),
            Err(_) => {
                self.store.remove(decree);
                self.tell(SnapshotNews::Failed { decree });
            }
        }
    }

    /// Does what the replica asks for.
    pub fn perform(&mut self, task: SnapshotTask) {
        match task {
            SnapshotTask::Certified(certificate) => self.certified(*certificate),
            SnapshotTask::Serve {
                asker,
                decree,
                place,
            } => self.serve(asker, decree, place),
            SnapshotTask::Receive(certificate) => self.receive(*certificate),
            SnapshotTask::Keep {
                from,
                decree,
                place,
                bytes,
            } => self.keep(from, decree, place, &bytes),
            SnapshotTask::Install { decree } => self.install(decree),
            SnapshotTask::Discard { decree } => self.remove(decree),
        }
    }

    /// The next outcome, oldest first.
    pub fn outcome(&mut self) -> Option<KeeperOutcome> {
        self.outcomes.pop_front()
    }

    /// The newest certified snapshot whose chunks are all as they should be; damaged ones are dropped. It reads all of
    /// it, so that an executor is never left with half a state.
    pub fn newest(&mut self) -> Option<(SnapshotCertificate, Box<dyn ChunkSource + Send>)> {
        loop {
            let kept = self.kept.iter().rev();
            let (decree, certificate) = kept
                .filter_map(|kept| Some((kept.decree, kept.certificate.clone()?)))
                .next()?;
            let sound = self.source(decree).and_then(|mut source| {
                let mut chunk = Vec::new();
                while source.next(&mut chunk)? {}
                self.source(decree)
            });
            match sound {
                Ok(source) => return Some((certificate, source)),
                Err(_) => self.remove(decree),
            }
        }
    }

    /// Stores the next chunk of an image; false if there is none.
    fn read_chunk(&mut self, imaging: &mut Imaging) -> io::Result<bool> {
        let mut chunk = Vec::with_capacity(self.chunk_bytes);
        if !imaging.image.next(&mut chunk)? {
            return Ok(false);
        }
        if imaging.manifest.len() == self.chunks_max {
            let what = "the state has more chunks than a manifest holds: raise body_bytes_max";
            return Err(io::Error::other(what));
        }
        imaging.manifest.push(&self.scope, &chunk);
        let place = place(imaging.manifest.len());
        chunk.shrink_to_fit();
        self.put(imaging.image.decree(), place, &Body::from_vec(chunk))?;
        Ok(true)
    }

    fn end_image(&mut self, decree: Decree, manifest: Manifest) {
        let bytes = manifest.to_bytes();
        let root = manifest::root(&self.scope, &bytes);
        if self.put(decree, 0, &Body::from_vec(bytes)).is_err() {
            self.store.remove(decree);
            return self.tell(SnapshotNews::Failed { decree });
        }
        self.enter(Kept {
            decree,
            root,
            manifest,
            certificate: None,
        });
        self.tell(SnapshotNews::Imaged { decree, root });
        let awaited = self
            .awaited
            .iter()
            .find(|one| one.snapshot.decree == decree);
        if let Some(certificate) = awaited.cloned() {
            self.certified(certificate);
        }
        let uncertified = self.kept.iter().filter(|kept| kept.certificate.is_none());
        let excess = uncertified
            .clone()
            .count()
            .saturating_sub(self.uncertified_max);
        let old: Vec<Decree> = uncertified.take(excess).map(|kept| kept.decree).collect();
        old.into_iter().for_each(|decree| self.remove(decree));
    }

    /// Stores a piece; if there is no room, older certified snapshots make some.
    fn put(&mut self, decree: Decree, place: u32, piece: &Body) -> io::Result<()> {
        loop {
            let failed = match self.store.put(decree, place, piece.clone()) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let mut certified = self.kept.iter().filter(|kept| kept.certificate.is_some());
            let (Some(older), Some(_)) = (certified.next(), certified.next()) else {
                return Err(failed);
            };
            let older = older.decree;
            self.remove(older);
        }
    }

    fn certified(&mut self, certificate: SnapshotCertificate) {
        let snapshot = certificate.snapshot;
        let decree = snapshot.decree;
        let Some(at) = self.kept.iter().position(|kept| kept.decree == decree) else {
            if self.awaited.len() == AWAITED_MAX {
                self.awaited.pop_front();
            }
            return self.awaited.push_back(certificate);
        };
        self.awaited
            .retain(|awaited| awaited.snapshot.decree > decree);
        if self.kept[at].certificate.is_some() {
            return;
        }
        let mut bytes = Vec::new();
        wire::write_snapshot_certificate(&certificate, &mut bytes);
        // One with another root is of a state that diverged.
        let good = self.kept[at].root == snapshot.root && self.store.seal(decree, &bytes).is_ok();
        if !good {
            return self.remove(decree);
        }
        self.kept[at].certificate = Some(certificate.clone());
        self.tell(SnapshotNews::Held(Box::new(certificate)));
        self.forget_uncertified();
    }

    /// Nobody will certify what is older than a certified one. The replica says which of those may go.
    fn forget_uncertified(&mut self) {
        let certified = |kept: &&Kept| kept.certificate.is_some();
        let Some(newest) = self.kept.iter().rev().find(certified) else {
            return;
        };
        let newest = newest.decree;
        let old = self.kept.iter().filter(|kept| kept.decree < newest);
        let old = old.filter(|kept| kept.certificate.is_none());
        let old: Vec<Decree> = old.map(|kept| kept.decree).collect();
        old.into_iter().for_each(|decree| self.remove(decree));
    }

    fn serve(&mut self, asker: NodeId, decree: Decree, place: u32) {
        let Some(kept) = self.kept.iter().find(|kept| kept.decree == decree) else {
            return;
        };
        let Some(certificate) = &kept.certificate else {
            return;
        };
        if place as usize > kept.manifest.len() {
            return;
        }
        let Ok(bytes) = self.store.get(decree, place) else {
            return self.remove(decree);
        };
        let good = match (place as usize).checked_sub(1) {
            None => manifest::root(&self.scope, &bytes) == certificate.snapshot.root,
            Some(chunk) => kept.manifest.proves(&self.scope, chunk, &bytes),
        };
        if !good {
            return self.remove(decree);
        }
        self.tell(SnapshotNews::Chunk {
            asker,
            decree,
            place,
            bytes,
        });
    }

    fn receive(&mut self, certificate: SnapshotCertificate) {
        let snapshot = certificate.snapshot;
        let decree = snapshot.decree;
        let same = |receiving: &Receiving| receiving.certificate.snapshot == snapshot;
        if self.receiving.as_ref().is_some_and(same) {
            return self.tell_receiving();
        }
        if let Some(other) = self.receiving.take() {
            self.store.remove(other.certificate.snapshot.decree);
        }
        self.imaging
            .take_if(|imaging| imaging.image.decree() == decree);
        self.waiting.take_if(|image| image.decree() == decree);
        let own = self.kept.iter().find(|kept| kept.decree == decree);
        let own = own.filter(|kept| kept.root == snapshot.root);
        if let Some(own) = own {
            self.receiving = Some(Receiving {
                manifest: Some(own.manifest.clone()),
                held: vec![true; own.manifest.len()],
                lacking: 0,
                certificate,
            });
            return self.tell_receiving();
        }
        self.remove(decree);
        let mut bytes = Vec::new();
        wire::write_snapshot_certificate(&certificate, &mut bytes);
        if self.store.begin(decree, &bytes).is_err() {
            return self.tell(SnapshotNews::NotInstalled { decree });
        }
        self.receiving = Some(Receiving {
            certificate,
            manifest: None,
            held: Vec::new(),
            lacking: 0,
        });
        self.tell_receiving();
    }

    fn tell_receiving(&mut self) {
        if let Some(receiving) = &self.receiving {
            let decree = receiving.certificate.snapshot.decree;
            let held = receiving.manifest.is_some().then(|| receiving.held.clone());
            self.tell(SnapshotNews::Receiving { decree, held });
        }
    }

    fn keep(&mut self, from: NodeId, decree: Decree, place: u32, bytes: &Body) {
        let receiving = self.receiving.as_mut();
        let Some(receiving) =
            receiving.filter(|receiving| receiving.certificate.snapshot.decree == decree)
        else {
            return;
        };
        let good = match (&receiving.manifest, (place as usize).checked_sub(1)) {
            (None, None) => {
                let root = receiving.certificate.snapshot.root;
                let manifest = Manifest::parse(&self.scope, root, bytes);
                receiving.lacking = manifest.as_ref().map_or(0, Manifest::len);
                receiving.held = vec![false; receiving.lacking];
                receiving.manifest = manifest;
                receiving.manifest.is_some()
            }
            (Some(manifest), Some(chunk)) => {
                let fresh = receiving.held.get(chunk) == Some(&false);
                let good = fresh && manifest.proves(&self.scope, chunk, bytes);
                if good {
                    receiving.held[chunk] = true;
                    receiving.lacking -= 1;
                }
                good || receiving.held.get(chunk) == Some(&true)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
        };
        if good && self.put(decree, place, bytes).is_err() {
            self.receiving = None;
            self.store.remove(decree);
            return self.tell(SnapshotNews::NotInstalled { decree });
        }
        if good && place == 0 {
            return self.tell_receiving();
        }
        self.tell(SnapshotNews::Kept {
            from,
            decree,
            place,
            good,
        });
    }

    /// What was received is whole: it is sealed, and given to the executor.
    fn install(&mut self, decree: Decree) {
        let complete = |receiving: &mut Receiving| {
            let whole = receiving.manifest.is_some() && receiving.lacking == 0;
            whole && receiving.certificate.snapshot.decree == decree
        };
        let Some(receiving) = self.receiving.take_if(complete) else {
            return self.tell(SnapshotNews::NotInstalled { decree });
        };
        let certificate = receiving.certificate;
        let mut bytes = Vec::new();
        wire::write_snapshot_certificate(&certificate, &mut bytes);
        let sealed = self.store.seal(decree, &bytes);
        let manifest = receiving.manifest.expect("it is whole");
        self.kept.retain(|kept| kept.decree != decree);
        self.enter(Kept {
            decree,
            root: certificate.snapshot.root,
            manifest,
            certificate: Some(certificate.clone()),
        });
        match sealed.and_then(|()| self.source(decree)) {
            Ok(source) => {
                let certificate = Box::new(certificate);
                self.tell(SnapshotNews::Held(certificate.clone()));
                self.outcomes
                    .push_back(KeeperOutcome::Install(certificate, source));
                self.forget_uncertified();
            }
            Err(_) => {
                self.remove(decree);
                self.tell(SnapshotNews::NotInstalled { decree });
            }
        }
    }

    /// The chunks of a whole snapshot, each checked as it is read.
    fn source(&mut self, decree: Decree) -> io::Result<Box<dyn ChunkSource + Send>> {
        let kept = self.kept.iter().find(|kept| kept.decree == decree);
        let manifest = kept.map(|kept| kept.manifest.clone());
        Ok(Box::new(CheckedSource {
            scope: self.scope.clone(),
            manifest: manifest.ok_or(io::ErrorKind::NotFound)?,
            inner: self.store.source(decree)?,
            read: 0,
        }))
    }

    fn take_stock(&mut self, stock: &Stock) {
        let Stock { decree, .. } = *stock;
        let certificate = wire::read_snapshot_certificate(&stock.certificate, &self.bounds).ok();
        let certificate = certificate.filter(|certificate| {
            certificate.snapshot.decree == decree && self.proofs.prove(certificate).is_ok()
        });
        let Some(certificate) = certificate else {
            return self.store.remove(decree);
        };
        let root = certificate.snapshot.root;
        let manifest = self.store.get(decree, 0).ok();
        let manifest = manifest.and_then(|bytes| Manifest::parse(&self.scope, root, &bytes));
        if let (Some(manifest), true) = (&manifest, stock.sealed) {
            self.enter(Kept {
                decree,
                root,
                manifest: manifest.clone(),
                certificate: Some(certificate.clone()),
            });
            self.tell(SnapshotNews::Held(Box::new(certificate)));
            return self.forget_uncertified();
        }
        if stock.sealed || self.receiving.is_some() {
            return self.store.remove(decree);
        }
        let chunks = 0..manifest.as_ref().map_or(0, Manifest::len);
        let held = chunks.map(|chunk| {
            let bytes = self.store.get(decree, place(chunk + 1)).ok();
            let proves = |bytes: Body| {
                manifest
                    .as_ref()?
                    .proves(&self.scope, chunk, &bytes)
                    .then_some(())
            };
            bytes.and_then(proves).is_some()
        });
        let held: Vec<bool> = held.collect();
        self.receiving = Some(Receiving {
            lacking: held.iter().filter(|held| !**held).count(),
            certificate,
            manifest,
            held,
        });
    }

    fn enter(&mut self, kept: Kept) {
        let at = self
            .kept
            .partition_point(|other| other.decree < kept.decree);
        self.kept.insert(at, kept);
    }

    fn remove(&mut self, decree: Decree) {
        let certified = |kept: &Kept| kept.decree == decree && kept.certificate.is_some();
        if self.kept.iter().any(certified) {
            self.tell(SnapshotNews::Dropped { decree });
        }
        self.kept.retain(|kept| kept.decree != decree);
        self.receiving
            .take_if(|receiving| receiving.certificate.snapshot.decree == decree);
        self.store.remove(decree);
    }

    fn tell(&mut self, news: SnapshotNews) {
        self.outcomes.push_back(KeeperOutcome::News(news));
    }
}

/// Refuses chunks that the manifest does not list, so that a damaged byte is never taken up.
struct CheckedSource {
    scope: Scope,
    manifest: Manifest,
    inner: Box<dyn ChunkSource + Send>,
    read: usize,
}

impl ChunkSource for CheckedSource {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        let more = self.inner.next(chunk)?;
        let whole = self.read == self.manifest.len();
        let good = if more {
            self.manifest.proves(&self.scope, self.read, chunk)
        } else {
            whole
        };
        if !good {
            let what = format!("chunk {} of the snapshot is damaged or missing", self.read);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.read += usize::from(more);
        Ok(more)
    }
}

impl fmt::Debug for KeeperOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeeperOutcome::News(news) => f.debug_tuple("News").field(news).finish(),
            KeeperOutcome::Install(certificate, _) => {
                f.debug_tuple("Install").field(certificate).finish()
            }
        }
    }
}

fn place(count: usize) -> u32 {
    u32::try_from(count).expect("limits bound the chunks")
}
