//! The forms in which a product reads its constant matrix.

use lathe_tensor::DType;

use super::{BlockKind, LayoutError, PackedBlocks, PackedMatrix, checked_product};

/// How the elements of a packed matrix `[k, n]` are stored. Builtins take its [`code`](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixForm {
    /// [`PackedMatrix`] of f32.
    F32,
    /// [`PackedMatrix`] of f16, which products widen.
    F16,
    /// [`PackedMatrix`] of bf16, which products widen.
    Bf16,
    /// [`PackedBlocks`] of this kind.
    Blocks(BlockKind),
}

impl MatrixForm {
    /// The form of panels of elements of `dtype`; `None` where products do not read them.
    pub const fn of_elements(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The number that builtins take: below 0 without blocks, else the code of their kind.
    pub const fn code(self) -> i64 {
        match self {
            Self::F32 => -1,
            Self::F16 => -2,
            Self::Bf16 => -3,
            Self::Blocks(kind) => kind.code(),
        }
    }

    /// The form of a code.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            -1 => Some(Self::F32),
            -2 => Some(Self::F16),
            -3 => Some(Self::Bf16),
            _ => match BlockKind::from_code(code) {
                Some(kind) => Some(Self::Blocks(kind)),
                None => None,
            },
        }
    }

    /// Bytes of a packed matrix.
    ///
    /// # Errors
    /// As [`PackedMatrix::packed_len`] and [`PackedBlocks::packed_bytes`].
    pub fn packed_bytes(self, k: usize, n: usize) -> Result<usize, LayoutError> {
        let width = match self {
            Self::Blocks(kind) => return PackedBlocks { k, n, kind }.packed_bytes(),
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        };
        let too_large = LayoutError::TooLarge { layout: "packed matrix", what: format!("[{k}, {n}]") };
        checked_product(&[PackedMatrix { k, n }.packed_len()?, width]).ok_or(too_large)
    }
}

#[cfg(test)]
mod tests {
    use lathe_tensor::BlockFormat;

    use super::*;

    #[test]
    fn codes_come_back_and_sizes_are_those_of_the_layouts() {
        let blocks = MatrixForm::Blocks(BlockKind::of(BlockFormat::Q4_1));
        for form in [MatrixForm::F32, MatrixForm::F16, MatrixForm::Bf16, blocks] {
            assert_eq!(MatrixForm::from_code(form.code()), Some(form));
        }
        assert_eq!(MatrixForm::from_code(-4), None);
        assert_eq!(MatrixForm::of_elements(DType::I8), None);
        assert_eq!(MatrixForm::F32.packed_bytes(3, 33), Ok(3 * 64 * 4));
        assert_eq!(MatrixForm::Bf16.packed_bytes(3, 33), Ok(3 * 64 * 2));
        // 4 bits an element, a scale and a minimum of 16 bits a column.
        assert_eq!(blocks.packed_bytes(64, 32), Ok(2 * 32 * (16 + 4)));
        assert!(blocks.packed_bytes(63, 32).is_err());
        assert!(MatrixForm::F32.packed_bytes(usize::MAX / 64, 2).is_err());
    }
}
