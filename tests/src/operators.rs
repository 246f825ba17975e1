//! The page of operators: what the importer's table, inference, the evaluator and the planner say, asked with one small model an
//! operator (`fixtures/operators`) and every dtype.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use lathe_artifact::plan::{Plan, Step, StepKind};
use lathe_compiler::CompileOptions;
use lathe_ir::{EvaluateError, EvaluateOptions, Module, evaluate};
use lathe_ops::EvalError;
use lathe_proto::onnx::tensor_proto::DataType;
use lathe_proto::onnx::{ModelProto, type_proto};
use lathe_tensor::{DType, Tensor};
use prost::Message;

/// Every dtype of the standard that operands have, as the standard and as Lathe call it.
const DTYPES: &[(DataType, DType)] = &[
    (DataType::Float, DType::F32),
    (DataType::Float16, DType::F16),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Double, DType::F64),
    (DataType::Int8, DType::I8),
    (DataType::Int16, DType::I16),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
    (DataType::Uint8, DType::U8),
    (DataType::Uint16, DType::U16),
    (DataType::Uint32, DType::U32),
    (DataType::Uint64, DType::U64),
    (DataType::Bool, DType::Bool),
    (DataType::String, DType::String),
];

/// What stands above the table.
const TOP: &str = "\
# Operators

Every operator that the importer reads; `cargo run --release -p lathe-tests --example operators` writes this page, and a test compares it.

- **opsets**: from the first version of its domain whose meaning is known; of `ai.onnx` up to 28. Differences between versions are resolved by the importer.
- **dtypes**: of the first operand (and of the others that have its dtype), measured with one small model an operator in `fixtures/operators`: imported, inferred
  and evaluated. An operator may take more by other operands (`Cast`, `QuantizeLinear`: f8, f4 and integers of 2 and 4 bits).
- **native**: for which of them the program of that model has no evaluator step, and the kernels it has; `region` is a generated loop, `view` costs
  nothing, `constant` is computed when the model is compiled. Other shapes and attributes may need the evaluator where these do not: `lathe explain MODEL` tells why.

| operator | opsets | dtypes | native | kernels |
| --- | --- | --- | --- | --- |
";

/// What is measured of an operator.
#[derive(Default)]
struct Measured {
    dtypes: Vec<String>,
    native: Vec<String>,
    kernels: BTreeSet<String>,
}

/// The text of `docs/OPERATORS.md`.
///
/// # Errors
/// Where the samples cannot be read.
pub fn page() -> Result<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/operators");
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut page = TOP.to_string();
    for operator in lathe_import::operators() {
        let shown = match operator.domain {
            "" => operator.name.to_string(),
            domain => format!("{domain}.{}", operator.name),
        };
        let sample = folder.join(format!("{shown}.onnx"));
        let measured = match std::fs::read(&sample) {
            Ok(bytes) => measure(&bytes, scratch.path()).map_err(|error| format!("{shown}: {error}"))?,
            Err(_) => Measured::default(),
        };
        let last = if operator.domain.is_empty() { "28" } else { "" };
        let kernels =
            measured.kernels.iter().map(|kernel| format!("`{kernel}`")).collect::<Vec<_>>().join(", ");
        let or_dash = |list: String| if list.is_empty() { "-".to_string() } else { list };
        let native = match measured.native == measured.dtypes && !measured.native.is_empty() {
            true => "all".to_string(),
            false => or_dash(measured.native.join(" ")),
        };
        let (since, dtypes) = (operator.since, or_dash(measured.dtypes.join(" ")));
        writeln!(page, "| {shown} | {since}-{last} | {dtypes} | {native} | {} |", or_dash(kernels))
            .map_err(|error| error.to_string())?;
    }
    Ok(page)
}

