//! `max_pods` where no API server tells it: the file `eni-max-pods.txt` (spec 01 §1.6, spec 02 §12.4).

/// Where the image has it.
pub const FILE: &str = "/app/eni-max-pods.txt";

/// What holds when the file does not tell.
pub const DEFAULT: u32 = 110;

/// Why the file does not tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("no line for instance type {0:?}")]
    NoLine(String),
    #[error("{instance_type} has {value:?}, which is not a number of pods")]
    NotANumber { instance_type: String, value: String },
}

/// The first line of two fields whose first is `instance_type`.
///
/// # Errors
/// There is none, or its second field is not a number. Callers use [`DEFAULT`] and say why.
pub fn of_file(content: &str, instance_type: &str) -> Result<u32, Unknown> {
    let value = content
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut fields = line.split_whitespace();
            let (name, value) = (fields.next()?, fields.next()?);
            (fields.next().is_none() && name == instance_type).then_some(value)
        })
        .ok_or_else(|| Unknown::NoLine(instance_type.to_owned()))?;
    super::parse::decimal_from(value, 0)
        .map_err(|_| Unknown::NotANumber { instance_type: instance_type.to_owned(), value: value.to_owned() })
}
