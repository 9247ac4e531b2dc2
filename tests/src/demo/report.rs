//! The end of the demo: a timeline, and a table with a column per fault.
use super::{
    Fault,
    analysis::{self, Impact, Outage},
};
use crate::{
    journal::{self, Event},
    lab::Topology,
    load::Request,
};
use std::collections::BTreeSet;

/// Width of the table's first column.
const LABEL_CELLS: usize = 52;

/// One fault and what the daemon's journal says about it.
struct Found<'a> {
    fault: &'a Fault,
    suspect: Option<&'a Event>,
    down: Option<&'a Event>,
    up: Option<&'a Event>,
}

/// Prints timeline and table; returns whether all is as it must be. `phases` begin with the warm-up, then each fault, then
/// the restoring.
pub(super) fn print(
    topology: &Topology,
    faults: &[Fault],
    phases: &[u64],
    requests: &[Request],
    events: &[Event],
) -> bool {
    let found: Vec<_> = faults.iter().map(|fault| find(fault, events)).collect();
    let outages: Vec<_> = found.iter().flat_map(|found| outages(topology, found, events)).collect();
    let impacts = analysis::judge(requests, &outages, phases);
    print_timeline(phases[0], &found, events);
    let last_new_ns = |found: &Found<'_>| {
        let (backends, before_ns) = (topology.names_in(found.fault.domain), found.fault.restored.begin_ns);
        analysis::last_new_ns(requests, &backends, before_ns)
    };
    print_times(&found, &found.iter().map(last_new_ns).collect::<Vec<_>>());
    print_impacts(&impacts);
    let missing = outages.iter().filter(|outage| outage.end_ns == u64::MAX);
    let missing = missing.flat_map(|outage| outage.backends.iter().map(String::as_str)).collect();
    verdict(&found, &missing, &impacts)
}

fn find<'a>(fault: &'a Fault, events: &'a [Event]) -> Found<'a> {
    let first = |state, since_ns| journal::first(events, fault.domain, state, since_ns);
    Found {
        fault,
        suspect: first("SUSPECT", fault.cut.begin_ns),
        down: first("DOWN", fault.cut.begin_ns),
        up: first("UP", fault.restored.begin_ns),
    }
}

/// When each backend of a domain was out: until the domain and the backend itself were taken back, which may take longer for one than for
/// the others. Without an UP in the journal it is out until the end.
fn outages(topology: &Topology, found: &Found<'_>, events: &[Event]) -> Vec<Outage> {
    let up_ns = |up: &Event| up.stored_ns.unwrap_or(up.monotonic_ns);
    let domain_ns = found.up.map_or(u64::MAX, up_ns);
    let outage = |name: String| {
        let own = journal::last(events, &name, found.fault.cut.begin_ns);
        let own_ns = own.map_or(0, |own| if own.says(&name, "UP") { up_ns(own) } else { u64::MAX });
        Outage {
            backends: [name].into(),
            begin_ns: found.fault.cut.begin_ns,
            end_ns: domain_ns.max(own_ns),
            restored_ns: found.fault.restored.begin_ns,
        }
    };
    topology.names_in(found.fault.domain).into_iter().map(outage).collect()
}

fn print_timeline(begin_ns: u64, found: &[Found<'_>], events: &[Event]) {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for Found { fault, .. } in found {
        lines.push((fault.cut.begin_ns, format!("{} is cut off", fault.domain)));
        lines.push((fault.restored.begin_ns, format!("{} is connected again", fault.domain)));
        if fault.last_packet_ns > 0 {
            lines.push((fault.last_packet_ns, format!("last packet towards {}", fault.domain)));
        }
    }
    for event in events.iter().filter(|event| event.is_of_domain() && event.monotonic_ns >= begin_ns) {
        let at_ns = event.stored_ns.unwrap_or(event.monotonic_ns);
        let state = event.to.as_deref().unwrap_or("?");
        lines.push((at_ns, format!("weir: {} {state}: {}", event.subject, event.cause)));
    }
    lines.sort();
    println!("\nTimeline (seconds since the traffic began)");
    for (at_ns, line) in lines {
        println!("  {:>10.4}  {line}", (at_ns as f64 - begin_ns as f64) / 1e9);
    }
}

