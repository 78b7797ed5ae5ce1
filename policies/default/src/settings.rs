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
    /// `fall-back-to-ips`: `false` (default) or `true`. In prefix mode, whether single IPs are asked for where the
    /// subnet has no free /28 left.
    pub fall_back_to_ips: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { defects: Defects::Fixed, count_cooling: true, fall_back_to_ips: false }
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
            match key.as_str() {
                "defects" => {
                    settings.defects = match value.as_str() {
                        "fixed" => Defects::Fixed,
                        "reference" => Defects::Reference,
                        _ => return Err(refusal(key, value, "\"fixed\" or \"reference\"")),
                    }
                }
                "count-cooling" => settings.count_cooling = yes_or_no(key, value)?,
                "fall-back-to-ips" => settings.fall_back_to_ips = yes_or_no(key, value)?,
                _ => return Err(["unknown setting \"", key, "\": the built-in policy knows ", KNOWN].concat()),
            }
        }
        Ok(settings)
    }
}

const KNOWN: &str = "defects, count-cooling and fall-back-to-ips";

fn yes_or_no(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refusal(key, value, "\"true\" or \"false\"")),
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
        let nothing_set = Settings { defects: Defects::Fixed, count_cooling: true, fall_back_to_ips: false };
        assert_eq!(parse(&[]), Ok(nothing_set));
        assert_eq!(
            parse(&[("defects", "fixed"), ("count-cooling", "true"), ("fall-back-to-ips", "false")]),
            Ok(nothing_set)
        );
        assert_eq!(
            parse(&[("count-cooling", "false"), ("defects", "reference"), ("fall-back-to-ips", "true")]),
            Ok(Settings { defects: Defects::Reference, count_cooling: false, fall_back_to_ips: true })
        );
    }

    #[test]
    fn names_what_it_does_not() {
        assert_eq!(
            parse(&[("defect", "reference")]).unwrap_err(),
            "unknown setting \"defect\": the built-in policy knows defects, count-cooling and fall-back-to-ips"
        );
        assert_eq!(
            parse(&[("defects", "yes")]).unwrap_err(),
            "setting defects = \"yes\": set \"fixed\" or \"reference\""
        );
        assert_eq!(
            parse(&[("count-cooling", "")]).unwrap_err(),
            "setting count-cooling = \"\": set \"true\" or \"false\""
        );
        assert_eq!(
            parse(&[("fall-back-to-ips", "1")]).unwrap_err(),
            "setting fall-back-to-ips = \"1\": set \"true\" or \"false\""
        );
    }
}
