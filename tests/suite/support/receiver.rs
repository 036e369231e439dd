//! Scripted receivers on 127.0.0.1, and book R, in which they write each request before they answer it, so that a crash
//! of the sender cannot hide a request. They speak HTTP/1.1 by hand, because the interesting receivers break rules that
//! a server library keeps.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::fact;

/// Pause between bytes: short enough to reset a timer between reads; the answer still never ends within any time limit.
const DRIBBLE: Duration = Duration::from_millis(300);

/// How a script answers one request.
#[derive(Clone)]
pub(crate) enum Reply {
    Status(u16),
    /// A status with one header.
    With(u16, &'static str, String),
    /// 200 with a body of this many bytes.
    Long(usize),
    /// A status after this time.
    After(Duration, u16),
    /// A status as soon as the semaphore has a permit.
    Permitted(Arc<Semaphore>, u16),
    /// 200 with this body.
    Text(String),
    /// No answer, while the connection stays open.
    Hang,
    /// A beginning at once, then the same part again and again with a pause in between, until the sender closes the
    /// connection.
    Pour {
        first: &'static str,
        part: Vec<u8>,
        pause: Duration,
    },
    /// Exactly these bytes, then the connection is closed.
    Bytes(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
}

/// One request as it arrived, and how it ended.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// When the first byte was read.
    pub(crate) arrived: Instant,
    /// When the answer's last byte was about to be sent: no later than the sender can know the answer.
    pub(crate) answered: Option<Instant>,
    /// The status of the answer; `None` if there was none.
    pub(crate) status: Option<u16>,
    /// When the sender gave up waiting for an answer.
    pub(crate) cut: Option<Instant>,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = found.next().map_or("", |(_, value)| value);
        assert!(found.next().is_none(), "{name} was sent twice: {self:?}");
        value
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    fn accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

#[derive(Default)]
struct Book {
    requests: Vec<Request>,
    /// Input that no sender may send: not HTTP, or HTTP that this receiver does not support.
    nonsense: Vec<String>,
}

type Script = dyn Fn(usize) -> Reply + Send + Sync;

pub(crate) struct Receiver {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub(crate) fn ok() -> Self {
        Self::status(200)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::says(move |_| Reply::Status(status))
    }

    /// Fails `times` times with 500; what follows is chosen on the result.
    pub(crate) fn fails(times: usize) -> Failing {
        Failing { times }
    }

    /// Fails every `n`-th request, and accepts the others.
    pub(crate) fn fails_every(n: usize) -> Self {
        Self::says(move |seen| Reply::Status(if seen % n == n - 1 { 500 } else { 200 }))
    }

    pub(crate) fn hangs() -> Self {
        Self::says(|_| Reply::Hang)
    }

    /// A good head at once, then a body that drips and never ends.
    pub(crate) fn dribbles_body() -> Self {
        Self::pours("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", ".", DRIBBLE)
    }

    pub(crate) fn pours(first: &'static str, part: impl Into<Vec<u8>>, pause: Duration) -> Self {
        let part = part.into();
        Self::says(move |_| Reply::Pour { first, part: part.clone(), pause })
    }

    pub(crate) fn blurts(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::says(move |_| Reply::Bytes(bytes.clone()))
    }

    pub(crate) fn closes() -> Self {
        Self::says(|_| Reply::Close)
    }

    pub(crate) fn answers_after(delay: Duration) -> Self {
        Self::says(move |_| Reply::After(delay, 200))
    }

    /// Accepts a request for each permit; further requests wait for a permit.
    pub(crate) fn accepts_with(permits: &Arc<Semaphore>) -> Self {
        let permits = Arc::clone(permits);
        Self::says(move |_| Reply::Permitted(Arc::clone(&permits), 200))
    }

    /// Always answers that it is busy, with this `Retry-After`.
    pub(crate) fn retry_after(hint: &'static str) -> Self {
        Self::says(move |_| Reply::With(429, "Retry-After", hint.to_owned()))
    }

    /// Always answers that it is busy, with a date in `Retry-After` that is `wait` after the request.
    pub(crate) fn retry_after_date(wait: Duration) -> Self {
        Self::says(move |_| Reply::With(503, "Retry-After", httpdate::fmt_http_date(SystemTime::now() + wait)))
    }

    pub(crate) fn says_at_length(bytes: usize) -> Self {
        Self::says(move |_| Reply::Long(bytes))
    }

    pub(crate) fn redirects_to(status: u16, url: String) -> Self {
        Self::says(move |_| Reply::With(status, "Location", url.clone()))
    }

    /// Answers with the status last stored; with none while that is 0, and the connection stays open.
    pub(crate) fn told(status: u16) -> (Self, Arc<AtomicU16>) {
        let answer = Arc::new(AtomicU16::new(status));
        let script = answer.clone();
        let reply = move |_| match script.load(Ordering::Relaxed) {
            0 => Reply::Hang,
            status => Reply::Status(status),
        };
        (Self::says(reply), answer)
    }

    /// Answers request n, counted from 0, with `script(n)`.
    pub(crate) fn says(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Down::new().come_up(script)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.read(<[Request]>::to_vec)
    }

    /// What `read` finds in book R.
    fn read<T>(&self, read: impl FnOnce(&[Request]) -> T) -> T {
        let book = lock(&self.book);
        assert!(book.nonsense.is_empty(), "not HTTP: {:?}", book.nonsense);
        read(&book.requests)
    }

    fn count(&self, which: impl Fn(&Request) -> bool) -> usize {
        self.read(|requests| requests.iter().filter(|request| which(request)).count())
    }

    /// Waits until at least `n` requests have arrived and been answered, or cut off.
    pub(crate) async fn saw(&self, n: usize) -> Vec<Request> {
        self.saw_within(fact::DEADLINE, n).await
    }

    pub(crate) async fn saw_within(&self, deadline: Duration, n: usize) -> Vec<Request> {
        let what = format!("{n} requests at {}", self.address);
        fact::until_within(deadline, &what, async || {
            let done = self.count(|request| request.answered.is_some() || request.cut.is_some());
            (done >= n).then(|| self.requests())
        })
        .await
    }

    /// Waits until at least `n` requests have arrived, answered or not.
    pub(crate) async fn was_asked(&self, n: usize) {
        let what = format!("{n} arrivals at {}", self.address);
        fact::until(&what, async || (self.count(|_| true) >= n).then_some(())).await;
    }

    /// When the first request after `moment` arrived.
    pub(crate) fn asked_after(&self, moment: Instant) -> Option<Instant> {
        self.read(|requests| requests.iter().map(|request| request.arrived).find(|arrived| *arrived > moment))
    }

    /// How many requests were accepted with a 2xx.
    pub(crate) fn accepted(&self) -> usize {
        self.count(Request::accepted)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(crate) struct Failing {
    times: usize,
}

impl Failing {
    pub(crate) fn then_accepts(self) -> Receiver {
        Receiver::says(move |seen| Reply::Status(if seen < self.times { 500 } else { 200 }))
    }
}

/// An address that refuses connections; the socket is held so that no other process gets the port.
pub(crate) struct Down {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Down {
    pub(crate) fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST)
    }

    /// The same on address `ip` of this machine.
    pub(crate) fn at(ip: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((ip, 0))).expect("a free port");
        let address = socket.local_addr().expect("a bound address");
        Self { socket, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn come_up(self, script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Receiver {
        let listener = self.socket.listen(1024).expect("a listener");
        let book = Arc::new(Mutex::new(Book::default()));
        let serving = tokio::spawn(serve(listener, Arc::clone(&book), Arc::new(script)));
        Receiver { address: self.address, book, serving }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("no reader of the book panics")
}

/// Connections run in a set that this task owns, so that aborting the task ends them, too.
async fn serve(listener: TcpListener, book: Arc<Mutex<Book>>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (book, script) = (Arc::clone(&book), Arc::clone(&script));
        connections.spawn(async move {
            if let Err(trouble) = converse(stream, &book, &*script).await {
                lock(&book).nonsense.push(trouble);
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection until either side ends it. An error means that the sender does not speak HTTP.
async fn converse(mut stream: TcpStream, book: &Mutex<Book>, script: &Script) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        let (index, reply) = write_down(book, request, script);
        if !answer(&mut stream, book, index, reply).await {
            return Ok(());
        }
    }
    Ok(())
}

fn write_down(book: &Mutex<Book>, mut request: Request, script: &Script) -> (usize, Reply) {
    let mut book = lock(book);
    let index = book.requests.len();
    let reply = script(index);
    request.status = match &reply {
        Reply::Status(status) | Reply::With(status, ..) | Reply::After(_, status) | Reply::Permitted(_, status) => {
            Some(*status)
        }
        Reply::Long(_) | Reply::Text(_) => Some(200),
        Reply::Pour { .. } | Reply::Bytes(_) | Reply::Hang | Reply::Close => None,
    };
    book.requests.push(request);
    (index, reply)
}

/// Sends the answer; returns whether the connection may be used again.
async fn answer(stream: &mut TcpStream, book: &Mutex<Book>, index: usize, reply: Reply) -> bool {
    let whole = match reply {
        Reply::Status(status) => plain(status, "", "ok"),
        Reply::With(status, name, value) => plain(status, &format!("{name}: {value}\r\n"), "ok"),
        Reply::Long(bytes) => plain(200, "", &"x".repeat(bytes)),
        Reply::After(delay, status) => {
            tokio::time::sleep(delay).await;
            plain(status, "", "ok")
        }
        Reply::Permitted(permits, status) => {
            permits.acquire().await.expect("the semaphore is never closed").forget();
            plain(status, "", "ok")
        }
        Reply::Text(body) => plain(200, "", &body),
        Reply::Hang => return watch_the_cut(stream, book, index, std::future::pending()).await,
        Reply::Pour { first, part, pause } => return pour(stream, book, index, (first, &part, pause)).await,
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            lock(book).requests[index].answered = Some(Instant::now());
            return false;
        }
        Reply::Close => {
            lock(book).requests[index].answered = Some(Instant::now());
            return false;
        }
    };
    lock(book).requests[index].answered = Some(Instant::now());
    stream.write_all(whole.as_bytes()).await.is_ok()
}

fn plain(status: u16, header: &str, body: &str) -> String {
    match status {
        // RFC 9110: these answers have no body.
        204 | 304 => format!("HTTP/1.1 {status} Scripted\r\n{header}\r\n"),
        _ => format!("HTTP/1.1 {status} Scripted\r\n{header}content-length: {}\r\n\r\n{body}", body.len()),
    }
}

/// Sends the same part again and again until the sender closes the connection.
async fn pour(
    stream: &mut TcpStream,
    book: &Mutex<Book>,
    index: usize,
    (first, part, pause): (&str, &[u8], Duration),
) -> bool {
    let (mut reading, mut writing) = stream.split();
    let pouring = async {
        let mut said = writing.write_all(first.as_bytes()).await;
        while said.is_ok() {
            tokio::time::sleep(pause).await;
            said = writing.write_all(part).await;
        }
        std::future::pending::<()>().await;
    };
    watch_the_cut(&mut reading, book, index, pouring).await
}

/// Runs `meanwhile` until the sender closes the connection.
async fn watch_the_cut(
    reading: &mut (impl AsyncReadExt + Unpin),
    book: &Mutex<Book>,
    index: usize,
    meanwhile: impl Future<Output = ()>,
) -> bool {
    let mut unexpected = [0; 64];
    tokio::select! {
        _ = reading.read(&mut unexpected) => lock(book).requests[index].cut = Some(Instant::now()),
        () = meanwhile => {}
    }
    false
}

/// Reads one request; `None` when the sender closed between requests.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Request>, String> {
    let mut arrived = (!buffer.is_empty()).then(Instant::now);
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if !read_more(stream, buffer).await {
            return Ok(None);
        }
        arrived.get_or_insert_with(Instant::now);
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).map_err(|error| error.to_string())?;
    let mut request = parse_head(&head, arrived.unwrap_or_else(Instant::now))?;
    let length = request.header("content-length").parse::<usize>().map_err(|_| format!("no length: {head}"))?;
    while buffer.len() < head_end + length {
        if !read_more(stream, buffer).await {
            // A sender that died sent only a part, which was not a request yet.
            return Ok(None);
        }
    }
    request.body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Ok(Some(request))
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(buffer).await, Ok(1..))
}

fn parse_head(head: &str, arrived: Instant) -> Result<Request, String> {
    let mut lines = head.trim_end().split("\r\n");
    let path = match lines.next().map(|line| line.split(' ').collect::<Vec<_>>()).as_deref() {
        Some(["POST", path, "HTTP/1.1"]) => (*path).to_owned(),
        _ => return Err(format!("not a POST of HTTP/1.1: {head}")),
    };
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    let headers = lines.map(header).collect::<Option<Vec<_>>>().ok_or_else(|| format!("a bad header: {head}"))?;
    Ok(Request { arrived, answered: None, status: None, cut: None, path, headers, body: Vec::new() })
}
