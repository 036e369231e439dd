//! Between a process and its PostgreSQL: loses what it is told to lose, or takes its time. Used by the store's tests and by
//! the suite.

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

/// The name that PostgreSQL gives its socket.
const SOCKET: &str = ".s.PGSQL.5432";

/// How a transaction's end is said.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What becomes of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test binary loses everything")]
pub(crate) enum Loss {
    /// It does not arrive, and the connection is cut.
    Question,
    /// It is not answered, and the connection is cut.
    Answer,
    /// It is not answered, and nothing says so.
    AnswerInSilence,
}

struct State {
    /// The directory of the server's socket.
    server: watch::Sender<PathBuf>,
    /// Nothing arrives, nothing is refused.
    is_hole: watch::Sender<bool>,
    next_commit: Mutex<Option<Loss>>,
    /// The statement with these words that is prepared next is not answered when it has run, and the connection is cut.
    statement: Mutex<Option<&'static str>>,
    /// Each question arrives so much later.
    delay: watch::Sender<Duration>,
}

pub(crate) struct Proxy {
    dir: TempDir,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

#[allow(dead_code, reason = "not every test binary loses everything")]
impl Proxy {
    /// In front of the server whose socket is in this directory.
    pub(crate) fn new(server: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("a socket");
        // A standby runs as another user.
        for (path, mode) in [(dir.path().to_owned(), 0o755), (dir.path().join(SOCKET), 0o777)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
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

    /// Where the server seems to be.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// From now on another server is behind it; connections to the one before are cut.
    pub(crate) fn switch(&self, server: &Path) {
        self.state.server.send_replace(server.to_owned());
    }

    /// The next COMMIT of anybody is not said, or not answered.
    pub(crate) fn lose_next_commit(&self, loss: Loss) {
        *self.state.next_commit.lock() = Some(loss);
    }

    /// Whoever next says these words for the first time on a connection does not hear what came of them.
    pub(crate) fn lose_answer_to(&self, words: &'static str) {
        *self.state.statement.lock() = Some(words);
    }

    /// How long every question takes to arrive from now on.
    pub(crate) fn be_slow(&self, delay: Duration) {
        self.state.delay.send_replace(delay);
    }

    /// Whether packets get lost from now on. A connection that has lost one stays silent: the sender's next attempt would
    /// be a long time off.
    pub(crate) fn be_a_hole(&self, is_hole: bool) {
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
            // What follows its preparation is that it is run.
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
    // Nobody hears of the end through a hole.
    let _ = state.is_hole.subscribe().wait_for(|is_hole| !is_hole).await;
}
