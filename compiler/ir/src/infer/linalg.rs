//! Linear algebra.

use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};

/// The dims of each square matrix's determinant are those before it.
pub(super) fn det(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let x = cx.ty(0)?;
    let [batch @ .., rows, columns] = &x.dims[..] else {
        return Err(cx.bad("the operand needs two axes at least"));
    };
    cx.equal(rows, columns, "rows and columns of a square matrix")?;
    Ok(vec![Output::new(x.dtype, batch)])
}
