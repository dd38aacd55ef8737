//! The libraries that only GPUs need: how the worker finds them, and what it says where it can't use them.
//!
//! What needs a GPU, or the libtorch for GPUs, counts as ignored elsewhere, with the reason in its name.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use capstan::hw::{Library, Machine, WorkerReport};
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use super::support::{Said, check};

const WORKER: &str = env!("CARGO_BIN_EXE_capstan-worker");

pub fn trials() -> Vec<Trial> {
    let no_gpu = match Machine::probe() {
        machine if !machine.gpus.is_empty() => None,
        machine => Some(machine.no_gpus_because.unwrap_or("no GPU".to_owned())),
    };
    let no_gpu_set = match libtorch().join("lib/libtorch_cuda.so").exists() {
        true => None,
        false => Some("libtorch is the build for CPU".to_owned()),
    };
    let no_compiler = match Command::new("cc").arg("--version").output() {
        Ok(_) => None,
        Err(error) => Some(format!("cc: {error}")),
    };
    vec![
        unless(no_gpu, "gpu::the_worker_tests_itself", self_test),
        unless(
            no_gpu_set,
            "gpu::cuda_nccl_and_nvrtc_load_without_a_driver",
            gpu_set_loads,
        ),
        unless(
            no_compiler.clone(),
            "gpu::nccl_is_found_by_folder_then_beside_libtorch",
            nccl_is_found,
        ),
        unless(
            no_compiler.clone(),
            "gpu::an_nccl_error_ends_with_its_last_one",
            nccl_error,
        ),
        unless(
            no_compiler,
            "gpu::a_cuda_that_libtorch_does_not_know_is_an_error",
            unknown_cuda,
        ),
        Trial::test("gpu::a_worker_elsewhere_finds_libtorch", elsewhere),
    ]
}

fn unless(missing: Option<String>, name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    let is_ignored = missing.is_some();
    let why = missing
        .map(|missing| format!(" ({missing})"))
        .unwrap_or_default();
    Trial::test(format!("{name}{why}"), test).with_ignored_flag(is_ignored)
}

/// The libtorch that this program is linked to.
fn libtorch() -> PathBuf {
    let named = env::var_os("LIBTORCH").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/libtorch"))
}

/// Streams, events and NCCL, in a process that loads CUDA before anything else.
fn self_test() -> Result<(), Failed> {
    let said = Said::from(Command::new(WORKER).arg("self-test").output()?);
    let said = said.ended_with(0)?;
    let passed = said.out.lines().filter(|line| line.starts_with("ok: "));
    check(passed.count() == 3, format!("{said:?}"))
}

/// What the worker says of itself; the variables are set in its environment alone.
fn report(worker: &Path, variables: &[(&str, &Path)]) -> Result<WorkerReport, Failed> {
    let mut command = Command::new(worker);
    command
        .arg("doctor")
        .env_remove("LIBTORCH")
        .env_remove("CAPSTAN_CUDA")
        .envs(variables.iter().copied());
    let said = Said::from(command.output()?).ended_with(0)?;
    Ok(serde_json::from_str(&said.out)?)
}

fn gpu_set_loads() -> Result<(), Failed> {
    let report = report(WORKER.as_ref(), &[("LIBTORCH", &libtorch())])?;
    for library in [&report.cuda, &report.nccl, &report.nvrtc] {
        check(matches!(library, Library::Good(_)), format!("{report:?}"))?;
    }
    Ok(())
}

/// Compiles `source` to the library at `path`.
fn compile(source: &Path, path: &Path, version: &str) -> Result<(), Failed> {
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    let mut command = Command::new("cc");
    command
        .args(["-shared", "-fPIC", "-x", "c", "-o"])
        .arg(path);
    let status = command.arg(format!("-DVERSION={version}")).arg(source);
    check(status.status()?.success(), source.display().to_string())
}

fn fake_nccl() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/fake_nccl.c")
}

/// A folder with a libtorch as pip lays it out, of which only NCCL is there.
fn site() -> Result<(TempDir, PathBuf), Failed> {
    let site = tempfile::tempdir()?;
    let torch = site.path().join("torch");
    fs::create_dir_all(torch.join("lib"))?;
    let nccl = site.path().join("nvidia/nccl/lib/libnccl.so.2");
    compile(&fake_nccl(), &nccl, "22809")?;
    Ok((site, torch))
}

fn nccl_is_found() -> Result<(), Failed> {
    let (site, torch) = site()?;
    let stand_in = site.path().join("stand-in");
    compile(&fake_nccl(), &stand_in.join("libnccl.so.2"), "10203")?;
    let beside = ("LIBTORCH", torch.as_path());
    let first = ("CAPSTAN_CUDA", stand_in.as_path());
    for (variables, version) in [(&[beside][..], "2.28.9"), (&[beside, first], "1.2.3")] {
        let found = report(WORKER.as_ref(), variables)?.nccl;
        check(
            found == Library::Good(version.to_owned()),
            format!("{found:?}"),
        )?;
    }
    Ok(())
}

fn nccl_error() -> Result<(), Failed> {
    let (_site, torch) = site()?;
    let variables = [
        ("LIBTORCH", torch.as_path()),
        ("FAKE_NCCL_FAILS", Path::new("1")),
    ];
    let found = report(WORKER.as_ref(), &variables)?.nccl;
    let text = "ncclGetVersion: unhandled system error: socketStartConnect: Connect failed / : Connection refused";
    check(found == Library::Bad(text.to_owned()), format!("{found:?}"))
}

/// A CUDA half that libtorch does not know after it was opened, as where libtorch had looked for one before.
fn unknown_cuda() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("libtorch_cuda.so");
    compile(Path::new("/dev/null"), &empty, "0")?;
    let report = report(WORKER.as_ref(), &[("CAPSTAN_CUDA", folder.path())])?;
    let Library::Bad(reason) = &report.cuda else {
        return Err(format!("{report:?}").into());
    };
    check(reason.contains("looks once"), reason.as_str())?;
    check(report.cuda_devices == 0, format!("{report:?}"))
}

/// The worker's program, copied to a folder beside which no libtorch lies.
fn elsewhere() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let worker = folder.path().join("bin/capstan-worker");
    fs::create_dir(folder.path().join("bin"))?;
    fs::copy(WORKER, &worker)?;
    let (there, here) = (report(&worker, &[])?, report(WORKER.as_ref(), &[])?);
    check(there == here, format!("{there:?} there, {here:?} here"))
}
