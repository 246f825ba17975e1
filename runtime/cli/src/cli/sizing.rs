//! The flags of `plan` and `compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lathe_tensor::DType;

use super::args::{Common, JsonFlag};

/// What a plan is made for.
#[derive(Args, Debug, Clone, Copy)]
pub struct Sizing {
    /// Tokens a sequence; default: what the model was made for
    #[arg(long, env = "LATHE_CONTEXT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub context: Option<u64>,
    /// Sequences at once
    #[arg(long, env = "LATHE_BATCH", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub batch: u64,
    /// Elements of the cache
    #[arg(long, env = "LATHE_KV", value_enum, default_value = "f16")]
    pub kv: CacheType,
}

/// Elements of a cache of keys and values.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
    /// 1 byte, and a scale of 4 bytes for each key and each value of a token and head.
    Int8,
}

impl CacheType {
    /// The dtype of an element.
    pub fn dtype(self) -> DType {
        match self {
            CacheType::F32 => DType::F32,
            CacheType::F16 => DType::F16,
            CacheType::Bf16 => DType::BF16,
            CacheType::Int8 => DType::I8,
        }
    }

    /// The choice that keeps elements of this dtype.
    pub fn of(dtype: DType) -> Option<Self> {
        Self::value_variants().iter().copied().find(|choice| choice.dtype() == dtype)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Bf16 => "bf16",
            CacheType::Int8 => "int8",
        }
    }
}

/// `lathe plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A config.json, a folder with one, or a model file
    pub model: PathBuf,
    /// What for.
    #[command(flatten)]
    pub sizing: Sizing,
}

impl PlanArgs {
    /// The memory that must be enough: only where the user named it, as a plan may be for another machine.
    pub fn limit(&self, common: &Common) -> Option<u64> {
        common.max_memory.map(|size| size.0)
    }
}

/// `lathe compare`.
#[derive(Args, Debug)]
pub struct CompareArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// Each a config.json, a folder with one, or a model file
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// What for.
    #[command(flatten)]
    pub sizing: Sizing,
}
