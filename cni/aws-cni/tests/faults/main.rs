//! The real plugin on a real kernel, disturbed at each of its steps: killed, refused, left without its namespace. Every
//! state that this leaves must lead on, by a DEL or by a new ADD.
//!
//! | module | what happens |
//! |---|---|
//! | `killed` | the plugin is killed before each step of ADD and of DEL |
//! | `refused` | the kernel refuses one step, once or each time |
//! | `branch` | both, for pods with branch interfaces |
//! | `vanishing` | the pod's namespace goes away, or the plugin runs twice |
//! | `leftovers` | DEL and GC in states made by hand, whoever can be asked |
//! | `checked` | one thing of a pod is changed, and CHECK tells |
//! | `names` | names at their limits and taken ones, paths that are no namespace |

#[cfg(target_arch = "x86_64")]
mod branch;
#[cfg(target_arch = "x86_64")]
mod checked;
#[cfg(target_arch = "x86_64")]
mod daemon;
#[cfg(target_arch = "x86_64")]
mod killed;
#[cfg(target_arch = "x86_64")]
mod leftovers;
#[cfg(target_arch = "x86_64")]
mod names;
#[cfg(target_arch = "x86_64")]
mod refused;
#[cfg(target_arch = "x86_64")]
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_arch = "x86_64")]
mod trace;
#[cfg(target_arch = "x86_64")]
mod vanishing;
#[cfg(target_arch = "x86_64")]
mod world;

#[cfg(not(target_arch = "x86_64"))]
#[test]
fn faults() {
    eprintln!("SKIPPED: faults: the tracer reads the registers of x86-64 only");
}
