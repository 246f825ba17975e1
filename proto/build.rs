//! Compiles `onnx.proto` to Rust with a pure-Rust protobuf compiler: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=onnx.proto");
    let descriptors = protox::compile(["onnx.proto"], ["."])?;
    // `bytes` fields become `bytes::Bytes`, which share the decoded buffer instead of copying it.
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
