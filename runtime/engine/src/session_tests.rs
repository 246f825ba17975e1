//! Runs of programs whose functions are written by hand, in the protocol of generated code.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lathe_artifact::abi::{Run, Service, Status, Worker};
use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::{
    Condition, DimExpr, DimId, Evaluate, Guard, Plan, Port, Slot, SlotId, SlotKind, Step, StepId, StepKind,
    Symbol, SymbolSource, TensorRef, View,
};
use lathe_ops::Op;
use lathe_tensor::{DType, Tensor};

use crate::code::{EntryFn, ShapeFn};
use crate::program::{Functions, Program};
use crate::{
    CancelToken, Isa, LoadOptions, Model, RunOptions, RuntimeError, Session, Team, TensorView, TensorViewMut,
};

// What generated code does, in Rust.

unsafe fn run<'a>(worker: *const Worker) -> &'a Run {
    // SAFETY: tests are entered by the engine, with a live run.
    unsafe { &*(*worker).run }
}

unsafe fn service(worker: *const Worker, service: Service, step: u64, status: i32) -> i32 {
    // SAFETY: the table holds functions that take these arguments or fewer; the C ABI lets a callee ignore the last ones.
    unsafe {
        let address = *run(worker).table.add(service.index());
        let function: unsafe extern "C" fn(*const Worker, u64, i32) -> i32 = std::mem::transmute(address);
        function(worker, step, status)
    }
}

unsafe fn barrier(worker: *const Worker) -> i32 {
    // SAFETY: as in `service`.
    unsafe { service(worker, Service::Barrier, 0, 0) }
}

/// What generated code does where a step returns a status.
unsafe fn give_up(worker: *const Worker, step: u64, status: i32) -> i32 {
    // SAFETY: as in `service`.
    unsafe {
        service(worker, Service::Fail, step, status);
        barrier(worker)
    }
}

unsafe fn dim(worker: *const Worker, index: usize) -> i64 {
    // SAFETY: tests name entries that their plan has.
    unsafe { *run(worker).dims.add(index) }
}

unsafe fn floats<'a>(worker: *const Worker, slot: usize, len: usize) -> &'a mut [f32] {
    // SAFETY: tests name slots of that many floats, and each worker writes its own share only.
    unsafe { std::slice::from_raw_parts_mut((*run(worker).slots.add(slot)).cast(), len) }
}

// y = 2 * x + w through an arena buffer: dims n, 3, n*3, 4*n*3, 12; slots x, y, temporary, w.

unsafe extern "C" fn affine_shape(dims: *mut i64) -> i32 {
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

fn slot(kind: SlotKind, bytes: u32) -> Slot {
    Slot { kind, dtype: DType::F32, bytes: DimId(bytes), stage: 0 }
}

fn tensor(slot: u32, dtype: DType, dims: &[u32]) -> TensorRef {
    let dims = dims.iter().map(|&dim| DimId(dim)).collect();
    TensorRef { view: View { slot: SlotId(slot), offset: None }, dtype, dims }
}

fn port(name: &str, tensor: TensorRef, dims_text: &[&str]) -> Port {
    Port { name: name.into(), tensor, dims_text: dims_text.iter().map(|text| text.to_string()).collect() }
}

fn step(id: u32, kind: StepKind) -> Step {
    let (node, op) = (format!("/node/{id}"), "test".to_string());
    Step { id: StepId(id), kind, node, op, reason: String::new() }
}

fn affine_plan() -> Plan {
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
    }
}

fn model(plan: Plan, entry: EntryFn, shapes: &[ShapeFn], options: &LoadOptions) -> Model {
    let functions = Functions { entry, shapes: shapes.to_vec(), _code: None };
    let weight = Tensor::from_slice(&[10.0f32, 20.0, 30.0], &[3]).unwrap();
    let program = Program::new(plan, functions, |name| (name == "w").then(|| weight.clone())).unwrap();
    Model::assemble(vec![program], Isa::detect(), options).unwrap()
}

fn affine_model() -> Model {
    model(affine_plan(), affine, &[affine_shape], &LoadOptions::default())
}

fn rows(n: usize) -> (Tensor, Vec<f32>) {
    let x: Vec<f32> = (0..3 * n).map(|i| i as f32).collect();
    let y = x.iter().enumerate().map(|(i, x)| 2.0 * x + [10.0, 20.0, 30.0][i % 3]).collect();
    (Tensor::from_slice(&x, &[n, 3]).unwrap(), y)
}

