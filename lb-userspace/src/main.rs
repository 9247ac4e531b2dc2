//! The command line `weir`.

fn main() -> std::process::ExitCode {
    lb_userspace::cli::main().into()
}
