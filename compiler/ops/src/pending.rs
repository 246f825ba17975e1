//! Arities of the ops whose evaluation stands in no family file yet.
use crate::evaluate::{Arity, Evaluate};

macro_rules! arities {
    ($($ty:ty: |$row:ident| $arity:expr;)*) => { $(
        impl Evaluate for $ty {
            fn arity(&self) -> Arity {
                let $row = self;
                $arity
            }
        }
    )* };
}

arities! {
    crate::resize::Resize: |_row| Arity::of(1, 4);
    crate::quant::QuantizeLinear: |_row| Arity::of(2, 3);
    crate::quant::DequantizeLinear: |_row| Arity::of(2, 3);
    crate::quant::DynamicQuantizeLinear: |_row| Arity::of(1, 1).outputs(3, 3);
    crate::quant::MatMulInteger: |_row| Arity::of(2, 4);
    crate::attention::Attention: |_row| Arity::of(3, 7).outputs(1, 4);
    crate::position::RotaryEmbedding: |_row| Arity::of(3, 4);
    crate::recurrent::Lstm: |_row| Arity::of(3, 8).outputs(1, 3);
}
