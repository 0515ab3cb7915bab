//! The control socket: a Unix socket in the node's folder that takes one JSON request a line and answers each with a
//! line of JSON. `twostep status` and `dev` use nothing else.
//!
//! ```text
//! {"request":"status"}                                    → {"status":{…}}        see `NodeStatus`
//! {"request":"status","digests":true}                     → the same with digests of the whole state
//! {"request":"fault","peer":3,"direction":"out","cut":true} → "done"              only if the node allows faults
//! {"request":"heal"}                                      → "done"                ends all injected faults of links
//! {"request":"disk-fault","slow_ms":50}                   → "done"                the journal's disk from now on, likewise; without fields it is sound again
//! {"request":"clock-offset","ms":-60000}                  → "done"                the node's clock jumps, likewise; 0 is the machine's time
//! {"request":"misbehave","strategy":"silent"}              → "done"                only if the cluster allows it; see `node --misbehave`
//! {"request":"misbehave"}                                 → "done"                truthful again
//! anything else                                           → {"error":"…"}
//! ```
//!
//! A thread accepts; each connection has a thread of its own, at most [`CONNECTIONS_MAX`]. Requests reach the node's
//! loop through a bounded queue, and the loop answers in its next turn, so the socket never slows the order down.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use twostep_net::queue;

use crate::journal::faults::DiskFaults;
use crate::node::status::NodeStatus;

/// The name of the socket in a node's folder.
pub const SOCKET_FILE: &str = "control.sock";
/// Connections that are served at once; further ones are told so and closed.
pub const CONNECTIONS_MAX: usize = 16;
/// Requests that may wait for the loop.
pub(super) const REQUESTS_MAX: usize = 2 * CONNECTIONS_MAX;
/// The longest request. Bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// The longest answer that is read: a status of 128 nodes has less than 64 KiB. Bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long an answer may take: the loop turns every T0 even when idle, and a state digest may take a while.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may stay silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Unix socket addresses hold 108 bytes with a closing zero. Longer paths go through the open folder.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the node is.
    Status {
        /// With digests: the node reads its whole state for them, which takes a while if it is large.
        #[serde(default)]
        digests: bool,
    },
    /// Inject faults into links from now on.
    Fault(Fault),
    /// Inject no more faults into links.
    Heal {},
    /// What is wrong with the disk of the journal from now on, and nothing else.
    DiskFault(DiskFaults),
    /// Let the clock of the node jump.
    ClockOffset {
        /// How far ahead of the machine's clock it is from now on, or behind it. Milliseconds.
        ms: i64,
    },
    /// Lie from now on.
    Misbehave {
        /// How; truthful again if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        strategy: Option<String>,
    },
}

/// Faults on the links to one peer or to everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Which node; everyone, clients too, if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<u16>,
    /// Which way, seen from the node that is asked; both if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<FaultDirection>,
    /// Lose everything.
    pub cut: bool,
    /// Lose this many of a million messages.
    pub loss_ppm: u32,
    /// Lose this many of a million datagrams, in a cluster over UDP.
    pub datagram_loss_ppm: u32,
    /// Deliver this many of a million messages twice.
    pub duplicate_ppm: u32,
    /// Delay every message at least so long. Microseconds.
    pub delay_min_us: u64,
    /// Delay every message at most so long. Microseconds.
    pub delay_max_us: u64,
}

/// Which way a message goes, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultDirection {
    /// To the node.
    In,
    /// From the node.
    Out,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `status`.
    Status(Box<NodeStatus>),
    /// To what was carried out.
    Done,
    /// To what was not.
    Error(String),
}

/// A request on its way to the loop, and where the answer is awaited.
#[derive(Debug)]
pub(super) struct Asked {
    pub request: Request,
    pub answer: SyncSender<Answer>,
}

