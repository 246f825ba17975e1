//! Runs of programs whose functions are written by hand, in the protocol of generated code.

use std::time::Duration;

use lathe_artifact::abi::{Run, Service, Status, Worker};
use lathe_artifact::plan::{
    Condition, DimExpr, DimId, Guard, Plan, Port, Slot, SlotId, SlotKind, Step, StepId, StepKind, Symbol,
    SymbolSource, TensorRef, View,
};
use lathe_tensor::{DType, Tensor};

use crate::code::{EntryFn, ShapeFn};
use crate::program::{Functions, Program};
use crate::{Isa, LoadOptions, Model, RunOptions, RuntimeError, Session, Team, TensorView, TensorViewMut};

// What generated code does, in Rust.

pub(super) unsafe fn run<'a>(worker: *const Worker) -> &'a Run {
    // SAFETY: tests are entered by the engine, with a live run.
    unsafe { &*(*worker).run }
}

pub(super) unsafe fn service(worker: *const Worker, service: Service, step: u64, status: i32) -> i32 {
    // SAFETY: the table holds functions that take these arguments or fewer; the C ABI lets a callee ignore the last ones.
    unsafe {
        let address = *run(worker).table.add(service.index());
        let function: unsafe extern "C" fn(*const Worker, u64, i32) -> i32 = std::mem::transmute(address);
        function(worker, step, status)
    }
}

pub(super) unsafe fn barrier(worker: *const Worker) -> i32 {
    // SAFETY: as in `service`.
    unsafe { service(worker, Service::Barrier, 0, 0) }
}

/// What generated code does where a step returns a status.
pub(super) unsafe fn give_up(worker: *const Worker, step: u64, status: i32) -> i32 {
    // SAFETY: as in `service`.
    unsafe {
        service(worker, Service::Fail, step, status);
        barrier(worker)
    }
}

pub(super) unsafe fn dim(worker: *const Worker, index: usize) -> i64 {
    // SAFETY: tests name entries that their plan has.
    unsafe { *run(worker).dims.add(index) }
}

pub(super) unsafe fn floats<'a>(worker: *const Worker, slot: usize, len: usize) -> &'a mut [f32] {
    // SAFETY: tests name slots of that many floats, and each worker writes its own share only.
    unsafe { std::slice::from_raw_parts_mut((*run(worker).slots.add(slot)).cast(), len) }
}

// y = 2 * x + w through an arena buffer: dims n, 3, n*3, 4*n*3, 12; slots x, y, temporary, w.

pub(super) unsafe extern "C" fn affine_shape(dims: *mut i64) -> i32 {
    // SAFETY: the table has these entries.
    unsafe {
        *dims.add(1) = 3;
        let (count, overflow) = (*dims).overflowing_mul(3);
        let (bytes, too_large) = count.overflowing_mul(4);
        (*dims.add(2), *dims.add(3), *dims.add(4)) = (count, bytes, 12);
        if overflow || too_large { Status::BadShape as i32 } else { 0 }
    }
}

unsafe extern "C" fn affine(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine with the plan below.
    unsafe {
        let count = dim(worker, 2) as usize;
        let (x, y, temporary) =
            (floats(worker, 0, count), floats(worker, 1, count), floats(worker, 2, count));
        if run(worker).trace != 0 {
            service(worker, Service::Trace, 0, 0);
        }
        for i in (*worker).share(count, 1) {
            temporary[i] = 2.0 * x[i];
        }
        if run(worker).trace != 0 {
            service(worker, Service::Trace, 1, 0);
        }
        let status = barrier(worker);
        if status != 0 {
            return status;
        }
        if run(worker).trace != 0 {
            service(worker, Service::Trace, 2, 0);
        }
        let w = floats(worker, 3, 3);
        for i in (*worker).share(count, 1) {
            // Read what another worker wrote, so that a missing barrier shows.
            y[count - 1 - i] = temporary[count - 1 - i] + w[(count - 1 - i) % 3];
        }
        barrier(worker)
    }
}

pub(super) fn slot(kind: SlotKind, bytes: u32) -> Slot {
    Slot { kind, dtype: DType::F32, bytes: DimId(bytes), stage: 0 }
}

