//! Steering as people and programs see it.

use lb_common::abi::admission::Admission;

use super::{State, Steering, outward};
use crate::{
    api::{
        problem::{Problem, ProblemKind},
        types::{
            SimulateRequest, SimulatedPlan, SimulatedPool, SimulatedShare, Simulation, SteeredPlan,
            SteeredPool,
        },
    },
    config::{Config, DomainId, IpPrefix, Level, PlanMode, ServiceId},
    plan::{
        capacity::{Shortage, shortages},
        planner::{Cell, Subject},
        steering::{
            Steps,
            health::Weights,
            simulate::{Settled, settle, settle_unspilled},
        },
    },
};

/// Largest factor of the demand that is simulated.
const MAX_LOAD: f64 = 1_000.0;
/// Most that fails in one simulation.
const MAX_FAILS: usize = 256;

impl Steering {
    /// All plans, or those of one service, or those for some clients: an address, a prefix, or the name of a client region.
    pub(crate) fn plans(
        &self,
        service: Option<&str>,
        client: Option<&str>,
    ) -> Result<Vec<SteeredPlan>, Problem> {
        let service = service.map(|name| self.find_service(name)).transpose()?;
        let regions = client.map(|client| regions_of(&self.config, client)).transpose()?;
        let state = self.state();
        let wanted = (0..self.layout.plans.len()).filter(|&at| {
            let plan = &self.layout.plans[at];
            let is_one = self.config[plan.service].distinct_plans().len() == 1;
            service.is_none_or(|service| plan.service == service)
                && regions.as_ref().is_none_or(|regions| is_one || regions.contains(&plan.number))
        });
        Ok(wanted.map(|at| self.view(&state, at)).collect())
    }

    fn find_service(&self, name: &str) -> Result<ServiceId, Problem> {
        self.config.find_service(name).ok_or_else(|| Problem::not_found("service", name))
    }

    fn region(&self, at: usize) -> String {
        self.config.client_regions[self.layout.plans[at].number].name.clone()
    }

    /// What events call a plan.
    pub(super) fn name(&self, at: usize) -> String {
        let service = &self.config[self.layout.plans[at].service];
        if service.distinct_plans().len() == 1 {
            service.name.clone()
        } else {
            format!("{}/{}", service.name, self.region(at))
        }
    }

    fn pool_name(&self, pool: usize) -> &str {
        let pool = &self.layout.pools[pool];
        &self.config[pool.service][pool.index].name
    }

    fn view(&self, state: &State, at: usize) -> SteeredPlan {
        let (layout, plan) = (&self.layout.plans[at], &state.plans[at]);
        let service = &self.config[layout.service];
        let starts = plan.words.starts(layout.pools.len());
        let landed = whole(plan.course.in_force(&plan.words).land(&starts));
        let demand = state.meter.plans()[at];
        let residency = service.residency.get(layout.number).cloned().flatten();
        let path = |&region: &_| self.config.topology[region].path.clone();
        let pool = |(step, &pool): (usize, &usize)| {
            let of = &self.layout.pools[pool];
            let config = &service[of.index];
            SteeredPool {
                pool: config.name.clone(),
                sets: config.sets.iter().map(|&set| self.config[set].name.clone()).collect(),
                members: self.layout.members(pool).count() as u64,
                taking: u64::from(state.weights[pool].members),
                healthy_percent: percent(state.weights[pool].part(false)),
                capacity: config.capacity,
                arrivals: rate(state.counted.pools.get(pool).copied().unwrap_or(0.0)),
                share_percent: percent(landed[step]),
                starts_percent: percent(starts[step]),
                leaves_percent: percent(f64::from(plan.words.leaves[step]) / 255.0),
            }
        };
        SteeredPlan {
            service: service.name.clone(),
            client_region: self.region(at),
            mode: layout.mode.name().to_owned(),
            rho: match layout.mode {
                PlanMode::ZoneAffine { permille } => Some(f64::from(permille) / 1000.0),
                PlanMode::Nearest | PlanMode::Strict => None,
            },
            residency: residency.map(|regions| regions.iter().map(path).collect()),
            panic: plan.words.panic,
            panic_threshold_percent: percent(layout.panic_threshold),
            healthy_percent: percent(plan.course.healthy),
            demand: rate(demand),
            spilled_percent: percent(outward(&plan.course, &plan.words, layout.pools.len())),
            unfit_percent: percent(if demand > 0.0 { plan.allotment.unfit / demand } else { 0.0 }),
            pools: layout.pools.iter().enumerate().map(pool).collect(),
            why: self.why(state, at),
        }
    }

