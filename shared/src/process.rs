//! What both processes do from their start to their end.

use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::LocalSet;

use crate::bearer::Bearer;
use crate::reload::{LoadError, Reloaded};
use crate::settings::{Common, EXIT_CONFIG};
use crate::signals::{Signals, Wish};
use crate::tls::{Identity, IdentityFiles};
use crate::tokens::{Tokens, TokensFile};
use crate::{link, logging};

/// Runs a process on this thread, until it has ended, and says how.
pub fn run(common: &Common, main: impl Future<Output = Result<(), StartError>>) -> ExitCode {
    logging::init(common.log_format, &common.rust_log);
    // A second installation can only come of running twice in one process, and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::System)
        .and_then(|runtime| LocalSet::new().block_on(&runtime, main));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            if !log::log_enabled!(log::Level::Error) {
                // Why a process does not start is said even where nothing is logged.
                let _ = writeln!(io::stderr(), "{error}");
            }
            error.exit_code()
        }
    }
}

/// The files that a process follows.
#[derive(Debug, Clone)]
pub struct Files {
    /// Who may come in.
    pub tokens: Arc<Reloaded<Tokens>>,
    /// What verifies signed tokens, where such are taken.
    pub bearer: Option<Arc<Bearer>>,
    /// The certificate, where TLS is on.
    pub tls: Option<Arc<Reloaded<Identity>>>,
}

impl Files {
    /// Reads them for the first time.
    ///
    /// # Errors
    ///
    /// One of them is no good: at start there is no last good value to go on with.
    pub fn follow(common: &Common) -> Result<Self, StartError> {
        let fault = |setting: &str, error: LoadError| StartError::Setting {
            setting: setting.to_owned(),
            fault: error.to_string(),
        };
        let bearer =
            common.bearer().map_err(|error| fault("JWT_SECRET_FILE, JWT_KEYS_FILE", error))?;
        let tokens = TokensFile::new(common.tokens_file.clone(), bearer.clone());
        let tokens = Reloaded::follow(tokens).map_err(|error| fault("TOKENS_FILE", error))?;
        let (certificate, key) = (common.cert_file.clone(), common.key_file.clone());
        let tls = common.https_enable.then(|| {
            Reloaded::follow(IdentityFiles::new(certificate, key))
                .map_err(|error| fault("CERT_FILE, KEY_FILE", error))
        });
        Ok(Self { tokens, bearer, tls: tls.transpose()? })
    }

    /// Reads all of them again soon.
    fn reload(&self) {
        self.tokens.ask();
        if let Some(bearer) = &self.bearer {
            bearer.keys.ask();
        }
        if let Some(tls) = &self.tls {
            tls.ask();
        }
    }
}

/// Catches signals from now on: one that comes during the start must not kill the process.
///
/// # Errors
///
/// The system does not let us catch signals.
pub fn catch_signals() -> Result<Signals, StartError> {
    Signals::catch().map_err(StartError::System)
}

/// Waits until the process is told to stop, and reads the files again when told so. From then on
/// another word to stop ends the process at once.
pub async fn until_stopped(mut signals: Signals, files: &Files) {
    while signals.next().await == Wish::Reload {
        log::info!("reading all files again");
        files.reload();
    }
    log::info!("stopping");
    tokio::task::spawn_local(async move {
        while signals.next().await == Wish::Reload {}
        log::warn!("stopped at once");
        std::process::exit(1);
    });
}

/// Why a process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting, or what it names, is wrong.
    #[error("{setting}: {fault}")]
    Setting {
        /// The setting's name.
        setting: String,
        /// What is wrong.
        fault: String,
    },
    /// An address cannot be had.
    #[error("{setting}: {address} cannot be had: {error}")]
    Door {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
    /// What was kept cannot be read, or nothing can be kept.
    #[error("DATA_DIR: {} cannot be opened, and is left as it is: {fault}", path.display())]
    Log {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and where.
        fault: String,
    },
    /// The link's socket cannot be made.
    #[error("LINK: {0}")]
    Link(#[from] link::unix::RendezvousError),
    /// The system refuses something that we cannot do without.
    #[error("the system refuses: {0}")]
    System(io::Error),
}

impl StartError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Setting { .. } => ExitCode::from(EXIT_CONFIG),
            Self::Door { .. } | Self::Log { .. } | Self::Link(_) | Self::System(_) => {
                ExitCode::FAILURE
            }
        }
    }
}
