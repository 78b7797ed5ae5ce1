//! What an operator can set for the built-in policy.

use reservoir_policy_sdk::Pairs;

/// How the known defects of the reference (spec 01 §13.1) are dealt with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Defects {
    /// Mended, as the "better" column there says.
    #[default]
    Fixed,
    /// Kept (W2, W3, W4, W5, W13): the answers of the reference, for comparing the two.
    Reference,
}

/// The settings of the built-in policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `defects`: `fixed` (default) or `reference`.
    pub defects: Defects,
    /// `count-cooling`: `true` (default) or `false`. Whether IPs that cool count as free, as the documented targets do;
    /// `false` keeps so many IPs free that can be given out at once.
    pub count_cooling: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { defects: Defects::Fixed, count_cooling: true }
    }
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// A key that is not known, or a value that makes no sense for its key, with what would.
    pub fn parse(pairs: &Pairs) -> Result<Self, String> {
        let mut settings = Self::default();
        for (key, value) in pairs {
            match (key.as_str(), value.as_str()) {
                ("defects", "fixed") => settings.defects = Defects::Fixed,
                ("defects", "reference") => settings.defects = Defects::Reference,
                ("count-cooling", "true") => settings.count_cooling = true,
                ("count-cooling", "false") => settings.count_cooling = false,
                ("defects", _) => return Err(refusal(key, value, "\"fixed\" or \"reference\"")),
                ("count-cooling", _) => return Err(refusal(key, value, "\"true\" or \"false\"")),
                _ => {
                    return Err(
                        ["unknown setting \"", key, "\": the built-in policy knows defects and count-cooling"].concat()
                    );
                }
            }
        }
        Ok(settings)
    }
}

fn refusal(key: &str, value: &str, wanted: &str) -> String {
    ["setting ", key, " = \"", value, "\": set ", wanted].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn reads_what_it_knows() {
        assert_eq!(parse(&[]), Ok(Settings { defects: Defects::Fixed, count_cooling: true }));
        assert_eq!(
            parse(&[("count-cooling", "false"), ("defects", "reference")]),
            Ok(Settings { defects: Defects::Reference, count_cooling: false })
        );
    }

    #[test]
    fn names_what_it_does_not() {
        assert_eq!(
            parse(&[("defect", "reference")]).unwrap_err(),
            "unknown setting \"defect\": the built-in policy knows defects and count-cooling"
        );
        assert_eq!(
            parse(&[("defects", "yes")]).unwrap_err(),
            "setting defects = \"yes\": set \"fixed\" or \"reference\""
        );
        assert_eq!(
            parse(&[("count-cooling", "")]).unwrap_err(),
            "setting count-cooling = \"\": set \"true\" or \"false\""
        );
    }
}
