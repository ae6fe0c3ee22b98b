//! `fanfare up`: a whole gateway on this machine, for development.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use gateway::readiness::{Door, reachable};
use gateway::reservation::Reservation;
use shared::signals::{Signals, Wish};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::health::AdminAddresses;
use crate::keeper::Keeper;
use crate::tokens_file;
use crate::up::announcement::Announcement;

mod announcement;

/// Runs a whole gateway here: listen and broadcast, with a token to begin with
///
/// All settings of both can be given in the environment; these have other defaults.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where publishers come in
    #[arg(long, env = "LISTEN_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen_addr: SocketAddr,

    /// Where dashboards come in
    #[arg(long, env = "BROADCAST_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    broadcast_addr: SocketAddr,

    #[command(flatten)]
    admin: AdminAddresses,

    /// The tokens file; made with one token where there is none
    #[arg(long, env = "TOKENS_FILE", value_name = "PATH", default_value = "./tokens/tokens")]
    tokens_file: PathBuf,

    /// Whether the doors speak TLS
    #[arg(long, env = "HTTPS_ENABLE", value_name = "true|false", default_value = "false",
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    https_enable: bool,

    /// The certificate chain in PEM
    #[arg(long, env = "CERT_FILE", value_name = "PATH", default_value = "./certs/cert.crt")]
    cert_file: PathBuf,
}

impl Up {
    /// Runs the gateway until it is told to stop, or one of the two is beyond help.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let addresses = self.reserve()?;
        if !self.tokens_file.exists() {
            let secret = tokens_file::new_secret()?;
            tokens_file::append(&self.tokens_file, &format!("{secret} name=development"))?;
        }
        let program = std::env::current_exe().context("where this program is")?;
        let announcement = Announcement {
            listen: reachable(addresses.listen.address),
            broadcast: reachable(addresses.broadcast.address),
            secret: tokens_file::first_usable(&tokens_file::read(&self.tokens_file)?),
            tokens_file: &self.tokens_file,
            certificate: self.https_enable.then_some(self.cert_file.as_path()),
            program: &announcement::pasteable(&program),
        }
        .to_string();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(self.supervise(&program, &addresses, &announcement))
            .map(ExitCode::from)
    }

    fn reserve(&self) -> anyhow::Result<Addresses> {
        let take = |setting: &str, address: SocketAddr| {
            Reservation::take(address)
                .with_context(|| format!("{setting}: {address} cannot be had"))
        };
        Ok(Addresses {
            listen: take("LISTEN_ADDR", self.listen_addr)?,
            broadcast: take("BROADCAST_ADDR", self.broadcast_addr)?,
            listen_admin: take("LISTEN_ADMIN_ADDR", self.admin.listen_admin_addr)?,
            broadcast_admin: take("BROADCAST_ADMIN_ADDR", self.admin.broadcast_admin_addr)?,
        })
    }

    /// Waits for signals, for both to be ready, and for the end of either.
    async fn supervise(
        &self,
        program: &Path,
        addresses: &Addresses,
        announcement: &str,
    ) -> anyhow::Result<u8> {
        let mut signals = Signals::catch()?;
        let settings = self.settings(addresses);
        let keep = |door, admin: &Reservation| {
            Kept::start(door, program, settings.clone(), reachable(admin.address))
        };
        let mut broadcast = keep(Door::Broadcast, &addresses.broadcast_admin);
        let mut listen = keep(Door::Listen, &addresses.listen_admin);
        let doors = [broadcast.ready.clone(), listen.ready.clone()];
        let mut is_announced = false;
        // A child that ends unasked has the reason; the other one is only told to stop then.
        let reason = loop {
            tokio::select! {
                wish = signals.next() => {
                    if wish == Wish::Stop {
                        break 0;
                    }
                    listen.tell(wish);
                    broadcast.tell(wish);
                }
                code = listen.ended() => break code,
                code = broadcast.ended() => break code,
                () = both_ready(doors.clone()), if !is_announced => {
                    is_announced = true;
                    // A terminal that is gone is no reason to stop.
                    let _ = io::stdout().lock().write_all(announcement.as_bytes());
                }
            }
        };
        let code = stop(listen, broadcast, &mut signals).await;
        Ok(if reason == 0 { code } else { reason })
    }

    /// What the children are told beside what is in the environment.
    fn settings(&self, addresses: &Addresses) -> Vec<(&'static str, String)> {
        vec![
            ("LISTEN_ADDR", addresses.listen.address.to_string()),
            ("BROADCAST_ADDR", addresses.broadcast.address.to_string()),
            ("LISTEN_ADMIN_ADDR", addresses.listen_admin.address.to_string()),
            ("BROADCAST_ADMIN_ADDR", addresses.broadcast_admin.address.to_string()),
            ("TOKENS_FILE", self.tokens_file.display().to_string()),
            ("HTTPS_ENABLE", self.https_enable.to_string()),
            ("CERT_FILE", self.cert_file.display().to_string()),
        ]
    }
}

/// Stops listen first, so that broadcast can still take what is in flight. A second signal goes
/// to both at once. Gives the exit code of the one that had a reason to end.
async fn stop(mut listen: Kept, mut broadcast: Kept, signals: &mut Signals) -> u8 {
    if listen.code.is_some() {
        broadcast.tell(Wish::Stop)
    } else {
        listen.tell(Wish::Stop)
    }
    loop {
        tokio::select! {
            _ = listen.ended(), if listen.code.is_none() => broadcast.tell(Wish::Stop),
            _ = broadcast.ended(), if broadcast.code.is_none() => listen.tell(Wish::Stop),
            _ = signals.next() => {
                listen.tell(Wish::Stop);
                broadcast.tell(Wish::Stop);
            }
            else => break,
        }
        if listen.code.is_some() && broadcast.code.is_some() {
            break;
        }
    }
    let codes = [listen.code, broadcast.code];
    codes.into_iter().flatten().find(|code| *code != 0).unwrap_or_default()
}

async fn both_ready(doors: [watch::Receiver<bool>; 2]) {
    for mut door in doors {
        if door.wait_for(|is_ready| *is_ready).await.is_err() {
            // It has ended, and was never ready: its end is what is waited for now.
            std::future::pending::<()>().await;
        }
    }
}

/// A child that is kept.
struct Kept {
    wishes: mpsc::Sender<Wish>,
    ready: watch::Receiver<bool>,
    task: JoinHandle<u8>,
    /// There once it has ended.
    code: Option<u8>,
}

impl Kept {
    fn start(
        door: Door,
        program: &Path,
        settings: Vec<(&'static str, String)>,
        admin: SocketAddr,
    ) -> Self {
        // Signals come one at a time; of a flood of them the first few say it all.
        let (wishes, wished) = mpsc::channel(8);
        let (is_ready, ready) = watch::channel(false);
        let program = program.to_owned();
        let keeper = Keeper { door, program, settings, admin, wishes: wished, ready: is_ready };
        Self { wishes, ready, task: tokio::spawn(keeper.keep()), code: None }
    }

    fn tell(&self, wish: Wish) {
        // Full, or ended: then it has heard enough, or hears nothing any more.
        let _ = self.wishes.try_send(wish);
    }

    async fn ended(&mut self) -> u8 {
        match self.code {
            Some(code) => code,
            None => *self.code.insert((&mut self.task).await.unwrap_or(1)),
        }
    }
}

/// The four addresses, ours as long as this lives.
struct Addresses {
    listen: Reservation,
    broadcast: Reservation,
    listen_admin: Reservation,
    broadcast_admin: Reservation,
}
