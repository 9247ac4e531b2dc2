//! `weir manual`: writes the manual pages. For those who make packages; hidden.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;
use crate::config::keys::{Content, Fallback, Key, SECTIONS, Type};

const EXAMPLES: &str = "\
Examples:
  weir manual target/man";

/// Arguments of `weir manual`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ManualArgs {
    /// The folder to write to; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

pub(super) fn run(args: &ManualArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    pages(&root, "weir", &mut |name, page| {
        let path = folder.join(format!("{name}.8"));
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
    })?;
    let path = folder.join("weir.toml.5");
    fs::write(&path, file_page()).with_context(|| format!("cannot write {}", path.display()))
}

/// The page of a command and those of all below, with their names.
fn pages(
    command: &Command,
    name: &str,
    write: &mut impl FnMut(&str, Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .manual("Weir")
        .source(concat!("weir ", env!("CARGO_PKG_VERSION")));
    man.render(&mut page)?;
    // Lists of subcommands name pages of section 1, where clap_mangen is not told otherwise.
    let page = String::from_utf8(page)?.replace("(1)", "(8)");
    write(name, page.into_bytes())?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), write)?;
    }
    Ok(())
}

/// weir.toml(5).
fn file_page() -> String {
    let mut page = format!(
        ".TH WEIR.TOML 5 \"\" \"weir {}\" \"Weir\"\n.SH NAME\nweir.toml \\- configuration of the Weir daemon\n\
         .SH SYNOPSIS\n.I /etc/weir/weir.toml\n.br\n.I /etc/weir/conf.d/*.toml\n.SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    let intro = "What the daemon of an edge host forwards, and where to. The file is in TOML 1.0. Unknown keys and tables are errors, and \
                 all are told at once, with file, line, column and remedy; weir-check(8) looks for them without touching anything. The \
                 configuration may be a folder: then all its *.toml, in the order of their names, are read as one. Tables with two pairs of \
                 brackets may stand in any of them, and so may regions of [topology] and of [client_regions]; any other table stands in one. \
                 Durations are a whole number and a unit: us, ms, s, m or h.";
    paragraph(&mut page, intro);
    for section in SECTIONS {
        let _ = writeln!(page, ".SH \"{}\"", escape(&section.header()));
        paragraph(&mut page, section.text);
        match section.content {
            Content::Keys(keys) => keys.iter().for_each(|key| item(&mut page, key)),
            Content::Lists => paragraph(&mut page, "NAME = [\"...\", \"...\"] in each line."),
            Content::Tables => {
                paragraph(&mut page, "NAME of a zone = [\"...\", \"...\"], its racks, in each line.")
            }
        }
    }
    page.push_str(".SH FILES\n.I /usr/share/doc/weir/examples\n.br\nAnnotated examples for each use.\n");
    page.push_str(".SH \"SEE ALSO\"\n.BR weir (8),\n.BR weir\\-check (8),\n.BR weir\\-config (8),\n.BR weir\\-diff (8)\n");
    page
}

fn item(page: &mut String, key: &Key) {
    let kind = match key.of {
        Type::Text => "string".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Choice(choices) => {
            choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ")
        }
        Type::Texts => "list of strings".to_owned(),
        Type::Integer(first, last) => format!("{first} to {last}"),
        Type::Integers(all) => all.iter().map(i64::to_string).collect::<Vec<_>>().join(", "),
        Type::Flag => "true or false".to_owned(),
    };
    let _ = writeln!(page, ".TP\n.BR {} \" ({})\"", escape(key.name), escape(&kind).replace('"', "\\(dq"));
    let default = match key.default {
        Fallback::Required => " Required.".to_owned(),
        Fallback::Nothing => String::new(),
        Fallback::Is(value) => format!(" Default: {value}."),
        Fallback::Told(words) => format!(" Default: {words}."),
        Fallback::Same(other) => format!(" Default: that of {other}."),
        Fallback::ByKind(cases) => {
            let case = |(kinds, value): &(&[&str], &str)| {
                let value = value
                    .strip_prefix('=')
                    .map_or_else(|| (*value).to_owned(), |key| format!("that of {key}"));
                format!("{value} for {}", kinds.join(", "))
            };
            format!(" Default: {}.", cases.iter().map(case).collect::<Vec<_>>().join("; "))
        }
    };
    let only = key
        .only
        .map_or_else(String::new, |(other, values)| format!(" Only where {other} is {}.", values.join(", ")));
    paragraph(page, &format!("{}{default}{only}", key.text));
}

fn paragraph(page: &mut String, text: &str) {
    let _ = writeln!(page, "{}", escape(text));
}

/// A text as roff takes it for itself.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_file_has_every_table_and_key() {
        let page = file_page();
        for section in SECTIONS {
            assert!(page.contains(&format!(".SH \"{}\"", section.header())), "{}", section.header());
            let (_, after) = page.split_once(&format!(".SH \"{}\"", section.header())).unwrap();
            let own = after.split(".SH").next().unwrap();
            for key in section.keys() {
                assert!(
                    own.contains(&format!(".BR {} ", escape(key.name))),
                    "{} {}",
                    section.header(),
                    key.name
                );
            }
        }
    }

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build();
        let mut names = Vec::new();
        pages(&root, "weir", &mut |name, page| {
            let page = String::from_utf8(page).unwrap();
            assert!(page.contains(".SH NAME") && page.contains("Examples"), "{name}: {page}");
            names.push(name.to_owned());
            Ok(())
        })
        .unwrap();
        assert!(names.contains(&"weir-backend-drain".to_owned()), "{names:?}");
        assert!(!names.contains(&"weir-manual".to_owned()), "{names:?}");
    }
}