    /// Why a plan stands as it does.
    pub(super) fn why(&self, state: &State, at: usize) -> Vec<String> {
        let (layout, plan) = (&self.layout.plans[at], &state.plans[at]);
        let mut why = Vec::new();
        if plan.words.panic {
            why.push(self.panic_in_words(state, at));
        }
        for (step, &pool) in layout.pools.iter().enumerate() {
            let (name, healthy) = (self.pool_name(pool), plan.course.open[step] * 100.0);
            match plan.words.leaves[step] {
                0 => {}
                255 if plan.course.open[step] == 0.0 => why.push(format!("pool {name} takes no new flows")),
                _ => why.push(match (layout.mode, step) {
                    (PlanMode::ZoneAffine { permille }, 0) => format!(
                        "{healthy:.0} % of pool {name} take new flows, below rho = {:.0} %: what the others leave goes on",
                        f64::from(permille) / 10.0
                    ),
                    _ => format!(
                        "{healthy:.0} % of pool {name} take new flows: it keeps {:.0} % of what comes to it",
                        plan.course.kept[step] * 100.0
                    ),
                }),
            }
        }
        if plan.words.spills() {
            let part = (1.0 - plan.words.starts(layout.pools.len())[0]) * 100.0;
            why.push(format!(
                "{:.0} new flows a second are more than pool {} has room for: {part:.0} % start behind it",
                state.meter.plans()[at],
                self.pool_name(layout.pools[0])
            ));
        }
        if plan.allotment.unfit >= 1.0 {
            why.push(format!(
                "{:.0} new flows a second fit into no pool: they are shed",
                plan.allotment.unfit
            ));
        }
        if why.is_empty() {
            why.push("every pool keeps what comes to it".to_owned());
        }
        why
    }

    pub(super) fn panic_in_words(&self, state: &State, at: usize) -> String {
        let (plan, threshold) = (&state.plans[at], self.layout.plans[at].panic_threshold * 100.0);
        let healthy = plan.course.healthy * 100.0;
        if plan.words.panic {
            format!(
                "health is not believed: {healthy:.0} % of what operators let in is healthy, less than {threshold:.0} %"
            )
        } else {
            format!("health is believed again: {healthy:.0} % of what operators let in is healthy")
        }
    }

    /// The plans that would be left with too little if a domain kept only this share of its new flows.
    pub(crate) fn shortages(&self, domain: DomainId, keep: u8) -> Vec<Shortage> {
        let state = self.state();
        let word = |cell: Cell| self.port.word(cell);
        shortages(&self.config, &self.layout, &word, state.meter.plans(), (domain, keep))
    }

    /// Where traffic would go.
    pub(crate) fn simulate(&self, request: &SimulateRequest) -> Result<Simulation, Problem> {
        let load = request.load.unwrap_or(1.0);
        if !(0.0..=MAX_LOAD).contains(&load) {
            return Err(invalid(format!(
                "load is {load}; it is a factor of what there is now, 0 to {MAX_LOAD}"
            )));
        }
        if request.fail.len() > MAX_FAILS {
            return Err(invalid(format!("{} things fail; at most {MAX_FAILS} can", request.fail.len())));
        }
        let service = request.service.as_deref().map(|name| self.find_service(name)).transpose()?;
        let failed =
            request.fail.iter().map(|text| subject(&self.config, text)).collect::<Result<Vec<_>, _>>()?;
        let word = |cell: Cell| {
            let word = self.port.word(cell);
            let fails = failed.iter().any(|subject| subject.cell() == cell);
            // What operators said of it stays said.
            if fails { Admission(Admission::CLOSED.0 | word.0 & Admission::HELD) } else { word }
        };
        let state = self.state();
        let demand: Vec<_> = state.meter.plans().iter().map(|demand| demand * load).collect();
        let then = settle(&self.layout, &word, &demand);
        let offered = settle_unspilled(&self.layout, &word, &demand).arrivals;
        let wanted = |of: ServiceId| service.is_none_or(|service| service == of);
        let plans = (0..self.layout.plans.len()).filter(|&at| wanted(self.layout.plans[at].service));
        let pools = (0..self.layout.pools.len()).filter(|&at| wanted(self.layout.pools[at].service));
        Ok(Simulation {
            fail: request.fail.clone(),
            load,
            plans: plans.map(|at| self.simulated_plan(&state, &then, at)).collect(),
            pools: pools.map(|at| self.simulated_pool(&state, &then, offered[at], at)).collect(),
        })
    }

