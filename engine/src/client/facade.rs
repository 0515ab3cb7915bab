//! The async client: sessions and calls as futures, for programs on tokio or any other executor.
//!
//! One background thread runs the [loop](super::host); calls reach it through a bounded queue that wakes it only when it
//! sleeps, and come back through one-shot channels. Nothing here depends on a tokio runtime being there.
//!
//! ```no_run
//! # async fn example(options: twostep_engine::client::ClientOptions) -> Result<(), Box<dyn std::error::Error>> {
//! let client = twostep_engine::client::Client::connect(options).await?;
//! let session = client.session().await?;
//! let committed = session.call("an operation of the state machine").await?;
//! println!("decree {}: {:?}", committed.decree, committed.reply);
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use twostep_net::{NetError, WakeUp, queue};

use super::host::{Application, ClientLoop, LoopTuning, Turn};
use super::{
    CallOutcome, CallRefused, ClientCore, ClientEffects, ClientSetup, OpenError, Rejection,
    SessionHandle,
};
use crate::message::Message;
use crate::types::{Decree, NodeId, NodeSet, Seq, SessionId, Time};

/// What a [`Client`] is made from.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster, the identity, the time-outs.
    pub setup: ClientSetup,
    /// Where the nodes are; those that neither propose nor learn are not dialled.
    pub nodes: Vec<(NodeId, SocketAddr)>,
    /// How the loop runs.
    pub tuning: LoopTuning,
    /// How long [`Client::connect`] tries to reach the leader and f+1 learners.
    pub connect_timeout: Duration,
    /// The most calls that are under way in all sessions together; more wait for one to end.
    pub calls_max: usize,
}

impl ClientOptions {
    /// Options with a connect time-out of 10 s and up to 8192 calls under way.
    #[must_use]
    pub fn new(setup: ClientSetup, nodes: Vec<(NodeId, SocketAddr)>) -> ClientOptions {
        ClientOptions {
            setup,
            nodes,
            tuning: LoopTuning::default(),
            connect_timeout: Duration::from_secs(10),
            calls_max: 8192,
        }
    }
}

/// Why a client could not connect.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The loop could not start.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The leader or enough learners could not be reached.
    #[error("the leader and f+1 learners could not be reached in time: {}", listed(.0))]
    Unreachable(Vec<(NodeId, String)>),
    /// The thread could not be started.
    #[error("no thread for the client's loop: {0}")]
    Thread(std::io::Error),
    /// The loop ended before it was connected.
    #[error("the client's loop ended before it was connected")]
    Stopped,
}

fn listed(missing: &[(NodeId, String)]) -> String {
    let lines: Vec<String> = missing
        .iter()
        .map(|(node, why)| format!("node {node}: {why}"))
        .collect();
    lines.join("; ")
}

/// A call that was executed, exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The decree that ordered it.
    pub decree: Decree,
    /// What the state machine answered.
    pub reply: Vec<u8>,
}

/// How a call ended if not with a reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// It was not executed and never will be: f+1 learners refused it.
    #[error("rejected: {0}")]
    Rejected(#[from] Rejection),
    /// It was not executed and never will be: the client did not take it.
    #[error("not called: {0}")]
    Refused(#[from] CallRefused),
    /// Nothing was sent before the deadline, so it was not executed.
    #[error("busy: nothing could be sent in time; try again in {retry_after:?}")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// It was executed, but no learner keeps the reply any more.
    #[error("executed in decree {decree}, but no learner keeps the reply any more")]
    ReplyGone {
        /// The decree that ordered it.
        decree: Decree,
    },
    /// It may or may not have been executed. [`Session::call_again`] with this number and the same operation finds out.
    #[error(
        "unknown: request {seq} of session {session} was sent, and no f+1 equal answers came in time; it may have been executed"
    )]
    Unknown {
        /// Its session.
        session: SessionId,
        /// Its number.
        seq: Seq,
    },
    /// The client was dropped before the call ended; if it was sent, it may have been executed.
    #[error("the client ended before the call did")]
    Stopped,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The cluster did not open one.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The client has as many as it may have.
    #[error(transparent)]
    Refused(#[from] CallRefused),
    /// The client was dropped.
    #[error("the client has ended")]
    Stopped,
}

