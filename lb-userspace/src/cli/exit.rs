//! Exit codes, which error means which, and what to do about it. This is the only place that knows.

use std::{error::Error, io};

use super::{
    client::ClientError, flows::Unfinished, operate::WaitError, privilege::PrivilegeError,
    remote::RemoteError, top::NoTerminal,
};
use crate::{
    api::{
        https::TlsError,
        problem::{Problem, ProblemKind},
        server::BindError,
    },
    config::ConfigError,
    dataplane::error::{DataPlaneError, ErrorClass},
    plan::compile::CompileError,
    runtime::{canaries::CanariesError, lock::LockError, overrides::OverridesError, switches::SwitchesError},
    telemetry::{journal::JournalError, log::LogError},
};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What `weir` exits with.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ExitCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ExitCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code in words, as the help shows it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// Done.
    Ok = 0, "done";
    /// Anything that has no code of its own.
    Failure = 1, "failed for another reason";
    /// The command line or a value in it is wrong.
    Usage = 2, "the command line is wrong";
    /// The configuration, or the persisted overrides, are invalid.
    Config = 3, "the configuration or the saved state is invalid";
    /// The daemon cannot be reached.
    Unreachable = 4, "the daemon cannot be reached";
    /// There is no such service, backend or domain.
    NotFound = 5, "there is no such service, backend or domain";
    /// Privileges are missing.
    Privilege = 6, "privileges are missing";
    /// The kernel or an interface cannot do it.
    Unsupported = 7, "the kernel or an interface cannot do it";
    /// The present state does not allow it.
    Refused = 8, "refused in the present state (a second daemon, other pins, a conflict)";
    /// What was waited for did not come about before its deadline.
    Deadline = 9, "a drain that was waited for has flows left, and its deadline has passed";
    /// What was waited for ended otherwise.
    Superseded = 10, "a drain that was waited for ended before it was drained";
    /// `weir doctor` found something that costs.
    Warnings = 11, "doctor found warnings";
    /// `weir doctor` found something that is broken.
    Errors = 12, "doctor found errors";
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// What an error comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnosis {
    /// What to exit with.
    pub code: ExitCode,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Judges an error by the first of its causes that has a meaning here.
#[must_use]
pub fn diagnose(error: &anyhow::Error) -> Diagnosis {
    let known = error.chain().find_map(known);
    known.unwrap_or(Diagnosis { code: ExitCode::Failure, remedy: None })
}

/// Whether the reader of our output went away, which is no error: `weir events | head`.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // The client's own errors are not about our output.
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn known(error: &(dyn Error + 'static)) -> Option<Diagnosis> {
    let is = |code, remedy: &str| Some(Diagnosis { code, remedy: Some(remedy.to_owned()) });
    if error.is::<ConfigError>() {
        // It shows its own remedies, each at its place.
        return Some(Diagnosis { code: ExitCode::Config, remedy: None });
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_client(error));
    }
    if let Some(error) = error.downcast_ref::<Problem>() {
        return Some(of_problem(error));
    }
    if let Some(error) = error.downcast_ref::<DataPlaneError>() {
        // It tells its remedy itself.
        return Some(Diagnosis { code: of_data_plane(error), remedy: None });
    }
    match error.downcast_ref() {
        Some(WaitError::Deadline { .. }) => {
            return is(
                ExitCode::Deadline,
                "wait on, or end what is left: weir backend fail, weir domain fail",
            );
        }
        Some(WaitError::Superseded { .. }) => {
            return is(ExitCode::Superseded, "weir events says who or what ended it");
        }
        None => {}
    }
    if error.is::<NoTerminal>() {
        return is(ExitCode::Usage, "weir status --watch and weir stats --watch -o json go into a pipe");
    }
    if error.is::<Unfinished>() {
        return is(ExitCode::Failure, "give the command again; weir flows list shows what is left");
    }
    if let Some(error) = error.downcast_ref::<PrivilegeError>() {
        return Some(Diagnosis { code: ExitCode::Privilege, remedy: Some(error.remedy()) });
    }
    match error.downcast_ref() {
        Some(LockError::Held { pid: Some(pid), .. }) => {
            let remedy =
                format!("stop that daemon first: systemctl stop weir, or kill {pid}; forwarding goes on");
            return is(ExitCode::Refused, &remedy);
        }
        Some(LockError::Held { pid: None, .. }) => {
            return is(ExitCode::Refused, "stop that daemon first: systemctl stop weir; forwarding goes on");
        }
        Some(LockError::Io { source, .. }) => return Some(of_io(source, "is the state directory writable?")),
        None => {}
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_overrides(error));
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_switches(error));
    }
    match error.downcast_ref() {
        Some(CanariesError::Corrupt { path, .. }) => {
            let path = path.display();
            let remedy = format!(
                "nothing was changed. Repair the file, or move it away (mv {path} {path}.bad) if no canary in it has to stand \
                 any more"
            );
            return is(ExitCode::Config, &remedy);
        }
        Some(CanariesError::Read { source, .. }) => {
            return Some(of_io(source, "is the state directory readable?"));
        }
        None => {}
    }
    match error.downcast_ref() {
        Some(BindError::InUse { .. }) => {
            return is(ExitCode::Refused, "stop that daemon first, or set another node.socket");
        }
        Some(BindError::NotASocket { .. }) => {
            return is(ExitCode::Refused, "move the file away, or set another node.socket");
        }
        Some(BindError::Io { source, .. }) => return Some(of_io(source, "set another node.socket")),
        Some(BindError::Tcp { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
            return is(ExitCode::Refused, "`ss -ltnp` shows who listens there; set another http.listen");
        }
        Some(BindError::Tcp { source, .. }) => {
            return Some(of_io(source, "set http.listen to an address of this host"));
        }
        None => {}
    }
    if error.is::<RemoteError>() {
        return is(ExitCode::Usage, "see --server, --ca, --cert and --key in weir --help");
    }
    if let Some(error) = error.downcast_ref::<TlsError>() {
        return is(ExitCode::Config, error.remedy());
    }
    if let Some(JournalError { source, .. }) = error.downcast_ref() {
        return Some(of_io(source, "move the file away; numbers of events then begin at 1 again"));
    }
    if let Some(LogError::Filter(_)) = error.downcast_ref() {
        return is(ExitCode::Usage, "set WEIR_LOG to error, warn, info, debug or trace, or unset it");
    }
    if error.is::<CompileError>() {
        return is(ExitCode::Config, "change the configuration accordingly");
    }
    let denied =
        error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    if denied {
        return is(ExitCode::Privilege, "run it as root: sudo weir ...");
    }
    None
}

