//! The Prometheus text format, version 0.0.4, for what the exporter does not write.

use std::fmt::{Display, Write as _};

use super::family::Family;

/// `# HELP` and `# TYPE`.
pub fn header(out: &mut String, family: &Family) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", family.name, family.help, family.name, family.kind.word());
}

/// One sample; `suffix` is empty or such as `_sum`.
pub fn sample<'a>(
    out: &mut String,
    family: &Family,
    suffix: &str,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    value: impl Display,
) {
    let _ = write!(out, "{}{suffix}", family.name);
    let mut open = '{';
    for (name, text) in labels {
        let _ = write!(out, "{open}{name}=\"");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
        open = ',';
    }
    if open == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// An unlabelled family of one sample.
pub fn single(out: &mut String, family: &Family, value: impl Display) {
    header(out, family);
    sample(out, family, "", [], value);
}
