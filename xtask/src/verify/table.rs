//! What came of each kernel, and a table of it.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use serde_json::Value;

/// What came of one kernel.
pub(crate) struct Outcome {
    pub(crate) title: String,
    pub(crate) time: Duration,
    /// The report, one JSON object each.
    pub(crate) lines: Vec<Value>,
    /// Why there is no whole report, if there is none.
    pub(crate) broken: Option<String>,
}

/// How one thing went: a short word for a table, and why when it did not go well.
struct Cell {
    text: String,
    problem: Option<String>,
}

impl Outcome {
    pub(super) fn read(title: &str, lines: &[Value], time: Duration) -> Self {
        let broken = lines.iter().find(|line| line["line"] == "broken");
        let broken = broken.map(|line| line["error"].as_str().unwrap_or_default().to_owned());
        let is_cut = lines.last().is_none_or(|line| line["line"] != "end");
        let cut = is_cut.then(|| "the report has no end".to_owned());
        Self { title: title.to_owned(), time, lines: lines.to_vec(), broken: broken.or(cut) }
    }

    pub(super) fn broken(title: &str, error: &anyhow::Error) -> Self {
        let broken = Some(format!("{error:#}"));
        Self { title: title.to_owned(), time: Duration::ZERO, lines: Vec::new(), broken }
    }

    /// Whether every program was loaded, every golden packet came out right, and a data plane could be installed.
    pub(crate) fn is_good(&self) -> bool {
        self.problems().is_empty()
    }

    /// How many things were tried and went well.
    pub(crate) fn passed(&self) -> u64 {
        let programs = self.of("program").filter(|line| line["error"].is_null()).count() as u64;
        let installs = self.of("install").filter(|line| line["error"].is_null()).count() as u64;
        let golden: u64 = self.of("golden").filter_map(|line| line["passed"].as_u64()).sum();
        programs + installs + golden
    }

    /// What did not go well, with where.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.broken.iter().cloned().collect();
        if self.broken.is_none() {
            let mut cells: Vec<(String, Cell)> =
                self.objects().into_iter().map(|name| (name.to_owned(), self.object(name))).collect();
            cells.push(("golden packets".to_owned(), self.golden()));
            cells.push(("installing".to_owned(), self.install()));
            problems.extend(
                cells.into_iter().filter_map(|(name, cell)| Some(format!("{name}: {}", cell.problem?))),
            );
        }
        problems
    }

    /// The kernel's release, where it got as far as to say so.
    fn release(&self) -> &str {
        self.of("kernel").find_map(|line| line["release"].as_str()).unwrap_or("?")
    }

    fn of(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(move |line| line["line"] == kind)
    }

    fn objects(&self) -> BTreeSet<&str> {
        self.of("program").filter_map(|line| line["object"].as_str()).collect()
    }

    /// All programs of an object: refused if one is, else the most instructions that the verifier walked.
    fn object(&self, name: &str) -> Cell {
        let programs: Vec<&Value> = self.of("program").filter(|line| line["object"] == name).collect();
        let refused = programs.iter().find(|line| !line["error"].is_null());
        if let Some(line) = refused {
            let (program, error) = (line["program"].as_str(), line["error"].as_str());
            let problem = format!("{}: {}", program.unwrap_or_default(), error.unwrap_or_default());
            return Cell { text: "REFUSED".to_owned(), problem: Some(problem) };
        }
        let verified = programs.iter().filter_map(|line| line["verified"].as_u64()).max();
        let text = match (programs.is_empty(), verified) {
            (true, _) => "-".to_owned(),
            (false, None) => "ok".to_owned(),
            (false, Some(verified)) => format!("ok {verified}"),
        };
        Cell { text, problem: None }
    }

    fn golden(&self) -> Cell {
        let Some(line) = self.of("golden").next() else {
            return Cell { text: "-".to_owned(), problem: Some("were not run".to_owned()) };
        };
        let (passed, total) = (line["passed"].as_u64().unwrap_or(0), line["total"].as_u64().unwrap_or(0));
        let failures = line["failures"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let failures: Vec<&str> = failures.collect();
        let is_good = passed == total && total > 0;
        let problem = (!is_good).then(|| format!("{passed} of {total}: {}", failures.join("\n")));
        Cell { text: format!("{passed}/{total}"), problem }
    }

    fn install(&self) -> Cell {
        let Some(line) = self.of("install").next() else {
            return Cell { text: "-".to_owned(), problem: Some("was not tried".to_owned()) };
        };
        let problem = line["error"].as_str().map(str::to_owned);
        Cell { text: if problem.is_none() { "ok" } else { "FAILED" }.to_owned(), problem }
    }
}

/// The table, kernel by object, and below it what went wrong.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let objects: BTreeSet<&str> = outcomes.iter().flat_map(Outcome::objects).collect();
    let mut head = vec!["kernel of", "release"];
    head.extend(&objects);
    head.extend(["golden", "install", "time"]);
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for outcome in outcomes {
        let mut row = vec![outcome.title.clone(), outcome.release().to_owned()];
        row.extend(objects.iter().map(|name| outcome.object(name).text));
        row.extend([outcome.golden().text, outcome.install().text]);
        row.push(format!("{:.1} s", outcome.time.as_secs_f64()));
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::from("\n");
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text.push_str("(after ok: instructions that the verifier walked, where the kernel tells)\n");
    for outcome in outcomes {
        for problem in outcome.problems() {
            write!(text, "\n{}: {problem}\n", outcome.title).expect("writing to a string");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::machine::read_report;

    const GOOD: &str = r#"{"line":"kernel","release":"6.1.0","btf":true,"jit":true}
{"line":"program","object":"edge","program":"weir_edge","error":null,"verified":9,"machine_code":1,"ms":1}
{"line":"golden","passed":3,"total":3,"failures":[],"ms":1}
{"line":"install","error":null,"ms":1}
{"line":"end"}"#;

    fn outcome(text: &str) -> Outcome {
        Outcome::read("Debian 12", &read_report(text), Duration::from_secs(2))
    }

    #[test]
    fn a_good_report_has_no_problems() {
        let good = outcome(GOOD);
        assert_eq!(good.problems(), [""; 0]);
        assert_eq!(good.passed(), 5);
        let table = table(&[good]);
        assert!(table.contains("Debian 12  6.1.0    ok 9  3/3     ok       2.0 s"), "{table}");
    }

    #[test]
    fn whatever_goes_wrong_is_a_problem_and_is_told() {
        for (from, to, told) in [
            (
                "\"error\":null,\"verified\"",
                "\"error\":\"too large\",\"verified\"",
                "edge: weir_edge: too large",
            ),
            ("\"passed\":3", "\"passed\":2", "golden packets: 2 of 3"),
            ("\"total\":3", "\"total\":0", "golden packets: 3 of 0"),
            (
                "{\"line\":\"install\",\"error\":null",
                "{\"line\":\"install\",\"error\":\"no\"",
                "installing: no",
            ),
            ("{\"line\":\"end\"}", "", "the report has no end"),
            ("{\"line\":\"end\"}", "{\"line\":\"broken\",\"error\":\"odd\"}\n{\"line\":\"end\"}", "odd"),
            ("\"golden\"", "\"other\"", "golden packets: were not run"),
        ] {
            let bad = outcome(&GOOD.replacen(from, to, 1));
            assert!(!bad.is_good(), "{to}");
            assert!(table(&[bad]).contains(&format!("Debian 12: {told}")), "{to}");
        }
    }
}