pub(super) fn tensor(slot: u32, dtype: DType, dims: &[u32]) -> TensorRef {
    let dims = dims.iter().map(|&dim| DimId(dim)).collect();
    TensorRef { view: View { slot: SlotId(slot), offset: None }, dtype, dims }
}

pub(super) fn port(name: &str, tensor: TensorRef, dims_text: &[&str]) -> Port {
    Port { name: name.into(), tensor, dims_text: dims_text.iter().map(|text| text.to_string()).collect() }
}

pub(super) fn step(id: u32, kind: StepKind) -> Step {
    let (node, op) = (format!("/node/{id}"), "test".to_string());
    Step { id: StepId(id), kind, node, op, reason: String::new() }
}

pub(super) fn affine_plan() -> Plan {
    let source = SymbolSource::Input { input: 0, axis: 0 };
    Plan {
        name: "main".into(),
        dims: vec![
            DimExpr::Symbol(0),
            DimExpr::Const(3),
            DimExpr::Mul(DimId(0), DimId(1)),
            DimExpr::Mul(DimId(2), DimId(1)),
            DimExpr::Const(12),
        ],
        dim_stages: vec![0; 5],
        symbols: vec![Symbol { name: "batch".into(), dim: DimId(0), source }],
        stages: 1,
        guards: Vec::new(),
        inputs: vec![port("x", tensor(0, DType::F32, &[0, 1]), &["batch", "3"])],
        outputs: vec![port("y", tensor(1, DType::F32, &[0, 1]), &["batch", "3"])],
        slots: vec![
            slot(SlotKind::Input(0), 3),
            slot(SlotKind::Output(0), 3),
            slot(SlotKind::Arena { first: 0, last: 1 }, 3),
            slot(SlotKind::Weight("w".into()), 4),
        ],
        steps: (0..3).map(|id| step(id, StepKind::Barrier)).collect(),
        phases: 2,
        views: Vec::new(),
        states: Vec::new(),
        regimes: Vec::new(),
        routings: Vec::new(),
        composites: Default::default(),
    }
}

pub(super) fn model(plan: Plan, entry: EntryFn, shapes: &[ShapeFn], options: &LoadOptions) -> Model {
    let functions = Functions { entry, shapes: shapes.to_vec(), _code: None };
    let weight = Tensor::from_slice(&[10.0f32, 20.0, 30.0], &[3]).unwrap();
    let program = Program::new(plan, functions, |name| (name == "w").then(|| weight.clone())).unwrap();
    Model::assemble(vec![program], Isa::detect(), options).unwrap()
}

pub(super) fn affine_model() -> Model {
    model(affine_plan(), affine, &[affine_shape], &LoadOptions::default())
}

pub(super) fn rows(n: usize) -> (Tensor, Vec<f32>) {
    let x: Vec<f32> = (0..3 * n).map(|i| i as f32).collect();
    let y = x.iter().enumerate().map(|(i, x)| 2.0 * x + [10.0, 20.0, 30.0][i % 3]).collect();
    (Tensor::from_slice(&x, &[n, 3]).unwrap(), y)
}

pub(super) fn session(model: &Model, workers: usize) -> Session {
    Session::with_team(model, &Team::new(workers).unwrap()).unwrap()
}

#[test]
fn a_program_runs_with_any_number_of_workers_and_rows() {
    let model = affine_model();
    for workers in [1, 2, 3, 8] {
        let mut session = session(&model, workers);
        for n in [4, 0, 1, 100, 4, 7] {
            let (x, y) = rows(n);
            let outputs = session.run(&[("x", &x)]).unwrap();
            let found = outputs.get("y").unwrap();
            assert_eq!(found.shape(), [n, 3]);
            assert_eq!(found.to_slice::<f32>().unwrap().as_ref(), y);
            assert_eq!(outputs.stats().workers, workers);
            assert_eq!(outputs.stats().barriers, 2);
        }
        let stats = session.run(&[("x", &rows(4).0)]).unwrap().stats().clone();
        assert!(stats.shape_cached);
        assert_eq!(stats.arena_bytes, 64);
    }
}

