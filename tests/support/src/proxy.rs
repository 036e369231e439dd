//! A proxy between a process and its PostgreSQL that loses or delays messages on demand. Used by the store's tests and
//! by the suite.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The file name of PostgreSQL's socket.
const SOCKET: &str = ".s.PGSQL.5432";

/// The message that commits a transaction.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What the proxy does with a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test binary loses everything")]
pub enum Loss {
    /// The COMMIT does not arrive, and the connection is cut.
    Question,
    /// The answer is lost, and the connection is cut.
    Answer,
    /// The answer is lost, and the connection stays open and silent.
    AnswerInSilence,
}

struct State {
    /// The directory of the socket of the server behind the proxy.
    server: watch::Sender<PathBuf>,
    /// All packets are lost.
    is_hole: watch::Sender<bool>,
    next_commit: Mutex<Option<Loss>>,
    /// The next statement prepared with these words runs, its answer is lost, and the connection is cut.
    statement: Mutex<Option<&'static str>>,
    /// Delay of each message to the server.
    delay: watch::Sender<Duration>,
}

pub struct Proxy {
    dir: TempDir,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

#[allow(dead_code, reason = "not every test binary loses everything")]
impl Proxy {
    /// Creates a proxy in front of the server whose socket is in this directory.
    pub fn new(server: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("a socket");
        // A standby, which connects through the proxy, runs as another user.
        for (path, mode) in [(dir.path().to_owned(), 0o755), (dir.path().join(SOCKET), 0o777)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("the test owns the file");
        }
        let state = Arc::new(State {
            server: watch::Sender::new(server.to_owned()),
            is_hole: watch::Sender::new(false),
            next_commit: Mutex::new(None),
            statement: Mutex::new(None),
            delay: watch::Sender::new(Duration::ZERO),
        });
        let task = tokio::spawn(accept(listener, state.clone()));
        Self { dir, state, _task: AbortOnDropHandle::new(task) }
    }

    /// The directory of the proxy's own socket.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Puts another server behind the proxy; connections to the previous one are cut.
    pub fn switch(&self, server: &Path) {
        self.state.server.send_replace(server.to_owned());
    }

    /// Loses the next COMMIT on any connection, or its answer.
    pub fn lose_next_commit(&self, loss: Loss) {
        *self.state.next_commit.lock() = Some(loss);
    }

    /// Loses the answer to the next statement with these words that a connection prepares.
    pub fn lose_answer_to(&self, words: &'static str) {
        *self.state.statement.lock() = Some(words);
    }

    /// Sets the delay of each message to the server.
    pub fn be_slow(&self, delay: Duration) {
        self.state.delay.send_replace(delay);
    }

    /// Starts or stops losing all packets. A connection that has lost a packet stays silent, because TCP would
    /// retransmit only after a long time.
    pub fn be_a_hole(&self, is_hole: bool) {
        self.state.is_hole.send_replace(is_hole);
    }
}

async fn accept(listener: UnixListener, state: Arc<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let mut switched = state.server.subscribe();
        let server = switched.borrow_and_update().join(SOCKET);
        if let Ok(server) = UnixStream::connect(&server).await {
            let carried = carry(client, server, state.clone());
            tokio::spawn(async move {
                tokio::select! { () = carried => {}, _ = switched.changed() => {} }
            });
        }
    }
}

async fn carry(mut client: UnixStream, mut server: UnixStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (is_silent, answer_is_lost) = (AtomicBool::new(false), AtomicBool::new(false));
    let is_lost = || {
        let is_lost = *state.is_hole.borrow() || is_silent.load(Ordering::Relaxed);
        is_silent.store(is_lost, Ordering::Relaxed);
        is_lost
    };
    let up = async {
        let mut bytes = vec![0; 65_536];
        let mut is_prepared = false;
        loop {
            let length = from_client.read(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            if is_lost() {
                continue;
            }
            let delay = *state.delay.borrow();
            tokio::time::sleep(delay).await;
            // The message after the preparation runs the statement.
            if is_prepared {
                answer_is_lost.store(true, Ordering::Relaxed);
            }
            let says = |words: &mut &str| bytes[..length].windows(words.len()).any(|said| said == words.as_bytes());
            is_prepared = state.statement.lock().take_if(says).is_some();
            if &bytes[..length] == COMMIT {
                match state.next_commit.lock().take() {
                    Some(Loss::Question) => return Ok(()),
                    Some(Loss::Answer) => answer_is_lost.store(true, Ordering::Relaxed),
                    Some(Loss::AnswerInSilence) => is_silent.store(true, Ordering::Relaxed),
                    None => {}
                }
            }
            to_server.write_all(&bytes[..length]).await?;
        }
    };
    let down = async {
        let mut bytes = vec![0; 65_536];
        loop {
            let length = from_server.read(&mut bytes).await?;
            if length == 0 || answer_is_lost.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !is_lost() {
                to_client.write_all(&bytes[..length]).await?;
            }
        }
    };
    let _: std::io::Result<()> = tokio::select! { ended = up => ended, ended = down => ended };
    // While packets are lost, neither side sees that the connection ended.
    let _ = state.is_hole.subscribe().wait_for(|is_hole| !is_hole).await;
}
