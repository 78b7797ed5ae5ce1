//! Names of interfaces, as the kernel and operators see them (spec 04 §3).
//!
//! They leave the process and outlive it: old pods keep the names an older version gave them.

use sha1::{Digest, Sha1};

/// The longest interface name the kernel takes, in bytes (`IFNAMSIZ` without the NUL).
pub const MAX_LENGTH: usize = 15;
/// The longest prefix that leaves room for the 11 characters of [`suffix`] (spec 04 §2.2).
pub const MAX_PREFIX_LENGTH: usize = 4;
/// Host veth prefix where nothing else is configured.
pub const DEFAULT_VETH_PREFIX: &str = "eni";

/// Host veth prefix of strict branch pods: keeps them out of what matches `eni+` (spec 04 §3.1).
pub const STRICT_BRANCH_PREFIX: &str = "vlan";

const DUMMY_PREFIX: &str = "dummy";
const EXTRA_INTERFACE_PREFIX: &str = "mNicIf";
/// How long a [`suffix`] is.
pub const SUFFIX_LENGTH: usize = 11;

/// The part of a host veth's name that identifies the pod: 11 hex digits of SHA-1(`<namespace>.<pod>`).
///
/// `index` counts the pod's interfaces; from 1 on the pod's name is extended to `<pod>.<index>`.
#[must_use]
pub fn suffix(namespace: &str, pod: &str, index: usize) -> String {
    let key = if index == 0 { format!("{namespace}.{pod}") } else { format!("{namespace}.{pod}.{index}") };
    let mut hex = String::with_capacity(SUFFIX_LENGTH + 1);
    for byte in Sha1::digest(key.as_bytes()).iter().take(SUFFIX_LENGTH.div_ceil(2)) {
        for nibble in [byte >> 4, byte & 0xf] {
            hex.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    hex.truncate(SUFFIX_LENGTH);
    hex
}

/// Host end of the pod's `index`th veth pair (spec 04 §3.1).
#[must_use]
pub fn host_veth(prefix: &str, namespace: &str, pod: &str, index: usize) -> String {
    format!("{prefix}{}", suffix(namespace, pod, index))
}

/// Name inside the pod: `CNI_IFNAME` for the first interface, `mNicIf<index>` for the others (spec 04 §3.2).
#[must_use]
pub fn container_interface(cni_ifname: &str, index: usize) -> String {
    if index == 0 { cni_ifname.to_owned() } else { format!("{EXTRA_INTERFACE_PREFIX}{index}") }
}

/// The device of a branch interface on the host (spec 04 §3.4).
#[must_use]
pub fn vlan_device(id: u16) -> String {
    format!("vlan.eth.{id}")
}

/// The entry of an ADD result that names no device and carries state for DEL (spec 04 §2.5, §3.3).
#[must_use]
pub fn dummy(namespace: &str, pod: &str) -> String {
    host_veth(DUMMY_PREFIX, namespace, pod, 0)
}

/// A name for the host end of an egress pair: `veth` and 8 hex digits (spec 04 §14.3).
#[must_use]
pub fn egress_veth(random: [u8; 4]) -> String {
    format!("veth{:08x}", u32::from_be_bytes(random))
}

/// Why the kernel would refuse an interface name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("interface name is empty")]
    Empty,
    #[error("interface name is too long: at most 15 bytes")]
    TooLong,
    #[error("interface name is . or ..")]
    Dots,
    #[error("interface name contains / or : or whitespace characters")]
    Characters,
    /// To the kernel `%` makes a pattern of it.
    #[error("interface name contains %")]
    Pattern,
    /// It has the mark that stands for what is no character.
    #[error("interface name is not UTF-8")]
    NotText,
}

/// Applies the kernel's rules for interface names.
///
/// # Errors
/// The first rule the name breaks.
pub fn validate(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MAX_LENGTH {
        Err(InvalidName::TooLong)
    } else if name == "." || name == ".." {
        Err(InvalidName::Dots)
    } else if name.chars().any(|c| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) {
        Err(InvalidName::Characters)
    } else if name.contains('%') {
        Err(InvalidName::Pattern)
    } else if name.contains(char::REPLACEMENT_CHARACTER) {
        Err(InvalidName::NotText)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_specification() {
        assert_eq!(host_veth("eni", "kube-system", "coredns-57ff979f67-qqbdh", 0), "enib5faff8a083");
        assert_eq!(host_veth("eni", "default", "hpc-0", 1), "enic080049f1ab");
        assert_eq!(dummy("default", "sample-pod"), "dummycc21c2d7785");
        assert_eq!(container_interface("eth0", 0), "eth0");
        assert_eq!(container_interface("eth0", 3), "mNicIf3");
    }

    #[test]
    fn longest_prefix_fits_the_kernel() {
        let name = host_veth("abcd", "a-namespace", "a-pod", 12);
        assert_eq!(name.len(), MAX_LENGTH);
        assert_eq!(validate(&name), Ok(()));
    }

    #[test]
    fn names_the_kernel_refuses() {
        assert_eq!(validate(""), Err(InvalidName::Empty));
        assert_eq!(validate("sixteen-bytes-xx"), Err(InvalidName::TooLong));
        assert_eq!(validate(".."), Err(InvalidName::Dots));
        assert_eq!(validate("a/b"), Err(InvalidName::Characters));
        assert_eq!(validate("a b"), Err(InvalidName::Characters));
        assert_eq!(validate("eth%d"), Err(InvalidName::Pattern));
    }
}
