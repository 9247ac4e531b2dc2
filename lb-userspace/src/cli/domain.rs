//! `weir domain ...`

use clap::Subcommand;
use comfy_table::Cell;

use super::{
    client::{Client, encode},
    operate::{self, DrainArgs, ENDS, FailArgs, RestoreArgs, Said},
    output::{Output, flows, moment, number, state, word},
};
use crate::api::types::{DomainActionRequest, DomainView};

const LIST_EXAMPLES: &str = "\
Examples:
  weir domain list
  weir domain list -o json";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir domain show west/w1
  weir domain show west/w1/r1 -o json";
const DRAIN_EXAMPLES: &str = "\
Examples:
  weir domain drain west/w1/r1 --reason 'replacing the switch'
  weir domain drain west/w1/r1 --for 2h --reason 'replacing the switch'
  weir domain drain west/w1/r1 --wait --deadline 10m --reason 'replacing the switch'

New flows go elsewhere, established ones stay, until its time is over or `weir domain restore`. No flow of another domain moves.";
const FAIL_EXAMPLES: &str = "\
Examples:
  weir domain fail west/w1 --reason 'cooling failed'
  weir domain fail west/w1 --for 4h --reason 'cooling failed'

All flows go elsewhere at once, until its time is over or `weir domain restore`. No flow of another domain moves.";
const RESTORE_EXAMPLES: &str = "\
Examples:
  weir domain restore west/w1 --reason 'cooling works again'
  weir domain restore west/w1/r1 --forget-failures --reason 'switch replaced'

The checks have the say again. Restoring brings back exactly the placement from before.";

/// What to do with regions, zones and racks.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  weir domain list
  weir domain drain west/w1 --reason 'moving racks'
  weir domain restore west/w1 --reason 'racks moved'")]
pub enum DomainCommand {
    /// List all domains
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show one domain
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// Path of the domain: region, region/zone or region/zone/rack
        path: String,
    },
    /// Send no new flows to a domain; established ones stay
    #[command(after_long_help = format!("{DRAIN_EXAMPLES}\n\n{ENDS}"))]
    Drain(DrainArgs),
    /// Send nothing to a domain
    #[command(after_long_help = format!("{FAIL_EXAMPLES}\n\n{ENDS}"))]
    Fail(FailArgs),
    /// Take back `drain` or `fail`: the checks have the say again
    #[command(after_long_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
}

pub(super) async fn run(command: DomainCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        DomainCommand::List => {
            let answer = client.get("/v1/domains").await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let domains: Vec<DomainView> = answer.parse()?;
            let header =
                ["PATH", "LEVEL", "STATE", "TAKES FLOWS", "UP", "SUSPECT", "DOWN", "DRAINING", "RAMP", "WHY"];
            Ok(out.table(&header, domains.iter().map(row).collect())?)
        }
        DomainCommand::Show { path } => {
            let answer = client.get(&format!("/v1/domains/{}", encode(&path))).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            show(&answer.parse()?, out)
        }
        DomainCommand::Drain(args) => act(args.into(), client, out).await,
        DomainCommand::Fail(args) => act(args.into(), client, out).await,
        DomainCommand::Restore(args) => act(args.into(), client, out).await,
    }
}

async fn act(said: Said, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let Said { action, name, reason, terms, wait } = said;
    let path = format!("/v1/domains/actions/{}", action.name());
    let request = DomainActionRequest { domain: name.clone(), ..DomainActionRequest::new(reason, terms) };
    let answer = client.post(&path, &request).await?;
    if !(wait && out.is_data()) {
        operate::show(&answer, out)?;
        out.flush()?;
    }
    if wait {
        let path = format!("/v1/domains/{}", encode(&name));
        operate::wait(&path, &name, client, out).await?;
    }
    Ok(())
}

fn row(domain: &DomainView) -> Vec<Cell> {
    let DomainView { path, level, health, admission, backends } = domain;
    vec![
        Cell::new(path),
        Cell::new(level),
        operate::state_of(health),
        Cell::new(flows(admission.shares)),
        number(backends.up),
        number(backends.suspect),
        number(backends.down),
        number(backends.draining),
        number(backends.ramp),
        Cell::new(word(health)),
    ]
}

fn show(domain: &DomainView, out: &mut Output) -> anyhow::Result<()> {
    let DomainView { path, level, health, admission, backends } = domain;
    let counts = format!(
        "{} ({} UP, {} SUSPECT, {} DOWN, {} DRAINING, {} RAMP by their own state)",
        backends.total(),
        backends.up,
        backends.suspect,
        backends.down,
        backends.draining,
        backends.ramp
    );
    let mut fields = vec![
        ("path", Cell::new(path)),
        ("level", Cell::new(level)),
        ("state", operate::state_of(health)),
        ("since", Cell::new(moment(health.since))),
        ("checks say", state(health.automatic)),
        ("takes flows", Cell::new(flows(admission.shares))),
        ("backends", Cell::new(counts)),
    ];
    fields.extend(operate::fields(health));
    Ok(out.fields(fields)?)
}
