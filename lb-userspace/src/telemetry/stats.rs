//! Counters by service, backend, domain or reason, and what they grow by. Pure.

use std::collections::BTreeMap;

use lb_common::abi::{counter::Counter, reason::Reason};

use crate::{
    api::types::{Stats, StatsBy, StatsCounts, StatsRates, StatsRow, VerdictKind},
    config::{Config, Level},
    dataplane::counters::Counters,
};

/// Counters at one moment, put together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tally {
    by: StatsBy,
    total: StatsCounts,
    rows: Vec<(String, Option<VerdictKind>, StatsCounts)>,
}

/// Puts counters together. `verdict` says what is done with the packets of a reason.
#[must_use]
pub fn tally(
    config: &Config,
    counters: &Counters,
    by: StatsBy,
    verdict: impl Fn(Reason) -> VerdictKind,
) -> Tally {
    let drops = counters.reasons.iter().filter(|(reason, _)| verdict(*reason) == VerdictKind::Drop);
    let total = StatsCounts {
        packets: counters.forwarded.packets,
        bytes: counters.forwarded.bytes,
        opening: Some(counters.services.iter().map(|service| service.opening).sum()),
        dropped: Some(drops.map(|(_, counter)| counter.packets).sum()),
    };
    let rows = match by {
        StatsBy::Reason => reasons(counters, verdict),
        StatsBy::Service => {
            let services = config.services.iter().zip(&counters.services);
            services.map(|(service, counter)| (service.name.clone(), None, of_service(counter))).collect()
        }
        StatsBy::Backend => {
            let backends = config.backends.iter().zip(&counters.backends);
            backends.map(|(backend, counter)| (backend.name.clone(), None, of_backend(counter))).collect()
        }
        StatsBy::Rack => domains(config, counters, Level::Rack),
        StatsBy::Zone => domains(config, counters, Level::Zone),
        StatsBy::Region => domains(config, counters, Level::Region),
    };
    Tally { by, total, rows }
}

/// What was forwarded counts under no reason, but belongs to what became of packets.
fn reasons(
    counters: &Counters,
    verdict: impl Fn(Reason) -> VerdictKind,
) -> Vec<(String, Option<VerdictKind>, StatsCounts)> {
    let all = counters.reasons.iter().map(|(reason, counter)| {
        (reason, if *reason == Reason::Forwarded { &counters.forwarded } else { counter })
    });
    let seen = all.filter(|(_, counter)| counter.packets > 0);
    seen.map(|(reason, counter)| {
        let counts = StatsCounts { packets: counter.packets, bytes: counter.bytes, ..StatsCounts::default() };
        (reason.name().to_owned(), Some(verdict(*reason)), counts)
    })
    .collect()
}

fn domains(
    config: &Config,
    counters: &Counters,
    level: Level,
) -> Vec<(String, Option<VerdictKind>, StatsCounts)> {
    let all = config.topology.ids().map(|id| &config.topology[id]).filter(|domain| domain.level == level);
    let mut sums: BTreeMap<&str, StatsCounts> =
        all.map(|domain| (domain.path.as_str(), of_backend(&Counter::default()))).collect();
    for (backend, counter) in config.backends.iter().zip(&counters.backends) {
        let above = config.topology.ancestors(backend.rack).map(|id| &config.topology[id]);
        let domain = above.into_iter().find(|domain| domain.level == level);
        if let Some(sum) = domain.and_then(|domain| sums.get_mut(domain.path.as_str())) {
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
            sum.opening = sum.opening.map(|opening| opening + counter.opening);
        }
    }
    sums.into_iter().map(|(path, sum)| (path.to_owned(), None, sum)).collect()
}

const fn of_service(counter: &Counter) -> StatsCounts {
    StatsCounts { dropped: Some(counter.dropped), ..of_backend(counter) }
}

const fn of_backend(counter: &Counter) -> StatsCounts {
    StatsCounts {
        packets: counter.packets,
        bytes: counter.bytes,
        opening: Some(counter.opening),
        dropped: None,
    }
}

/// What there is to tell at a moment; with rates, where counters of an earlier moment are at hand.
#[must_use]
pub fn stats(now: Tally, now_ns: u64, time: jiff::Timestamp, before: Option<(Tally, u64)>) -> Stats {
    let over_s = before.as_ref().map_or(0.0, |(_, then_ns)| now_ns.saturating_sub(*then_ns) as f64 / 1e9);
    let earlier = before.filter(|_| over_s > 0.0).map(|(tally, _)| {
        let rows: BTreeMap<_, _> = tally.rows.into_iter().map(|(name, _, counts)| (name, counts)).collect();
        (tally.total, rows)
    });
    let row = |name: String, verdict, counts: StatsCounts, was: Option<StatsCounts>| StatsRow {
        name,
        verdict,
        counts,
        per_second: was.map(|was| rates(&counts, &was, over_s)),
    };
    let by = now.by;
    let total = row("total".to_owned(), None, now.total, earlier.as_ref().map(|(total, _)| *total));
    let rows = now.rows.into_iter().map(|(name, verdict, counts)| {
        // A reason is not there before its first packet. Of a name that is new for another cause, what was counted may be of an
        // earlier configuration.
        let unseen = if by == StatsBy::Reason { StatsCounts::default() } else { counts };
        let was = earlier.as_ref().map(|(_, rows)| rows.get(&name).copied().unwrap_or(unseen));
        row(name, verdict, counts, was)
    });
    let rows = rows.collect();
    Stats { time, monotonic_ns: now_ns, by, over_s, total, rows }
}

