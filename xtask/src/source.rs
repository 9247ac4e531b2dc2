//! A reading of Rust source that is just deep enough for the border check: comments and literals blanked, paths with
//! `use` trees expanded, and the length of functions. It needs no parser and no dependency.

/// A path such as `std::net::UdpSocket`, as segments, and the line that it stands on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PathUse {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

/// A function's name, the line of its `fn`, and how many lines it spans.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FunctionSpan {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Source without comments and literals: as long, with the same lines.
pub(crate) struct Code {
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Ident(&'a str),
    /// `::`
    Sep,
    Punct(char),
}

impl Code {
    pub(crate) fn new(source: &str) -> Self {
        Self { text: blank_comments_and_literals(source) }
    }

    /// The same without items marked `#[cfg(test)]`.
    pub(crate) fn without_tests(&self) -> Self {
        const MARK: &str = "#[cfg(test)]";
        let mut text = self.text.clone();
        while let Some(start) = text.find(MARK) {
            let end = item_end(&text, start + MARK.len());
            let blanked: String = text[start..end].chars().map(blank).collect();
            text.replace_range(start..end, &blanked);
        }
        Self { text }
    }

    /// The lines on which a word stands as a token of its own.
    pub(crate) fn lines_with_word(&self, word: &str) -> Vec<usize> {
        let is_word = |(line, token)| (token == Token::Ident(word)).then_some(line);
        tokens(&self.text).into_iter().filter_map(is_word).collect()
    }

    /// Every path, including each leaf of a `use` tree as a full path, and single names.
    pub(crate) fn paths(&self) -> Vec<PathUse> {
        let tokens = tokens(&self.text);
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            at = match tokens[at].1 {
                Token::Ident("use") => use_tree(&tokens, at + 1, &[], &mut paths),
                Token::Ident(_) => plain_path(&tokens, at, &mut paths),
                _ => at + 1,
            };
        }
        paths
    }

    pub(crate) fn functions(&self) -> Vec<FunctionSpan> {
        let tokens = tokens(&self.text);
        let mut functions = Vec::new();
        for (at, pair) in tokens.windows(2).enumerate() {
            if let [(line, Token::Ident("fn")), (_, Token::Ident(name))] = *pair
                && let Some(last_line) = body_end_line(&tokens[at..])
            {
                functions.push(FunctionSpan { name: name.to_owned(), line, lines: last_line - line + 1 });
            }
        }
        functions
    }
}

