//! `cargo xtask bench`: runs a benchmark, prints its table and keeps its numbers in target/bench/NAME.json.

use std::fs;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    build, running_kernel,
    shell::{Cmd, require_root_or_sudo, step},
    workspace::{bpf_dir, host_cargo, root},
};

/// Fields of each result besides `case` and `unit`, in the order of the table.
const NUMBERS: [&str; 5] = ["value", "min", "median", "max", "runs"];

/// Measure, print a table and write target/bench/NAME.json.
///
/// Each file is an array of {case, unit, value, min, median, max, runs}. Programs are optimised and measured on this
/// machine as it is: leave it alone meanwhile.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which one; all of them if left out
    name: Option<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Time to build a Maglev table
    Maglev,
    /// Nanoseconds per packet of the XDP program (needs root)
    Datapath,
    /// Times from faults of six kinds to the last packet sent to what is dead, and what they cost (needs root)
    Failover,
    /// Start, reload, drop of a zone, memory and CPU with 1,000 services and 5,000 backends (needs root)
    Control,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let names = args.name.as_ref().map_or(Name::value_variants(), std::slice::from_ref);
    for name in names {
        let text = match name {
            Name::Maglev => maglev()?,
            Name::Datapath | Name::Failover | Name::Control => in_lab(*name)?,
        };
        let results =
            read_results(&text).with_context(|| format!("what benchmark {} printed", name.as_str()))?;
        println!("{}", table(&results));
        write_results(*name, &results)?;
    }
    Ok(())
}

impl Name {
    fn as_str(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::Datapath => "datapath",
            Self::Failover => "failover",
            Self::Control => "control",
        }
    }
}

fn maglev() -> Result<String> {
    let example = ["--package", "lb-maglev", "--example", "bench_maglev"];
    step("bench maglev", || host_cargo("run").arg("--release").args(example).announced_read())
}

fn in_lab(name: Name) -> Result<String> {
    require_root_or_sudo()?;
    running_kernel::require()?;
    let binaries = build::everything(true)?;
    let bench = Cmd::new(&binaries.lab)
        .args(["bench", name.as_str()])
        .env("WEIR_BIN", &binaries.weir)
        .env("WEIR_BPF_DIR", bpf_dir())
        .cwd(&root())
        .root();
    step(&format!("bench {}", name.as_str()), || bench.announced_read())
}

/// Reads a benchmark's output and checks that every result has every field.
fn read_results(text: &str) -> Result<Vec<Value>> {
    let json: Value = serde_json::from_str(text).context("is not JSON")?;
    let Value::Array(results) = json else { bail!("is not a JSON array") };
    if results.is_empty() {
        bail!("is an empty array: nothing was measured");
    }
    for (index, result) in results.iter().enumerate() {
        let text_missing = ["case", "unit"].into_iter().find(|field| !result[*field].is_string());
        let number_missing = NUMBERS.into_iter().find(|field| !result[*field].is_number());
        if let Some(field) = text_missing.or(number_missing) {
            bail!("has no proper `{field}` in result {index}");
        }
    }
    Ok(results)
}

fn table(results: &[Value]) -> String {
    let mut rows = vec![["case", "unit"].into_iter().chain(NUMBERS).map(str::to_owned).collect::<Vec<_>>()];
    for result in results {
        let text = |field| result[field].as_str().unwrap_or_default().to_owned();
        let numbers = NUMBERS.into_iter().map(|field| number(result[field].as_f64().unwrap_or_default()));
        rows.push([text("case"), text("unit")].into_iter().chain(numbers).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, text): (usize, &String)| {
            let width = widths[column];
            if column < 2 { format!("{text:<width$}") } else { format!("{text:>width$}") }
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Whole numbers as such, others with as many digits as one can use.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn write_results(name: Name, results: &[Value]) -> Result<()> {
    let dir = root().join("target/bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = dir.join(format!("{}.json", name.as_str()));
    let text = serde_json::to_string_pretty(results)? + "\n";
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("    written: target/bench/{}.json", name.as_str());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"[{"case":"65537 x 10","unit":"ms","value":1.25,"min":1,"median":1.25,"max":1234.5,"runs":20}]"#;

    #[test]
    fn a_good_result_becomes_a_table() {
        let results = read_results(GOOD).unwrap();
        assert_eq!(
            table(&results),
            "case        unit  value  min  median   max  runs\n65537 x 10  ms     1.25    1    1.25  1234    20"
        );
    }

    #[test]
    fn a_result_without_a_field_is_refused() {
        for (bad, expected) in [
            ("nonsense", "is not JSON"),
            ("{}", "is not a JSON array"),
            ("[]", "nothing was measured"),
            (&GOOD.replace("\"median\"", "\"mean\""), "`median` in result 0"),
            (&GOOD.replace("\"ms\"", "7"), "`unit` in result 0"),
        ] {
            let error = format!("{:#}", read_results(bad).unwrap_err());
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
}
