//! A client for health checks, so that images need no curl.

use anyhow::Result;

use crate::http::health;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HealthArgs {
    /// The server to ask
    #[arg(default_value = "127.0.0.1:4455", value_name = "HOST:PORT")]
    pub server: String,
}

/// Succeeds when the server answers `GET /healthz` with 200 within two seconds.
pub(crate) fn main(args: HealthArgs) -> Result<()> {
    health::check(&args.server)
}
