//! `weir service ...`

use clap::Subcommand;
use comfy_table::Cell;

use super::{
    client::{Client, encode},
    output::{Output, bytes, flows, number},
};
use crate::{
    api::types::ServiceView,
    config::{OnAllDown, Udp, endpoint},
};

const LIST_EXAMPLES: &str = "\
Examples:
  weir service list
  weir service list -o json";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir service show web
  weir service show web -o json";

/// What to do with services.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = "Examples:\n  weir service list\n  weir service show web")]
pub enum ServiceCommand {
    /// List all services
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show one service: its pools, its plans, its traffic
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// Name of the service
        name: String,
    },
}

pub(super) async fn run(command: ServiceCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        ServiceCommand::List => {
            let answer = client.get("/v1/services").await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let services: Vec<ServiceView> = answer.parse()?;
            let header = ["NAME", "ADDRESS", "POOLS", "BACKENDS", "AVAILABLE", "PACKETS", "BYTES", "DROPPED"];
            Ok(out.table(&header, services.iter().map(row).collect())?)
        }
        ServiceCommand::Show { name } => {
            let answer = client.get(&format!("/v1/services/{}", encode(&name))).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            show(&answer.parse()?, out)
        }
    }
}

fn address(service: &ServiceView) -> String {
    endpoint(service.address, service.port, service.protocol)
}

fn row(service: &ServiceView) -> Vec<Cell> {
    let total =
        |count: fn(&crate::api::types::PoolView) -> u64| number(service.pools.iter().map(count).sum());
    vec![
        Cell::new(&service.name),
        Cell::new(address(service)),
        number(service.pools.len() as u64),
        total(|pool| pool.backends),
        total(|pool| pool.available),
        number(service.traffic.packets),
        Cell::new(bytes(service.traffic.bytes)).set_alignment(comfy_table::CellAlignment::Right),
        number(service.traffic.dropped),
    ]
}

fn show(service: &ServiceView, out: &mut Output) -> anyhow::Result<()> {
    let traffic = &service.traffic;
    let on_all_down = match service.on_all_down {
        OnAllDown::Drop => "drop",
        OnAllDown::FailOpen => "fail-open",
    };
    let mut fields = vec![
        ("name", Cell::new(&service.name)),
        ("address", Cell::new(address(service))),
        ("forwarding", Cell::new(&service.forwarding)),
        ("reach", Cell::new(service.reach.name())),
    ];
    if let Some(udp) = service.udp {
        let what = match udp {
            Udp::Move => "move: a drain sends flows elsewhere",
            Udp::Stick => "stick: a drain leaves flows where they are",
        };
        fields.push(("udp", Cell::new(what)));
    }
    if service.quic {
        fields.push(("quic", Cell::new("connections stay by their ids")));
    }
    fields.extend([
        ("on all down", Cell::new(on_all_down)),
        (
            "forwarded",
            Cell::new(format!(
                "{} packets, {}, {} of them opening",
                traffic.packets,
                bytes(traffic.bytes),
                traffic.opening
            )),
        ),
        ("dropped", Cell::new(format!("{} packets", traffic.dropped))),
    ]);
    out.fields(fields)?;
    out.line("")?;
    let pools = service.pools.iter().map(|pool| {
        vec![
            Cell::new(&pool.name),
            number(pool.backends),
            number(pool.available),
            Cell::new(flows(pool.admission.shares)),
            number(pool.table_size.into()),
            Cell::new(pool.sets.join(", ")),
        ]
    });
    out.table(&["POOL", "BACKENDS", "AVAILABLE", "TAKES FLOWS", "TABLE", "SETS"], pools.collect())?;
    out.line("")?;
    let plans = service
        .plans
        .iter()
        .map(|plan| vec![Cell::new(&plan.client_region), Cell::new(plan.pools.join(", "))]);
    Ok(out.table(&["CLIENT REGION", "POOLS IN ORDER"], plans.collect())?)
}
