//! Who calls, and whom they trust: what `fire`, `watch` and `bench` have in common.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Who calls, and whom they trust.
#[derive(Debug, Args)]
pub struct Caller {
    /// The token, or `Bearer` and a signed one; better in the environment, for a command line is
    /// seen by all on the machine
    #[arg(long, env = "FANFARE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<Secret>,

    /// Certificates in PEM to trust beside the system's: an authority's, or a self-signed one
    #[arg(long, env = "FANFARE_CA_FILE", value_name = "PATH")]
    ca_file: Option<PathBuf>,
}

impl Caller {
    /// What to show as `Authorization`, if there is a token.
    pub fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| match token.0.contains(' ') {
            true => token.0.clone(),
            false => format!("Basic {}", token.0),
        })
    }

    /// The certificates that end a chain of trust.
    ///
    /// # Errors
    ///
    /// The file that was named holds none, or cannot be read.
    pub fn roots(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        // Where the system has none, or some are broken, the others are still worth having.
        let mut roots = rustls_native_certs::load_native_certs().certs;
        if let Some(path) = &self.ca_file {
            let named = || format!("--ca-file: {}", path.display());
            let own: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).with_context(named)?.collect();
            let own = own.with_context(named)?;
            anyhow::ensure!(!own.is_empty(), "{}: holds no certificate in PEM", named());
            roots.extend(own);
        }
        Ok(roots)
    }
}

/// A token, which is never shown.
#[derive(Clone)]
struct Secret(String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // clap would show a value that is refused here; the gateway never does.
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_basic_unless_it_says_what_it_is() {
        for (token, shown) in [("0123", "Basic 0123"), ("Bearer a.b.c", "Bearer a.b.c")] {
            let caller = Caller { token: token.parse().ok(), ca_file: None };
            assert_eq!(caller.authorization().as_deref(), Some(shown));
        }
    }
}
