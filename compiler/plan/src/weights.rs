//! Constants as the program reads them: as they are, or packed once at compile time.

use std::collections::BTreeMap;

use lathe_artifact::layout::{
    BlockKind, LayoutError, PackedBlocks, PackedConv, PackedIntegerConv, PackedIntegers, PackedMatrix,
    TransposedSteps,
};
use lathe_ir::{ConstantId, Module};
use lathe_tensor::{BlockFormat, Buffer, DType, Encoding, Tensor};
use rustc_hash::FxHashMap;

use crate::PlanError;

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
    /// Panels of quantised blocks of a matrix stored as `[n, k]` that fills the constant.
    Blocks {
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
            Packing::Blocks { .. } => "#blocks".into(),
            Packing::Integers { .. } => "#integers".into(),
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
            Packing::Blocks { .. } | Packing::Integers { .. } | Packing::IntegerConv { .. } => DType::U8,
            _ => DType::F32,
        }
    }

    /// Elements of the packed form; `None` for [`Packing::Dense`], which keeps the constant's.
    pub fn packed_len(self) -> Option<Result<usize, LayoutError>> {
        match self {
            Packing::Dense => None,
            Packing::Blocks { k, n, format } => {
                Some(PackedBlocks { k, n, kind: BlockKind::of(format) }.packed_bytes())
            }
            Packing::Matrix { k, n, .. } => Some(PackedMatrix { k, n }.packed_len()),
            Packing::Matrices { count, k, n, .. } => {
                let too_large = LayoutError::TooLarge {
                    layout: "packed matrices",
                    what: format!("{count} of [{k}, {n}]"),
                };
                let one = PackedMatrix { k, n }.packed_len();
                Some(one.and_then(|length| length.checked_mul(count).ok_or(too_large)))
            }
            Packing::Integers { k, n, .. } => Some(PackedIntegers { k, n }.packed_len()),
            Packing::IntegerConv { layout, .. } => Some(layout.packed_len()),
            Packing::Conv { .. } => self.conv_layout().map(|layout| layout.packed_len()),
        }
    }
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

/// The bytes of a planned weight: the constant itself, or a tensor of rank 1 in its packed layout.
///
/// # Errors
/// [`PlanError::BadConstant`] where the constant is of another type or too short for the packing.
pub fn pack(module: &Module, weight: &PlannedWeight) -> Result<Tensor, PlanError> {
    let constant = module.constant(weight.constant);
    let bad = |reason: String| PlanError::BadConstant { name: weight.name.clone(), reason };
    let tensor = match (constant.encoding, weight.packing) {
        (Encoding::Blocked(_), Packing::Blocks { k, n, format }) => {
            let layout = PackedBlocks { k, n, kind: BlockKind::of(format) };
            let mut packed = Buffer::zeroed(layout.packed_bytes().map_err(|error| bad(error.to_string()))?);
            layout
                .pack(format, constant.tensor.bytes(), packed.make_mut())
                .map_err(|error| bad(error.to_string()))?;
            return Tensor::new(DType::U8, vec![packed.len()], packed)
                .map_err(|error| bad(error.to_string()));
        }
        (Encoding::Blocked(_), _) => &constant.dense().map_err(|error| bad(error.to_string()))?,
        (Encoding::Dense, _) => &constant.tensor,
    };
    if weight.packing == Packing::Dense {
        return Ok(tensor.clone());
    }
    let integers = match weight.packing {
        Packing::Integers { k, n, unsigned } => {
            Some(PackedIntegers { k, n }.packed(tensor.bytes(), unsigned))
        }
        Packing::IntegerConv { layout, unsigned } => Some(layout.packed(tensor.bytes(), unsigned)),
        _ => None,
    };
    if let Some(packed) = integers {
        let packed = packed.map_err(|error| bad(error.to_string()))?;
        return Tensor::new(DType::U8, vec![packed.len()], Buffer::copy_of(&packed))
            .map_err(|error| bad(error.to_string()));
    }
    let elements = tensor.to_slice::<f32>().map_err(|error| bad(error.to_string()))?;
    let packed = match weight.packing {
        Packing::Matrix { k, n, transposed, offset } => {
            let (k_stride, n_stride) = if transposed { (1, k) } else { (n, 1) };
            let source = elements.get(offset..).unwrap_or(&[]);
            PackedMatrix { k, n }.packed(source, k_stride, n_stride)
        }
        Packing::Matrices { count, k, n, transposed } => {
            matrices(&elements, count, PackedMatrix { k, n }, transposed)
        }
        _ => match weight.packing.conv_layout() {
            Some(layout) => layout.packed(&elements),
            None => return Ok(tensor.clone()),
        },
    };
    let packed = packed.map_err(|error| bad(error.to_string()))?;
    let bytes: Vec<u8> = packed.iter().flat_map(|element| element.to_le_bytes()).collect();
    Tensor::new(DType::F32, vec![packed.len()], Buffer::copy_of(&bytes))
        .map_err(|error| bad(error.to_string()))
}

/// Packed matrices one after another.
fn matrices(
    elements: &[f32],
    count: usize,
    matrix: PackedMatrix,
    transposed: bool,
) -> Result<Vec<f32>, LayoutError> {
    let (k_stride, n_stride) = if transposed { (1, matrix.k) } else { (matrix.n, 1) };
    let (size, length) = (matrix.k.saturating_mul(matrix.n), matrix.packed_len()?);
    let mut packed = vec![0.0; length.saturating_mul(count)];
    for index in 0..count {
        let source = elements.get(index.saturating_mul(size)..).unwrap_or(&[]);
        let source = source.get(..size).unwrap_or(source);
        matrix.pack(source, k_stride, n_stride, &mut packed[index * length..][..length])?;
    }
    Ok(packed)
}
