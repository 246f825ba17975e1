//! How the program reads constants: as they are, or packed once at compile time.

use std::collections::BTreeMap;

use lathe_artifact::layout::{
    BlockKind, LayoutError, MatrixForm, PackedBlocks, PackedConv, PackedIntegerConv, PackedIntegers,
    PackedMatrix, TransposedSteps,
};
use lathe_ir::{ConstantId, Module};
use lathe_tensor::{BlockFormat, DType};
use rustc_hash::FxHashMap;

/// How a constant is stored in the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// As it is.
    Dense,
    /// Panels of one or more `[k, n]` matrices of equal size, one after another.
    Matrix {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Stored as `[n, k]`.
        transposed: bool,
        /// Elements of the constant before the matrix.
        offset: usize,
    },
    /// Panels of `count` `[k, n]` matrices that fill the constant, one packed matrix after another.
    Matrices {
        /// Number of matrices.
        count: usize,
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Stored as `[n, k]`.
        transposed: bool,
    },
    /// Panels of `count` matrices of f16 or bf16, as they are stored, that fill the constant, one packed matrix after another.
    Halves {
        /// Number of matrices.
        count: usize,
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Stored as `[n, k]`.
        transposed: bool,
        /// f16 or bf16.
        dtype: DType,
    },
    /// Panels of quantised blocks of `count` matrices stored as `[n, k]` that fill the constant, one packed matrix after another.
    Blocks {
        /// Number of matrices.
        count: usize,
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Their format.
        format: BlockFormat,
    },
    /// Panels of an i8 (or u8) matrix `[k, n]`.
    Integers {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Of u8.
        unsigned: bool,
    },
    /// Panels of `count` i8 (or u8) matrices stored as `[n, k]` that fill the constant, one packed matrix after another.
    IntegerMatrices {
        /// Number of matrices.
        count: usize,
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Of u8.
        unsigned: bool,
    },
    /// The i8 (or u8) weights of a convolution.
    IntegerConv {
        /// Their layout.
        layout: PackedIntegerConv,
        /// Of u8.
        unsigned: bool,
    },
    /// Weights of a 2-d convolution.
    Conv {
        /// Output channels.
        out_channels: usize,
        /// Input channels.
        channels: usize,
        /// Groups.
        groups: usize,
        /// Rows of the kernel.
        kernel_h: usize,
        /// Columns of the kernel.
        kernel_w: usize,
        /// Steps `(stride_h, stride_w, dilation_h, dilation_w)` of a transposed convolution.
        transposed: Option<(usize, usize, usize, usize)>,
    },
}

impl Packing {
    fn suffix(self) -> String {
        match self {
            Packing::Dense => String::new(),
            Packing::Matrix { offset: 0, transposed: false, .. } => "#panels".into(),
            Packing::Matrix { offset: 0, transposed: true, .. } => "#panels.transposed".into(),
            Packing::Matrix { offset, .. } => format!("#panels.{offset}"),
            Packing::Matrices { transposed: false, .. } => "#experts".into(),
            Packing::Matrices { transposed: true, .. } => "#experts.transposed".into(),
            Packing::Halves { transposed: false, .. } => "#halves".into(),
            Packing::Halves { transposed: true, .. } => "#halves.transposed".into(),
            Packing::Blocks { .. } => "#blocks".into(),
            Packing::Integers { .. } => "#integers".into(),
            Packing::IntegerMatrices { .. } => "#integers.transposed".into(),
            Packing::IntegerConv { .. } => "#integer_conv".into(),
            Packing::Conv { transposed: None, .. } => "#conv".into(),
            Packing::Conv { transposed: Some(_), .. } => "#conv_transpose".into(),
        }
    }

    /// The layout of convolution weights, where it is one.
    pub fn conv_layout(self) -> Option<PackedConv> {
        match self {
            Packing::Conv { out_channels, channels, groups, kernel_h, kernel_w, transposed } => {
                Some(PackedConv {
                    out_channels,
                    channels,
                    groups,
                    kernel_h,
                    kernel_w,
                    transposed: transposed.map(|(stride_h, stride_w, dilation_h, dilation_w)| {
                        TransposedSteps { stride_h, stride_w, dilation_h, dilation_w }
                    }),
                })
            }
            _ => None,
        }
    }

