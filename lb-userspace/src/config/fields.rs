//! Reading tables of a TOML tree key by key, so that one pass finds every unknown, missing and mistyped key.

use toml::de::{DeTable, DeValue};

use super::report::{Finding, Report, Span, quote};

/// A value with the bytes of the file it stands in.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Where it stands.
    pub(super) span: Span,
}

/// A string of the file.
pub(super) type Text<'a> = At<&'a str>;

/// A list of strings of the file.
pub(super) type Texts<'a> = At<Vec<Text<'a>>>;

#[cfg(test)]
thread_local! {
    /// Label and key of everything that this thread asked a table for.
    static RECORD: std::cell::RefCell<Vec<(&'static str, &'static str)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// What `read` asks tables for, as label and key.
#[cfg(test)]
pub(super) fn recorded(read: impl FnOnce()) -> Vec<(&'static str, &'static str)> {
    RECORD.take();
    read();
    RECORD.take()
}

/// One table that is being read.
pub(super) struct Fields<'a> {
    table: &'a DeTable<'a>,
    /// Where its header stands, or the whole of an inline table.
    pub(super) span: Span,
    /// How messages call it: `[node]`.
    label: &'static str,
    asked: Vec<&'static str>,
    /// Whether a value was left out because of its type. What seems to be missing may then be there.
    pub(super) mistyped: bool,
}

impl<'a> Fields<'a> {
    /// Starts to read `table`.
    pub(super) fn new(table: &'a DeTable<'a>, span: Span, label: &'static str) -> Self {
        Self { table, span, label, asked: Vec::new(), mistyped: false }
    }

    fn value(&mut self, key: &'static str) -> Option<(&'a DeValue<'a>, Span)> {
        self.asked.push(key);
        #[cfg(test)]
        RECORD.with_borrow_mut(|record| record.push((self.label, key)));
        self.table.get(key).map(|value| (value.get_ref(), value.span()))
    }

    /// Notes whether a value that is there could be read.
    fn noted<T>(&mut self, read: Option<T>) -> Option<T> {
        self.mistyped |= read.is_none();
        read
    }

    /// A string, if it is there.
    pub(super) fn string(&mut self, key: &'static str, report: &mut Report) -> Option<Text<'a>> {
        let (value, span) = self.value(key)?;
        self.noted(string(value, span, &format!("\"{key}\""), report))
    }

    /// A string that must be there; `example` is the line to add if it is not.
    pub(super) fn required(
        &mut self,
        key: &'static str,
        example: &str,
        report: &mut Report,
    ) -> Option<Text<'a>> {
        self.require(key, example, report);
        self.string(key, report)
    }

    /// A duration as text, if it is there.
    pub(super) fn duration(&mut self, key: &'static str, report: &mut Report) -> Option<Text<'a>> {
        let (value, span) = self.value(key)?;
        if let DeValue::Integer(number) = value {
            self.mistyped = true;
            report.add(|| {
                Finding::new(&span, format!("\"{key}\" needs a unit")).help(format!(
                    "write {key} = \"{number}ms\" if milliseconds are meant; units are us, ms, s and m"
                ))
            });
            return None;
        }
        self.noted(string(value, span, &format!("\"{key}\""), report))
    }

    /// A duration as text that must be there.
    pub(super) fn required_duration(
        &mut self,
        key: &'static str,
        example: &str,
        report: &mut Report,
    ) -> Option<Text<'a>> {
        self.require(key, example, report);
        self.duration(key, report)
    }

    /// An integer, if it is there.
    pub(super) fn integer(&mut self, key: &'static str, report: &mut Report) -> Option<At<i64>> {
        let (value, span) = self.value(key)?;
        let DeValue::Integer(digits) = value else {
            self.mistyped = true;
            report.add(|| wrong_type(&span, &format!("\"{key}\""), "an integer", value));
            return None;
        };
        let Ok(value) = i64::from_str_radix(digits.as_str(), digits.radix()) else {
            self.mistyped = true;
            report.add(|| Finding::new(&span, format!("\"{key}\" does not fit into 64 bits")));
            return None;
        };
        Some(At { value, span })
    }

    /// A truth value, if it is there.
    pub(super) fn boolean(&mut self, key: &'static str, report: &mut Report) -> Option<At<bool>> {
        let (value, span) = self.value(key)?;
        if let DeValue::Boolean(value) = value {
            return Some(At { value: *value, span });
        }
        self.mistyped = true;
        report.add(|| {
            wrong_type(&span, &format!("\"{key}\""), "true or false", value)
                .help(format!("write {key} = true or {key} = false, without quotes"))
        });
        None
    }

    /// An integer that must be there.
    pub(super) fn required_integer(
        &mut self,
        key: &'static str,
        example: &str,
        report: &mut Report,
    ) -> Option<At<i64>> {
        self.require(key, example, report);
        self.integer(key, report)
    }