fn session(model: &Model, workers: usize) -> Session {
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
    let mut memory = vec![0.0f32; 16];
    let view = TensorViewMut::from_slice(&mut memory[1..], &[5, 3]).unwrap();
    session.run_into(&[("x", &x)], &mut [("y", view)], &RunOptions::default()).unwrap();
    assert_eq!(memory[1..], y);
    let mut bytes = vec![0u8; 61];
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

// A program that only ends when it is stopped.

static ENDLESS_RUNS: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn endless(worker: *const Worker) -> i32 {
    loop {
        ENDLESS_RUNS.store(true, Ordering::SeqCst);
        // SAFETY: entered by the engine.
        let status = unsafe { barrier(worker) };
        if status != 0 {
            return status;
        }
    }
}

#[test]
fn tokens_and_deadlines_stop_a_run() {
    let model = model(affine_plan(), endless, &[affine_shape], &LoadOptions::default());
    for workers in [1, 2, 3] {
        let mut session = session(&model, workers);
        let (x, _) = rows(2);
        let options = RunOptions {
            deadline: Some(Instant::now() + Duration::from_millis(20)),
            ..RunOptions::default()
        };
        let error = session.run_with(&[("x", &x)], &options).unwrap_err();
        assert_eq!(error.to_string(), "the run was stopped: its deadline passed");
        let token = CancelToken::new();
        let options = RunOptions { cancel: Some(token.clone()), ..RunOptions::default() };
        ENDLESS_RUNS.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ENDLESS_RUNS.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                token.cancel();
            });
            let error = session.run_with(&[("x", &x)], &options).unwrap_err();
            assert!(matches!(error, RuntimeError::Cancelled("it was cancelled")), "{error}");
        });
        let error = session.run_with(&[("x", &x)], &options).unwrap_err();
        assert!(
            matches!(error, RuntimeError::Cancelled(_)),
            "a cancelled token stops runs before they start"
        );
    }
}

// Failures: the first size of the input says which builtin to call, or which worker fails.

unsafe extern "C" fn call_builtin(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine; the failpoint returns before the builtin looks at its arguments.
    unsafe {
        let builtin = dim(worker, 0) as usize;
        let function: unsafe extern "C" fn(*const Worker, *const u8) -> i32 =
            std::mem::transmute(*run(worker).table.add(builtin));
        let status = function(worker, std::ptr::null());
        if status != 0 { give_up(worker, 1, status) } else { barrier(worker) }
    }
}

unsafe extern "C" fn one_worker_fails(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine.
    unsafe {
        let victim = dim(worker, 0) as u64;
        for round in 0..20 {
            if round == 10 && (*worker).index == victim % (*worker).count {
                return give_up(worker, 2, Status::IndexOutOfRange as i32);
            }
            let status = barrier(worker);
            if status != 0 {
                return status;
            }
        }
        barrier(worker)
    }
}

#[test]
fn a_failing_builtin_ends_the_run_on_all_workers() {
    let model = model(affine_plan(), call_builtin, &[affine_shape], &LoadOptions::default());
    for workers in [1, 2, 3, 8] {
        let mut session = session(&model, workers);
        for &builtin in Builtin::ALL {
            lathe_kernels::failpoint::set(Some(builtin));
            let (x, _) = rows(builtin as usize);
            let error = session.run(&[("x", &x)]).unwrap_err();
            assert!(
                matches!(&error, RuntimeError::StepFailed { node, step: 1, .. } if node == "/node/1"),
                "{error}"
            );
        }
    }
    lathe_kernels::failpoint::set(None);
}

#[test]
fn a_failure_on_one_worker_ends_the_run_on_all() {
    let model = model(affine_plan(), one_worker_fails, &[affine_shape], &LoadOptions::default());
    for workers in [1, 2, 3, 8] {
        let mut session = session(&model, workers);
        for victim in 0..workers {
            let error = session.run(&[("x", &rows(victim).0)]).unwrap_err();
            let text = error.to_string();
            assert_eq!(text, "node `/node/2` (test), step 2: an index lies outside its axis");
        }
    }
}

#[test]
fn sessions_of_many_threads_share_a_team() {
    let model = affine_model();
    let team = Team::new(3).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (model, team) = (&model, &team);
            scope.spawn(move || {
                let mut session = Session::with_team(model, team).unwrap();
                for round in 0..50 {
                    let (x, y) = rows(1 + (thread * 7 + round) % 11);
                    let outputs = session.run(&[("x", &x)]).unwrap();
                    assert_eq!(outputs.get("y").unwrap().to_slice::<f32>().unwrap().as_ref(), y);
                }
            });
        }
    });
}

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
            Slot { kind: SlotKind::Dynamic, dtype: DType::I64, bytes: DimId(4), stage: 1 },
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
