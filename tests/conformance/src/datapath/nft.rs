//! The connmark rules as a table of nftables.

use reservoir_core::ip::Ipv4Net;
use reservoir_net::nft::Connmark;
use reservoir_net::nft::connmark::{self, BASE_CHAIN, Kind};
use reservoir_net::nft::expr::{
    Access, CMP_EQ, CT_MARK, Expr, FIB_ADDRTYPE, FIB_DADDR, META_IIFNAME, META_MARK, NETWORK_HEADER, Verdict,
};
use reservoir_net::nft::table::{Base, Chain, Edit, Rule, Table, apply};
use serde_json::{Value, json};

use super::{Case, claims, iptables, skip};
use crate::Outcome;

const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

pub(super) fn connmark(case: &Case) -> Outcome {
    let Some(connmark) = wanted(case) else { return skip("no mark or no list of CIDRs can be read") };
    if case.inputs["chain"].is_object() {
        return base_chain(case);
    }
    if case.inputs["kind"].is_string() {
        return recognised(case, &connmark);
    }
    if case.inputs["packet"].is_string() {
        return marked_packet(case, &connmark);
    }
    if case.inputs["base_rules"].is_array() {
        return base_rules(case, &connmark);
    }
    if case.inputs["legacy_iptables"].is_object() {
        return iptables::connmark_moves_to_nftables(case);
    }
    setup(case, &connmark)
}

/// What the case's settings ask for.
fn wanted(case: &Case) -> Option<Connmark> {
    let text = case.setting("AWS_VPC_K8S_CNI_CONNMARK").or(case.inputs["mark"].as_str()).unwrap_or("0x80");
    let mark = u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
    let prefix = case.setting("AWS_VPC_K8S_CNI_VETHPREFIX").or(case.inputs["veth_prefix"].as_str()).unwrap_or("eni");
    let list = case.inputs["exempt_cidrs"].as_array().into_iter().flatten();
    let exempt = list.map(|c| c.as_str()?.parse().ok()).collect::<Option<_>>()?;
    Some(Connmark { mark, veth_prefix: prefix.to_owned(), exempt })
}

/// One set-up after the other, on a table that is none at first.
fn setup(case: &Case, connmark: &Connmark) -> Outcome {
    let mut table: Option<Table> = None;
    let run = |table: &mut Option<Table>| {
        let edits = connmark.plan(table.as_ref())?;
        apply(table, &edits);
        Ok::<_, reservoir_net::Error>(edits)
    };
    let extra = &case.inputs["initial_extra_rule"];
    let mut outcome = run(&mut table);
    let mut deleted = Vec::new();
    if let Some(exprs) = exprs(&extra["rule"]) {
        let chain = extra["chain"].as_str().unwrap_or_default().to_owned();
        apply(&mut table, &[Edit::Append { chain, exprs }]);
        let before = table.clone();
        outcome = run(&mut table);
        let gone = |edit: &Edit| match edit {
            Edit::DeleteRule { chain, handle } => {
                let rules = &before.as_ref()?.chain(chain)?.rules;
                rules.iter().find(|r| r.handle == *handle).map(|r| expr_list(&r.exprs))
            }
            _ => None,
        };
        deleted = outcome.iter().flatten().filter_map(gone).collect();
    }
    for _ in 1..case.inputs["runs"].as_u64().unwrap_or(1) {
        outcome = run(&mut table);
    }
    let expected = case.expected;
    let error = outcome.as_ref().err().map(ToString::to_string);
    if error.as_deref() != expected["error"].as_str() {
        return Outcome::Failed { expected: format!("error {}", expected["error"]), got: format!("{error:?}") };
    }
    if expected["deleted"].is_array() && expected["deleted"] != Value::from(deleted.clone()) {
        return case.compared(&expected["deleted"], Value::from(deleted));
    }
    if let Some(count) = expected["rule_messages_second_run"].as_u64() {
        let edits = outcome.iter().flatten().count();
        if u64::try_from(edits).ok() != Some(count) {
            return Outcome::Failed { expected: format!("{count} messages"), got: edits.to_string() };
        }
    }
    match (&expected["state"], &table) {
        (Value::Null, _) => Outcome::Passed,
        (state, Some(table)) => case.compared(any_order(state.clone()), any_order(shown(table))),
        (_, None) => Outcome::Failed { expected: "a table".to_owned(), got: "none".to_owned() },
    }
}

