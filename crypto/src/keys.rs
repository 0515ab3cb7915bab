//! Identities: the two private keys of a node or client, the file that keeps them, and their public halves.
//!
//! An identity is one secret seed of 32 bytes. The Ed25519 key that signs and the X25519 key that makes link keys are derived from it under
//! different contexts, so neither says anything about the other. The file is text:
//!
//! ```text
//! twostep identity v1
//! seed = <64 hexadecimal characters>
//! public = <128 hexadecimal characters>
//! ```
//!
//! The public line spares people a tool, and shows a damaged seed before it locks a node out. The file is made with mode 0600, made durable before
//! [`Identity::save`] returns, and never overwritten. Secrets are wiped from memory when dropped.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

use crate::digest::{Context, digest_unscoped};
use crate::hex_text::{self, serde_as_text};
use crate::ids::ClientId;
use crate::sign::{BadKey, SigningKey, VerifyingKey};

/// The private keys of one node or client. Not printable, wiped when dropped.
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    signing: SigningKey,
    agreement: StaticSecret,
    public: PublicIdentity,
}

/// What others need to know of an identity. As text: 128 hexadecimal characters, first the signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicIdentity {
    /// Checks this identity's signatures.
    pub sign: VerifyingKey,
    /// X25519 public key; makes the keys of links and authenticators.
    pub agree: [u8; 32],
}

/// An identity could not be made, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    /// The file exists; overwriting an identity would lose it.
    #[error(
        "identity {path}: the file exists and is not overwritten; choose another path, or move it away if it is no longer needed"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// An operation on the file failed.
    #[error("identity {path}: cannot {doing}: {source}")]
    Io {
        /// The file, or its folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The path names a folder, a pipe or a device.
    #[error("identity {path}: expected a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others than the owner can read or write the file.
    #[error(
        "identity {path}: mode {mode:04o} lets others at the private keys; run: chmod 600 {path}"
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not an identity.
    #[error(
        "identity {path}, line {line}: expected {expected}; restore the file from its backup, or make a new identity and tell the other members its public key"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
}

impl Identity {
    /// Makes a new identity from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Random`] if there is none.
    pub fn generate() -> Result<Identity, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(KeyError::Random)?;
        Ok(Identity::from_seed(*seed))
    }

    /// The identity of a seed: deterministic, for identity files, the simulator and tests.
    #[must_use]
    pub fn from_seed(mut seed: [u8; 32]) -> Identity {
        let derive = |context| Zeroizing::new(digest_unscoped(context, &seed).0);
        let signing = SigningKey::from_seed(&derive(Context::SigningSeed));
        let agreement = StaticSecret::from(*derive(Context::AgreementSeed));
        let public = PublicIdentity {
            sign: signing.verifying_key(),
            agree: x25519_dalek::PublicKey::from(&agreement).to_bytes(),
        };
        let kept = Zeroizing::new(seed);
        seed.zeroize();
        Identity {
            seed: kept,
            signing,
            agreement,
            public,
        }
    }

    /// The public halves.
    #[must_use]
    pub fn public(&self) -> PublicIdentity {
        self.public
    }

    /// The key that signs.
    #[must_use]
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The key that agrees on link keys; only [`agreement`](crate::agreement) needs it.
    pub(crate) fn agreement(&self) -> &StaticSecret {
        &self.agreement
    }

    /// Writes the identity to a new file of mode 0600 and makes file and folder entry durable.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if there is anything at `path`, [`KeyError::Io`] if writing fails; then the half-written file is removed.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.into() },
                _ => io_error(path, "create the file", source),
            })?;
        let written = file
            .write_all(self.to_text().as_bytes())
            .and_then(|()| file.sync_all());
        if let Err(source) = written {
            // Best effort: what matters to the caller is the first error.
            let _ = fs::remove_file(path);
            return Err(io_error(path, "write the file", source));
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| io_error(folder, "make the folder entry durable", source))
    }

    /// Reads an identity file.
    ///
    /// # Errors
    /// [`KeyError::OpenToOthers`] unless the file is its owner's alone; [`KeyError::Content`] names the line that is wrong;
    /// [`KeyError::NotAFile`] and [`KeyError::Io`] as they say.
    pub fn load(path: &Path) -> Result<Identity, KeyError> {
        // Looked at before opening, because opening a pipe would wait for its writer.
        let before =
            fs::metadata(path).map_err(|source| io_error(path, "find the file", source))?;
        if !before.is_file() {
            return Err(KeyError::NotAFile { path: path.into() });
        }
        let file = File::open(path).map_err(|source| io_error(path, "open the file", source))?;
        let metadata = file
            .metadata()
            .map_err(|source| io_error(path, "read the mode", source))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::OpenToOthers {
                path: path.into(),
                mode,
            });
        }
        // Room for one byte more than the largest file allowed: the buffer never grows, so it leaves no copies of the seed behind.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
        file.take(FILE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|source| io_error(path, "read the file", source))?;
        Identity::from_text(&text).map_err(|(line, expected)| KeyError::Content {
            path: path.into(),
            line,
            expected,
        })
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut seed = [0; 64];
        hex::encode_to_slice(*self.seed, &mut seed).expect("64 characters hold 32 bytes");
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
        text.push_str(HEADER);
        text.push_str("\nseed = ");
        text.extend(seed.iter().map(|&c| char::from(c)));
        text.push_str("\npublic = ");
        text.push_str(&self.public.to_string());
        text.push('\n');
        seed.zeroize();
        text
    }

    /// Refuses with the number of the line and what should stand there.
    fn from_text(text: &[u8]) -> Result<Identity, (usize, &'static str)> {
        if text.len() > FILE_BYTES_MAX {
            return Err((1, "at most 512 bytes in the file"));
        }
        let mut lines = text
            .split(|&byte| byte == b'\n')
            .map(|line| std::str::from_utf8(line).unwrap_or("").trim_end());
        if lines.next() != Some(HEADER) {
            return Err((1, "\"twostep identity v1\""));
        }
        let seed = field(lines.next(), "seed")
            .and_then(|value| hex_text::read("seed", value).ok().map(Zeroizing::new))
            .ok_or((2, "\"seed = \" and 64 hexadecimal characters"))?;
        let public: PublicIdentity = field(lines.next(), "public")
            .and_then(|value| value.parse().ok())
            .ok_or((3, "\"public = \" and 128 hexadecimal characters"))?;
        let identity = Identity::from_seed(*seed);
        if identity.public != public {
            return Err((3, "the public key that belongs to the seed in line 2"));
        }
        if lines.any(|line| !line.is_empty()) {
            return Err((4, "the end of the file"));
        }
        Ok(identity)
    }
}