#[test]
fn bad_inputs_are_refused_with_what_was_expected() {
    let model = affine_model();
    let mut session = session(&model, 2);
    let x = Tensor::zeros(DType::F32, &[2, 3]).unwrap();
    let mut message = |inputs: &[(&str, &Tensor)]| session.run(inputs).unwrap_err().to_string();
    assert_eq!(message(&[]), "input `x`: it is missing; the model takes f32[batch, 3]");
    assert!(
        message(&[("x", &x), ("z", &x)]).contains("input `z`: the model has no such input; it takes `x`")
    );
    assert!(message(&[("x", &x), ("x", &x)]).contains("given twice"));
    let wrong = |dtype, shape: &[usize]| Tensor::zeros(dtype, shape).unwrap();
    assert!(message(&[("x", &wrong(DType::I64, &[2, 3]))]).contains("expected f32[batch, 3], got i64[2, 3]"));
    assert!(message(&[("x", &wrong(DType::F32, &[6]))]).contains("1 axes instead of 2"));
    assert!(message(&[("x", &wrong(DType::F32, &[2, 4]))]).contains("axis 1 must be 3"));
    let huge = [1 << 62, 0];
    let view = TensorView::new(DType::F32, &huge, &[]).unwrap();
    assert!(session.run(&[("x", view)]).is_err());
    assert!(session.run(&[("x", &x)]).is_ok(), "the session goes on");
}

#[test]
fn sizes_of_one_name_must_agree_and_guards_name_their_node() {
    let mut plan = affine_plan();
    plan.inputs.push(port("z", tensor(0, DType::F32, &[0]), &["batch"]));
    plan.guards.push(Guard {
        stage: 0,
        condition: Condition::AtLeast(DimId(1), DimId(0)),
        origin: "node `/slice`".into(),
    });
    let model = model(plan, affine, &[affine_shape], &LoadOptions::default());
    let mut session = session(&model, 1);
    let (x, z) = (Tensor::zeros(DType::F32, &[2, 3]).unwrap(), Tensor::zeros(DType::F32, &[5]).unwrap());
    let message = session.run(&[("x", &x), ("z", &z)]).unwrap_err().to_string();
    assert!(message.contains("input `z`: axis 0 is 5, but `batch` is 2"), "{message}");
    let x = Tensor::zeros(DType::F32, &[5, 3]).unwrap();
    let message = session.run(&[("x", &x), ("z", &z)]).unwrap_err().to_string();
    assert_eq!(message, "node `/slice`: the sizes 3 and batch = 5 must be in falling order");
}

#[test]
fn outputs_go_into_the_callers_memory() {
    let model = affine_model();
    let mut session = session(&model, 2);
    let (x, y) = rows(5);
    let mut memory = [0.0f32; 16];
    let view = TensorViewMut::from_slice(&mut memory[1..], &[5, 3]).unwrap();
    session.run_into(&[("x", &x)], &mut [("y", view)], &RunOptions::default()).unwrap();
    assert_eq!(memory[1..], y);
    let mut bytes = [0u8; 61];
    let view = TensorViewMut::new(DType::F32, &[5, 3], &mut bytes[1..]).unwrap();
    session.run_into(&[("x", &x)], &mut [("y", view)], &RunOptions::default()).unwrap();
    assert_eq!(bytes[1..5], y[0].to_ne_bytes(), "memory that is not aligned is copied to");
    let mut other = Tensor::zeros(DType::F32, &[4, 3]).unwrap();
    let wrong = session.run_into(&[("x", &x)], &mut [("y", (&mut other).into())], &RunOptions::default());
    assert!(matches!(wrong, Err(RuntimeError::BadOutput { .. })), "{wrong:?}");
    let unknown = session.run_into(&[("x", &x)], &mut [("q", (&mut other).into())], &RunOptions::default());
    assert!(unknown.unwrap_err().to_string().contains("it gives `y`"));
}

#[test]
fn inputs_that_are_not_aligned_are_copied() {
    let model = affine_model();
    let (x, y) = rows(2);
    let shifted: Vec<u8> = [&[0], x.bytes()].concat();
    let view = TensorView::new(DType::F32, &[2, 3], &shifted[1..]).unwrap();
    let outputs = session(&model, 2).run(&[("x", view)]).unwrap();
    assert_eq!(outputs.get("y").unwrap().to_slice::<f32>().unwrap().as_ref(), y);
}

