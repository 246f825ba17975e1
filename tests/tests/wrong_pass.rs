//! `--verify` names the first pass that changes the answer.

use std::path::Path;

use lathe_compiler::CompileOptions;
use lathe_compiler::verify::Verification;
use lathe_ir::{NodeId, Operation};
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;
use lathe_passes::{Context, Pass, Proposal, Rewrite, Rule};

/// Takes sigmoid for tanh: the types agree, the answer does not.
struct WrongPass;

impl Rule for WrongPass {
    fn name(&self) -> &'static str {
        "wrong"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Unary(Unary::Tanh)), [output]) = (&node.operation, &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        let mut rewrite = Rewrite::new(&node.name);
        let operand = node.inputs.first().copied().flatten().and_then(Rewrite::value);
        let new = rewrite.node(Op::Unary(Unary::Sigmoid), &[operand]);
        rewrite.replace(*output, new)
    }
}

const MODEL: &str = r#"graph "main" (x: f32[n, 4]) {
  c0 = const f32[] 1.0
  %0 = mul x, c0  // "scale"
  %1 = tanh %0    // "tanh"
  return %1 as y
}"#;

#[test]
fn a_wrong_pass_is_caught_by_name() {
    let path = Path::new("model.onnx");
    let module = lathe_ir::parse(MODEL).expect("the text is a module");
    let verification = Verification::of_module(module, path, 0).expect("the graph evaluates");
    let options = CompileOptions::default();
    let good = verification.passes(path, &options).expect("the standard passes keep the answer");
    assert!(good.iter().any(|(name, _)| name == "no_ops"), "{good:?}");
    let mut passes = lathe_passes::standard();
    passes.insert(passes.len() / 2, Pass::Rule(&WrongPass));
    let error = verification.passes_of(path, &passes, &options).expect_err("the answer changed");
    assert!(error.to_string().contains("pass `wrong` changes the answer"), "{error}");
}
