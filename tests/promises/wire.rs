//! Bytes on a socket, for what no library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::gateway::{PATIENCE, Process, TOKEN};

/// A plain TCP connection to a door.
pub struct Wire {
    pub stream: TcpStream,
}

impl Wire {
    pub async fn connect(process: &Process) -> Self {
        Self { stream: TcpStream::connect(process.address()).await.unwrap() }
    }

    /// Connects, upgrades to a WebSocket, and reads the 101.
    pub async fn upgrade(broadcast: &Process) -> Self {
        let mut wire = Self::connect(broadcast).await;
        wire.send(upgrade_request("/", "")).await;
        let head = wire.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        wire
    }

    /// A session that is subscribed, on a socket with the least room to receive. What it does not
    /// read fills the other side's queues soon.
    pub async fn subscribe_narrow(broadcast: &Process, events: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        let mut wire = Self { stream: socket.connect(broadcast.address()).await.unwrap() };
        wire.send(upgrade_request("/", "")).await;
        let head = wire.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        wire.log_in(events).await;
        wire
    }

    /// Sends an init message with the token that may do everything, and reads its `OK`.
    pub async fn log_in(&mut self, events: &str) {
        let init = format!(r#"{{"authentication":"Basic {TOKEN}","events":{events}}}"#);
        self.send(frame(0x81, init.as_bytes())).await;
        let (_, answer) = self.read_frame().await;
        assert_eq!(String::from_utf8_lossy(&answer), r#"{"type":"init","code":"OK"}"#);
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads to the end of a head, and no further.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read_exact(1).await);
        }
        String::from_utf8(head).unwrap()
    }

    /// Connects, sends a request, and reads its answer.
    pub async fn exchange(process: &Process, request: impl AsRef<[u8]>) -> (String, String) {
        let mut wire = Self::connect(process).await;
        wire.send(request).await;
        wire.read_answer().await
    }

    /// Reads one answer with a Content-Length: its head and its body.
    pub async fn read_answer(&mut self) -> (String, String) {
        let head = self.read_head().await;
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        let body = self.read_exact(length).await;
        (head, String::from_utf8(body).unwrap())
    }

    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = self.stream.read_exact(&mut bytes);
        tokio::time::timeout(PATIENCE, read).await.expect("nothing came").unwrap();
        bytes
    }

    /// Reads until the other side ends the connection; a reset is an end, too.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        // A reset comes as an error; what came before it is in `bytes`.
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("the connection stays open");
        bytes
    }

    /// Whether the other side has neither sent nor ended anything for so long.
    pub async fn is_quiet_for(&mut self, duration: Duration) -> bool {
        tokio::time::timeout(duration, self.stream.peek(&mut [0])).await.is_err()
    }

    /// Reads one frame from the server: its first byte and its payload.
    pub async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let header = self.read_exact(2).await;
        assert_eq!(header[1] & 0x80, 0, "a server masks nothing");
        let length = match header[1] {
            126 => u16::from_be_bytes(self.read_exact(2).await.try_into().unwrap()).into(),
            127 => u64::from_be_bytes(self.read_exact(8).await.try_into().unwrap()) as usize,
            short => usize::from(short),
        };
        (header[0], self.read_exact(length).await)
    }

    /// Reads frames up to a Close: its code and reason.
    pub async fn read_close(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.read_frame().await;
            if first == 0x88 {
                let (code, reason) = payload.split_at(2);
                let code = u16::from_be_bytes(code.try_into().unwrap());
                return (code, String::from_utf8(reason.to_vec()).unwrap());
            }
        }
    }
}

/// A client's frame: `first` is its first byte, such as 0x81 for a whole text.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    // A mask of zeros is a mask, and leaves the payload as it is.
    bytes.extend_from_slice(payload);
    bytes
}

/// The header of a client's frame that announces so many bytes.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

/// A WebSocket handshake with further header lines, each with its line end.
pub fn upgrade_request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
    )
}

/// A `POST /event` with the token that may do everything.
pub fn event_request(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The head of a `POST /event`, with further header lines, each with its line end.
pub fn event_head(token: &str, more: &str) -> String {
    format!("POST /event HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {token}\r\n{more}\r\n")
}

/// The status of an answer.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The value of a header.
pub fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
