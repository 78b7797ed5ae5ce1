//! Host, interface and pod networking through the kernel's own interfaces.
//!
//! Every change is a *plan*: a list of [`plan::Step`]s computed from facts by a plain function. [`plan::apply`] carries
//! a plan out on an [`plan::Executor`]; the one that talks to the kernel is [`kernel::Kernel`].
//!
//! | module | what | spec |
//! |---|---|---|
//! | [`names`] | interface names that the kernel and operators see | 04 §3 |
//! | [`table`] | which route table belongs to which interface | 04 §7 |
//! | [`pod`] | wiring of a pod: set up, check, tear down | 04 §4, §5 |
//! | [`branch`] | pods with an interface of their own in EC2 (security groups for pods) | 04 §6 |
//! | [`egress`] | a way out in the other address family | 04 §14 |
//! | [`host`] | the node at start | 04 §8 |
//! | [`eni`] | secondary interfaces | 04 §9 |
//! | [`iptables`] | SNAT, mangle and connmark rules | 04 §10, §11.1, §11.2, §12.1 |
//! | [`nft`] | connmark rules as a table of nftables | 04 §11.3 |
//! | [`pods`] | pods as the host shows them, and what dead ones left | 02 §6.7, §7; 04 §12 |
//! | [`links`] | interfaces, and news of them | 04 §9 |
//! | [`news`], [`repair`] | what others change, and how it is put back | 04 §12.1 |
//! | [`writes`] | how much was written | |
//!
//! | `testing` (feature) | what a host holds, compared with what it should hold | 05 §18 |
//!
//! `aws-cni` takes this crate with `default-features = false`: `names`, `table`, `pod`, `pods`, `branch` and what they
//! stand on.

pub mod branch;
#[cfg(feature = "host")]
pub mod egress;
#[cfg(feature = "host")]
pub mod eni;
pub mod error;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub mod iptables;
pub mod kernel;
#[cfg(feature = "host")]
pub mod links;
pub mod mac;
pub mod names;
pub mod netlink;
pub mod netns;
#[cfg(feature = "host")]
pub mod news;
#[cfg(feature = "host")]
pub mod nft;
pub mod plan;
pub mod pod;
pub mod pods;
pub mod prefix;
#[cfg(feature = "host")]
pub mod repair;
pub mod rule;
pub mod sysctl;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
pub mod writes;

pub use error::Error;
pub use mac::MacAddr;
pub use prefix::IpPrefix;
pub use rustix::io::Errno;
