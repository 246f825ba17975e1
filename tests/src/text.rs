//! Programs of modules in the text of the IR.

use std::collections::BTreeMap;

use lathe_artifact::plan::{Step, StepKind};
use lathe_artifact::{Artifact, PlannedFunction};
use lathe_codegen::Target;
use lathe_runtime::{LoadOptions, Model};
use lathe_tensor::Tensor;

/// The module, its program, and how many evaluator steps it has.
///
/// # Panics
/// Where the text is no valid module or the program cannot be made.
pub fn compiled(text: &str) -> (lathe_ir::Module, Model, usize) {
    compiled_with(text, &LoadOptions::default())
}

/// The same, loaded with options.
pub fn compiled_with(text: &str, options: &LoadOptions) -> (lathe_ir::Module, Model, usize) {
    let module = lathe_ir::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(lathe_ir::parse(&module.to_string()).expect("parses").to_string(), module.to_string());
    lathe_ir::verify(&module).expect("valid");
    let (model, evaluated) = program(&module, options);
    (module, model, evaluated)
}

/// The program of a module, and how many evaluator steps it has.
///
/// # Panics
/// Where the program cannot be made.
pub fn program(module: &lathe_ir::Module, options: &LoadOptions) -> (Model, usize) {
    let main = module.main().expect("a function");
    let planned = lathe_plan::plan(module, main, &lathe_plan::PlanOptions::default()).expect("a plan");
    planned.plan.check().expect("well formed");
    let evaluated = evaluated(&planned.plan.steps);
    let weights: BTreeMap<String, Tensor> = planned
        .weights
        .iter()
        .map(|weight| (weight.name.clone(), lathe_plan::pack(module, weight).expect("packed")))
        .collect();
    let code =
        lathe_codegen::generate(&planned.plan, &Target::native().expect("this machine")).expect("code");
    let artifact = Artifact {
        functions: vec![PlannedFunction { plan: planned.plan, code: vec![code] }],
        weights,
        ir_text: module.to_string(),
        build_id: lathe_artifact::build_id().to_string(),
        report: serde_json::Value::Null,
    };
    (Model::from_artifact(artifact, options).expect("a model"), evaluated)
}

/// Evaluator steps of a block.
fn evaluated(steps: &[Step]) -> usize {
    steps
        .iter()
        .map(|step| match &step.kind {
            StepKind::Evaluate(_) => 1,
            StepKind::If { then_steps, else_steps, .. } => evaluated(then_steps) + evaluated(else_steps),
            StepKind::Loop(repeat) => evaluated(&repeat.steps),
            _ => 0,
        })
        .sum()
}
