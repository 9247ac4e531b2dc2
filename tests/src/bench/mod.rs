//! Benchmarks that need the lab. Each returns its measurements; the `lab` binary prints them as JSON.
mod control;
mod datapath;
mod failover;
mod socket;

pub use control::control;
pub use datapath::datapath;
pub use failover::failover;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One line of a benchmark's result, over several runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// What was measured.
    pub case: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// The value to compare: the median.
    pub value: f64,
    /// Smallest.
    pub min: f64,
    /// The one in the middle; of an even number the lower of the two.
    pub median: f64,
    /// Largest.
    pub max: f64,
    /// How many.
    pub runs: usize,
}

impl Measurement {
    /// Sums up values of several runs.
    ///
    /// # Panics
    /// There is no value.
    pub fn of(case: &str, unit: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        let median = values[(values.len() - 1) / 2];
        Measurement { case: case.to_owned(), unit, value: median, min, median, max, runs: values.len() }
    }
}

/// A number that the environment may set.
fn setting(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_sums_up_its_runs() {
        let measurement = Measurement::of("x", "ms", vec![3.0, 1.0, 10.0, 2.0]);
        assert_eq!((measurement.min, measurement.median, measurement.max), (1.0, 2.0, 10.0));
        assert_eq!((measurement.value, measurement.runs), (2.0, 4));
    }
}
