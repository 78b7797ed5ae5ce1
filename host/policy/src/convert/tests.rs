//! The JSON form of a WIT value, both ways, for random values: what a component is given and what it answers goes through
//! a real component, and is compared with the form's rules (docs/policy-contract.md, "JSON") as applied to the component's
//! own types. Neither serde nor this crate's conversions are taken at their word.

use std::fmt::Write as _;

use reservoir_core::policy as core;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use wasmtime::{
    Engine, Store,
    component::{Component, ComponentType, Instance, Lift, Linker, Lower, Type, Val},
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::*;

/// Hands lists through: what comes in at `give-*` goes out at `sink`, what comes in from `source` goes out at `take-*`.
const WORLD: &str = "
interface echo-sink {
    use types.{node, context, targets, create-eni};
    on-node: func(all: list<node>);
    on-context: func(all: list<context>);
    on-targets: func(all: list<targets>);
    on-request: func(all: list<create-eni>);
}
interface echo-source {
    use types.{sizes, plan};
    next-sizes: func() -> list<sizes>;
    next-plan: func() -> list<plan>;
}
world echo {
    use types.{node, context, targets, create-eni, sizes, plan};
    import echo-sink;
    import echo-source;
    export give-node: func(all: list<node>);
    export give-context: func(all: list<context>);
    export give-targets: func(all: list<targets>);
    export give-request: func(all: list<create-eni>);
    export take-sizes: func() -> list<sizes>;
    export take-plan: func() -> list<plan>;
}";

const SINK: &str = "reservoir:policy/echo-sink@0.1.0";
const SOURCE: &str = "reservoir:policy/echo-source@0.1.0";
const SINKS: [&str; 4] = ["node", "context", "targets", "request"];
const SOURCES: [&str; 2] = ["sizes", "plan"];

fn component() -> Vec<u8> {
    let mut text = String::from("(module\n");
    for name in SINKS {
        writeln!(text, "(import \"{SINK}\" \"on-{name}\" (func $sink-{name} (param i32 i32)))").unwrap();
    }
    for name in SOURCES {
        writeln!(text, "(import \"{SOURCE}\" \"next-{name}\" (func $source-{name} (param i32)))").unwrap();
    }
    for name in SINKS {
        let body = format!("(call $sink-{name} (local.get 0) (local.get 1))");
        writeln!(text, "(func (export \"give-{name}\") (param i32 i32) {body})").unwrap();
    }
    for name in SOURCES {
        let body = format!("(call $source-{name} (i32.const 16)) (i32.const 16)");
        writeln!(text, "(func (export \"take-{name}\") (result i32) {body})").unwrap();
    }
    text.push_str(
        "(memory (export \"memory\") 64) (global $free (mut i32) (i32.const 4096))
         (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (local $at i32)
           (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
           (global.set $free (i32.add (local.get $at) (local.get 3)))
           (local.get $at)))",
    );
    let mut module = wat::parse_str(&text).unwrap();
    let contract = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/policy.wit");
    let wit = std::fs::read_to_string(contract).unwrap() + WORLD;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", &wit).unwrap();
    let world = resolve.select_world(&[package], Some("echo")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// What the component's imports saw, and what they are to give, in the JSON form by the rules.
#[derive(Default)]
struct Edge {
    seen: String,
    give: Value,
}

struct Echo {
    store: Store<Edge>,
    instance: Instance,
}

impl Echo {
    fn new(engine: &Engine, component: &Component) -> Echo {
        let mut linker: Linker<Edge> = Linker::new(engine);
        let mut sink = linker.instance(SINK).unwrap();
        for name in SINKS {
            sink.func_new(&format!("on-{name}"), |mut cx, ty, given, _| {
                let (_, ty) = ty.params().next().unwrap();
                let mut text = String::new();
                write(&given[0], &ty, &mut text);
                cx.data_mut().seen = text;
                Ok(())
            })
            .unwrap();
        }
        let mut source = linker.instance(SOURCE).unwrap();
        for name in SOURCES {
            source
                .func_new(&format!("next-{name}"), |cx, ty, _, result| {
                    result[0] = read(&cx.data().give, &ty.results().next().unwrap());
                    Ok(())
                })
                .unwrap();
        }
        linker.define_unknown_imports_as_traps(component).unwrap();
        let mut store = Store::new(engine, Edge::default());
        let instance = linker.instantiate(&mut store, component).unwrap();
        Echo { store, instance }
    }

    /// Gives `value` to the component; the form of what arrived.
    fn give<W: ComponentType + Lower + 'static>(&mut self, name: &str, value: W) -> String {
        let give = self.instance.get_typed_func::<(Vec<W>,), ()>(&mut self.store, &format!("give-{name}")).unwrap();
        give.call(&mut self.store, (vec![value],)).unwrap();
        self.store.data().seen.clone()
    }

    /// Has the component answer with the value of the form `text`.
    fn take<W: ComponentType + Lift + 'static>(&mut self, name: &str, text: &str) -> W {
        self.store.data_mut().give = serde_json::from_str(&format!("[{text}]")).unwrap();
        let take = self.instance.get_typed_func::<(), (Vec<W>,)>(&mut self.store, &format!("take-{name}")).unwrap();
        take.call(&mut self.store, ()).unwrap().0.remove(0)
    }
}

/// The rules: keys in WIT order with `_` for `-`; an enum case and a case without payload a string, another case an object
/// of one key; flags an array; none is null; a tuple an array; bytes base64.
fn write(value: &Val, ty: &Type, out: &mut String) {
    let key = |name: &str| format!("\"{}\"", name.replace('-', "_"));
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let text = |value: &Val, ty: &Type| {
        let mut out = String::new();
        write(value, ty, &mut out);
        out
    };
    let form = match (value, ty) {
        (Val::Bool(v), _) => v.to_string(),
        (Val::U32(v), _) => v.to_string(),
        (Val::U64(v), _) => v.to_string(),
        (Val::String(v), _) => serde_json::to_string(v).unwrap(),
        (Val::List(all), Type::List(ty)) if ty.ty() == Type::U8 => {
            let bytes = all.iter().map(|v| if let Val::U8(b) = v { *b } else { unreachable!("{v:?}") });
            format!("\"{}\"", base64(&bytes.collect::<Vec<_>>()))
        }
        (Val::List(all), Type::List(ty)) => list(all.iter().map(|v| text(v, &ty.ty())).collect()),
        (Val::Tuple(all), Type::Tuple(ty)) => list(all.iter().zip(ty.types()).map(|(v, ty)| text(v, &ty)).collect()),
        (Val::Record(all), Type::Record(ty)) => {
            let field = |((name, v), field): (&(String, Val), wasmtime::component::types::Field<'_>)| {
                assert_eq!(name, field.name);
                format!("{}:{}", key(name), text(v, &field.ty))
            };
            format!("{{{}}}", all.iter().zip(ty.fields()).map(field).collect::<Vec<_>>().join(","))
        }
        (Val::Variant(name, None), _) | (Val::Enum(name), _) => key(name),
        (Val::Variant(name, Some(v)), Type::Variant(ty)) => {
            let case = ty.cases().find(|case| case.name == name).unwrap();
            format!("{{{}:{}}}", key(name), text(v, &case.ty.unwrap()))
        }
        (Val::Option(None), _) => "null".to_owned(),
        (Val::Option(Some(v)), Type::Option(ty)) => text(v, &ty.ty()),
        (Val::Flags(names), _) => list(names.iter().map(|name| key(name)).collect()),
        other => panic!("the contract has no such value: {other:?}"),
    };
    out.push_str(&form);
}

/// The same rules, backwards.
fn read(json: &Value, ty: &Type) -> Val {
    match ty {
        Type::Bool => Val::Bool(json.as_bool().unwrap()),
        Type::U32 => Val::U32(json.as_u64().unwrap().try_into().unwrap()),
        Type::U64 => Val::U64(json.as_u64().unwrap()),
        Type::String => Val::String(json.as_str().unwrap().to_owned()),
        Type::List(ty) if ty.ty() == Type::U8 => {
            Val::List(unbase64(json.as_str().unwrap()).into_iter().map(Val::U8).collect())
        }
        Type::List(ty) => Val::List(json.as_array().unwrap().iter().map(|v| read(v, &ty.ty())).collect()),
        Type::Record(ty) => {
            assert_eq!(json.as_object().unwrap().len(), ty.fields().len());
            let field = |f: wasmtime::component::types::Field<'_>| {
                (f.name.to_owned(), read(&json[f.name.replace('-', "_")], &f.ty))
            };
            Val::Record(ty.fields().map(field).collect())
        }
        Type::Variant(ty) => {
            let (key, payload) = json.as_object().unwrap().iter().next().unwrap();
            let case = ty.cases().find(|case| case.name.replace('-', "_") == *key).unwrap();
            Val::Variant(case.name.to_owned(), case.ty.map(|ty| Box::new(read(payload, &ty))))
        }
        Type::Enum(ty) => {
            let case = ty.names().find(|case| case.replace('-', "_") == json.as_str().unwrap());
            Val::Enum(case.unwrap().to_owned())
        }
        Type::Option(ty) => Val::Option((!json.is_null()).then(|| Box::new(read(json, &ty.ty())))),
        other => panic!("no answer has a {other:?}"),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 §4, bit by bit.
fn base64(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let digit = |six: &[u8]| (0..6).fold(0, |n, i| n << 1 | usize::from(*six.get(i).unwrap_or(&0)));
    let mut text: String = bits.chunks(6).map(|six| char::from(ALPHABET[digit(six)])).collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let value = |c: u8| ALPHABET.iter().position(|a| *a == c).unwrap();
    let digits = text.trim_end_matches('=').bytes();
    let bits: Vec<u8> = digits.flat_map(|c| (0..6).rev().map(move |i| u8::from(value(c) >> i & 1 == 1))).collect();
    bits.chunks_exact(8).map(|eight| eight.iter().fold(0, |n, bit| n << 1 | bit)).collect()
}

/// Random values of the contract from a seed.
struct Any(u64);

impl Any {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.bits() % n as u64).unwrap()
    }

    fn bool(&mut self) -> bool {
        self.below(2) == 1
    }

    fn u32(&mut self) -> u32 {
        let any = self.bits() as u32;
        [0, 1, u32::MAX, any >> 24, any][self.below(5)]
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 12] =
            ["", "a", "eni-0", "\"", "\\", "\n", "\u{0}", "\u{1b}[2J", "é", "日本", "\u{1f980}", "-_."];
        (0..self.below(6)).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }

    fn list<T>(&mut self, most: usize, mut one: impl FnMut(&mut Any) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }

    /// A subset, in order.
    fn some<T: Copy>(&mut self, of: &[T]) -> Vec<T> {
        of.iter().copied().filter(|_| self.bool()).collect()
    }

    fn option<T>(&mut self, one: impl FnOnce(&mut Any) -> T) -> Option<T> {
        self.bool().then(|| one(self))
    }

    fn pairs(&mut self) -> core::Pairs {
        self.list(3, |a| (a.text(), a.text()))
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.list(10, |a| a.bits() as u8)
    }

    fn unit(&mut self) -> core::Unit {
        [core::Unit::Ip, core::Unit::Prefix][self.below(2)]
    }

    fn gate(&mut self) -> core::Gate {
        let seconds = self.u32();
        [core::Gate::Open, core::Gate::OpensIn(seconds), core::Gate::Closed][self.below(3)]
    }

    fn targets(&mut self) -> core::Targets {
        let (warm_enis, warm_ips) = (self.u32(), self.u32());
        core::Targets { warm_enis, warm_ips, warm_prefixes: self.u32(), minimum_ips: self.u32() }
    }

    fn request(&mut self) -> core::CreateEni {
        core::CreateEni { card: self.u32(), unit: self.unit(), count: self.u32() }
    }

    fn context(&mut self) -> core::Context {
        core::Context { settings: self.pairs(), memo: self.bytes() }
    }

    fn cidr(&mut self) -> core::Cidr {
        core::Cidr {
            id: self.u32(),
            unit: self.unit(),
            size: self.u32(),
            serving: self.bool(),
            assigned: self.u32(),
            cooling: self.u32(),
            cooled_in_seconds: self.u32(),
            age_seconds: self.u32(),
            idle_seconds: self.option(Any::u32),
        }
    }

    fn eni(&mut self) -> core::Eni {
        use core::EniTrait::{Closed, Efa, Excluded, Primary, Trunk};
        core::Eni {
            id: self.text(),
            card: self.u32(),
            device_index: self.u32(),
            subnet: self.text(),
            traits: core::EniTraits(self.some(&[Primary, Trunk, Efa, Excluded, Closed])),
            age_seconds: self.u32(),
            cidrs: self.list(4, Any::cidr),
        }
    }

    fn card(&mut self) -> core::Card {
        core::Card {
            index: self.u32(),
            max_enis: self.u32(),
            enis_in_flight: self.u32(),
            ips_in_flight: self.u32(),
            waiting: self.u32(),
            configured: self.targets(),
        }
    }

    fn subnet(&mut self) -> core::Subnet {
        let standings = [core::Standing::Eligible, core::Standing::Possible, core::Standing::Forbidden];
        core::Subnet {
            id: self.text(),
            cidr: self.text(),
            ipv6: self.bool(),
            primary: self.bool(),
            standing: standings[self.below(3)],
            free_ips: self.option(Any::u32),
            seen_seconds: self.u32(),
            ips_refused_seconds: self.u32(),
            prefixes_refused_seconds: self.u32(),
            tags: self.pairs(),
        }
    }

    fn minute(&mut self) -> core::Minute {
        core::Minute {
            adds: self.u32(),
            deletes: self.u32(),
            starved: self.u32(),
            peak_assigned: self.u32(),
            ec2_calls: self.u32(),
            ec2_throttled: self.u32(),
        }
    }

    fn node(&mut self) -> core::Node {
        core::Node {
            now: [0, u64::MAX, self.bits()][self.below(3)],
            name: self.text(),
            instance_type: self.text(),
            availability_zone: self.text(),
            labels: self.pairs(),
            families: self.some(&[core::Family::Ipv4, core::Family::Ipv6]),
            unit: self.unit(),
            limits: core::Limits { slots_per_eni: self.u32(), ips_per_prefix: self.u32(), max_pods: self.u32() },
            cards: self.list(3, Any::card),
            enis: self.list(3, Any::eni),
            subnets: self.list(3, Any::subnet),
            gates: core::Gates {
                grow: self.gate(),
                release: self.gate(),
                remove: self.gate(),
                ec2_calls_left: self.u32(),
            },
            draining: self.bool(),
            booted_seconds: self.u32(),
            history: self.list(4, Any::minute),
            extra: self.pairs(),
        }
    }

    fn note(&mut self) -> core::Note {
        core::Note {
            reason: self.text(),
            wake_after_seconds: self.option(Any::u32),
            refresh_subnets: self.bool(),
            memo: self.bytes(),
        }
    }

    fn growth(&mut self) -> core::Growth {
        if self.bool() {
            core::Growth::Assign(core::Assign { eni: self.text(), unit: self.unit(), count: self.u32() })
        } else {
            core::Growth::CreateEni(self.request())
        }
    }

    fn plan(&mut self) -> core::Plan {
        core::Plan {
            grow: self.list(4, Any::growth),
            release: self.list(4, Any::u32),
            remove: self.list(3, Any::text),
            drain: self.list(4, Any::u32),
            note: self.note(),
        }
    }
}

