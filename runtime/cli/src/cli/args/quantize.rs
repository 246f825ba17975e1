//! Weights of other precisions.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::JsonFlag;

/// `--precision`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// 8-bit integers, 32 with a scale.
    Int8,
    /// 4-bit integers, 32 with a scale and a minimum; 8 bits for the vocabulary.
    Int4,
}

/// `lathe quantize`, `lathe convert`.
#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A folder with config.json and *.safetensors; with `-o NAME.lathe` any model
    pub model: PathBuf,
    /// The folder to write, which may not hold anything; NAME.lathe for a compiled program
    #[arg(short, long, env = "LATHE_OUTPUT", value_name = "DIR")]
    pub output: PathBuf,
    /// Merge key and value heads to this many by their means
    #[arg(long, env = "LATHE_KV_HEADS", value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Compare answers, and perplexity, on the text in this file; without it on made-up inputs
    #[arg(long, env = "LATHE_TEXT", value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Seed of made-up inputs
    #[arg(long, env = "LATHE_SEED", value_name = "N", default_value_t = 0)]
    pub seed: u64,
}
