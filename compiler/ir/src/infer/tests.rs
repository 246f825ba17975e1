//! Exporter patterns, end to end.

use lathe_ops::{Op, shape};
use lathe_tensor::DType;

use crate::{Builder, Dim, IrError, Module, ValueType};

fn f32_input(b: &mut Builder<'_>, dims: &[&str]) -> crate::ValueId {
    let dims: Vec<Dim> = dims.iter().map(|dim| dim.parse().expect("a dim")).collect();
    b.input("x", ValueType::new(DType::F32, dims))
}

#[test]
fn shape_arithmetic_of_exporters_folds() -> Result<(), IrError> {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let x = f32_input(&mut b, &["batch", "seq", "384"]);
    // x.view(x.size(0), x.size(1), 12, -1)
    let shape = b.shape_of(x)?;
    let (zero, one) = (b.scalar(0i64), b.scalar(1i64));
    let mut parts = Vec::new();
    for index in [zero, one] {
        let size = b.gather(shape, index, 0)?;
        parts.push(b.unsqueeze(size, &[0])?);
    }
    parts.push(b.list(&[12])?);
    parts.push(b.list(&[-1])?);
    let target = b.concat(&parts, 0)?;
    let y = b.reshape(x, target)?;
    assert_eq!(b.ty(y).to_string(), "f32[batch, seq, 12, 32]");
    // expand(batch, -1, 384): Shape -> ConstantOfShape -> Mul(-1) -> Equal -> Where -> Expand
    let minus_one = b.scalar(-1i64);
    let sizes = b.concat(&[parts[0], parts[3], parts[2]], 0)?;
    let rank = b.shape_of(sizes)?;
    let ones = b.op(Op::ConstantOfShape(shape::ConstantOfShape { dtype: DType::I64, bits: 1 }), &[rank])?;
    let marks = b.mul(ones, minus_one)?;
    let keep = b.equal(sizes, marks)?;
    let target = b.select(keep, ones, sizes)?;
    let z = b.named("z").list(&[1])?;
    let z = b.cast(z, DType::F32)?;
    let z = b.unsqueeze(z, &[0, 1])?;
    let z = b.expand(z, target)?;
    assert_eq!(b.ty(z).to_string(), "f32[batch, 1, 12]");
    let flat = b.list(&[-1, 384])?;
    let flat = b.reshape(y, flat)?;
    assert_eq!(b.ty(flat).to_string(), "f32[batch*seq, 384]");
    Ok(())
}
