//! The web server of a backend: answers every request with the backend's name and a newline.
use super::{netns::Netns, process::Process, registry::Entry, topology::WEB_PORT};
use anyhow::Result;
use std::{fs, process::Command};

/// Starts nginx in a backend's namespace.
pub(crate) fn start(entry: &Entry, netns: &Netns, name: &str) -> Result<Process> {
    let directory = entry.directory.join(format!("nginx-{name}"));
    fs::create_dir_all(&directory)?;
    let config = directory.join("nginx.conf");
    fs::write(&config, configuration(name))?;
    let errors = directory.join("error.log");
    Process::start(
        entry,
        netns,
        &format!("nginx-{name}"),
        Command::new("nginx").arg("-e").arg(errors).arg("-p").arg(&directory).arg("-c").arg(config),
    )
}

/// One process, nothing shared with a system-wide nginx: all paths are relative to the folder given by `-p`.
fn configuration(name: &str) -> String {
    format!(
        "daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid /dev/null;
error_log error.log error;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    reset_timedout_connection on;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {WEB_PORT} backlog=16384;
        listen [::]:{WEB_PORT} ipv6only=on backlog=16384;
        default_type text/plain;
        location / {{
            return 200 \"{name}\\n\";
        }}
    }}
}}
"
    )
}