impl PublicIdentity {
    /// The signing key, then the agreement key.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(self.sign.as_bytes());
        bytes[32..].copy_from_slice(&self.agree);
        bytes
    }

    /// Reads what [`to_bytes`](PublicIdentity::to_bytes) wrote.
    ///
    /// # Errors
    /// [`BadKey`] if the first half is no usable signing key. An unusable agreement key is refused where it is used, as [`WeakKey`](crate::WeakKey).
    pub fn from_bytes(bytes: &[u8; 64]) -> Result<PublicIdentity, BadKey> {
        let (mut sign, mut agree) = ([0; 32], [0; 32]);
        sign.copy_from_slice(&bytes[..32]);
        agree.copy_from_slice(&bytes[32..]);
        Ok(PublicIdentity {
            sign: VerifyingKey::from_bytes(&sign)?,
            agree,
        })
    }

    /// The id of the client that owns these keys: the first 16 bytes of their digest, the same in every cluster.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        let digest = digest_unscoped(Context::Client, &self.to_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.0[..16]);
        ClientId(id)
    }
}

/// First line of every identity file.
const HEADER: &str = "twostep identity v1";

/// Well above the 230 bytes of a good file.
const FILE_BYTES_MAX: usize = 512;

fn field<'a>(line: Option<&'a str>, name: &str) -> Option<&'a str> {
    let (key, value) = line?.split_once('=')?;
    (key.trim() == name).then_some(value.trim())
}

fn io_error(path: &Path, doing: &'static str, source: io::Error) -> KeyError {
    KeyError::Io {
        path: path.into(),
        doing,
        source,
    }
}

serde_as_text!(PublicIdentity);

impl FromStr for PublicIdentity {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<PublicIdentity, BadKey> {
        PublicIdentity::from_bytes(&hex_text::read("public identity", text)?)
    }
}