/// Both ways for a value that a component is given: it arrives as its JSON says, and the JSON reads back to it.
fn given<T, W>(echo: &mut Echo, name: &str, value: &T, wit: W)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    W: ComponentType + Lower + 'static,
{
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(echo.give(name, wit), format!("[{text}]"));
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
}

/// Both ways for a value that a component answers with.
fn answered<T, W>(echo: &mut Echo, name: &str, value: &T, back: impl Fn(W) -> T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    W: ComponentType + Lift + 'static,
{
    let text = serde_json::to_string(value).unwrap();
    let answer = back(echo.take(name, &text));
    assert_eq!(&answer, value);
    assert_eq!(serde_json::to_string(&answer).unwrap(), text);
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
}

#[test]
fn every_value_is_the_same_in_a_component_and_in_json() {
    let engine = Engine::default();
    let component = Component::new(&engine, component()).unwrap();
    for seed in 0..300 {
        // Shown where one of them fails.
        println!("seed {seed}");
        let (mut any, mut echo) = (Any(seed), Echo::new(&engine, &component));
        let value = any.node();
        given(&mut echo, "node", &value, node(&value));
        let value = any.context();
        given(&mut echo, "context", &value, context(&value));
        let value = any.targets();
        given(&mut echo, "targets", &value, targets(&value));
        let value = any.request();
        given(&mut echo, "request", &value, create_eni(&value));
        let value = core::Sizes { targets: any.list(4, Any::targets), note: any.note() };
        answered(&mut echo, "sizes", &value, sizes_back);
        answered(&mut echo, "plan", &any.plan(), plan_back);
    }
}
