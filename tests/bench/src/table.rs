//! Rows, what they are judged by, and how they are printed.

use std::fmt;

use serde::Serialize;

/// What a figure must hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// So much above the floor of the same run.
    AboveFloor(f64),
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The group, as on the command line.
    pub group: &'static str,
    pub figure: String,
    pub unit: &'static str,
    /// What the floor or the peer is, and its value.
    pub floor: Option<(String, f64)>,
    /// The reference's, measured once on a machine of this size.
    pub reference: &'static str,
    pub ours: Option<f64>,
    /// All must hold; without any the row only informs.
    pub goals: Vec<Goal>,
    /// Why there is no figure.
    pub skipped: Option<String>,
    /// None: there is nothing to judge.
    pub met: Option<bool>,
}

impl Row {
    #[must_use]
    pub fn new(group: &'static str, figure: impl Into<String>, unit: &'static str, ours: Option<f64>) -> Self {
        Self {
            group,
            figure: figure.into(),
            unit,
            floor: None,
            reference: "",
            ours,
            goals: Vec::new(),
            skipped: ours.is_none().then(|| "nothing was measured".to_owned()),
            met: None,
        }
    }

    #[must_use]
    pub fn skipped(group: &'static str, figure: &str, why: &str) -> Self {
        let mut row = Self::new(group, figure, "", None);
        row.skipped = Some(why.split_whitespace().collect::<Vec<_>>().join(" "));
        row
    }

    #[must_use]
    pub fn floor(mut self, what: impl Into<String>, value: Option<f64>) -> Self {
        self.floor = value.map(|v| (what.into(), v));
        self
    }

    #[must_use]
    pub fn reference(mut self, text: &'static str) -> Self {
        self.reference = text;
        self
    }

    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    fn judge(&self) -> Option<bool> {
        let ours = self.ours?;
        let holds = |goal: &Goal| match *goal {
            Goal::AtMost(most) => Some(ours <= most),
            Goal::AtLeast(least) => Some(ours >= least),
            Goal::AboveFloor(most) => self.floor.as_ref().map(|(_, floor)| ours <= floor + most),
        };
        if self.goals.is_empty() {
            None
        } else {
            self.goals.iter().map(holds).collect::<Option<Vec<_>>>().map(|all| all.iter().all(|h| *h))
        }
    }

    fn verdict(&self) -> String {
        match (&self.skipped, self.met) {
            (Some(why), _) => format!("skipped: {why}"),
            (None, Some(true)) => "met".to_owned(),
            (None, Some(false)) => "MISSED".to_owned(),
            (None, None) => String::new(),
        }
    }

    fn goal_text(&self) -> String {
        let one = |goal: &Goal| match *goal {
            Goal::AtMost(most) => format!("≤ {}", number(most)),
            Goal::AtLeast(least) => format!("≥ {}", number(least)),
            Goal::AboveFloor(most) => format!("≤ floor + {}", number(most)),
        };
        self.goals.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// All rows, in the order of measurement.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    pub fn push(&mut self, mut row: Row) {
        row.met = row.judge();
        self.0.push(row);
    }

    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
    }
}

/// Three significant digits, and no fraction from 100 on.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == v.trunc() => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines =
            vec![["figure", "unit", "floor or peer, same run", "reference", "ours", "goal", ""].map(str::to_owned)];
        for row in &self.0 {
            let floor = row.floor.as_ref().map(|(what, value)| format!("{} {what}", number(*value)));
            lines.push([
                row.figure.clone(),
                row.unit.to_owned(),
                floor.unwrap_or_default(),
                row.reference.to_owned(),
                row.ours.map(number).unwrap_or_default(),
                row.goal_text(),
                row.verdict(),
            ]);
        }
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (i, line) in lines.iter().enumerate() {
            let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
            if i == 0 {
                writeln!(f, "{}", widths.map(|w| "-".repeat(w)).join("  ").trim_end())?;
            }
        }
        let count = |met| self.0.iter().filter(|r| r.skipped.is_none() && r.met == Some(met)).count();
        let skipped = self.0.iter().filter(|r| r.skipped.is_some()).count();
        writeln!(f, "\n{} met, {} missed, {skipped} skipped", count(true), count(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judged_by_all_goals() {
        let row = |ours, goals: &[Goal]| {
            let row = Row::new("x", "x", "ms", ours).floor("f", Some(5.0));
            goals.iter().fold(row, |row, goal| row.goal(*goal)).judge()
        };
        let both = [Goal::AboveFloor(3.0), Goal::AtMost(7.0)];
        assert_eq!(row(Some(6.5), &both), Some(true));
        assert_eq!(row(Some(7.5), &both), Some(false));
        assert_eq!(row(Some(9.0), &[Goal::AtLeast(10.0)]), Some(false));
        assert_eq!(row(Some(9.0), &[]), None);
        assert_eq!(row(None, &both), None);
    }

    #[test]
    fn a_missing_floor_is_not_a_goal_met() {
        let row = Row::new("x", "x", "ms", Some(1.0)).floor("f", None).goal(Goal::AboveFloor(3.0));
        assert_eq!(row.judge(), None);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.56, 0.0391, 12.34, 12_345.6, 8.0].map(number), ["0", "0.56", "0.039", "12.3", "12346", "8"]);
    }

    #[test]
    fn what_was_skipped_says_why() {
        let mut table = Table::default();
        table.push(Row::skipped("add", "plugin ADD", "needs root"));
        let text = table.to_string();
        assert!(text.contains("skipped: needs root") && text.ends_with("0 met, 0 missed, 1 skipped\n"), "{text}");
    }
}
