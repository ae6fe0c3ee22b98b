//! A proxy on the link, which can be told to misbehave.
//!
//! Runs on threads of its own: a test that blocks does not stop it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::gateway::{Gateway, House, Process};

/// The proxy between a `listen` and its `broadcast`.
pub struct LinkProxy {
    manners: Arc<Manners>,
}

/// How it treats the bytes that pass.
#[derive(Default)]
pub struct Manners {
    /// Nothing passes from listen to broadcast.
    pub holds_events: AtomicBool,
    /// Nothing passes from broadcast to listen.
    pub holds_receipts: AtomicBool,
    /// Each byte is written alone.
    pub dribbles: AtomicBool,
    /// Milliseconds that everything waits.
    pub delay: AtomicU64,
    /// Bytes of events after which the connection is cut; negative: never.
    pub events_left: AtomicI64,
    /// Bytes that have passed from broadcast to listen, or wait to.
    pub receipts_seen: AtomicU64,
    streams: Mutex<Vec<UnixStream>>,
}

impl LinkProxy {
    fn open(path: &Path, to: PathBuf) -> Self {
        let manners = Arc::new(Manners { events_left: AtomicI64::new(-1), ..Manners::default() });
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::clone(&manners);
        std::thread::spawn(move || {
            for listen in listener.incoming().map_while(Result::ok) {
                // Broadcast is away: so is whoever stands in for it.
                let Ok(broadcast) = UnixStream::connect(&to) else { continue };
                shared.serve(&listen, &broadcast);
            }
        });
        Self { manners }
    }

    pub fn manners(&self) -> &Manners {
        &self.manners
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for stream in self.manners.streams.lock().unwrap().drain(..) {
            // The other end may have gone first.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Manners {
    fn serve(self: &Arc<Self>, listen: &UnixStream, broadcast: &UnixStream) {
        let clones = [listen, broadcast].map(|stream| stream.try_clone().unwrap());
        self.streams.lock().unwrap().extend(clones);
        for is_up in [true, false] {
            let (from, to) = if is_up { (listen, broadcast) } else { (broadcast, listen) };
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let manners = Arc::clone(self);
            std::thread::spawn(move || {
                // An end of either side is the end of both.
                let _ = manners.pass(&from, &to, is_up);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    fn pass(&self, mut from: &UnixStream, mut to: &UnixStream, is_up: bool) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            if !is_up {
                self.receipts_seen.fetch_add(count as u64, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
            let holds = if is_up { &self.holds_events } else { &self.holds_receipts };
            while holds.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            let mut bytes = &buffer[..count];
            let left = self.events_left.load(Ordering::SeqCst);
            let is_last = is_up && left >= 0 && left <= count as i64;
            if is_last {
                bytes = &bytes[..left as usize];
            } else if is_up && left >= 0 {
                self.events_left.fetch_sub(count as i64, Ordering::SeqCst);
            }
            if self.dribbles.load(Ordering::SeqCst) {
                for byte in bytes {
                    to.write_all(std::slice::from_ref(byte))?;
                }
            } else {
                to.write_all(bytes)?;
            }
            if is_last {
                self.events_left.store(-1, Ordering::SeqCst);
                return Ok(());
            }
        }
    }
}

/// Both processes, with a proxy on their link.
pub fn open_with_proxy(house: House) -> (Gateway, LinkProxy) {
    let broadcast = house.broadcast();
    let path = house.folder.path().join("proxy.sock");
    let proxy = LinkProxy::open(&path, house.socket());
    let mut settings = house.settings.clone();
    settings.insert("LINK".to_owned(), format!("unix:{}", path.display()));
    // One worker: one connection, so that what is done to it is done to all events.
    settings.insert("WORKERS".to_owned(), "1".to_owned());
    let listen = Process::start("listen", &settings);
    listen.wait_for_log("the link is up");
    (Gateway { listen, broadcast, house }, proxy)
}
