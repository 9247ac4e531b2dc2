//! The kernel's verifier gives up when a signal is waiting for the thread that loads a program: the same again then does it.

use std::io;

use aya::programs::ProgramError;

/// How often loading is tried while signals interrupt it.
const LOAD_ATTEMPTS: usize = 5;

/// Loads a program, and tries it again where a signal came in between.
///
/// # Errors
/// As `load`, of the last attempt.
pub(super) fn load_again(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    again(load, is_interrupted)
}

fn again<E>(mut load: impl FnMut() -> Result<(), E>, is_interrupted: impl Fn(&E) -> bool) -> Result<(), E> {
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(error) if is_interrupted(&error) => {
                tracing::info!("a signal interrupted the verifier: once more");
            }
            done => return done,
        }
    }
    load()
}

fn is_interrupted(error: &ProgramError) -> bool {
    // EAGAIN
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_signal_interrupted_is_tried_again_and_not_for_ever() {
        for (errors, attempts, succeeds) in [
            (&[][..], 1, true),
            (&[libc::EAGAIN; 4][..], 5, true),
            (&[libc::EAGAIN; 9][..], 5, false),
            (&[libc::EAGAIN, libc::EACCES, libc::EAGAIN][..], 2, false),
        ] {
            let (mut left, mut tried) = (errors.iter(), 0);
            let load = || {
                tried += 1;
                left.next().map_or(Ok(()), |&code| Err(code))
            };
            let done = again(load, |&code| code == libc::EAGAIN);
            assert_eq!((tried, done.is_ok()), (attempts, succeeds), "{errors:?}");
        }
    }
}
