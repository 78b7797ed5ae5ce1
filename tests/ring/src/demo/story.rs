//! What is printed: headings, commands, claims. A claim is printed only with what was found.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;

#[derive(Debug)]
pub struct Story {
    started: Instant,
    colours: bool,
    step: u32,
    heading: String,
    claims: u32,
    /// Claims that do not hold, and the step that ended early.
    not_shown: Vec<String>,
    interrupt: Interrupt,
}

impl Story {
    pub fn new(interrupt: Interrupt) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            started: Instant::now(),
            colours,
            step: 0,
            heading: "the start".to_owned(),
            claims: 0,
            not_shown: Vec::new(),
            interrupt,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line of the story. Where nobody reads any more (`demo | head`), the demo ends as with Ctrl-C.
    fn say(&self, line: &str) {
        if writeln!(std::io::stdout(), "{line}").is_err() {
            self.interrupt.set();
        }
    }

    pub fn title(&self, text: &str) {
        self.say(&self.paint("1", text));
    }

    /// Begins a step.
    ///
    /// # Errors
    /// Ctrl-C came.
    pub fn step(&mut self, heading: &str) -> Result<()> {
        self.go_on()?;
        self.step += 1;
        heading.clone_into(&mut self.heading);
        let clock = format!("[{:5.1} s]", self.started.elapsed().as_secs_f64());
        let heading = self.paint("1", &format!("{}. {heading}", self.step));
        self.say(&format!("\n{heading}  {}", self.paint("2", &clock)));
        Ok(())
    }

    /// # Errors
    /// Ctrl-C came.
    pub fn go_on(&self) -> Result<()> {
        if self.interrupt.came() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// What is run.
    pub fn command(&self, text: impl Display) {
        self.say(&format!("   {}", self.paint("36", &format!("$ {text}"))));
    }

    pub fn note(&self, text: &str) {
        self.say(&format!("   {}", self.paint("2", text)));
    }

    /// A claim, whether it holds, and what was found. After Ctrl-C nothing is said against a claim.
    pub fn claim(&mut self, holds: bool, claim: &str, found: impl Display) {
        if !holds && self.interrupt.came() {
            return;
        }
        self.claims += 1;
        let found = found.to_string();
        let found = if found.is_empty() { found } else { format!(": {found}") };
        if holds {
            self.say(&format!("   {} {claim}{found}", self.paint("32", "✓")));
        } else {
            self.say(&format!("   {} {}{found}", self.paint("31", "✗ NOT SHOWN:"), claim));
            self.not_shown.push(claim.to_owned());
        }
    }

    /// A claim whose evidence may be missing.
    pub fn claim_of(&mut self, claim: &str, evidence: Result<(bool, String)>) {
        match evidence {
            Ok((holds, found)) => self.claim(holds, claim, found),
            Err(error) => self.claim(false, claim, format!("{error:#}")),
        }
    }

    /// The step could not go on.
    pub fn failed(&mut self, error: &anyhow::Error) {
        self.say(&format!("   {} {error:#}", self.paint("31", "✗")));
        self.not_shown.push(format!("step {} ({}) ended early, and what comes after it", self.step, self.heading));
    }

    /// The last line. True if all was shown.
    pub fn end(&self, summary: &str) -> bool {
        let took = self.started.elapsed().as_secs();
        if self.not_shown.is_empty() {
            let line = format!("demo: shown in {took} s, {} claims checked: {summary}", self.claims);
            self.say(&format!("\n{}", self.paint("1;32", &line)));
            return true;
        }
        let line = format!(
            "demo: NOT shown, {} of {} claims: {}",
            self.not_shown.len(),
            self.claims.max(1),
            self.not_shown.join("; ")
        );
        self.say(&format!("\n{}", self.paint("1;31", &line)));
        false
    }
}
