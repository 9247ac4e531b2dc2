//! `weir backend ...`

use clap::Subcommand;
use comfy_table::Cell;

use super::{
    client::{Client, encode},
    operate::{self, DrainArgs, ENDS, FailArgs, RestoreArgs, Said},
    output::{Output, bytes, flows, moment, number, span, state, word},
};
use crate::api::types::{BackendActionRequest, BackendView, CheckState, CheckView};

const LIST_EXAMPLES: &str = "\
Examples:
  weir backend list
  weir backend list -o json";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir backend show w1r1b1
  weir backend show w1r1b1 -o json";
const DRAIN_EXAMPLES: &str = "\
Examples:
  weir backend drain w1r1b1 --reason 'kernel upgrade'
  weir backend drain w1r1b1 --for 2h --reason 'kernel upgrade'
  weir backend drain w1r1b1 --no-expiry --reason 'out of service'
  weir backend drain w1r1b1 --wait --deadline 10m --quiet 30s --reason 'kernel upgrade'

New flows go elsewhere, established ones stay, until its time is over or `weir backend restore`. No flow of another backend moves.

It is drained when no entry of the flow table names it and no packet came for a minute, or for --quiet. A flow at home that is silent for
longer is known to nobody. A deadline cuts nothing off: `weir backend fail` does.";
const FAIL_EXAMPLES: &str = "\
Examples:
  weir backend fail w1r1b1 --reason 'answers with errors'
  weir backend fail w1r1b1 --for 30m --reason 'answers with errors'

All flows go elsewhere at once, until its time is over or `weir backend restore`. No flow of another backend moves.";
const RESTORE_EXAMPLES: &str = "\
Examples:
  weir backend restore w1r1b1 --reason 'kernel upgraded'
  weir backend restore w1r1b1 --forget-failures --reason 'loose cable fixed'

The checks have the say again. Restoring brings back exactly the placement from before.";

/// What to do with backends.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  weir backend list
  weir backend drain w1r1b1 --reason 'kernel upgrade'
  weir backend restore w1r1b1 --reason 'kernel upgraded'")]
pub enum BackendCommand {
    /// List all backends
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show one backend: its state, its checks, the way to it
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// Name of the backend
        name: String,
    },
    /// Send no new flows to a backend; established ones stay
    #[command(after_long_help = format!("{DRAIN_EXAMPLES}\n\n{ENDS}"))]
    Drain(DrainArgs),
    /// Send nothing to a backend
    #[command(after_long_help = format!("{FAIL_EXAMPLES}\n\n{ENDS}"))]
    Fail(FailArgs),
    /// Take back `drain` or `fail`: the checks have the say again
    #[command(after_long_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
}

pub(super) async fn run(command: BackendCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        BackendCommand::List => {
            let answer = client.get("/v1/backends").await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let backends: Vec<BackendView> = answer.parse()?;
            let header =
                ["NAME", "STATE", "TAKES FLOWS", "RACK", "ADDRESS", "WEIGHT", "PACKETS", "BYTES", "WHY"];
            Ok(out.table(&header, backends.iter().map(row).collect())?)
        }
        BackendCommand::Show { name } => {
            let answer = client.get(&format!("/v1/backends/{}", encode(&name))).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            show(&answer.parse()?, out)
        }
        BackendCommand::Drain(args) => act(args.into(), client, out).await,
        BackendCommand::Fail(args) => act(args.into(), client, out).await,
        BackendCommand::Restore(args) => act(args.into(), client, out).await,
    }
}

async fn act(said: Said, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let Said { action, name, reason, terms, wait } = said;
    let path = format!("/v1/backends/{}/{}", encode(&name), action.name());
    let answer = client.post(&path, &BackendActionRequest::new(reason, terms)).await?;
    if !(wait && out.is_data()) {
        operate::show(&answer, out)?;
        out.flush()?;
    }
    if wait {
        let path = format!("/v1/backends/{}", encode(&name));
        operate::wait(&path, &name, client, out).await?;
    }
    Ok(())
}

fn row(backend: &BackendView) -> Vec<Cell> {
    vec![
        Cell::new(&backend.name),
        operate::state_of(&backend.health),
        Cell::new(flows(backend.effective)),
        Cell::new(&backend.rack),
        Cell::new(backend.address),
        number(backend.weight.into()),
        number(backend.packets),
        Cell::new(bytes(backend.bytes)).set_alignment(comfy_table::CellAlignment::Right),
        Cell::new(why(backend)),
    ]
}

/// Why it does not take all flows: the operator, its checks, the domain that limits it, and the way to it.
pub(super) fn why(backend: &BackendView) -> String {
    let mut causes = vec![word(&backend.health)];
    if backend.health.word.is_none() {
        let failing = backend.checks.iter().filter(|check| check.state == CheckState::Failing);
        causes.extend(failing.map(|check| format!("{} is failing", check.name)));
    }
    if backend.spared {
        causes.push("stays in by max_ejected".to_owned());
    }
    causes.extend(backend.limited_by.as_ref().map(|domain| format!("{domain} is limited")));
    if backend.next_hop.is_none() {
        causes.push("no next hop".to_owned());
    }
    causes.retain(|cause| !cause.is_empty());
    causes.join("; ")
}

/// What is known of its established flows.
fn away(backend: &BackendView) -> String {
    let drained = if backend.drained { ": drained, as far as anybody knows" } else { "" };
    format!("{} flows away from home, no packet for {} s{drained}", backend.flows, backend.quiet_s)
}

fn show(backend: &BackendView, out: &mut Output) -> anyhow::Result<()> {
    let limited =
        backend.limited_by.as_ref().map_or_else(String::new, |domain| format!(", because of {domain}"));
    let next_hop = backend.next_hop.as_ref();
    let way =
        next_hop.map_or_else(|| "not known".to_owned(), |hop| format!("{} by {}", hop.mac, hop.interface));
    let mut fields = vec![
        ("name", Cell::new(&backend.name)),
        ("state", operate::state_of(&backend.health)),
        ("since", Cell::new(moment(backend.health.since))),
        ("checks say", state(backend.health.automatic)),
        ("takes flows", Cell::new(format!("{}{limited}", flows(backend.effective)))),
        ("rack", Cell::new(&backend.rack)),
        ("set", Cell::new(&backend.set)),
        ("address", Cell::new(backend.address)),
        ("weight", Cell::new(backend.weight)),
        ("next hop", Cell::new(way)),
        ("forwarded", Cell::new(format!("{} packets, {}", backend.packets, bytes(backend.bytes)))),
        ("flow table", Cell::new(away(backend))),
    ];
    fields.extend(operate::fields(&backend.health));
    out.fields(fields)?;
    if backend.checks.is_empty() {
        return Ok(out.line("\nno checks: always believed UP")?);
    }
    out.line("")?;
    let header = ["CHECK", "PORT", "STATE", "LAST", "ROUND TRIP", "ANSWERED", "MISSED"];
    Ok(out.table(&header, backend.checks.iter().map(check_row).collect())?)
}

fn check_row(check: &CheckView) -> Vec<Cell> {
    vec![
        Cell::new(&check.name),
        if check.port == 0 { Cell::new("") } else { number(check.port.into()) },
        Cell::new(check.state.name()),
        Cell::new(&check.last),
        Cell::new(check.last_rtt_ns.map_or_else(String::new, span)),
        number(check.answered),
        number(check.missed),
    ]
}
