//! From a run's folder to work: configuration, plan, data, libtorch.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::{
    config::RunConfig,
    data::{self, Prepared},
    hw::Device,
    launch::{RunFolder, dirs},
    plan::RunPlan,
    torch::runtime,
};

/// What a run's folder says, with its data.
pub struct Material {
    pub config: RunConfig,
    pub plan: RunPlan,
    pub data: Prepared,
}

/// Reads a run's folder and prepares its data; `progress` hears of work that takes a while.
///
/// # Errors
/// A file is missing or malformed, or the data is.
pub fn read(folder: &RunFolder, progress: &(dyn Fn(data::Progress) + Sync)) -> Result<Material> {
    let config: RunConfig = read_json(&folder.config())?;
    let plan: RunPlan = read_json(&folder.plan())?;
    let data = data::prepare(&config.data, &dirs::cache_dir(), progress)?;
    Ok(Material { config, plan, data })
}

/// Makes libtorch ready for the plan's devices; to be called before any other libtorch call.
///
/// # Errors
/// A GPU is planned and libtorch's CUDA half can't be loaded.
pub fn ready_libtorch(plan: &RunPlan) -> Result<()> {
    if plan
        .ranks
        .iter()
        .any(|rank| matches!(rank.device, Device::Cuda(_)))
    {
        runtime::load_cuda()
            .context("libtorch's CUDA half can't be loaded; `make setup` fetches it")?;
    }
    ready_this_thread()?;
    Ok(runtime::choose_attention(plan.attention)?)
}

/// The main thread must never own a pool of threads: it would slow the ranks'.
///
/// # Errors
/// libtorch refuses.
pub fn ready_this_thread() -> Result<()> {
    runtime::enter_rank_thread(1)?;
    Ok(())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = crate::base::read::text(path, crate::base::read::Bound::TOLD)
        .with_context(|| format!("can't read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}
