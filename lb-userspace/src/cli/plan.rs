//! `weir plan ...`

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};

use super::{
    client::{Client, encode},
    output::{Output, number},
};
use crate::api::types::{SimulateRequest, Simulation, SteeredPlan, SteeredPool};

const EXAMPLES: &str = "\
Examples:
  weir plan list
  weir plan show web --client 198.51.100.0/24
  weir plan simulate --fail zone=west/w1 --load 1.5";
const LIST_EXAMPLES: &str = "\
Examples:
  weir plan list
  weir plan list -o json

SPILLED is the share of new flows that does not come to the first pool; HEALTHY what takes new flows of what operators let in, over
all pools of the plan; below the plan's panic_threshold health is not believed (PANIC).";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir plan show web
  weir plan show web --client 198.51.100.7
  weir plan show web --client 2001:db8:a::/48 -o json

SHARE is the part of the plan's new flows that comes to a pool. STARTS less than all at the first pool: it is full. LEAVE: of the
flows whose own member of the pool refuses them, those that go on to the next pool at once. FLOWS/S came to the pool's members
lately, whatever their plan.";
const SIMULATE_EXAMPLES: &str = "\
Examples:
  weir plan simulate --fail zone=west/w1
  weir plan simulate --fail rack=west/w1/r1 --fail backend=web-7 --load 1.5
  weir plan simulate --load 2 --service web -o json

Nothing is changed. It is computed from the daemon's words, counters and capacities of this moment, by the same code that steers, as
things stand once they have settled.";

/// What to do with plans.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum PlanCommand {
    /// List all plans: what spills, what does not believe health
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show the plans of a service: pools, health, capacity, demand, shares, and why
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// Name of the service
        service: String,
        /// Only for these clients: an address, a prefix, or the name of a client region
        #[arg(long, value_name = "PREFIX|ADDRESS|REGION")]
        client: Option<String>,
    },
    /// Show where the traffic would go if something failed or load grew, before anyone acts
    #[command(after_long_help = SIMULATE_EXAMPLES)]
    Simulate(SimulateArgs),
}

/// Options of `weir plan simulate`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct SimulateArgs {
    /// What fails: region=R, zone=R/Z, rack=R/Z/K or backend=NAME; again for more
    #[arg(long, value_name = "KIND=NAME")]
    fail: Vec<String>,
    /// New flows, as a factor of what there are now
    #[arg(long, value_name = "FACTOR", value_parser = parse_load)]
    load: Option<Load>,
    /// Only this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

/// A factor, in thousandths, so that it can be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load(u32);

fn parse_load(text: &str) -> Result<Load, String> {
    let load = text.parse::<f64>().ok().filter(|load| (0.0..=1_000.0).contains(load));
    // In range by the test.
    load.map(|load| Load((load * 1_000.0).round() as u32))
        .ok_or_else(|| "it is a factor of what there is now, 0 to 1000, such as 1.5".to_owned())
}

pub(super) async fn run(command: PlanCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        PlanCommand::List => {
            let answer = client.get("/v1/plans").await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            list(&answer.parse::<Vec<SteeredPlan>>()?, out)
        }
        PlanCommand::Show { service, client: clients } => {
            let query = clients.map_or_else(String::new, |clients| format!("?client={}", encode(&clients)));
            let answer = client.get(&format!("/v1/plans/{}{query}", encode(&service))).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            for (index, plan) in answer.parse::<Vec<SteeredPlan>>()?.iter().enumerate() {
                if index > 0 {
                    out.line("")?;
                }
                show(plan, out)?;
            }
            Ok(())
        }
        PlanCommand::Simulate(SimulateArgs { fail, load, service }) => {
            let load = load.map(|Load(thousandths)| f64::from(thousandths) / 1_000.0);
            let answer = client.post("/v1/plans/simulate", &SimulateRequest { fail, load, service }).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            simulated(&answer.parse()?, out)
        }
    }
}

