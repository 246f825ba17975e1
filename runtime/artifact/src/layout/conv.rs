//! Convolution weights.

use serde::{Deserialize, Serialize};

use super::{LayoutError, check_length, checked_product};

const LAYOUT: &str = "packed convolution";

/// The weights of a 2-d convolution.
///
/// - *Depthwise* (one input channel and fewer than [`DEPTHWISE_MULTIPLIER`](Self::DEPTHWISE_MULTIPLIER) output channels a
///   group, not transposed): `[out_channels][kernel_h * kernel_w]`, as they came.
/// - *General*: output channels of a group in blocks of 16 rows: `[group][out_channels / groups / 16][k][16]`, where
///   `k` counts `(in_channel, kernel_h, kernel_w)`; rows beyond the channels are zero.
/// - *Transposed*: the cells of the kernel fall into classes that reach the same output positions (see [`ConvClass`]); each class
///   of rows times columns is a general layout of its own, classes in the order of their first cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedConv {
    /// Output channels, all groups together.
    pub out_channels: usize,
    /// Input channels, all groups together.
    pub channels: usize,
    /// Channel groups.
    pub groups: usize,
    /// Rows of the kernel.
    pub kernel_h: usize,
    /// Columns of the kernel.
    pub kernel_w: usize,
    /// Steps of a transposed convolution; `None` for a plain one.
    pub transposed: Option<TransposedSteps>,
}

/// What decides the classes of a transposed convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransposedSteps {
    /// Output rows from one input row to the next.
    pub stride_h: usize,
    /// Output columns from one input column to the next.
    pub stride_w: usize,
    /// Output rows from one kernel row to the next.
    pub dilation_h: usize,
    /// Output columns from one kernel column to the next.
    pub dilation_w: usize,
}

/// Along one axis, kernel cells `first, first + step, ...` (`count` of them) of a transposed convolution: exactly those that
/// reach output positions `p` with `(p + pad) % stride == residue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvClass {
    /// The first cell.
    pub first: usize,
    /// From one cell to the next.
    pub step: usize,
    /// Number of cells.
    pub count: usize,
    /// `first * dilation % stride`.
    pub residue: usize,
}