fn print_times(found: &[Found<'_>], new_ns: &[Option<u64>]) {
    println!("\n{:<LABEL_CELLS$}{}", "Milliseconds after the fault", heads(found));
    let row = |label: &str, times: Vec<Option<u64>>| {
        let after = found.iter().zip(times).map(|(found, at_ns)| match at_ns {
            Some(at_ns) => format!("{:>+14.3}", (at_ns as f64 - found.fault.cut.begin_ns as f64) / 1e6),
            None => format!("{:>14}", "-"),
        });
        println!("  {label:<0$}{1}", LABEL_CELLS - 2, after.collect::<String>());
    };
    let times = |of: &dyn Fn(&Found<'_>) -> Option<u64>| found.iter().map(of).collect::<Vec<_>>();
    row("fault made (0: begun)", times(&|found| Some(found.fault.cut.end_ns)));
    row("first missing answer", times(&|found| found.down?.evidence_ns));
    row("SUSPECT stored: no new connections from here on", times(&|found| found.suspect?.stored_ns));
    row("DOWN decided", times(&|found| found.down?.decided_ns));
    row("DOWN stored: nothing from here on", times(&|found| found.down?.stored_ns));
    row("last packet that went there", times(&|f| Some(f.fault.last_packet_ns).filter(|&at_ns| at_ns > 0)));
    row("last answered connection was opened", new_ns.to_vec());
}

fn heads(found: &[Found<'_>]) -> String {
    found.iter().map(|found| format!("{:>14}", found.fault.domain)).collect()
}

fn print_impacts(impacts: &[Impact]) {
    println!(
        "\n{:<LABEL_CELLS$}{:>14}{:>14}{:>14}{:>14}",
        "Requests", "before", "first fault", "second", "restored"
    );
    let row = |label: &str, of: &dyn Fn(&Impact) -> usize| {
        let counts: String = impacts.iter().map(|impact| format!("{:>14}", of(impact))).collect();
        println!("  {label:<0$}{counts}", LABEL_CELLS - 2);
    };
    row("sent", &|impact| impact.requests);
    row("lost with kept connections of the dead", &|impact| impact.lost_kept);
    row("lost as new connections", &|impact| impact.lost_new);
    row("answered late, after a repeated SYN", &|impact| impact.late);
    row("lost with connections that went back home", &|impact| impact.broke_on_return);
    row("flows of other backends that moved (must be 0)", &|impact| impact.moved);
}

fn verdict(found: &[Found<'_>], missing: &BTreeSet<&str>, impacts: &[Impact]) -> bool {
    let mut complaints = Vec::new();
    for Found { fault, down, up, .. } in found {
        match down {
            None => complaints.push(format!("{} was never DOWN", fault.domain)),
            Some(_) if up.is_none() => complaints.push(format!("{} did not come back", fault.domain)),
            Some(_) => {}
        }
    }
    let all_domains_are_up = complaints.is_empty();
    if all_domains_are_up && !missing.is_empty() {
        complaints.push(format!("{missing:?} did not come back"));
    }
    let moved: usize = impacts.iter().map(|impact| impact.moved).sum();
    if moved > 0 {
        complaints.push(format!("{moved} flows of other backends moved"));
    }
    if complaints.is_empty() {
        println!("\nBoth faults were found, and no flow of another backend moved.");
    } else {
        println!("\nNOT as it must be: {}.", complaints.join("; "));
    }
    complaints.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        journal::testing::event,
        lab::{FaultTime, Shape},
    };

    #[test]
    fn a_backend_that_is_down_longer_than_its_domain_is_out_longer() {
        let lab = Topology::new(Shape::default()).unwrap();
        let fault = Fault {
            domain: "west/w2",
            cut: FaultTime { begin_ns: 100, end_ns: 100 },
            last_packet_ns: 0,
            restored: FaultTime { begin_ns: 200, end_ns: 200 },
        };
        let mut events = vec![
            event("w2r1b1", "backend-state", "UP", 50),
            event("west/w2", "domain-state", "DOWN", 110),
            event("w2r1b1", "backend-state", "DOWN", 290),
            event("w2r1b2", "backend-state", "DOWN", 291),
            event("west/w2", "domain-state", "UP", 300),
            event("w2r1b1", "backend-state", "UP", 400),
        ];
        let ends = |events: &[serde_json::Value]| {
            let events = journal::parse(serde_json::Value::from(events.to_vec())).unwrap();
            let outages = outages(&lab, &find(&fault, &events), &events);
            outages
                .into_iter()
                .flat_map(|o| o.backends.into_iter().map(move |name| (name, o.end_ns)))
                .collect::<Vec<_>>()
        };
        let all = |ends: [u64; 4]| {
            ["w2r1b1", "w2r1b2", "w2r2b1", "w2r2b2"]
                .map(str::to_owned)
                .into_iter()
                .zip(ends)
                .collect::<Vec<_>>()
        };
        assert_eq!(ends(&events), all([400, u64::MAX, 300, 300]));
        events.push(event("w2r1b2", "backend-state", "UP", 500));
        assert_eq!(ends(&events), all([400, 500, 300, 300]));
        assert_eq!(ends(&events[..2]), all([u64::MAX; 4]), "the domain is still down");
    }
}
