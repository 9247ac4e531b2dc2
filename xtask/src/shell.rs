//! Running other programs: every command is printed before it runs, with the environment that `cargo run` leaks
//! removed, and under sudo when it needs root and we are not.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Variables that `cargo run` and rustup set for xtask itself and that would change what a child cargo does.
fn is_cargo_run_noise(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    const NAMES: [&str; 4] = ["CARGO", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Variables that choose a compiler or its flags. A cargo that is not the one that runs xtask must not see them.
/// Where cargo finds its registry, its home and its proxy stays.
fn is_rust_choice(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    const DROPPED: [&str; 4] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS"];
    const RUSTUP: [&str; 2] = ["RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT"];
    RUSTUP.iter().any(|prefix| name.starts_with(prefix))
        || name == "LD_LIBRARY_PATH"
        || DROPPED.iter().any(|prefix| name.starts_with(prefix))
            && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// Variables that a command keeps when it goes through sudo, which otherwise clears most of them.
fn passes_sudo(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["PATH", "HOME", "TERM", "LANG", "NO_COLOR", "RUST_BACKTRACE", "RUST_LOG", "RUST_TEST_THREADS"];
    NAMES.contains(&name) || name.starts_with("WEIR_") || name.starts_with("PROPTEST_")
}

/// A command to print and run.
pub(crate) struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    cwd: Option<PathBuf>,
    root: bool,
    foreign_toolchain: bool,
}

impl Cmd {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            root: false,
            foreign_toolchain: false,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn cwd(mut self, dir: &Path) -> Self {
        self.cwd = Some(dir.to_owned());
        self
    }

    /// Needs root: goes through sudo when we are not root.
    pub(crate) fn root(mut self) -> Self {
        self.root = true;
        self
    }

    /// Runs only when nobody else wants the CPU, where the machine can say so (`chrt` of util-linux).
    pub(crate) fn idle(mut self) -> Self {
        if let Some(chrt) = find_program("chrt") {
            let program = std::mem::replace(&mut self.program, chrt.into());
            self.args.splice(0..0, ["--idle".into(), "0".into(), program]);
        }
        self
    }

    /// Runs a compiler other than the one that runs xtask, so it must not inherit that one's choices.
    pub(crate) fn foreign_toolchain(mut self) -> Self {
        self.foreign_toolchain = true;
        self
    }

    /// Prints the command and runs it on our own terminal; a status other than 0 is an error.
    pub(crate) fn run(&self) -> Result<()> {
        self.announce();
        let status =
            self.command()?.status().with_context(|| format!("cannot start {}", self.program.display()))?;
        if !status.success() {
            bail!("`{self}` failed ({status})");
        }
        Ok(())
    }

    /// Runs without printing the command and returns its stdout; stderr stays on our terminal.
    pub(crate) fn read(&self) -> Result<String> {
        let output = self
            .command()?
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            bail!("`{self}` failed ({})", output.status);
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` printed something that is not UTF-8"))
    }

    /// Prints the command, runs it and returns its stdout.
    pub(crate) fn announced_read(&self) -> Result<String> {
        self.announce();
        self.read()
    }

    /// Runs without printing anything, whatever it says; `None` if it cannot start or fails.
    pub(crate) fn probe(&self) -> Option<String> {
        let output = self.command().ok()?.stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Prints the command and starts it with its stdout piped to us.
    pub(crate) fn spawn_piped(&self) -> Result<Child> {
        self.announce();
        self.command()?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Prints the command and becomes it, so that signals reach it and nobody else. Returns only on failure.
    pub(crate) fn exec(&self) -> Result<()> {
        self.announce();
        let error: io::Error = self.command()?.exec();
        Err(error).with_context(|| format!("cannot start {}", self.program.display()))
    }

    fn announce(&self) {
        eprintln!("+ {self}");
    }

    fn command(&self) -> Result<Command> {
        let through_sudo = self.root && !is_root();
        let mut command = if through_sudo { self.sudo_command()? } else { Command::new(&self.program) };
        command.args(&self.args);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if is_cargo_run_noise(&name) || self.foreign_toolchain && is_rust_choice(&name) {
                command.env_remove(&*name);
            }
        }
        if !through_sudo {
            command.envs(self.env.iter().map(|(name, value)| (name, value)));
        }
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        Ok(command)
    }

    /// `sudo env NAME=value... program`: works whatever sudoers says about keeping the environment.
    fn sudo_command(&self) -> Result<Command> {
        static SAY_ONCE: Once = Once::new();
        if find_program("sudo").is_none() {
            bail!(
                "`{self}` needs root, and there is no sudo here.\nRemedy: run `cargo xtask` as root, or install sudo."
            );
        }
        SAY_ONCE.call_once(|| eprintln!("Not root: using sudo for apt, network namespaces and XDP."));
        let mut command = Command::new("sudo");
        command.arg("env");
        let inherited = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| passes_sudo(name) && !self.env.iter().any(|(own, _)| own == name));
        for (name, value) in inherited.chain(self.env.iter().cloned()) {
            let mut assignment = OsString::from(name);
            assignment.push("=");
            assignment.push(value);
            command.arg(assignment);
        }
        command.arg(&self.program);
        Ok(command)
    }
}

/// As one could type it, environment first.
impl std::fmt::Display for Cmd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = String::new();
        if self.root && !is_root() {
            line.push_str(if self.env.is_empty() { "sudo " } else { "sudo env " });
        }
        for (name, value) in &self.env {
            write!(line, "{name}={} ", quoted(value))?;
        }
        line.push_str(&quoted(&self.program));
        for arg in &self.args {
            write!(line, " {}", quoted(arg))?;
        }
        f.write_str(&line)
    }
}

/// Quotes a word for a POSIX shell if it needs it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Whether our effective user is root.
pub(crate) fn is_root() -> bool {
    // The owner of one's own /proc entry is one's effective user.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Fails if a command that needs root could not run. To be asked before minutes of building, not after.
pub(crate) fn require_root_or_sudo() -> Result<()> {
    if !is_root() && find_program("sudo").is_none() {
        bail!(
            "apt, network namespaces and XDP need root, and there is no sudo here.\n\
             Remedy: run the same command as root, or install sudo."
        );
    }
    Ok(())
}

/// Finds a program in PATH, and where Debian keeps programs for root, which are not in everyone's PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether there is a file that somebody may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

/// PATH with `dir` in front.
pub(crate) fn path_with(dir: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).unwrap_or(path)
}

/// Announces a step, runs it, and says how long it took.
pub(crate) fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "failed" };
    eprintln!("    {title}: {verdict} after {:.1} s", start.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_can_be_pasted_into_a_shell() {
        let cmd = Cmd::new("cargo").arg("build").arg("it's two words").env("RUSTFLAGS", "-C a=b");
        assert_eq!(cmd.to_string(), r"RUSTFLAGS='-C a=b' cargo build 'it'\''s two words'");
    }

    #[test]
    fn another_toolchain_inherits_the_registry_but_no_compiler_choice() {
        for name in
            ["RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTFLAGS"]
        {
            assert!(is_rust_choice(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_REGISTRIES_X_INDEX", "RUSTUP_HOME", "PATH"] {
            assert!(!is_rust_choice(name), "{name}");
        }
    }

    #[test]
    fn our_own_cargo_keeps_the_users_choices() {
        for name in ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
            assert!(!is_cargo_run_noise(name), "{name}");
        }
        assert!(is_cargo_run_noise("CARGO_MANIFEST_DIR"));
        assert!(is_cargo_run_noise("CARGO"));
    }
}