#[test]
fn outputs_may_be_views_of_inputs_and_weights() {
    let mut plan = affine_plan();
    plan.outputs.push(port("same", tensor(0, DType::F32, &[0, 1]), &["batch", "3"]));
    plan.outputs.push(port("weight", tensor(3, DType::F32, &[1]), &["3"]));
    let model = model(plan, affine, &[affine_shape], &LoadOptions::default());
    let (x, _) = rows(2);
    let outputs = session(&model, 2).run(&[("x", &x)]).unwrap();
    assert_eq!(outputs.get("same").unwrap().bytes(), x.bytes());
    assert_eq!(outputs.get("weight").unwrap().to_slice::<f32>().unwrap().as_ref(), [10.0, 20.0, 30.0]);
}

#[test]
fn memory_is_limited_before_it_is_allocated() {
    let options = LoadOptions { max_memory: Some(10_000), ..LoadOptions::default() };
    let model = model(affine_plan(), affine, &[affine_shape], &options);
    let mut session = session(&model, 2);
    assert!(session.run(&[("x", &rows(100).0)]).is_ok());
    for n in [500, 1000, 100_000] {
        let error = session.run(&[("x", &rows(n).0)]).unwrap_err();
        assert!(matches!(&error, RuntimeError::Resource(message) if message.contains("limit of")), "{error}");
    }
    assert!(session.run(&[("x", &rows(100).0)]).is_ok());
}

#[test]
fn the_arena_follows_the_shapes_and_shrinks() {
    let model = affine_model();
    let mut session = session(&model, 1);
    let mut capacity = |n| session.run(&[("x", &rows(n).0)]).unwrap().stats().arena_capacity;
    assert!(capacity(500_000) >= 6_000_000);
    assert!(capacity(1) >= 6_000_000, "the large shape may come again");
    for n in 2..=crate::shapes::CAPACITY + 1 {
        capacity(n);
    }
    assert!(capacity(100) < 1 << 20, "the large shape was forgotten");
}

#[test]
fn profiles_name_each_step() {
    let model = affine_model();
    let options = RunOptions { profile: true, ..RunOptions::default() };
    let outputs = session(&model, 3).run_with(&[("x", &rows(9).0)], &options).unwrap();
    let steps: Vec<_> = outputs.stats().profile.iter().map(|time| (time.step, time.node.as_str())).collect();
    assert_eq!(steps, [(0, "/node/0"), (1, "/node/1"), (2, "/node/2")]);
    assert!(outputs.stats().profile.iter().map(|time| time.time).sum::<Duration>() <= outputs.stats().time);
}

#[test]
fn a_plan_whose_indices_lie_outside_its_tables_is_refused() {
    let refuse = |change: fn(&mut Plan)| {
        let mut plan = affine_plan();
        change(&mut plan);
        let functions = Functions { entry: affine, shapes: vec![affine_shape], _code: None };
        let weight = Tensor::from_slice(&[1.0f32; 3], &[3]).unwrap();
        let result = Program::new(plan, functions, |name| (name == "w").then(|| weight.clone()));
        assert!(result.is_err());
    };
    refuse(|plan| plan.slots[0].bytes = DimId(99));
    refuse(|plan| plan.slots[0].kind = SlotKind::Input(1));
    refuse(|plan| plan.slots[3].kind = SlotKind::Weight("missing".into()));
    refuse(|plan| plan.slots[0].dtype = DType::String);
    refuse(|plan| plan.outputs[0].tensor.view.slot = SlotId(4));
    refuse(|plan| plan.inputs[0].tensor.dims[0] = DimId(5));
    refuse(|plan| plan.stages = 2);
    refuse(|plan| plan.dims[2] = DimExpr::Mul(DimId(0), DimId(2)));
    refuse(|plan| plan.symbols[0].source = SymbolSource::Input { input: 0, axis: 2 });
    refuse(|plan| plan.steps[1].id = StepId(7));
    refuse(|plan| plan.slots[2].kind = SlotKind::Arena { first: 2, last: 1 });
}

#[test]
fn a_known_shape_costs_little() {
    let model = affine_model();
    let mut session = session(&model, 1);
    let (x, _) = rows(4);
    let mut best = Duration::MAX;
    for _ in 0..200 {
        best = best.min(session.run(&[("x", &x)]).unwrap().stats().time);
    }
    assert!(best < Duration::from_micros(20), "{best:?}");
}
