//! What `../policy-0.1.wasm` was built from: it says back all that it is told, and answers with each case of each type.

use reservoir_policy_sdk::{
    Assign, Context, CreateEni, Growth, Node, Note, Plan, Planning, Sizes, Sizing, SubnetId, Subnets, Targets, Unit,
    export,
    log::{self, Level},
};

struct Frozen;

fn note(told: String) -> Note {
    Note {
        reason: "frozen 0.1".to_owned(),
        wake_after_seconds: Some(7),
        refresh_subnets: true,
        memo: told.into_bytes(),
    }
}

impl Sizing for Frozen {
    fn decide(node: Node, context: Context) -> Result<Sizes, String> {
        if let Some(refusal) = context.setting("refuse") {
            return Err(refusal.to_owned());
        }
        for level in [Level::Debug, Level::Info, Level::Warn] {
            log::write(level, "frozen 0.1");
        }
        let targets = Targets { warm_enis: 1, warm_ips: 2, warm_prefixes: 3, minimum_ips: 4 };
        Ok(Sizes { targets: node.cards.iter().map(|_| targets).collect(), note: note(format!("{node:?} {context:?}")) })
    }
}

impl Planning for Frozen {
    fn decide(node: Node, _context: Context, targets: Vec<Targets>) -> Result<Plan, String> {
        let eni = node.enis.first().ok_or("no interface")?.id.clone();
        let grow = vec![
            Growth::Assign(Assign { eni: eni.clone(), unit: Unit::Ip, count: 5 }),
            Growth::CreateEni(CreateEni { card: 0, unit: Unit::Prefix, count: 6 }),
        ];
        Ok(Plan { grow, release: vec![1], remove: vec![eni], drain: vec![2], note: note(format!("{targets:?}")) })
    }
}

impl Subnets for Frozen {
    fn rank(_node: Node, _context: Context, request: CreateEni) -> Result<Vec<SubnetId>, String> {
        Ok(vec![format!("{request:?}")])
    }
}

export!(Frozen: sizing, planning, subnets);
