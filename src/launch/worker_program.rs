//! The worker's program: where it lies and which environment it needs.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::LaunchError;
use crate::plan::{Communicator, RunPlan};

/// Names the worker's program where it lies elsewhere.
pub const WORKER_VARIABLE: &str = "CAPSTAN_WORKER";
const PROGRAM: &str = "capstan-worker";

/// What a worker needs unless the user says otherwise.
const DEFAULTS: [(&str, &str); 3] = [
    // CUDA's own default order is by speed; NVML's is by bus.
    ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    // NCCL's bootstrap has no business on the network.
    ("NCCL_SOCKET_IFNAME", "lo"),
    // A workspace a stream, of a fixed size: deterministic cuBLAS needs it set before CUDA starts.
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
];

/// What a worker with several GPUs needs besides. Not `NCCL_LAUNCH_MODE=GROUP`: each launch would wait on the host for
/// all ranks of the communicator, and sends between stages must not wait.
const OF_SEVERAL_GPUS: [(&str, &str); 1] = [
    // Loading a kernel synchronises the device, which can deadlock against a spinning collective.
    ("CUDA_MODULE_LOADING", "EAGER"),
];

/// What NCCL needs where GPUs can't reach each other's memory: its newer way through the host's fails on some of those
/// cards (error 217), the older one goes through /dev/shm.
const WITHOUT_PEER_ACCESS: [(&str, &str); 1] = [("NCCL_CUMEM_HOST_ENABLE", "0")];

/// What NCCL needs between the stages of a pipeline: a send that waits for its receiver takes as many of the card's
/// multiprocessors as it has channels, by default up to a quarter of them.
const OF_PIPELINES: [(&str, &str); 1] = [("NCCL_MAX_P2P_NCHANNELS", "4")];

/// `$CAPSTAN_WORKER`, else beside this program, else on `PATH`.
///
/// # Errors
/// It lies nowhere; the error says where it was looked for.
pub fn find() -> Result<PathBuf, LaunchError> {
    if let Some(named) = env::var_os(WORKER_VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return is_program(&named)
            .then(|| named.clone())
            .ok_or_else(|| LaunchError::NoWorker {
                searched: format!("{WORKER_VARIABLE} ({})", named.display()),
            });
    }
    let beside = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = beside
        .iter()
        .cloned()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(PROGRAM))
        .find(|program| is_program(program));
    found.ok_or_else(|| {
        let beside = beside.unwrap_or_default();
        LaunchError::NoWorker {
            searched: format!("{} and PATH", beside.display()),
        }
    })
}

/// Variables to add to every worker's environment.
pub fn environment() -> Vec<(OsString, OsString)> {
    unless_set(&DEFAULTS)
}

/// Variables to add besides, for the plan's ranks. GPUs are those that the plan counted, whatever else CUDA would see
/// and in which order: sensors and ranks mean the same card.
pub fn environment_of(plan: &RunPlan) -> Vec<(OsString, OsString)> {
    let is_on_nccl = plan.communicator == Communicator::Nccl;
    let mut variables = Vec::new();
    for (is_needed, needed) in [
        (plan.n_workers == 1, &OF_SEVERAL_GPUS),
        (plan.lacks_peer_access, &WITHOUT_PEER_ACCESS),
        (plan.split.mesh.pp > 1, &OF_PIPELINES),
    ] {
        if is_on_nccl && is_needed {
            variables.extend(unless_set(needed));
        }
    }
    if !plan.gpu_uuids.is_empty() {
        variables.push((
            "CUDA_VISIBLE_DEVICES".into(),
            plan.gpu_uuids.join(",").into(),
        ));
    }
    variables
}

fn unless_set(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .filter(|(name, _)| env::var_os(name).is_none())
        .map(|&(name, value)| (name.into(), value.into()))
        .collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
