//! Hand-made plans.
#![allow(dead_code)]

use lathe_artifact::builtin::{Builtin, TileFunction};
use lathe_artifact::plan::{
    Arg, Call, DimExpr, DimId, Plan, Slot, SlotId, SlotKind, Step, StepId, StepKind, Symbol, SymbolSource,
    View,
};
use lathe_artifact::region::{BinaryOp, Region, RegionOp, RegionOpKind, RegionOperand, UnaryOp, ValueIndex};
use lathe_tensor::DType;

/// A plan of f32 slots over the dims `rows` (unknown), 384, 1 and 0, and their product.
pub fn plan(steps: Vec<StepKind>, slots: usize) -> Plan {
    let dims = vec![
        DimExpr::Symbol(0),
        DimExpr::Const(384),
        DimExpr::Const(1),
        DimExpr::Const(0),
        DimExpr::Mul(DimId(0), DimId(1)),
        DimExpr::FloorDiv(DimId(4), DimId(0)),
        DimExpr::BroadcastStride { size: DimId(0), stride: DimId(1) },
    ];
    let slot = |kind| Slot { kind, dtype: DType::F32, bytes: DimId(4), stage: 0 };
    Plan {
        name: "main".to_string(),
        dim_stages: vec![0; dims.len()],
        dims,
        symbols: vec![Symbol {
            name: "rows".to_string(),
            dim: DimId(0),
            source: SymbolSource::Input { input: 0, axis: 0 },
        }],
        stages: 1,
        guards: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        slots: (0..slots).map(|_| slot(SlotKind::Arena { first: 0, last: 0 })).collect(),
        steps: steps.into_iter().enumerate().map(|(id, kind)| step(id as u32, kind)).collect(),
        phases: 1,
        views: Vec::new(),
        states: Vec::new(),
        regimes: Vec::new(),
        routings: Vec::new(),
        composites: Default::default(),
    }
}

pub fn step(id: u32, kind: StepKind) -> Step {
    Step { id: StepId(id), kind, node: format!("node.{id}"), op: "test".to_string(), reason: String::new() }
}

pub const ROWS: DimId = DimId(0);
pub const COLUMNS: DimId = DimId(1);
pub const ONE: DimId = DimId(2);
pub const ZERO: DimId = DimId(3);
pub const ELEMENTS: DimId = DimId(4);
pub const ROW_STRIDE: DimId = DimId(6);

pub fn view(slot: u32) -> View {
    View { slot: SlotId(slot), offset: None }
}

pub fn operand(slot: u32, strides: &[DimId]) -> RegionOperand {
    RegionOperand { view: view(slot), dtype: DType::F32, strides: strides.to_vec() }
}

pub fn f32(kind: RegionOpKind) -> RegionOp {
    RegionOp { dtype: DType::F32, kind }
}

pub fn constant(value: f32) -> RegionOp {
    f32(RegionOpKind::Const(u64::from(value.to_bits())))
}

/// `y = max(x + bias, 0)` over rows of 384.
pub fn bias_relu(x: u32, bias: u32, y: u32) -> Region {
    Region {
        sizes: vec![ROWS, COLUMNS],
        inputs: vec![operand(x, &[COLUMNS, ONE]), operand(bias, &[ZERO, ONE])],
        outputs: vec![(operand(y, &[COLUMNS, ONE]), 3)],
        body: vec![
            f32(RegionOpKind::Load(0)),
            f32(RegionOpKind::Load(1)),
            f32(RegionOpKind::Binary(BinaryOp::Add, 0, 1)),
            f32(RegionOpKind::Unary(UnaryOp::Relu, 2)),
        ],
    }
}

/// `y = x * (1 + erf(x / sqrt(2))) / 2` over all elements.
pub fn gelu(x: u32, y: u32) -> Region {
    let multiply = |a: ValueIndex, b: ValueIndex| f32(RegionOpKind::Binary(BinaryOp::Mul, a, b));
    Region {
        sizes: vec![ELEMENTS],
        inputs: vec![operand(x, &[ONE])],
        outputs: vec![(operand(y, &[ONE]), 8)],
        body: vec![
            f32(RegionOpKind::Load(0)),
            constant(std::f32::consts::FRAC_1_SQRT_2),
            multiply(0, 1),
            f32(RegionOpKind::Tile(TileFunction::Erf, 2)),
            constant(1.0),
            f32(RegionOpKind::Binary(BinaryOp::Add, 3, 4)),
            multiply(0, 5),
            constant(0.5),
            multiply(6, 7),
        ],
    }
}

/// Fills all elements of a slot.
pub fn fill(slot: u32) -> StepKind {
    let args = vec![Arg::View(view(slot)), Arg::Int(4), Arg::Dim(ELEMENTS), Arg::Int(7)];
    StepKind::Call(Call { builtin: Builtin::Fill, args })
}
