//! `make gpu-bundle` and `make gpu-check`: what goes to a bare machine, and what it says there.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    simulated::libraries,
    support::{Said, check},
    tidy::elf,
};

/// What may travel.
const LARGEST_BYTES: u64 = 40_000_000;
/// What the programs under test may make of the folder: built without optimisation they are half as large again as those
/// of `make gpu-bundle`, whose folder may have [`LARGEST_BYTES`].
const LARGEST_MB: &str = "60";
/// What programs may ask for on a machine with Python and torch: libtorch and the C and C++ libraries.
const LIBRARIES: [&str; 8] = [
    "libtorch_cpu.so",
    "libc10.so",
    "libstdc++.so.",
    "libgcc_s.so.",
    "libm.so.",
    "libc.so.",
    "ld-linux-x86-64.so.",
    "libdl.so.",
];

pub fn trials() -> Vec<Trial> {
    let missing = missing();
    let why = missing.map(|what| format!(" (no {what})"));
    let why = why.unwrap_or_default();
    let tests: [(&str, fn() -> Result<(), Failed>); 5] = [
        ("holds_what_it_lists", holds_what_it_lists),
        ("knows_no_machine", knows_no_machine),
        ("says_that_there_is_no_gpu", says_that_there_is_no_gpu),
        ("refuses_another_torch", refuses_another_torch),
        ("the_check_itself_is_sound", the_check_itself_is_sound),
    ];
    let plain = tests.into_iter().map(|(name, test)| {
        Trial::test(format!("gpu_bundle::{name}{why}"), test).with_ignored_flag(missing.is_some())
    });
    plain.chain(on_simulated_cards()).collect()
}

/// Trials that run the unpacked bundle on simulated cards.
fn on_simulated_cards() -> Vec<Trial> {
    let missing = missing().or_else(libraries::missing);
    let why = missing.map(|what| format!(" ({what})"));
    let why = why.unwrap_or_default();
    let tests: [(&str, fn() -> Result<(), Failed>); 2] = [
        ("runs_on_simulated_cards", runs_on_simulated_cards),
        ("fails_by_planted_faults", fails_by_planted_faults),
    ];
    let trial = |(name, test)| {
        Trial::test(format!("gpu_bundle::{name}{why}"), test).with_ignored_flag(missing.is_some())
    };
    tests.into_iter().map(trial).collect()
}

/// The first program that these tests need and that is absent.
fn missing() -> Option<&'static str> {
    ["python3", "strip"].into_iter().find(|program| {
        let asked = Command::new(program).arg("--version").output();
        !asked.is_ok_and(|answer| answer.status.success())
    })
}

/// The index names every file with its hash, and all is small.
fn holds_what_it_lists() -> Result<(), Failed> {
    let bundle = bundle()?;
    let index: Value = serde_json::from_str(&fs::read_to_string(bundle.join("bundle.json"))?)?;
    let listed = index["files"].as_object().ok_or("no list of files")?;
    let mut found = files(bundle)?;
    found.retain(|name| name != "bundle.json");
    let mut names: Vec<String> = listed.keys().cloned().collect();
    names.sort();
    check(
        found == names,
        format!("{found:?} there, {names:?} in the list"),
    )?;
    let sizes = listed.values().filter_map(|file| file["bytes"].as_u64());
    let total: u64 = sizes.sum();
    let packed = fs::metadata(bundle.with_extension("tar.gz"))?.len();
    check(
        packed < total && packed < LARGEST_BYTES,
        format!("{packed} bytes, {total} unpacked"),
    )?;
    for name in ["capstan", "capstan-worker"] {
        let name = format!("target/release/{name}");
        let mode = fs::metadata(bundle.join(&name))?.permissions().mode();
        check(
            listed.contains_key(&name) && mode & 0o111 == 0o111,
            format!("{name} {mode:o}"),
        )?;
    }
    Ok(())
}

