//! The worker's program: where it lies and which environment it needs.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{LaunchError, dirs};
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

/// Variables to add to a worker's environment.
pub fn environment(program: &Path) -> Vec<(OsString, OsString)> {
    let mut variables = unless_set(&DEFAULTS);
    let nccl =
        libtorch_lib(program).and_then(|lib| nccl_link(&lib, &dirs::cache_dir()).ok().flatten());
    if let Some(folder) = nccl {
        variables.push((
            "LD_LIBRARY_PATH".into(),
            prepended("LD_LIBRARY_PATH", folder),
        ));
    }
    variables
}

/// Variables to add besides, for the plan's ranks. GPUs are those that the plan counted, whatever else CUDA would see
/// and in which order: sensors and ranks mean the same card.
pub fn environment_of(plan: &RunPlan) -> Vec<(OsString, OsString)> {
    let mut variables = match (plan.communicator, plan.n_workers) {
        (Communicator::Nccl, 1) => unless_set(&OF_SEVERAL_GPUS),
        _ => Vec::new(),
    };
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

/// The libraries of the libtorch in use: `$LIBTORCH`, else where the build linked it.
fn libtorch_lib(program: &Path) -> Option<PathBuf> {
    let named = env::var_os("LIBTORCH").map(|torch| PathBuf::from(torch).join("lib"));
    let linked = program
        .parent()
        .map(|folder| folder.join("../libtorch/lib"));
    [named, linked]
        .into_iter()
        .flatten()
        .find_map(|lib| fs::canonicalize(lib).ok())
}

/// Makes a folder that holds `libnccl.so`, a link to the NCCL that pip laid beside libtorch.
///
/// The binding asks for that name only, and the wheel has `libnccl.so.2`. `None` where there is no NCCL.
///
/// # Errors
/// The folder or the link can't be made.
pub fn nccl_link(libtorch_lib: &Path, cache_dir: &Path) -> io::Result<Option<PathBuf>> {
    let Ok(nccl) = fs::canonicalize(libtorch_lib.join("../../nvidia/nccl/lib/libnccl.so.2")) else {
        return Ok(None);
    };
    let key = blake3::hash(nccl.as_os_str().as_encoded_bytes()).to_hex();
    let folder = cache_dir.join("nccl").join(&key[..16]);
    fs::create_dir_all(&folder)?;
    match symlink(&nccl, folder.join("libnccl.so")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(Some(folder)),
    }
}

fn prepended(variable: &str, folder: PathBuf) -> OsString {
    let mut value = folder.into_os_string();
    if let Some(rest) = env::var_os(variable).filter(|rest| !rest.is_empty()) {
        value.push(":");
        value.push(rest);
    }
    value
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nccl_is_linked_where_pip_laid_it() {
        let site = tempfile::tempdir().expect("a folder");
        let cache = tempfile::tempdir().expect("a folder");
        let lib = site.path().join("torch/lib");
        fs::create_dir_all(&lib).expect("made");
        assert_eq!(nccl_link(&lib, cache.path()).expect("no NCCL"), None);

        let nccl = site.path().join("nvidia/nccl/lib");
        fs::create_dir_all(&nccl).expect("made");
        fs::write(nccl.join("libnccl.so.2"), "nccl").expect("written");
        for _ in 0..2 {
            let folder = nccl_link(&lib, cache.path())
                .expect("linked")
                .expect("found");
            assert_eq!(
                fs::read(folder.join("libnccl.so")).expect("a link"),
                b"nccl"
            );
        }
    }
}
