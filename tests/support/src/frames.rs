//! An HTTP/2 client that works frame by frame, for behaviour that no regular client shows.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Frames<I = TcpStream>(I);

impl Frames {
    /// Opens a connection whose flow-control window allows `window` bytes of each answer.
    pub async fn open(url: &str, window: u32) -> Self {
        Self::from_address(url, [127, 0, 0, 1].into(), window).await
    }

    pub async fn from_address(url: &str, source: IpAddr, window: u32) -> Self {
        Self::over(connect(url, source).await, window).await
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Frames<I> {
    /// Begins a connection over `io`.
    pub async fn over(io: I, window: u32) -> Self {
        let mut frames = Self(io);
        frames.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.set_window(window).await;
        frames
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    pub async fn set_window(&mut self, window: u32) {
        let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
        self.send(SETTINGS, 0, 0, &setting).await;
    }

    /// Sends a frame; returns whether that was possible.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.write(&[&head, payload].concat()).await
    }

    /// Sends a complete `GET path`.
    pub async fn get(&mut self, stream: u32, path: &str) -> bool {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &head(path, &[])).await
    }

    /// The next frame; `None` when the server has closed the connection. Settings and PINGs are acknowledged.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            match kind {
                SETTINGS if flags & ACK == 0 => _ = self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => _ = self.send(PING, ACK, 0, &payload).await,
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }),
            }
        }
    }

    /// The next frame of this kind; `None` when the server has closed the connection.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads until the server closes the connection.
    pub async fn stay(mut self) {
        while self.next().await.is_some() {}
    }
}

/// Connects from address `source` of this machine.
pub async fn connect(url: &str, source: IpAddr) -> TcpStream {
    let address: SocketAddr = url.split("://").last().and_then(|host| host.parse().ok()).expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(source, 0)).expect("an address of this machine");
    socket.connect(address).await.expect("a connection")
}

/// The header block of `GET path` with additional fields.
pub fn head(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    // Indices of the static table: `:method: GET` and `:scheme: http`, then the names of `:path` and `:authority`.
    let mut block = vec![0x82, 0x86, 0x04];
    string(&mut block, path);
    block.push(0x01);
    string(&mut block, "a.example");
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => block.push(text.len() as u8),
        Some(more) => block.extend([127, u8::try_from(more).expect("a short text")]),
    }
    block.extend(text.as_bytes());
}
