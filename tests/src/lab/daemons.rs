//! Other people's daemons in the lab's namespaces: BIRD and FRR as BFD peers, dnsmasq as a name server, nginx over TLS, Prometheus.
use super::{Lab, netns::Netns, process::Process};
use anyhow::{Context, Result};
use nix::{
    sys::signal::Signal,
    unistd::{User, chown},
};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

/// Where Debian's package keeps FRR's daemons.
const FRR: &str = "/usr/lib/frr";

/// A daemon, or several that belong together, that run until they are killed or dropped.
#[derive(Debug)]
pub struct Running(Vec<Process>);

impl Running {
    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&self) -> Result<()> {
        self.0.iter().try_for_each(|process| process.kill().map(drop))
    }

    /// Stops it by SIGSTOP.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> Result<()> {
        self.0.iter().try_for_each(|process| process.signal(Signal::SIGSTOP))
    }

    /// Lets it go on after [`Running::freeze`].
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> Result<()> {
        self.0.iter().try_for_each(|process| process.signal(Signal::SIGCONT))
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
        // As on a host of its own: what else the lab does is no reason for it to be late.
        let mut command = Command::new("chrt");
        command.args(["--fifo", "5", "bird"]);
        command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl")).arg("-P").arg(file("pid"));
        Ok(Running(vec![Process::start(&self.entry, netns, &name, &mut command)?]))
    }

    /// Starts FRR's bfdd, and the zebra that it needs, with one BFD session over one hop, from `local` on `interface` to `peer`, at this
    /// interval in milliseconds and with a multiplier of 3. They run as user frr, with sockets of their own.
    ///
    /// # Errors
    /// FRR is not installed.
    pub fn start_frr(
        &self,
        netns: &Netns,
        interface: &str,
        (local, peer): (IpAddr, IpAddr),
        interval_ms: u32,
    ) -> Result<Running> {
        let name = format!("frr-{}", netns.name());
        let folder = self.directory().join(&name);
        // A second one would find the sockets of the first.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let config = format!(
            "bfd\n peer {peer} local-address {local} interface {interface}\n  detect-multiplier 3\n  \
             receive-interval {interval_ms}\n  transmit-interval {interval_ms}\n exit\nexit\n"
        );
        fs::write(folder.join("bfdd.conf"), config)?;
        fs::write(folder.join("zebra.conf"), "")?;
        let owner = User::from_name("frr")?.context("there is no user frr: is FRR installed?")?;
        for path in [folder.clone(), folder.join("bfdd.conf"), folder.join("zebra.conf")] {
            chown(&path, Some(owner.uid), Some(owner.gid))?;
        }
        let daemon = |daemon: &str, more: &[String]| {
            let file = |end: &str| folder.join(format!("{daemon}.{end}"));
            let mut command = Command::new(format!("{FRR}/{daemon}"));
            command.args(["-u", "frr", "-g", "frr", "--log", "stdout"]).arg("-f").arg(file("conf"));
            command.arg("-i").arg(file("pid")).arg("-z").arg(folder.join("zserv.api"));
            command.arg("--vty_socket").arg(&folder).args(more);
            Process::start(&self.entry, netns, &format!("{daemon}-{}", netns.name()), &mut command)
        };
        let control = folder.join("bfdd.sock").display().to_string();
        Ok(Running(vec![daemon("zebra", &[])?, daemon("bfdd", &["--bfdctl".to_owned(), control])?]))
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
        Ok(Running(vec![Process::start(&self.entry, netns, "prometheus", &mut command)?]))
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
        Ok(Running(vec![Process::start(
            &self.entry,
            netns,
            &format!("dnsmasq-{}", netns.name()),
            &mut command,
        )?]))
    }

    /// Starts an nginx in a namespace that answers over TLS on port 443 of this address, with this certificate and key, and this text.
    ///
    /// # Errors
    /// nginx is not installed.
    pub fn start_tls_server(
        &self,
        netns: &Netns,
        address: IpAddr,
        [certificate, key]: [&Path; 2],
        text: &str,
    ) -> Result<Running> {
        let folder = self.directory().join(format!("tls-{}", netns.name()));
        fs::create_dir_all(&folder)?;
        let (config, address) = (folder.join("nginx.conf"), SocketAddr::new(address, 443));
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {name};\n"))
            .concat();
        fs::write(
            &config,
            format!(
                "daemon off; master_process off; worker_processes 1; pid /dev/null; error_log error.log error;
                 events {{ worker_connections 256; }}
                 http {{ access_log off; {paths}
                   server {{ listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};
                     default_type text/plain; location / {{ return 200 \"{text}\\n\"; }} }} }}\n",
                certificate.display(),
                key.display()
            ),
        )?;
        let mut command = Command::new("nginx");
        command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(&folder).arg("-c").arg(config);
        Ok(Running(vec![Process::start(&self.entry, netns, &format!("tls-{}", netns.name()), &mut command)?]))
    }
}
