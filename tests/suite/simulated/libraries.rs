//! Compiles the stand-ins for libtorch_cuda, NCCL and NVML, once for all trials and all runs of the suite.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
    thread,
};

use libtest_mimic::Failed;

/// How many files are compiled at the same time.
const AT_ONCE: usize = 2;
const FLAGS: [&str; 6] = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-fPIC",
    "-Wall",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
];

/// Returns the reason why the stand-ins can't be compiled on this machine, if there is one.
pub fn missing() -> Option<&'static str> {
    let has = |program: &str| {
        let asked = Command::new(program).arg("--version").output();
        asked.is_ok_and(|answer| answer.status.success())
    };
    (!has("c++") || !has("cc")).then_some("no C++ compiler")
}

/// Returns the folder with the three libraries; the first caller compiles them while the others wait.
///
/// # Errors
/// They do not compile; the text holds what the compiler said.
pub fn folder() -> Result<&'static Path, Failed> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = FOLDER.get_or_init(|| Sources::read().and_then(|sources| sources.libraries()));
    Ok(built.as_deref().map_err(|problem| problem.as_str())?)
}

/// What the libraries are made of.
struct Sources {
    /// The stand-in's folder, with what it includes.
    folder: PathBuf,
    /// Its C++ files, the longest first.
    files: Vec<PathBuf>,
    nvml: PathBuf,
    libtorch: PathBuf,
}

impl Sources {
    fn read() -> Result<Self, String> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let folder = tests.join("simulated_gpu");
        let libtorch = env::var_os("LIBTORCH").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/libtorch"),
            PathBuf::from,
        );
        let named = |error: io::Error| format!("{}: {error}", folder.display());
        let mut files = files_in(&folder).map_err(named)?;
        files.retain(|path| path.extension().is_some_and(|end| end == "cpp"));
        files
            .sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |meta| meta.len())));
        Ok(Self {
            nvml: tests.join("suite/fake_nvml.c"),
            libtorch: fs::canonicalize(&libtorch)
                .map_err(|error| format!("{}: {error}", libtorch.display()))?,
            folder,
            files,
        })
    }

    /// The folder of the libraries, compiled if it is not there; renamed into place, so that two suites may do so at once.
    fn libraries(&self) -> Result<PathBuf, String> {
        let cache = cache();
        let key = self.key().map_err(|error| error.to_string())?;
        let target = cache.join(&key);
        if target.is_dir() {
            return Ok(target);
        }
        sweep(&cache);
        let partial = cache.join(format!(".{key}-{}", std::process::id()));
        fs::create_dir_all(&partial).map_err(|error| format!("{}: {error}", partial.display()))?;
        let built = self.build(&partial);
        if built.is_ok() && fs::rename(&partial, &target).is_ok() {
            return Ok(target);
        }
        let _ = fs::remove_dir_all(&partial);
        built.and_then(|()| match target.is_dir() {
            true => Ok(target.clone()),
            false => Err(format!("{} can't be made", target.display())),
        })
    }

    /// A name for exactly these sources, flags, compiler and libtorch.
    fn key(&self) -> io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut all = files_in(&self.folder)?;
        all.push(self.nvml.clone());
        all.sort();
        for path in all {
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(&fs::read(path)?);
        }
        let compiler = Command::new("c++").arg("--version").output()?.stdout;
        hasher.update(&compiler);
        hasher.update(FLAGS.join(" ").as_bytes());
        hasher.update(env!("CAPSTAN_LIBTORCH").as_bytes());
        hasher.update(self.libtorch.as_os_str().as_encoded_bytes());
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }

    fn build(&self, into: &Path) -> Result<(), String> {
        let queue = Mutex::new(self.files.iter());
        let next = || queue.lock().ok().and_then(|mut queue| queue.next());
        let work = || -> Result<(), String> {
            while let Some(file) = next() {
                self.compile(file, &object(into, file))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended
                .map(|ended| ended.unwrap_or_else(|_| Err("a compiling thread died".to_owned())))
                .collect::<Result<Vec<()>, String>>()
        })?;
        self.link(into)
    }

    fn compile(&self, file: &Path, object: &Path) -> Result<(), String> {
        let include = self.libtorch.join("include");
        run(Command::new("c++")
            .args(FLAGS)
            .arg("-isystem")
            .arg(&include)
            .arg("-isystem")
            .arg(include.join("torch/csrc/api/include"))
            .arg("-c")
            .arg(file)
            .arg("-o")
            .arg(object))
    }

    fn link(&self, into: &Path) -> Result<(), String> {
        let (nccl, cuda): (Vec<&PathBuf>, Vec<&PathBuf>) =
            self.files.iter().partition(|file| is_nccls(file));
        let objects = |files: Vec<&PathBuf>| -> Vec<PathBuf> {
            files.iter().map(|file| object(into, file)).collect()
        };
        let (nccl, cuda) = (objects(nccl), objects(cuda));
        let shared = |name: &str, objects: &[PathBuf]| {
            let mut command = Command::new("c++");
            command
                .arg("-shared")
                .args(objects)
                .arg(format!("-Wl,-soname,{name}"))
                .arg("-o")
                .arg(into.join(name));
            command
        };
        run(shared("libtorch_cuda.so", &cuda)
            .arg("-L")
            .arg(self.libtorch.join("lib"))
            .args(["-ltorch_cpu", "-lc10", "-Wl,--allow-shlib-undefined"]))?;
        run(shared("libnccl.so.2", &nccl).arg("-ldl"))?;
        run(Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .arg(into.join("libnvidia-ml.so"))
            .arg(&self.nvml))?;
        let place = |error: io::Error| format!("{}: {error}", into.display());
        std::os::unix::fs::symlink("libnccl.so.2", into.join("libnccl.so")).map_err(place)?;
        for object in nccl.iter().chain(&cuda) {
            fs::remove_file(object).map_err(place)?;
        }
        Ok(())
    }
}

/// `target/simulated_gpu`, wherever cargo's target folder is.
fn cache() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_capstan"));
    let target = program.ancestors().nth(2).unwrap_or(program);
    target.join("simulated_gpu")
}

/// Deletes what suites left that were ended while they compiled.
fn sweep(cache: &Path) {
    for path in files_in(cache).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let maker = name.strip_prefix('.').and_then(|name| name.split_once('-'));
        let is_left = |pid: &str| !Path::new("/proc").join(pid).exists();
        if maker.is_some_and(|(_, pid)| is_left(pid)) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn object(into: &Path, file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default();
    into.join(stem).with_extension("o")
}

fn is_nccls(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("nccl")
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
