//! Longformer's work and memory grow linearly with the number of tokens.

use lathe_ir::{Dim, Module, Operation, ValueId};
use lathe_ops::Op;

use crate::model::{Config, build_outline};

fn outline() -> Module {
    let config = r#"{"model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "attention_window": [64, 128],
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 16386, "vocab_size": 100, "type_vocab_size": 1}"#;
    let config = Config::parse(config.as_bytes()).expect("a configuration");
    build_outline(&config, &crate::ImportOptions::default()).expect("a module")
}

/// The product of sizes for two sequences of `seq` tokens with three global ones.
fn cells<'a>(dims: impl IntoIterator<Item = &'a Dim>, seq: i64) -> i64 {
    let size = |dim: &Dim| {
        dim.evaluate(&|symbol| {
            Some(match symbol.name() {
                "batch" => 2,
                "seq" => seq,
                _ => 3,
            })
        })
    };
    dims.into_iter().map(|dim| size(dim).expect("a size")).product()
}

/// Twice as many tokens are at most twice as many cells, and what does not grow.
fn is_linear(of: impl Fn(i64) -> i64) -> bool {
    let [a, b, c] = [4096, 8192, 16384].map(of);
    b <= 2 * a && c <= 2 * b
}

#[test]
fn no_value_grows_faster_than_the_tokens() {
    let module = outline();
    let body = module.function(module.main().expect("a function"));
    let nodes = body.node_ids().filter_map(|id| body.node(id));
    let mut grows = 0;
    for output in nodes.flat_map(|node| &node.outputs) {
        let dims = &body.ty(*output).dims;
        assert!(is_linear(|seq| cells(dims, seq)), "{dims:?}");
        grows += usize::from(cells(dims, 8192) > cells(dims, 4096));
    }
    assert!(grows > 50);
}

#[test]
fn no_attention_computes_more_scores_than_the_tokens_have_neighbours() {
    let module = outline();
    let body = module.function(module.main().expect("a function"));
    let attentions = body.node_ids().filter_map(|id| body.node(id));
    let attentions = attentions.filter(|node| matches!(node.operation, Operation::Op(Op::Attention(_))));
    let mut count = 0;
    for node in attentions {
        let dims = |index: usize| -> &[Dim] {
            let value: Option<ValueId> = node.inputs[index];
            &body.ty(value.expect("an operand")).dims
        };
        // Queries times keys, of each sequence.
        let scores = |seq: i64| cells(&dims(0)[..2], seq) * cells(&dims(1)[1..2], seq);
        assert!(is_linear(scores), "{}", node.name);
        count += 1;
    }
    // One over blocks, one of the global tokens, in each of two layers.
    assert_eq!(count, 4);
}
