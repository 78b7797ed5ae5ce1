//! Write a Reservoir policy in Rust.
//!
//! The types are those of the contract (`wit/policy.wit`; explained in `docs/policy-contract.md`). Implement one, two or
//! all of [`Sizing`], [`Planning`] and [`Subnets`] and name in [`export!`] those that the component owns; the built-in
//! policy answers for the rest.
//!
//! ```
//! use reservoir_policy_sdk::{Context, Node, Note, Sizes, Sizing, Targets};
//!
//! struct HoldTwenty;
//!
//! impl Sizing for HoldTwenty {
//!     fn decide(node: Node, _context: Context) -> Result<Sizes, String> {
//!         let hold = Targets { warm_enis: 0, warm_ips: 0, warm_prefixes: 0, minimum_ips: 20 };
//!         Ok(Sizes { targets: node.cards.iter().map(|_| hold).collect(), note: Note::because("hold 20") })
//!     }
//! }
//!
//! reservoir_policy_sdk::export!(HoldTwenty: sizing);
//! ```
//!
//! Build with `cargo build --target wasm32-wasip2 --release`. The crate compiles natively too, so decisions can be
//! tested with plain `cargo test` ([`sample`] has a node to start from).

mod helpers;
pub mod log;
pub mod sample;

#[doc(hidden)]
#[allow(unsafe_code, missing_docs, missing_debug_implementations, reason = "generated")]
pub mod bindings {
    //! One module per interface, so that a component's type names only what it exports.
    pub mod sizing {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "sizing-policy",
            generate_all,
            additional_derives: [PartialEq],
            pub_export_macro: true,
            export_macro_name: "export_sizing",
            default_bindings_module: "reservoir_policy_sdk::bindings::sizing",
        });
    }
    pub mod planning {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "planning-policy",
            with: {
                "reservoir:policy/types@0.1.0": super::sizing::reservoir::policy::types,
                "reservoir:policy/log@0.1.0": super::sizing::reservoir::policy::log,
            },
            pub_export_macro: true,
            export_macro_name: "export_planning",
            default_bindings_module: "reservoir_policy_sdk::bindings::planning",
        });
    }
    pub mod subnets {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "subnet-policy",
            with: {
                "reservoir:policy/types@0.1.0": super::sizing::reservoir::policy::types,
                "reservoir:policy/log@0.1.0": super::sizing::reservoir::policy::log,
            },
            pub_export_macro: true,
            export_macro_name: "export_subnets",
            default_bindings_module: "reservoir_policy_sdk::bindings::subnets",
        });
    }
}

pub use bindings::planning::exports::reservoir::policy::planning::Guest as Planning;
pub use bindings::sizing::exports::reservoir::policy::sizing::Guest as Sizing;
pub use bindings::sizing::reservoir::policy::types::{
    Assign, Card, Cidr, CidrId, Context, CreateEni, Eni, EniId, EniTraits, Families, Gate, Gates, Growth, Limits,
    Minute, Node, Note, Pairs, Plan, Sizes, Standing, Subnet, SubnetId, Targets, Unit,
};
pub use bindings::subnets::exports::reservoir::policy::subnets::Guest as Subnets;

/// Exports `$policy`'s functions from a component: `export!(MyPolicy: sizing)` or
/// `export!(MyPolicy: sizing, planning, subnets)`. A native build only checks that the functions are there.
#[macro_export]
macro_rules! export {
    ($policy:ident: $($interface:ident),+ $(,)?) => {
        $($crate::__export_one!($policy $interface);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_one {
    ($policy:ident sizing) => {
        const _: fn() = || {
            fn owns<T: $crate::Sizing>() {}
            owns::<$policy>();
        };
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::sizing::export_sizing!($policy with_types_in $crate::bindings::sizing);
    };
    ($policy:ident planning) => {
        const _: fn() = || {
            fn owns<T: $crate::Planning>() {}
            owns::<$policy>();
        };
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::planning::export_planning!($policy with_types_in $crate::bindings::planning);
    };
    ($policy:ident subnets) => {
        const _: fn() = || {
            fn owns<T: $crate::Subnets>() {}
            owns::<$policy>();
        };
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::subnets::export_subnets!($policy with_types_in $crate::bindings::subnets);
    };
}