/// A table in the words of the vectors.
fn shown(table: &Table) -> Value {
    let chain = |chain: &Chain| {
        let mut rules: Vec<Value> = chain.rules.iter().map(|r| expr_list(&r.exprs)).collect();
        match &chain.base {
            Some(base) => json!({
                "name": chain.name, "type": base.kind, "priority": base.priority,
                "hook": usize::try_from(base.hook).ok().and_then(|hook| HOOKS.get(hook)),
                "policy": if base.policy == 1 { "accept" } else { "drop" }, "rules": rules,
            }),
            None => {
                let last = rules.pop();
                json!({"name": chain.name, "rules_any_order": rules, "last_rule": last})
            }
        }
    };
    json!({"family": "ip", "table": connmark::TABLE, "chains": table.chains.iter().map(chain).collect::<Vec<_>>()})
}

fn any_order(mut state: Value) -> Value {
    for chain in state["chains"].as_array_mut().into_iter().flatten() {
        if let Some(rules) = chain["rules_any_order"].as_array_mut() {
            rules.sort_by_key(ToString::to_string);
        }
    }
    state
}

/// What becomes of the rules of the base chain.
fn base_rules(case: &Case, connmark: &Connmark) -> Outcome {
    let list = case.inputs["base_rules"].as_array().into_iter().flatten();
    let rules: Option<Vec<Rule>> =
        list.map(|r| Some(Rule { handle: r["handle"].as_u64()?, exprs: exprs(&r["rule"])? })).collect();
    let Some(rules) = rules else { return skip("a rule cannot be read") };
    let edits = connmark.plan_base(&rules);
    let handles: Vec<u64> = edits
        .iter()
        .filter_map(|e| match e {
            Edit::DeleteRule { handle, .. } => Some(*handle),
            _ => None,
        })
        .collect();
    let action = match edits.as_slice() {
        [] => "none",
        [Edit::Flush { .. }, Edit::Append { .. }, Edit::Append { .. }, Edit::Append { .. }] => "flush_and_reinstall",
        _ if handles.len() == edits.len() => "delete_stale",
        _ => "something else",
    };
    let mut got = json!({"base_chain_action": action});
    if case.expected["deleted_handles"].is_array() {
        got["deleted_handles"] = handles.into();
    }
    case.compared(case.expected, got)
}

/// A base chain of another kind is made again, in one transaction with what it holds.
fn base_chain(case: &Case) -> Outcome {
    let chain = &case.inputs["chain"];
    let hook = HOOKS.iter().position(|h| chain["hook"] == *h).and_then(|at| u32::try_from(at).ok());
    let base = chain["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).zip(hook).map(|(priority, hook)| Base {
        kind: chain["type"].as_str().unwrap_or_default().to_owned(),
        hook,
        priority,
        policy: u32::from(chain["policy"] == "accept"),
    });
    let chain = Chain { name: BASE_CHAIN.to_owned(), base, rules: Vec::new() };
    let up_to_date = connmark::is_up_to_date(&chain);
    if case.expected["up_to_date"] != up_to_date {
        return case.compared(&case.expected["up_to_date"], up_to_date);
    }
    let connmark =
        Connmark { mark: 0x80, veth_prefix: "eni".to_owned(), exempt: vec![Ipv4Net::new([10, 0, 0, 0].into(), 8)] };
    let edits = connmark.plan(Some(&Table { chains: vec![chain] })).unwrap_or_default();
    let is_made_again = matches!(
        edits.as_slice(),
        [Edit::Flush { chain: a }, Edit::DeleteChain { chain: b }, Edit::AddChain { chain: c, base: Some(_) }, ..]
            if [a, b, c].into_iter().all(|name| name == BASE_CHAIN)
    );
    claims(&[("flushed, deleted and created in one list of edits", is_made_again || up_to_date, format!("{edits:?}"))])
}

fn recognised(case: &Case, connmark: &Connmark) -> Outcome {
    let Some(rule) = exprs(&case.inputs["rule"]) else { return skip("the rule cannot be read") };
    let kind = match case.text("kind") {
        "cidr" => {
            let cidr = connmark::extract_cidr(&rule).map(|c| c.to_string());
            return case.compared(case.expected, json!({"cidr": cidr}));
        }
        "jump" => Kind::Jump,
        "restore" => Kind::Restore,
        "set_mark" => Kind::SetMark,
        "local" | "fib" => Kind::Local,
        other => return skip(&format!("no rule of kind {other:?} is known here")),
    };
    case.compared(case.expected, json!({"matches": connmark.recognises(kind, &rule)}))
}

