use lathe_tensor::DType;

use crate::{Builder, Dim, Edit, IrError, Module, ValueType, verify};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};

fn ty(dims: &[&str]) -> ValueType {
    ValueType::new(DType::F32, dims.iter().map(|dim| dim.parse().expect("a dim")).collect::<Vec<Dim>>())
}

#[test]
fn an_edit_replaces_uses_and_removes_what_dies() -> Result<(), IrError> {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let x = b.input("x", ty(&["n"]));
    let a = b.sigmoid(x)?;
    let y = b.mul(a, x)?;
    let z = b.relu(y)?;
    b.output("z", z);
    let main = b.id();
    let mut edit = Edit::new();
    let silu = edit.op(Op::Unary(Unary::Silu), &[x.into()], "silu");
    edit.replace(y, silu);
    let applied = module.apply(main, edit)?;
    assert_eq!((applied.added.len(), applied.removed), (1, 2));
    assert_eq!(module.function(main).node_count(), 2);
    verify(&module).map_err(|error| panic!("{error}")).ok();
    Ok(())
}

#[test]
fn new_nodes_keep_using_what_they_replace() -> Result<(), IrError> {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let x = b.input("x", ty(&["n"]));
    let y = b.relu(x)?;
    b.output("y", y);
    let main = b.id();
    let mut edit = Edit::new();
    let neg = edit.op(Op::Unary(Unary::Neg), &[y.into()], "neg");
    edit.replace(y, neg);
    module.apply(main, edit)?;
    assert_eq!(module.function(main).node_count(), 2);
    verify(&module).map_err(|error| panic!("{error}")).ok();
    Ok(())
}

#[test]
fn an_edit_that_changes_a_type_changes_nothing() -> Result<(), IrError> {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let x = b.input("x", ty(&["n", "3"]));
    let y = b.relu(x)?;
    b.output("y", y);
    let main = b.id();
    let before = module.function(main).value_count();
    let mut edit = Edit::new();
    let nan = edit.op(Op::Unary(Unary::IsNan), &[x.into()], "nan");
    edit.replace(y, nan);
    assert!(matches!(module.apply(main, edit), Err(IrError::Bug { .. })));
    let mut edit = Edit::new();
    let c = edit.constant(lathe_tensor::Tensor::zeros(DType::F32, &[4]).expect("small"), None);
    let sum = edit.op(Op::Binary(Binary::Add), &[x.into(), c], "bad");
    edit.replace(y, sum);
    assert!(matches!(module.apply(main, edit), Err(IrError::BadModel { .. })));
    let function = module.function(main);
    assert_eq!((function.node_count(), function.value_count(), function.users(x).len()), (1, before, 1));
    verify(&module).map_err(|error| panic!("{error}")).ok();
    Ok(())
}

#[test]
fn long_chains_and_wide_fans_are_quick() -> Result<(), IrError> {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let x = b.input("x", ty(&["n"]));
    let root = b.relu(x)?;
    let mut chain = root;
    for _ in 0..20_000 {
        let side = b.neg(root)?;
        chain = b.add(chain, side)?;
    }
    b.output("y", root);
    let main = b.id();
    let start = std::time::Instant::now();
    let mut edit = Edit::new();
    let silu = edit.op(Op::Unary(Unary::Silu), &[x.into()], "silu");
    edit.replace(root, silu);
    module.apply(main, edit)?;
    assert_eq!(module.remove_dead_nodes(main), 40_000);
    assert_eq!(module.function(main).node_count(), 1);
    assert!(start.elapsed().as_secs() < 5, "took {:?}", start.elapsed());
    Ok(())
}
