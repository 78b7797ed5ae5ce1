//! Events on the daemon's own pod (spec 03 §12.3, spec 02 §11.6).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use tokio::sync::OnceCell;

use crate::KubeError;

/// Where the daemon runs.
const NAMESPACE: &str = "kube-system";
/// Who reports.
const CONTROLLER: &str = "aws-node";
/// One API is reported at most once in this time: a node asks EC2 again and again.
const GAP: Duration = Duration::from_secs(60);

/// Writes events. A repeated one is counted in the event that is there, for some minutes.
pub(crate) struct Events {
    client: Client,
    recorder: Recorder,
    pod: String,
    /// The pod's uid, once it could be read (W32): events are found by it.
    uid: OnceCell<String>,
    told: Mutex<HashMap<String, Instant>>,
}

impl Events {
    pub(crate) fn new(client: Client, pod: &str) -> Self {
        let instance = Some(pod.to_owned()).filter(|p| !p.is_empty());
        let recorder = Recorder::new(client.clone(), Reporter { controller: CONTROLLER.to_owned(), instance });
        Self { client, recorder, pod: pod.to_owned(), uid: OnceCell::new(), told: Mutex::default() }
    }

    pub(crate) async fn missing_permission(&self, api: &str) -> Result<(), KubeError> {
        if self.pod.is_empty() {
            return Err(KubeError::Unconfigured("MY_POD_NAME is not set; events have no pod to stand at".to_owned()));
        }
        if !self.due(api) {
            return Ok(());
        }
        let written = self.write(api).await;
        if written.is_err() {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(api);
        }
        written
    }

    fn due(&self, api: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.get(api).is_none_or(|at| at.elapsed() >= GAP);
        if due {
            told.insert(api.to_owned(), Instant::now());
        }
        due
    }

    async fn write(&self, api: &str) -> Result<(), KubeError> {
        // An event without the uid is still found by the pod's name.
        let uid = self.uid.get_or_try_init(|| self.read_uid()).await.ok().cloned();
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            name: Some(self.pod.clone()),
            uid,
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: "MissingIAMPermissions".to_owned(),
            note: Some(format!(
                "EC2 refused {api} for lack of permission. The policy that the daemon's role needs: \
                 https://github.com/aws/amazon-vpc-cni-k8s/blob/master/docs/iam-policy.md"
            )),
            action: format!("ec2:{api}"),
            secondary: None,
        };
        let published = self.recorder.publish(&event, &regarding).await;
        published.map_err(|e| KubeError::of(&format!("an event on pod {NAMESPACE}/{}", self.pod), e))
    }

    async fn read_uid(&self) -> Result<String, kube::Error> {
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(self.client.clone(), NAMESPACE);
        Ok(pods.get(&self.pod).await?.metadata.uid.unwrap_or_default())
    }
}
