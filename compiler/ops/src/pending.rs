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
    crate::elementwise::Unary: |_row| Arity::of(1, 1);
    crate::elementwise::Binary: |_row| Arity::of(2, 2);
    crate::elementwise::Compare: |_row| Arity::of(2, 2);
    crate::elementwise::LeakyRelu: |_row| Arity::of(1, 1);
    crate::elementwise::HardSigmoid: |_row| Arity::of(1, 1);
    crate::elementwise::Gelu: |_row| Arity::of(1, 1);
    crate::elementwise::Clip: |_row| Arity::of(1, 3);
    crate::elementwise::Where: |_row| Arity::of(3, 3);
    crate::elementwise::Cast: |_row| Arity::of(1, 1);
    crate::matmul::MatMul: |_row| Arity::of(2, 2);
    crate::matmul::Linear: |_row| Arity::of(2, 4);
    crate::conv::Conv: |_row| Arity::of(2, 4);
    crate::conv::ConvTranspose: |_row| Arity::of(2, 3);
    crate::pool::MaxPool: |_row| Arity::of(1, 1).outputs(1, 2);
    crate::pool::AveragePool: |_row| Arity::of(1, 1);
    crate::norm::BatchNorm: |row| Arity::of(5, 5).outputs(1, if row.training { 3 } else { 1 });
    crate::norm::LayerNorm: |_row| Arity::of(2, 3).outputs(1, 3);
    crate::norm::RmsNorm: |_row| Arity::of(2, 2);
    crate::norm::InstanceNorm: |_row| Arity::of(3, 3);
    crate::norm::GroupNorm: |_row| Arity::of(3, 3);
    crate::norm::Softmax: |_row| Arity::of(1, 1);
    crate::reduce::Reduce: |_row| Arity::of(1, 2);
    crate::reduce::ArgReduce: |_row| Arity::of(1, 1);
    crate::reduce::TopK: |_row| Arity::of(2, 2).outputs(2, 2);
    crate::reduce::CumSum: |_row| Arity::of(2, 2);
    crate::shape::ShapeOf: |_row| Arity::of(1, 1);
    crate::shape::Size: |_row| Arity::of(1, 1);
    crate::shape::Reshape: |_row| Arity::of(2, 2);
    crate::shape::Squeeze: |_row| Arity::of(1, 2);
    crate::shape::Unsqueeze: |_row| Arity::of(1, 2);
    crate::shape::Transpose: |_row| Arity::of(1, 1);
    crate::shape::Concat: |_row| Arity::of(1, usize::MAX);
    crate::shape::Split: |row| Arity::of(1, 2).outputs(row.outputs, row.outputs);
    crate::shape::Slice: |_row| Arity::of(5, 5);
    crate::shape::Expand: |_row| Arity::of(2, 2);
    crate::shape::Tile: |_row| Arity::of(2, 2);
    crate::shape::Pad: |_row| Arity::of(2, 4);
    crate::shape::Range: |_row| Arity::of(3, 3);
    crate::shape::ConstantOfShape: |_row| Arity::of(1, 1);
    crate::shape::Trilu: |_row| Arity::of(1, 2);
    crate::gather::Gather: |_row| Arity::of(2, 2);
    crate::gather::GatherElements: |_row| Arity::of(2, 2);
    crate::gather::GatherNd: |_row| Arity::of(2, 2);
    crate::gather::ScatterElements: |_row| Arity::of(3, 3);
    crate::gather::ScatterNd: |_row| Arity::of(3, 3);
    crate::gather::NonZero: |_row| Arity::of(1, 1);
    crate::resize::Resize: |_row| Arity::of(1, 4);
    crate::quant::QuantizeLinear: |_row| Arity::of(2, 3);
    crate::quant::DequantizeLinear: |_row| Arity::of(2, 3);
    crate::quant::DynamicQuantizeLinear: |_row| Arity::of(1, 1).outputs(3, 3);
    crate::quant::MatMulInteger: |_row| Arity::of(2, 4);
    crate::attention::Attention: |_row| Arity::of(3, 7).outputs(1, 4);
    crate::position::RotaryEmbedding: |_row| Arity::of(3, 4);
    crate::recurrent::Lstm: |_row| Arity::of(3, 8).outputs(1, 3);
}
