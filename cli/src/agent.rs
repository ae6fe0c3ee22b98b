//! How subcommands ask a gateway over HTTP: whom they trust, how long they wait.

use std::time::Duration;

use gateway::caller::Caller;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Longer than listen holds a publisher that waits for broadcast.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An agent that trusts whom the caller trusts, and asks nobody but whom it is told to.
pub(crate) fn agent(caller: &Caller) -> anyhow::Result<Agent> {
    let roots = caller.roots()?;
    let roots: Vec<_> = roots.iter().map(|it| Certificate::from_der(it).to_owned()).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::Specific(roots.into())).build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .tls_config(tls);
    Ok(config.build().into())
}
