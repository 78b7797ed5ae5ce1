//! The cloud as the daemon sees it: a refused permission is told as an event (spec 03 §12.3), and in IMDS-only mode no
//! call leaves for EC2, whoever asks (spec 03 W-23).

use std::sync::Arc;

use reservoir_cloud::{BoxFuture, Cloud};
use reservoir_core::cloud::{Answer, CloudError, ErrorKind, Request};
use reservoir_kube::Kubernetes;

/// A cloud with these two rules before it.
pub struct Guarded {
    cloud: Arc<dyn Cloud>,
    kubernetes: Arc<dyn Kubernetes>,
    imds_only: bool,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("imds_only", &self.imds_only).finish_non_exhaustive()
    }
}

impl Guarded {
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, kubernetes: Arc<dyn Kubernetes>, imds_only: bool) -> Self {
        Self { cloud, kubernetes, imds_only }
    }

    async fn answer(&self, request: Request) -> Result<Answer, CloudError> {
        if self.imds_only && request.is_ec2() {
            return Err(CloudError {
                api: request.api(),
                kind: ErrorKind::Refused,
                code: String::new(),
                message: "not called: ENABLE_IMDS_ONLY_MODE is set".to_owned(),
            });
        }
        let result = self.cloud.call(request).await;
        if let Err(error) = &result
            && error.kind == ErrorKind::Unauthorized
        {
            let (kubernetes, api) = (self.kubernetes.clone(), error.api);
            // Nothing waits for it.
            tokio::spawn(async move {
                if let Err(error) = kubernetes.missing_permission(api).await {
                    tracing::debug!("no event tells of the missing permission for {api}: {error}");
                }
            });
        }
        result
    }
}

impl Cloud for Guarded {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, CloudError>> {
        Box::pin(self.answer(request))
    }
}

#[cfg(test)]
mod tests {
    use reservoir_kube::KubeConfig;
    use reservoir_kube::testing::{self, Objects};

    use super::*;

    /// Refuses everything.
    struct Unauthorized;

    impl Cloud for Unauthorized {
        fn call(&self, request: Request) -> BoxFuture<'_, Result<Answer, CloudError>> {
            let error = CloudError {
                api: request.api(),
                kind: ErrorKind::Unauthorized,
                code: "UnauthorizedOperation".to_owned(),
                message: "no".to_owned(),
            };
            Box::pin(async move { Err(error) })
        }
    }

    fn guarded(objects: &Objects, imds_only: bool) -> Guarded {
        let config = KubeConfig { pod_name: "aws-node-x".to_owned(), ..KubeConfig::default() };
        Guarded::new(Arc::new(Unauthorized), Arc::new(objects.cluster(&config)), imds_only)
    }

    #[tokio::test]
    async fn a_refused_permission_becomes_an_event() {
        let objects = Objects::new();
        let error = guarded(&objects, false).call(Request::DeleteNetworkInterface { eni: "eni-1".into() }).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::Unauthorized);
        let events = loop {
            let events = objects.all(&testing::events("kube-system"));
            if !events.is_empty() {
                break events;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(
            (&events[0]["action"], &events[0]["reason"]),
            (&"ec2:DeleteNetworkInterface".into(), &"MissingIAMPermissions".into())
        );
    }

    #[tokio::test]
    async fn nothing_leaves_for_ec2_in_imds_only_mode() {
        let objects = Objects::new();
        let guarded = guarded(&objects, true);
        let error = guarded.call(Request::DescribeNetworkInterfaces { ids: vec![] }).await.unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::Refused, "not called: ENABLE_IMDS_ONLY_MODE is set")
        );
        let error = guarded.call(Request::AttachedInterfaces).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthorized, "IMDS is asked");
    }
}
