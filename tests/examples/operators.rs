//! Writes `docs/OPERATORS.md`: `cargo run --release -p lathe-tests --example operators`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let page = lathe_tests::operators::page()?;
    std::fs::write(lathe_tests::operators::path(), page)?;
    Ok(())
}
