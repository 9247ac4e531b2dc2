//! Times the building of tables and prints one JSON array: build time per size, number of members and kind of weights.
//!
//! `cargo run --release -p lb-maglev --example bench_maglev`

use std::hint::black_box;
use std::time::Instant;

use lb_maglev::{Member, TableBuilder};

/// Timed builds per case, after one that is not counted.
const RUNS_SMALL: usize = 101;
const RUNS_LARGE: usize = 15;

fn main() {
    let mut cases = Vec::new();
    for (slots, runs) in [(65537, RUNS_SMALL), (655_373, RUNS_LARGE)] {
        for count in [10, 100, 1000] {
            for (kind, weight) in [("equal", equal as fn(u16) -> u32), ("weighted", weighted)] {
                let times_ms = time_builds(slots, count, weight, runs);
                let (min, median, max) = (times_ms[0], times_ms[runs / 2], times_ms[runs - 1]);
                cases.push(format!(
                    "  {{\"case\": \"{slots} slots, {count} members, {kind}\", \"unit\": \"ms\", \"value\": {median:.4}, \
                     \"min\": {min:.4}, \"median\": {median:.4}, \"max\": {max:.4}, \"runs\": {runs}}}"
                ));
            }
        }
    }
    println!("[\n{}\n]", cases.join(",\n"));
}

fn equal(_: u16) -> u32 {
    100
}

/// Weights from 50 to 149, in no order.
fn weighted(id: u16) -> u32 {
    50 + u32::from(id) * 37 % 100
}

/// Sorted times of single builds, from members to filled table, in milliseconds.
fn time_builds(slots: u32, count: u16, weight: fn(u16) -> u32, runs: usize) -> Vec<f64> {
    let names: Vec<String> = (0..count).map(|id| format!("backend-{id}")).collect();
    let members: Vec<Member<'_>> =
        (0..count).zip(&names).map(|(id, name)| Member { name, weight: weight(id), id }).collect();
    let mut builder = TableBuilder::new();
    let mut table = Vec::new();
    let mut time_build = || {
        let start = Instant::now();
        builder.build(black_box(&members), slots, &mut table).expect("the benchmark's members make a table");
        black_box(&table);
        start.elapsed().as_secs_f64() * 1e3
    };
    time_build();
    let mut times_ms: Vec<f64> = (0..runs).map(|_| time_build()).collect();
    times_ms.sort_by(f64::total_cmp);
    times_ms
}
