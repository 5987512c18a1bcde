//! The tree that a file comes to: directives with arguments and blocks, each knowing where it was written; and the way back to text.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Where a directive comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, from 1; 0 for the file as a whole.
    File {
        /// As it was named.
        file: Arc<str>,
        /// Its line.
        line: usize,
    },
    /// An environment variable that goes before what the file says.
    Variable(Arc<str>),
    /// Nobody wrote it.
    Made,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: 0 } => f.write_str(file),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Made => f.write_str("generated"),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// Of which directive; empty if it is of none.
    pub directive: String,
    /// What.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.directive.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.message),
            directive => write!(f, "{}: {directive}: {}", self.origin, self.message),
        }
    }
}

/// All that is wrong. Never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A directive. SRS makes no difference between an empty block and none, and neither does this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Its name; empty for the root of a tree.
    pub name: String,
    /// What stands behind the name.
    pub args: Vec<String>,
    /// What stands in its block.
    pub children: Vec<Directive>,
    /// Where it was written.
    pub origin: Origin,
}

impl Directive {
    /// One without arguments that nobody wrote.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), args: Vec::new(), children: Vec::new(), origin: Origin::Made }
    }

    /// The first argument, or nothing.
    pub(super) fn arg(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// Whether its argument is `on`.
    pub(super) fn is_on(&self) -> bool {
        self.arg() == "on"
    }

    /// The directive at a path of names with dots. Of several of one name the first counts, as in SRS.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |parent, name| parent.children.iter().find(|child| child.name == name))
    }

    /// As [`Directive::at`], its first argument if it is not empty.
    pub(super) fn value(&self, path: &str) -> Option<&str> {
        self.at(path).map(Self::arg).filter(|arg| !arg.is_empty())
    }

    /// Whether a switch is on that is off unless somebody says so.
    pub(super) fn on(&self, path: &str) -> bool {
        self.at(path).is_some_and(Self::is_on)
    }

    /// The first child of a name; one is made if there is none.
    pub(super) fn child(&mut self, name: &str) -> &mut Self {
        let index = self.children.iter().position(|child| child.name == name).unwrap_or_else(|| {
            self.children.push(Self::new(name));
            self.children.len() - 1
        });
        &mut self.children[index]
    }

    /// Says the arguments of the directive at a path; blocks on the way are made.
    pub(super) fn set(&mut self, path: &str, args: Vec<String>, origin: &Origin) {
        let made = Origin::Made;
        let mut here = self;
        for name in path.split('.') {
            here = here.child(name);
            if here.origin == made {
                here.origin.clone_from(origin);
            }
        }
        if here.args != args {
            here.args = args;
            here.origin.clone_from(origin);
        }
    }

    /// Takes away all directives at a path.
    pub(super) fn remove(&mut self, path: &str) {
        match path.split_once('.') {
            Some((name, rest)) => {
                if let Some(child) = self.children.iter_mut().find(|child| child.name == name) {
                    child.remove(rest);
                }
            }
            None => self.children.retain(|child| child.name != path),
        }
    }

    /// The virtual hosts that are not turned off. Of two with one name SRS looks at the first alone.
    pub(super) fn vhosts(&self) -> Vec<&Self> {
        let mut seen = HashSet::new();
        let vhosts = self.children.iter().filter(|child| child.name == "vhost" && seen.insert(child.arg()));
        vhosts.filter(|vhost| vhost.value("enabled") != Some("off")).collect()
    }
}

/// Directives as text that SRS reads. The error is an argument that its syntax has no way to say.
pub fn print(directives: &[Directive]) -> Result<String, String> {
    let mut out = String::new();
    print_block(directives, 0, &mut out)?;
    Ok(out)
}

fn print_block(directives: &[Directive], depth: usize, out: &mut String) -> Result<(), String> {
    for directive in directives {
        out.extend(std::iter::repeat_n("    ", depth));
        out.push_str(&word(&directive.name)?);
        for arg in &directive.args {
            out.push(' ');
            out.push_str(&word(arg)?);
        }
        if directive.children.is_empty() {
            out.push_str(";\n");
            continue;
        }
        out.push_str(" {\n");
        print_block(&directive.children, depth + 1, out)?;
        out.extend(std::iter::repeat_n("    ", depth));
        out.push_str("}\n");
    }
    Ok(())
}

/// A word, in quotes if it needs them. There are no escapes.
fn word(text: &str) -> Result<String, String> {
    let ends_a_word = |c: char| matches!(c, ' ' | '\t' | ';' | '{');
    let bare = !text.starts_with(['#', '"', '\'', '}']) && !text.contains(ends_a_word);
    match text {
        _ if text.is_empty() || text.contains(['\r', '\n', '\0']) => Err(format!("{text:?} cannot be said in a file of SRS")),
        _ if bare => Ok(text.to_owned()),
        _ if !text.contains('"') => Ok(format!("\"{text}\"")),
        _ if !text.contains('\'') => Ok(format!("'{text}'")),
        _ => Err(format!("{text:?} has both kinds of quotes, which cannot be said in a file of SRS")),
    }
}
