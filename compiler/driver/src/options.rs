//! How to compile.

use std::path::Path;
use std::sync::Arc;

use lathe_codegen::Target;
use lathe_import::RopeScaling;
use lathe_ir::CustomOps;
use lathe_passes::WeightBits;
use lathe_plan::{Activations, PlanOptions};
use lathe_tensor::DType;

/// How to compile a model. The default compiles for this machine with every pass.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Sizes for named symbolic dims of the inputs: `("batch", 1)`.
    pub dims: Vec<(String, i64)>,
    /// Inputs that are bools, what they are: they are no inputs of the program.
    pub known: Vec<(String, bool)>,
    /// Passes to leave out.
    pub disable: Vec<String>,
    /// Key and value heads to merge to, by the means of groups of heads, which changes the answer.
    pub kv_heads: Option<usize>,
    /// Bits that weights get, which changes the answer; they stay as they are where absent.
    pub weight_bits: Option<WeightBits>,
    /// Stop after this many rewrites.
    pub stop_after: Option<usize>,
    /// Bytes that compiling may take, mapped files apart.
    pub max_memory: u64,
    /// What to generate code for; this machine where empty.
    pub targets: Vec<Target>,
    /// How products with quantised weights compute.
    pub activations: Activations,
    /// Elements of the cache of keys and values: f32, f16, bf16, or i8 with a scale a token and head.
    pub kv: DType,
    /// Pages hold the short rows that latent attention makes keys and values of (DeepSeek), with sums in another order than in `main`. On
    /// for checkpoints: whoever exported a graph may compare bits.
    pub latent: bool,
    /// Other rotary embeddings than the configuration's.
    pub rope: Option<RopeScaling>,
    /// What rotary frequencies are rounded to.
    pub frequencies: DType,
    /// Verify the module after each pass.
    pub check_passes: bool,
    /// Operators that the app brings. The compile cache knows them by domain, name and first opset: one that changes its shapes
    /// needs another of these, or no cache.
    pub custom: Arc<CustomOps>,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            dims: Vec::new(),
            known: Vec::new(),
            disable: Vec::new(),
            kv_heads: None,
            weight_bits: None,
            stop_after: None,
            max_memory: 6 << 30,
            targets: Vec::new(),
            activations: Activations::default(),
            kv: DType::F32,
            latent: false,
            rope: None,
            frequencies: DType::F32,
            check_passes: cfg!(debug_assertions),
            custom: Arc::default(),
        }
    }
}

impl CompileOptions {
    /// The options with what a model file is compiled with by default.
    pub(crate) fn for_model(&self, path: &Path) -> Self {
        Self { latent: self.latent || !lathe_import::is_exported(path), ..self.clone() }
    }

    /// What of the options changes the artifact, as text for the cache's key.
    pub(crate) fn fingerprint(&self) -> String {
        let Self {
            dims,
            known,
            disable,
            kv_heads,
            weight_bits,
            stop_after,
            max_memory: _,
            targets,
            activations,
            kv,
            latent,
            rope,
            frequencies,
            check_passes: _,
            custom,
        } = self;
        format!(
            "{dims:?} {known:?} {disable:?} {kv_heads:?} {weight_bits:?} {stop_after:?} {targets:?} {activations:?} {kv:?} {latent:?} {rope:?} {frequencies:?} {custom:?}"
        )
    }

    /// What of the options the planner takes.
    pub(crate) fn plan(&self) -> PlanOptions {
        PlanOptions { activations: self.activations, ..PlanOptions::default() }
    }
}
