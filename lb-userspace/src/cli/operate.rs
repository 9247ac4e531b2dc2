//! What an operator does to a backend or a domain: `drain`, `fail`, `restore`.

use clap::Args;
use comfy_table::Cell;

use super::{
    client::{Answer, Client},
    output::{Output, moment, span, state, uptime, word},
    times::parse_seconds,
};
use crate::{
    api::{
        router::check_reason,
        types::{Acted, ActionTerms, DampingView, DrainState, DrainView, HealthView},
    },
    plan::state::{Action, MAX_DRAIN_TIME, MAX_OVERRIDE_TIME, State},
};

/// Between two looks at a drain that is waited for.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// What the help of `drain` and `fail` says about their end.
pub(super) const ENDS: &str = "\
Without --for the word stands for 24 hours: longer than a night's work, and nothing stays out for ever because somebody forgot it. After its
time the checks have the say at once; what is still broken stays out by them. `weir status` counts it down, and giving
the command again sets the time anew. --no-expiry makes it stand until it is restored.";

/// Whom, and why.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct ActionArgs {
    /// Name of the backend, or path of the domain
    pub name: String,
    /// Why, in one line; kept in the event journal and shown while the word stands
    #[arg(long, value_parser = check_reason, value_name = "TEXT")]
    pub reason: String,
}

/// For how long.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct ForArgs {
    /// For how long: a whole number and s, m, h or d, up to 30d [default: 24h]
    #[arg(long = "for", value_parser = parse_for, value_name = "TIME", conflicts_with = "no_expiry")]
    pub for_s: Option<u64>,
    /// Until it is restored
    #[arg(long)]
    pub no_expiry: bool,
}

/// Arguments of `drain`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct DrainArgs {
    /// Whom, and why
    #[command(flatten)]
    pub action: ActionArgs,
    /// For how long
    #[command(flatten)]
    pub lasts: ForArgs,
    /// When it counts as done, whatever flows are left: a whole number and s, m, h or d
    #[arg(long, value_parser = parse_drain_time, value_name = "TIME")]
    pub deadline: Option<u64>,
    /// For how long no packet must have come until it is drained [default: 60s]
    #[arg(long, value_parser = parse_drain_time, value_name = "TIME")]
    pub quiet: Option<u64>,
    /// Wait until it is drained, or its deadline has passed (exit code 9), or the drain ended before that (exit code 10)
    #[arg(long)]
    pub wait: bool,
}

/// Arguments of `fail`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct FailArgs {
    /// Whom, and why
    #[command(flatten)]
    pub action: ActionArgs,
    /// For how long
    #[command(flatten)]
    pub lasts: ForArgs,
}

/// Arguments of `restore`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct RestoreArgs {
    /// Whom, and why
    #[command(flatten)]
    pub action: ActionArgs,
    /// Forget the failures that damping remembers: what it holds out comes back now
    #[arg(long)]
    pub forget_failures: bool,
}

fn parse_for(text: &str) -> Result<u64, String> {
    parse_seconds(text, MAX_OVERRIDE_TIME)
}

fn parse_drain_time(text: &str) -> Result<u64, String> {
    parse_seconds(text, MAX_DRAIN_TIME)
}

/// An action with all that was said about it.
pub(super) struct Said {
    pub(super) action: Action,
    pub(super) name: String,
    pub(super) reason: String,
    pub(super) terms: ActionTerms,
    /// Whether to wait until it is drained.
    pub(super) wait: bool,
}

impl From<DrainArgs> for Said {
    fn from(args: DrainArgs) -> Self {
        let DrainArgs { action: ActionArgs { name, reason }, lasts, deadline, quiet, wait } = args;
        let terms = ActionTerms { deadline_s: deadline, quiet_s: quiet, ..lasts.into() };
        Self { action: Action::Drain, name, reason, terms, wait }
    }
}

impl From<FailArgs> for Said {
    fn from(args: FailArgs) -> Self {
        let FailArgs { action: ActionArgs { name, reason }, lasts } = args;
        Self { action: Action::Fail, name, reason, terms: lasts.into(), wait: false }
    }
}

impl From<RestoreArgs> for Said {
    fn from(args: RestoreArgs) -> Self {
        let RestoreArgs { action: ActionArgs { name, reason }, forget_failures } = args;
        let terms = ActionTerms { forget_failures, ..ActionTerms::default() };
        Self { action: Action::Restore, name, reason, terms, wait: false }
    }
}

impl From<ForArgs> for ActionTerms {
    fn from(args: ForArgs) -> Self {
        Self { for_s: args.for_s, no_expiry: args.no_expiry, ..Self::default() }
    }
}

