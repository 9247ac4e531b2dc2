//! The traffic of the last hour: a ring of rates. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::api::types::{TrafficHistory, TrafficPoint};

/// Seconds from one point to the next.
pub const PERIOD_S: u64 = 5;
/// Points that are kept: an hour.
pub const MAX_POINTS: usize = 720;
/// Zones of which a point tells apart; the others are summed up under [`OTHERS`].
pub const MAX_ZONES: usize = 32;
/// What is summed up.
pub const OTHERS: &str = "others";

/// Counters as they stand at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets sent to backends.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that may open a flow.
    pub opening: u64,
    /// Packets dropped, whatever the reason.
    pub dropped: u64,
    /// Packets sent to the backends of each zone.
    pub zones: BTreeMap<String, u64>,
}

/// The ring.
#[derive(Debug, Default)]
pub struct History {
    last: Option<(u64, Totals)>,
    points: VecDeque<TrafficPoint>,
}

impl History {
    /// Takes the counters at a moment, which is `time` and by the monotonic clock `now_ns`. The first call makes no point.
    pub fn push(&mut self, now_ns: u64, time: jiff::Timestamp, totals: Totals) {
        if let Some((then_ns, before)) = &self.last {
            let seconds = now_ns.saturating_sub(*then_ns) as f64 / 1e9;
            if seconds <= 0.0 {
                return;
            }
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let mut zones = BTreeMap::new();
            for (index, (zone, packets)) in totals.zones.iter().enumerate() {
                // A zone that is new was not counted before: its counters may be those of an earlier configuration.
                let before = before.zones.get(zone).unwrap_or(packets);
                let name = if index < MAX_ZONES { zone } else { OTHERS };
                *zones.entry(name.to_owned()).or_default() += rate(*packets, *before);
            }
            if self.points.len() >= MAX_POINTS {
                self.points.pop_front();
            }
            self.points.push_back(TrafficPoint {
                time,
                packets: rate(totals.packets, before.packets),
                bytes: rate(totals.bytes, before.bytes),
                new_flows: rate(totals.opening, before.opening),
                dropped: rate(totals.dropped, before.dropped),
                zones,
            });
        }
        self.last = Some((now_ns, totals));
    }

    /// The last points, oldest first.
    #[must_use]
    pub fn last(&self, points: usize) -> TrafficHistory {
        let skip = self.points.len().saturating_sub(points);
        TrafficHistory { period_s: PERIOD_S, points: self.points.iter().skip(skip).cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn totals(packets: u64, zones: &[(&str, u64)]) -> Totals {
        let zones = zones.iter().map(|&(zone, n)| (zone.to_owned(), n)).collect();
        Totals { packets, bytes: packets * 100, opening: packets / 10, dropped: 3, zones }
    }

    #[test]
    fn points_are_rates_and_never_negative() {
        let mut history = History::default();
        let time = jiff::Timestamp::UNIX_EPOCH;
        history.push(SECOND, time, totals(1_000, &[("w1", 600)]));
        assert!(history.last(9).points.is_empty());
        history.push(6 * SECOND, time, totals(2_000, &[("w1", 1_100), ("w2", 90)]));
        history.push(6 * SECOND, time, totals(9_000, &[]));
        history.push(7 * SECOND, time, totals(1_500, &[("w1", 1_100), ("w2", 100)]));
        let points = history.last(9).points;
        let seen: Vec<_> = points.iter().map(|p| (p.packets, p.bytes, p.new_flows, p.dropped)).collect();
        assert_eq!(seen, [(200.0, 20_000.0, 20.0, 0.0), (0.0, 0.0, 0.0, 0.0)]);
        assert_eq!((points[0].zones["w1"], points[0].zones["w2"]), (100.0, 0.0));
        assert_eq!((points[1].zones["w1"], points[1].zones["w2"]), (0.0, 10.0));
        assert_eq!(history.last(1).points, points[1..]);
    }

    #[test]
    fn the_ring_is_bounded_in_points_and_in_zones() {
        let mut history = History::default();
        let names: Vec<String> = (0..MAX_ZONES + 5).map(|n| format!("z{n:03}")).collect();
        for n in 0..MAX_POINTS as u64 + 10 {
            let zones: Vec<_> = names.iter().map(|name| (name.as_str(), n * 2)).collect();
            history.push(n * SECOND, jiff::Timestamp::UNIX_EPOCH, totals(n, &zones));
        }
        let all = history.last(usize::MAX).points;
        assert_eq!(all.len(), MAX_POINTS);
        assert_eq!((all[0].zones.len(), all[0].zones[OTHERS]), (MAX_ZONES + 1, 10.0));
    }
}
