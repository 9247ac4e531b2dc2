//! Thousands of backends that are not there: a second link of an edge, at whose other end a program answers the heartbeats to all of
//! them.
use super::{Lab, cut::attach_answerer, netns::making};
use anyhow::{Context, Result, bail};
use aya::programs::links::FdLink;
use std::process::Command;

/// The edge's interface on that link. The daemon must attach to it, too: else the answers of the program at the other end are lost.
pub const ANSWERED_INTERFACE: &str = "far0";
/// The router's port.
const PORT: &str = "far1";
/// Addresses that answer.
pub const ANSWERED_PREFIX: &str = "10.50.0.0/16";

/// The link's program. Dropping it detaches it.
#[derive(Debug)]
pub struct Answerer(#[expect(dead_code, reason = "held")] Vec<FdLink>);

impl Lab {
    /// Lays the link to the first edge.
    ///
    /// # Errors
    /// It is there already, or what the machine refuses.
    pub fn answer_everywhere(&self) -> Result<Answerer> {
        let (router, edge) = (self.router_netns(), self.edge_netns(0)?);
        router.ip(&[
            format!("link add {PORT} type veth peer name {ANSWERED_INTERFACE} netns {}", edge.name()),
            format!("addr add 10.49.0.1/24 dev {PORT}"),
            format!("link set {PORT} up"),
        ])?;
        edge.ip(&[
            format!("addr add 10.49.0.2/24 dev {ANSWERED_INTERFACE}"),
            format!("link set {ANSWERED_INTERFACE} up"),
            format!("route add {ANSWERED_PREFIX} via 10.49.0.1"),
        ])?;
        edge.run(|| {
            let _making = making();
            let mut command = Command::new("ethtool");
            let output = command.args(["-K", ANSWERED_INTERFACE, "tx", "off"]).output().context("ethtool")?;
            if !output.status.success() {
                bail!("ethtool: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(())
        })?;
        router.run(|| attach_answerer(PORT)).map(Answerer)
    }
}