/// Why a node did not answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("{0}: no node runs from this folder ({1}); start it, or look at its log")]
    NotRunning(PathBuf, io::Error),
    /// The socket cannot be made.
    #[error("{path}: cannot make the control socket: {source}", path = path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke or timed out.
    #[error("{path}: the node does not answer: {source}", path = path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is none.
    #[error("{path}: expected an answer in JSON, found: {what}; are node and command of one version?", path = path.display())]
    Answer {
        /// The socket's path.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The node refused the request.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// Asks the node that runs from `folder`, and waits at most `patience`.
///
/// # Errors
/// [`ControlError`].
pub fn ask(folder: &Path, request: &Request, patience: Duration) -> Result<Answer, ControlError> {
    let path = folder.join(SOCKET_FILE);
    let stream = with_short_path(&path, |short| UnixStream::connect(short))
        .map_err(|source| ControlError::NotRunning(path.clone(), source))?;
    let line = exchange(stream, request, patience).map_err(|source| ControlError::Io {
        path: path.clone(),
        source,
    })?;
    match serde_json::from_str(&line) {
        Ok(Answer::Error(why)) => Err(ControlError::Refused(why)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(ControlError::Answer {
            path,
            what: format!("{error} in {line:.200}"),
        }),
    }
}

/// Asks for the status of the node that runs from `folder`, with or without digests.
///
/// # Errors
/// [`ControlError`].
pub fn status(
    folder: &Path,
    digests: bool,
    patience: Duration,
) -> Result<NodeStatus, ControlError> {
    match ask(folder, &Request::Status { digests }, patience)? {
        Answer::Status(status) => Ok(*status),
        other => Err(ControlError::Answer {
            path: folder.join(SOCKET_FILE),
            what: format!("{other:?}"),
        }),
    }
}

fn exchange(mut stream: UnixStream, request: &Request, patience: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = serde_json::to_string(request).expect("a request has a form in JSON");
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// The control socket of a running node; gone when dropped.
#[derive(Debug)]
pub(super) struct Server {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the socket in `folder`, whose lock the caller holds: a socket that lies there is a dead node's.
    pub fn start(folder: &Path, requests: queue::Sender<Asked>) -> Result<Server, ControlError> {
        let path = folder.join(SOCKET_FILE);
        let listen = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = with_short_path(&path, |short| UnixListener::bind(short))?;
            // Who may connect may inject faults: the node's owner alone.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = listen().map_err(|source| ControlError::Listen {
            path: path.clone(),
            source,
        })?;
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let thread = thread::Builder::new().name("control".to_owned());
        let thread = thread
            .spawn(move || accept(&listener, &requests, &seen))
            .map_err(|source| ControlError::Listen {
                path: path.clone(),
                source,
            })?;
        Ok(Server {
            path,
            stopping,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // The accepting thread blocks until somebody comes. If nobody can, it ends with the process.
        let woken = with_short_path(&self.path, |short| UnixStream::connect(short)).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            // The thread has no result, and a panic of it was reported when it happened.
            let _ = thread.join();
        }
        // What is gone already is as it should be.
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, requests: &queue::Sender<Asked>, stopping: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut stream) = stream else {
            // Out of descriptors: closing connections frees some.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.load(Ordering::SeqCst) >= CONNECTIONS_MAX {
            // Best effort: who does not listen does not miss it.
            let _ = say(
                &mut stream,
                &Answer::Error(format!("{CONNECTIONS_MAX} connections are open already")),
            );
            continue;
        }
        open.fetch_add(1, Ordering::SeqCst);
        let (counted, requests) = (Arc::clone(&open), requests.clone());
        let thread = thread::Builder::new().name("control connection".to_owned());
        let spawned = thread.spawn(move || {
            // A connection that breaks concerns only who made it.
            let _ = serve(stream, &requests);
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(mut stream: UnixStream, requests: &queue::Sender<Asked>) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(REQUEST_BYTES_MAX)
            .read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.ends_with('\n') && read as u64 == REQUEST_BYTES_MAX {
            return say(
                &mut stream,
                &Answer::Error(format!("a request of more than {REQUEST_BYTES_MAX} bytes")),
            );
        }
        let answer = match serde_json::from_str(&line) {
            Ok(request) => hand_over(request, requests),
            Err(error) => Answer::Error(format!(
                "expected a request such as {{\"request\":\"status\"}}: {error}"
            )),
        };
        say(&mut stream, &answer)?;
    }
}

fn hand_over(request: Request, requests: &queue::Sender<Asked>) -> Answer {
    let (answer, answered) = sync_channel(1);
    match requests.send(Asked { request, answer }) {
        Ok(()) => answered.recv_timeout(ANSWER_TIME_MAX).unwrap_or_else(|_| {
            Answer::Error(format!(
                "the node's loop did not answer within {} s",
                ANSWER_TIME_MAX.as_secs()
            ))
        }),
        Err(queue::SendError::Full(_)) => {
            Answer::Error("too many requests wait; try again".to_owned())
        }
        Err(queue::SendError::Closed(_)) => Answer::Error("the node is ending".to_owned()),
    }
}

fn say(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_string(answer).expect("an answer has a form in JSON");
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// Calls `with` with `path`, or, if that is longer than a socket address, with a short one for the same file.
fn with_short_path<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_BYTES_MAX {
        return with(path);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return with(path);
    };
    let folder = File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    with(&short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twostep_net::queue::WakeUp;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A loop that says `done` to every `heal`, and an error to the rest.
    fn serve_from(folder: &Path) -> (Server, JoinHandle<()>, Arc<AtomicBool>) {
        let (requests, asked) = queue::bounded(REQUESTS_MAX, WakeUp::new(|| {}));
        let server = Server::start(folder, requests).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let answering = thread::spawn(move || {
            while !seen.load(Ordering::SeqCst) {
                while let Some(Asked { request, answer }) = asked.receive() {
                    let said = match request {
                        Request::Heal {} => Answer::Done,
                        other => Answer::Error(format!("not {other:?}")),
                    };
                    answer.send(said).unwrap();
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        (server, answering, stop)
    }

    fn raw(folder: &Path, line: &str) -> String {
        let mut stream = with_short_path(&folder.join(SOCKET_FILE), |short| {
            UnixStream::connect(short)
        })
        .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    #[test]
    fn requests_reach_the_loop_and_nonsense_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let error = status(folder.path(), true, PATIENCE)
            .expect_err("nobody listens")
            .to_string();
        assert!(error.contains("no node runs from this folder"), "{error}");
        let (server, answering, stop) = serve_from(folder.path());
        assert_eq!(
            ask(folder.path(), &Request::Heal {}, PATIENCE).unwrap(),
            Answer::Done
        );
        let refused = ask(folder.path(), &Request::Fault(Fault::default()), PATIENCE);
        assert!(matches!(refused, Err(ControlError::Refused(why)) if why.starts_with("not Fault")));
        assert!(raw(folder.path(), "hello\n").contains("expected a request such as"));
        assert!(
            raw(folder.path(), "{\"request\":\"statu\"}\n").contains("unknown variant `statu`")
        );
        assert!(
            raw(folder.path(), "{\"request\":\"fault\",\"cat\":1}\n")
                .contains("unknown field `cat`")
        );
        let long = "x".repeat(usize::try_from(REQUEST_BYTES_MAX).unwrap());
        assert!(raw(folder.path(), &long).contains("a request of more than 65536 bytes"));
        drop(server);
        assert!(
            !folder.path().join(SOCKET_FILE).exists(),
            "nothing is left behind"
        );
        stop.store(true, Ordering::SeqCst);
        answering.join().unwrap();
    }

    #[test]
    fn a_long_folder_name_and_a_dead_nodes_socket_do_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let dead =
            with_short_path(&deep.join(SOCKET_FILE), |short| UnixListener::bind(short)).unwrap();
        drop(dead);
        assert!(deep.join(SOCKET_FILE).exists());
        let (server, answering, stop) = serve_from(&deep);
        assert_eq!(
            ask(&deep, &Request::Heal {}, PATIENCE).unwrap(),
            Answer::Done
        );
        drop(server);
        stop.store(true, Ordering::SeqCst);
        answering.join().unwrap();
    }
}
