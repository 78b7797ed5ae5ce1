//! How often a call is attempted.
//!
//! The SDK reads the two variables itself, but panics on what it cannot use; so they are read here, and the SDK is told.

use std::str::FromStr;

use aws_config::retry::{RetryConfig, RetryMode};

use crate::config::ConfigError;

/// As the process's environment says.
pub(crate) fn of_environment() -> Result<RetryConfig, ConfigError> {
    config(|name| std::env::var(name).ok())
}

/// Standard mode, 3 attempts, unless `AWS_RETRY_MODE` and `AWS_MAX_ATTEMPTS` say otherwise (spec 03 §1.4).
fn config(variable: impl Fn(&'static str) -> Option<String>) -> Result<RetryConfig, ConfigError> {
    let mut config = RetryConfig::standard();
    let (name, expected) = ("AWS_MAX_ATTEMPTS", "a whole number from 1 on, such as 3");
    if let Some(value) = variable(name).filter(|v| !v.is_empty()) {
        let attempts = value.trim().parse().ok().filter(|&n| n > 0);
        config = config.with_max_attempts(attempts.ok_or(ConfigError::Value { variable: name, value, expected })?);
    }
    let (name, expected) = ("AWS_RETRY_MODE", "standard or adaptive");
    if let Some(value) = variable(name).filter(|v| !v.is_empty()) {
        let mode = RetryMode::from_str(value.trim());
        config = config.with_retry_mode(mode.map_err(|_| ConfigError::Value { variable: name, value, expected })?);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> Result<RetryConfig, ConfigError> {
        config(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn values_are_used() {
        for (value, attempts) in [("1", 1), (" 7 ", 7), ("", 3)] {
            assert_eq!(with("AWS_MAX_ATTEMPTS", value).unwrap().max_attempts(), attempts);
        }
        assert_eq!(with("AWS_RETRY_MODE", "Adaptive").unwrap().mode(), RetryMode::Adaptive);
        assert_eq!(config(|_| None).unwrap().mode(), RetryMode::Standard);
    }

    #[test]
    fn nonsense_is_named() {
        for (name, value) in [
            ("AWS_MAX_ATTEMPTS", "0"),
            ("AWS_MAX_ATTEMPTS", "-1"),
            ("AWS_MAX_ATTEMPTS", "x"),
            ("AWS_RETRY_MODE", "legacy"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}={value:?}")), "{error}");
        }
    }
}
