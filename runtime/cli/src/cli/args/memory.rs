//! How models are changed on their way in: rotary embeddings, and the cache of keys and values.

use clap::{Args, ValueEnum};
use lathe_compiler::RopeScaling;
use lathe_tensor::DType;

use crate::cli::error::CliError;
use crate::cli::sizing::CacheType;

/// `--kv`, of commands that compile for generation.
#[derive(Args, Debug, Clone, Copy)]
pub struct KvArg {
    /// Elements in which keys and values of earlier tokens are kept; default: f32
    #[arg(long, env = "LATHE_KV", value_enum)]
    pub kv: Option<CacheType>,
}

impl KvArg {
    /// The dtype of a new cache.
    pub fn dtype(self) -> DType {
        self.kv.map_or(DType::F32, CacheType::dtype)
    }
}

/// Other rotary embeddings than those of the configuration.
#[derive(Args, Debug, Clone, Default)]
pub struct RopeArgs {
    /// Stretch rotary embeddings in this way, whatever the configuration says
    #[arg(long, global = true, env = "LATHE_ROPE_SCALING", value_enum, value_name = "KIND")]
    pub rope_scaling: Option<RopeKind>,
    /// How far --rope-scaling stretches
    #[arg(long, global = true, env = "LATHE_ROPE_FACTOR", value_name = "X")]
    pub rope_factor: Option<f64>,
    /// Tokens that the model was trained for; default: what the configuration says
    #[arg(long, global = true, env = "LATHE_ROPE_ORIGINAL", value_name = "N")]
    pub rope_original: Option<usize>,
    /// What else --rope-scaling takes, by its name in configurations, such as beta_fast=32 or long_factor=1,1.5,2 (repeatable)
    #[arg(long, global = true, env = "LATHE_ROPE_PARAMETER", value_name = "NAME=X", value_parser = parameter)]
    pub rope_parameter: Vec<(String, Vec<f64>)>,
    /// Round rotary frequencies to this dtype, as a PyTorch module has them that was converted to it as a whole
    #[arg(
        long,
        global = true,
        env = "LATHE_ROPE_FREQUENCIES",
        value_enum,
        default_value = "f32",
        hide_default_value = true
    )]
    pub rope_frequencies: FloatChoice,
}

impl RopeArgs {
    /// What is asked for.
    pub fn scaling(&self) -> Result<Option<RopeScaling>, CliError> {
        let Some(kind) = self.rope_scaling else {
            let given = self.rope_factor.is_some() || self.rope_original.is_some();
            if given || !self.rope_parameter.is_empty() {
                let reason =
                    "--rope-factor, --rope-original and --rope-parameter go with --rope-scaling KIND";
                return Err(CliError::Usage(reason.into()));
            }
            return Ok(None);
        };
        let name = kind.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
        let Some(kind) = RopeScaling::kind_of(&name) else {
            return Err(CliError::Usage(format!("--rope-scaling has no kind {name}")));
        };
        let (factor, original) = (self.rope_factor, self.rope_original);
        Ok(Some(RopeScaling { kind, factor, original, parameters: self.rope_parameter.clone() }))
    }
}

/// `--rope-scaling`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Frequencies divided by the factor.
    Linear,
    /// A larger base.
    Ntk,
    /// A base that grows with the text.
    Dynamic,
    /// Fast pairs kept, slow ones divided, an attention factor.
    Yarn,
    /// The bands of Llama 3.1.
    Llama3,
    /// A factor a pair, one list for short texts and one for long ones.
    Longrope,
}

/// `--rope-frequencies`.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatChoice {
    /// As they are.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl FloatChoice {
    /// The dtype.
    pub fn dtype(self) -> DType {
        match self {
            FloatChoice::F32 => DType::F32,
            FloatChoice::F16 => DType::F16,
            FloatChoice::Bf16 => DType::BF16,
        }
    }
}

fn parameter(text: &str) -> Result<(String, Vec<f64>), String> {
    let expected = || "expected NAME=X or NAME=X,Y,..., such as beta_fast=32".to_string();
    let (name, numbers) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(expected)?;
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let numbers: Option<Vec<f64>> = numbers.split(',').map(number).collect();
    Ok((name.to_string(), numbers.ok_or_else(expected)?))
}
