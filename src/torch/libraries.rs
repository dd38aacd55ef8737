//! Where the libraries lie that only GPUs need, and how they are opened.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use super::TorchError;
use crate::base::read::{self, Bound};

/// Names a folder that is searched first for libtorch's CUDA half and for NCCL, so that stand-ins can be used on a
/// machine that has the real ones.
const FOLDER_VARIABLE: &str = "CAPSTAN_CUDA";
/// Names the folder of a libtorch.
const LIBTORCH_VARIABLE: &str = "LIBTORCH";
/// libtorch's CUDA half; it registers itself when it is opened.
const CUDA_HALF: &str = "libtorch_cuda.so";
/// The CPU half, which this process is linked to.
const CPU_HALF: &str = "libtorch_cpu.so";
const NCCL: &str = "libnccl.so.2";
/// Where pip lays NVRTC, seen from libtorch's libraries: of CUDA 13, and of CUDA 12.
const NVRTC_FOLDERS: [&str; 2] = ["../../nvidia/cu13/lib", "../../nvidia/cuda_nvrtc/lib"];

/// The folders that are searched for the libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The folder that `CAPSTAN_CUDA` names.
    first: Option<PathBuf>,
    /// libtorch's folders of libraries.
    libtorch: Vec<PathBuf>,
}

/// Who sees a library's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Whoever opens it.
    Own,
    /// Every library that is opened later.
    Process,
}

impl Places {
    /// `$CAPSTAN_CUDA`, then `$LIBTORCH/lib`, then the folder of the libtorch that this process is linked to, wherever
    /// the program itself lies.
    pub fn find() -> Self {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty());
        let chosen = named(LIBTORCH_VARIABLE).map(|torch| PathBuf::from(torch).join("lib"));
        let maps = read::text(Path::new("/proc/self/maps"), Bound::TOLD).unwrap_or_default();
        Self {
            first: named(FOLDER_VARIABLE).map(PathBuf::from),
            libtorch: chosen.into_iter().chain(linked_libtorch(&maps)).collect(),
        }
    }

    /// The files that may be libtorch's CUDA half, the best first; the last is a bare name, for the loader's own search.
    pub fn cuda(&self) -> Vec<PathBuf> {
        let folders = self.first.iter().chain(&self.libtorch);
        let files = folders.map(|folder| folder.join(CUDA_HALF));
        files.chain([CUDA_HALF.into()]).collect()
    }

    /// The files that may be NCCL, as [`Self::cuda`]; pip lays it beside libtorch's folder.
    pub fn nccl(&self) -> Vec<PathBuf> {
        let first = self.first.iter().map(|folder| folder.join(NCCL));
        let wheels = self.libtorch.iter();
        let wheels = wheels.map(|folder| folder.join("../../nvidia/nccl/lib").join(NCCL));
        first.chain(wheels).chain([NCCL.into()]).collect()
    }

    /// NVRTC and what it needs, as pip laid them beside libtorch's folder; none where pip did not.
    pub fn nvrtc(&self) -> Vec<PathBuf> {
        let folders = self.libtorch.iter().flat_map(|folder| {
            let folders = NVRTC_FOLDERS.into_iter();
            folders.map(move |nvrtc| folder.join(nvrtc))
        });
        let mut found = folders.map(|folder| nvrtc_in(&folder));
        found.find(|found| !found.is_empty()).unwrap_or_default()
    }
}

/// libnvrtc and libnvrtc-builtins, of whatever version; not their older variants, which are named `.alt`.
fn nvrtc_in(folder: &Path) -> Vec<PathBuf> {
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libnvrtc.so.") || name.starts_with("libnvrtc-builtins.so.")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(is_wanted);
    found.sort();
    found
}

/// The folder of the libtorch in a process's map of its memory.
fn linked_libtorch(maps: &str) -> Option<PathBuf> {
    let mut files = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]));
    let file = files.find(|file| Path::new(file).file_name() == Some(CPU_HALF.as_ref()))?;
    Path::new(file).parent().map(Path::to_owned)
}

