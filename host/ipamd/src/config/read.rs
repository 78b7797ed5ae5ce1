//! From one variable to one typed value: what spec 05 §16 uses instead of a bad value, and the words that tell so.
//!
//! The better answers of W-17 and W-21 hold for all: an empty value is an unset one, and whatever is not used is told
//! once, with the variable, the value and what is used instead.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use reservoir_core::ip::Ipv4Net;

use super::environment::Environment;
use super::parse::{self, Expected};
use super::report::Report;

/// Reads variables and notes what was wrong with them.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    environment: &'a Environment,
    report: RefCell<Report>,
    names: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Reader<'a> {
    pub fn new(environment: &'a Environment) -> Self {
        Self { environment, report: RefCell::default(), names: RefCell::default() }
    }

    /// What was found, and the names that were asked for.
    pub fn finish(self) -> (Report, BTreeSet<&'static str>) {
        (self.report.into_inner(), self.names.into_inner())
    }

    pub fn environment(&self) -> &'a Environment {
        self.environment
    }

    pub fn warn(&self, name: &str, value: Option<&str>, message: impl Into<String>) {
        self.report.borrow_mut().warn(name, value, message);
    }

    pub fn fatal(&self, name: &str, value: Option<&str>, message: impl Into<String>) {
        self.report.borrow_mut().fatal(name, value, message);
    }

    /// The value as it stands, the empty one too.
    pub fn raw(&self, name: &'static str) -> Option<&'a str> {
        self.names.borrow_mut().insert(name);
        self.environment.get(name)
    }

    /// Text; empty = unset.
    pub fn text(&self, name: &'static str) -> Option<&'a str> {
        self.raw(name).filter(|v| !v.is_empty())
    }

    pub fn boolean(&self, name: &'static str, default: bool) -> bool {
        self.soft(name, default, parse::boolean)
    }

    /// A count of at least `minimum`.
    pub fn count(&self, name: &'static str, minimum: u32, default: u32) -> u32 {
        self.soft(name, default, |v| parse::decimal_from(v, minimum))
    }

    /// A count of at least 1; a bad one counts as unset.
    pub fn optional_count(&self, name: &'static str) -> Option<u32> {
        let value = self.text(name)?;
        parse::decimal_from(value, 1).map_err(|e| self.warn(name, Some(value), format!("{e}; it is ignored"))).ok()
    }

    /// A value of any kind; a bad one is told and the default used.
    pub fn soft<T: Display>(
        &self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Expected>,
    ) -> T {
        match self.text(name) {
            None => default,
            Some(value) => parse(value).unwrap_or_else(|e| {
                self.warn(name, Some(value), format!("{e}; the default {default} is used"));
                default
            }),
        }
    }

    /// A value of ours; a bad one keeps the daemon from starting.
    pub fn strict<T>(&self, name: &'static str, default: T, parse: impl FnOnce(&str) -> Result<T, Expected>) -> T {
        match self.text(name) {
            None => default,
            Some(value) => parse(value).unwrap_or_else(|e| {
                self.fatal(name, Some(value), format!("{e}; correct or remove it"));
                default
            }),
        }
    }

    pub fn cidrs(&self, name: &'static str) -> Vec<Ipv4Net> {
        let (good, bad) = parse::cidr_list(self.text(name).unwrap_or_default());
        for (item, e) in bad {
            self.warn(name, Some(&item), format!("{e}; this item is left out"));
        }
        good
    }

    pub fn string_map(&self, name: &'static str) -> BTreeMap<String, String> {
        match self.text(name).map(|v| (v, parse::string_map(v))) {
            None => BTreeMap::new(),
            Some((_, Ok(map))) => map,
            Some((value, Err(e))) => {
                self.warn(name, Some(value), format!("{e}; the whole variable is ignored"));
                BTreeMap::new()
            }
        }
    }
}
