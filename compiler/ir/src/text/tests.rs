use lathe_tensor::{DType, Tensor};
use proptest::prelude::*;

use super::{constant_hash, parse, parse_with};
use crate::{Builder, Module, random, verify};

#[track_caller]
fn check(text: &str) -> Module {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    verify(&module).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(module.to_string(), text);
    module
}

#[test]
fn prints_and_parses() {
    check(
        r#"graph "main" (ids: i64[batch, seq], "two words": f32[batch, 3], sizes: i64[2] known [seq, 2*seq]) {
  require batch >= 1 "batch is not empty"
  c0 = const f32[10, 3] splat 0.5  // "embedding"
  c1 = const f32[] 6.0
  c2 = const f32[2, 3] [1.0, -0.0, 1e-5, inf, 0x7fc00000, 3.4028235e38]
  c3 = const bool[] true
  %0: f32[batch, seq, 3] = gather c0, ids {axis=0}  // "/word/Gather"
  %1: i64[2] = dims [batch, 2*seq]
  %2: i64[] = dims [floordiv(seq + 1, 2)] {scalar=true}
  %3: f32[batch, seq, 3] = clip %0, _, c1
  %4: i64[2, u0] = non_zero c2
  %5: f32[batch, seq, 3] = if c3, %3 {then="yes", else="no"}
  return %5 as y, %4, ids as "the ids"
}

graph "yes" (p: f32[batch, seq, 3]) {
  return p as r
}

graph "no" (p: f32[batch, seq, 3]) {
  %0: f32[batch, seq, 3] = neg p
  return %0 as r
}
"#,
    );
}

#[test]
fn types_are_inferred_where_left_out() {
    let module =
        parse("graph \"m\" (x: f32[n, 2]) {\n  %7 = relu x\n  %8 = shape %7 {start=0}\n  return %8\n}\n");
    let module = module.unwrap_or_else(|error| panic!("{error}"));
    insta::assert_snapshot!(module, @r#"
    graph "m" (x: f32[n, 2]) {
      %0: f32[n, 2] = relu x
      %1: i64[2] = shape %0 {start=0}
      return %1
    }
    "#);
}

#[test]
fn large_constants_are_given_by_hash() {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let values: Vec<f32> = (0..100u8).map(f32::from).collect();
    let tensor = Tensor::from_slice(&values, &[100]).expect("small");
    let c = b.constant(tensor.clone());
    let y = b.neg(c).expect("a float");
    b.output("y", y);
    let text = module.to_string();
    assert!(parse(&text).is_err());
    let hash = constant_hash(&tensor);
    let again = parse_with(&text, &|wanted, _, _| (wanted == hash).then(|| tensor.clone()));
    let again = again.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again.to_string(), text);
    assert!(parse_with(&text, &|_, _, _| Tensor::zeros(DType::F32, &[3]).ok()).is_err());
}

#[test]
fn errors_name_line_and_column() {
    let cases = [
        ("graph \"m\" (x: f32[n]) {\n  %0 = relu y\n}", "line 2, column 13: no value above has this name"),
        (
            "graph \"m\" (x: f32[n]) {\n  %0: i64[n] = relu x\n}",
            "line 2, column 3: declared is i64[n], inferred is f32[n]",
        ),
        ("graph \"m\" (x: f32[n]) {\n  %0 = frobnicate x\n}", "line 2, column 3: unknown op `frobnicate`"),
        (
            "graph \"m\" () {\n  c0 = const f32[4000000000000] splat 1.0\n}",
            "line 2, column 3: a f32[4000000000000] cannot be given by one element here",
        ),
        (
            "graph \"m\" (x: f32[n]) {\n  %0 = region x {body=\"m\"}\n}",
            "line 1, column 1: the graph applies itself",
        ),
        ("graph \"m\" (x: f33[n]) {\n}", "line 1, column 15: unknown dtype `f33`"),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).err().map(|error| error.to_string()).as_deref(), Some(expected), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn random_modules_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let module = random::module(&bytes);
        if let Err(error) = verify(&module) {
            return Err(TestCaseError::fail(format!("{error}\n{module}")));
        }
        let text = module.to_string();
        let tensors: Vec<_> = module.constants().map(|(_, constant)| constant.tensor.clone()).collect();
        let lookup = |hash, _: DType, _: &[usize]| tensors.iter().find(|tensor| constant_hash(tensor) == hash).cloned();
        let again = parse_with(&text, &lookup);
        let again = again.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(again.to_string(), text.as_str());
        prop_assert!(verify(&again).is_ok());
        for ((_, a), (_, b)) in module.functions().zip(again.functions()) {
            let guards = |function: &crate::Function| -> Vec<_> {
                let order = function.topological_order().unwrap_or_default();
                order.iter().filter_map(|id| function.node(*id)).map(|node| node.guards.clone()).collect()
            };
            prop_assert_eq!(guards(a), guards(b), "{}", text);
        }
    }

    #[test]
    fn broken_text_is_an_error_or_a_module(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in any::<u16>(), insert in "[-%c0-9\\[\\]{}(),=:#\" a-z\n]{0,6}") {
        let text = random::module(&bytes).to_string();
        let at = (0..=usize::from(cut) % (text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let _ = parse(&text[..at]);
        let _ = parse(&format!("{}{insert}{}", &text[..at], &text[at..]));
    }

    #[test]
    fn garbage_is_an_error(text in "(graph|\"m\"|const|return|c0|%0|=|\\(|\\)|\\{|\\}|\\[|\\]|f32|:|,|\n|dims|x| ){0,40}") {
        let _ = parse(&text);
    }
}
