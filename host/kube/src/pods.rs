//! The annotation that shows a pod's address (spec 02 §11.4).

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::{KubeError, POD_IPS, PodName};

/// Tries of a write that somebody else's write comes before, and the first pause; each is five times the one before.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// What to do about the annotation of a pod that has given its address back.
#[derive(Debug, PartialEq, Eq)]
enum Clear {
    Nothing,
    Empty,
    Other(String),
}

/// The key stays, empty: its readers take that for "the pod's DEL has been".
fn clear(annotation: Option<&str>, address: IpAddr) -> Clear {
    match annotation {
        None | Some("") => Clear::Nothing,
        Some(found) if found.parse() == Ok(address) => Clear::Empty,
        Some(found) => Clear::Other(found.to_owned()),
    }
}

/// The whole of what a pod is asked for: its metadata.
type Pods = Api<PartialObjectMeta<Pod>>;

fn pods(client: &Client, pod: &PodName) -> Pods {
    Api::namespaced(client.clone(), &pod.namespace)
}

/// One merge patch, which leaves a pod that has the value already as it is: nothing needs to be read first.
pub(crate) async fn annotate(client: &Client, pod: &PodName, address: IpAddr) -> Result<(), KubeError> {
    let patch = json!({"metadata": {"annotations": {POD_IPS: address.to_string()}}});
    write(&pods(client, pod), pod, &patch).await
}

/// Empties the annotation if it still shows `address`; the resource version guards a successor of the same name.
pub(crate) async fn clear_annotation(client: &Client, pod: &PodName, address: IpAddr) -> Result<(), KubeError> {
    let pods = pods(client, pod);
    let mut pause = FIRST_PAUSE;
    for tries_left in (0..TRIES).rev() {
        let found = match pods.get(&pod.name).await.map_err(|e| KubeError::of(&pod.to_string(), e)) {
            Ok(found) => found,
            Err(KubeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match clear(found.annotations().get(POD_IPS).map(String::as_str), address) {
            Clear::Nothing => return Ok(()),
            Clear::Other(found) => return Err(KubeError::OtherAnnotation { released: address, found }),
            Clear::Empty => {}
        }
        let version = found.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": {POD_IPS: ""}}});
        match write(&pods, pod, &patch).await {
            Err(KubeError::Conflict { .. }) if tries_left > 0 => tokio::time::sleep(pause).await,
            Err(KubeError::NotFound { .. }) => return Ok(()),
            result => return result,
        }
        pause *= 5;
    }
    Ok(())
}

async fn write(pods: &Pods, pod: &PodName, patch: &Value) -> Result<(), KubeError> {
    let written = pods.patch(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map(drop).map_err(|e| KubeError::of(&pod.to_string(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_that_was_given_back_is_cleared() {
        let v4: IpAddr = "10.0.0.5".parse().unwrap();
        let v6: IpAddr = "2001:db8::5".parse().unwrap();
        assert_eq!(clear(None, v4), Clear::Nothing);
        assert_eq!(clear(Some(""), v4), Clear::Nothing);
        assert_eq!(clear(Some("10.0.0.5"), v4), Clear::Empty);
        assert_eq!(clear(Some("2001:DB8:0::5"), v6), Clear::Empty, "the same address in another spelling");
        assert_eq!(clear(Some("10.0.0.50"), v4), Clear::Other("10.0.0.50".to_owned()));
    }
}
