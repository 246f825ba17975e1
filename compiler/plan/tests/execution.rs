//! Plans of random functions, run step by step: same results as the evaluator, no step without its barrier, no buffer
//! outside its phases.

mod machine;

use std::collections::BTreeMap;

use lathe_ir::{Builder, Dim, EvaluateOptions, Module, ValueId, ValueType, evaluate};
use lathe_ops::reduce::ReduceKind;
use lathe_plan::{PlanOptions, plan};
use lathe_tensor::{DType, Tensor};
use machine::Machine;
use proptest::prelude::*;

/// Values are `[batch, seq, 8]`.
const WIDTH: usize = 8;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) % 17) as f32 / 17.0 - 0.4)
        .collect()
}

fn weight(b: &mut Builder<'_>, shape: [usize; 2]) -> ValueId {
    let elements = numbers(shape[0] * shape[1], 7);
    b.constant(Tensor::from_slice(&elements, &shape).unwrap())
}

fn split_heads(b: &mut Builder<'_>, x: ValueId, perm: &[usize]) -> ValueId {
    let shape = b.list(&[0, 0, 2, 4]).unwrap();
    let split = b.reshape(x, shape).unwrap();
    b.transpose(split, perm).unwrap()
}

/// One more value made of earlier ones.
fn grow(b: &mut Builder<'_>, kind: u8, [x, y, z]: [ValueId; 3]) -> ValueId {
    match kind % 9 {
        0 => b.add(x, y).unwrap(),
        1 => b.relu(x).unwrap(),
        2 => {
            let w = weight(b, [WIDTH, WIDTH]);
            b.matmul(x, w).unwrap()
        }
        3 => {
            let q = split_heads(b, x, &[0, 2, 1, 3]);
            let k = split_heads(b, y, &[0, 2, 3, 1]);
            let v = split_heads(b, z, &[0, 2, 1, 3]);
            let scores = b.matmul(q, k).unwrap();
            let weights = b.softmax(scores, -1).unwrap();
            let context = b.matmul(weights, v).unwrap();
            let context = b.transpose(context, &[0, 2, 1, 3]).unwrap();
            let shape = b.list(&[0, 0, 8]).unwrap();
            b.reshape(context, shape).unwrap()
        }
        4 => {
            let (p, q) = (b.relu(x).unwrap(), b.add(y, z).unwrap());
            let joined = b.concat(&[p, q], 2).unwrap();
            let w = weight(b, [2 * WIDTH, WIDTH]);
            b.matmul(joined, w).unwrap()
        }
        5 => {
            let (p, q) = (b.unsqueeze(x, &[0]).unwrap(), b.unsqueeze(y, &[0]).unwrap());
            let joined = b.concat(&[p, q], 0).unwrap();
            b.reduce(ReduceKind::Sum, joined, &[0], false).unwrap()
        }
        6 => {
            let left = b.slice(x, 2, 0, 4).unwrap();
            let right = b.slice(y, 2, 4, 8).unwrap();
            b.concat(&[right, left], 2).unwrap()
        }
        7 => {
            let turned = b.transpose(x, &[1, 0, 2]).unwrap();
            let turned = b.relu(turned).unwrap();
            let back = b.transpose(turned, &[1, 0, 2]).unwrap();
            b.mul(back, y).unwrap()
        }
        _ => {
            let sum = b.reduce(ReduceKind::Sum, x, &[2], true).unwrap();
            b.mul(sum, y).unwrap()
        }
    }
}

fn module(program: &[(u8, u8, u8, u8)]) -> Module {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let dims: Vec<Dim> = ["batch", "seq", "8"].map(|text| text.parse().unwrap()).to_vec();
    let mut values = vec![
        b.input("a", ValueType::new(DType::F32, dims.clone())),
        b.input("b", ValueType::new(DType::F32, dims)),
    ];
    for &(kind, x, y, z) in program {
        let operands = [x, y, z].map(|choice| values[usize::from(choice) % values.len()]);
        let value = grow(&mut b, kind, operands);
        values.push(value);
    }
    let last = *values.last().unwrap();
    b.output("last", last);
    let middle = values[values.len() / 2];
    let turned = b.transpose(middle, &[2, 0, 1]).unwrap();
    b.output("turned", turned);
    b.output("again", last);
    module
}

fn check(program: &[(u8, u8, u8, u8)], batch: usize, seq: usize) {
    let module = module(program);
    let main = module.main().unwrap();
    let shape = [batch, seq, WIDTH];
    let count = shape.iter().product();
    let inputs = [3, 11].map(|seed| Tensor::from_slice(&numbers(count, seed), &shape).unwrap());
    let expected = evaluate(&module, main, &inputs, &EvaluateOptions::default()).unwrap();
    let planned = plan(&module, main, &PlanOptions::default()).unwrap();
    planned.plan.check().unwrap();
    let sizes = BTreeMap::from([("batch", batch as i64), ("seq", seq as i64)]);
    let actual = Machine::new(&module, &planned, &sizes).run(&inputs);
    for (actual, expected) in actual.iter().zip(&expected) {
        let expected = expected.to_slice::<f32>().unwrap();
        assert_eq!(actual.len(), expected.len());
        for (a, b) in actual.iter().zip(expected.iter()) {
            assert!((a - b).abs() <= 1e-3 * b.abs().max(1.0), "{a} is not {b}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn random_plans_compute_what_the_evaluator_computes(
        program in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..10),
        batch in 1usize..3,
        seq in 1usize..4,
    ) {
        check(&program, batch, seq);
    }
}

#[test]
fn a_long_chain_is_planned_in_linear_time() {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let mut x = b.input("x", ValueType::new(DType::F32, vec!["n".parse::<Dim>().unwrap()]));
    let one = b.scalar(1f32);
    for _ in 0..10_000 {
        x = b.relu(x).unwrap();
        x = b.add(x, one).unwrap();
    }
    b.output("y", x);
    let start = std::time::Instant::now();
    let planned = plan(&module, module.main().unwrap(), &PlanOptions::default()).unwrap();
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(planned.plan.slots.len(), 3, "in place from the first to the last but one");
}
