//! Calendar dates without a clock.

/// RFC 3339 in UTC, second precision: `2026-08-20T22:15:01Z`.
#[must_use]
pub fn rfc3339(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970-01-01.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

/// RFC 3339 in UTC with as many digits of the second as it takes, at most nine.
#[must_use]
pub fn rfc3339_nanos(unix: std::time::Duration) -> String {
    let mut text = rfc3339(unix.as_secs());
    if unix.subsec_nanos() > 0 {
        let fraction = format!("{:09}", unix.subsec_nanos());
        text.pop();
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
        text.push('Z');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{rfc3339, rfc3339_nanos};

    #[test]
    fn fractions_end_with_their_last_digit() {
        let at = |nanos| rfc3339_nanos(std::time::Duration::new(0, nanos));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(120_000_000), "1970-01-01T00:00:00.12Z");
        assert_eq!(at(1), "1970-01-01T00:00:00.000000001Z");
    }

    #[test]
    fn known_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_787_264_101), "2026-08-20T22:15:01Z");
        assert_eq!(rfc3339(4_102_444_800), "2100-01-01T00:00:00Z");
    }
}
