//! Reads a file's text, and what it includes through a function that is given: the syntax of SRS, its faults included where files rely on them.
//!
//! A directive stands on one line, from its name to its `;` or `{`. A quote counts at the beginning of a word only; there are no escapes; an
//! empty quoted word is dropped. `include` is replaced by what the files say, wherever it stands.

use super::directive::{Directive, Origin, Problem};
use std::sync::Arc;

/// The most bytes of a file and all that it includes.
const MAX_BYTES: usize = 1 << 20;
/// The most files that are included, one that is included twice counted twice.
const MAX_INCLUDES: usize = 256;
/// How deep blocks may lie within blocks and files within files, together.
const MAX_DEPTH: usize = 32;

/// Reads a text into the root of a tree. `load` gives the text of a file that is included, by the name that stands there.
pub fn parse(file: &str, text: &str, load: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<Directive, Problem> {
    let mut root = Directive::new("");
    let mut reader = Reader { load, bytes: 0, includes: 0, open: Vec::new() };
    reader.file(file, text, &mut root.children, 0)?;
    Ok(root)
}

struct Reader<'l> {
    load: &'l mut dyn FnMut(&str) -> Result<String, String>,
    bytes: usize,
    includes: usize,
    /// The files that are being read, each included by the one before.
    open: Vec<String>,
}

impl Reader<'_> {
    fn file(&mut self, name: &str, text: &str, into: &mut Vec<Directive>, depth: usize) -> Result<(), Problem> {
        self.bytes += text.len();
        let mut lines = Lexer { file: name.into(), text, at: 0, line: 1 };
        if self.bytes > MAX_BYTES {
            return Err(lines.problem("", format!("more than {MAX_BYTES} bytes, with what is included")));
        }
        self.open.push(name.to_owned());
        self.block(&mut lines, None, into, depth)?;
        self.open.pop();
        Ok(())
    }

    /// Reads up to the end of the file, or of the block that `opened` is about.
    fn block(
        &mut self,
        lines: &mut Lexer<'_>,
        opened: Option<(&str, &Origin)>,
        into: &mut Vec<Directive>,
        depth: usize,
    ) -> Result<(), Problem> {
        loop {
            let (mut words, ends, line) = match (lines.statement()?, opened) {
                (Statement::Words { words, ends, line }, _) => (words, ends, line),
                (Statement::BlockEnd, Some(_)) | (Statement::End, None) => return Ok(()),
                (Statement::BlockEnd, None) => return Err(lines.problem("", "a } that closes nothing")),
                (Statement::End, Some((name, origin))) => {
                    return Err(Problem { origin: origin.clone(), directive: name.to_owned(), message: "its block has no }".into() });
                }
            };
            let origin = Origin::File { file: lines.file.clone(), line };
            let name = words.remove(0);
            let fault = |message: String| Problem { origin: origin.clone(), directive: name.clone(), message };
            if depth >= MAX_DEPTH {
                return Err(fault(format!("nested more than {MAX_DEPTH} deep")));
            }
            if name == "include" {
                if ends == Ends::Block || words.is_empty() {
                    return Err(fault("is followed by names of files, and a ;".into()));
                }
                for path in &words {
                    self.include(path, into, depth + 1, &fault)?;
                }
                continue;
            }
            let mut directive = Directive { name, args: words, children: Vec::new(), origin };
            if ends == Ends::Block {
                self.block(lines, Some((&directive.name, &directive.origin)), &mut directive.children, depth + 1)?;
            }
            into.push(directive);
        }
    }

    fn include(&mut self, path: &str, into: &mut Vec<Directive>, depth: usize, fault: &dyn Fn(String) -> Problem) -> Result<(), Problem> {
        self.includes += 1;
        if self.includes > MAX_INCLUDES {
            return Err(fault(format!("more than {MAX_INCLUDES} files")));
        }
        if self.open.iter().any(|open| open == path) {
            return Err(fault(format!("{path:?} includes itself")));
        }
        let text = (self.load)(path).map_err(|error| fault(format!("{path:?}: {error}")))?;
        self.file(path, &text, into, depth)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Semicolon,
    Block,
}

enum Statement {
    /// At least one word.
    Words {
        words: Vec<String>,
        ends: Ends,
        line: usize,
    },
    BlockEnd,
    End,
}

struct Lexer<'t> {
    file: Arc<str>,
    text: &'t str,
    at: usize,
    line: usize,
}

impl Lexer<'_> {
    fn problem(&self, directive: &str, message: impl Into<String>) -> Problem {
        let origin = Origin::File { file: self.file.clone(), line: self.line };
        Problem { origin, directive: directive.to_owned(), message: message.into() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn statement(&mut self) -> Result<Statement, Problem> {
        let mut words: Vec<String> = Vec::new();
        let mut line = self.line;
        loop {
            let name = words.first().map_or("", String::as_str);
            match self.peek() {
                None if words.is_empty() => return Ok(Statement::End),
                None => return Err(self.problem(name, "the file ends before its ; or {")),
                Some(b'\n' | b'\r') if !words.is_empty() => return Err(self.problem(name, "the line ends before its ; or {")),
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => {
                    self.at += 1;
                    self.line += usize::from(byte == b'\n');
                }
                Some(b'#') => self.at = self.find(|byte| matches!(byte, b'\r' | b'\n')),
                Some(b'}') if words.is_empty() => {
                    self.at += 1;
                    return Ok(Statement::BlockEnd);
                }
                Some(b'}') => return Err(self.problem(name, "a } before its ; or {")),
                Some(byte @ (b';' | b'{')) => {
                    if words.is_empty() {
                        return Err(self.problem("", format!("a {} before any directive", char::from(byte))));
                    }
                    self.at += 1;
                    return Ok(Statement::Words { words, ends: if byte == b';' { Ends::Semicolon } else { Ends::Block }, line });
                }
                Some(_) => {
                    if words.is_empty() {
                        line = self.line;
                    }
                    let word = self.word().map_err(|message| self.problem(name, message))?;
                    words.extend(word);
                }
            }
        }
    }

    /// The place of the next byte like this, or the end.
    fn find(&self, wanted: impl Fn(u8) -> bool) -> usize {
        self.text.as_bytes()[self.at..].iter().position(|byte| wanted(*byte)).map_or(self.text.len(), |offset| self.at + offset)
    }

    /// A word; `None` for an empty one in quotes.
    fn word(&mut self) -> Result<Option<String>, String> {
        let ends_a_word = |byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{');
        let word = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => {
                self.at += 1;
                let end = self.find(|byte| byte == quote || matches!(byte, b'\r' | b'\n'));
                if self.text.as_bytes().get(end) != Some(&quote) {
                    return Err(format!("the line ends before its {}", char::from(quote)));
                }
                let word = &self.text[self.at..end];
                self.at = end + 1;
                if self.peek().is_some_and(|byte| !ends_a_word(byte)) {
                    return Err(format!("no space behind the quotes of {word:?}"));
                }
                word
            }
            _ => {
                let end = self.find(ends_a_word);
                let word = &self.text[self.at..end];
                self.at = end;
                word
            }
        };
        match word {
            _ if word.contains('\0') => Err("a zero byte".into()),
            _ if word.contains(char::REPLACEMENT_CHARACTER) => Err("a word that is not UTF-8".into()),
            _ => Ok(Some(word.to_owned()).filter(|word| !word.is_empty())),
        }
    }
}