/// A client of one cluster with one identity. Dropping it ends its sessions and calls.
#[derive(Debug)]
pub struct Client {
    shared: Shared,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An open session: calls are executed in it exactly once. Any number of calls may be under way at a time; 64 of them are
/// at the cluster, the others wait here. Their order is the order of the first polls. Dropping it ends its calls.
#[derive(Debug)]
pub struct Session {
    shared: Shared,
    handle: SessionHandle,
    id: SessionId,
}

#[derive(Clone, Debug)]
struct Shared {
    commands: queue::Sender<Command>,
    permits: Arc<Semaphore>,
}

impl Client {
    /// Starts the loop's thread and waits until the leader and f+1 learners are connected.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Unreachable`] says which node did not answer, and why.
    pub async fn connect(options: ClientOptions) -> Result<Client, ConnectError> {
        let (report, connected) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let permits = Arc::new(Semaphore::new(options.calls_max));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("twostep-client".to_owned());
        let thread = thread
            .spawn(move || serve(options, report, stopping))
            .map_err(ConnectError::Thread)?;
        let commands = connected.await.map_err(|_| ConnectError::Stopped)??;
        Ok(Client {
            shared: Shared { commands, permits },
            stop,
            thread: Some(thread),
        })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn session(&self) -> Result<Session, SessionError> {
        let (answer, opened) = oneshot::channel();
        let permit = self.shared.permit().await.ok_or(SessionError::Stopped)?;
        let open = Command::Open { answer, permit };
        self.shared
            .commands
            .send(open)
            .map_err(|_| SessionError::Stopped)?;
        let (handle, id) = opened.await.map_err(|_| SessionError::Stopped)??;
        Ok(Session {
            shared: self.shared.clone(),
            handle,
            id,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.shared.permits.close();
        // The queue has room for one more by construction; if not, the loop sees the flag in its next turn.
        let _ = self.shared.commands.send(Command::Wake);
        if let Some(thread) = self.thread.take() {
            // The loop ends within a turn. A panic in it has been reported on its own thread.
            let _ = thread.join();
        }
    }
}

impl Session {
    /// Its id: the decree and position of the Open that made it.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Has an operation ordered and executed, exactly once.
    ///
    /// # Errors
    /// [`CallError`]. Only `Unknown` and `Stopped` leave open whether it was executed.
    pub async fn call(&self, operation: impl Into<Vec<u8>>) -> Result<Committed, CallError> {
        self.make_call(None, operation.into()).await
    }

    /// Calls an operation that ended as unknown once more under its number: executed once, however often it is called.
    ///
    /// # Errors
    /// [`CallError`]; [`CallRefused::NotAgain`] if more than 64 later calls were made meanwhile.
    pub async fn call_again(
        &self,
        seq: Seq,
        operation: impl Into<Vec<u8>>,
    ) -> Result<Committed, CallError> {
        self.make_call(Some(seq), operation.into()).await
    }

    async fn make_call(
        &self,
        again: Option<Seq>,
        operation: Vec<u8>,
    ) -> Result<Committed, CallError> {
        let (answer, ended) = oneshot::channel();
        let permit = self.shared.permit().await.ok_or(CallError::Stopped)?;
        let call = Call {
            session: self.handle,
            again,
            operation,
            answer,
            permit,
        };
        self.shared
            .commands
            .send(Command::Call(call))
            .map_err(|_| CallError::Stopped)?;
        ended.await.map_err(|_| CallError::Stopped)?
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // There is room for one Close per session; if the loop is gone there is nothing to close.
        let _ = self.shared.commands.send(Command::Close(self.handle));
    }
}

impl Shared {
    /// A permit stands for a place in the queue and among the calls under way: who has one finds room.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}

type Opened = Result<(SessionHandle, SessionId), SessionError>;
type Ended = Result<Committed, CallError>;
type Report = oneshot::Sender<Result<queue::Sender<Command>, ConnectError>>;

/// What the façade asks of the loop.
enum Command {
    Open {
        answer: oneshot::Sender<Opened>,
        permit: OwnedSemaphorePermit,
    },
    Call(Call),
    Close(SessionHandle),
    Wake,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Command")
    }
}

struct Call {
    session: SessionHandle,
    again: Option<Seq>,
    operation: Vec<u8>,
    answer: oneshot::Sender<Ended>,
    permit: OwnedSemaphorePermit,
}

/// The thread of one client.
fn serve(options: ClientOptions, report: Report, stop: Arc<AtomicBool>) {
    // A place for every call under way, one Close per session, and the wake-up at the end.
    let commands_max = options.calls_max + options.setup.tuning.sessions_max as usize + 1;
    let patience = Time(0) + options.connect_timeout;
    let mut client = match ClientLoop::new(options.setup, &options.nodes, options.tuning) {
        Ok(client) => client,
        Err(error) => {
            // If nobody waits any more, nobody needs to know.
            let _ = report.send(Err(error.into()));
            return;
        }
    };
    let waker: WakeUp = client.waker();
    let (sender, commands) = queue::bounded(commands_max, waker);
    let mut desk = Desk {
        connecting: Some((report, sender, patience)),
        commands,
        waiting: BTreeMap::new(),
        pending: Pending::default(),
        stop,
    };
    if let Err(error) = client.run(&mut desk) {
        tracing::error!("the client's loop failed: {error}");
    }
}

/// Serves the façade in the loop's thread.
struct Desk {
    /// Who waits for the connection, with what it gets and until when; `None` when that is settled.
    connecting: Option<(Report, queue::Sender<Command>, Time)>,
    commands: queue::Receiver<Command>,
    /// Calls for which their session has no room yet, in order.
    waiting: BTreeMap<SessionHandle, VecDeque<Call>>,
    pending: Pending,
    stop: Arc<AtomicBool>,
}

impl Application for Desk {
    fn opened(
        &mut self,
        _: Time,
        session: SessionHandle,
        token: u64,
        result: Result<SessionId, OpenError>,
    ) {
        self.pending.opened(session, token, result);
    }

    fn done(&mut self, _: Time, session: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        self.pending.done(session, token, outcome);
    }

    fn turn(&mut self, client: &mut Turn<'_>) {
        self.connect(client);
        while let Some(command) = self.commands.receive() {
            self.take(client.core, client.now, command);
        }
        let sessions: Vec<SessionHandle> = self.waiting.keys().copied().collect();
        for session in sessions {
            self.call_waiting(client.core, client.now, session);
        }
        for session in std::mem::take(&mut self.pending.orphans) {
            client.core.close_session(session, &mut self.pending);
        }
    }

    fn deadline(&self, _: &ClientCore) -> Option<Time> {
        self.connecting.as_ref().map(|(_, _, until)| *until)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Desk {
    /// Tells who waits for the connection how it stands, once that is clear.
    fn connect(&mut self, client: &Turn<'_>) {
        let Some((report, sender, until)) = self.connecting.take() else {
            return;
        };
        if client.reachable() {
            if report.send(Ok(sender)).is_err() {
                self.stop.store(true, Ordering::Release);
            }
        } else if report.is_closed() {
            self.stop.store(true, Ordering::Release);
        } else if until <= client.now {
            let _ = report.send(Err(ConnectError::Unreachable(client.unreachable())));
            self.stop.store(true, Ordering::Release);
        } else {
            self.connecting = Some((report, sender, until));
        }
    }

    fn take(&mut self, core: &mut ClientCore, now: Time, command: Command) {
        match command {
            Command::Open { answer, permit } => {
                let token = self.pending.next();
                match core.open_session(token, now) {
                    Ok(_) => self.pending.put(token, Waiter::Open(answer), permit),
                    Err(why) => drop(answer.send(Err(why.into()))),
                }
            }
            Command::Call(call) => {
                let session = call.session;
                self.waiting.entry(session).or_default().push_back(call);
                self.call_waiting(core, now, session);
            }
            Command::Close(session) => {
                for call in self.waiting.remove(&session).into_iter().flatten() {
                    let _ = call.answer.send(Err(CallRefused::Closed.into()));
                }
                core.close_session(session, &mut self.pending);
            }
            Command::Wake => {}
        }
    }

    /// Makes the calls that wait in a session, as far as it has room.
    fn call_waiting(&mut self, core: &mut ClientCore, now: Time, session: SessionHandle) {
        let Some(queue) = self.waiting.get_mut(&session) else {
            return;
        };
        while let Some(call) = queue.pop_front() {
            // Whoever dropped the future does not want it any more, and nothing was sent yet.
            if call.answer.is_closed() {
                continue;
            }
            let token = self.pending.next();
            let taken = match call.again {
                None => core.call(session, &call.operation, token, now),
                Some(seq) => core.call_again(session, seq, &call.operation, token, now),
            };
            match taken {
                Ok(_) => self
                    .pending
                    .put(token, Waiter::Call(call.answer), call.permit),
                Err(CallRefused::WouldBlock) => {
                    queue.push_front(call);
                    return;
                }
                Err(why) => drop(call.answer.send(Err(why.into()))),
            }
        }
        self.waiting.remove(&session);
    }
}

enum Waiter {
    Open(oneshot::Sender<Opened>),
    Call(oneshot::Sender<Ended>),
}

/// Who waits for what, by token. Bounded by the permits.
#[derive(Default)]
struct Pending {
    slots: Vec<Option<(Waiter, OwnedSemaphorePermit)>>,
    free: Vec<usize>,
    /// Sessions that opened when nobody wanted them any more.
    orphans: Vec<SessionHandle>,
}

impl Pending {
    /// The token that the next [`put`](Self::put) takes.
    fn next(&self) -> u64 {
        self.free.last().copied().unwrap_or(self.slots.len()) as u64
    }

    fn put(&mut self, token: u64, waiter: Waiter, permit: OwnedSemaphorePermit) {
        assert_eq!(token, self.next(), "a token is put where it was announced");
        let entry = Some((waiter, permit));
        match self.free.pop() {
            Some(slot) => self.slots[slot] = entry,
            None => self.slots.push(entry),
        }
    }

    fn take(&mut self, token: u64) -> Waiter {
        let slot = usize::try_from(token).expect("tokens are slots");
        let (waiter, _permit) = self.slots[slot].take().expect("a call ends once");
        self.free.push(slot);
        waiter
    }
}

impl ClientEffects for Pending {
    fn send(&mut self, _: NodeSet, _: &Message<'_>) {
        unreachable!("closing a session sends nothing");
    }

    fn opened(&mut self, session: SessionHandle, token: u64, result: Result<SessionId, OpenError>) {
        let Waiter::Open(answer) = self.take(token) else {
            unreachable!("the token of an Open")
        };
        let opened = result.is_ok();
        let answered = answer.send(result.map(|id| (session, id)).map_err(SessionError::from));
        if opened && answered.is_err() {
            self.orphans.push(session);
        }
    }

    fn done(&mut self, _: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        let Waiter::Call(answer) = self.take(token) else {
            unreachable!("the token of a call")
        };
        let ended = match outcome {
            CallOutcome::Committed {
                decree,
                reply: Some(reply),
            } => Ok(Committed {
                decree,
                reply: reply.to_vec(),
            }),
            CallOutcome::Committed {
                decree,
                reply: None,
            } => Err(CallError::ReplyGone { decree }),
            CallOutcome::Rejected(why) => Err(CallError::Rejected(why)),
            CallOutcome::Busy { retry_after } => Err(CallError::Busy { retry_after }),
            CallOutcome::Unknown { session, seq } => Err(CallError::Unknown { session, seq }),
        };
        // Whoever dropped the future does not want to know.
        let _ = answer.send(ended);
    }
}