/// Reads `a::b::c` from an identifier on; returns where to go on.
fn plain_path(tokens: &[(usize, Token<'_>)], mut at: usize, paths: &mut Vec<PathUse>) -> usize {
    let line = tokens[at].0;
    let mut segments = Vec::new();
    while let Some((_, Token::Ident(name))) = tokens.get(at) {
        segments.push((*name).to_owned());
        at += 1;
        match (tokens.get(at), tokens.get(at + 1)) {
            (Some((_, Token::Sep)), Some((_, Token::Ident(_)))) => at += 1,
            _ => break,
        }
    }
    paths.push(PathUse { line, segments });
    at
}

/// Reads one branch of a `use` tree below `prefix`; returns where to go on.
fn use_tree(
    tokens: &[(usize, Token<'_>)],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<PathUse>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |(line, _)| *line);
    while let Some(&(token_line, token)) = tokens.get(at) {
        at += 1;
        match token {
            Token::Ident("as") => at += 1,
            Token::Ident(name) => {
                line = token_line;
                segments.push(name.to_owned());
            }
            Token::Punct('*') => segments.push("*".to_owned()),
            Token::Sep => {}
            Token::Punct('{') => return use_group(tokens, at, &segments, paths),
            // The end of this branch; the group or the item that it belongs to reads on from here.
            Token::Punct(_) => {
                at -= 1;
                break;
            }
        }
    }
    if segments.len() > prefix.len() {
        paths.push(PathUse { line, segments });
    }
    at
}

/// Reads the branches between `{` (already read) and `}`; returns where to go on.
fn use_group(
    tokens: &[(usize, Token<'_>)],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<PathUse>,
) -> usize {
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Punct('}') => return at + 1,
            Token::Punct(_) if *token != Token::Punct('{') && *token != Token::Punct('*') => at += 1,
            _ => at = use_tree(tokens, at, prefix, paths),
        }
    }
    at
}

/// The line of the brace that closes the first body in `tokens`; `None` for a declaration without one.
fn body_end_line(tokens: &[(usize, Token<'_>)]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut brackets = 0_usize;
    for (line, token) in tokens {
        match token {
            Token::Punct('[' | '(') => brackets += 1,
            Token::Punct(']' | ')') => brackets = brackets.saturating_sub(1),
            // A `;` inside `[u8; 4]` ends nothing.
            Token::Punct(';') if depth == 0 && brackets == 0 => return None,
            Token::Punct('{') => depth += 1,
            Token::Punct('}') if depth <= 1 => return Some(*line),
            Token::Punct('}') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Where the item that starts at `from` ends: after its `;`, or after the brace that closes its body.
fn item_end(text: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, c) in text[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return from + offset + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return from + offset + 1,
            _ => {}
        }
    }
    text.len()
}

fn tokens(text: &str) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c == '_' || c.is_alphanumeric();
        let (token, length) = if is_word(c) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (Some(Token::Ident(&rest[..length])), length)
        } else if rest.starts_with("::") {
            (Some(Token::Sep), 2)
        } else {
            ((!c.is_whitespace()).then_some(Token::Punct(c)), c.len_utf8())
        };
        tokens.extend(token.map(|token| (line, token)));
        line += usize::from(c == '\n');
        rest = &rest[length..];
    }
    tokens
}

fn blank(c: char) -> char {
    if c == '\n' { '\n' } else { ' ' }
}

fn blank_comments_and_literals(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    let mut previous = ' ';
    while let Some(c) = rest.chars().next() {
        // `r"` inside a word, as in `for"`, starts no literal.
        let in_word = previous == '_' || previous.is_alphanumeric();
        let skipped = comment_length(rest).or_else(|| literal_length(rest, in_word));
        if let Some(length) = skipped {
            code.extend(rest[..length].chars().map(blank));
            rest = &rest[length..];
            previous = ' ';
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            previous = c;
        }
    }
    code
}

/// The length in bytes of the comment that `rest` starts with.
fn comment_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(rest.len())
}

/// The length in bytes of the string or character literal that `rest` starts with.
fn literal_length(rest: &str, in_word: bool) -> Option<usize> {
    if !in_word {
        let after_prefix = rest.trim_start_matches(['b', 'c']);
        if let Some(raw) = after_prefix.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                let close = format!("\"{}", "#".repeat(hashes));
                let body = &raw[hashes + 1..];
                let end = body.find(&close).map_or(body.len(), |at| at + close.len());
                return Some(rest.len() - body.len() + end);
            }
        }
    }
    match rest.chars().next()? {
        '"' => Some(1 + quoted_length(&rest[1..], '"')),
        '\'' => {
            let mut chars = rest[1..].chars();
            let (first, second) = (chars.next()?, chars.next()?);
            // `'a` without a closing quote is a lifetime.
            (first == '\\' || second == '\'').then(|| 1 + quoted_length(&rest[1..], '\''))
        }
        _ => None,
    }
}

/// The length in bytes up to and including the closing quote.
fn quoted_length(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        Code::new(source).paths().into_iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        let source = r####"let a = "unsafe \" unsafe"; // unsafe
/* unsafe /* unsafe */ unsafe */ let b = r#"unsafe " unsafe"#; let c = 'u'; let d = b"unsafe"; fn f<'a>(x: &'a str) {}
/// unsafe
unsafe {}"####;
        assert_eq!(Code::new(source).lines_with_word("unsafe"), [4]);
        assert_eq!(Code::new(source).lines_with_word("a"), [1, 2, 2], "lifetimes stay");
    }

    #[test]
    fn use_trees_are_expanded() {
        let found = paths("use std::{fs, net::{IpAddr, UdpSocket as S}, time::*};\nuse a::b;");
        assert_eq!(found, ["std::fs", "std::net::IpAddr", "std::net::UdpSocket", "std::time::*", "a::b"]);
    }

    #[test]
    fn paths_in_code_are_found_with_their_line() {
        let code = Code::new("fn f() {\n    let now = std::time::Instant::now();\n}");
        let now = code.paths().into_iter().find(|path| path.segments.len() > 1).unwrap();
        assert_eq!((now.line, now.segments.join("::")), (2, "std::time::Instant::now".to_owned()));
    }

    #[test]
    fn test_items_are_left_out() {
        let code =
            Code::new("use a::b;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() {}\n}\nuse c::d;");
        let left: Vec<_> = code.without_tests().paths();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(left[1].line, 7);
    }

    #[test]
    fn functions_are_measured() {
        let source = "fn one() {}\ntrait T {\n    fn none(a: [u8; 4]);\n}\nfn three(b: [u8; 2]) {\n    if true { }\n}\n";
        let spans: Vec<_> =
            Code::new(source).functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(spans, [("one".to_owned(), 1, 1), ("three".to_owned(), 5, 3)]);
    }
}