fn list(plans: &[SteeredPlan], out: &mut Output) -> anyhow::Result<()> {
    let rows = plans.iter().map(|plan| {
        vec![
            Cell::new(&plan.service),
            Cell::new(&plan.client_region),
            Cell::new(&plan.mode),
            Cell::new(plan.pools.iter().map(|pool| pool.pool.as_str()).collect::<Vec<_>>().join(", ")),
            percent(plan.healthy_percent),
            right(format!("{:.0}", plan.demand)),
            percent(plan.spilled_percent),
            Cell::new(if plan.panic { "yes" } else { "no" }),
        ]
    });
    let header =
        ["SERVICE", "CLIENT REGION", "MODE", "POOLS IN ORDER", "HEALTHY", "FLOWS/S", "SPILLED", "PANIC"];
    Ok(out.table(&header, rows.collect())?)
}

fn show(plan: &SteeredPlan, out: &mut Output) -> anyhow::Result<()> {
    let mode = match plan.rho {
        Some(rho) => format!("{}, rho = {rho}", plan.mode),
        None => plan.mode.clone(),
    };
    let threshold = plan.panic_threshold_percent;
    let panic = match (plan.panic, threshold > 0.0) {
        (true, _) => format!("yes: health is not believed below {threshold:.0} %"),
        (false, true) => format!("no; below {threshold:.0} % healthy"),
        (false, false) => "never".to_owned(),
    };
    out.fields(vec![
        ("service", Cell::new(&plan.service)),
        ("client region", Cell::new(&plan.client_region)),
        ("mode", Cell::new(mode)),
        (
            "residency",
            Cell::new(
                plan.residency.as_ref().map_or_else(|| "any region".to_owned(), |regions| regions.join(", ")),
            ),
        ),
        ("healthy", Cell::new(format!("{:.1} % of what operators let in", plan.healthy_percent))),
        ("panic", Cell::new(panic)),
        ("demand", Cell::new(format!("{:.1} new flows/s", plan.demand))),
        ("spilled", Cell::new(format!("{:.1} %", plan.spilled_percent))),
        ("without room", Cell::new(format!("{:.1} %", plan.unfit_percent))),
    ])?;
    out.line("")?;
    let header =
        ["POOL", "SETS", "MEMBERS", "TAKING", "HEALTHY", "CAPACITY", "FLOWS/S", "STARTS", "LEAVE", "SHARE"];
    out.table(&header, plan.pools.iter().map(row).collect())?;
    out.line("")?;
    for why in &plan.why {
        out.line(format!("- {why}"))?;
    }
    Ok(())
}

fn row(pool: &SteeredPool) -> Vec<Cell> {
    vec![
        Cell::new(&pool.pool),
        Cell::new(pool.sets.join(", ")),
        number(pool.members),
        number(pool.taking),
        percent(pool.healthy_percent),
        right(pool.capacity.map_or_else(|| "-".to_owned(), |flows| flows.to_string())),
        right(format!("{:.1}", pool.arrivals)),
        percent(pool.starts_percent),
        percent(pool.leaves_percent),
        percent(pool.share_percent),
    ]
}

fn simulated(simulation: &Simulation, out: &mut Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for plan in &simulation.plans {
        for share in &plan.pools {
            rows.push(vec![
                Cell::new(&plan.service),
                Cell::new(&plan.client_region),
                Cell::new(&share.pool),
                percent(share.now_percent),
                percent(share.then_percent),
                Cell::new(if plan.panic { "yes" } else { "no" }),
                percent(plan.unfit_percent),
            ]);
        }
    }
    out.table(&["SERVICE", "CLIENT REGION", "POOL", "NOW", "THEN", "PANIC", "WITHOUT ROOM"], rows)?;
    out.line("")?;
    let pools = simulation.pools.iter().map(|pool| {
        vec![
            Cell::new(&pool.service),
            Cell::new(&pool.pool),
            percent(pool.healthy_now_percent),
            percent(pool.healthy_then_percent),
            right(pool.capacity.map_or_else(|| "-".to_owned(), |flows| format!("{flows:.0}"))),
            right(format!("{:.1}", pool.offered)),
            right(format!("{:.1}", pool.arrivals)),
            Cell::new(if pool.exceeds { "EXCEEDED" } else { "" }),
        ]
    });
    let header =
        ["SERVICE", "POOL", "HEALTHY NOW", "THEN", "CAPACITY THEN", "OFFERED/S", "COMES TO IT/S", ""];
    Ok(out.table(&header, pools.collect())?)
}

fn percent(value: f64) -> Cell {
    right(format!("{value:.1} %"))
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
