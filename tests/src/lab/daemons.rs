//! Other people's daemons in the lab's namespaces: BIRD as a BFD peer, dnsmasq as a name server, Prometheus.
use super::{Lab, netns::Netns, process::Process};
use anyhow::Result;
use nix::sys::signal::Signal;
use std::{fs, net::IpAddr, process::Command};

/// A daemon that runs until it is killed or dropped.
#[derive(Debug)]
pub struct Running(Process);

impl Running {
    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&self) -> Result<()> {
        self.0.kill().map(drop)
    }

    /// Stops it by SIGSTOP.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> Result<()> {
        self.0.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Running::freeze`].
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> Result<()> {
        self.0.signal(Signal::SIGCONT)
    }
}

impl Lab {
    /// Starts BIRD in a namespace with one BFD session, from `local` to `peer`, at this interval in milliseconds and with a
    /// multiplier of 3.
    ///
    /// # Errors
    /// BIRD is not installed.
    pub fn start_bird(
        &self,
        netns: &Netns,
        local: IpAddr,
        peer: IpAddr,
        multihop: bool,
        interval_ms: u32,
    ) -> Result<Running> {
        let name = format!("bird-{}", netns.name());
        let file = |end: &str| self.directory().join(format!("{name}.{end}"));
        let times = format!("{{ interval {interval_ms} ms; multiplier 3; }}");
        let (kind, hops) = if multihop { ("multihop", "on") } else { ("interface \"*\"", "off") };
        let config = format!(
            "log stderr all;\nrouter id 10.9.9.9;\nprotocol device {{ }}\n\
             protocol bfd {{ {kind} {times}; neighbor {peer} local {local} multihop {hops}; }}\n"
        );
        fs::write(file("conf"), config)?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl")).arg("-P").arg(file("pid"));
        Process::start(&self.entry, netns, &name, &mut command).map(Running)
    }

    /// Starts Prometheus in a namespace with this configuration; it answers on this port of 127.0.0.1.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start_prometheus(&self, netns: &Netns, config: &str, port: u16) -> Result<Running> {
        let (file, data) = (self.directory().join("prometheus.yml"), self.directory().join("prometheus"));
        fs::write(&file, config)?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn");
        Process::start(&self.entry, netns, "prometheus", &mut command).map(Running)
    }

    /// Starts dnsmasq in a namespace; it knows `web.example` and listens on this address only.
    ///
    /// # Errors
    /// dnsmasq is not installed.
    pub fn start_dnsmasq(&self, netns: &Netns, address: IpAddr) -> Result<Running> {
        let mut command = Command::new("dnsmasq");
        command
            .args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
            .args(["--pid-file=", "--bind-interfaces", "--address=/web.example/192.0.2.80"])
            .arg(format!("--listen-address={address}"));
        Process::start(&self.entry, netns, &format!("dnsmasq-{}", netns.name()), &mut command).map(Running)
    }
}