fn of_client(error: &ClientError) -> Diagnosis {
    let (code, remedy) = match error {
        ClientError::Absent { .. } | ClientError::NobodyListens { .. } => {
            let remedy = "is the daemon running? systemctl status weir, or start it with weir daemon; \
                          name another socket with --socket or WEIR_SOCKET";
            (ExitCode::Unreachable, remedy)
        }
        ClientError::Denied { .. } => (ExitCode::Privilege, "run it as the daemon's user: sudo weir ..."),
        ClientError::TimedOut { .. } => (
            ExitCode::Unreachable,
            "the daemon may be stuck: journalctl -u weir says more; forwarding goes on",
        ),
        ClientError::Connection { .. } => {
            (ExitCode::Unreachable, "the daemon may have stopped: systemctl status weir; forwarding goes on")
        }
        ClientError::Tls { .. } => (
            ExitCode::Unreachable,
            "show a certificate that it trusts with --cert and --key, and name the authority of its own with --ca",
        ),
        ClientError::TooLarge { .. } | ClientError::NotUnderstood { .. } => {
            (ExitCode::Failure, "is it weir's socket, and is the daemon of this version? weir --version")
        }
        ClientError::Problem(problem) => return of_problem(problem),
    };
    Diagnosis { code, remedy: Some(remedy.to_owned()) }
}

fn of_problem(problem: &Problem) -> Diagnosis {
    let code = match problem.kind {
        ProblemKind::Invalid | ProblemKind::TooLarge | ProblemKind::KeyReused => ExitCode::Usage,
        ProblemKind::NotFound => ExitCode::NotFound,
        ProblemKind::Config => ExitCode::Config,
        ProblemKind::Conflict | ProblemKind::Precondition => ExitCode::Refused,
        ProblemKind::Timeout => ExitCode::Unreachable,
        ProblemKind::Forbidden => ExitCode::Privilege,
        ProblemKind::NoRoute
        | ProblemKind::Method
        | ProblemKind::Internal
        | ProblemKind::Busy
        | ProblemKind::Rate
        | ProblemKind::Host
        | ProblemKind::Unknown => ExitCode::Failure,
    };
    Diagnosis { code, remedy: Some(problem.remedy.clone()).filter(|remedy| !remedy.is_empty()) }
}

fn of_data_plane(error: &DataPlaneError) -> ExitCode {
    match error.class() {
        ErrorClass::Privilege => ExitCode::Privilege,
        ErrorClass::Unsupported => ExitCode::Unsupported,
        ErrorClass::RefusedByState => ExitCode::Refused,
        ErrorClass::Other => ExitCode::Failure,
    }
}

fn of_overrides(error: &OverridesError) -> Diagnosis {
    match error {
        OverridesError::Corrupt { path, .. } => {
            let path = path.display();
            let remedy = format!(
                "nothing was changed. Repair the file, or move it away (mv {path} {path}.bad) if no drain or failure in \
                 it has to stand any more"
            );
            Diagnosis { code: ExitCode::Config, remedy: Some(remedy) }
        }
        OverridesError::Read { source, .. } => of_io(source, "is the state directory readable?"),
        OverridesError::Write { source, .. } => {
            of_io(source, "is the state directory writable, and is the disk full?")
        }
        OverridesError::Full => {
            Diagnosis { code: ExitCode::Refused, remedy: Some("restore some of them first".to_owned()) }
        }
    }
}

