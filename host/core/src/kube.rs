//! What the host needs to know of Kubernetes, in plain words, and what follows from it (spec 01 §3, §7, §11; spec 02
//! §11). Reading and patching objects is `host/kube`'s.

use crate::policy::Pairs;

/// Key of the taint of a cordoned node; its effect is [`NO_SCHEDULE`], its value says nothing (spec 01 §3.2).
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Effect of [`UNSCHEDULABLE_TAINT`].
pub const NO_SCHEDULE: &str = "NoSchedule";
/// Node label that names the ENIConfig before anything else does.
pub const EXTERNAL_ENI_CONFIG_LABEL: &str = "vpc.amazonaws.com/externalEniConfig";
/// Default of ENI_CONFIG_ANNOTATION_DEF and ENI_CONFIG_LABEL_DEF.
pub const ENI_CONFIG_KEY: &str = "k8s.amazonaws.com/eniConfig";
/// The ENIConfig of a node that names none.
pub const DEFAULT_ENI_CONFIG: &str = "default";

/// What the Node object says, as far as the pool depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `metadata.labels`, sorted by key.
    pub labels: Pairs,
    /// `metadata.annotations`, sorted by key. Those that name an ENIConfig suffice.
    pub annotations: Pairs,
    /// A taint has the key [`UNSCHEDULABLE_TAINT`] and the effect [`NO_SCHEDULE`]. `spec.unschedulable` is not read.
    pub unschedulable: bool,
    /// `status.capacity.pods`. None or 0: not known (spec 01 W28).
    pub max_pods: Option<u32>,
}

/// Which annotation and which label of a node name its ENIConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniConfigKeys {
    /// ENI_CONFIG_ANNOTATION_DEF.
    pub annotation: String,
    /// ENI_CONFIG_LABEL_DEF.
    pub label: String,
}

impl Default for EniConfigKeys {
    fn default() -> Self {
        Self::new("", "")
    }
}

impl EniConfigKeys {
    /// From the two variables; empty means the default (spec 02 §11.5).
    #[must_use]
    pub fn new(annotation: &str, label: &str) -> Self {
        let or_default = |key: &str| if key.is_empty() { ENI_CONFIG_KEY } else { key }.to_owned();
        Self { annotation: or_default(annotation), label: or_default(label) }
    }
}

/// Name of the ENIConfig that applies to the node: the first source that is there decides, even with an empty value
/// (spec 01 §7.1).
#[must_use]
pub fn eni_config_name<'a>(node: &'a NodeFacts, keys: &EniConfigKeys) -> &'a str {
    let value = |pairs: &'a Pairs, key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    value(&node.labels, EXTERNAL_ENI_CONFIG_LABEL)
        .or_else(|| value(&node.annotations, &keys.annotation))
        .or_else(|| value(&node.labels, &keys.label))
        .unwrap_or(DEFAULT_ENI_CONFIG)
}

/// An ENIConfig object: where custom networking makes interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EniConfig {
    pub name: String,
    /// `spec.subnet`, as written.
    pub subnet: String,
    /// `spec.securityGroups`. Empty: the primary interface's are used (spec 01 §6.5).
    pub security_groups: Vec<String>,
}

/// A wish of this node in its CNINode's `spec.features` (spec 01 §11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feature {
    /// The node wants a trunk interface.
    SecurityGroupsForPods,
    /// Its interfaces come from this ENIConfig.
    CustomNetworking { eni_config: String },
}

impl Feature {
    /// Its name in the object.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SecurityGroupsForPods => "SecurityGroupsForPods",
            Self::CustomNetworking { .. } => "CustomNetworking",
        }
    }

    /// Its value in the object.
    #[must_use]
    pub fn value(&self) -> &str {
        match self {
            Self::SecurityGroupsForPods => "",
            Self::CustomNetworking { eni_config } => eni_config,
        }
    }

    /// The features of an object that has `present`, each a name and a value, once this one is among them; none if it is
    /// already: nothing is to be patched (spec 02 §11.6).
    #[must_use]
    pub fn added_to(&self, present: &[(String, String)]) -> Option<Vec<(String, String)>> {
        if present.iter().any(|(name, value)| name == self.name() && value == self.value()) {
            return None;
        }
        let mut features: Vec<_> = present.iter().filter(|(name, _)| name != self.name()).cloned().collect();
        features.push((self.name().to_owned(), self.value().to_owned()));
        Some(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Pairs {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_first_source_that_is_there_names_the_eni_config() {
        let name = |labels, annotations, keys: &EniConfigKeys| {
            let node = NodeFacts { labels: pairs(labels), annotations: pairs(annotations), ..NodeFacts::default() };
            eni_config_name(&node, keys).to_owned()
        };
        let keys = EniConfigKeys::default();
        assert_eq!(keys, EniConfigKeys::new(ENI_CONFIG_KEY, ENI_CONFIG_KEY));
        assert_eq!(name(&[], &[], &keys), "default");
        assert_eq!(name(&[(ENI_CONFIG_KEY, "l")], &[], &keys), "l");
        assert_eq!(name(&[(ENI_CONFIG_KEY, "l")], &[(ENI_CONFIG_KEY, "a")], &keys), "a");
        let all = [(ENI_CONFIG_KEY, "l"), (EXTERNAL_ENI_CONFIG_LABEL, "e")];
        assert_eq!(name(&all, &[(ENI_CONFIG_KEY, "a")], &keys), "e");
        assert_eq!(name(&[(ENI_CONFIG_KEY, "l")], &[(ENI_CONFIG_KEY, "")], &keys), "", "presence decides");
        let zone = EniConfigKeys::new("", "topology.kubernetes.io/zone");
        assert_eq!(name(&[(ENI_CONFIG_KEY, "l"), ("topology.kubernetes.io/zone", "z")], &[], &zone), "z");
    }

    #[test]
    fn a_feature_is_added_once_and_replaces_its_own_old_value() {
        let custom = Feature::CustomNetworking { eni_config: "a".to_owned() };
        let trunk = Feature::SecurityGroupsForPods;
        assert_eq!(trunk.added_to(&[]), Some(pairs(&[("SecurityGroupsForPods", "")])));
        assert_eq!(trunk.added_to(&pairs(&[("SecurityGroupsForPods", "")])), None);
        let old = pairs(&[("CustomNetworking", "b"), ("SecurityGroupsForPods", "")]);
        let new = pairs(&[("SecurityGroupsForPods", ""), ("CustomNetworking", "a")]);
        assert_eq!(custom.added_to(&old), Some(new));
    }
}
