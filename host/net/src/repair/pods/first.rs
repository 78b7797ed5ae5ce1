//! By which name an interface came: what it is called later may be somebody else's idea.

use std::collections::BTreeMap;

use crate::netlink::reply::LinkInfo;
use crate::news::News;

/// First names of interfaces, by index. The kernel gives an index to one interface only, until it has counted to 2³¹.
///
/// A veth that is renamed before anybody has seen its pod, as udev does with interfaces that are new, is known by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstNames(BTreeMap<u32, String>);

impl FirstNames {
    /// Starts anew with all interfaces that there are; those known keep their name. For when watching begins, and when
    /// news were lost.
    pub fn list(&mut self, links: &[LinkInfo]) {
        let known = std::mem::take(&mut self.0);
        let first = |link: &LinkInfo| known.get(&link.index).unwrap_or(&link.name).clone();
        self.0 = links.iter().map(|link| (link.index, first(link))).collect();
    }

    /// Every news of the kernel, in their order.
    pub fn hear(&mut self, news: &News) {
        match news {
            News::Link { link, gone: true } => drop(self.0.remove(&link.index)),
            News::Link { link, gone: false } => drop(self.0.entry(link.index).or_insert_with(|| link.name.clone())),
            _ => {}
        }
    }

    /// None of an interface that was never heard of.
    #[must_use]
    pub fn of(&self, index: u32) -> Option<&str> {
        self.0.get(&index).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> LinkInfo {
        LinkInfo {
            index,
            name: name.to_owned(),
            mac: None,
            mtu: 9001,
            up: true,
            peer_index: None,
            peer_elsewhere: false,
        }
    }

    #[test]
    fn the_first_name_stays_until_the_interface_is_gone() {
        let mut names = FirstNames::default();
        let hear = |names: &mut FirstNames, name: &str, gone| names.hear(&News::Link { link: link(7, name), gone });
        names.list(&[link(1, "lo")]);
        assert_eq!((names.of(1), names.of(7)), (Some("lo"), None));
        hear(&mut names, "eni0761ccbeace", false);
        hear(&mut names, "enp0s7", false);
        assert_eq!(names.of(7), Some("eni0761ccbeace"));
        names.list(&[link(7, "enp0s7"), link(8, "new")]);
        assert_eq!((names.of(1), names.of(7), names.of(8)), (None, Some("eni0761ccbeace"), Some("new")));
        hear(&mut names, "enp0s7", true);
        assert_eq!(names.of(7), None);
    }
}
