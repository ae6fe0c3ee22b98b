//! The door of a process: accepts connections and deals them out to worker threads.
//!
//! `listen` and `broadcast` each open one and say what a worker does with a connection. The loop is
//! ours because a stop must leave no accepted connection without an answer, and because the total
//! of connections must end in a refusal that can be read, not in silence.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream as TokioStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use crate::guard::{Guard, Leash};
use crate::occupancy::{Admission, Leashes, Occupancy};
use crate::reload::Reloaded;
use crate::socket::Socket;
use crate::tls::Identity;

/// The kernel's queue of connections that wait to be accepted: a herd comes all at once.
const BACKLOG: u32 = 4096;
/// HARDENING: the longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections that wait for one worker; beyond it the accept waits, and the kernel's queue fills.
const QUEUE_CONNECTIONS_MAX: usize = 1024;
/// How long the accept rests when the process is out of descriptors or memory.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);
/// In a drain, how long a client that keeps its connection may take to send one more request.
const QUIET: Duration = Duration::from_millis(500);

/// What a server needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens.
    pub address: SocketAddr,
    /// The number of worker threads.
    pub workers: usize,
    /// The most connections at a time.
    pub connections_max: usize,
    /// The certificate, where TLS is on.
    pub tls: Option<Arc<Reloaded<Identity>>>,
}

/// A connection on its way to its worker.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    is_refused: bool,
}

/// A running door.
#[derive(Debug)]
pub struct Server {
    occupancy: Arc<Occupancy>,
    listening: watch::Sender<bool>,
    phase: watch::Sender<Phase>,
    threads: Vec<std::thread::JoinHandle<()>>,
    address: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serve,
    CloseIdle,
    Abort,
}

impl Server {
    /// Opens the door. `make` runs once on each worker thread and gives what serves a connection
    /// there.
    ///
    /// # Errors
    ///
    /// The address cannot be had, or no thread can be started.
    pub async fn open<Make, Making, Serve, Serving>(
        settings: Settings,
        make: Make,
    ) -> io::Result<Self>
    where
        Make: Fn(usize, Arc<Occupancy>) -> Making + Clone + Send + 'static,
        Making: Future<Output = Serve>,
        Serve: Fn(Guard) -> Serving + 'static,
        Serving: Future<Output = ()> + 'static,
    {
        let listener = bind(settings.address)?;
        let address = listener.local_addr()?;
        let occupancy = Occupancy::new(settings.connections_max);
        let phase = watch::Sender::new(Phase::Serve);
        let (ready, mut readied) = mpsc::channel(settings.workers);
        let mut threads = Vec::new();
        let mut queues = Vec::new();
        for index in 0..settings.workers {
            let (queue, accepted) = mpsc::channel(QUEUE_CONNECTIONS_MAX);
            queues.push(queue);
            let worker = Worker {
                accepted,
                tls: settings.tls.clone(),
                occupancy: Arc::clone(&occupancy),
                phase: phase.subscribe(),
            };
            let (make, ready, occupancy) = (make.clone(), ready.clone(), Arc::clone(&occupancy));
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                worker.run(async move {
                    let serve = make(index, occupancy).await;
                    // Nobody waits for it any more only if the start was given up.
                    let _ = ready.send(()).await;
                    serve
                });
            })?);
        }
        drop(ready);
        for _ in 0..settings.workers {
            readied.recv().await.ok_or(io::ErrorKind::Other)?;
        }
        let listening = watch::Sender::new(true);
        let acceptor = Acceptor { occupancy: Arc::clone(&occupancy), queues, next: 0 };
        tokio::task::spawn_local(acceptor.run(listener, listening.subscribe()));
        Ok(Self { occupancy, listening, phase, threads, address })
    }

    /// Where it listens in fact: the port may have been left to the system.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections, and whether the door is closing.
    pub fn occupancy(&self) -> &Arc<Occupancy> {
        &self.occupancy
    }

    /// Stops accepting; from now on every answer is the last one on its connection.
    pub fn stop_accepting(&self) {
        self.occupancy.drain();
        self.listening.send_replace(false);
    }

    /// Lets what is under way finish, for at most `patience`, and ends the workers.
    pub async fn drain(mut self, patience: Duration) {
        self.stop_accepting();
        let emptied = async {
            // A client that is about to send on a kept connection still gets its answer.
            let quiet = tokio::time::sleep(QUIET);
            tokio::pin!(quiet);
            loop {
                tokio::select! {
                    () = &mut quiet, if !quiet.is_elapsed() => {
                        self.phase.send_replace(Phase::CloseIdle);
                    }
                    () = tokio::time::sleep(Duration::from_millis(10)) => {}
                }
                if self.occupancy.connections() == 0 {
                    return;
                }
            }
        };
        // What is left after that is cut off.
        let _ = tokio::time::timeout(patience, emptied).await;
        self.phase.send_replace(Phase::Abort);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a worker thread had panicked");
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections in and deals them out in turn.
struct Acceptor {
    occupancy: Arc<Occupancy>,
    queues: Vec<mpsc::Sender<Accepted>>,
    next: usize,
}

impl Acceptor {
    /// Accepts until told to stop; then takes what the kernel has already accepted for us, so
    /// that it is answered, and closes the door.
    async fn run(mut self, listener: TcpListener, mut listening: watch::Receiver<bool>) {
        while *listening.borrow() {
            tokio::select! {
                _ = listening.changed() => {}
                // Back to a stream that another thread's event loop can have.
                accepted = listener.accept() => {
                    self.take(accepted.and_then(|(stream, _)| stream.into_std())).await;
                }
            }
        }
        // The kernel is asked itself: the event loop need not have seen who came last, and gives
        // a task only so many in one go.
        let Ok(listener) = listener.into_std() else { return };
        while let Some(accepted) = accept_waiting(&listener) {
            self.take(accepted).await;
        }
    }

    async fn take(&mut self, accepted: io::Result<TcpStream>) {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if is_exhaustion(&error) => {
                log::error!("no connection can be accepted for now: {error}");
                tokio::time::sleep(EXHAUSTED_REST).await;
                return;
            }
            // The client left before we came to it.
            Err(error) => return log::debug!("a connection was lost in the accept: {error}"),
        };
        let Some(is_refused) = self.occupancy.enter() else { return };
        let place = self.next % self.queues.len().max(1);
        self.next = self.next.wrapping_add(1);
        let is_taken = match self.queues.get(place) {
            Some(queue) => queue.send(Accepted { stream, is_refused }).await.is_ok(),
            None => false,
        };
        if !is_taken {
            self.occupancy.leave();
        }
    }
}

