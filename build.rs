//! Compiles the C++ shim against the libtorch that torch-sys links, and lets the programs find it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo:rerun-if-changed=src/torch/shim.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!("cargo:warning=LIBTORCH is not set; `make setup` links target/libtorch");
        println!("cargo:rustc-env=CAPSTAN_LIBTORCH=none");
        return;
    };
    println!("cargo:rustc-env=CAPSTAN_LIBTORCH={}", version(&libtorch));
    let include = libtorch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/torch/shim.cpp")
        .compile("capstan_shim");
    // Beside the program in target/release, beside the tests in target/release/deps, and absolute.
    let absolute = libtorch.canonicalize().unwrap_or(libtorch).join("lib");
    println!(
        "cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../libtorch/lib:$ORIGIN/../../libtorch/lib:{}",
        absolute.display()
    );
}

/// The version of a torch as pip laid it out, or of a folder that `make setup` made.
fn version(libtorch: &Path) -> String {
    let read = |name: &str| fs::read_to_string(libtorch.join(name)).ok();
    let from_wheel = read("version.py").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        Some(line.split(['\'', '"']).nth(1)?.to_owned())
    });
    from_wheel
        .or_else(|| read("VERSION").map(|text| text.trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}
