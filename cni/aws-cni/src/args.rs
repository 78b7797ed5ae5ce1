//! `CNI_ARGS`: which pod it is (spec 04 §2.3).

/// The pod's identity in Kubernetes. Empty without `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`
    pub infra_container_id: String,
    /// `K8S_POD_UID`; old runtimes do not send it.
    pub uid: String,
}

/// What is wrong with `CNI_ARGS`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    #[error("ARGS: invalid pair {0:?}")]
    Pair(String),
    #[error("ARGS: error parsing value of pair {0:?}: IgnoreUnknown must be 1, 0, true or false")]
    NotBoolean(String),
    #[error("ARGS: pair {0:?} is not UTF-8")]
    NotText(String),
    #[error("ARGS: unknown args [{}]", .0.iter().map(|pair| format!("{pair:?}")).collect::<Vec<_>>().join(" "))]
    Unknown(Vec<String>),
}

impl PodArgs {
    /// Reads `K=V;K=V…`.
    ///
    /// # Errors
    /// A pair without exactly one `=`, or a key we do not know unless `IgnoreUnknown` is set.
    pub fn parse(text: &str) -> Result<Self, ArgsError> {
        let mut args = Self::default();
        if text.is_empty() {
            return Ok(args);
        }
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';') {
            let invalid = || ArgsError::Pair(pair.to_owned());
            let (key, value) = pair.split_once('=').ok_or_else(invalid)?;
            if value.contains('=') {
                return Err(invalid());
            }
            // Names are hashed into the host's: two that are different must not become the same here.
            if pair.contains(char::REPLACEMENT_CHARACTER) {
                return Err(ArgsError::NotText(pair.to_owned()));
            }
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = match value.to_ascii_lowercase().as_str() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(ArgsError::NotBoolean(pair.to_owned())),
                    }
                }
                "K8S_POD_NAME" => value.clone_into(&mut args.name),
                "K8S_POD_NAMESPACE" => value.clone_into(&mut args.namespace),
                "K8S_POD_INFRA_CONTAINER_ID" => value.clone_into(&mut args.infra_container_id),
                "K8S_POD_UID" => value.clone_into(&mut args.uid),
                _ => unknown.push(pair.to_owned()),
            }
        }
        if unknown.is_empty() || ignore_unknown { Ok(args) } else { Err(ArgsError::Unknown(unknown)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_arguments() {
        let args = PodArgs::parse(
            "IgnoreUnknown=TRUE;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=web-2;K8S_POD_INFRA_CONTAINER_ID=054c;\
             K8S_POD_UID=u1;Other=x",
        );
        let expected = PodArgs {
            name: "web-2".to_owned(),
            namespace: "kube-system".to_owned(),
            infra_container_id: "054c".to_owned(),
            uid: "u1".to_owned(),
        };
        assert_eq!(args, Ok(expected));
        assert_eq!(PodArgs::parse(""), Ok(PodArgs::default()));
    }

    #[test]
    fn malformed_arguments() {
        let error = |text| PodArgs::parse(text).unwrap_err().to_string();
        assert_eq!(error("K8S_POD_NAME=a=b"), "ARGS: invalid pair \"K8S_POD_NAME=a=b\"");
        assert_eq!(error("K8S_POD_NAME=a;"), "ARGS: invalid pair \"\"");
        assert_eq!(error("A=1;B=2"), "ARGS: unknown args [\"A=1\" \"B=2\"]");
        assert_eq!(error("IgnoreUnknown=0;A=1"), "ARGS: unknown args [\"A=1\"]");
        assert!(error("IgnoreUnknown=maybe").contains("IgnoreUnknown=maybe"));
    }
}
