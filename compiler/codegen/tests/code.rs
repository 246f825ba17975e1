//! Properties of generated code that need no execution.

mod plans;

use std::time::{Duration, Instant};

use lathe_artifact::plan::{Arg, Call, DimExpr, DimId, Plan, StepKind};
use lathe_artifact::region::{BinaryOp, RegionOpKind, UnaryOp};
use lathe_codegen::{CodegenError, Level, Target, emit_asm, generate};
use lathe_tensor::DType;
use plans::*;

const LEVELS: [Level; 3] = [Level::V2, Level::V3, Level::V4];

fn targets() -> Vec<Target> {
    LEVELS.map(Target::x86_64).into_iter().chain([Target::aarch64()]).collect()
}

/// Every instruction in every dtype: whatever Cranelift would lower to a library call fails here.
#[test]
fn every_instruction_compiles_without_libraries() {
    use DType::*;
    let dtypes = [Bool, I8, U8, I16, U16, I32, U32, I64, U64, F32, F64];
    let unary = [
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Sqrt,
        UnaryOp::Reciprocal,
        UnaryOp::Floor,
        UnaryOp::Ceil,
        UnaryOp::Round,
        UnaryOp::Sign,
        UnaryOp::Not,
        UnaryOp::Relu,
        UnaryOp::IsNan,
    ];
    let binary = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::Equal,
        BinaryOp::Less,
        BinaryOp::LessOrEqual,
        BinaryOp::And,
        BinaryOp::Or,
        BinaryOp::Xor,
    ];
    let mut kinds: Vec<RegionOpKind> = vec![RegionOpKind::Cast(0), RegionOpKind::Select(1, 0, 0)];
    kinds.extend(unary.map(|op| RegionOpKind::Unary(op, 0)));
    kinds.extend(binary.map(|op| RegionOpKind::Binary(op, 0, 0)));
    let mut steps = Vec::new();
    for (from, result) in dtypes.iter().flat_map(|from| dtypes.iter().map(move |result| (*from, *result))) {
        for kind in &kinds {
            let mut region = bias_relu(0, 1, 2);
            region.inputs[0].dtype = from;
            region.inputs[1].dtype = Bool;
            region.outputs[0].0.dtype = result;
            for (op, dtype) in region.body.iter_mut().zip([from, Bool, result]) {
                op.dtype = dtype;
            }
            region.body.truncate(3);
            region.body[2].kind = kind.clone();
            region.outputs[0].1 = 2;
            // What does not type is refused before code is made; the rest must compile.
            let alone = plan(vec![StepKind::Region(region.clone())], 3);
            if generate_checks(&alone) {
                steps.push(StepKind::Region(region));
            }
        }
    }
    assert!(steps.len() > 121 + 60, "{} typed instructions", steps.len());
    let plan = plan(steps, 3);
    for target in targets() {
        let code = generate(&plan, &target).unwrap_or_else(|error| panic!("{target}: {error}"));
        code.check().unwrap();
    }
}

fn generate_checks(plan: &Plan) -> bool {
    !matches!(lathe_codegen::emit_clif(plan, &Target::aarch64()), Err(CodegenError::BadPlan { .. }))
}

#[test]
fn equal_regions_share_a_function_and_equal_plans_their_bytes() {
    let steps = || (0..12).map(|_| StepKind::Region(gelu(0, 1))).collect();
    let mut other = bias_relu(0, 1, 1);
    other.inputs[1].strides = vec![ZERO, ZERO];
    let plan = plan([steps(), vec![StepKind::Region(other)]].concat(), 2);
    for target in targets() {
        let code = generate(&plan, &target).unwrap();
        let regions = code.functions.iter().filter(|function| function.name.starts_with("region_")).count();
        assert_eq!(regions, 2);
        assert_eq!(code, generate(&plan, &target).unwrap());
    }
}

#[test]
fn time_and_size_are_linear_in_the_number_of_steps() {
    let sizes = [2_000, 20_000].map(|count| {
        let steps = (0..count).map(|step| match step % 3 {
            0 => StepKind::Region(bias_relu(0, 1, 2)),
            1 => StepKind::Barrier,
            _ => fill(2),
        });
        let mut plan = plan(steps.collect(), 3);
        for entry in 0..count {
            plan.dims.push(DimExpr::Add(DimId(entry), DimId(0)));
            plan.dim_stages.push(0);
        }
        let start = Instant::now();
        let code = generate(&plan, &Target::x86_64(Level::V3)).unwrap();
        let time = start.elapsed();
        println!("{count} steps: {time:?}, {} bytes", code.bytes.len());
        assert!(time < Duration::from_secs(10), "{count} steps took {time:?}");
        code.bytes.len()
    });
    assert!(sizes[1] < sizes[0] * 11, "{sizes:?}");
}

#[test]
fn disassembly_names_functions_and_ends_where_constants_begin() {
    let text = emit_asm(&plan(vec![StepKind::Region(gelu(0, 1))], 2), &Target::x86_64(Level::V3)).unwrap();
    for expected in ["shape_0:", "region_0:", "chunk_0:", "entry:", "call chunk_0", ".byte"] {
        assert!(text.contains(expected), "{expected} is missing");
    }
    assert!(!text.contains("(bad)"), "{text}");
}

#[test]
fn plans_that_break_their_contract_are_refused() {
    let refuse = |plan: Plan, expected: &str| match generate(&plan, &Target::x86_64(Level::V2)) {
        Err(error @ CodegenError::BadPlan { .. }) => {
            assert!(error.to_string().contains(expected), "{error}");
        }
        other => panic!("{expected}: {other:?}"),
    };
    refuse(plan(vec![fill(9)], 2), "slot 9 of 2");
    let mut later = plan(vec![], 1);
    later.dims[4] = DimExpr::Mul(DimId(5), DimId(0));
    refuse(later, "dims[5]");
    let mut stages = plan(vec![], 1);
    stages.dim_stages.pop();
    refuse(stages, "dims and dim_stages");
    let StepKind::Call(Call { builtin, mut args }) = fill(0) else { unreachable!() };
    args[1] = Arg::Float(4.0);
    refuse(plan(vec![StepKind::Call(Call { builtin, args: args.clone() })], 1), "element_bytes");
    args.pop();
    refuse(plan(vec![StepKind::Call(Call { builtin, args })], 1), "takes 4 arguments");
    let mut nested = fill(0);
    for id in 0..100 {
        nested = StepKind::If { condition: view(0), then_steps: vec![step(id, nested)], else_steps: vec![] };
    }
    refuse(plan(vec![nested], 1), "nested");
    let region = |change: fn(&mut lathe_artifact::region::Region)| {
        let mut region = bias_relu(0, 1, 2);
        change(&mut region);
        plan(vec![StepKind::Region(region)], 3)
    };
    refuse(region(|region| region.body[2].kind = RegionOpKind::Unary(UnaryOp::Neg, 2)), "not defined before");
    refuse(region(|region| region.body[2].dtype = DType::I32), "do not fit");
    refuse(region(|region| region.body[0].dtype = DType::F16), "do not compute in f16");
    refuse(region(|region| region.inputs[0].strides.clear()), "0 strides for 2 axes");
    refuse(region(|region| region.outputs[0].1 = 7), "value 7");
    refuse(region(|region| region.outputs[0].0.dtype = DType::I64), "receives a value of f32");
    refuse(region(|region| region.body[0].kind = RegionOpKind::Load(5)), "input that is not there");
}
