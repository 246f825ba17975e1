//! The plan of a self-attention layer: heads split and join by strides alone.

use lathe_ir::{Builder, Dim, Module, Symbol, ValueId, ValueType};
use lathe_plan::{PlanOptions, PlanText, plan};
use lathe_tensor::{DType, Tensor};

fn heads(b: &mut Builder<'_>, x: ValueId, perm: &[usize]) -> ValueId {
    let weight = Tensor::zeros(DType::F32, &[16, 16]).unwrap();
    let weight = b.constant(weight);
    let bias = b.constant(Tensor::zeros(DType::F32, &[16]).unwrap());
    let projected = b.matmul(x, weight).unwrap();
    let projected = b.add(projected, bias).unwrap();
    let shape = b.list(&[0, 0, 4, 4]).unwrap();
    let split = b.reshape(projected, shape).unwrap();
    b.transpose(split, perm).unwrap()
}

#[test]
fn attention_copies_nothing() {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let (batch, seq) = (Dim::symbol(Symbol::new("batch")), Dim::symbol(Symbol::new("seq")));
    let x = b.input("x", ValueType::new(DType::F32, vec![batch, seq, Dim::constant(16)]));
    let q = heads(&mut b, x, &[0, 2, 1, 3]);
    let k = heads(&mut b, x, &[0, 2, 3, 1]);
    let v = heads(&mut b, x, &[0, 2, 1, 3]);
    let scores = b.matmul(q, k).unwrap();
    let scale = b.scalar(0.5f32);
    let scores = b.mul(scores, scale).unwrap();
    let weights = b.softmax(scores, -1).unwrap();
    let context = b.matmul(weights, v).unwrap();
    let context = b.transpose(context, &[0, 2, 1, 3]).unwrap();
    let shape = b.list(&[0, 0, 16]).unwrap();
    let joined = b.reshape(context, shape).unwrap();
    let weight = b.constant(Tensor::zeros(DType::F32, &[16, 16]).unwrap());
    let y = b.matmul(joined, weight).unwrap();
    let y = b.add(y, x).unwrap();
    let y = b.unsqueeze(y, &[0]).unwrap();
    b.output("y", y);
    let main = module.main().unwrap();
    let planned = plan(&module, main, &PlanOptions::default()).unwrap();
    insta::assert_snapshot!(PlanText(&planned.plan));
}
