//! Names and the ids that follow from them.

use crate::config::fields::{At, Text};
use crate::config::limits::MAX_NAME_BYTES;
use crate::config::report::{Finding, Report, Span, quote};

/// What kind of thing a name names.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// `set`
    pub(super) one: &'static str,
    /// `sets`
    pub(super) many: &'static str,
}

/// The names of all things of one kind. An id is a position among the sorted names.
pub(super) struct Names<'a> {
    kind: Kind,
    sorted: Vec<Name<'a>>,
}

struct Name<'a> {
    name: &'a str,
    span: Span,
    /// Position in the file among its kind.
    position: usize,
}

impl<'a> Names<'a> {
    /// Gathers the names in file order; things without a name take a position but get no id. Reports bad names and
    /// those that occur twice.
    pub(super) fn collect<'t>(
        kind: Kind,
        names: impl Iterator<Item = Option<&'t Text<'a>>>,
        report: &mut Report,
    ) -> Self
    where
        'a: 't,
    {
        let mut sorted: Vec<Name<'a>> = Vec::new();
        for (position, text) in names.enumerate() {
            let Some(At { value: name, span }) = text else {
                continue;
            };
            check_name(kind.one, name, span, report);
            sorted.push(Name { name, span: span.clone(), position });
        }
        sorted.sort_by(|a, b| (a.name, a.span.start).cmp(&(b.name, b.span.start)));
        sorted.dedup_by(|again, first| {
            let same = again.name == first.name;
            if same {
                report.add(|| defined_twice(kind.one, first.name, &first.span, &again.span));
            }
            same
        });
        Self { kind, sorted }
    }

    /// The id of a name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.sorted.binary_search_by(|known| known.name.cmp(name)).ok()
    }

    /// The position in the file of the thing with this id.
    pub(super) fn position(&self, id: usize) -> usize {
        self.sorted[id].position
    }

    /// The id of a name that `who` refers to; reports it if there is none.
    pub(super) fn refer(&self, who: &str, text: &Text<'_>, report: &mut Report) -> Option<usize> {
        let id = self.find(text.value);
        if id.is_none() {
            report.add(|| {
                let message =
                    format!("{who} names {} {}, which is not defined", self.kind.one, quote(text.value));
                Finding::new(&text.span, message).did_you_mean(text.value, self.kind.many, self.iter())
            });
        }
        id
    }

    /// The names, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a str> + Clone {
        self.sorted.iter().map(|known| known.name)
    }

    /// Brings what was resolved in file order into the order of the ids. `None` if something is missing.
    pub(super) fn arrange<T>(&self, mut resolved: Vec<Option<T>>) -> Option<Vec<T>> {
        if self.sorted.len() != resolved.len() {
            return None;
        }
        self.sorted.iter().map(|known| resolved[known.position].take()).collect()
    }
}

/// How messages call a thing: `set "web-w1"`, or `a set` if it has no name.
pub(super) fn called(kind: &str, name: Option<&Text<'_>>) -> String {
    match name {
        Some(name) => format!("{kind} {}", quote(name.value)),
        None => format!("a {kind}"),
    }
}

/// Two things of one kind with one name.
pub(super) fn defined_twice(kind: &str, name: &str, first: &Span, again: &Span) -> Finding {
    Finding::new(again, format!("{kind} {} is defined twice", quote(name)))
        .and(first, "first defined here")
        .help("give one of them another name, or remove it")
}

/// Reports a name that cannot stand in paths, URLs and metrics.
pub(super) fn check_name(kind: &str, name: &str, span: &Span, report: &mut Report) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !starts_well || !name.bytes().all(plain) {
        report.add(|| {
            Finding::new(span, format!("{} is no name for a {kind}", quote(name))).help(
                "a name begins with a letter or digit and goes on with letters, digits, \"-\", \"_\" and \".\" (ASCII)",
            )
        });
    } else if name.len() > MAX_NAME_BYTES {
        report.add(|| {
            let message = format!("the name of this {kind} is {} bytes long", name.len());
            Finding::new(span, message).help(format!("MAX_NAME_BYTES is {MAX_NAME_BYTES}"))
        });
    }
}
