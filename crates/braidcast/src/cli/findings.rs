//! What `braidcast check` and `braidcast doctor` find: good or bad, in a sentence, and what mends it.

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// The server runs, with less than it could have.
    Warn,
    /// The server does not start, or does not do what it is there for.
    Error,
}

impl Verdict {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found: `topic: what`.
    pub said: String,
    /// A command that mends it.
    pub mend: Option<String>,
}

/// All of it, in the order of looking.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Adds one.
    pub fn add(&mut self, verdict: Verdict, finding: impl Into<String>) {
        self.0.push(Finding { verdict, said: finding.into(), mend: None });
    }

    /// What mends the one that was added last.
    pub fn mend(&mut self, command: impl Into<String>) {
        if let Some(last) = self.0.last_mut() {
            last.mend = Some(command.into());
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Finding] {
        &self.0
    }

    /// As above, for another judgement.
    pub fn all_mut(&mut self) -> &mut [Finding] {
        &mut self.0
    }

    /// Whether there is an error among them.
    pub fn failed(&self) -> bool {
        self.0.iter().any(|finding| finding.verdict == Verdict::Error)
    }
}
