//! What an operator does to a backend or a domain: `drain`, `fail`, `restore`.

use clap::Args;

use super::{
    client::Answer,
    output::{Output, span},
};
use crate::api::{router::check_reason, types::Acted};

/// Arguments of an action.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct ActionArgs {
    /// Name of the backend, or path of the domain
    pub name: String,
    /// Why, in one line; kept in the event journal and shown while the word stands
    #[arg(long, value_parser = check_reason, value_name = "TEXT")]
    pub reason: String,
}

/// Says what an action came to.
pub(super) fn show(answer: &Answer, out: &mut Output) -> anyhow::Result<()> {
    if out.is_json() {
        return Ok(out.json(&answer.json)?);
    }
    let Acted { subject, from, to, changed, decided_ns, stored_ns, .. } = answer.parse()?;
    let took = span(stored_ns.saturating_sub(decided_ns));
    let text = match (changed, from == to) {
        (true, false) => {
            format!(
                "{subject}: {} -> {}, in the data plane {took} after the decision",
                from.name(),
                to.name()
            )
        }
        (true, true) => format!("{subject} stays {}, now with another cause", to.name()),
        (false, _) => format!("{subject} is {} already: nothing changed", to.name()),
    };
    Ok(out.line(text)?)
}
