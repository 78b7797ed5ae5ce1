//! nftables over netlink, as much of it as the connmark rules need (spec 04 §11.3).
//!
//! Not through the `nft` program: it need not be on the node, and the kernel takes a batch of messages as one
//! transaction, bound to the state that was read.

mod attr;
pub mod connmark;
pub mod expr;
pub mod table;

pub use connmark::Connmark;