fn of_switches(error: &SwitchesError) -> Diagnosis {
    match error {
        SwitchesError::Corrupt { path, .. } => {
            let path = path.display();
            let remedy = format!(
                "nothing was changed. Repair the file, or move it away (mv {path} {path}.bad) if no emergency switch in \
                 it has to be on any more"
            );
            Diagnosis { code: ExitCode::Config, remedy: Some(remedy) }
        }
        SwitchesError::Read { source, .. } => of_io(source, "is the state directory readable?"),
        SwitchesError::Write { source, .. } => {
            of_io(source, "is the state directory writable, and is the disk full?")
        }
    }
}

fn of_io(error: &io::Error, remedy: &str) -> Diagnosis {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Diagnosis { code: ExitCode::Privilege, remedy: Some("run it as root: sudo weir ...".to_owned()) }
        }
        _ => Diagnosis { code: ExitCode::Failure, remedy: Some(remedy.to_owned()) },
    }
}

/// The exit codes as the help shows them.
#[must_use]
pub fn help() -> String {
    let lines = ExitCode::ALL.iter().map(|code| format!("  {:<2} {}", *code as u8, code.text()));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::Context as _;

    use super::*;
    use crate::config::Config;

    fn code(error: impl Into<anyhow::Error>) -> ExitCode {
        // Context in front of it must not hide what it is.
        diagnose(&Err::<(), _>(error.into()).context("starting").unwrap_err()).code
    }

    #[test]
    fn each_kind_of_error_has_its_code() {
        let path = || Path::new("/x").to_owned();
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(code(Config::load(Path::new("/nonexistent/weir.toml")).unwrap_err()), ExitCode::Config);
        assert_eq!(code(ClientError::Absent { socket: path() }), ExitCode::Unreachable);
        assert_eq!(code(ClientError::Denied { socket: path() }), ExitCode::Privilege);
        assert_eq!(code(Problem::not_found("backend", "b")), ExitCode::NotFound);
        assert_eq!(code(ClientError::Problem(Problem::not_found("backend", "b"))), ExitCode::NotFound);
        assert_eq!(code(LockError::Held { path: path(), pid: None }), ExitCode::Refused);
        assert_eq!(code(LockError::Io { path: path(), source: denied() }), ExitCode::Privilege);
        assert_eq!(
            code(OverridesError::Corrupt { path: path(), detail: "EOF".to_owned() }),
            ExitCode::Config
        );
        assert_eq!(code(OverridesError::Read { path: path(), source: denied() }), ExitCode::Privilege);
        assert_eq!(code(BindError::InUse { path: path() }), ExitCode::Refused);
        assert_eq!(code(BindError::Io { path: path(), source: full() }), ExitCode::Failure);
        let address = "127.0.0.1:9440".parse().unwrap();
        let in_use = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(code(BindError::Tcp { address, source: in_use }), ExitCode::Refused);
        assert_eq!(code(BindError::Tcp { address, source: full() }), ExitCode::Failure);
        assert_eq!(code(JournalError { path: path(), source: denied() }), ExitCode::Privilege);
        assert_eq!(code(LogError::Filter("x".to_owned())), ExitCode::Usage);
        let missing = DataPlaneError::NoInterface { name: "eth9".to_owned(), existing: Vec::new() };
        assert_eq!(code(missing), ExitCode::Unsupported);
        let other = DataPlaneError::InUse { path: path() };
        assert_eq!(code(other), ExitCode::Refused);
        assert_eq!(
            code(DataPlaneError::NoPrivilege { what: "load".to_owned(), source: denied() }),
            ExitCode::Privilege
        );
        assert_eq!(code(denied()), ExitCode::Privilege);
        assert_eq!(code(full()), ExitCode::Failure);
        assert_eq!(code(anyhow::anyhow!("something")), ExitCode::Failure);
    }

    #[test]
    fn damaged_overrides_come_with_their_path_and_a_way_out() {
        let error =
            OverridesError::Corrupt { path: "/var/lib/weir/overrides.json".into(), detail: "EOF".to_owned() };
        let remedy = diagnose(&error.into()).remedy.unwrap();
        assert!(
            remedy.contains("mv /var/lib/weir/overrides.json /var/lib/weir/overrides.json.bad"),
            "{remedy}"
        );
    }

    #[test]
    fn only_our_own_output_breaks_quietly() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&broken().into()));
        assert!(!is_broken_pipe(&JournalError { path: "/x".into(), source: broken() }.into()));
    }
}
