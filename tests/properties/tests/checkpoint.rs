//! The checkpoint: what is written is read again, and nothing that a disk may hold does harm.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use properties::property;
use proptest::collection::vec;
use proptest::prelude::*;
use reservoir_core::checkpoint::{Allocation, entry, parse, render, sort};
use reservoir_core::store::{Key, PodMeta};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z0-9-]{0,12}", 1 => any::<String>()]
}

fn allocation() -> impl Strategy<Value = (Key, PodMeta, IpAddr, i64)> {
    let ip = prop_oneof![
        4 => (0u8..8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))),
        1 => any::<u32>().prop_map(|n| IpAddr::V4(n.into())),
        1 => any::<u128>().prop_map(|n| IpAddr::V6(n.into())),
    ];
    let time = prop_oneof![3 => 0i64..4, 1 => any::<i64>()];
    ((text(), text(), text()), (text(), text(), any::<u32>()), ip, time).prop_map(|(key, pod, ip, timestamp)| {
        let pod = PodMeta { namespace: pod.0, name: pod.1, interfaces: pod.2 };
        (Key::new(key.0, key.1, key.2), pod, ip, timestamp)
    })
}

fn file(all: &[(Key, PodMeta, IpAddr, i64)]) -> Vec<u8> {
    let entries: Vec<String> = all.iter().map(|(key, pod, ip, time)| entry(key, *ip, *time, pod)).collect();
    render(entries.iter().map(String::as_str))
}

#[test]
fn what_is_written_is_read_again() {
    property(1500, &vec(allocation(), 0..12), |all| {
        let text = file(&all);
        let read = parse(&text).map_err(|e| e.to_string())?;
        let expected: Vec<Allocation> = all
            .iter()
            .map(|(key, pod, ip, timestamp)| {
                let (ipv4, ipv6) =
                    if ip.is_ipv4() { (ip.to_string(), String::new()) } else { (String::new(), ip.to_string()) };
                Allocation { key: key.clone(), ipv4, ipv6, timestamp: *timestamp, pod: pod.clone() }
            })
            .collect();
        if read != expected {
            return Err(format!("read {read:?}"));
        }
        // Other readers of the file see the same text.
        serde_json::from_slice::<serde_json::Value>(&text).map(drop).map_err(|e| e.to_string())
    });
}

#[test]
fn of_those_that_are_kept_no_two_share_an_address_or_a_key_and_the_newest_stays() {
    property(1500, &(vec(allocation(), 0..12), any::<bool>(), any::<u8>()), |(all, ipv6, dead)| {
        let read = parse(&file(&all)).map_err(|e| e.to_string())?;
        let lives = |_: &str, name: &str| !name.bytes().any(|b| b % 8 == dead % 8);
        let sorted = sort(read.clone(), ipv6, lives);
        if sorted.kept.len() + sorted.dropped.len() != read.len() {
            return Err(format!("{} entries, {sorted:?}", read.len()));
        }
        let keys: BTreeSet<_> = sorted.kept.iter().map(|(a, _)| a.key.clone()).collect();
        let addresses: BTreeSet<_> = sorted.kept.iter().map(|(_, ip)| *ip).collect();
        if keys.len() != sorted.kept.len() || addresses.len() != sorted.kept.len() {
            return Err(format!("shared: {:?}", sorted.kept));
        }
        if let Some(ip) = sorted.prune.iter().find(|ip| addresses.contains(ip)) {
            return Err(format!("{ip} is kept and pruned (spec 02 W16)"));
        }
        // Whatever may live and has an address is kept, or something newer that has its address or its key stood beside it.
        for (lost, _) in sorted.dropped.iter().filter(|(_, why)| *why == reservoir_core::checkpoint::DropReason::Older)
        {
            let rival = |other: &Allocation| other.key == lost.key || other.address(ipv6) == lost.address(ipv6);
            if !read.iter().any(|other| other != lost && rival(other) && other.timestamp >= lost.timestamp)
                && read.iter().filter(|other| *other == lost).count() < 2
            {
                return Err(format!("{lost:?} was dropped as older than none"));
            }
        }
        Ok(())
    });
}

#[test]
fn no_text_is_a_panic_and_a_torn_file_is_an_error() {
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    property(1500, &(vec(allocation(), 0..6), damage, any::<prop::sample::Index>()), |(all, damage, cut)| {
        let whole = file(&all);
        let mut spoiled = whole.clone();
        for (place, byte) in damage {
            let at = place.index(spoiled.len());
            spoiled[at] = byte;
        }
        // Any of it may still be a file; taking it over must not fail either.
        if let Ok(read) = parse(&spoiled) {
            let _ = sort(read, false, |_, _| true);
        }
        // All but the last line break is needed.
        let torn = &whole[..cut.index(whole.len() - 1)];
        if let Ok(read) = parse(torn) {
            return Err(format!("{} of {} bytes are a file: {read:?}", torn.len(), whole.len()));
        }
        Ok(())
    });
}