/// Scripts name no path of the machine that made them, and programs find their libraries beside themselves.
fn knows_no_machine() -> Result<(), Failed> {
    let bundle = bundle()?;
    let own: Vec<String> = [Some(env!("CARGO_MANIFEST_DIR").into()), env::home_dir()]
        .into_iter()
        .flatten()
        .map(|path: PathBuf| path.display().to_string())
        .collect();
    for name in files(bundle)? {
        let content = fs::read(bundle.join(&name))?;
        if let Some(needed) = elf::needed(&content) {
            let is_known =
                |library: &String| LIBRARIES.iter().any(|known| library.starts_with(known));
            check(needed.iter().all(is_known), format!("{name}: {needed:?}"))?;
            let folders = elf::library_folders(&content).unwrap_or_default();
            let is_own = |folder: &String| folder.starts_with("$ORIGIN/");
            check(folders.iter().all(is_own), format!("{name}: {folders:?}"))?;
            continue;
        }
        let text = String::from_utf8_lossy(&content);
        let told = own.iter().find(|path| text.contains(path.as_str()));
        check(told.is_none(), format!("{name} names {told:?}"))?;
    }
    // The built program shows that a folder of this machine would be seen.
    let built = fs::read(env!("CARGO_BIN_EXE_capstan-worker"))?;
    let folders = elf::library_folders(&built).unwrap_or_default();
    check(
        folders.iter().any(|folder| folder.starts_with('/')),
        format!("{folders:?}"),
    )
}

fn says_that_there_is_no_gpu() -> Result<(), Failed> {
    let bare = Bare::new()?;
    bare.program("nvidia-smi", "echo 'No devices were found'; exit 6")?;
    bare.check(&[])?
        .ended_with(0)?
        .says(&["no GPU: nothing checked"])?;
    Ok(())
}

/// Neither another version nor a Python without PyTorch is taken, and the words say what to install.
fn refuses_another_torch() -> Result<(), Failed> {
    let bare = Bare::new()?;
    for (answer, words) in [
        (
            r#"echo '["2.9.1", "/somewhere/torch", "12.8"]'"#,
            "has PyTorch 2.9.1, capstan is built for 2.11",
        ),
        (
            "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1",
            "has no PyTorch",
        ),
    ] {
        let python = bare.program("other-python", answer)?;
        let python = python.to_string_lossy();
        bare.check(&["--simulated", "/nowhere", "--python", &python])?
            .ended_with(4)?
            .says(&[words, "pip install torch==2.11.0"])?;
    }
    bare.check(&["--simulated", "/nowhere", "--only", "nothing"])?
        .ended_with(2)?
        .says(&["there is no step nothing"])?;
    Ok(())
}

/// Doctor, streams, NCCL and a training, in a fresh folder with an empty environment; results lie where they should.
fn runs_on_simulated_cards() -> Result<(), Failed> {
    let bare = Bare::new()?;
    bare.on_cards(
        libraries::folder()?,
        "machine,self-test,hello-fp32,sensors",
        &[],
    )?
    .ended_with(0)?
    .says(&[
        "4 passed, 0 failed, 0 skipped",
        "losses of the card are the CPU's",
    ])?;
    let summary = fs::read_to_string(bare.results().join("summary.json"))?;
    let summary: Value = serde_json::from_str(&summary)?;
    check(
        summary["simulated"] == true && summary["steps"].as_array().map(Vec::len) == Some(4),
        format!("{summary:#}"),
    )?;
    let mut found = files(&bare.results())?;
    found.retain(|name| !name.starts_with("logs/"));
    let wanted = [
        "index.html",
        "steps/01-machine.json",
        "steps/02-self-test.json",
        "steps/03-hello-fp32.json",
        "steps/11-sensors.json",
        "summary.json",
    ];
    check(found == wanted, format!("{found:?}"))
}

/// A missing library, a wait that is left out, a run that fails, a sensor that differs, and a budget that is too short:
/// exit codes and words.
fn fails_by_planted_faults() -> Result<(), Failed> {
    let cards = libraries::folder()?;
    let without_nccl = tempfile::tempdir()?;
    for name in ["libtorch_cuda.so", "libnvidia-ml.so"] {
        symlink(cards.join(name), without_nccl.path().join(name))?;
    }
    let bare = Bare::new()?;
    bare.on_cards(without_nccl.path(), "machine,self-test", &[])?
        .ended_with(4)?
        .says(&["failed: machine: ", "NCCL"])?;
    bare.on_cards(cards, "self-test", &[("SIMGPU_SKIP_WAIT", "stream")])?
        .ended_with(4)?
        .says(&["failed: self-test: streams and events order work"])?;
    bare.on_cards(cards, "hello-fp32", &[("CAPSTAN_INJECT", "0:3:exception")])?
        .ended_with(1)?
        .says(&[
            "failed: hello-fp32: capstan ended with exit code 1",
            "at step 3",
        ])?;
    bare.on_cards(cards, "sensors", &[("FAKE_SMI", "power.limit=300")])?
        .ended_with(6)?
        .says(&["power.limit: nvidia-smi 300.0, capstan 450.0"])?;
    bare.check(&[
        "--simulated",
        &cards.to_string_lossy(),
        "--python",
        &bare.torch()?,
        "--budget",
        "1s",
        "--only",
        "hello-bf16",
    ])?
    .ended_with(0)?
    .says(&["skipped: hello-bf16: it takes about 20 s", "1 skipped"])?;
    Ok(())
}

