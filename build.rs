//! Compiles the C++ shim against the libtorch that torch-sys links, and lets the programs find it.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/torch/shim.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!("cargo:warning=LIBTORCH is not set; `make setup` links target/libtorch");
        return;
    };
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
