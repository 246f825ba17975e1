//! Loops: the compiled program against the evaluation of the module, and loops that never end.

use std::time::{Duration, Instant};

use lathe_artifact::plan::StepKind;
use lathe_ir::EvaluateOptions;
use lathe_runtime::{CancelToken, LoadOptions, RunOptions, Session, Team};
use lathe_tensor::Tensor;
use lathe_tests::text::{compiled, compiled_with};

fn f(shape: &[usize], elements: &[f32]) -> Tensor {
    Tensor::from_slice(elements, shape).expect("fits")
}

fn n(value: i64) -> Tensor {
    Tensor::scalar(value)
}

/// The program gives what the module means, with any number of workers; both give `expected`.
#[track_caller]
fn check(text: &str, inputs: &[(&str, Tensor)], expected: &[Tensor]) -> usize {
    let (module, model, evaluated) = compiled(text);
    let tensors: Vec<Tensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    let options = EvaluateOptions { check: true, ..EvaluateOptions::default() };
    let main = module.main().expect("a function");
    let meant = lathe_ir::evaluate(&module, main, &tensors, &options).expect("evaluates");
    let same = |found: &Tensor, expected: &Tensor| {
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
        assert_eq!(found.bytes(), expected.bytes(), "{found:?}, not {expected:?}");
    };
    assert_eq!(meant.len(), expected.len());
    meant.iter().zip(expected).for_each(|(found, expected)| same(found, expected));
    for workers in 1..4 {
        let team = Team::new(workers).expect("a team");
        let mut session = Session::with_team(&model, &team).expect("a session");
        let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        for _ in 0..3 {
            let outputs = session.run(&borrowed).expect("a run");
            outputs.tensors().iter().zip(expected).for_each(|(found, expected)| same(found, expected));
        }
    }
    evaluated
}

const SWAP: &str = r#"graph "main" (m: i64[], x: f32[a], y: f32[a]) {
  %0: f32[a], %1: f32[a] = loop m, _, x, y {body="b", carried=2}
  return %0 as p, %1 as q
}
graph "b" (i: i64[], c: bool[], u: f32[a], v: f32[a]) {
  c0 = const f32[] 1.0
  %0: f32[a] = add u, c0
  return c as more, v as u, %0 as v
}"#;

#[test]
fn carried_values_may_swap() {
    let inputs = |trips| [("m", n(trips)), ("x", f(&[2], &[1.0, 2.0])), ("y", f(&[2], &[5.0, 6.0]))];
    let three = [f(&[2], &[6.0, 7.0]), f(&[2], &[3.0, 4.0])];
    assert_eq!(check(SWAP, &inputs(3), &three), 0, "no evaluator step");
    check(SWAP, &inputs(-5), &[f(&[2], &[1.0, 2.0]), f(&[2], &[5.0, 6.0])]);
}

#[test]
fn sizes_may_change_and_rows_be_collected() {
    let text = r#"graph "main" (m: i64[], x: f32[a], y: f32[b]) {
  %0: f32[p], %1: f32[q], %2: f32[r], %3: i64[r] = loop m, _, x, y {body="b", carried=2}
  return %0 as p, %1 as q, %2 as sums, %3 as numbers
}
graph "b" (i: i64[], c: bool[], u: f32[k], v: f32[l]) {
  %0: f32[k + l] = concat v, u {axis=0}
  %1: f32[] = reduce %0 {axes=[0], keep_dims=false, kind="sum", noop_with_empty_axes=false}
  return c as more, %0 as u, u as v, %1 as sum, i as number
}"#;
    let inputs = [("m", n(3)), ("x", f(&[1], &[1.0])), ("y", f(&[2], &[2.0, 3.0]))];
    // u: [2 3 1], [1 2 3 1], [2 3 1 1 2 3 1]; v: the one before.
    check(
        text,
        &inputs,
        &[
            f(&[7], &[2.0, 3.0, 1.0, 1.0, 2.0, 3.0, 1.0]),
            f(&[4], &[1.0, 2.0, 3.0, 1.0]),
            f(&[3], &[6.0, 7.0, 13.0]),
            Tensor::from_slice(&[0i64, 1, 2], &[3]).expect("fits"),
        ],
    );
}

const WHILE: &str = r#"graph "main" (x: f32[a], limit: f32[]) {
  %0: f32[a], %1: f32[r, a] = loop _, _, x, limit {body="b", carried=1}
  return %0 as last, %1 as all
}
graph "b" (i: i64[], c: bool[], u: f32[a], limit: f32[]) {
  %0: f32[a] = add u, u
  %1: f32[] = reduce %0 {axes=[0], keep_dims=false, kind="max", noop_with_empty_axes=false}
  %2: bool[] = less %1, limit
  return %2 as more, %0 as u, %0 as row
}"#;

