//! The plan of a function with a state: one place for all versions, a barrier between the append and its readers, no copy.

use lathe_artifact::plan::{SlotKind, StateKind, StepKind};
use lathe_plan::{PlanOptions, PlanText, plan};

const DECODE: &str = r#"graph "decode" (tokens: i64[1, n], position: i64[1, n], seq_start: i64[b + 1], context_len: i64[b], block_table.w8: i64[b, pages], longer.32: bool[], q: f32[1, 4, n, 8], k: f32[1, 2, n, 8], v: f32[1, 2, n, 4], kv.0: f32[pool, 1536]) {
  c0 = const f32[] 0.5
  c1 = const f32[] 0.25
  %0: f32[] = where longer.32, c0, c1 // "factor"
  %1: f32[1, 2, n, 8] = mul k, %0 // "scaled"
  %2: f32[pool, 1536] = kv_append kv.0, %1, v, position, seq_start, block_table.w8 // "append"
  %3: f32[1, 4, n, 4] = paged_attention q, %2, position, seq_start, context_len, block_table.w8 {kv_heads=2,qk_head_dim=8,v_head_dim=4,window=8,softcap=0.0} // "attend"
  return %3 as y, %2 as kv.0
}"#;

#[test]
fn a_state_has_one_place() {
    let module = lathe_ir::parse(DECODE).unwrap();
    lathe_ir::verify(&module).unwrap();
    let planned = plan(&module, module.main().unwrap(), &PlanOptions::default()).unwrap();
    let plan = &planned.plan;
    plan.check().unwrap();
    let [state] = &plan.states[..] else { panic!("{:?}", plan.states) };
    assert_eq!((state.kind, state.kv_heads, state.qk_head_dim, state.v_head_dim), (StateKind::Kv, 2, 8, 4));
    assert_eq!((state.window, state.page_elements()), (Some(8), 1536));
    assert_eq!(plan.kv_bytes_per_token(), 2 * 12 * 4);
    assert_eq!(plan.kv_bytes(100), 8 * 2 * 12 * 4);
    let (input, output) = (&plan.inputs[state.input as usize], &plan.outputs[state.output.unwrap() as usize]);
    assert_eq!(input.tensor.view, output.tensor.view);
    assert_eq!(plan.slots[input.tensor.view.slot.0 as usize].kind, SlotKind::State(0));
    assert_eq!(plan.regimes.iter().map(|regime| regime.boundary).collect::<Vec<_>>(), [32]);
    let copies = plan
        .steps
        .iter()
        .filter(|step| matches!(&step.kind, StepKind::Call(call) if call.builtin.name() == "copy"));
    assert_eq!(copies.count(), 0);
    let place = |op: &str| plan.steps.iter().position(|step| step.op == op).unwrap();
    let between = &plan.steps[place("kv_append")..place("paged_attention")];
    assert!(between.iter().any(|step| step.kind == StepKind::Barrier));
    insta::assert_snapshot!(PlanText(plan));
}

#[test]
fn readers_of_an_old_version_are_refused() {
    let text = DECODE.replace("paged_attention q, %2", "paged_attention q, kv.0");
    let module = lathe_ir::parse(&text).unwrap();
    let error = lathe_ir::verify(&module).unwrap_err();
    assert!(error.to_string().contains("another use of the version"), "{error}");
}

#[test]
fn a_state_that_is_no_input_is_refused() {
    let text = DECODE
        .replace("kv_append kv.0", "kv_append %4")
        .replace("  %2:", "  %4: f32[pool, 1536] = relu kv.0 // \"copy\"\n  %2:");
    let module = lathe_ir::parse(&text).unwrap();
    let error = lathe_ir::verify(&module).unwrap_err();
    assert!(error.to_string().contains("neither an input nor a version"), "{error}");
}
