//! Loads a model, runs it and prints the output: `cargo run --release --example embed -- MODEL.onnx`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "fixtures/models/magika.onnx".to_string());
    let model = lathe::load(path, &lathe::LoadOptions::default())?;
    let mut session = lathe::Session::new(&model)?;
    let bytes = lathe::Tensor::from_slice(&[0i32; 2048], &[1, 2048])?;
    let outputs = session.run(&[("bytes", &bytes)])?;
    for (name, tensor) in outputs.iter() {
        println!("{name}: {}{:?}", tensor.dtype(), tensor.shape());
    }
    Ok(())
}