#[test]
fn a_condition_ends_a_loop() {
    let inputs = [("x", f(&[2], &[1.0, 3.0])), ("limit", f(&[], &[20.0]))];
    let rows = f(&[3, 2], &[2.0, 6.0, 4.0, 12.0, 8.0, 24.0]);
    check(WHILE, &inputs, &[f(&[2], &[8.0, 24.0]), rows]);
}

#[test]
fn sizes_of_collected_rows_are_compared_behind_their_loops() {
    let text = format!(
        r#"graph "main" (x: f32[a], limit: f32[]) {{
  %0: f32[a], %1: f32[r, a] = loop _, _, x, limit {{body="b", carried=1}}
  %2: f32[a], %3: f32[s, a] = loop _, _, x, limit {{body="b", carried=1}}
  %4: f32[bcast(r, s), a] = add %1, %3
  return %4 as sums
}}
{}"#,
        &WHILE[WHILE.find("graph \"b\"").expect("the body")..]
    );
    let inputs = [("x", f(&[2], &[1.0, 3.0])), ("limit", f(&[], &[20.0]))];
    check(&text, &inputs, &[f(&[3, 2], &[4.0, 12.0, 8.0, 24.0, 16.0, 48.0])]);
}

/// What a worker reads to leave a loop may not be written by one that has left it.
#[test]
fn workers_leave_a_loop_together() {
    let module = lathe_ir::parse(WHILE).expect("parses");
    let main = module.main().expect("a function");
    let planned = lathe_plan::plan(&module, main, &lathe_plan::PlanOptions::default()).expect("a plan");
    let steps = &planned.plan.steps;
    let index = steps.iter().position(|step| matches!(step.kind, StepKind::Loop(_))).expect("a loop");
    assert!(matches!(steps[index + 1].kind, StepKind::Barrier));
}

#[test]
fn loops_nest() {
    let text = r#"graph "main" (m: i64[], x: f32[2]) {
  c0 = const i64[] 2
  %0: f32[2], %1: f32[2, 2] = loop c0, _, x, m, x {body="outer", carried=1}
  return %0 as p, %1 as q
}
graph "outer" (i: i64[], c: bool[], u: f32[2], m: i64[], x: f32[2]) {
  %0: f32[2], %1: f32[r, 2] = loop m, _, u, x {body="inner", carried=1}
  %2: f32[2] = reduce %1 {axes=[0], keep_dims=false, kind="sum", noop_with_empty_axes=false}
  return c as more, %0 as u, %2 as row
}
graph "inner" (i: i64[], c: bool[], u: f32[2], x: f32[2]) {
  %0: f32[2] = add u, x
  return c as more, %0 as u, u as row
}"#;
    let inputs = [("m", n(2)), ("x", f(&[2], &[1.0, 10.0]))];
    check(text, &inputs, &[f(&[2], &[5.0, 50.0]), f(&[2, 2], &[3.0, 30.0, 7.0, 70.0])]);
}

#[test]
fn rows_of_known_sizes_take_no_evaluator() {
    let text = r#"graph "main" (x: f32[t, 2], s: f32[2]) {
  %0: i64[] = dims [t] {scalar=true}
  %1: f32[2], %2: f32[t, 2] = loop %0, _, s, x {body="b", carried=1}
  return %1 as sum, %2 as sums
}
graph "b" (i: i64[], c: bool[], u: f32[2], x: f32[t, 2]) {
  %0: f32[2] = gather x, i {axis=0}
  %1: f32[2] = add u, %0
  return c as more, %1 as u, %1 as row
}"#;
    let inputs = [("x", f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])), ("s", f(&[2], &[0.0, 1.0]))];
    let sums = f(&[3, 2], &[1.0, 3.0, 4.0, 7.0, 9.0, 13.0]);
    assert_eq!(check(text, &inputs, &[f(&[2], &[9.0, 13.0]), sums]), 0);
}

#[test]
fn loops_without_end_are_stopped() {
    let (module, model, _) = compiled(WHILE);
    let (x, limit) = (f(&[2], &[0.0, 0.0]), f(&[], &[1.0]));
    let mut session = Session::new(&model).expect("a session");
    let error = session.run(&[("x", &x), ("limit", &limit)]).expect_err("no end").to_string();
    assert!(error.contains("(loop)") && error.contains("iterations"), "{error}");
    let main = module.main().expect("a function");
    let inputs = [x.clone(), limit.clone()];
    let error = lathe_ir::evaluate(&module, main, &inputs, &EvaluateOptions::default()).expect_err("no end");
    assert!(error.to_string().contains("iterations"), "{error}");

    let deadline =
        RunOptions { deadline: Some(Instant::now() + Duration::from_millis(20)), ..RunOptions::default() };
    let error = session.run_with(&[("x", &x), ("limit", &limit)], &deadline).expect_err("a deadline");
    assert_eq!(error.to_string(), "the run was stopped: its deadline passed");
    let token = CancelToken::new();
    token.cancel();
    let cancelled = RunOptions { cancel: Some(token), ..RunOptions::default() };
    let error = session.run_with(&[("x", &x), ("limit", &limit)], &cancelled).expect_err("cancelled");
    assert_eq!(error.to_string(), "the run was stopped: it was cancelled");
}

