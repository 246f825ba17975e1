use lathe_ir::{NodeId, Operation};
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;

use super::run;
use crate::driver::{Options, optimise};
use crate::{Context, Pass, PassError, Proposal, Rewrite, Rule, standard};

/// Swaps exp and log for ever.
struct PingPong;

impl Rule for PingPong {
    fn name(&self) -> &'static str {
        "ping_pong"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let other = match node.operation {
            Operation::Op(Op::Unary(Unary::Exp)) => Unary::Log,
            Operation::Op(Op::Unary(Unary::Log)) => Unary::Exp,
            _ => return Proposal::NoMatch,
        };
        let mut rewrite = Rewrite::new(&node.name);
        let operand = node.inputs.first().copied().flatten().and_then(Rewrite::value);
        let new = rewrite.node(Op::Unary(other), &[operand]);
        node.outputs.first().map_or(Proposal::NoMatch, |output| rewrite.replace(*output, new))
    }
}

const CHAIN: &str = r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 1.0
  %0 = mul x, c0  // "a"
  %1 = mul %0, c0 // "b"
  %2 = exp %1     // "exp"
  return %2 as y
}"#;

#[test]
fn rules_that_feed_each_other_are_bounded() {
    let text = run(&[Pass::Rule(&PingPong)], CHAIN);
    assert!(text.contains("exp") || text.contains("log"), "{text}");
}

#[test]
fn stop_after_bisects() {
    for (stop, left) in [(0, 2), (1, 1), (2, 0)] {
        let mut module = lathe_ir::parse(CHAIN).expect("the text is a module");
        let options = Options { stop_after: Some(stop), ..Options::default() };
        let report = optimise(&mut module, &standard(), &options, &mut |_, _| {}).expect("the passes run");
        assert_eq!(report.applied(), stop);
        assert_eq!(module.to_string().matches("= mul").count(), left, "{module}");
    }
}

#[test]
fn disabled_passes_do_not_run_and_unknown_ones_are_named() {
    let mut module = lathe_ir::parse(CHAIN).expect("the text is a module");
    let disable = vec!["no_ops".to_string(), "fuse_regions".to_string()];
    let options = Options { disable, ..Options::default() };
    let report = optimise(&mut module, &standard(), &options, &mut |_, _| {}).expect("the passes run");
    assert!(report.passes.iter().all(|pass| pass.name != "no_ops"));
    assert_eq!(module.to_string().matches("= mul").count(), 2);
    let options = Options { disable: vec!["nonsense".to_string()], ..Options::default() };
    let error = optimise(&mut module, &standard(), &options, &mut |_, _| {});
    assert!(matches!(error, Err(PassError::UnknownPass { name, .. }) if name == "nonsense"));
}
