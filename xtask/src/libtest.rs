//! Reading what libtest prints: counts of passed, failed and ignored tests, and the names of failed ones.

/// Counts over one or more test binaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    pub(crate) failed_names: Vec<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failed_names.extend(other.failed_names.iter().cloned());
    }

    /// Reads everything that one program printed, which may hold several reports (cargo runs one per crate with
    /// documentation tests). A program that ended badly without saying which test failed counts as one failure.
    pub(crate) fn read(output: &str, ended_well: bool) -> Self {
        let mut counts = Self::default();
        let mut names: Vec<String> = Vec::new();
        for line in output.lines() {
            if line == "failures:" {
                // Printed twice: before the captured output, and before the list of names, which is what we are after.
                names.clear();
            } else if let Some(summary) = line.strip_prefix("test result: ") {
                counts.add_summary(summary);
                counts.failed_names.append(&mut names);
            } else if let Some(name) = line.strip_prefix("    ") {
                names.push(name.to_owned());
            }
        }
        if !ended_well && counts.failed == 0 {
            counts.failed = 1;
            counts.failed_names.push("(ended before it could report)".to_owned());
        }
        counts
    }

    /// `FAILED. 1 passed; 2 failed; 0 ignored; ...`
    fn add_summary(&mut self, summary: &str) {
        let fields = summary.split_once(". ").map_or(summary, |(_, fields)| fields);
        for field in fields.split("; ") {
            let Some((number, kind)) = field.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "
running 3 tests
test a ... ok
test b::c ... FAILED
test d ... ignored

failures:

---- b::c stdout ----
thread 'b::c' panicked at src/lib.rs:1:1:
    left: 1

failures:
    b::c

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s
";

    #[test]
    fn reads_counts_and_names() {
        let counts = Counts::read(FAILED, false);
        let expected = Counts { passed: 1, failed: 1, ignored: 1, failed_names: vec!["b::c".to_owned()] };
        assert_eq!(counts, expected);
    }

    #[test]
    fn sums_several_reports() {
        let one =
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(Counts::read(&one.repeat(2), true).passed, 4);
    }

    #[test]
    fn a_crash_is_a_failure() {
        assert_eq!(Counts::read("running 1 test\ntest a ... ", false).failed, 1);
        let ok =
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(Counts::read(ok, false).failed, 1, "a bad exit status after a good report");
        assert_eq!(Counts::read(ok, true).failed, 0);
    }
}
