//! The threads on which events come in: the receiver, which reads the links, and the log, which may
//! have to wait for the disk.
//!
//! The accept of clients and the sessions are on other threads, so that a herd of them does not keep
//! events waiting.

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use shared::memory::Memory;
use shared::process::StartError;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

use crate::direct;
use crate::fatal::Fatal;
use crate::log::keeper::Opened;
use crate::log::{Log, Seat};
use crate::metrics::Metrics;
use crate::receiver::{self, Receiver};

/// What the thread needs to know.
#[derive(Debug)]
pub struct Settings {
    /// The receiver's part.
    pub receiver: receiver::Settings,
    /// The workers' queues.
    pub workers: Vec<Seat>,
    /// The account of what waits.
    pub memory: Arc<Memory>,
    /// The log.
    pub opened: Opened,
    /// Where the workers look for the way to it.
    pub direct: direct::Opening,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How long the senders' goodbyes may take at a stop.
    pub patience: Duration,
}

/// The running threads.
#[derive(Debug)]
pub struct Intake {
    stop: watch::Sender<bool>,
    receiver: Thread,
    log: Thread,
}

/// A thread that runs one task, and whose end can be waited for.
#[derive(Debug)]
struct Thread {
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Thread {
    fn start<F: Future<Output = ()>>(
        name: &'static str,
        task: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, StartError> {
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::System)?;
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || {
            let _fatal = Fatal(name);
            LocalSet::new().block_on(&runtime, task());
            // Nobody waits for it if the start was given up.
            let _ = end.send(());
        });
        Ok(Self { ended, thread: thread.map_err(StartError::System)? })
    }

    async fn end(self) {
        if self.ended.await.is_err() || self.thread.join().is_err() {
            ::log::error!("a thread did not end as it should");
        }
    }
}

impl Intake {
    /// Starts the threads, and waits until senders can come.
    ///
    /// # Errors
    ///
    /// There can be no thread, or no place for senders to come to.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let (stop, stopping) = watch::channel(false);
        let (opened, is_open) = oneshot::channel();
        let Settings { receiver, workers, memory, opened: log, direct, metrics, patience } =
            settings;
        let (refused, epoch) = (metrics.turned_away.clone(), log.archive.epoch.clone());
        let (log, inbox) = Log::new(log, workers, Arc::clone(&memory), metrics);
        // It is set once: there is one log.
        let _ = direct.set(inbox.downgrade());
        let log = Thread::start("log", || log.run())?;
        let receiver = Thread::start("intake", move || async move {
            match Receiver::open(receiver, inbox, memory, refused, epoch).await {
                Ok(receiver) => {
                    let _ = opened.send(Ok(()));
                    receive(receiver, stopping, patience).await;
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        })?;
        is_open.await.map_err(|_| StartError::System(std::io::ErrorKind::Other.into()))??;
        Ok(Self { stop, receiver, log })
    }

    /// Takes no further event; returns when all that were taken are with the workers, the workers
    /// know that they were the last, and the log is closed.
    pub async fn stop(self, patience: Duration) {
        self.stop.send_replace(true);
        self.receiver.end().await;
        // With the last sender the inbox has gone: the log ends, and tells the workers.
        if tokio::time::timeout(patience, self.log.end()).await.is_err() {
            ::log::warn!("a worker did not take the last events in time, or the disk is slow");
        }
    }
}

async fn receive(receiver: Receiver, mut stopping: watch::Receiver<bool>, patience: Duration) {
    let mut receiving = tokio::task::spawn_local(receiver.run(stopping.clone()));
    // An end of the process that does not say so is an end, too.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    // A sender that does not take its goodbye must not keep the end from the sessions.
    if tokio::time::timeout(patience, &mut receiving).await.is_err() {
        ::log::warn!("a sender did not take its goodbye in time");
        receiving.abort();
    }
}