    /// Dtype of the packed form's elements.
    pub fn dtype(self) -> DType {
        match self {
            Packing::Blocks { .. }
            | Packing::Integers { .. }
            | Packing::IntegerMatrices { .. }
            | Packing::IntegerConv { .. } => DType::U8,
            Packing::Halves { dtype, .. } => dtype,
            _ => DType::F32,
        }
    }

    /// Elements of the packed form; `None` for [`Packing::Dense`], which keeps the constant's.
    pub fn packed_len(self) -> Option<Result<usize, LayoutError>> {
        match self {
            Packing::Dense => None,
            Packing::Blocks { count, k, n, format } => {
                Some(several(count, k, n, PackedBlocks { k, n, kind: BlockKind::of(format) }.packed_bytes()))
            }
            Packing::Matrix { k, n, .. } => Some(PackedMatrix { k, n }.packed_len()),
            Packing::Matrices { count, k, n, .. } | Packing::Halves { count, k, n, .. } => {
                Some(several(count, k, n, PackedMatrix { k, n }.packed_len()))
            }
            Packing::Integers { k, n, .. } => Some(PackedIntegers { k, n }.packed_len()),
            Packing::IntegerMatrices { count, k, n, .. } => {
                Some(several(count, k, n, PackedIntegers { k, n }.packed_len()))
            }
            Packing::IntegerConv { layout, .. } => Some(layout.packed_len()),
            Packing::Conv { .. } => self.conv_layout().map(|layout| layout.packed_len()),
        }
    }

    /// The form in which products read the packed matrices, where they do.
    pub fn form(self) -> Option<MatrixForm> {
        match self {
            Packing::Matrix { .. } | Packing::Matrices { .. } => Some(MatrixForm::F32),
            Packing::Halves { dtype, .. } => MatrixForm::of_elements(dtype),
            Packing::Blocks { format, .. } => Some(MatrixForm::Blocks(BlockKind::of(format))),
            _ => None,
        }
    }
}

/// Elements of `count` matrices of `one` elements each.
fn several(count: usize, k: usize, n: usize, one: Result<usize, LayoutError>) -> Result<usize, LayoutError> {
    let too_large =
        LayoutError::TooLarge { layout: "packed matrices", what: format!("{count} of [{k}, {n}]") };
    one.and_then(|length| length.checked_mul(count).ok_or(too_large))
}

/// A tensor of the artifact.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWeight {
    /// Its name, which the plan's slots use.
    pub name: String,
    /// Where the data comes from.
    pub constant: ConstantId,
    /// How it is stored.
    pub packing: Packing,
}

/// The weights that steps asked for, with unique names. The functions of a module share them.
#[derive(Default)]
pub(crate) struct Weights {
    pub list: Vec<PlannedWeight>,
    names: BTreeMap<String, usize>,
    made: FxHashMap<(ConstantId, Packing), String>,
}

impl Weights {
    /// The name of a constant in a packing: each pair is stored once.
    pub fn name(&mut self, module: &Module, constant: ConstantId, packing: Packing) -> String {
        if let Some(name) = self.made.get(&(constant, packing)) {
            return name.clone();
        }
        let base = match &module.constant(constant).name {
            Some(name) if !name.is_empty() => format!("{name}{}", packing.suffix()),
            _ => format!("c{}{}", constant.index(), packing.suffix()),
        };
        let mut name = base.clone();
        while self.names.contains_key(&name) {
            let count = self.names.entry(base.clone()).or_default();
            *count += 1;
            name = format!("{base}~{count}");
        }
        self.names.insert(name.clone(), 0);
        self.made.insert((constant, packing), name.clone());
        self.list.push(PlannedWeight { name: name.clone(), constant, packing });
        name
    }
}
