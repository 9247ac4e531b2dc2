//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// All problems of one configuration file.
///
/// `Display` shows them for people, each with the line it is about; serialised, it is
/// `{file, problems: [{message, remedy, line, column, span, related}], omitted}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Sorted by place; at least one, at most [`MAX_PROBLEMS`](super::limits::MAX_PROBLEMS).
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Where it is; none if it is about the file as a whole.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// The other place that takes part, such as the first of two equal names.
    pub related: Option<Related>,
}

/// Another place that a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
}

/// A place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In bytes from the start of the file.
    pub span: Range<usize>,
    /// The file, where the configuration has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line that `line` names, cut to what fits on a screen.
    #[serde(skip)]
    excerpt: Excerpt,
}

/// A source line made fit for display: one column per character, no control characters, bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Columns before the marked part.
    indent: usize,
    /// Columns of the marked part, at least 1.
    width: usize,
}

/// Characters of a line that an excerpt shows.
const EXCERPT_WIDTH: usize = 100;
/// Characters before the marked part that a cut line keeps.
const EXCERPT_LEAD: usize = 40;

impl ConfigError {
    /// The error of a file that cannot be read at all.
    pub(super) fn of_file(file: &str, message: String, remedy: &str) -> Self {
        let problem = Problem { message, remedy: Some(remedy.to_owned()), place: None, related: None };
        Self { file: file.to_owned(), problems: vec![problem], omitted: 0 }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.render(&self.file, f)?;
        }
        if self.omitted > 0 {
            write!(f, "\n\nerror: {} more not shown", counted(self.omitted, "problem"))?;
        }
        Ok(())
    }
}

impl Problem {
    fn render(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let places = self.place.iter().chain(self.related.as_ref().map(|r| &r.place));
        let gutter = places.map(|place| place.line.to_string().len()).max().unwrap_or(0);
        match &self.place {
            Some(place) => {
                let file = place.file.as_deref().unwrap_or(file);
                write!(f, "\n{:gutter$}--> {file}:{}:{}", "", place.line, place.column)?;
                place.render(gutter, '^', "", f)?;
            }
            None => write!(f, "\n --> {file}")?,
        }
        if let Some(Related { message, place }) = &self.related {
            let file = place.file.as_deref().unwrap_or(file);
            write!(f, "\n{:gutter$}::: {file}:{}:{}", "", place.line, place.column)?;
            place.render(gutter, '-', message, f)?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n{:gutter$} = help: {remedy}", "")?;
        }
        Ok(())
    }
}

impl Place {
    /// Writes the line with `mark` below the place, each line begun by a line break.
    fn render(&self, gutter: usize, mark: char, label: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excerpt { text, indent, width } = &self.excerpt;
        let marks: String = std::iter::repeat_n(mark, *width).collect();
        write!(
            f,
            "\n{:gutter$} |\n{:>gutter$} | {text}\n{:gutter$} | {:indent$}{marks}",
            "", self.line, "", ""
        )?;
        if !label.is_empty() {
            write!(f, " {label}")?;
        }
        Ok(())
    }
}

/// Where the lines of a text begin, so that places are found quickly.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// Indexes `text`.
    pub(super) fn new(text: &'t str) -> Self {
        let breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// The place of a span in bytes. A span that is out of range or cuts a character is moved to where it is valid.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let end = self.text.floor_char_boundary(span.end.min(self.text.len())).max(start);
        // `starts` begins with 0, so at least one start is not beyond any offset.
        let row = self.starts.partition_point(|&line_start| line_start <= start) - 1;
        let line_start = self.starts[row];
        let line = self.text[line_start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let in_line = |offset: usize| (offset - line_start).min(line.len());
        let before = line[..in_line(start)].chars().count();
        let marked = line[in_line(start)..in_line(end)].chars().count();
        Place {
            line: row + 1,
            column: before + 1,
            span: start..end,
            file: None,
            excerpt: Excerpt::of(line, before, marked.max(1)),
        }
    }
}

impl Excerpt {
    fn of(line: &str, before: usize, marked: usize) -> Self {
        let length = line.chars().count();
        let cut = if length <= EXCERPT_WIDTH { 0 } else { before.saturating_sub(EXCERPT_LEAD) };
        let mut text = String::new();
        if cut > 0 {
            text.push('…');
        }
        let lead = usize::from(cut > 0);
        let shown = without_secrets(line).into_iter().skip(cut).take(EXCERPT_WIDTH);
        // A file may hold anything; what is written to a terminal must not steer it.
        text.extend(shown.map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        }));
        if length > cut + EXCERPT_WIDTH {
            text.push('…');
        }
        let text = text.trim_end().to_owned();
        let indent = before - cut + lead;
        Self { text, indent, width: marked.min(EXCERPT_WIDTH.saturating_sub(before - cut)).max(1) }
    }
}

/// Hexadecimal digits in a row that are taken for (a part of) a key, on a line that speaks of one and on any other.
const SECRET_DIGITS_NAMED: usize = 8;
const SECRET_DIGITS: usize = 32;

/// The characters of a line with what may be the hash key made unreadable: errors end up in logs.
fn without_secrets(line: &str) -> Vec<char> {
    let fewest = if line.contains("hash_key") { SECRET_DIGITS_NAMED } else { SECRET_DIGITS };
    let mut chars: Vec<char> = line.chars().collect();
    for run in chars.chunk_by_mut(|a, b| a.is_ascii_hexdigit() == b.is_ascii_hexdigit()) {
        if run.len() >= fewest && run[0].is_ascii_hexdigit() {
            run.fill('*');
        }
    }
    chars
}

/// `1 problem`, `2 problems`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
