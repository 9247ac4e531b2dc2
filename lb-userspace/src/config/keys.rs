//! Every key that the file may have: the source of weir.toml(5), of the JSON Schema, and of what `weir config show --effective` fills in.
//!
//! That the parser knows exactly these keys, and that what stands here as a default is what the resolver takes without the key, is
//! tested.

mod list;

pub use list::SECTIONS;

/// A table of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Where it stands: the names of the tables from the root.
    pub path: &'static [&'static str],
    /// Whether it may stand there more than once, with two pairs of brackets.
    pub repeats: bool,
    /// Whether the file has to have it.
    pub required: bool,
    /// What it is for.
    pub text: &'static str,
    /// Its keys.
    pub content: Content,
}

/// What a table holds.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// These keys and no others.
    Keys(&'static [Key]),
    /// Names that the file chooses, each with a list of strings.
    Lists,
    /// Names that the file chooses, each with a table as above.
    Tables,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub of: Type,
    /// What holds without it.
    pub default: Fallback,
    /// The other key on which it depends whether this one means something, with the values at which it does.
    pub only: Option<(&'static str, &'static [&'static str])>,
    /// What it says.
    pub text: &'static str,
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// A string.
    Text,
    /// A string of this kind: a number and a unit.
    Duration,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// An integer from here to there.
    Integer(i64, i64),
    /// One of these integers.
    Integers(&'static [i64]),
    /// `true` or `false`.
    Flag,
}

/// What holds without a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// The key has to be there.
    Required,
    /// Nothing.
    Nothing,
    /// This value, as TOML has it.
    Is(&'static str),
    /// What these words say: it depends on more than the file.
    Told(&'static str),
    /// The value of another key.
    Same(&'static str),
    /// Depending on `kind`: kinds with a value as TOML has it, or `=KEY` for the value of another key.
    ByKind(&'static [(&'static [&'static str], &'static str)]),
}

impl Section {
    /// The section at this path.
    #[must_use]
    pub fn find(path: &[&str]) -> Option<&'static Self> {
        SECTIONS.iter().find(|section| section.path == path)
    }

    /// Its keys; none where the file chooses them.
    #[must_use]
    pub const fn keys(&self) -> &'static [Key] {
        match self.content {
            Content::Keys(keys) => keys,
            Content::Lists | Content::Tables => &[],
        }
    }

    /// The sections directly below.
    pub fn children(path: &'static [&'static str]) -> impl Iterator<Item = &'static Self> {
        SECTIONS
            .iter()
            .filter(move |below| below.path.len() == path.len() + 1 && below.path.starts_with(path))
    }

    /// As it is written in the file: `[[set.backend]]`.
    #[must_use]
    pub fn header(&self) -> String {
        let path = self.path.join(".");
        let path = if matches!(self.content, Content::Tables) { format!("{path}.NAME") } else { path };
        if self.repeats { format!("[[{path}]]") } else { format!("[{path}]") }
    }
}

impl Key {
    /// Whether it means something beside these other values; `value` looks one up.
    pub fn applies<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.only.is_none_or(|(key, values)| value(key).is_some_and(|value| values.contains(&value)))
    }

    /// What holds without it, as TOML has it or as `=KEY`, for a table of this kind.
    #[must_use]
    pub fn fallback(&self, kind: Option<&str>) -> Option<String> {
        match self.default {
            Fallback::Required | Fallback::Nothing | Fallback::Told(_) => None,
            Fallback::Is(value) => Some(value.to_owned()),
            Fallback::Same(key) => Some(format!("={key}")),
            Fallback::ByKind(cases) => {
                let kind = kind?;
                let case = cases.iter().find(|(kinds, _)| kinds.contains(&kind))?;
                Some(case.1.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests;