/// Few rows of many units: workers meet after each step, in the middle of a builtin.
#[test]
fn long_layers_are_stopped_and_run_again() {
    let text = r#"graph "main" (x: f32[s, 1, 1], h: f32[1, 1, 128]) {
  c0 = const f32[1, 512, 1] splat 0.25
  c1 = const f32[1, 512, 128] splat 0.01
  %0, %1, %2 = lstm x, c0, c1, _, _, h {hidden=128, direction="forward", activations=[], activation_alpha=[], activation_beta=[], clip=null, input_forget=false, batch_first=false}
  return %1 as last
}"#;
    let (_, model, evaluated) = compiled(text);
    assert_eq!(evaluated, 0, "no evaluator step");
    let h: Vec<f32> = (0..128).map(|unit| unit as f32 / 128.0 - 0.4).collect();
    let h = f(&[1, 1, 128], &h);
    let x = |steps: usize| f(&[steps, 1, 1], &(0..steps).map(|step| (step % 7) as f32).collect::<Vec<_>>());
    let (long, short) = (x(60_000), x(50));
    let mut first: Option<Vec<u8>> = None;
    for workers in 1..4 {
        let team = Team::new(workers).expect("a team");
        let mut session = Session::with_team(&model, &team).expect("a session");
        let deadline = Some(Instant::now() + Duration::from_millis(10));
        let options = RunOptions { deadline, ..RunOptions::default() };
        let error = session.run_with(&[("x", &long), ("h", &h)], &options).expect_err("a deadline");
        assert_eq!(error.to_string(), "the run was stopped: its deadline passed");
        let outputs = session.run(&[("x", &short), ("h", &h)]).expect("a run");
        let bytes = outputs.tensors()[0].bytes().to_vec();
        assert_eq!(first.get_or_insert_with(|| bytes.clone()), &bytes, "{workers} workers");
    }
}

const GROW: &str = r#"graph "main" (m: i64[], x: f32[a]) {
  c0 = const f32[0] []
  c1 = const i64[0] []
  c2 = const i64[0, 2] []
  %0: f32[p], %1: i64[q], %2: i64[r, 2] = loop m, _, c0, c1, c2, x {body="b", carried=3}
  return %0 as elements, %1 as sizes, %2 as layout
}
graph "b" (i: i64[], c: bool[], e: f32[k], s: i64[l], t: i64[n, 2], x: f32[a]) {
  c0 = const i64[1] [0]
  c1 = const i64[1] [1]
  %0: i64[1] = reshape i, c1 {allow_zero=true}
  %1: f32[v] = slice x, c0, %0, c0, c1
  %2: f32[k + v], %3: i64[l + 1], %4: i64[n + 1, 2] = sequence_insert e, s, t, %1
  return c as more, %2 as e, %3 as s, %4 as t
}"#;

#[test]
fn a_sequence_grows_by_tensors_of_other_sizes() {
    let ints = |shape: &[usize], elements: &[i64]| Tensor::from_slice(elements, shape).expect("fits");
    let inputs = |trips| [("m", n(trips)), ("x", f(&[4], &[1.0, 2.0, 3.0, 4.0]))];
    let four = [
        f(&[6], &[1.0, 1.0, 2.0, 1.0, 2.0, 3.0]),
        ints(&[4], &[0, 1, 2, 3]),
        ints(&[4, 2], &[1, 0, 1, 1, 1, 2, 1, 3]),
    ];
    check(GROW, &inputs(4), &four);
    check(GROW, &inputs(0), &[f(&[0], &[]), ints(&[0], &[]), ints(&[0, 2], &[])]);
}

#[test]
fn a_sequence_that_grows_for_ever_ends_at_a_limit() {
    let endless = GROW
        .replace("slice x, c0, %0, c0, c1", "neg x")
        .replace("f32[v]", "f32[a]")
        .replace("k + v", "k + a");
    let limited = LoadOptions { max_memory: Some(256 << 20), ..LoadOptions::default() };
    let (_, model, _) = compiled_with(&endless, &limited);
    let mut session = Session::new(&model).expect("a session");
    let x = Tensor::zeros(lathe_tensor::DType::F32, &[1 << 20]).expect("4 MiB");
    let trips = n(i64::MAX);
    let inputs = [("m", &trips), ("x", &x)];
    let error = session.run(&inputs).expect_err("no end").to_string();
    assert!(error.contains("limit"), "{error}");
    let deadline =
        RunOptions { deadline: Some(Instant::now() + Duration::from_millis(50)), ..RunOptions::default() };
    let small = f(&[1], &[1.0]);
    let error = session.run_with(&[("m", &trips), ("x", &small)], &deadline).expect_err("a deadline");
    assert_eq!(error.to_string(), "the run was stopped: its deadline passed");
}