/// Opens the first of `files` that can be opened; it stays open as long as the process lives.
///
/// # Errors
/// None can be; the loader's text about the first that exists says why.
pub fn open(files: &[PathBuf], visibility: Visibility) -> Result<Library, TorchError> {
    let flags = match visibility {
        Visibility::Own => RTLD_NOW | RTLD_LOCAL,
        Visibility::Process => RTLD_NOW | RTLD_GLOBAL,
    };
    let mut problems: Vec<(bool, String)> = Vec::new();
    for file in files {
        // SAFETY: libtorch's and NVIDIA's libraries; what they do when they are opened has no preconditions.
        match unsafe { Library::open(Some(file), flags) } {
            Ok(library) => return Ok(library),
            Err(error) => problems.push((file.exists(), in_full(&error))),
        }
    }
    let telling = problems.iter().find(|(exists, _)| *exists);
    let telling = telling.or(problems.last());
    Err(TorchError::new(
        telling.map_or("no file is named", |(_, problem)| problem),
    ))
}

fn in_full(error: &libloading::Error) -> String {
    let causes = iter::successors(std::error::Error::source(error), |error| error.source());
    causes.last().map_or(error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_comes_first_then_libtorchs_then_the_loader() {
        let places = Places {
            first: Some("/stand-in".into()),
            libtorch: vec!["/site/torch/lib".into()],
        };
        let shown = |files: Vec<PathBuf>| -> Vec<String> {
            let files = files.iter();
            files.map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            shown(places.cuda()),
            [
                "/stand-in/libtorch_cuda.so",
                "/site/torch/lib/libtorch_cuda.so",
                "libtorch_cuda.so"
            ]
        );
        assert_eq!(
            shown(places.nccl()),
            [
                "/stand-in/libnccl.so.2",
                "/site/torch/lib/../../nvidia/nccl/lib/libnccl.so.2",
                "libnccl.so.2"
            ]
        );
    }

    #[test]
    fn nvrtc_is_found_where_pip_laid_it() {
        let site = tempfile::tempdir().expect("a folder");
        let (lib, nvrtc) = (
            site.path().join("torch/lib"),
            site.path().join("nvidia/cu13/lib"),
        );
        let places = Places {
            first: None,
            libtorch: vec![lib.clone()],
        };
        assert!(places.nvrtc().is_empty());
        fs::create_dir_all(&lib).expect("made");
        fs::create_dir_all(&nvrtc).expect("made");
        for name in ["libnvrtc.so.13", "libnvrtc.alt.so.13", "libcublas.so.13"] {
            fs::write(nvrtc.join(name), "").expect("written");
        }
        fs::write(nvrtc.join("libnvrtc-builtins.so.13.0"), "").expect("written");
        let names: Vec<_> = places.nvrtc();
        let names: Vec<_> = names.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]);
    }

    #[test]
    fn the_linked_libtorch_is_found_in_this_process() {
        // A call, lest the linker leave libtorch out.
        assert!(crate::torch::runtime::enter_rank_thread(1).is_ok());
        let found = Places::find().libtorch;
        let has_it = |folder: &PathBuf| folder.join(CPU_HALF).exists();
        assert!(found.iter().any(has_it), "{found:?}");
        let maps = "7f00-7f01 r--p 00000000 00:00 12  /a b/lib/libtorch_cpu.so\n7f02-7f03 rw-p 0 00:00 0\n";
        assert_eq!(linked_libtorch(maps), Some("/a b/lib".into()));
        assert_eq!(linked_libtorch("7f02-7f03 rw-p 0 00:00 0 [heap]"), None);
    }

    #[test]
    fn what_is_wrong_with_a_file_that_exists_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let broken = folder.path().join("libnccl.so.2");
        fs::write(&broken, "no library").expect("written");
        let files = [
            "/nowhere/libnccl.so.2".into(),
            broken.clone(),
            "libnowhere.so.2".into(),
        ];
        let error = open(&files, Visibility::Own).expect_err("no library");
        assert!(
            error
                .message
                .starts_with(&broken.to_string_lossy().into_owned()),
            "{error}"
        );
        let error = open(&files[2..], Visibility::Own).expect_err("no library");
        assert!(error.message.contains("libnowhere.so.2"), "{error}");
    }
}
