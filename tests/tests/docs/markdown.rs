//! Documents: blocks, links, headings. As much of Markdown as is written here.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The top folder of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// Number of the fence's line, from 1; the text begins in the next one.
    pub(crate) line: usize,
    /// First word behind the fence.
    pub(crate) language: String,
    /// The other words.
    pub(crate) marks: Vec<String>,
    /// What stands in it.
    pub(crate) text: String,
}

impl Block {
    /// Whether it has this mark.
    pub(crate) fn is(&self, mark: &str) -> bool {
        self.marks.iter().any(|known| known == mark)
    }

    /// The value of a mark `name=value`.
    pub(crate) fn mark(&self, name: &str) -> Option<&str> {
        self.marks.iter().find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A file in Markdown.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    /// Its path below the top folder.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Block>,
    /// Targets of links and pictures, with their line's number.
    pub(crate) links: Vec<(usize, String)>,
    /// Code within running text, with its line's number.
    pub(crate) spans: Vec<(usize, String)>,
    /// Headings, as links name them.
    pub(crate) anchors: BTreeSet<String>,
}

impl Document {
    /// `file:line`.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.name)
    }

    /// Where its links start from.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    fn read(path: PathBuf, name: String) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let mut document = Self {
            path,
            name,
            text: String::new(),
            blocks: Vec::new(),
            links: Vec::new(),
            spans: Vec::new(),
            anchors: BTreeSet::new(),
        };
        let mut open: Option<Block> = None;
        for (line, content) in (1..).zip(text.lines()) {
            match (&mut open, content.trim_start().strip_prefix("```")) {
                (None, Some(info)) => {
                    let mut words = info.split_whitespace().map(str::to_owned);
                    let language = words.next().unwrap_or_default();
                    open = Some(Block { line, language, marks: words.collect(), text: String::new() });
                }
                (Some(_), Some(_)) => document.blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{content}\n"),
                (None, None) => document.prose(line, content),
            }
        }
        assert!(open.is_none(), "{}: a block does not end", document.name);
        document.text = text;
        document
    }

    fn prose(&mut self, line: usize, content: &str) {
        if let Some(heading) = content.strip_prefix('#') {
            self.anchors.insert(anchor(heading.trim_start_matches('#').trim()));
        }
        let mut outside = String::new();
        for (index, part) in content.split('`').enumerate() {
            if index % 2 == 1 {
                self.spans.push((line, part.to_owned()));
            } else {
                outside += part;
            }
        }
        for rest in outside.split("](").skip(1) {
            if let Some((link, _)) = rest.split_once(')') {
                self.links.push((line, link.to_owned()));
            }
        }
    }
}

/// How a link names a heading: lower case, without punctuation, with hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect::<String>();
    kept.replace(' ', "-")
}

/// All documents of the project, in the order in which one reads them.
pub(crate) fn documents() -> Vec<Document> {
    let root = root();
    let mut names = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned(), "CHANGELOG.md".to_owned()];
    for folder in ["docs", "docs/guide", "docs/reference"] {
        let entries = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut pages: Vec<_> =
            entries.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}/{name}")).collect();
        pages.sort();
        names.extend(pages);
    }
    names.into_iter().map(|name| Document::read(root.join(&name), name)).collect()
}

#[test]
fn headings_are_named_as_on_forges() {
    assert_eq!(anchor("ECMP and BGP in front"), "ecmp-and-bgp-in-front");
    assert_eq!(anchor("IPVS (`ipvsadm`)"), "ipvs-ipvsadm");
}
