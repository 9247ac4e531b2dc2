//! Blocks marked `sh run` and `sh endless`, in the order of the documents, against one daemon.
use crate::{
    frame,
    markdown::{Block, Document, documents},
    shell,
};
use anyhow::{Result, ensure};
use lb_tests::{
    e2e,
    lab::{Daemon, Lab, VIP_V4, web_vips, weir_binary},
    load::SteadyLoad,
};
use lb_userspace::api::types::Status;
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use toml::{Table, Value};

/// How long one block may take: it waits for nothing but packets.
const BLOCK_LIMIT_S: &str = "60";
/// How long a command without end is left to itself before Ctrl-C.
const ENDLESS_S: &str = "4";
/// What `timeout` ends with when it had to end what it ran.
const TIMED_OUT: i32 = 124;
/// The lab of which the guide tells.
const LAB: &str = "/run/weir-lab/wl4711-0";
/// The host of which the guide tells.
const HOST: &str = "edge-1.example.net";
/// What `weir doctor` finds on the machine that tests run on is not judged; another host's commands are run on this one.
const PRELUDE: &str = "\
weir() {
    local code=0
    command weir \"$@\" || code=$?
    case \"$1:$code:${BRIEF-}\" in
        doctor:11:* | doctor:12:* | *:9:yes) return 0 ;;
    esac
    return $code
}
ssh() { shift; \"$@\"; }
";
/// Where the guide's examples serve metrics and the status page.
const HTTP: &str = "127.0.0.1:9440";
/// Where a daemon listens if nobody says otherwise.
const SOCKET: &str = "/run/weir/weir.sock";

/// A lab with a daemon, and the folders in which blocks run.
struct Scene<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    config: PathBuf,
    work: PathBuf,
    /// The example that is in force, and whether the API is served with certificates.
    example: (String, bool),
    /// What earlier pages left behind.
    known: Vec<String>,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let config = lab.directory().join("weir.toml");
        let (work, bin) = (lab.directory().join("work"), lab.directory().join("bin"));
        fs::create_dir_all(lab.directory().join("edge-1")).unwrap();
        fs::create_dir(&work).unwrap();
        fs::create_dir(&bin).unwrap();
        symlink(weir_binary().unwrap(), bin.join("weir")).unwrap();
        for name in ["ca.pem", "ops.pem", "ops.key"] {
            fs::copy(frame::etc().join("tls").join(name), work.join(name)).unwrap();
        }
        fs::write(&config, adapted(lab, frame::USUAL, false)).unwrap();
        let daemon = lab.start_daemon(&config).unwrap();
        daemon.wait_ready(e2e::DEADLINE).unwrap();
        let scene =
            Scene { lab, daemon, config, work, example: (frame::USUAL.to_owned(), false), known: Vec::new() };
        scene.wait_until_it_serves();
        scene
    }

    /// Puts an example in force.
    fn use_example(&mut self, name: &str, tls: bool) -> Result<()> {
        let wanted = (name.to_owned(), tls);
        if self.example != wanted {
            fs::write(&self.config, adapted(self.lab, name, tls))?;
            let output = self.daemon.cli(&["reload"])?;
            ensure!(
                output.status.success(),
                "examples/{name} is refused: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            self.example = wanted;
            self.wait_until_it_serves();
        }
        Ok(())
    }

    /// Every backend is UP, but for words that a page left behind, and clients that ask a service `web` are answered.
    fn wait_until_it_serves(&self) {
        e2e::eventually("no check fails", || {
            let backends = e2e::status(&self.daemon).backends;
            ensure!(backends.up + backends.draining == backends.total(), "{backends:?}");
            Ok(())
        });
        let services: Vec<serde_json::Value> = e2e::ask(&self.daemon, &["service", "list"]);
        if services.iter().any(|service| service["name"] == "web") {
            e2e::eventually("web answers", || self.lab.curl_vip("west", web_vips()[0]));
        }
    }

    /// Runs a script as it is, but for names and paths of the lab, and for what its block's marks say.
    fn run(&self, block: &Block, script: &str, limit: &[&str]) -> Result<Output> {
        let mut script = script.replace(SOCKET, self.daemon.socket().to_str().unwrap());
        script = script.replace(LAB, self.lab.directory().to_str().unwrap()).replace(HOST, "127.0.0.1");
        let mut prelude = PRELUDE.to_owned();
        for program in block.mark("absent").into_iter().flat_map(|programs| programs.split(',')) {
            prelude += &format!("{program}() {{ echo \"not here: {program} $*\"; }}\n");
        }
        if block.is("brief") {
            prelude += "BRIEF=yes\n";
            script = ["10m", "30m"]
                .iter()
                .fold(script, |script, time| script.replace(&format!("--deadline {time}"), "--deadline 1s"));
        }
        let path = format!("{}:{}", self.lab.directory().join("bin").display(), env::var("PATH")?);
        let mut command = Command::new("timeout");
        command.args(limit).args(["bash", "-eu", "-o", "pipefail", "-c", &(prelude + &script)]);
        command.current_dir(&self.work).env("PATH", path);
        command.env("WEIR_SOCKET", self.daemon.socket()).env("WEIR_CONFIG", &self.config);
        let host = match block.mark("on") {
            Some(backend) => self.lab.backend_netns(backend)?,
            None => self.lab.edge_netns(0)?,
        };
        host.run(move || Ok(command.output()?))
    }

    /// Runs a block; what is wrong, in words.
    fn judge(&mut self, block: &Block) -> Result<()> {
        self.use_example(block.mark("with").unwrap_or(frame::USUAL), block.is("tls"))?;
        if block.is("endless") {
            return self.judge_endless(block);
        }
        let expected = block.mark("exit").map_or(Ok(0), str::parse)?;
        let output = self.run(block, &block.text, &[BLOCK_LIMIT_S])?;
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.code() == Some(expected),
            "ended with {} instead of {expected}\n{}{}{}",
            output.status,
            block.text,
            said(&output.stdout),
            said(&output.stderr)
        );
        Ok(())
    }

    /// Runs each command of a block until Ctrl-C.
    fn judge_endless(&self, block: &Block) -> Result<()> {
        let commands = shell::commands(&block.text);
        ensure!(!commands.is_empty(), "there is no command");
        for command in commands {
            let words: Vec<_> = command.words.iter().map(|word| format!("'{word}'")).collect();
            // Ctrl-C reaches the whole group, and a shell in it would outlive nothing.
            let script = format!("exec {}", words.join(" "));
            let output = self.run(block, &script, &["--signal=INT", "--kill-after=5", ENDLESS_S])?;
            let (told, code) = (String::from_utf8_lossy(&output.stderr), output.status.code());
            ensure!(code == Some(TIMED_OUT), "{script}: ended with {}\n{told}", output.status);
            let said = output.stdout.len() + output.stderr.len();
            ensure!(said > 0 && !told.contains("error"), "{script}: {told}");
        }
        Ok(())
    }

    /// What a page left behind: a reader who follows it should have a host as before.
    fn left(&mut self) -> Vec<String> {
        let status: Status = e2e::status(&self.daemon);
        let mut left: Vec<String> =
            status.overrides.iter().map(|word| format!("word {:?}", word.subject)).collect();
        left.extend(status.shifts.iter().map(|shift| format!("shift of {}", shift.domain)));
        left.extend(status.canaries.iter().map(|view| format!("canary of {}", view.canary.service)));
        let switches: Vec<serde_json::Value> = e2e::ask(&self.daemon, &["emergency", "list"]);
        left.extend(switches.iter().map(|switch| format!("switch {}", switch["name"])));
        left.retain(|thing| !self.known.contains(thing));
        self.known.extend(left.iter().cloned());
        left
    }
}

