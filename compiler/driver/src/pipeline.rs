//! The pipeline: model file -> module -> plan -> code -> artifact.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use lathe_artifact::plan::{Plan, SymbolSource};
use lathe_artifact::{Artifact, PlannedFunction};
use lathe_codegen::Target;
use lathe_ir::{ConstantId, FunctionId, Module};
use lathe_passes::{Cache, HeadMerging, Pass, QuantizeWeights, Report};
use lathe_tensor::{Buffer, DType, Tensor};
use serde_json::{Value, json};

use crate::heads::{self, Pooling};
use crate::{CompileError, CompileOptions, caching, describe};

/// The build of this compiler: artifacts of another build are compiled again from their IR.
pub const BUILD_ID: &str = concat!("lathe ", env!("CARGO_PKG_VERSION"), " ", env!("LATHE_SOURCE_HASH"));

/// The names of functions that passes make beside `main`.
const ENTRIES: [&str; 3] = ["decode", "encode", "vision"];

/// Compiles a model file.
///
/// # Errors
/// Where the file is broken or hostile, asks for what this version does not support, or takes more than `options.max_memory`.
pub fn compile(path: &Path, options: &CompileOptions) -> Result<Artifact, CompileError> {
    compile_observed(path, options, &mut |_, _| {}).map(|(artifact, _)| artifact)
}

