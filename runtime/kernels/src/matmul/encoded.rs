//! Products with matrices that are not stored as f32, and rows of them.

use std::slice::from_raw_parts;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::Activation;
use lathe_artifact::builtin::args::{GatherEncoded, MatMulEncoded};
use lathe_artifact::layout::MatrixForm;

use super::blocks::{self, Blocks, GROUP};
use super::epilogue::Epilogue;
use super::halves::Halves;
use super::product::{Product, Right};
use super::tile::PANEL;
use super::{part, sizes};
use crate::gather::position;
use crate::kernel::{Kernel, size};
use crate::simd::Simd;

impl Right {
    /// The packed matrix at `data`.
    #[inline(always)]
    pub(crate) fn of(form: MatrixForm, data: *const u8) -> Self {
        match form {
            MatrixForm::F32 => Self::Packed(data.cast()),
            MatrixForm::F16 => Self::Halves(Halves { data: data.cast(), bf16: false }),
            MatrixForm::Bf16 => Self::Halves(Halves { data: data.cast(), bf16: true }),
            MatrixForm::Blocks(kind) => Self::Blocks(Blocks { data, kind }),
        }
    }
}

/// The form of a code, where products of `k` rows read it, in 8-bit integers where asked for.
#[inline(always)]
pub(crate) fn form(code: i64, k: usize, int8: i64) -> Option<MatrixForm> {
    let form = MatrixForm::from_code(code)?;
    let whole = match form {
        MatrixForm::Blocks(kind) => k.is_multiple_of(kind.unit()),
        _ => int8 == 0,
    };
    whole.then_some(form)
}

impl Product {
    /// The worker's part of the product: in f32, or in 8-bit integers.
    ///
    /// # Safety
    /// The operands are readable and the result is writable for all rows and panels.
    #[inline(always)]
    pub(crate) unsafe fn share<S: Simd>(&self, simd: S, rows: usize, int8: bool, worker: &Worker) -> Status {
        let (rows, panels) = part(rows, self.n.div_ceil(PANEL), worker);
        // SAFETY: the part lies in the product.
        unsafe {
            match self.b {
                Right::Blocks(blocks) if int8 => blocks::integers(simd, self, blocks, rows, panels, worker),
                _ => {
                    self.compute(simd, rows, panels, worker.scratch.cast());
                    Status::Ok
                }
            }
        }
    }
}

impl Kernel for MatMulEncoded {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some([m, n, k, c_row]) = sizes([self.m, self.n, self.k, self.c_stride]) else {
            return Status::Internal;
        };
        let (Some(activation), Some(form)) =
            (Activation::from_code(self.activation), form(self.form, k, self.int8))
        else {
            return Status::Internal;
        };
        let product = Product {
            n,
            k,
            a: self.a.cast(),
            a_strides: (self.a_stride as isize, 1),
            b: Right::of(form, self.b),
            c: self.c.cast(),
            c_row,
            epilogue: Epilogue {
                column_bias: self.bias.cast(),
                residual: self.residual.cast(),
                residual_row: self.residual_stride as isize,
                activation,
                alpha: self.alpha as f32,
                beta: self.beta as f32,
                ..Epilogue::NONE
            },
        };
        // SAFETY: the plan's sizes describe the operands.
        unsafe { product.share(simd, m, self.int8 != 0, worker) }
    }
}

impl Kernel for GatherEncoded {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (rows, k, count) = (size(self.rows), size(self.k), size(self.count));
        let Some(form) = form(self.form, k, 0) else { return Status::Internal };
        let wide = match self.index_bytes {
            4 => false,
            8 => true,
            _ => return Status::Internal,
        };
        let groups = k.div_ceil(GROUP);
        // Groups of rows are shared, so that a single row keeps all workers busy.
        for item in worker.share(count * groups, 4) {
            let (j, group) = (item / groups, item % groups);
            let depth = group * GROUP..k.min((group + 1) * GROUP);
            // SAFETY: the contract of the builtin's row; the index is below `rows`, and `depth` within `k`.
            unsafe {
                let Some(index) = position(self.indices, wide, j, rows) else {
                    return Status::IndexOutOfRange;
                };
                let y = self.y.cast::<f32>().add(j * k + depth.start);
                let (panel, column) = (index / PANEL, index % PANEL);
                let element = (panel * k + depth.start) * PANEL + column;
                match Right::of(form, self.x) {
                    Right::Blocks(blocks) => {
                        let (kind, panel) = (blocks.kind, blocks.panel(k, panel));
                        let head = from_raw_parts(panel.add(kind.head_at(group)), kind.head_bytes());
                        let group = from_raw_parts(panel.add(kind.group_at(group)), kind.group_bytes());
                        for row in 0..depth.len() {
                            *y.add(row) = kind.value(head, group, row, column);
                        }
                    }
                    Right::Halves(halves) => {
                        for row in 0..depth.len() {
                            *y.add(row) = halves.value(element + row * PANEL);
                        }
                    }
                    Right::Packed(x) => {
                        for row in 0..depth.len() {
                            *y.add(row) = *x.add(element + row * PANEL);
                        }
                    }
                    Right::Strided(..) => return Status::Internal,
                }
            }
        }
        Status::Ok
    }
}
