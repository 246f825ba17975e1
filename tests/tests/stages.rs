//! Values whose sizes depend on data: they share memory, which a session keeps.

use lathe_ir::EvaluateOptions;
use lathe_runtime::{Session, Team};
use lathe_tensor::Tensor;
use lathe_tests::text::compiled;

/// Rows that cannot be one loop, each as large as the one before.
const CHAIN: &str = r#"graph "main" (x: f32[n]) {
  %0: i64[1, k] = non_zero x
  %1: f32[1, k] = cast %0 {saturate=true, to="f32"}
  %2: f32[1, k] = softmax %1 {axis=-1, log=false}
  %3: f32[1, k] = softmax %2 {axis=-1, log=true}
  %4: f32[1, k] = softmax %3 {axis=-1, log=false}
  %5: f32[1, k] = softmax %4 {axis=-1, log=true}
  %6: f32[1, k] = softmax %5 {axis=-1, log=false}
  %7: f32[1] = reduce %6 {axes=[1], keep_dims=false, kind="max", noop_with_empty_axes=false}
  return %7 as most
}"#;

#[test]
fn values_of_a_stage_share_memory_that_the_session_keeps() {
    let (module, model, _) = compiled(CHAIN);
    let team = Team::new(2).expect("a team");
    let mut session = Session::with_team(&model, &team).expect("a session");
    let mut taken = Vec::new();
    for count in [50_000usize, 50_000, 300, 0, 90_000, 50_000] {
        let x: Vec<f32> = (0..100_000).map(|i| f32::from(u8::from(i < count))).collect();
        let x = Tensor::from_slice(&x, &[x.len()]).expect("fits");
        let outputs = session.run(&[("x", &x)]).expect("a run");
        let main = module.main().expect("a function");
        let options = EvaluateOptions::default();
        let meant = lathe_ir::evaluate(&module, main, &[x], &options).expect("evaluates");
        let (found, meant) = (&outputs.tensors()[0], &meant[0]);
        let (a, b) = (found.to_slice::<f32>().expect("f32")[0], meant.to_slice::<f32>().expect("f32")[0]);
        assert!((a - b).abs() <= 1e-5 * b.abs() || a == b, "{a}, not {b}");
        taken.push(outputs.stats().other_bytes);
    }
    // Indices of 8 bytes and at most two rows of 4 live at once; apart they would be five rows.
    let most = 50_000 * (8 + 2 * 4) + 4096;
    assert!(taken[0] <= most, "{taken:?}");
    assert_eq!(taken[0], taken[1]);
    // Small memory stays for runs that need less.
    assert!(taken[2..4].iter().all(|bytes| *bytes <= taken[0]) && taken[5] <= taken[4], "{taken:?}");
}
