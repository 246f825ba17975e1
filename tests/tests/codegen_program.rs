//! Generated programs through the engine: shape functions, branches, and how a run ends when a worker fails.

mod regions;

use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::{Arg, Call, DimExpr, DimId, Plan, SlotId, StepKind, Symbol, SymbolSource, View};
use lathe_artifact::region::{BinaryOp, Region, RegionOp, RegionOpKind, RegionOperand};
use lathe_codegen::Target;
use lathe_runtime::{Model, Outputs, RuntimeError, Session, Team, TensorView};
use lathe_tensor::DType;
use regions::{model, plan_of_region, plan_of_steps, step};

fn native(plan: Plan) -> Model {
    model(plan, &Target::native().unwrap())
}

fn run(model: &Model, workers: usize, inputs: &[&[u8]]) -> Result<Outputs, RuntimeError> {
    let shapes: Vec<[usize; 1]> = inputs.iter().map(|bytes| [bytes.len()]).collect();
    let names: Vec<String> = (0..inputs.len()).map(|index| format!("in{index}")).collect();
    let views =
        inputs.iter().zip(&shapes).map(|(bytes, shape)| TensorView::new(DType::U8, shape, bytes).unwrap());
    let inputs: Vec<(&str, TensorView<'_>)> = names.iter().map(String::as_str).zip(views).collect();
    Session::with_team(model, &Team::new(workers).unwrap()).unwrap().run(&inputs)
}

fn view(slot: u32) -> View {
    View { slot: SlotId(slot), offset: None }
}

/// Each entry of a dims table, read by a region of one element.
fn dims_plan(exprs: &[DimExpr]) -> Plan {
    let outputs = exprs.len();
    let bytes: Vec<usize> = std::iter::once(1).chain(std::iter::repeat_n(8, outputs)).collect();
    let mut plan = plan_of_region(&bytes, 1, |_| Region {
        sizes: vec![],
        inputs: vec![],
        outputs: (0..outputs as u32)
            .map(|index| (RegionOperand { view: view(index + 1), dtype: DType::I64, strides: vec![] }, index))
            .collect(),
        body: (0..outputs as u32)
            .map(|index| RegionOp {
                dtype: DType::I64,
                kind: RegionOpKind::Dim(DimId(bytes.len() as u32 + index)),
            })
            .collect(),
    });
    let symbol = DimId(plan.dims.len() as u32);
    plan.symbols.push(Symbol {
        name: "n".to_string(),
        dim: symbol,
        source: SymbolSource::Input { input: 0, axis: 0 },
    });
    plan.inputs[0].tensor.dims = vec![symbol];
    plan.slots[0].bytes = symbol;
    plan.dims.extend_from_slice(exprs);
    plan.dim_stages = vec![0; plan.dims.len()];
    plan
}

/// What the entries must be; `None` on overflow.
fn evaluate(plan: &Plan, symbol: i64) -> Option<Vec<i64>> {
    let mut values: Vec<i64> = Vec::new();
    for expr in &plan.dims {
        let get = |dim: DimId| i128::from(values[dim.0 as usize]);
        let floor = |a: i128, b: i128| {
            if b == 0 { 0 } else { a.div_euclid(b) - i128::from(b < 0 && a.rem_euclid(b) != 0) }
        };
        let value = match *expr {
            DimExpr::Const(value) => i128::from(value),
            DimExpr::Symbol(_) => i128::from(symbol),
            DimExpr::Copy(a) => get(a),
            DimExpr::Add(a, b) => get(a) + get(b),
            DimExpr::Mul(a, b) => get(a) * get(b),
            DimExpr::FloorDiv(a, b) => floor(get(a), get(b)),
            DimExpr::Mod(_, b) if get(b) == 0 => 0,
            DimExpr::Mod(a, b) => get(a) - get(b) * floor(get(a), get(b)),
            DimExpr::Min(a, b) => get(a).min(get(b)),
            DimExpr::Max(a, b) => get(a).max(get(b)),
            DimExpr::Broadcast(a, b) => {
                if get(a) == 1 {
                    get(b)
                } else {
                    get(a)
                }
            }
            DimExpr::BroadcastStride { size, stride } => {
                if get(size) == 1 {
                    0
                } else {
                    get(stride)
                }
            }
        };
        values.push(i64::try_from(value).ok()?);
    }
    Some(values)
}

#[test]
fn shape_functions_compute_dims() {
    let (mut overflows, mut fine) = (0, 0);
    for seed in 0..150 {
        let mut random = regions::random::Random::new(seed);
        // More entries than one function holds, now and then.
        let count = if seed % 50 == 7 { 700 } else { 30 };
        let mut exprs = vec![DimExpr::Symbol(0)];
        let first = count as u32 + 1;
        for index in 1..count as u32 {
            let mut earlier = || DimId(first + random.below(index as usize) as u32);
            let (a, b) = (earlier(), earlier());
            exprs.push(match random.below(12) {
                0 => DimExpr::Const(random.pick(&[0, 1, -1, 2, 3, 7, 64, -5, 1000])),
                1 if seed % 3 == 0 => DimExpr::Const(random.pick(&[i64::MAX, i64::MIN, 1 << 40])),
                1 | 2 => DimExpr::Copy(a),
                3 => DimExpr::Add(a, b),
                4 if count < 100 => DimExpr::Mul(a, b),
                4..=6 => DimExpr::FloorDiv(a, b),
                7 => DimExpr::Mod(a, b),
                8 => DimExpr::Min(a, b),
                9 => DimExpr::Max(a, b),
                10 => DimExpr::Broadcast(a, b),
                _ => DimExpr::BroadcastStride { size: a, stride: b },
            });
        }
        let plan = dims_plan(&exprs);
        let model = native(plan.clone());
        for symbol in [1_usize, 2, 37] {
            let wanted = evaluate(&plan, symbol as i64);
            let got = run(&model, 1, &[&vec![0; symbol]]);
            match (wanted, got) {
                (None, Err(_)) => overflows += 1,
                (Some(wanted), Ok(outputs)) => {
                    fine += 1;
                    for index in 0..count {
                        let bytes = outputs.get(&format!("out{index}")).unwrap().bytes();
                        let got = i64::from_le_bytes(bytes.try_into().unwrap());
                        let wanted = wanted[first as usize + index];
                        assert_eq!(got, wanted, "seed {seed}, n {symbol}, entry {index}: {:?}", exprs[index]);
                    }
                }
                (wanted, got) => panic!("seed {seed}, n {symbol}: {wanted:?}, {:?}", got.map(|_| "fine")),
            }
        }
    }
    assert!(overflows > 20 && fine > 200, "{overflows} overflows, {fine} fine");
}

fn fill(slot: u32, count: DimId, byte: i64) -> StepKind {
    let args = vec![Arg::View(view(slot)), Arg::Int(1), Arg::Dim(count), Arg::Int(byte)];
    StepKind::Call(Call { builtin: Builtin::Fill, args })
}

#[test]
fn a_branch_runs_one_of_its_blocks() {
    let plan = plan_of_steps(&[1, 100], 1, |dim| {
        let count = dim(100);
        // More steps than one chunk holds on one side, none on the other.
        let then_steps = (1..=150).map(|id| step(id, fill(1, count, i64::from(id)))).collect();
        let branch = StepKind::If { condition: view(0), then_steps, else_steps: vec![] };
        vec![fill(1, count, 9), StepKind::Barrier, branch, StepKind::Barrier]
    });
    let mut plan = plan;
    renumber(&mut plan.steps, &mut 0);
    let model = native(plan);
    for workers in [1, 3] {
        let result = |condition: u8| {
            run(&model, workers, &[&[condition]]).unwrap().get("out0").unwrap().bytes().to_vec()
        };
        assert_eq!(result(0), [9; 100]);
        assert_eq!(result(1), [150; 100]);
    }
}

/// Numbers steps in program order, nested ones included.
fn renumber(steps: &mut [lathe_artifact::plan::Step], next: &mut u32) {
    for step in steps {
        step.id.0 = *next;
        *next += 1;
        if let StepKind::If { then_steps, else_steps, .. } = &mut step.kind {
            renumber(then_steps, next);
            renumber(else_steps, next);
        }
    }
}

/// `out = 1 / in` over bytes as i8, shared by all workers, between barriers.
fn division(elements: usize) -> Plan {
    plan_of_steps(&[elements, elements, elements], 1, |dim| {
        let (count, one) = (dim(elements as i64), dim(1));
        let operand = |slot| RegionOperand { view: view(slot), dtype: DType::I8, strides: vec![one] };
        let i8 = |kind| RegionOp { dtype: DType::I8, kind };
        let divide = |x, y| {
            StepKind::Region(Region {
                sizes: vec![count],
                inputs: vec![operand(x)],
                outputs: vec![(operand(y), 2)],
                body: vec![
                    i8(RegionOpKind::Load(0)),
                    i8(RegionOpKind::Const(1)),
                    i8(RegionOpKind::Binary(BinaryOp::Div, 1, 0)),
                ],
            })
        };
        let rounds = (0..40).flat_map(|_| [divide(0, 1), fill(2, count, 3), StepKind::Barrier]);
        rounds.collect()
    })
}

#[test]
fn a_failure_of_any_worker_ends_the_run_for_all() {
    let elements = 64 << 10;
    let model = native(division(elements));
    for workers in [1, 2, 3, 8] {
        for round in 0..12 {
            let mut input = vec![1; elements];
            assert!(run(&model, workers, &[&input]).is_ok());
            // The zero lies in the share of another worker each time.
            input[round * elements / 12] = 0;
            match run(&model, workers, &[&input]) {
                Err(RuntimeError::StepFailed { step, reason, .. }) => {
                    assert_eq!(step, 0);
                    assert!(reason.contains("zero"), "{reason}");
                }
                other => panic!("{workers} workers: {:?}", other.map(|_| "fine")),
            }
        }
    }
}