/// The same, with what each pass did and refused. `observe` sees the module as imported, under the name `import`, and after each
/// pass that changed it.
///
/// # Errors
/// As [`compile`].
pub fn compile_observed(
    path: &Path,
    options: &CompileOptions,
    observe: &mut dyn FnMut(&'static str, &Module),
) -> Result<(Artifact, Report), CompileError> {
    let start = Instant::now();
    let options = &options.for_model(path);
    let mut module = import(path, options)?;
    observe("import", &module);
    let ops_before = count_nodes(&module);
    let mut pooling = Pooling::default();
    let passes = optimise(&mut module, options, &mut |pass, module| {
        if options.kv_heads.is_some() {
            pooling.see(pass, module);
        }
        observe(pass, module);
    })?;
    let mut artifact = assemble(&mut module, path, options)?;
    artifact.report = report(&artifact, &module, &passes, ops_before);
    if let Some(kv_heads) = options.kv_heads {
        artifact.report["pooled"] = pooling.report(path, kv_heads, &passes)?;
    }
    artifact.report["seconds"] = json!(start.elapsed().as_secs_f64());
    Ok((artifact, passes))
}

/// Reads a model file into a module.
pub fn import(path: &Path, options: &CompileOptions) -> Result<Module, CompileError> {
    let import = lathe_import::ImportOptions {
        max_memory: options.max_memory,
        dims: options.dims.clone(),
        known: options.known.clone(),
        rope: options.rope.clone(),
        frequencies: options.frequencies,
        custom: options.custom.clone(),
    };
    Ok(lathe_import::import(path, &import)?)
}

/// Runs the passes. `observe` sees the module after each pass that changed it.
pub fn optimise(
    module: &mut Module,
    options: &CompileOptions,
    observe: &mut dyn FnMut(&'static str, &Module),
) -> Result<Report, CompileError> {
    let passes = lathe_passes::Options {
        disable: options.disable.clone(),
        stop_after: options.stop_after,
        verify: options.check_passes,
    };
    let merging = HeadMerging { kv_heads: options.kv_heads };
    let cache = Cache { dtype: options.kv, latent: options.latent };
    let mut list =
        if options.kv_heads.is_some() { heads::passes(&merging) } else { lathe_passes::standard() };
    for pass in list.iter_mut().filter(|pass| pass.name() == caching::PASS) {
        *pass = Pass::Function(&cache);
    }
    let quantize = options.weight_bits.map(|bits| QuantizeWeights { bits });
    if let Some(quantize) = &quantize {
        // First, so that no constant is folded to f32 that blocks are made of; but behind what makes new weights.
        let merged = list.iter().position(|pass| pass.name() == heads::PASS).map_or(0, |place| place + 1);
        list.insert(merged, Pass::Function(quantize));
    }
    Ok(lathe_passes::optimise(module, &list, &passes, observe)?)
}

/// Compiles the IR of an artifact whose code cannot be used: not trusted, of another build or for another CPU. Its weights are taken as
/// they are packed.
///
/// # Errors
/// Where the IR cannot be read or compiled, and where weights are packed in an older layout.
pub fn compile_ir_text(
    path: &Path,
    artifact: &Artifact,
    options: &CompileOptions,
) -> Result<Artifact, CompileError> {
    // Planning needs the types of large constants, not their elements: the packed weights are in the artifact.
    let limit = options.max_memory;
    let placeholder = |_: u64, dtype: DType, shape: &[usize]| {
        let bytes = shape
            .iter()
            .try_fold(1usize, |count, size| count.checked_mul(*size))
            .and_then(|count| dtype.storage_bytes(count));
        bytes.filter(|bytes| *bytes as u64 <= limit).and_then(|_| Tensor::zeros(dtype, shape).ok())
    };
    let module = parsed(&artifact.ir_text, &placeholder, path, options)?;
    let (functions, planned) = plan_and_generate(&module, path, options)?;
    for weight in &planned {
        let expected = weight.packing.packed_len().and_then(Result::ok);
        let expected = expected.and_then(|length| weight.packing.dtype().storage_bytes(length));
        let found = artifact.weights.get(&weight.name).map(|packed| packed.bytes().len());
        if let (Some(expected), Some(found)) = (expected, found)
            && expected != found
        {
            let (path, weight) = (path.to_path_buf(), weight.name.clone());
            return Err(CompileError::Packed { path, weight, found, expected });
        }
    }
    Ok(Artifact {
        functions,
        weights: artifact.weights.clone(),
        ir_text: artifact.ir_text.clone(),
        build_id: lathe_artifact::build_id().to_string(),
        report: artifact.report.clone(),
    })
}

/// Plans, generates and packs. The module's large constants are forgotten, each once it is packed.
fn assemble(module: &mut Module, path: &Path, options: &CompileOptions) -> Result<Artifact, CompileError> {
    // The plan is made from the text, as `compile_ir_text` will make it: weights are named by the order of constants there.
    let ir_text = module.to_string();
    let mut by_hash: BTreeMap<u64, Vec<&Tensor>> = BTreeMap::new();
    for (_, constant) in module.constants() {
        by_hash.entry(lathe_ir::constant_hash(&constant.tensor)).or_default().push(&constant.tensor);
        constant.tensor.buffer().release();
    }
    let constant = |hash: u64, dtype: DType, shape: &[usize]| {
        let same = by_hash.get(&hash)?;
        let fits = same.iter().find(|tensor| tensor.dtype() == dtype && tensor.shape() == shape);
        fits.or_else(|| same.first()).map(|tensor| (*tensor).clone())
    };
    let parsed = &mut parsed(&ir_text, &constant, path, options)?;
    let large = module.constants().filter(|(_, constant)| constant.tensor.bytes().len() >= LARGE);
    let large: Vec<ConstantId> = large.map(|(id, _)| id).collect();
    large.into_iter().for_each(|id| module.forget(id));
    let (functions, planned) = plan_and_generate(parsed, path, options)?;
    Ok(Artifact {
        functions,
        weights: packed(parsed, &planned, path)?,
        ir_text,
        build_id: lathe_artifact::build_id().to_string(),
        report: Value::Null,
    })
}

/// Bytes from which on constants are forgotten once they are packed.
const LARGE: usize = 1 << 20;

/// The weights as the plan asks for them.
fn packed(
    module: &mut Module,
    planned: &[lathe_plan::PlannedWeight],
    path: &Path,
) -> Result<BTreeMap<String, Tensor>, CompileError> {
    let mut uses: BTreeMap<ConstantId, usize> = BTreeMap::new();
    for weight in planned {
        *uses.entry(weight.constant).or_default() += 1;
    }
    let (mut weights, mut read) = (BTreeMap::new(), Vec::new());
    for weight in planned {
        let packed = lathe_plan::pack(module, weight).map_err(|source| plan_error(path, source))?;
        weights.insert(weight.name.clone(), own_small(packed));
        // Mapped sources are read once: they need not stay in memory beside what was made of them.
        let source = module.constant(weight.constant).tensor.buffer();
        source.release();
        if source.is_mapped() {
            read.push(source.clone());
        }
        let left = uses.entry(weight.constant).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            module.forget(weight.constant);
        }
    }
    // Whoever reads a page may map its neighbours, those of weights that were released before.
    read.iter().for_each(Buffer::release);
    Ok(weights)
}

/// Small weights leave a mapped file: with each of them the system may map megabytes of its neighbours.
fn own_small(tensor: Tensor) -> Tensor {
    let bytes = tensor.bytes();
    if !tensor.buffer().is_mapped() || bytes.len() >= LARGE {
        return tensor;
    }
    let owned = Tensor::new(tensor.dtype(), tensor.shape().to_vec(), Buffer::copy_of(bytes));
    owned.unwrap_or(tensor)
}

fn parsed(
    text: &str,
    constants: lathe_ir::Lookup<'_>,
    path: &Path,
    options: &CompileOptions,
) -> Result<Module, CompileError> {
    lathe_ir::parse_custom(text, constants, options.custom.clone())
        .map_err(|error| CompileError::Ir { path: path.to_path_buf(), reason: error.to_string() })
}

fn plan_and_generate(
    module: &Module,
    path: &Path,
    options: &CompileOptions,
) -> Result<(Vec<PlannedFunction>, Vec<lathe_plan::PlannedWeight>), CompileError> {
    let codegen = |source| CompileError::Codegen { path: path.to_path_buf(), source };
    let main = module.main().ok_or_else(|| CompileError::Ir {
        path: path.to_path_buf(),
        reason: "the module has no functions".to_string(),
    })?;
    let entries = entries(module, main);
    let planned =
        lathe_plan::plan_all(module, &entries, &options.plan()).map_err(|source| plan_error(path, source))?;
    let native;
    let targets = match &options.targets[..] {
        [] => {
            native = [Target::native().map_err(codegen)?];
            &native[..]
        }
        targets => targets,
    };
    let mut functions = Vec::with_capacity(planned.plans.len());
    for plan in planned.plans {
        let code = targets
            .iter()
            .map(|target| lathe_codegen::generate(&plan, target).map_err(codegen))
            .collect::<Result<_, _>>()?;
        functions.push(PlannedFunction { plan, code });
    }
    Ok((functions, planned.weights))
}

/// The functions that a program offers: `main`, and what passes made beside it.
pub(crate) fn entries(module: &Module, main: FunctionId) -> Vec<FunctionId> {
    let made = ENTRIES.iter().filter_map(|name| module.function_named(name));
    let called = |id: FunctionId| {
        module.functions().any(|(_, function)| {
            let nodes = function.node_ids().filter_map(|node| function.node(node));
            nodes.flat_map(|node| node.operation.callees()).any(|callee| callee == id)
        })
    };
    std::iter::once(main).chain(made.filter(|&id| id != main && !called(id))).collect()
}

pub(crate) fn plan_error(path: &Path, source: lathe_plan::PlanError) -> CompileError {
    CompileError::Plan { path: path.to_path_buf(), source }
}

pub(crate) fn count_nodes(module: &Module) -> usize {
    module.functions().map(|(_, function)| function.node_count()).sum()
}

/// The size that memory is reported for: one item a batch, 128 along other axes.
pub fn typical_size(axis: usize) -> i64 {
    if axis == 0 { 1 } else { 128 }
}

fn typical_dims(plan: &Plan) -> String {
    let sizes = plan.symbols.iter().filter_map(|symbol| match symbol.source {
        SymbolSource::Input { axis, .. } => Some(format!("{}={}", symbol.name, typical_size(axis as usize))),
        SymbolSource::Step { .. } => None,
    });
    sizes.collect::<Vec<_>>().join(", ")
}

/// What the compile report says, as JSON (see `docs/JSON.md`).
fn report(artifact: &Artifact, module: &Module, passes: &Report, ops_before: usize) -> Value {
    let applied: Vec<Value> = passes
        .passes
        .iter()
        .filter(|pass| !pass.applied.is_empty())
        .map(|pass| json!({"pass": pass.name, "applied": pass.applied.len()}))
        .collect();
    let refused: usize = passes.passes.iter().map(|pass| pass.refused.len()).sum();
    let weight_bytes: usize = artifact.weights.values().map(|weight| weight.bytes().len()).sum();
    let plan = artifact.functions.first().map(|function| &function.plan);
    let estimate = plan.map(|plan| plan.estimate(&|_, axis| Some(typical_size(axis)))).unwrap_or_default();
    let decode = artifact.functions.iter().map(|function| &function.plan).find(|plan| plan.name == "decode");
    let mut nodes: serde_json::Map<String, Value> = module
        .functions()
        .map(|(_, function)| (function.name().to_string(), describe(function).into()))
        .collect();
    caching::annotate(module, &mut nodes);
    json!({
        "arena_peak_bytes": estimate.arena_peak_bytes,
        "arena_lower_bound_bytes": estimate.arena_lower_bound_bytes,
        "arena_dims": plan.map(typical_dims),
        "nodes": nodes,
        "ops_before": ops_before,
        "ops_after": count_nodes(module),
        "passes": applied,
        "refused": refused,
        "weight_bytes": weight_bytes,
        "cache": caching::report(module, passes, decode),
        "kv_bytes_per_token": decode.map_or(0, |plan| plan.kv_bytes_per_token()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
graph "main" (x: f32[s, 64]) {
  c0 = const f32[96, 64] #0000000000000002 {"blocked":"q5_0"}
  %0 = transpose c0 {perm=[1,0]}
  %1 = matmul x, %0
  return %1 as y
}
"#;

    #[test]
    fn weights_of_another_layout_are_refused() {
        let mut artifact = Artifact {
            functions: Vec::new(),
            weights: BTreeMap::new(),
            ir_text: TEXT.to_string(),
            build_id: "older".to_string(),
            report: Value::Null,
        };
        let (path, options) = (Path::new("m.lathe"), CompileOptions::default());
        let packed = |artifact: &Artifact| compile_ir_text(path, artifact, &options);
        let first = packed(&artifact).expect("a program");
        let mut names = first.functions[0].plan.slots.iter().filter_map(|slot| match &slot.kind {
            lathe_artifact::plan::SlotKind::Weight(name) => Some(name.clone()),
            _ => None,
        });
        let name = names.next().expect("a weight");
        let with = |bytes: usize| Tensor::zeros(DType::U8, &[bytes]).expect("bytes");
        // A byte an element and a scale of 16 bits a block, as 5 bits were once packed.
        artifact.weights.insert(name.clone(), with(96 * 64 + 96 * 2 * 2));
        let error = packed(&artifact).expect_err("another layout").to_string();
        assert!(error.contains(&name) && error.contains("compile the model again"), "{error}");
        artifact.weights.insert(name, with(96 * 2 * (2 + 4 + 16)));
        assert!(packed(&artifact).is_ok());
    }
}
