//! Certificate and key, as a rustls configuration that follows its files.
//!
//! Both processes use it where `HTTPS_ENABLE` is set. The two files are followed together: a pair
//! that does not match is refused, and the one before it stays in use.

use std::path::PathBuf;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::reload::{Parsed, Source};

/// A server's side of TLS, ready for use.
#[derive(Debug)]
pub struct Identity {
    /// What rustls needs.
    pub config: std::sync::Arc<ServerConfig>,
    /// When the certificate ends, in seconds since 1970.
    pub not_after: i64,
}

impl Identity {
    /// Whether the certificate's time is over. It is served all the same: a client that checks
    /// will refuse it, one that does not should not lose its service.
    pub fn is_expired(&self) -> bool {
        self.not_after < Timestamp::now().as_second()
    }
}

/// The two files as a thing to follow.
#[derive(Debug)]
pub struct IdentityFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl IdentityFiles {
    /// Names the PEM files of the certificate chain and its key.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self { certificate, key }
    }
}

impl Source for IdentityFiles {
    type Value = Identity;

    fn what(&self) -> &'static str {
        "certificate"
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.certificate.clone(), self.key.clone()]
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Parsed<Identity>, String> {
        let [certificate, key] = contents else {
            return Err("a certificate and a key are needed".to_owned());
        };
        let named = |path: &PathBuf, fault: TlsError| format!("{}: {fault}", path.display());
        let chain = read_chain(certificate).map_err(|fault| named(&self.certificate, fault))?;
        let not_after = read_end(&chain).map_err(|fault| named(&self.certificate, fault))?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| named(&self.key, TlsError::NoKey))?;
        let identity = Identity { config: configure(chain, key)?.into(), not_after };
        let mut warnings = Vec::new();
        if identity.is_expired() {
            warnings.push("the certificate has expired".to_owned());
        }
        Ok(Parsed { value: identity, warnings, is_cut_short: false })
    }

    fn withdraws_all(&self, _: &Identity, _: &Identity) -> bool {
        false
    }

    fn is_secret(&self, index: usize) -> bool {
        index == 1
    }
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::NoCertificate),
    }
}

fn read_end(chain: &[CertificateDer<'static>]) -> Result<i64, TlsError> {
    let first = chain.first().ok_or(TlsError::NoCertificate)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| TlsError::NoCertificate)?;
    Ok(certificate.validity().not_after.timestamp())
}

/// TLS 1.2 and 1.3; rustls has no older ones. HTTP/2 is the business of a proxy in front.
fn configure(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key do not fit: {error}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A client that comes back resumes with one ticket; the default sends two.
    config.send_tls13_tickets = 1;
    Ok(config)
}

#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("holds no certificate in PEM")]
    NoCertificate,
    #[error("holds no private key in PEM")]
    NoKey,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
    }

    fn parse(contents: &[Vec<u8>]) -> Result<Parsed<Identity>, String> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        IdentityFiles::new("c.crt".into(), "k.key".into()).parse(contents)
    }

    #[test]
    fn a_pair_that_fits_is_taken() {
        let (certificate, key) = pair();
        let parsed = parse(&[certificate, key]).unwrap();
        assert!(!parsed.value.is_expired());
        assert_eq!(Arc::strong_count(&parsed.value.config), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let (certificate, key) = pair();
        let (_, other) = pair();
        let table = [
            (certificate.clone(), other, "do not fit"),
            (b"nothing".to_vec(), key.clone(), "c.crt"),
            (certificate.clone(), b"nothing".to_vec(), "k.key"),
            (key, certificate, "c.crt"),
        ];
        for (certificate, key, expected) in table {
            let fault = parse(&[certificate, key]).unwrap_err();
            assert!(fault.contains(expected), "{fault}");
        }
    }
}
