//! What the pages of a state hold, as numbers, whatever the dtype of its elements.

use lathe_tensor::{DType, Tensor};

use super::page::{KvPage, narrowed, scale_of};
use crate::EvalError;
use crate::evaluate::Context;

/// The elements of a state `[pool, page elements]`.
pub(super) struct Contents {
    page: KvPage,
    dtype: DType,
    shape: Vec<usize>,
    cells: Cells,
}

enum Cells {
    /// One number an element.
    Floats(Vec<f64>),
    /// Pages of int8 with their scales.
    Bytes(Vec<u8>),
}

impl Contents {
    /// The elements of a state whose pages have this layout.
    ///
    /// # Errors
    /// Where its sizes do not fit, or the budget is spent.
    pub(super) fn of(cx: &Context<'_>, state: &Tensor, page: KvPage) -> Result<Self, EvalError> {
        let dtype = state.dtype();
        match *state.shape() {
            [_, elements] if page.elements(dtype) == Some(elements) => {}
            _ => return Err(cx.shape(format!("the state does not hold pages of {page:?}"))),
        }
        let cells = match dtype {
            DType::I8 => {
                cx.spend(state.bytes().len())?;
                Cells::Bytes(state.bytes().to_vec())
            }
            _ => Cells::Floats(cx.floats("state", state)?),
        };
        Ok(Self { page, dtype, shape: state.shape().to_vec(), cells })
    }

    /// Pages of the pool.
    pub(super) fn pool(&self) -> usize {
        self.shape[0]
    }

    /// Element `d` of the key of `head` at `place` of a page of the pool.
    pub(super) fn key(&self, page: usize, head: usize, d: usize, place: usize) -> f64 {
        self.number(page, self.page.key(head, d, place), self.page.key_scale(head, place))
    }

    /// Element `d` of its value.
    pub(super) fn value(&self, page: usize, head: usize, d: usize, place: usize) -> f64 {
        self.number(page, self.page.value(head, place, d), self.page.value_scale(head, place))
    }

    fn number(&self, page: usize, at: usize, scale: usize) -> f64 {
        let start = page * self.shape[1];
        match &self.cells {
            Cells::Floats(cells) => cells[start + at],
            Cells::Bytes(bytes) => {
                let scale = &bytes[start + scale..][..size_of::<f32>()];
                let scale = f32::from_ne_bytes([scale[0], scale[1], scale[2], scale[3]]);
                f64::from(f32::from(bytes[start + at] as i8) * scale)
            }
        }
    }

    /// Writes a key at its place.
    pub(super) fn set_key(&mut self, page: usize, head: usize, place: usize, row: &[f64]) {
        let layout = self.page;
        self.set(page, layout.key_scale(head, place), row, |d| layout.key(head, d, place));
    }

    /// Writes a value at its place.
    pub(super) fn set_value(&mut self, page: usize, head: usize, place: usize, row: &[f64]) {
        let layout = self.page;
        self.set(page, layout.value_scale(head, place), row, |d| layout.value(head, place, d));
    }

    fn set(&mut self, page: usize, scale_at: usize, row: &[f64], at: impl Fn(usize) -> usize) {
        let start = page * self.shape[1];
        match &mut self.cells {
            Cells::Floats(cells) => {
                row.iter().enumerate().for_each(|(d, &x)| cells[start + at(d)] = x);
            }
            Cells::Bytes(bytes) => {
                let scale = scale_of(row.iter().map(|&x| x as f32));
                bytes[start + scale_at..][..size_of::<f32>()].copy_from_slice(&scale.to_ne_bytes());
                row.iter()
                    .enumerate()
                    .for_each(|(d, &x)| bytes[start + at(d)] = narrowed(x as f32, scale) as u8);
            }
        }
    }

    /// The state with these elements.
    ///
    /// # Errors
    /// Where the budget is spent.
    pub(super) fn tensor(self, cx: &Context<'_>) -> Result<Tensor, EvalError> {
        match self.cells {
            Cells::Floats(cells) => cx.rounded(self.dtype, &self.shape, &cells),
            Cells::Bytes(bytes) => {
                let signed: Vec<i8> = bytes.into_iter().map(|byte| byte as i8).collect();
                cx.tensor_of(&signed, &self.shape)
            }
        }
    }
}
