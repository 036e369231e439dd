//! A scripted DNS server on 127.0.0.1, over UDP and TCP, which records the queries that it receives. Used by the tests
//! of the DNS client and by the suite.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

/// A longer answer is cut, and the client must ask over TCP (RFC 1035, 2.3.4).
const UDP_LIMIT: usize = 512;

const HEADER: usize = 12;
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NAME_ERROR: u8 = 3;

/// How queries for a name are answered.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "not every test binary says everything")]
pub enum Say {
    Addresses(Vec<IpAddr>),
    /// A CNAME and the addresses of that name.
    Alias(&'static str, Vec<IpAddr>),
    NoSuchName,
    Failure,
    /// No answer at all.
    Nothing,
}

impl Say {
    pub fn addresses(texts: &[&str]) -> Self {
        Self::Addresses(texts.iter().map(|text| text.parse().expect("an address")).collect())
    }
}

/// One query as it arrived. A client that repeats a query because the answer is late uses the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    name: String,
    kind: u16,
    by_tcp: bool,
    id: [u8; 2],
}

#[derive(Default)]
struct Book {
    /// The answers to the first lookup, the second and so on; the last one is used for all later lookups.
    says: HashMap<String, Vec<Say>>,
    asked: Vec<Asked>,
}

pub struct Names {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    _serving: [AbortOnDropHandle<()>; 2],
}

#[allow(dead_code, reason = "not every test binary asks everything")]
impl Names {
    /// Starts a server that knows no name.
    pub async fn start() -> Self {
        let (udp, tcp) = sockets().await.expect("a free port");
        let address = udp.local_addr().expect("a bound address");
        let book = Arc::new(Mutex::new(Book::default()));
        let serving = [tokio::spawn(serve_udp(udp, book.clone())), tokio::spawn(serve_tcp(tcp, book.clone()))];
        Self { address, book, _serving: serving.map(AbortOnDropHandle::new) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the answer for a name.
    pub fn say(&self, name: &str, say: Say) {
        self.say_in_turn(name, vec![say]);
    }

    /// Sets the answers to successive lookups of a name; the last one stays.
    pub fn say_in_turn(&self, name: &str, says: Vec<Say>) {
        self.book.lock().says.insert(name.to_owned(), says);
    }

    /// How often a name was looked up: for its IPv4 addresses, and for its IPv6 addresses.
    pub fn lookups(&self, name: &str) -> (usize, usize) {
        let book = self.book.lock();
        let count =
            |kind| book.asked.iter().filter(|asked| asked.name == name && asked.kind == kind && !asked.by_tcp).count();
        (count(A), count(AAAA))
    }

    /// Every name that was asked for.
    pub fn known(&self) -> BTreeSet<String> {
        self.book.lock().asked.iter().map(|asked| asked.name.clone()).collect()
    }

    pub fn was_asked_by_tcp(&self, name: &str) -> bool {
        self.book.lock().asked.iter().any(|asked| asked.name == name && asked.by_tcp)
    }
}

/// UDP and TCP sockets on one port.
async fn sockets() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no port")))
}

async fn serve_udp(socket: UdpSocket, book: Arc<Mutex<Book>>) {
    let mut bytes = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
        if let Some(answer) = answer(&bytes[..length], &book, false) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, book: Arc<Mutex<Book>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, book.clone()));
    }
}

/// Serves a TCP connection; each message is preceded by its length (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, book: Arc<Mutex<Book>>) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        if let Some(answer) = answer(&query, &book, true) {
            stream.write_u16(u16::try_from(answer.len()).map_err(io::Error::other)?).await?;
            stream.write_all(&answer).await?;
        }
    }
}

/// The answer to a query; `None` for [`Say::Nothing`].
fn answer(query: &[u8], book: &Mutex<Book>, by_tcp: bool) -> Option<Vec<u8>> {
    let (name, kind, question) = read_question(query)?;
    let id = *query.first_chunk()?;
    let say = write_down(book, Asked { name: name.clone(), kind, by_tcp, id });
    let (code, records) = match say {
        Say::Addresses(addresses) => (NO_ERROR, addresses_of(&name, kind, &addresses)),
        Say::Alias(other, addresses) => {
            let alias = record(&name, CNAME, &name_bytes(other));
            (NO_ERROR, [vec![alias], addresses_of(other, kind, &addresses)].concat())
        }
        Say::NoSuchName => (NAME_ERROR, Vec::new()),
        Say::Failure => (SERVER_FAILURE, Vec::new()),
        Say::Nothing => return None,
    };
    let size = HEADER + question.len() + records.iter().map(Vec::len).sum::<usize>();
    let is_cut = !by_tcp && size > UDP_LIMIT;
    let records = if is_cut { Vec::new() } else { records };
    // A response (QR) with recursion desired and available (RD, RA), and TC if it is cut.
    let flags = [0x81 | if is_cut { 0x02 } else { 0 }, 0x80 | code];
    let count = u16::try_from(records.len()).ok()?.to_be_bytes();
    let mut message = [&id[..], &flags, &[0, 1], &count, &[0; 4], question].concat();
    message.extend(records.concat());
    Some(message)
}

/// Records a query and picks its answer. The first query of each record type and transport gets the first answer, and
/// so does its repetition.
fn write_down(book: &Mutex<Book>, asked: Asked) -> Say {
    let mut book = book.lock();
    let same = |before: &&Asked| (&before.name, before.kind, before.by_tcp) == (&asked.name, asked.kind, asked.by_tcp);
    let before: Vec<&Asked> = book.asked.iter().filter(same).collect();
    let repeated = before.iter().position(|before| before.id == asked.id);
    let turn = repeated.unwrap_or(before.len());
    let says = book.says.get(&asked.name).map_or(&[][..], Vec::as_slice);
    let say = says.get(turn).or(says.last()).cloned().unwrap_or(Say::NoSuchName);
    if repeated.is_none() {
        book.asked.push(asked);
    }
    say
}

/// The question of a query: its name without the final dot, its record type, and its bytes.
fn read_question(query: &[u8]) -> Option<(String, u16, &[u8])> {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, query.get(HEADER..at + 4)?))
}

fn addresses_of(name: &str, kind: u16, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let record_of = |ip: &IpAddr| match (ip, kind) {
        (IpAddr::V4(ip), A) => Some(record(name, A, &ip.octets())),
        (IpAddr::V6(ip), AAAA) => Some(record(name, AAAA, &ip.octets())),
        _ => None,
    };
    addresses.iter().filter_map(record_of).collect()
}

/// A resource record of class IN with a TTL of zero.
fn record(name: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short data").to_be_bytes();
    [&name_bytes(name)[..], &kind.to_be_bytes(), &[0, 1], &[0; 4], &length, data].concat()
}

fn name_bytes(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).expect("a short label")], label.as_bytes()].concat();
    [name.split('.').flat_map(label).collect(), vec![0]].concat()
}
