use lathe_tensor::Tensor;

use super::Col2Im;
use crate::EvalError;
use crate::conv::Padding;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::product;
use crate::window::Windows;

impl Evaluate for Col2Im {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    /// Inputs `x[batch, channels * block, blocks], image_shape, block_shape`: the blocks are added up where they lie in the
    /// picture `[batch, channels, image...]` (ONNX Col2Im-18). In f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let sizes = |index: usize, name: &str| -> Result<Vec<usize>, EvalError> {
            let list = cx.integer_list(name, cx.input(index)?)?;
            let sizes = list.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
            sizes.ok_or_else(|| cx.bad(format!("{name} is {list:?}")))
        };
        let (image, block) = (sizes(1, "image_shape")?, sizes(2, "block_shape")?);
        let rank = image.len();
        let or = |list: &Vec<usize>, value: usize, count: usize| {
            if list.is_empty() { vec![value; count] } else { list.clone() }
        };
        let pads = or(&self.pads, 0, 2 * rank);
        if pads.len() != 2 * rank || block.len() != rank || rank == 0 {
            return Err(cx.shape("image_shape, block_shape and pads do not fit"));
        }
        let pad = |&pad: &usize| i64::try_from(pad).unwrap_or(i64::MAX);
        let padding = Padding::Explicit {
            begins: pads[..rank].iter().map(pad).collect(),
            ends: pads[rank..].iter().map(pad).collect(),
        };
        let (strides, dilations) = (or(&self.strides, 1, rank), or(&self.dilations, 1, rank));
        let attributes =
            Windows { kernel: &block, strides: &strides, dilations: &dilations, padding: &padding };
        let windows = attributes.slide(cx, &image, false)?;
        let outputs: Vec<usize> = windows.iter().map(|window| window.output).collect();
        let (blocks, cells) = (cx.count(&outputs)?, cx.count(&block)?);
        let &[batch, columns, count] = x.shape() else {
            return Err(cx.shape("x must have three axes"));
        };
        if count != blocks || cells == 0 || columns % cells != 0 {
            return Err(cx.shape(format!("x does not hold {blocks} blocks of {cells} cells")));
        }
        let channels = columns / cells;
        let shape: Vec<usize> = [batch, channels].into_iter().chain(image.iter().copied()).collect();
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let values = cx.floats("x", x)?;
        let plane = product(&image);
        for (row, values) in values.chunks_exact(blocks.max(1)).enumerate() {
            let (map, cell) = (row / cells, row % cells);
            for (index, value) in values.iter().enumerate() {
                cx.work(rank)?;
                if let Some(place) = place(&windows, &block, cell, index) {
                    out[map * plane + place] += value;
                }
            }
        }
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}

/// The pixel of a cell of a block; `None` in the padding.
fn place(
    windows: &[crate::window::Window],
    block: &[usize],
    mut cell: usize,
    mut index: usize,
) -> Option<usize> {
    let (mut place, mut step) = (0, 1);
    for (window, &size) in windows.iter().zip(block).rev() {
        let position = usize::try_from(window.position(index % window.output, cell % size)).ok()?;
        if position >= window.input {
            return None;
        }
        (index, cell) = (index / window.output, cell / size);
        place += position * step;
        step *= window.input;
    }
    Some(place)
}
