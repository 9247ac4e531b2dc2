//! Real clients: curl, in a client's namespace.
use super::Lab;
use anyhow::{Context, Result, bail};
use std::{net::SocketAddr, process::Command};

/// Seconds that one curl may take in all.
const CURL_TIMEOUT_S: u32 = 5;

impl Lab {
    /// Gets a URL with curl in the namespace of a client region's client; returns the body.
    ///
    /// # Errors
    /// No such client; or curl fails, with what it says.
    pub fn curl(&self, client: &str, url: &str) -> Result<String> {
        self.curl_with(client, &[url])
    }

    /// Runs curl with more arguments (`--data-binary`, `--interface`, several URLs); returns what it prints.
    ///
    /// # Errors
    /// As [`Lab::curl`].
    pub fn curl_with(&self, client: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]);
        command.args(["--max-time", &CURL_TIMEOUT_S.to_string()]).args(args);
        let output = self.client_netns(client)?.run(move || command.output().context("cannot run `curl`"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!("curl {} from {client}: {}: {}", args.join(" "), output.status, message.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Which backend answers a fresh curl to a VIP (v4 or v6).
    ///
    /// # Errors
    /// As [`Lab::curl`].
    pub fn curl_vip(&self, client: &str, vip: SocketAddr) -> Result<String> {
        Ok(self.curl(client, &format!("http://{vip}/"))?.trim_end().to_owned())
    }
}
