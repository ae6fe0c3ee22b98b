//! TLS at both doors (HARDENING, "TLS").

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Subscriber;
use crate::gateway::{Gateway, House, PATIENCE, Process, TOKEN};
use crate::measures::{degraded, until};
use crate::wire::{Wire, event_request};

/// A certificate for `localhost`, and its key.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Pair {
    fn new() -> Self {
        Self::until_year(2099)
    }

    fn until_year(year: i32) -> Self {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// Puts both files in their places.
    fn write(&self, house: &House) {
        fs::write(house.folder.path().join("cert.crt"), self.certificate.pem()).unwrap();
        fs::write(house.folder.path().join("cert.key"), self.key.serialize_pem()).unwrap();
    }
}

/// A house with TLS on and a certificate.
fn house() -> (House, Pair) {
    let (house, pair) = (House::new().set("HTTPS_ENABLE", "true"), Pair::new());
    pair.write(&house);
    (house, pair)
}

/// A client's side of TLS, which trusts this certificate alone.
async fn connect(
    process: &Process,
    trusted: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(process.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate that the process shows.
async fn shown(process: &Process, trusted: &Pair) -> Option<CertificateDer<'static>> {
    let stream = connect(process, trusted.der(), rustls::ALL_VERSIONS).await.ok()?;
    stream.get_ref().1.peer_certificates().unwrap().first().cloned().map(CertificateDer::into_owned)
}

#[tokio::test]
async fn events_pass_under_tls_1_2_and_1_3() {
    let (house, pair) = house();
    let gateway = house.open();
    for versions in [&[&version::TLS12], &[&version::TLS13]] {
        let stream = connect(&gateway.broadcast, pair.der(), versions).await.unwrap();
        let url = gateway.broadcast.ws_url() + "/";
        let (mut session, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let negotiated = session.get_ref().get_ref().1.protocol_version();
        assert_eq!(negotiated, Some(versions[0].version));
        use futures_util::{SinkExt as _, StreamExt as _};
        use tokio_tungstenite::tungstenite::Message;
        let init = format!(r#"{{"authentication":"Basic {TOKEN}","events":["a"]}}"#);
        session.send(Message::text(init)).await.unwrap();
        let mut hear = async || session.next().await.unwrap().unwrap().into_text().unwrap();
        assert_eq!(hear().await, r#"{"type":"init","code":"OK"}"#);
        let mut publisher = connect(&gateway.listen, pair.der(), versions).await.unwrap();
        assert_eq!(publisher.get_ref().1.protocol_version(), Some(versions[0].version));
        let request = event_request(r#"{"event":"a","data":1}"#);
        publisher.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(hear().await, r#"{"type":"event","event":"a","data":1}"#);
        let mut answer = vec![0; 12];
        publisher.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
    }
    assert_ne!(ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
}

/// Reads until this stands at the end of what came.
async fn read_to(stream: &mut TlsStream<TcpStream>, end: &str) -> String {
    let read = async {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            seen.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(seen).unwrap()
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{end:?} never came"))
}

/// What TLS holds back is not written: the message would be lost with the connection.
#[tokio::test]
async fn a_queue_acknowledges_under_tls_what_was_written_whole_and_nothing_else() {
    let (house, pair) = house();
    let house = house.set("MAX_BODY", "32MiB").set("MEMORY_LIMIT", "4GiB");
    let gateway = house.set("PUBLISH_TIMEOUT", "60s").open();
    let tls =
        async |process: &Process| connect(process, pair.der(), rustls::ALL_VERSIONS).await.unwrap();
    let consume = async || {
        let mut stream = tls(&gateway.broadcast).await;
        let head = format!("Host: test\r\nAuthorization: Basic {TOKEN}\r\n\r\n");
        let request = format!("GET /queue?id=q HTTP/1.1\r\n{head}");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200 ").then_some(stream)
    };
    let fire = async |data: String| {
        let mut publisher = tls(&gateway.listen).await;
        let request = event_request(&format!(r#"{{"event":"a","data":{data}}}"#));
        publisher.write_all(request.as_bytes()).await.unwrap();
        read_to(&mut publisher, r#"{"code":"OK"}"#).await;
    };
    let mut stream = consume().await.expect("it has no consumer");
    for number in 0..3 {
        fire(number.to_string()).await;
        read_to(&mut stream, &format!("data: {number}\n\n")).await;
    }
    fire(format!("[7,\"{}\"]", "x".repeat(16 << 20))).await;
    fire("8".to_owned()).await;
    read_to(&mut stream, "data: [7,").await;
    stream.get_ref().0.set_zero_linger().unwrap();
    drop(stream);
    let mut stream = until("the end of the consumer before", consume).await;
    let first = read_to(&mut stream, "data: [7,").await;
    assert!(first.ends_with(": redelivered\ndata: [7,"), "{first}");
}

/// A ClientHello (RFC 5246 §7.4.1.2) that is good but, perhaps, for its version.
fn hello(version: u16) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.push(0);
    let suites: [u16; 5] = [0xc02b, 0xc02f, 0xc013, 0xc009, 0x002f];
    body.extend((suites.len() as u16 * 2).to_be_bytes());
    body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
    body.extend([1, 0]);
    // Supported groups, point formats, signature algorithms, extended master secret.
    let extensions = [
        &[0, 10, 0, 6, 0, 4, 0, 23, 0, 24][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 6, 0, 4, 4, 3, 4, 1],
        &[0, 23, 0, 0],
    ]
    .concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![0x01, 0x00];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_1_1_and_older_are_refused() {
    let (house, _) = house();
    for process in [house.listen(), house.broadcast()] {
        let mut wire = Wire::connect(&process).await;
        wire.send(hello(0x0303)).await;
        assert_eq!(wire.read_exact(1).await, [0x16], "1.2 is answered");
        for version in [0x0302, 0x0301, 0x0300] {
            let mut wire = Wire::connect(&process).await;
            wire.send(hello(version)).await;
            let answer = wire.read_to_end().await;
            // RFC 8446 §6.2: a fatal alert, `protocol_version`.
            assert_eq!(answer.first(), Some(&0x15), "{answer:x?}");
            assert!(answer.ends_with(&[2, 70]), "{answer:x?}");
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_live_by_both_and_sessions_stay() {
    let (house, old) = house();
    let gateway = house.open();
    for process in [&gateway.listen, &gateway.broadcast] {
        assert_eq!(shown(process, &old).await, Some(old.der()));
    }
    let mut kept = connect(&gateway.listen, old.der(), rustls::ALL_VERSIONS).await.unwrap();
    let new = Pair::new();
    new.write(&gateway.house);
    for process in [&gateway.listen, &gateway.broadcast] {
        until("the new certificate", async || shown(process, &new).await).await;
        assert_eq!(shown(process, &old).await, None, "the old one is still shown");
        assert_eq!(degraded(process).await, [""; 0]);
    }
    kept.write_all(event_request(r#"{"event":"a"}"#).as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
}

/// What spoils the files.
type Breakage<'a> = Box<dyn Fn() + 'a>;

#[tokio::test]
async fn a_pair_that_does_not_match_is_refused_and_the_old_one_stays() {
    let (house, old) = house();
    let gateway = house.open();
    let new = Pair::new();
    let path = |name: &str| gateway.house.folder.path().join(name);
    let breakages: [(&str, Breakage<'_>); 4] = [
        ("another key", Box::new(|| fs::write(path("cert.key"), new.key.serialize_pem()).unwrap())),
        ("no certificate", Box::new(|| fs::write(path("cert.crt"), "nothing").unwrap())),
        ("half a key", Box::new(|| fs::write(path("cert.key"), "-----BEGIN PRIVATE").unwrap())),
        ("a missing file", Box::new(|| fs::remove_file(path("cert.key")).unwrap())),
    ];
    for (what, spoil) in breakages {
        old.write(&gateway.house);
        for process in [&gateway.listen, &gateway.broadcast] {
            until("all is well", async || degraded(process).await.is_empty().then_some(())).await;
        }
        spoil();
        for process in [&gateway.listen, &gateway.broadcast] {
            let said = until(what, async || degraded(process).await.first().cloned()).await;
            assert!(said.starts_with("certificate: "), "{what}: {said}");
            assert_eq!(shown(process, &old).await, Some(old.der()), "{what}");
        }
    }
    for process in [&gateway.listen, &gateway.broadcast] {
        assert!(process.log().contains("the last good one stays"));
    }
}

#[test]
fn a_bad_certificate_at_start_ends_the_process_with_78() {
    let (house, _) = house();
    fs::write(house.folder.path().join("cert.key"), Pair::new().key.serialize_pem()).unwrap();
    for name in ["listen", "broadcast"] {
        let mut process = Process::spawn(name, &house.settings);
        assert_eq!(process.wait().code(), Some(78));
        process.wait_for_log("CERT_FILE, KEY_FILE: certificate and key do not fit");
    }
    fs::remove_file(house.folder.path().join("cert.crt")).unwrap();
    for name in ["listen", "broadcast"] {
        let mut process = Process::spawn(name, &house.settings);
        assert_eq!(process.wait().code(), Some(78));
        process.wait_for_log("cert.crt");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_served_with_a_word_on_readyz() {
    let (house, _) = house();
    let expired = Pair::until_year(2001);
    expired.write(&house);
    for process in [house.listen(), house.broadcast()] {
        process.wait_for_log("the certificate has expired");
        let end = process.metric("fanfare_certificate_not_after_seconds").await;
        assert_eq!(end, 978_307_200.0);
        // The link is missing, or the sessions are; that is another matter.
        if !process.is_listen() {
            assert_eq!(degraded(&process).await, ["certificate: it has expired"]);
        }
        let refused = connect(&process, expired.der(), rustls::ALL_VERSIONS).await.unwrap_err();
        assert!(refused.to_string().to_lowercase().contains("expired"), "{refused}");
    }
}

#[tokio::test]
async fn three_hundred_stalled_handshakes_delay_no_good_one_and_end_after_3_seconds() {
    let (house, pair) = house();
    for process in [house.listen(), house.broadcast()] {
        let begun = Instant::now();
        let mut stalled = Vec::new();
        for number in 0..300 {
            let mut wire = Wire::connect(&process).await;
            // Silence, or the beginning of a hello.
            wire.send(&hello(0x0303)[..number % 3 * 8]).await;
            stalled.push(wire);
        }
        assert_eq!(shown(&process, &pair).await, Some(pair.der()));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let last = stalled.last_mut().unwrap();
        assert!(last.is_quiet_for(Duration::from_micros(1)).await, "it was not there any more");
        for wire in &mut stalled {
            wire.read_to_end().await;
        }
        let waited = begun.elapsed();
        assert!((3..10).contains(&waited.as_secs()), "{waited:?}");
        process.wait_for_metric("fanfare_connections", 0.0).await;
    }
}

#[tokio::test]
async fn plain_http_on_the_tls_port_ends_at_once() {
    let (house, _) = house();
    for process in [house.listen(), house.broadcast()] {
        let mut wire = Wire::connect(&process).await;
        let begun = Instant::now();
        wire.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let answer = wire.read_to_end().await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn sighup_reads_all_files_again_and_ends_nobody() {
    let (house, pair) = house();
    let gateway = house.open();
    for process in [&gateway.listen, &gateway.broadcast] {
        process.signal(Signal::HUP);
        // The tokens and the certificate, though neither has changed.
        process.wait_for_metric("fanfare_reloads_total", 2.0).await;
        assert_eq!(shown(process, &pair).await, Some(pair.der()));
    }
}

#[tokio::test]
async fn without_tls_sighup_ends_nobody_either() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    for process in [&gateway.listen, &gateway.broadcast] {
        process.signal(Signal::HUP);
        process.wait_for_metric("fanfare_reloads_total", 1.0).await;
    }
    crate::client::fire(&gateway, "a", "1").await;
    let heard = tokio::time::timeout(PATIENCE, subscriber.hear()).await.unwrap();
    assert_eq!(heard, r#"{"type":"event","event":"a","data":1}"#);
}
