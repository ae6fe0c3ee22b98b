//! The `fanfare` command: what each of its subcommands promises.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use crate::gateway::{Gateway, House, TOKEN, binary, wait_for};

mod clients;
mod files;
mod queues;
mod up;
mod watching;

/// The command in a house's folder, with its settings and the token that may do everything.
fn fanfare(house: &House, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("fanfare"));
    command
        .args(arguments)
        .env_clear()
        .envs(&house.settings)
        .env("FANFARE_TOKEN", TOKEN)
        .env("FANFARE_CA_FILE", house.folder.path().join("cert.crt"))
        .current_dir(&house.folder)
        .stdin(Stdio::null());
    if !house.folder.path().join("cert.crt").exists() {
        command.env_remove("FANFARE_CA_FILE");
    }
    command
}

/// Runs a command to its end: exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A watch that the gateway has let in.
fn watch(gateway: &Gateway, arguments: &[&str]) -> Running {
    let url = gateway.broadcast.ws_url();
    let arguments = [&["watch", "--url", &url], arguments].concat();
    let running = Running::start(&mut fanfare(&gateway.house, &arguments));
    running.wait_for_err("watching", 1);
    running
}

/// Publishes: exit code, standard output, standard error.
fn fire(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    let url = gateway.listen.url();
    run(&mut fanfare(&gateway.house, &[&["fire", "--url", &url], arguments].concat()))
}

/// A house whose doors speak TLS, with a certificate for `localhost`.
fn house_with_tls() -> House {
    let house = House::new().set("HTTPS_ENABLE", true);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(house.folder.path().join("cert.crt"), made.cert.pem()).unwrap();
    fs::write(house.folder.path().join("cert.key"), made.signing_key.serialize_pem()).unwrap();
    house
}

/// A command that runs, and what it has said so far.
struct Running {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits until this was said on standard error so often.
    fn wait_for_err(&self, text: &str, times: usize) {
        wait_for(&format!("{times} times {text:?}"), || {
            (self.err().matches(text).count() >= times).then_some(())
        });
    }

    fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the command", || self.child.try_wait().unwrap())
    }

    /// As [`run`], but it must end before we lose patience.
    fn end(&mut self) -> (i32, String, String) {
        let code = self.wait().code().unwrap();
        // Whoever collects what it says lets go at the end of it.
        wait_for("its last words", || {
            (Arc::strong_count(&self.out) + Arc::strong_count(&self.err) == 2).then_some(())
        });
        (code, self.out(), self.err())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- it said:\n{}\n--- and:\n{}", self.out(), self.err());
        }
    }
}

fn collect(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let said = Arc::new(Mutex::new(String::new()));
    let lines = Arc::clone(&said);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            *lines.lock().unwrap() += &(line + "\n");
        }
    });
    said
}
