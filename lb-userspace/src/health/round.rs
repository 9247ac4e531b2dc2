//! The results of probing, as probers hand them to the judge.

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
}

impl Miss {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "no answer",
            Self::Unwell => "unwell",
            Self::Unsent => "not sent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether it was the target itself that said so, which proves this host's connection.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        matches!(self, Self::Unwell | Self::Refused)
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
        /// From sending the probe to taking the answer.
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