    fn simulated_plan(&self, state: &State, then: &Settled, at: usize) -> SimulatedPlan {
        let (layout, plan, settled) = (&self.layout.plans[at], &state.plans[at], &then.plans[at]);
        let now = whole(plan.course.in_force(&plan.words).land(&plan.words.starts(layout.pools.len())));
        let landed = whole(settled.landed);
        let share = |(step, &pool): (usize, &usize)| SimulatedShare {
            pool: self.pool_name(pool).to_owned(),
            now_percent: percent(now[step]),
            then_percent: percent(landed[step]),
        };
        SimulatedPlan {
            service: self.config[layout.service].name.clone(),
            client_region: self.region(at),
            demand: rate(settled.demand),
            panic: settled.course.panic,
            unfit_percent: percent(if settled.demand > 0.0 {
                settled.allotment.unfit / settled.demand
            } else {
                0.0
            }),
            pools: layout.pools.iter().enumerate().map(share).collect(),
        }
    }

    fn simulated_pool(&self, state: &State, then: &Settled, offered: f64, at: usize) -> SimulatedPool {
        let part = |weights: &Weights| weights.part(false);
        let healthy_then = part(&then.weights[at]);
        let capacity = self.layout.pools[at].capacity.map(|most| most * healthy_then);
        SimulatedPool {
            service: self.config[self.layout.pools[at].service].name.clone(),
            pool: self.pool_name(at).to_owned(),
            healthy_now_percent: percent(part(&state.weights[at])),
            healthy_then_percent: percent(healthy_then),
            capacity: capacity.map(rate),
            offered: rate(offered),
            arrivals: rate(then.arrivals[at]),
            exceeds: capacity.is_some_and(|capacity| offered > capacity),
        }
    }
}

/// Parts of what comes to some pool: together 1, or all 0.
fn whole(landed: Steps<f64>) -> Steps<f64> {
    let all: f64 = landed.iter().sum();
    landed.map(|part| if all > 0.0 { part / all } else { 0.0 })
}

/// In hundredths of a percent.
fn percent(part: f64) -> f64 {
    (part * 10_000.0).round() / 100.0
}

/// In tenths of a flow a second.
fn rate(flows: f64) -> f64 {
    (flows * 10.0).round() / 10.0
}

fn invalid(detail: String) -> Problem {
    Problem::new(ProblemKind::Invalid, detail, "see `weir plan --help`")
}

/// The client regions that an address, a prefix or a name means.
fn regions_of(config: &Config, client: &str) -> Result<Vec<usize>, Problem> {
    if let Some(at) = config.client_regions.iter().position(|region| region.name == client) {
        return Ok(vec![at]);
    }
    if let Ok(address) = client.parse() {
        return Ok(vec![config.client_region_of(address).index()]);
    }
    let Ok(prefix) = IpPrefix::parse(client) else {
        let detail = format!("\"{}\" is no address, no prefix and no client region", client.escape_debug());
        return Err(Problem::new(
            ProblemKind::Invalid,
            detail,
            "give for example 198.51.100.7, 198.51.100.0/24 or the name of a client region",
        ));
    };
    // That of the whole prefix, and those that have a part of it.
    let holds = |other: &&IpPrefix| other.length() <= prefix.length() && other.contains(prefix.address());
    let longest = |region: &crate::config::ClientRegion| {
        region.prefixes.iter().filter(holds).map(|other| other.length()).max()
    };
    let whole = (0..config.client_regions.len())
        .filter_map(|at| longest(&config.client_regions[at]).map(|length| (length, at)))
        .max()
        .map_or(0, |(_, at)| at);
    let inside = |at: &usize| {
        config.client_regions[*at]
            .prefixes
            .iter()
            .any(|other| other.length() > prefix.length() && prefix.contains(other.address()))
    };
    let mut regions: Vec<_> = (0..config.client_regions.len()).filter(inside).chain([whole]).collect();
    regions.sort_unstable();
    regions.dedup();
    Ok(regions)
}

/// What `zone=west/w1` means.
fn subject(config: &Config, text: &str) -> Result<Subject, Problem> {
    let Some((kind, name)) = text.split_once('=') else {
        return Err(invalid(format!(
            "\"{}\" does not say what it is: write zone=west/w1",
            text.escape_debug()
        )));
    };
    let level = match kind {
        "backend" => {
            let found = config.find_backend(name).map(Subject::Backend);
            return found.ok_or_else(|| Problem::not_found("backend", name));
        }
        "region" => Some(Level::Region),
        "zone" => Some(Level::Zone),
        "rack" => Some(Level::Rack),
        "domain" => None,
        _ => {
            let kind = kind.escape_debug();
            return Err(invalid(format!("\"{kind}\" is none of region, zone, rack, domain and backend")));
        }
    };
    let found =
        config.topology.find(name).filter(|&id| level.is_none_or(|level| config.topology[id].level == level));
    found.map(Subject::Domain).ok_or_else(|| Problem::not_found(kind, name))
}