/// An example, with paths of the lab's folder, with checks that a busy machine does not fail, and with metrics; with certificates, if that is wanted.
fn adapted(lab: &Lab, name: &str, tls: bool) -> String {
    let mut whole = frame::load(name).unwrap_or_else(|error| panic!("examples/{name}: {error}"));
    let part = format!(
        "[node]\nname = \"edge-1\"\nstate_dir = \"{files}/edge-1\"\nsocket = \"{files}/edge-1.sock\"\nbpffs = \"{files}/bpf/edge-1\"\n\
         hash_key = \"{key}\"\n[http]\nlisten = \"{HTTP}\"\n",
        files = lab.directory().display(),
        key = "5f1d3c0e8a7b49262f6e1c5d0b9a8374e6d5c4b3a29180706f5e4d3c2b1a0918",
    );
    frame::overlay(&mut whole, part.parse::<Table>().unwrap());
    if tls {
        let part = "[http]\ncertificate_file = \"TLS/edge-1.pem\"\nkey_file = \"TLS/edge-1.key\"\nclient_ca_file = \"TLS/clients.pem\"\n\
                    operators = [\"OU=network\"]\n";
        let part = part.replace("TLS", frame::etc().join("tls").to_str().unwrap());
        frame::overlay(&mut whole, part.parse::<Table>().unwrap());
    }
    for check in whole.get_mut("check").and_then(Value::as_array_mut).into_iter().flatten() {
        let check = check.as_table_mut().unwrap();
        let calm =
            [("interval", Value::from("50ms")), ("timeout", Value::from("50ms")), ("fall", Value::from(5))];
        check.extend(calm.map(|(key, value)| (key.to_owned(), value)));
    }
    toml::to_string(&whole).unwrap()
}

/// Starts the agents of the backends that the usual example names; other examples that are run have the same hosts.
fn start_agents(lab: &Lab) {
    let text = toml::to_string(&frame::load(frame::USUAL).unwrap()).unwrap();
    for backend in lab.topology().backend_names() {
        if text.contains(&format!("\"{backend}\"")) {
            lab.start_agent(&backend).unwrap();
        }
    }
}

fn marked(document: &Document) -> Vec<&Block> {
    document
        .blocks
        .iter()
        .filter(|block| block.language == "sh" && (block.is("run") || block.is("endless")))
        .collect()
}

#[test]
fn blocks_marked_run_do_what_they_say() {
    let documents = documents();
    let lab = Lab::builder().raise().unwrap_or_else(|error| panic!("{error:#}"));
    start_agents(&lab);
    let mut scene = Scene::start(&lab);
    let load = SteadyLoad {
        kept: 4,
        new_per_second: 40,
        new_ports: 40,
        vips: vec![(VIP_V4, 80).into()],
        kept_period: Duration::from_millis(100),
        ..SteadyLoad::default()
    };
    let _traffic = ["west", "east"].map(|client| lab.steady(client, load.clone()).unwrap());
    let (mut problems, mut seen) = (Vec::new(), 0);
    for document in &documents {
        let blocks = marked(document);
        for block in &blocks {
            seen += 1;
            if let Err(error) = scene.judge(block) {
                problems.push(format!("{}: {error:#}", document.at(block.line)));
            }
        }
        if !blocks.is_empty() {
            problems.extend(
                scene.left().into_iter().map(|left| format!("{} leaves behind: {left}", document.name)),
            );
        }
    }
    assert!(Path::new(&scene.work).join("web.pcapng").is_file(), "the guide captures packets");
    assert!(seen > 50, "only {seen} blocks were found");
    crate::none(&problems);
}
