//! Commands in a block for a shell, as far as documents go: quotes, comments, continued lines, pipes, lists, loops.

/// A simple command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Simple {
    /// Line of its first word, counted from 1 within the block.
    pub(crate) line: usize,
    pub(crate) words: Vec<String>,
}

/// What is being read.
#[derive(Default)]
struct Reader {
    done: Vec<Simple>,
    words: Vec<String>,
    word: Option<String>,
    begin: usize,
}

impl Reader {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self, line: usize) {
        if let Some(word) = self.word.take() {
            if self.words.is_empty() {
                self.begin = line;
            }
            self.words.push(word);
        }
    }

    fn end_command(&mut self, line: usize) {
        self.end_word(line);
        if !self.words.is_empty() {
            self.done.push(Simple { line: self.begin, words: std::mem::take(&mut self.words) });
        }
    }
}

/// The simple commands of a block, in order. Redirections stay words of their command.
pub(crate) fn commands(text: &str) -> Vec<Simple> {
    let mut reader = Reader::default();
    let (mut line, mut quote) = (1, None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), c) => {
                line += usize::from(c == '\n');
                reader.push(c);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                reader.word.get_or_insert_default();
            }
            (None, '\\') => match chars.next() {
                Some('\n') => line += 1,
                Some(next) => reader.push(next),
                None => {}
            },
            (None, '#') if reader.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            (None, '\n') => {
                reader.end_command(line);
                line += 1;
            }
            (None, '|' | ';' | '&') => reader.end_command(line),
            (None, c) if c.is_whitespace() => reader.end_word(line),
            (None, c) => reader.push(c),
        }
    }
    reader.end_command(line);
    reader.done
}

/// The words from `weir` on, if the command is one: behind `sudo`, `do`, `timeout 20`, `ssh HOST`. Redirections and what follows are left
/// out, and so is a path before the program's name.
pub(crate) fn weir(words: &[String]) -> Option<&[String]> {
    let mut rest = words;
    loop {
        rest = match rest.first().map(String::as_str)? {
            "sudo" | "do" | "then" | "exec" | "!" => &rest[1..],
            "timeout" | "ssh" => rest.get(2..)?,
            "weir" => break,
            _ => return None,
        };
    }
    let end =
        rest.iter().position(|word| word.starts_with('>') || word.starts_with("2>")).unwrap_or(rest.len());
    Some(&rest[..end])
}

#[test]
fn commands_are_found_as_a_shell_would() {
    let text = "weir a 'b c' # weir no\nx | sudo weir \\\n  d -e \"f g\" > out\nfor h in 1 2; do\n  ssh \"$h\" weir i; done\nsystemctl restart weir\n";
    let found = commands(text);
    let weirs: Vec<_> =
        found.iter().filter_map(|command| Some((command.line, weir(&command.words)?.join("|")))).collect();
    let expected = [(1, "weir|a|b c"), (2, "weir|d|-e|f g"), (5, "weir|i")];
    assert_eq!(weirs, expected.map(|(line, words)| (line, words.to_owned())));
}
