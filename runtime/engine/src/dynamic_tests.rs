//! Evaluator steps and sizes that depend on data.

use lathe_artifact::abi::{Service, Worker};
use lathe_artifact::plan::{
    DimExpr, DimId, Evaluate, Plan, Slot, SlotKind, StepId, StepKind, Symbol, SymbolSource,
};
use lathe_ops::Op;
use lathe_tensor::{DType, Tensor};

use super::tests::*;
use crate::LoadOptions;
use crate::code::ShapeFn;

// y = nonzero(x): dims 0 n, 1 bytes of x, 2 one, 3 count, 4 bytes of y; slots x, y (size known from data).

unsafe extern "C" fn nonzero_shape_0(dims: *mut i64) -> i32 {
    // SAFETY: the table has these entries.
    unsafe { (*dims.add(1), *dims.add(2)) = (4 * *dims, 1) };
    0
}

unsafe extern "C" fn nonzero_shape_1(dims: *mut i64) -> i32 {
    // SAFETY: the table has these entries.
    unsafe { *dims.add(4) = 8 * *dims.add(3) };
    0
}

unsafe extern "C" fn nonzero(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine.
    unsafe {
        if (*worker).index == 0 {
            let mut status = service(worker, Service::Evaluate, 0, 0);
            if status == 0 {
                status = service(worker, Service::Resolve, 0, 0);
            }
            if status != 0 {
                return give_up(worker, 0, status);
            }
        }
        barrier(worker)
    }
}

fn nonzero_plan(op: Op) -> Plan {
    let source = |source| Symbol { name: "n".into(), dim: DimId(0), source };
    let (x, y) = (tensor(0, DType::F32, &[0]), tensor(1, DType::I64, &[2, 3]));
    let evaluate =
        Evaluate { op, inputs: vec![Some(x.clone())], outputs: vec![y.clone()], begins_stage: Some(1) };
    let made = SymbolSource::Step { step: StepId(0), output: 0, axis: 1 };
    Plan {
        dims: vec![
            DimExpr::Symbol(0),
            DimExpr::Const(0),
            DimExpr::Const(1),
            DimExpr::Symbol(1),
            DimExpr::Mul(DimId(2), DimId(3)),
        ],
        dim_stages: vec![0, 0, 0, 1, 1],
        symbols: vec![
            source(SymbolSource::Input { input: 0, axis: 0 }),
            Symbol { name: "count".into(), dim: DimId(3), source: made },
        ],
        stages: 2,
        inputs: vec![port("x", x, &["n"])],
        outputs: vec![port("y", y, &["1", "count"])],
        slots: vec![
            slot(SlotKind::Input(0), 1),
            Slot {
                kind: SlotKind::Dynamic { first: 0, last: 0 },
                dtype: DType::I64,
                bytes: DimId(4),
                stage: 1,
            },
        ],
        steps: vec![step(0, StepKind::Evaluate(Box::new(evaluate)))],
        ..affine_plan()
    }
}

fn nonzero_op() -> Op {
    Op::from_attributes("non_zero", serde_json::Map::new()).unwrap()
}

#[test]
fn sizes_that_depend_on_data_are_resolved_in_the_run() {
    let shapes: [ShapeFn; 2] = [nonzero_shape_0, nonzero_shape_1];
    let model = model(nonzero_plan(nonzero_op()), nonzero, &shapes, &LoadOptions::default());
    for workers in [1, 2, 3] {
        let mut session = session(&model, workers);
        for x in [&[0.0f32, 1.0, 2.0, 0.0, 5.0][..], &[0.0; 4], &[1.0; 5]] {
            let outputs = session.run(&[("x", &Tensor::from_slice(x, &[x.len()]).unwrap())]).unwrap();
            let expected: Vec<i64> = (0..x.len() as i64).filter(|&i| x[i as usize] != 0.0).collect();
            let y = outputs.get("y").unwrap();
            assert_eq!(y.shape(), [1, expected.len()]);
            assert_eq!(y.to_slice::<i64>().unwrap().as_ref(), expected);
            assert_eq!(outputs.stats().evaluator_steps, 1);
        }
    }
}

#[test]
fn the_evaluator_can_be_forbidden_and_its_errors_name_the_node() {
    let shapes: [ShapeFn; 2] = [nonzero_shape_0, nonzero_shape_1];
    let x = Tensor::from_slice(&[1.0f32], &[1]).unwrap();
    let fail = |op: Op, options: &LoadOptions| {
        let model = model(nonzero_plan(op), nonzero, &shapes, options);
        session(&model, 2).run(&[("x", &x)]).unwrap_err().to_string()
    };
    let off = LoadOptions { evaluator: Some(false), ..LoadOptions::default() };
    let message = fail(nonzero_op(), &off);
    assert!(message.contains("/node/0") && message.contains("LATHE_EVAL=off"), "{message}");
    // Shape gives i64[1] where the plan says rank 2.
    let shape = serde_json::json!({ "start": 0, "end": null });
    let serde_json::Value::Object(attributes) = shape else { unreachable!() };
    let message = fail(Op::from_attributes("shape", attributes).unwrap(), &LoadOptions::default());
    assert!(message.contains("/node/0") && message.contains("expected i64 of rank 2"), "{message}");
}