/// Says what an action came to.
pub(super) fn show(answer: &Answer, out: &mut Output) -> anyhow::Result<()> {
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let Acted { subject, action, from, to, changed, decided_ns, stored_ns, left_s, .. } = answer.parse()?;
    let took = span(stored_ns.saturating_sub(decided_ns));
    let text = match (changed, from == to) {
        (true, false) => {
            format!(
                "{subject}: {} -> {}, in the data plane {took} after the decision",
                from.name(),
                to.name()
            )
        }
        (true, true) => format!("{subject} stays {}, now with another cause or end", to.name()),
        (false, _) => format!("{subject} is {} already: nothing changed", to.name()),
    };
    let ends = match (action, left_s) {
        (Action::Restore, _) => String::new(),
        (_, Some(left_s)) => {
            format!("\nit ends by itself in {}; then the checks have the say", uptime(left_s))
        }
        (_, None) => "\nit has no end: it stands until it is restored".to_owned(),
    };
    Ok(out.line(format!("{text}{ends}"))?)
}

/// A drain that was waited for and did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The deadline has passed.
    #[error("{name} is not drained, and its deadline has passed: {left}")]
    Deadline {
        /// Of whom.
        name: String,
        /// What is left.
        left: String,
    },
    /// Somebody restored or failed it, or its time is over.
    #[error("the drain of {name} ended before it was drained")]
    Superseded {
        /// Of whom.
        name: String,
    },
}

/// The part of a backend or a domain that tells how far its drain is.
#[derive(serde::Deserialize)]
struct Drained {
    health: HealthView,
}

/// Waits until what lies at `path` is drained, and tells on the way how far it is.
pub(super) async fn wait(path: &str, name: &str, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let mut last = String::new();
    loop {
        let answer = client.get(path).await?;
        let Drained { health } = answer.parse()?;
        if health.word.as_ref().is_none_or(|word| word.action != Action::Drain) {
            return Err(WaitError::Superseded { name: name.to_owned() }.into());
        }
        if let Some(drain) = &health.drain {
            let how = progress(drain);
            if drain.state == DrainState::DeadlinePassed {
                return Err(WaitError::Deadline { name: name.to_owned(), left: how }.into());
            }
            if out.is_data() && drain.state == DrainState::Drained {
                return Ok(out.json(&answer.json)?);
            }
            if !out.is_data() && how != last {
                out.line(format!("{name}: {how}"))?;
                out.flush()?;
                last = how;
            }
            if drain.state == DrainState::Drained {
                return Ok(());
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How far a drain is, in words.
fn progress(drain: &DrainView) -> String {
    let DrainView { state, flows, walked, packets_per_second, quiet_s, silent_s, .. } = drain;
    let flows = match (walked, flows) {
        (false, _) => "flow table not walked yet".to_owned(),
        (true, flows) => format!("{flows} flows away from home"),
    };
    // Seconds that count up would be a line each.
    let packets = match (packets_per_second, silent_s >= quiet_s) {
        (0, true) => format!("no packet for {quiet_s} s"),
        (0, false) => format!("no packet lately, {quiet_s} s of that are needed"),
        (rate, _) => format!("{rate} packets a second"),
    };
    let state = if *state == DrainState::Drained { "DRAINED" } else { "DRAINING" };
    format!("{state}: {flows}, {packets}")
}

/// The state, and of a drain how far it is.
pub(super) fn state_of(health: &HealthView) -> Cell {
    drain_state(health.state, health.drain.as_ref())
}

/// See [`state_of`].
pub(super) fn drain_state(of: State, drain: Option<&DrainView>) -> Cell {
    let Some(drain) = drain.filter(|_| of == State::Draining) else { return state(of) };
    let text = match drain.state {
        DrainState::Draining => format!("DRAINING ({} flows)", drain.flows),
        DrainState::Drained => "DRAINED".to_owned(),
        DrainState::DeadlinePassed => format!("DRAINING (deadline passed, {} flows)", drain.flows),
    };
    Cell::new(text).fg(comfy_table::Color::Yellow)
}

/// What an operator said, how far that is, and what damping remembers, for `show`.
pub(super) fn fields(health: &HealthView) -> Vec<(&'static str, Cell)> {
    let mut fields = Vec::new();
    if let Some(drain) = &health.drain {
        fields.push(("drain", Cell::new(progress(drain))));
    }
    if let Some(held) = &health.word {
        let said = format!("{} (since {}, {})", word(health), moment(held.since), ends(health.left_s));
        fields.push(("operator", Cell::new(said)));
    }
    if let Some(shift) = &health.shift {
        fields.push(("shift", Cell::new(super::shift::word(shift))));
    }
    if let Some(DampingView { penalty, suppressed, left_s }) = &health.damping {
        let held = match (suppressed, left_s) {
            (true, Some(left_s)) => {
                format!(", held out for {} more (restore --forget-failures)", uptime(*left_s))
            }
            _ => String::new(),
        };
        fields.push(("damping", Cell::new(format!("penalty {penalty}{held}"))));
    }
    fields
}

/// When a word ends.
pub(super) fn ends(left_s: Option<u64>) -> String {
    left_s.map_or_else(|| "no end".to_owned(), |left_s| format!("{} left", uptime(left_s)))
}
