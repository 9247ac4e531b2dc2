//! Gathering problems while a configuration is read.

use std::ops::Range;

use super::error::{ConfigError, Lines, Problem, Related};
use super::limits::MAX_PROBLEMS;
use super::suggest::nearest;

/// Bytes of the file.
pub(super) type Span = Range<usize>;

/// A problem with its spans still in bytes.
pub(super) struct Finding {
    span: Span,
    message: String,
    remedy: Option<String>,
    related: Option<(Span, String)>,
}

impl Finding {
    /// A problem at `span`.
    pub(super) fn new(span: &Span, message: impl Into<String>) -> Self {
        Self { span: span.clone(), message: message.into(), remedy: None, related: None }
    }

    /// Says what to do.
    pub(super) fn help(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Points to a second place.
    pub(super) fn and(mut self, span: &Span, message: impl Into<String>) -> Self {
        self.related = Some((span.clone(), message.into()));
        self
    }

    /// Says which known name was probably meant, and which there are: `did you mean "a"? known racks: "a", "b"`.
    pub(super) fn did_you_mean<'n>(
        self,
        given: &str,
        kind: &str,
        known: impl Iterator<Item = &'n str> + Clone,
    ) -> Self {
        let mut remedy = match nearest(given, known.clone()) {
            Some(name) => format!("did you mean {}? ", quote(name)),
            None => String::new(),
        };
        remedy.push_str(&listed(kind, known));
        self.help(remedy)
    }
}

/// Names that a list shows before it only counts.
const MAX_LISTED: usize = 8;

/// `known racks: "a", "b" and 3 more`.
fn listed<'n>(kind: &str, known: impl Iterator<Item = &'n str> + Clone) -> String {
    let count = known.clone().count();
    if count == 0 {
        return format!("there are no {kind}");
    }
    let mut text = format!("known {kind}: {}", quoted(known.take(MAX_LISTED)));
    if count > MAX_LISTED {
        text.push_str(&format!(" and {} more", count - MAX_LISTED));
    }
    text
}

/// `"a", "b"`.
pub(super) fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(quote).collect::<Vec<_>>().join(", ")
}

/// Characters of a quoted text that a message shows.
const MAX_QUOTED: usize = 80;

/// A text of the file in quotes, escaped so that it cannot steer a terminal, and cut if it is long.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
    }
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
    omitted: usize,
}

impl Report {
    /// Adds a problem. Beyond the limit they are only counted, and `make` is not called.
    pub(super) fn add(&mut self, make: impl FnOnce() -> Finding) {
        if self.findings.len() < MAX_PROBLEMS {
            self.findings.push(make());
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }

    /// Takes over what was found in a text that begins `by` bytes further on.
    pub(super) fn absorb(&mut self, other: Self, by: usize) {
        let moved = |span: &Span| span.start + by..span.end + by;
        for finding in other.findings {
            self.add(|| Finding {
                span: moved(&finding.span),
                related: finding.related.map(|(span, message)| (moved(&span), message)),
                ..finding
            });
        }
        self.omitted = self.omitted.saturating_add(other.omitted);
    }

    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The problems by place, with lines and columns.
    pub(super) fn into_error(mut self, file: &str, text: &str) -> ConfigError {
        self.findings.sort_by_key(|finding| (finding.span.start, finding.span.end));
        let lines = Lines::new(text);
        let problems = self.findings.into_iter().map(|finding| Problem {
            message: finding.message,
            remedy: finding.remedy,
            place: Some(lines.place(&finding.span)),
            related: finding.related.map(|(span, message)| Related { message, place: lines.place(&span) }),
        });
        ConfigError { file: file.to_owned(), problems: problems.collect(), omitted: self.omitted }
    }
}
