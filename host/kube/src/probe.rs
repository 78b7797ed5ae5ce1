//! How long to wait for the API server at the start (spec 02 §11.8): the rules, and who follows them.

use std::time::Duration;

use tokio::time::Instant;

use crate::{KubeError, Kubernetes};

/// Whether the daemon can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// ENABLE_POD_ENI, custom networking or ANNOTATE_POD_IP is in use: as long as nobody answers, it waits.
    Required,
    Optional,
}

/// What follows from one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Reached,
    /// Once more, so long after this try began.
    Again(Duration),
    /// The daemon goes on without, and keeps asking behind.
    GoOn,
    GiveUp,
}

/// Between tries where it is required.
const REQUIRED_PERIOD: Duration = Duration::from_secs(2);
/// Between tries where it is optional, and behind a daemon that goes on without.
const OPTIONAL_PERIOD: Duration = Duration::from_secs(5);
/// How long an optional one is waited for.
const OPTIONAL_LIMIT: Duration = Duration::from_secs(30);

/// `began`: how long after the first try this one began.
#[must_use]
pub fn verdict(need: Need, began: Duration, outcome: &Result<(), KubeError>) -> Verdict {
    match (need, outcome) {
        (_, Ok(())) => Verdict::Reached,
        (Need::Required, Err(KubeError::TimedOut { .. })) => Verdict::Again(REQUIRED_PERIOD),
        (Need::Required, Err(_)) => Verdict::GiveUp,
        // There is nobody to come back.
        (Need::Optional, Err(KubeError::Unconfigured(_))) => Verdict::GoOn,
        (Need::Optional, Err(_)) if began + OPTIONAL_PERIOD <= OPTIONAL_LIMIT => Verdict::Again(OPTIONAL_PERIOD),
        (Need::Optional, Err(_)) => Verdict::GoOn,
    }
}

/// Asks until the rules say what to do. True: it answers; false: go on without.
///
/// # Errors
/// It is required and there is no use in waiting for it.
pub async fn reach(kubernetes: &dyn Kubernetes, need: Need) -> Result<bool, KubeError> {
    let first = Instant::now();
    let mut told = false;
    loop {
        let began = Instant::now();
        let outcome = kubernetes.version().await;
        match (verdict(need, began - first, &outcome), outcome) {
            (Verdict::Reached, _) => return Ok(true),
            (Verdict::GiveUp, Err(error)) => return Err(error),
            (Verdict::Again(period), Err(error)) => {
                if !told {
                    told = true;
                    tracing::warn!("waiting for the API server: {error}");
                }
                tokio::time::sleep_until(began + period).await;
            }
            (_, outcome) => {
                if let Err(error) = outcome {
                    tracing::warn!("going on without the API server: {error}");
                }
                return Ok(false);
            }
        }
    }
}

/// Ends when the API server answers.
pub async fn come_back(kubernetes: &dyn Kubernetes) {
    loop {
        let began = Instant::now();
        match kubernetes.version().await {
            Ok(()) => return,
            Err(KubeError::Unconfigured(_)) => std::future::pending().await,
            Err(error) => tracing::debug!("still no API server: {error}"),
        }
        tokio::time::sleep_until(began + OPTIONAL_PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_outs_are_waited_for_where_it_is_required() {
        // Spec 02 §11.8, first row.
        let late = Err(KubeError::TimedOut { what: "/version".into(), seconds: 5 });
        let hour = Duration::from_secs(3600);
        assert_eq!(verdict(Need::Required, hour, &late), Verdict::Again(Duration::from_secs(2)));
        for error in [
            KubeError::Unreachable { what: "/version".into(), message: "connection refused".into() },
            KubeError::Denied { what: "/version".into(), message: "401".into() },
            KubeError::Refused { what: "/version".into(), code: 503, message: String::new() },
            KubeError::Unconfigured("nobody to ask".into()),
        ] {
            assert_eq!(verdict(Need::Required, Duration::ZERO, &Err(error)), Verdict::GiveUp);
        }
        assert_eq!(verdict(Need::Required, hour, &Ok(())), Verdict::Reached);
    }

    #[test]
    fn half_a_minute_is_waited_where_it_is_optional() {
        // Spec 02 §11.8, second row.
        let refused = Err(KubeError::Unreachable { what: "/version".into(), message: "connection refused".into() });
        for (began, verdict_is) in [
            (0, Verdict::Again(Duration::from_secs(5))),
            (25, Verdict::Again(Duration::from_secs(5))),
            (26, Verdict::GoOn),
            (30, Verdict::GoOn),
        ] {
            assert_eq!(verdict(Need::Optional, Duration::from_secs(began), &refused), verdict_is, "{began}");
        }
        let nobody = Err(KubeError::Unconfigured("nobody to ask".into()));
        assert_eq!(verdict(Need::Optional, Duration::ZERO, &nobody), Verdict::GoOn);
        assert_eq!(verdict(Need::Optional, Duration::ZERO, &Ok(())), Verdict::Reached);
    }
}
