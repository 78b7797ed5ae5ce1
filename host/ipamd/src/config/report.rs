//! All that is wrong with the environment, told together.

use std::fmt;

/// What a problem means for the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The daemon starts and uses what the message says.
    Warn,
    /// The daemon does not start: exit code 1.
    Fatal,
}

/// One problem: the variable, its value, what is wrong, and what is used instead or what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub level: Level,
    pub variable: String,
    /// None where the variable is unset, or the problem is one of several together.
    pub value: Option<String>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: {}", self.variable, self.message),
            None => write!(f, "{}: {}", self.variable, self.message),
        }
    }
}

/// Problems in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
}

impl Report {
    pub fn warn(&mut self, variable: &str, value: Option<&str>, message: impl Into<String>) {
        self.push(Level::Warn, variable, value, message);
    }

    pub fn fatal(&mut self, variable: &str, value: Option<&str>, message: impl Into<String>) {
        self.push(Level::Fatal, variable, value, message);
    }

    fn push(&mut self, level: Level, variable: &str, value: Option<&str>, message: impl Into<String>) {
        self.problems.push(Problem {
            level,
            variable: variable.to_owned(),
            value: value.map(str::to_owned),
            message: message.into(),
        });
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether the daemon must not start.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.problems.iter().any(|p| p.level == Level::Fatal)
    }

    /// Logs every problem, warnings as such and fatal ones as errors.
    pub fn log(&self) {
        for problem in &self.problems {
            match problem.level {
                Level::Warn => tracing::warn!(variable = %problem.variable, "{problem}"),
                Level::Fatal => tracing::error!(variable = %problem.variable, "{problem}"),
            }
        }
    }
}

/// One line per problem, fatal ones last.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (warnings, errors): (Vec<_>, Vec<_>) = self.problems.iter().partition(|p| p.level == Level::Warn);
        for (word, problems) in [("warning", warnings), ("error", errors)] {
            for problem in problems {
                writeln!(f, "{word}: {problem}")?;
            }
        }
        Ok(())
    }
}