impl fmt::Display for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex_text::write_full(f, &self.to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder_and_path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        (folder, path)
    }

    fn write(path: &Path, text: &[u8]) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_saved_identity_comes_back_and_is_its_owners_alone() {
        let (_folder, path) = folder_and_path();
        let identity = Identity::generate().unwrap();
        identity.save(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        let loaded = Identity::load(&path).unwrap();
        assert_eq!(*loaded.seed, *identity.seed);
        assert_eq!(loaded.public(), identity.public());
    }

    #[test]
    fn nothing_is_overwritten() {
        let (folder, path) = folder_and_path();
        Identity::from_seed([1; 32]).save(&path).unwrap();
        let link = folder.path().join("link");
        symlink(folder.path().join("nowhere"), &link).unwrap();
        for taken in [&path, &link] {
            let error = Identity::from_seed([2; 32]).save(taken).unwrap_err();
            assert!(matches!(error, KeyError::Exists { .. }), "{error}");
        }
        assert_eq!(*Identity::load(&path).unwrap().seed, [1; 32]);
    }

    #[test]
    fn a_file_open_to_others_is_refused_with_the_cure() {
        let (_folder, path) = folder_and_path();
        Identity::from_seed([1; 32]).save(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::OpenToOthers { mode: m, .. } if m == mode));
            let cure = format!("chmod 600 {}", path.display());
            assert!(error.to_string().ends_with(&cure), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(Identity::load(&path).is_ok());
    }

    #[test]
    fn bad_content_is_refused_by_line() {
        let (_folder, path) = folder_and_path();
        let good = Identity::from_seed([1; 32]).to_text().to_string();
        let other = Identity::from_seed([2; 32]).to_text().to_string();
        let lines: Vec<_> = good.lines().collect();
        let their_public = other.lines().nth(2).unwrap();
        let join = |parts: &[&str]| parts.join("\n").into_bytes();
        let cases = [
            (1, Vec::new()),
            (1, join(&["twostep identity v2", lines[1], lines[2]])),
            (1, vec![b'x'; 4096]),
            (1, vec![0xff; 100]),
            (2, join(&[HEADER])),
            (2, join(&[HEADER, "seed = 00", lines[2]])),
            (2, join(&[HEADER, lines[2], lines[1]])),
            (2, join(&[HEADER, &lines[1].replace("01", "0g"), lines[2]])),
            (3, join(&[HEADER, lines[1]])),
            (3, join(&[HEADER, lines[1], &lines[2][..80]])),
            (3, join(&[HEADER, lines[1], their_public])),
            (4, join(&[HEADER, lines[1], lines[2], "more"])),
        ];
        for (expected, text) in cases {
            write(&path, &text);
            match Identity::load(&path) {
                Err(KeyError::Content { line, .. }) => assert_eq!(line, expected),
                other => panic!("line {expected}: {other:?}"),
            }
        }
        write(&path, good.replace('\n', "\r\n").as_bytes());
        assert!(
            Identity::load(&path).is_ok(),
            "an editor's line ends do no harm"
        );
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let (folder, path) = folder_and_path();
        let error = Identity::load(&path).unwrap_err();
        assert!(
            error.to_string().contains("cannot find the file"),
            "{error}"
        );
        let error = Identity::load(folder.path()).unwrap_err();
        assert!(matches!(error, KeyError::NotAFile { .. }), "{error}");
        let error = Identity::from_seed([1; 32])
            .save(&path.join("below"))
            .unwrap_err();
        assert!(matches!(error, KeyError::Io { .. }), "{error}");
    }

    #[test]
    fn seeds_decide_and_generated_ones_differ() {
        let public = |n| Identity::from_seed([n; 32]).public();
        assert_eq!(public(1), public(1));
        assert_ne!(public(1).sign, public(2).sign);
        assert_ne!(public(1).agree, public(2).agree);
        assert_ne!(public(1).client_id(), public(2).client_id());
        let generated = || Identity::generate().unwrap().public();
        assert_ne!(generated(), generated());
    }

    #[test]
    fn the_derivation_is_pinned() {
        // A change here would give every node of a running cluster new keys from its old file.
        let id = Identity::from_seed([1; 32]).public().client_id();
        assert_eq!(id.to_string(), "5168732df664336bd9bad0146d6622a3");
    }

    #[test]
    fn public_identities_have_a_text_form_and_private_ones_none() {
        let identity = Identity::from_seed([1; 32]);
        let public = identity.public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!("ab".parse::<PublicIdentity>().is_err());
        let mut weak = [0; 64];
        weak[0] = 1;
        assert_eq!(PublicIdentity::from_bytes(&weak), Err(BadKey::Weak));
        let seed = hex::encode(*identity.seed);
        assert!(!format!("{identity:?}").contains(&seed[..8]));
    }
}