    /// A list of strings, if it is there.
    pub(super) fn strings(&mut self, key: &'static str, report: &mut Report) -> Option<Texts<'a>> {
        let (value, span) = self.value(key)?;
        self.noted(strings(value, span, &format!("\"{key}\""), report))
    }

    /// A list of strings that must be there.
    pub(super) fn required_strings(
        &mut self,
        key: &'static str,
        example: &str,
        report: &mut Report,
    ) -> Option<Texts<'a>> {
        self.require(key, example, report);
        self.strings(key, report)
    }

    /// A table, if it is there; `label` is what messages call it.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        label: &'static str,
        report: &mut Report,
    ) -> Option<Fields<'a>> {
        let (value, span) = self.value(key)?;
        if let DeValue::Table(table) = value {
            return Some(Fields::new(table, span, label));
        }
        self.mistyped = true;
        let twice = matches!(value, DeValue::Array(items) if items.iter().any(|i| i.get_ref().is_table()));
        report.add(|| {
            let finding = wrong_type(&span, &format!("\"{key}\""), "one table", value);
            if twice { finding.help(format!("write {label}, with one pair of brackets")) } else { finding }
        });
        None
    }

    /// An array of tables; empty if it is not there. `label` is what messages call one: `[[check]]`.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        label: &'static str,
        report: &mut Report,
    ) -> Vec<Fields<'a>> {
        let Some((value, span)) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value else {
            self.mistyped = true;
            report.add(|| {
                let finding = wrong_type(&span, &format!("\"{key}\""), "an array of tables", value);
                finding.help(format!("write {label}, with two pairs of brackets, before each of them"))
            });
            return Vec::new();
        };
        let tables = items.iter().filter_map(|item| match item.get_ref() {
            DeValue::Table(table) => Some(Fields::new(table, item.span(), label)),
            value => {
                self.mistyped = true;
                report.add(|| wrong_type(&item.span(), &format!("each \"{key}\""), "a table", value));
                None
            }
        });
        tables.collect()
    }

    /// The keys of a table whose keys are names, each with its value, ascending.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Text<'a>, &'a DeValue<'a>, Span)> + use<'a> {
        self.table.iter().map(|(key, value)| {
            let name = At { value: key.get_ref().as_ref(), span: key.span() };
            (name, value.get_ref(), value.span())
        })
    }

    /// Reports that `key` is missing, if it is.
    fn require(&self, key: &str, example: &str, report: &mut Report) {
        if self.table.get(key).is_none() {
            report.add(|| {
                Finding::new(&self.span, format!("{} has no \"{key}\"", self.label))
                    .help(format!("add {example}"))
            });
        }
    }

    /// Ends the reading: reports every key that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        for (key, _) in self.table {
            if !self.asked.contains(&key.get_ref().as_ref()) {
                let name = key.get_ref();
                report.add(|| {
                    let message = format!("unknown key {} in {}", quote(name), self.label);
                    Finding::new(&key.span(), message).did_you_mean(name, "keys", self.asked.iter().copied())
                });
            }
        }
    }
}

/// A string, or a report that `what` must be one.
pub(super) fn string<'a>(
    value: &'a DeValue<'a>,
    span: Span,
    what: &str,
    report: &mut Report,
) -> Option<Text<'a>> {
    match value {
        DeValue::String(value) => Some(At { value: value.as_ref(), span }),
        other => {
            report.add(|| wrong_type(&span, what, "a string", other));
            None
        }
    }
}

/// A list of strings, or a report that `what` must be one. Elements that are no strings are reported and left out.
pub(super) fn strings<'a>(
    value: &'a DeValue<'a>,
    span: Span,
    what: &str,
    report: &mut Report,
) -> Option<Texts<'a>> {
    match value {
        DeValue::Array(items) => {
            let each = format!("each element of {what}");
            let items = items.iter().filter_map(|item| string(item.get_ref(), item.span(), &each, report));
            Some(At { value: items.collect(), span })
        }
        other => {
            report.add(|| {
                let finding = wrong_type(&span, what, "a list of strings", other);
                match other {
                    DeValue::String(one) => finding.help(format!("write [{}]", quote(one))),
                    _ => finding,
                }
            });
            None
        }
    }
}

/// Digits of a number that a message repeats.
const MAX_ECHOED_DIGITS: usize = 20;

fn wrong_type(span: &Span, what: &str, expected: &str, found: &DeValue<'_>) -> Finding {
    let finding = Finding::new(span, format!("{what} must be {expected}, not {}", described(found)));
    match (expected, found) {
        // A longer one may be a key, and errors end up in logs.
        ("a string", DeValue::Integer(number)) if number.as_str().len() <= MAX_ECHOED_DIGITS => {
            finding.help(format!("put it in quotes: \"{number}\""))
        }
        ("an integer", DeValue::String(text)) if text.parse::<i64>().is_ok() => {
            finding.help(format!("write it without quotes: {text}"))
        }
        _ => finding,
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
