//! Hashes the sources that decide what an artifact looks like, so that another build does not run this build's code.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for room in [
        "compiler",
        "passes/src",
        "proto",
        "runtime/artifact/src",
        "runtime/kernels/src",
        "runtime/tensor/src",
    ] {
        collect(&root.join(room), &mut files);
        println!("cargo:rerun-if-changed={}", root.join(room).display());
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        if let Ok(bytes) = std::fs::read(&file) {
            bytes.hash(&mut hasher);
        }
    }
    println!("cargo:rustc-env=LATHE_SOURCE_HASH={:016x}", hasher.finish());
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "proto") {
            files.push(path);
        }
    }
}
