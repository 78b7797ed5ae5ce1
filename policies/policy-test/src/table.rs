//! Columns for people.

/// Rows of cells; the first row is the heading. Cells that are numbers stand right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(|&h| h.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let width = |i| self.rows.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numeric = |i: usize| {
            let mut body = self.rows.iter().skip(1).map(|row| cell(row, i)).peekable();
            body.peek().is_some() && body.all(|c| c.starts_with(|c: char| c.is_ascii_digit()) || c == "-")
        };
        let right: Vec<bool> = (0..columns).map(numeric).collect();
        for row in &self.rows {
            let mut line = String::new();
            for i in 0..columns {
                let gap = if i == 0 { "" } else { "  " };
                let cell = cell(row, i);
                let width = widths[i];
                line += &if right[i] { format!("{gap}{cell:>width$}") } else { format!("{gap}{cell:<width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let mut table = Table::new(&["name", "n"]);
        table.row(vec!["a".into(), "5".into()]);
        table.row(vec!["bcdef".into(), "1234".into()]);
        assert_eq!(table.to_string(), "name      n\na         5\nbcdef  1234\n");
    }
}
