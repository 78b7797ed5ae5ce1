//! The reference's series about API calls (spec 02 §9.2, spec 03 §12.1), through the `metrics` facade.

use std::time::Duration;

use metrics::{counter, histogram};

/// A finished call: its wall time with the SDK's retries, and the error code, which is empty where there was no answer.
pub(crate) fn latency(api: &'static str, elapsed: Duration, error: Option<&str>) {
    let status = error.map_or_else(|| "200".to_owned(), str::to_owned);
    let failed = if error.is_some() { "true" } else { "false" };
    // Whole milliseconds, as the reference records them.
    histogram!("awscni_aws_api_latency_ms", "api" => api, "error" => failed, "status" => status)
        .record(elapsed.as_millis() as f64);
}

/// A call that failed with an API error.
pub(crate) fn api_error(api: &'static str, code: &str) {
    counter!("awscni_aws_api_error_count", "api" => api, "error" => code.to_owned()).increment(1);
}

/// One EC2 call, however many attempts the SDK makes.
pub(crate) fn ec2_request(name: &'static str) {
    counter!("awscni_ec2api_req_count", "fn" => name).increment(1);
}

/// An EC2 call whose failure is not an answer in itself.
pub(crate) fn ec2_error(name: &'static str) {
    counter!("awscni_ec2api_error_count", "fn" => name).increment(1);
}
