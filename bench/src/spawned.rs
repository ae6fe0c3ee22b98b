//! A gateway of the benchmark's own: this executable as `listen` and as `broadcast`, with all
//! settings at their defaults.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use gateway::readiness::{Door as Process, probe};
use gateway::reservation::Reservation;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::child::{Child, ourselves};
use crate::contestant::{Contestant, Running, folder, plain_door, reserve};
use crate::dialect::Dialect;
use crate::setup::Setup;
use crate::socket::{Door, Tls};
use crate::target::Target;

/// Starts a gateway, and waits until both its processes can serve.
pub(crate) fn start(setup: &Setup) -> anyhow::Result<Running> {
    let folder = folder()?;
    let [listen, broadcast, listen_admin, broadcast_admin] =
        [reserve()?, reserve()?, reserve()?, reserve()?];
    let token = new_token();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("tokens"), format!("{token} name=bench\n"))?;
    fs::set_permissions(path("tokens"), fs::Permissions::from_mode(0o600))?;
    let tls = setup.tls.then(|| certify(folder.path())).transpose()?;
    let text = |name: &str| path(name).display().to_string();
    let settings = [
        ("LISTEN_ADDR", listen.address.to_string()),
        ("BROADCAST_ADDR", broadcast.address.to_string()),
        ("LISTEN_ADMIN_ADDR", listen_admin.address.to_string()),
        ("BROADCAST_ADMIN_ADDR", broadcast_admin.address.to_string()),
        ("LINK", format!("unix:{}", text("link.sock"))),
        ("TOKENS_FILE", text("tokens")),
        ("HTTPS_ENABLE", setup.tls.to_string()),
        ("CERT_FILE", text(CERTIFICATE)),
        ("KEY_FILE", text(KEY)),
        ("DATA_DIR", text("data")),
    ];
    let run = |process: Process| {
        let mut command = Command::new(ourselves()?);
        // Nothing of our environment: what is measured are the defaults, and what is asked for.
        command.arg(process.name()).env_clear().envs(settings.clone());
        command.envs(setup.set.iter().map(|it| (&it.name, &it.value)));
        Child::start(process.name(), &mut command, folder.path())
    };
    let mut children = [run(Process::Broadcast)?, run(Process::Listen)?];
    for (child, admin) in children.iter_mut().zip([&broadcast_admin, &listen_admin]) {
        child.wait_until(|| probe(admin.address).is_ok())?;
    }
    let [sessions, posts] = children;
    let door = |at: &Reservation| Door { tls: tls.clone(), ..plain_door(at.address) };
    let target = Target {
        name: Contestant::Fanfare.name(),
        dialect: Dialect::Fanfare,
        publish: door(&listen),
        subscribe: door(&broadcast),
        authorization: Some(format!("Basic {token}")),
        pids: vec![posts.pid(), sessions.pid()],
        session_pids: vec![sessions.pid()],
    };
    // Listen is stopped first, as in a planned stop.
    let children = vec![posts, sessions];
    let reservations = vec![listen, broadcast, listen_admin, broadcast_admin];
    Ok(Running::started(target, children, reservations, folder))
}

/// Good for this gateway alone, which is gone when the benchmark is.
fn new_token() -> String {
    let mut bytes = [0; 16];
    // Without the system's random numbers a token of zeros will do: nobody else is on the way in.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a certificate, and how to trust it.
fn certify(folder: &Path) -> anyhow::Result<Tls> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])
        .context("no certificate can be made")?;
    fs::write(folder.join(CERTIFICATE), made.cert.pem())?;
    fs::write(folder.join(KEY), made.signing_key.serialize_pem())?;
    fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o600))?;
    let mut store = RootCertStore::empty();
    store.add(made.cert.der().clone())?;
    let config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(Tls { config: Arc::new(config), name })
}

const CERTIFICATE: &str = "cert.crt";
const KEY: &str = "cert.key";
