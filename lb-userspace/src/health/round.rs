//! The results of probing, as probers hand them to the judge.

use std::fmt;

use crate::health::bfd::session::Cause;

/// How a probe was missed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Miss {
    /// No answer in time.
    Silent,
    /// The agent answered that it is not well.
    Unwell,
    /// The probe could not be sent: no route, an unreachable network or a full queue.
    Unsent,
    /// The connection was refused.
    Refused,
    /// The network said that the host cannot be reached.
    Unreachable,
    /// The answer was not the one that is expected.
    Wrong,
    /// The connection ended, or spoke another protocol.
    Broken,
    /// TLS could not be agreed on, or the certificate was not believed.
    Tls,
    /// The HTTP status was not among the expected ones.
    Status(u16),
    /// The body did not hold what is expected.
    Body,
    /// The program failed with this code.
    Exit(u8),
    /// The program was ended by a signal.
    Killed,
    /// The BFD session is not up.
    Bfd(Cause),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "no answer",
            Self::Unwell => "unwell",
            Self::Unsent => "not sent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Wrong => "wrong answer",
            Self::Broken => "connection broken",
            Self::Tls => "TLS failed",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Body => "unexpected body",
            Self::Exit(code) => return write!(f, "exit code {code}"),
            Self::Killed => "ended by a signal",
            Self::Bfd(cause) => return write!(f, "BFD session down: {}", cause.name()),
        })
    }
}

impl Miss {
    /// Whether it was the target itself that said so, which proves this host's connection.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        match self {
            Self::Unwell
            | Self::Refused
            | Self::Wrong
            | Self::Broken
            | Self::Tls
            | Self::Status(_)
            | Self::Body => true,
            Self::Silent | Self::Unsent | Self::Unreachable | Self::Exit(_) | Self::Killed | Self::Bfd(_) => {
                false
            }
        }
    }

    /// Whether it takes no second one to believe it: a BFD session that is down has missed its packets already.
    #[must_use]
    pub const fn is_decisive(self) -> bool {
        matches!(self, Self::Bfd(_))
    }
}

/// What became of the probe of one target in one round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing can be said: no probe ended in this round, or the prober itself was late.
    Unknown,
    /// It was answered.
    Answered {
        /// When the answer was taken.
        at_ns: u64,
        /// From sending the probe to taking the answer; 0 where that is not measured.
        rtt_ns: u64,
    },
    /// It was missed.
    Missed {
        /// How.
        how: Miss,
        /// When the answer was due.
        due_ns: u64,
    },
}

/// The results of one round of one group.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Index into [`Targets::groups`].
    pub group: usize,
    /// Answers from here on prove that this host is connected.
    pub since_ns: u64,
    /// When the round was due.
    pub due_ns: u64,
    /// One for each of the group's targets, in their order.
    pub outcomes: &'a [Outcome],
}
