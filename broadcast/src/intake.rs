//! The thread on which events come in: the receiver, which reads the links, and the log.
//!
//! Both on one thread: an event passes from a link to the log, and its receipt back, without
//! waking anybody. The accept of clients and the sessions are on other threads, so that a herd of
//! them does not keep events waiting.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use shared::link::unix::RendezvousError;
use shared::memory::Memory;
use shared::process::StartError;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

use crate::fatal::Fatal;
use crate::log::{Log, Seat};
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
    /// Counts events that got their place.
    pub taken: Counter,
    /// Counts events for which there was no room.
    pub refused: Counter,
    /// How long the senders' goodbyes may take at a stop.
    pub patience: Duration,
}

/// The running thread.
#[derive(Debug)]
pub struct Intake {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Intake {
    /// Starts the thread, and waits until senders can come.
    ///
    /// # Errors
    ///
    /// There can be no thread, or no place for senders to come to.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let (stop, stopping) = watch::channel(false);
        let (opened, is_open) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::System)?;
        let thread = std::thread::Builder::new().name("intake".to_owned());
        let thread = thread.spawn(move || {
            let _fatal = Fatal("the intake");
            LocalSet::new().block_on(&runtime, work(settings, stopping, opened));
            // Nobody waits for it if the start was given up.
            let _ = end.send(());
        });
        let thread = thread.map_err(StartError::System)?;
        is_open.await.map_err(|_| StartError::System(std::io::ErrorKind::Other.into()))??;
        Ok(Self { stop, ended, thread })
    }

    /// Takes no further event; returns when all that were taken are with the workers, and the
    /// workers know that they were the last.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if self.ended.await.is_err() || self.thread.join().is_err() {
            ::log::error!("the log did not end as it should");
        }
    }
}

async fn work(
    settings: Settings,
    mut stopping: watch::Receiver<bool>,
    opened: oneshot::Sender<Result<(), RendezvousError>>,
) {
    let Settings { receiver, workers, memory, taken, refused, patience } = settings;
    let (log, inbox) = Log::new(workers, Arc::clone(&memory));
    let logging = tokio::task::spawn_local(log.run());
    let receiver = match Receiver::open(receiver, inbox, memory, taken, refused).await {
        Ok(receiver) => receiver,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let _ = opened.send(Ok(()));
    let mut receiving = tokio::task::spawn_local(receiver.run(stopping.clone()));
    // An end of the process that does not say so is an end, too.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    // A sender that does not take its goodbye must not keep the end from the sessions.
    if tokio::time::timeout(patience, &mut receiving).await.is_err() {
        ::log::warn!("a sender did not take its goodbye in time");
        receiving.abort();
    }
    // With the last sender the inbox has gone: the log ends, and tells the workers.
    if tokio::time::timeout(patience, logging).await.is_err() {
        ::log::warn!("a worker did not take the last events in time");
    }
}