/// One of the connections that wait; `None` if none does.
fn accept_waiting(listener: &std::net::TcpListener) -> Option<io::Result<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => Some(stream.set_nonblocking(true).map(|()| stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(error)),
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhaustions = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhaustions.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// One thread that serves connections.
struct Worker {
    accepted: mpsc::Receiver<Accepted>,
    tls: Option<Arc<Reloaded<Identity>>>,
    occupancy: Arc<Occupancy>,
    phase: watch::Receiver<Phase>,
}

impl Worker {
    fn run<Serve, Serving>(self, made: impl Future<Output = Serve>)
    where
        Serve: Fn(Guard) -> Serving + 'static,
        Serving: Future<Output = ()> + 'static,
    {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return log::error!("a worker cannot start: {error}"),
        };
        LocalSet::new().block_on(&runtime, async move {
            let serve = Rc::new(made.await);
            self.work(serve).await;
        });
    }

    /// Serves until told to abort. Arms: a connection comes; the phase of the stop changes.
    async fn work<Serve, Serving>(mut self, serve: Rc<Serve>)
    where
        Serve: Fn(Guard) -> Serving + 'static,
        Serving: Future<Output = ()> + 'static,
    {
        let leashes = Leashes::default();
        loop {
            tokio::select! {
                Some(accepted) = self.accepted.recv() => {
                    let phase = *self.phase.borrow();
                    let occupancy = Arc::clone(&self.occupancy);
                    let (admission, leash) =
                        Admission::new(occupancy, &leashes, accepted.is_refused);
                    if phase == Phase::CloseIdle {
                        leash.close_when_idle();
                    }
                    let tls = self.tls.clone();
                    let serve = Rc::clone(&serve);
                    tokio::task::spawn_local(async move {
                        if let Some(socket) = secure(accepted.stream, tls).await {
                            serve(Guard::new(socket, leash, admission)).await;
                        }
                    });
                }
                changed = self.phase.changed() => {
                    let phase = *self.phase.borrow_and_update();
                    let now: Vec<Rc<Leash>> =
                        leashes.borrow().iter().map(|(_, leash)| Rc::clone(leash)).collect();
                    match phase {
                        Phase::Serve => {}
                        Phase::CloseIdle => now.iter().for_each(|leash| leash.close_when_idle()),
                        Phase::Abort => return,
                    }
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Makes a socket of a stream, with TLS where it is on.
async fn secure(stream: TcpStream, tls: Option<Arc<Reloaded<Identity>>>) -> Option<Socket> {
    // An event waits for nothing; a client that is gone will show when it is read.
    let _ = stream.set_nodelay(true);
    let stream = match TokioStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            log::warn!("a connection cannot be served: {error}");
            return None;
        }
    };
    let Some(tls) = tls else { return Some(Socket::Plain(stream)) };
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.load().config));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Socket::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            log::debug!("a TLS handshake failed: {error}");
            None
        }
        Err(_) => {
            log::debug!("a TLS handshake took too long");
            None
        }
    }
}