/// What counters grew by, per second, over a time that is not 0.
fn rates(now: &StatsCounts, was: &StatsCounts, over_s: f64) -> StatsRates {
    let rate = |now: u64, was: u64| now.saturating_sub(was) as f64 / over_s;
    let each = |now: Option<u64>, was: Option<u64>| now.zip(was).map(|(now, was)| rate(now, was));
    StatsRates {
        packets: rate(now.packets, was.packets),
        bytes: rate(now.bytes, was.bytes),
        opening: each(now.opening, was.opening),
        dropped: each(now.dropped, was.dropped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[node]
name = "edge"
region = "west"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.west]
w1 = ["r1", "r2"]
[[set]]
name = "s"
domain = "west/w1"
checks = []
[[set.backend]]
name = "a"
rack = "west/w1/r1"
address = "10.1.0.1"
[[set.backend]]
name = "b"
rack = "west/w1/r1"
address = "10.1.0.2"
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
[[service.pool]]
name = "p"
sets = ["s"]
"#;

    fn counted(packets: u64, dropped: u64) -> Counter {
        Counter { packets, bytes: packets * 100, opening: packets / 10, dropped }
    }

    fn counters(packets: u64, all_down: u64) -> Counters {
        let mut reasons: Vec<_> = Reason::ALL.iter().map(|reason| (*reason, Counter::default())).collect();
        reasons[Reason::AllDown as usize].1 = counted(all_down, 0);
        Counters {
            reasons,
            services: vec![counted(packets, all_down)],
            backends: vec![counted(packets / 4, 0), counted(packets / 4 * 3, 0)],
            forwarded: counted(packets, 0),
        }
    }

    fn verdict(reason: Reason) -> VerdictKind {
        if reason == Reason::AllDown { VerdictKind::Drop } else { VerdictKind::Forward }
    }

    fn of(by: StatsBy, packets: u64, all_down: u64) -> Tally {
        tally(&Config::parse(TEXT, "t").unwrap(), &counters(packets, all_down), by, verdict)
    }

    type Told<'s> = (&'s str, u64, Option<u64>, Option<u64>, Option<f64>);

    /// Name, packets, new flows, drops, and packets per second, of the total and of each row.
    fn told(stats: &Stats) -> Vec<Told<'_>> {
        let rows = std::iter::once(&stats.total).chain(&stats.rows);
        rows.map(|row| {
            let StatsCounts { packets, opening, dropped, .. } = row.counts;
            (&*row.name, packets, opening, dropped, row.per_second.map(|rates| rates.packets))
        })
        .collect()
    }

    #[test]
    fn counters_are_told_apart_as_asked_for() {
        let time = jiff::Timestamp::UNIX_EPOCH;
        let at = |by| stats(of(by, 400, 7), 2_000_000_000, time, None);
        let total = ("total", 400, Some(40), Some(7), None);
        assert_eq!(told(&at(StatsBy::Service)), [total, ("web", 400, Some(40), Some(7), None)]);
        let backends = [total, ("a", 100, Some(10), None, None), ("b", 300, Some(30), None, None)];
        assert_eq!(told(&at(StatsBy::Backend)), backends);
        let racks =
            [total, ("west/w1/r1", 400, Some(40), None, None), ("west/w1/r2", 0, Some(0), None, None)];
        assert_eq!(told(&at(StatsBy::Rack)), racks);
        assert_eq!(told(&at(StatsBy::Zone))[1].0, "west/w1");
        assert_eq!(told(&at(StatsBy::Region))[1], ("west", 400, Some(40), None, None));
        let reasons = [total, ("forwarded", 400, None, None, None), ("all_down", 7, None, None, None)];
        assert_eq!(told(&at(StatsBy::Reason)), reasons);
        assert_eq!(at(StatsBy::Reason).rows[1].verdict, Some(VerdictKind::Drop));
    }

    #[test]
    fn rates_are_what_was_counted_between_two_moments() {
        let time = jiff::Timestamp::UNIX_EPOCH;
        let between = |by, was: Tally| stats(of(by, 400, 7), 3_000_000_000, time, Some((was, 1_000_000_000)));
        let service = between(StatsBy::Service, of(StatsBy::Service, 300, 1));
        assert_eq!(service.over_s, 2.0);
        let rates = service.rows[0].per_second.unwrap();
        assert_eq!(
            (rates.packets, rates.bytes, rates.opening, rates.dropped),
            (50.0, 5_000.0, Some(5.0), Some(3.0))
        );
        assert_eq!(service.total.per_second, Some(rates));
        // A reason that counted nothing before did so between.
        let reason = between(StatsBy::Reason, of(StatsBy::Reason, 400, 0));
        assert_eq!(told(&reason)[2], ("all_down", 7, None, None, Some(3.5)));
        // A backend that is new came with what was counted before, and counters that went back are no rate.
        let mut fewer = of(StatsBy::Backend, 800, 0);
        fewer.rows.remove(0);
        let backend = between(StatsBy::Backend, fewer);
        assert_eq!(told(&backend)[1..].iter().map(|row| row.4).collect::<Vec<_>>(), [Some(0.0), Some(0.0)]);
    }
}
