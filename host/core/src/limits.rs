//! Instance-type limits (spec 03 §11): the bundled table, and what `DescribeInstanceTypes` answers for a type it lacks.

/// What EC2 allows one instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceLimits {
    /// Interfaces on the default card.
    pub enis: u32,
    /// IPv4 addresses per interface, the primary one included.
    pub ipv4_per_eni: u32,
    pub default_card: u32,
    pub hypervisor: Hypervisor,
    pub bare_metal: bool,
    pub cards: Vec<CardLimits>,
}

/// Interfaces that one network card can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardLimits {
    pub index: u32,
    pub max_enis: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    Nitro,
    Xen,
    Unknown,
}

impl InstanceLimits {
    /// IPs and prefixes together that one interface can hold beside its primary address (spec 01 §1.5).
    #[must_use]
    pub fn slots_per_eni(&self) -> u32 {
        self.ipv4_per_eni.saturating_sub(1)
    }

    /// The bundled limits of `instance_type`, if the table has it.
    #[must_use]
    pub fn of(instance_type: &str) -> Option<Self> {
        TABLE.lines().find_map(|line| {
            let rest = line.strip_prefix(instance_type)?.strip_prefix('\t')?;
            parse(rest)
        })
    }

    /// All types of the bundled table, sorted.
    pub fn types() -> impl Iterator<Item = &'static str> {
        TABLE.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split('\t').next())
    }
}

/// Families whose types may have no trunk interface, and single types beside them: what the cluster's resource controller
/// knows of them (spec 03 §10.4).
const NO_TRUNK_FAMILIES: &[&str] = &[
    "c1", "c3", "c4", "d2", "f1", "h1", "i2", "i3", "m1", "m2", "m3", "m4", "p3", "r3", "r4", "t1", "t2", "t3", "t3a",
    "t4g", "x1", "x1e",
];
const NO_TRUNK: &[&str] = &["i4i.large", "u-6tb1.56xlarge", "u-6tb1.112xlarge"];
const TRUNK_ALL_THE_SAME: &[&str] = &["i3.metal"];

/// Whether a node of this type may have a trunk interface, so that a place is kept for it. A type that nobody knows may
/// (spec 01 §1.5).
#[must_use]
pub fn trunk_compatible(instance_type: &str) -> bool {
    let family = instance_type.split('.').next().unwrap_or_default();
    let listed = NO_TRUNK_FAMILIES.contains(&family) || NO_TRUNK.contains(&instance_type);
    !listed || TRUNK_ALL_THE_SAME.contains(&instance_type)
}

const TABLE: &str = include_str!("limits.tsv");

fn parse(line: &str) -> Option<InstanceLimits> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    Some(InstanceLimits {
        enis: next()?.parse().ok()?,
        ipv4_per_eni: next()?.parse().ok()?,
        default_card: next()?.parse().ok()?,
        hypervisor: match next()? {
            "nitro" => Hypervisor::Nitro,
            "xen" => Hypervisor::Xen,
            _ => Hypervisor::Unknown,
        },
        bare_metal: next()? == "1",
        cards: next()?
            .split(',')
            .map(|card| {
                let (index, max_enis) = card.split_once(':')?;
                Some(CardLimits { index: index.parse().ok()?, max_enis: max_enis.parse().ok()? })
            })
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_parses() {
        let mut n = 0;
        for name in InstanceLimits::types() {
            let limits = InstanceLimits::of(name).unwrap_or_else(|| panic!("{name}"));
            assert!(limits.enis > 0 && limits.ipv4_per_eni > 0 && !limits.cards.is_empty(), "{name}");
            n += 1;
        }
        assert!(n > 1000, "{n}");
    }

    #[test]
    fn a_place_for_a_trunk_is_kept_unless_the_type_is_known_to_have_none() {
        for (name, compatible) in [
            ("m5.large", true),
            ("t3.large", false),
            ("t4g.nano", false),
            ("i3.large", false),
            ("i3.metal", true),
            ("i3en.large", true),
            ("i4i.large", false),
            ("i4i.xlarge", true),
            ("u-6tb1.56xlarge", false),
            ("u-6tb1.metal", true),
            ("new1.large", true),
            ("", true),
        ] {
            assert_eq!(trunk_compatible(name), compatible, "{name}");
        }
        // The resource controller's table names as many.
        assert_eq!(InstanceLimits::types().filter(|name| !trunk_compatible(name)).count(), 104);
    }

    #[test]
    fn knows_a_common_type_and_not_an_invented_one() {
        let c5 = InstanceLimits::of("c5.4xlarge").unwrap();
        assert_eq!((c5.enis, c5.slots_per_eni()), (8, 29));
        assert_eq!(InstanceLimits::of("c5.4xlarg"), None);
        assert_eq!(InstanceLimits::of(""), None);
    }
}
