//! RabbitMQ of the tests' own: Debian's, without its service, its cluster, and all doors but one.
//!
//! A keeper holds each: a shell that ends its broker when whoever started it is gone, however it
//! went, for then the keeper's standard input ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::gateway::{House, wait_for};
use crate::measures::until;
use crate::ports::Port;

/// Debian's; the one in the path would start a shell as another user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// `$0` is the server, `$1` its folder, `$2` what is removed at the end. The broker is a child that
/// nobody else waits for, so that its number is nobody else's.
const KEEPER: &str = r#"
    trap '' HUP INT TERM
    "$0" </dev/null >>"$1/out" 2>&1 &
    echo $!
    cat >/dev/null
    kill -9 $!
    wait
    [ -z "$2" ] || rm -rf "$2"
"#;

/// It takes seconds of a processor to start: all at once none would be there in time.
static STARTING: Semaphore = Semaphore::const_new(1);

/// A broker, at a door that stays where it is when the broker is killed and started again.
pub struct Rabbit {
    folder: PathBuf,
    keeper: Option<(Child, Pid)>,
    port: Port,
    secure_port: Port,
    removed: Option<TempDir>,
}

impl Rabbit {
    /// One for all tests of this program that leave it alone. It ends with the program.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Rabbit> = LazyLock::new(|| {
            let folder = tempfile::tempdir().unwrap().keep();
            let mut rabbit = Rabbit::at(folder.clone(), None);
            rabbit.spawn(&folder.display().to_string());
            wait_for("RabbitMQ at its door", || {
                TcpStream::connect(rabbit.port.address).ok().or_else(|| rabbit.assert_is_alive())
            });
            rabbit
        });
        &SHARED
    }

    /// One of a test's own, that does not run yet.
    pub fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::at(folder.path().to_owned(), Some(folder))
    }

    /// One of a test's own.
    pub async fn start() -> Self {
        let mut rabbit = Self::prepare();
        rabbit.up().await;
        rabbit
    }

    fn at(folder: PathBuf, removed: Option<TempDir>) -> Self {
        let (port, secure_port) = (Port::choose(), Port::choose());
        fs::write(folder.join("plugins"), "[].").unwrap();
        write_certificates(&folder);
        let path = |name: &str| folder.join(name).display().to_string();
        let conf = format!(
            "listeners.ssl.1 = {}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
            secure_port.address,
            path("ca.pem"),
            path("cert.pem"),
            path("key.pem")
        );
        fs::write(folder.join("rabbitmq.conf"), conf).unwrap();
        Self { folder, keeper: None, port, secure_port, removed }
    }

    /// Starts it, again or for the first time, and waits until its door is open.
    pub async fn up(&mut self) {
        let _turn = STARTING.acquire().await.unwrap();
        self.spawn("");
        let address = self.port.address;
        until("RabbitMQ at its door", async || {
            let opened = tokio::net::TcpStream::connect(address).await.ok();
            opened.map(drop).or_else(|| self.assert_is_alive())
        })
        .await;
    }

    fn spawn(&mut self, removed: &str) {
        assert!(Path::new(SERVER).exists(), "on Debian: sudo apt-get install rabbitmq-server");
        let (folder, port) = (&self.folder, self.port.address.port().to_string());
        let mut keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, SERVER])
            .arg(folder)
            .arg(removed)
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")])
            .env("HOME", folder)
            // The server's script becomes the server: it is one process.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_NODENAME", "test@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port)
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("env.conf"))
            // Erlang's own doors stay shut; here, for those that it starts in a minute, too.
            .env("ERL_FLAGS", "-start_epmd false -dist_listen false -erl_epmd_port 1")
            .envs([("ERL_EPMD_PORT", "1"), ("ERL_EPMD_ADDRESS", "127.0.0.1")])
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-sname test@localhost +S 1:1 +SDcpu 1:1 +SDio 1 +A 1",
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        self.keeper = Some((keeper, pid));
    }

    /// Ends the test if it has ended; nothing otherwise.
    fn assert_is_alive<T>(&self) -> Option<T> {
        let (_, pid) = self.keeper.as_ref().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let is_gone = status.is_ok_and(|it| it.contains(") Z "));
        let said = || fs::read_to_string(self.folder.join("out")).unwrap();
        assert!(!is_gone, "RabbitMQ has ended: {}", said());
        None
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let Some((mut keeper, _)) = self.keeper.take() else { return };
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.keeper.as_ref().unwrap().1, signal).unwrap();
    }

    /// Where it is, for who is its guest.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/", self.port.address)
    }

    /// The same behind TLS.
    pub fn secure_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/", self.secure_port.address.port())
    }

    /// Who has signed its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A house whose queues are here.
    pub fn house(&self) -> House {
        House::new().set("QUEUE_ENGINE", "amqp").set("AMQP_URLS", self.url())
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
        drop(self.removed.take());
    }
}

/// A certificate for `localhost`, and who has signed it.
fn write_certificates(folder: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}
