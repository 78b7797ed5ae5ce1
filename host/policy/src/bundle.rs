//! A component and its settings: one unit, loaded together or not at all.

use std::collections::BTreeMap;

use reservoir_core::policy::Pairs;

use crate::digest::Digest;

/// Settings with this prefix are for the built-in component.
pub const BUILT_IN_PREFIX: &str = "builtin.";

/// What an operator gave: what the policy directory holds, or a command line.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The custom component's bytes. Without it the built-in one decides everything.
    pub component: Option<Vec<u8>>,
    /// By name.
    pub settings: BTreeMap<String, String>,
    /// The component must have this SHA-256: what `policy.wasm.sha256` says.
    pub pin: Option<Digest>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("component", &self.component.as_ref().map(|bytes| format!("{} bytes", bytes.len())))
            .field("settings", &self.settings)
            .field("pin", &self.pin)
            .finish()
    }
}

/// Settings sorted out by whom they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) custom: Pairs,
    pub(crate) built_in: Pairs,
}

impl Settings {
    /// Without a custom component all are for the built-in one, with or without the prefix; with wins.
    pub(crate) fn of(settings: &BTreeMap<String, String>, has_custom: bool) -> Settings {
        let (mut custom, mut built_in) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in settings {
            if let Some(key) = key.strip_prefix(BUILT_IN_PREFIX) {
                built_in.insert(key.to_owned(), value.clone());
            } else if has_custom {
                custom.insert(key.clone(), value.clone());
            } else {
                built_in.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Settings { custom: custom.into_iter().collect(), built_in: built_in.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Pairs {
        all.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn prefix_tells_whom_a_setting_is_for() {
        let all: BTreeMap<_, _> =
            pairs(&[("target", "12"), ("builtin.defects", "reference"), ("defects", "no")]).into_iter().collect();
        let with = Settings::of(&all, true);
        assert_eq!(with.custom, pairs(&[("defects", "no"), ("target", "12")]));
        assert_eq!(with.built_in, pairs(&[("defects", "reference")]));
        let without = Settings::of(&all, false);
        assert_eq!(without.custom, []);
        assert_eq!(without.built_in, pairs(&[("defects", "reference"), ("target", "12")]));
    }

    #[test]
    fn prefixed_setting_wins_whatever_the_order() {
        for other in ["a", "z"] {
            let key = format!("{BUILT_IN_PREFIX}{other}");
            let all = BTreeMap::from([(key, "prefixed".to_owned()), (other.to_owned(), "plain".to_owned())]);
            assert_eq!(Settings::of(&all, false).built_in, pairs(&[(other, "prefixed")]));
        }
    }
}