/// What our rule makes of a packet's mark: nothing of it but our bit, as with the reference (spec 04 §17.3).
fn marked_packet(case: &Case, connmark: &Connmark) -> Outcome {
    let number =
        |key: &str| case.text(key).strip_prefix("0x").and_then(|t| u32::from_str_radix(t, 16).ok()).unwrap_or_default();
    let mut register = 0;
    let mut mark = number("fwmark_before");
    for expr in connmark.rule(Kind::Restore) {
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
        match expr {
            Expr::Ct { key: CT_MARK, access: Access::Load(_) } => register = number("ctmark"),
            Expr::Meta { key: META_MARK, access: Access::Load(_) } => register = mark,
            Expr::Bitwise { mask, xor, .. } => register = register & word(&mask) ^ word(&xor),
            Expr::Meta { key: META_MARK, access: Access::Store(_) } => mark = register,
            _ => {}
        }
    }
    case.compared(case.expected, json!({"fwmark_after": format!("{mark:#x}")}))
}

/// Expressions as the vectors write them; none if one is not known here.
fn exprs(list: &Value) -> Option<Vec<Expr>> {
    list.as_array()?.iter().map(expr).collect()
}

fn expr(value: &Value) -> Option<Expr> {
    if value["counter"].is_object() {
        return Some(Expr::Counter);
    }
    if let Some(verdict) = value["verdict"].as_str() {
        let chain = || value["chain"].as_str().map(str::to_owned);
        return Some(Expr::Verdict(match verdict {
            "return" => Verdict::Return,
            "drop" => Verdict::Drop,
            "accept" => Verdict::Accept,
            "jump" => Verdict::Jump(chain()?),
            "goto" => Verdict::Goto(chain()?),
            _ => return None,
        }));
    }
    let (name, body) = value.as_object()?.iter().next()?;
    let number = |key: &str| body[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let access = || number("dreg").map(Access::Load).or_else(|| number("sreg").map(Access::Store));
    Some(match name.as_str() {
        "fib" if body["flags"] == json!(["daddr"]) && body["result"] == "addrtype" => {
            Expr::Fib { register: number("dreg")?, flags: FIB_DADDR, result: FIB_ADDRTYPE }
        }
        "cmp" if body["op"] == "eq" => Expr::Cmp { register: number("reg")?, op: CMP_EQ, data: bytes(&body["data"])? },
        "meta" => {
            let key = match body["key"].as_str()? {
                "iifname" => META_IIFNAME,
                "mark" => META_MARK,
                _ => return None,
            };
            Expr::Meta { key, access: access()? }
        }
        "ct" if body["key"] == "mark" => Expr::Ct { key: CT_MARK, access: access()? },
        "bitwise" => Expr::Bitwise {
            source: number("sreg")?,
            register: number("dreg")?,
            length: number("len")?,
            mask: bytes(&body["mask"])?,
            xor: bytes(&body["xor"])?,
        },
        "payload" if body["base"] == "network" => Expr::Payload {
            register: number("dreg")?,
            base: NETWORK_HEADER,
            offset: number("offset")?,
            length: number("len")?,
        },
        _ => return None,
    })
}

fn expr_list(exprs: &[Expr]) -> Value {
    exprs.iter().map(shown_expr).collect()
}

fn shown_expr(expr: &Expr) -> Value {
    let with = |mut value: Value, access: &Access| {
        match access {
            Access::Load(register) => value["dreg"] = (*register).into(),
            Access::Store(register) => value["sreg"] = (*register).into(),
        }
        value
    };
    match expr {
        Expr::Counter => json!({"counter": {}}),
        Expr::Verdict(Verdict::Return) => json!({"verdict": "return"}),
        Expr::Verdict(Verdict::Drop) => json!({"verdict": "drop"}),
        Expr::Verdict(Verdict::Jump(chain)) => json!({"verdict": "jump", "chain": chain}),
        Expr::Fib { register, flags: FIB_DADDR, result: FIB_ADDRTYPE } => {
            json!({"fib": {"dreg": register, "flags": ["daddr"], "result": "addrtype"}})
        }
        Expr::Cmp { register, op: CMP_EQ, data } => json!({"cmp": {"op": "eq", "reg": register, "data": hex(data)}}),
        Expr::Meta { key: META_IIFNAME, access } => json!({"meta": with(json!({"key": "iifname"}), access)}),
        Expr::Meta { key: META_MARK, access } => json!({"meta": with(json!({"key": "mark"}), access)}),
        Expr::Ct { key: CT_MARK, access } => json!({"ct": with(json!({"key": "mark"}), access)}),
        Expr::Bitwise { source, register, length, mask, xor } => json!({"bitwise":
            {"sreg": source, "dreg": register, "len": length, "mask": hex(mask), "xor": hex(xor)}}),
        Expr::Payload { register, base: NETWORK_HEADER, offset, length } => {
            json!({"payload": {"dreg": register, "base": "network", "offset": offset, "len": length}})
        }
        other => json!({"other": format!("{other:?}")}),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &Value) -> Option<Vec<u8>> {
    let text = text.as_str()?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
