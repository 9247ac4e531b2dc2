//! The text format of Prometheus, version 0.0.4: families of samples, each with HELP and TYPE.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>, section "Text format details".

use std::fmt::{self, Write as _};

/// The content type of what [`Text::finish`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Kinds of families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, but for restarts; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

/// A value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other; not a number is written as `NaN`.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Real(value) if value.is_infinite() => {
                f.write_str(if *value > 0.0 { "+Inf" } else { "-Inf" })
            }
            Self::Real(value) => write!(f, "{value}"),
        }
    }
}

/// Names with values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text so far.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    names: Vec<String>,
}

/// A family that is being written.
#[derive(Debug)]
pub struct Family<'t> {
    text: &'t mut Text,
    name: String,
}

impl Text {
    /// Begins a family; its samples follow.
    ///
    /// # Panics
    /// In builds with debug assertions, if the name is malformed or was used before: a defect.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert!(is_name(name), "{name}");
        debug_assert!(!self.names.iter().any(|known| known == name), "{name} is there already");
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        self.names.push(name.to_owned());
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: self, name: name.to_owned() }
    }

    /// A family with one sample and no labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Into<Value>) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }
}

impl Family<'_> {
    /// Writes a sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Into<Value>) {
        self.line("", labels, None, value.into());
    }

    /// Writes a histogram from buckets that are not cumulative: their upper bounds, and what lies in each; what lies above the last bound
    /// comes last in `counts`.
    pub fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], counts: &[u64], sum: f64) {
        debug_assert_eq!(counts.len(), bounds.len() + 1, "{}", self.name);
        let mut so_far = 0;
        for (index, count) in counts.iter().enumerate() {
            so_far += count;
            let bound = Value::Real(bounds.get(index).copied().unwrap_or(f64::INFINITY)).to_string();
            self.line("_bucket", labels, Some(("le", &bound)), Value::Whole(so_far));
        }
        self.line("_sum", labels, None, Value::Real(sum));
        self.line("_count", labels, None, Value::Whole(so_far));
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, last: Option<(&str, &str)>, value: Value) {
        let out = &mut self.text.out;
        out.push_str(&self.name);
        out.push_str(suffix);
        let mut separator = '{';
        for (name, label) in labels.iter().copied().chain(last) {
            debug_assert!(is_name(name) && !name.contains(':'), "{name}");
            out.push(separator);
            separator = ',';
            out.push_str(name);
            out.push_str("=\"");
            for c in label.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    other => out.push(other),
                }
            }
            out.push('"');
        }
        if separator == ',' {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_format_says() {
        let mut text = Text::default();
        let mut family = text.family("weir_a_total", Kind::Counter, "One \\ two\nthree.");
        family.sample(&[("x", "plain"), ("y", "a\"b\\c\nd")], 7);
        family.sample(&[], u64::MAX);
        text.single("weir_b", Kind::Gauge, "B.", 0.000_25);
        text.single("weir_c", Kind::Gauge, "C.", f64::INFINITY);
        text.single("weir_d", Kind::Gauge, "D.", true);
        text.family("weir_e", Kind::Histogram, "E.").histogram(&[("p", "q")], &[0.5, 2.0], &[1, 0, 3], 9.5);
        let expected = r#"# HELP weir_a_total One \\ two\nthree.
# TYPE weir_a_total counter
weir_a_total{x="plain",y="a\"b\\c\nd"} 7
weir_a_total 18446744073709551615
# HELP weir_b B.
# TYPE weir_b gauge
weir_b 0.00025
# HELP weir_c C.
# TYPE weir_c gauge
weir_c +Inf
# HELP weir_d D.
# TYPE weir_d gauge
weir_d 1
# HELP weir_e E.
# TYPE weir_e histogram
weir_e_bucket{p="q",le="0.5"} 1
weir_e_bucket{p="q",le="2"} 1
weir_e_bucket{p="q",le="+Inf"} 4
weir_e_sum{p="q"} 9.5
weir_e_count{p="q"} 4
"#;
        assert_eq!(text.finish(), expected);
    }

    #[test]
    #[should_panic(expected = "weir_a is there already")]
    fn a_family_comes_once() {
        let mut text = Text::default();
        text.single("weir_a", Kind::Gauge, "A.", 1);
        text.single("weir_a", Kind::Gauge, "A.", 1);
    }

    #[test]
    #[should_panic(expected = "weir_packets")]
    fn a_counter_is_named_so() {
        Text::default().single("weir_packets", Kind::Counter, "P.", 1);
    }
}
