//! What the reference has and this release has not: the one place that says so at start.

use super::Config;
use super::read::Reader;

/// A mode that is asked for and not built.
struct Missing {
    variable: &'static str,
    wanted: fn(&Config) -> bool,
    message: &'static str,
}

const MISSING: &[Missing] = &[Missing {
    variable: "NETWORK_POLICY_ENFORCING_MODE",
    wanted: |c| c.datapath.network_policy_mode.as_deref().is_some_and(|m| !m.eq_ignore_ascii_case("none")),
    message: "network policies are not enforced in this release",
}];

pub(super) fn check(config: &Config, reader: &Reader<'_>) {
    for missing in MISSING.iter().filter(|m| (m.wanted)(config)) {
        reader.warn(missing.variable, reader.environment().get(missing.variable), missing.message);
    }
}
