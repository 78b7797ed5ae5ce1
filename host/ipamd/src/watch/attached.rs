//! Which news of links tell that an interface was attached to the instance, or detached.

use reservoir_core::manager::Event;
use reservoir_net::news::News;

/// What the kernel and udev call network devices of a machine; pods' ends, bridges and tunnels are named by who makes them.
const DEVICES: [&str; 5] = ["eth", "eno", "enp", "ens", "enx"];

/// What the pool is to hear of it.
pub(super) fn tells(news: &News) -> Option<Event> {
    match news {
        News::Overrun => Some(Event::LinksMissed),
        News::Link { link, gone } => {
            let mac = link.mac?.to_string();
            if link.peer_index.is_some() && !link.peer_elsewhere {
                // What hangs on an interface here has its address, and is not the interface: a VLAN, an ipvlan.
                return None;
            }
            if *gone {
                return Some(Event::LinkWent { mac });
            }
            DEVICES.iter().any(|name| link.name.starts_with(name)).then_some(Event::LinkCame { mac })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reservoir_net::netlink::reply::LinkInfo;

    #[test]
    fn devices_are_told_of_and_what_pods_bring_is_not() {
        let news = |name: &str, gone| {
            let mac = Some("0a:00:00:00:00:0F".parse().unwrap());
            let link = LinkInfo {
                index: 3,
                name: name.to_owned(),
                mac,
                mtu: 9001,
                up: true,
                peer_index: None,
                peer_elsewhere: false,
            };
            tells(&News::Link { link, gone })
        };
        for name in ["eth1", "ens6", "enp0s6"] {
            assert!(matches!(news(name, false), Some(Event::LinkCame { mac }) if mac == "0a:00:00:00:00:0f"), "{name}");
        }
        for name in ["eni0d7763386da", "vlan3a", "veth12", "docker0", "dummy0", "kube-ipvs0"] {
            assert!(news(name, false).is_none(), "{name}");
        }
        assert!(matches!(news("wan", true), Some(Event::LinkWent { .. })), "whatever it was called since");
        for gone in [false, true] {
            let mac = Some("0a:00:00:00:00:0f".parse().unwrap());
            let link = LinkInfo {
                index: 4,
                name: "eth1.5".to_owned(),
                mac,
                mtu: 9001,
                up: true,
                peer_index: Some(3),
                peer_elsewhere: false,
            };
            assert!(tells(&News::Link { link, gone }).is_none(), "a VLAN on an interface");
        }
        assert!(matches!(tells(&News::Overrun), Some(Event::LinksMissed)));
    }
}