impl ConvClass {
    /// The classes of an axis, by their first cell.
    pub fn all(kernel: usize, stride: usize, dilation: usize) -> impl Iterator<Item = ConvClass> + Clone {
        let stride = stride.max(1);
        let step = stride / greatest_common_divisor(stride, dilation % stride);
        (0..kernel.min(step)).map(move |first| ConvClass {
            first,
            step,
            count: (kernel - first).div_ceil(step),
            residue: (first as u128 * dilation as u128 % stride as u128) as usize,
        })
    }
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl PackedConv {
    /// Version of the layout; the build id counts it in.
    pub const VERSION: u32 = 2;
    /// Output channels of a block.
    pub const ROWS: usize = 16;
    /// Groups of one input channel and fewer output channels than this use the depthwise layout.
    pub const DEPTHWISE_MULTIPLIER: usize = 4;

    /// Output channels of a group.
    pub const fn group_out_channels(&self) -> usize {
        match self.out_channels.checked_div(self.groups) {
            Some(size) => size,
            None => 0,
        }
    }

    /// Input channels of a group.
    pub const fn group_channels(&self) -> usize {
        match self.channels.checked_div(self.groups) {
            Some(size) => size,
            None => 0,
        }
    }

    /// Whether the depthwise layout is used.
    pub const fn is_depthwise(&self) -> bool {
        self.transposed.is_none()
            && self.group_channels() == 1
            && self.group_out_channels() < Self::DEPTHWISE_MULTIPLIER
    }

    /// Number of f32 elements of the packed form.
    ///
    /// # Errors
    /// [`LayoutError::BadShape`] where groups do not divide the channels, [`LayoutError::TooLarge`] where it overflows.
    pub fn packed_len(&self) -> Result<usize, LayoutError> {
        self.check_groups()?;
        self.source_len()?;
        let too_large = || LayoutError::TooLarge { layout: LAYOUT, what: self.describe() };
        if self.is_depthwise() {
            return self.source_len();
        }
        let cells = checked_product(&[self.kernel_h, self.kernel_w]).ok_or_else(too_large)?;
        checked_product(&[self.groups, self.row_blocks(), Self::ROWS, self.group_channels(), cells])
            .ok_or_else(too_large)
    }

    /// Elements of one class of `cells` kernel cells.
    pub const fn class_len(&self, cells: usize) -> usize {
        self.groups * self.row_blocks() * Self::ROWS * self.group_channels() * cells
    }

    /// Packs weights that are `[out_channels, channels / groups, kernel_h, kernel_w]`, or, transposed,
    /// `[channels, out_channels / groups, kernel_h, kernel_w]` (ONNX Conv-22, ConvTranspose-22), row-major.
    ///
    /// # Errors
    /// As [`packed_len`](Self::packed_len), and [`LayoutError::Length`] where `source` is too short.
    pub fn packed(&self, source: &[f32]) -> Result<Vec<f32>, LayoutError> {
        let source_len = self.source_len()?;
        check_length(LAYOUT, "the source", source_len, source.len())?;
        let length = self.packed_len()?;
        if self.is_depthwise() {
            return Ok(source[..source_len].to_vec());
        }
        let mut packed = vec![0.0; length];
        let mut start = 0;
        self.each_class(|rows, columns| {
            let end = start + self.class_len(rows.count * columns.count);
            self.pack_class(source, rows, columns, &mut packed[start..end]);
            start = end;
        });
        Ok(packed)
    }

    /// Calls `visit` for each pair of row and column classes in the order of the layout; a plain convolution has one.
    fn each_class(&self, mut visit: impl FnMut(ConvClass, ConvClass)) {
        let steps = self.transposed.unwrap_or(TransposedSteps {
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
        });
        for rows in ConvClass::all(self.kernel_h, steps.stride_h, steps.dilation_h) {
            for columns in ConvClass::all(self.kernel_w, steps.stride_w, steps.dilation_w) {
                visit(rows, columns);
            }
        }
    }

    fn pack_class(&self, source: &[f32], rows: ConvClass, columns: ConvClass, packed: &mut [f32]) {
        let cells = self.kernel_h * self.kernel_w;
        let (channels, outs) = (self.group_channels(), self.group_out_channels());
        let k = channels * rows.count * columns.count;
        if k == 0 {
            return;
        }
        for (index, block) in packed.chunks_exact_mut(k * Self::ROWS).enumerate() {
            let (group, first) = (index / self.row_blocks(), index % self.row_blocks() * Self::ROWS);
            for lane in 0..Self::ROWS.min(outs - first) {
                let out = first + lane;
                let mut values = block[lane..].iter_mut().step_by(Self::ROWS);
                for channel in 0..channels {
                    let matrix = match self.transposed {
                        None => (group * outs + out) * channels + channel,
                        Some(_) => (group * channels + channel) * outs + out,
                    };
                    let kernel = &source[matrix * cells..][..cells];
                    for row in (rows.first..self.kernel_h).step_by(rows.step) {
                        for column in (columns.first..self.kernel_w).step_by(columns.step) {
                            if let Some(value) = values.next() {
                                *value = kernel[row * self.kernel_w + column];
                            }
                        }
                    }
                }
            }
        }
    }

    /// Blocks of 16 output channels of a group.
    pub const fn row_blocks(&self) -> usize {
        self.group_out_channels().div_ceil(Self::ROWS)
    }

    fn check_groups(&self) -> Result<(), LayoutError> {
        if self.groups == 0
            || !self.channels.is_multiple_of(self.groups)
            || !self.out_channels.is_multiple_of(self.groups)
        {
            let reason = format!(
                "{} groups do not divide {} input and {} output channels",
                self.groups, self.channels, self.out_channels
            );
            return Err(LayoutError::BadShape { layout: LAYOUT, reason });
        }
        Ok(())
    }

    fn source_len(&self) -> Result<usize, LayoutError> {
        self.check_groups()?;
        checked_product(&[self.out_channels, self.group_channels(), self.kernel_h, self.kernel_w])
            .ok_or_else(|| LayoutError::TooLarge { layout: LAYOUT, what: self.describe() })
    }

    fn describe(&self) -> String {
        format!(
            "[{}, {}, {}, {}] in {} groups",
            self.out_channels, self.channels, self.kernel_h, self.kernel_w, self.groups
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|index| index as f32 + 1.0).collect()
    }

    proptest! {
        #[test]
        fn general_packing_puts_each_weight_at_its_place(
            groups in 1usize..4, outs in 1usize..30, channels in 1usize..5, kernel_h in 1usize..4, kernel_w in 1usize..4,
        ) {
            let conv = PackedConv { out_channels: groups * outs, channels: groups * channels, groups, kernel_h, kernel_w, transposed: None };
            let source = numbers(groups * outs * channels * kernel_h * kernel_w);
            let packed = conv.packed(&source).unwrap();
            prop_assert_eq!(packed.len(), conv.packed_len().unwrap());
            if conv.is_depthwise() {
                prop_assert_eq!(packed, source);
                return Ok(());
            }
            let k = channels * kernel_h * kernel_w;
            for group in 0..groups {
                for out in 0..outs {
                    for index in 0..k {
                        let at = ((group * conv.row_blocks() + out / 16) * k + index) * 16 + out % 16;
                        prop_assert_eq!(packed[at], source[(group * outs + out) * k + index]);
                    }
                }
            }
            prop_assert_eq!(packed.iter().filter(|value| **value != 0.0).count(), source.len());
        }

        #[test]
        fn transposed_packing_keeps_every_weight_once(
            groups in 1usize..3, outs in 1usize..14, channels in 1usize..3, kernel_h in 0usize..5, kernel_w in 1usize..5,
            stride_h in 1usize..5, stride_w in 1usize..4, dilation_h in 1usize..4, dilation_w in 1usize..4,
        ) {
            let steps = TransposedSteps { stride_h, stride_w, dilation_h, dilation_w };
            let conv = PackedConv { out_channels: groups * outs, channels: groups * channels, groups, kernel_h, kernel_w, transposed: Some(steps) };
            let source = numbers(groups * outs * channels * kernel_h * kernel_w);
            let packed = conv.packed(&source).unwrap();
            prop_assert_eq!(packed.len(), conv.packed_len().unwrap());
            let mut kept: Vec<f32> = packed.into_iter().filter(|value| *value != 0.0).collect();
            kept.sort_by(f32::total_cmp);
            prop_assert_eq!(kept, source);
        }

        #[test]
        fn classes_part_the_cells_by_their_residue(kernel in 0usize..12, stride in 1usize..9, dilation in 1usize..9) {
            let mut seen = vec![None; kernel];
            for class in ConvClass::all(kernel, stride, dilation) {
                for index in 0..class.count {
                    let cell = class.first + index * class.step;
                    prop_assert_eq!(cell * dilation % stride, class.residue);
                    prop_assert_eq!(seen[cell].replace(class.residue), None);
                }
            }
            prop_assert!(seen.iter().all(Option::is_some));
            let mut residues: Vec<usize> = ConvClass::all(kernel, stride, dilation).map(|class| class.residue).collect();
            residues.sort_unstable();
            residues.dedup();
            prop_assert_eq!(residues.len(), ConvClass::all(kernel, stride, dilation).count());
        }
    }

    #[test]
    fn bad_sizes_are_errors() {
        let conv = PackedConv {
            out_channels: 4,
            channels: 6,
            groups: 4,
            kernel_h: 3,
            kernel_w: 3,
            transposed: None,
        };
        assert!(matches!(conv.packed(&[]), Err(LayoutError::BadShape { .. })));
        let conv = PackedConv { groups: 0, ..conv };
        assert!(matches!(conv.packed_len(), Err(LayoutError::BadShape { .. })));
        let conv = PackedConv { groups: 2, ..conv };
        assert!(matches!(
            conv.packed(&[0.0; 107]),
            Err(LayoutError::Length { needed: 108, actual: 107, .. })
        ));
        let conv = PackedConv { kernel_h: usize::MAX, ..conv };
        assert!(matches!(conv.packed_len(), Err(LayoutError::TooLarge { .. })));
    }
}
