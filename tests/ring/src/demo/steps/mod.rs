//! The steps in order.

mod crash;
mod end;
mod places;
mod pods;
mod policy;
mod traffic;

use anyhow::Result;

pub use end::nothing_stays;

use super::stage::Stage;
use super::story::Story;

/// Tells the whole story. Claims that do not hold are noted in it.
///
/// # Errors
/// A step could not go on, or Ctrl-C came.
pub fn all(stage: &mut Stage, story: &mut Story) -> Result<()> {
    pods::node(stage, story)?;
    pods::first(stage, story)?;
    traffic::show(stage, story)?;
    policy::swap(stage, story)?;
    crash::kill(stage, story)?;
    end::remove_pods(stage, story)?;
    end::give_back(stage, story)?;
    end::stop(stage, story)
}