/// The tests of its own parts, in Python.
fn the_check_itself_is_sound() -> Result<(), Failed> {
    let mut command = Command::new("python3");
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "unittest", "discover", "-s", "benches", "-p"])
        .arg("gpu_check_tests.py");
    Said::from(command.output()?)
        .ended_with(0)?
        .says(&["\nOK"])?;
    Ok(())
}

/// A bundle of the programs under test, made once.
fn bundle() -> Result<&'static Path, Failed> {
    static BUNDLE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = BUNDLE.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-bundle");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu_bundle.py");
        let release = Path::new(env!("CARGO_BIN_EXE_capstan"))
            .parent()
            .unwrap_or(&out);
        let mut command = Command::new("python3");
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(script)
            .arg("--release")
            .arg(release)
            .arg("--out")
            .arg(&out)
            .args(["--largest-mb", LARGEST_MB]);
        match command.output() {
            Ok(output) if output.status.success() => Ok(out.join("capstan-gpu-check")),
            Ok(output) => Err(format!("{:#?}", Said::from(output))),
            Err(error) => Err(error.to_string()),
        }
    });
    Ok(made.as_deref().map_err(|problem| problem.as_str())?)
}

/// The files below a folder by their names relative to it, in order.
fn files(folder: &Path) -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(folder)?.display().to_string());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A machine with the bundle and little else: an empty environment, a PATH of its own.
struct Bare {
    folder: TempDir,
}

impl Bare {
    fn new() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(bundle()?.with_extension("tar.gz"))
            .arg("-C")
            .arg(folder.path())
            .output()?;
        Said::from(unpacked).ended_with(0)?;
        let bin = folder.path().join("bin");
        fs::create_dir(&bin)?;
        let python = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()?;
        let python = String::from_utf8(python.stdout)?;
        symlink(python.trim(), bin.join("python3"))?;
        Ok(Self { folder })
    }

    /// Puts a shell script on the PATH.
    fn program(&self, name: &str, script: &str) -> Result<PathBuf, Failed> {
        let path = self.folder.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    /// Steps on simulated cards, in an environment that is empty but for what is planted, and with no results of before.
    fn on_cards(
        &self,
        cards: &Path,
        steps: &str,
        planted: &[(&str, &str)],
    ) -> Result<Said, Failed> {
        let _ = fs::remove_dir_all(self.results());
        let (cards, results) = (cards.to_string_lossy(), self.results());
        let (python, results) = (self.torch()?, results.to_string_lossy());
        let smi = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/nvidia_smi.py");
        fs::copy(smi, self.folder.path().join("bin/nvidia-smi"))?;
        let mut command = self.command();
        command
            .args(["--simulated", &cards, "--python", &python])
            .args(["--results", &results, "--only", steps])
            .envs(planted.iter().copied());
        Ok(Said::from(command.output()?))
    }

    /// A program that answers as a Python with PyTorch 2.11 would, whose libraries are those of the build: the suite has none.
    fn torch(&self) -> Result<String, Failed> {
        let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/libtorch");
        let torch = fs::canonicalize(torch)?;
        let answer = format!(r#"echo '["2.11.0", "{}", null]'"#, torch.display());
        Ok(self
            .program("python-with-torch", &answer)?
            .display()
            .to_string())
    }

    /// What the check says there.
    fn check(&self, arguments: &[&str]) -> Result<Said, Failed> {
        Ok(Said::from(self.command().args(arguments).output()?))
    }

    fn command(&self) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(folder.join("capstan-gpu-check/scripts/gpu-check.sh"));
        command
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", folder.join("bin").display()),
            )
            .stdin(Stdio::null());
        command
    }
}