fn measure(bytes: &[u8], scratch: &Path) -> Result<Measured, String> {
    let model = ModelProto::decode(bytes).map_err(|error| error.to_string())?;
    let own = first_type(&model);
    let mut measured = Measured::default();
    for &(kind, dtype) in DTYPES {
        let Some(own) = own else { break };
        let path = scratch.join("model.onnx");
        let variant = retyped(model.clone(), own, kind);
        std::fs::write(&path, variant.encode_to_vec()).map_err(|error| error.to_string())?;
        let Some((module, plan)) = compiled(&path) else { continue };
        if !evaluates(&module) {
            continue;
        }
        measured.dtypes.push(dtype.to_string());
        let kernels = kernels(&plan);
        if !kernels.contains("evaluator") {
            measured.native.push(dtype.to_string());
        }
        if kind as i32 == own || measured.kernels.is_empty() {
            measured.kernels = kernels;
        }
    }
    Ok(measured)
}

/// The data type of the first operand that is a tensor.
fn first_type(model: &ModelProto) -> Option<i32> {
    let graph = model.graph.as_ref()?;
    let name = graph.node.first()?.input.first()?;
    let input = graph.input.iter().find(|input| input.name() == name);
    match input.and_then(|input| input.r#type.as_ref()?.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor.elem_type,
        Some(_) => None,
        None => graph.initializer.iter().find(|tensor| tensor.name() == name)?.data_type,
    }
}

/// The model with inputs of another data type; constants keep theirs.
fn retyped(mut model: ModelProto, from: i32, to: DataType) -> ModelProto {
    let inputs = model.graph.iter_mut().flat_map(|graph| &mut graph.input);
    for ty in inputs.filter_map(|input| input.r#type.as_mut()) {
        if let Some(type_proto::Value::TensorType(tensor)) = &mut ty.value
            && tensor.elem_type == Some(from)
        {
            tensor.elem_type = Some(to as i32);
        }
    }
    model
}

/// The module as imported and the plan of what the passes make of it.
fn compiled(path: &Path) -> Option<(Module, Plan)> {
    let options = CompileOptions::default();
    let module = lathe_compiler::import(path, &options).ok()?;
    let mut optimised = module.clone();
    lathe_compiler::optimise(&mut optimised, &options, &mut |_, _| {}).ok()?;
    let main = optimised.main()?;
    let planned = lathe_plan::plan(&optimised, main, &lathe_plan::PlanOptions::default()).ok()?;
    Some((module, planned.plan))
}

/// Whether the evaluator takes the dtypes: an operand of ones may still be a bad value.
fn evaluates(module: &Module) -> bool {
    let Some(main) = module.main() else { return false };
    let function = module.function(main);
    let mut inputs = Vec::new();
    for &input in function.inputs() {
        let ty = function.ty(input);
        let shape: Vec<usize> =
            ty.dims.iter().map(|dim| dim.as_constant().map_or(2, |size| size as usize)).collect();
        match Tensor::zeros(ty.dtype, &shape) {
            Ok(tensor) => inputs.push(tensor),
            Err(_) => return false,
        }
    }
    match evaluate(module, main, &inputs, &EvaluateOptions::default()) {
        Err(EvaluateError::Node { source, .. }) => {
            !matches!(*source, EvalError::DType { .. } | EvalError::Unsupported { .. })
        }
        _ => true,
    }
}

/// Names of what the steps of a plan are.
fn kernels(plan: &Plan) -> BTreeSet<String> {
    fn walk(steps: &[Step], found: &mut BTreeSet<String>) {
        for step in steps {
            let name = match &step.kind {
                StepKind::Call(call) => call.builtin.name(),
                StepKind::Evaluate(_) => "evaluator",
                StepKind::Region(_) => "region",
                StepKind::If { then_steps, else_steps, .. } => {
                    walk(then_steps, found);
                    walk(else_steps, found);
                    "branch"
                }
                StepKind::Loop(repeat) => {
                    walk(&repeat.steps, found);
                    "loop"
                }
                _ => continue,
            };
            found.insert(name.to_string());
        }
    }
    let mut found = BTreeSet::new();
    walk(&plan.steps, &mut found);
    if found.is_empty() {
        found.insert(if plan.views.is_empty() { "constant" } else { "view" }.to_string());
    }
    found
}

/// Where the page lies.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATORS.md")
}
