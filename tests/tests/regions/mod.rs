//! Plans of regions that are made by hand or at random, and models of them.
#![allow(dead_code)]

pub mod interpreter;
pub mod random;

use std::collections::BTreeMap;

use lathe_artifact::plan::{
    DimExpr, DimId, Plan, Port, Slot, SlotId, SlotKind, Step, StepId, StepKind, TensorRef, View,
};
use lathe_artifact::region::Region;
use lathe_artifact::{Artifact, PlannedFunction, build_id};
use lathe_codegen::{Target, generate};
use lathe_runtime::{LoadOptions, Model};
use lathe_tensor::DType;

/// A model of one plan.
pub fn model(plan: Plan, target: &Target) -> Model {
    let code = generate(&plan, target).unwrap_or_else(|error| panic!("{error}: {plan:#?}"));
    let artifact = Artifact {
        functions: vec![PlannedFunction { plan, code: vec![code] }],
        weights: BTreeMap::new(),
        ir_text: String::new(),
        build_id: build_id().to_string(),
        report: serde_json::Value::Null,
    };
    Model::from_artifact(artifact, &LoadOptions::default()).unwrap()
}

/// A step with its number.
pub fn step(id: u32, kind: StepKind) -> Step {
    Step { id: StepId(id), kind, node: "fused".to_string(), op: "region".to_string(), reason: String::new() }
}

/// A plan over byte strings: slots of `bytes`, the first `inputs` of them inputs, the rest outputs. `region` gets a function that
/// enters constants in the dims table.
pub fn plan_of_region(
    bytes: &[usize],
    inputs: usize,
    region: impl FnOnce(&mut dyn FnMut(i64) -> DimId) -> Region,
) -> Plan {
    plan_of_steps(bytes, inputs, |dim| vec![StepKind::Region(region(dim))])
}

/// The same for any steps.
pub fn plan_of_steps(
    bytes: &[usize],
    inputs: usize,
    steps: impl FnOnce(&mut dyn FnMut(i64) -> DimId) -> Vec<StepKind>,
) -> Plan {
    let mut dims = Vec::new();
    let mut dim = |value: i64| {
        dims.push(DimExpr::Const(value));
        DimId(dims.len() as u32 - 1)
    };
    let slots: Vec<Slot> = (0..)
        .zip(bytes)
        .map(|(index, &bytes)| {
            let kind = if index < inputs {
                SlotKind::Input(index as u32)
            } else {
                SlotKind::Output((index - inputs) as u32)
            };
            Slot { kind, dtype: DType::U8, bytes: dim(bytes as i64), stage: 0 }
        })
        .collect();
    let steps = steps(&mut dim).into_iter().zip(0..).map(|(kind, id)| step(id, kind)).collect();
    let ports = |range: std::ops::Range<usize>, name: &str| {
        let port = |(index, slot): (usize, usize)| {
            let view = View { slot: SlotId(slot as u32), offset: None };
            let tensor = TensorRef { view, dtype: DType::U8, dims: vec![slots[slot].bytes] };
            Port { name: format!("{name}{index}"), tensor, dims_text: vec!["bytes".to_string()] }
        };
        range.enumerate().map(port).collect()
    };
    Plan {
        name: "main".to_string(),
        symbols: Vec::new(),
        stages: 1,
        guards: Vec::new(),
        inputs: ports(0..inputs, "in"),
        outputs: ports(inputs..bytes.len(), "out"),
        steps,
        phases: 1,
        views: Vec::new(),
        states: Vec::new(),
        regimes: Vec::new(),
        routings: Vec::new(),
        composites: Default::default(),
        dim_stages: vec![0; dims.len()],
        dims,
        slots,
    }
}
