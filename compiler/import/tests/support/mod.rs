//! The broken and malicious models of the shared test data: for the importer's test and for that of the command line.

use std::path::{Path, PathBuf};

use lathe_tensor::{Buffer, DType, Tensor};
use serde_json::Value;

/// Model and row of each model of some kinds; none, and a word about it, without the data (`LATHE_SHARED`, or `../shared` beside
/// the workspace).
pub fn rows_of(kinds: &[&str]) -> Vec<(PathBuf, Value)> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from);
    let folder = root.join("data/hostile");
    let Ok(manifest) = std::fs::read(folder.join("manifest.json")) else {
        eprintln!("SKIPPED: no shared test data in {} (set LATHE_SHARED)", folder.display());
        return Vec::new();
    };
    let rows: Vec<Value> = serde_json::from_slice(&manifest).expect("a list of rows");
    let chosen =
        rows.into_iter().filter(|row| row["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)));
    chosen.map(|row| (folder.join(row["file"].as_str().expect("a file")), row)).collect()
}

/// A tensor of the manifest: `b64`, or `fill`, or `strings_hex`.
pub fn feed(feed: &Value) -> Option<Tensor> {
    let name = feed["dtype"].as_str()?;
    let shape: Vec<usize> = feed["shape"]
        .as_array()?
        .iter()
        .map(|size| size.as_u64().map(|size| size as usize))
        .collect::<Option<_>>()?;
    let dtype = match name.replace("uint", "u").replace("int", "i").replace("float", "f").as_str() {
        "string" | "object" => DType::String,
        short => short.parse().ok()?,
    };
    if let Some(strings) = feed["strings_hex"].as_array() {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = |hex: &Value| hex.as_str()?.as_bytes().chunks(2).map(byte).collect();
        return Tensor::from_strings(strings.iter().map(bytes).collect::<Option<_>>()?, &shape).ok();
    }
    match feed["b64"].as_str() {
        Some(text) => Tensor::new(dtype, shape, Buffer::copy_of(&base64(text))).ok(),
        None => {
            let mut tensor = Tensor::zeros(dtype, &shape).ok()?;
            let value = feed["fill"].as_f64()? as f32;
            tensor.as_mut_slice::<f32>().ok()?.fill(value);
            Some(tensor)
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
