//! UTC time as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-09-02T08:00:00.123Z`.
pub fn iso8601(at: SystemTime) -> String {
    format(at, ':')
}

/// `2026-09-02T08-00-00.123`, as rotated files are named.
pub fn file_stamp(at: SystemTime) -> String {
    let mut text = format(at, '-');
    text.pop();
    text
}

fn format(at: SystemTime, between: char) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{h:02}{between}{m:02}{between}{s:02}.{ms:03}Z")
}

/// Days since 1970-01-01 as year, month, day. Counts in eras of 400 years that begin on 1 March, so that the leap day
/// is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_known_instants() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_788_336_000, "2026-09-02T08:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso8601(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(file_stamp(UNIX_EPOCH + Duration::from_millis(1_788_336_000_123)), "2026-09-02T08-00-00.123");
    }
}
