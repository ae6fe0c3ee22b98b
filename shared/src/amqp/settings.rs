//! What both processes can be told of brokers.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::amqp::url::AmqpUrl;
use crate::process::StartError;
use crate::settings::{List, parse_list};

/// Where brokers are.
#[derive(Debug, Clone, Args)]
pub struct Amqp {
    /// RabbitMQ's nodes: a URL is a connection, and may stand there more than once
    #[arg(
        long,
        env = "AMQP_URLS",
        value_name = "URL,…",
        hide_env_values = true,
        default_value = "amqp://guest:guest@127.0.0.1:5672/",
        value_parser = parse_list::<AmqpUrl>
    )]
    pub amqp_urls: List<AmqpUrl>,

    /// Certificates that RabbitMQ's may be signed by, beside those that the system trusts: PEM
    #[arg(long, env = "AMQP_CA_FILE", value_name = "PATH")]
    pub amqp_ca_file: Option<PathBuf>,
}

impl Amqp {
    /// The URLs, of which there must be one.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn nodes(&self) -> Result<impl Iterator<Item = AmqpUrl>, StartError> {
        if self.amqp_urls.0.is_empty() {
            let fault = "there must be one".to_owned();
            return Err(StartError::Setting { setting: "AMQP_URLS".to_owned(), fault });
        }
        Ok(self.amqp_urls.0.iter().cloned())
    }

    /// Our side of TLS, for `amqps`.
    ///
    /// # Errors
    ///
    /// The file that was named holds no certificate, or cannot be read.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, StartError> {
        // Where the system has none, or some are broken, the others are still worth having.
        let mut trusted = RootCertStore::empty();
        trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.amqp_ca_file {
            let fault = |error: String| StartError::Setting {
                setting: "AMQP_CA_FILE".to_owned(),
                fault: format!("{}: {error}", path.display()),
            };
            let named = CertificateDer::pem_file_iter(path).map_err(|it| fault(it.to_string()))?;
            for certificate in named {
                let certificate = certificate.map_err(|error| fault(error.to_string()))?;
                trusted.add(certificate).map_err(|error| fault(error.to_string()))?;
            }
        }
        let config = ClientConfig::builder().with_root_certificates(trusted);
        Ok(Arc::new(config.with_no_client_auth()))
    }
}
