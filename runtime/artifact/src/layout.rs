//! Packed layouts of weights and their packers.
//!
//! Weights are packed once, at compile time. A layout is versioned and the same for every instruction set, so that an
//! artifact packed here runs under each kernel set, portable included. Packing checks every size and never panics.

mod blocks;
mod conv;
mod form;
mod integers;
mod kv;
mod matrix;
pub mod resize;

/// Most points of the stages of a `fourier` call.
pub const FOURIER_POINTS: usize = 4096;

pub use blocks::{BlockKind, PackedBlocks};
pub use conv::{ConvClass, PackedConv, TransposedSteps};
pub use form::MatrixForm;
pub use integers::{PackedIntegerConv, PackedIntegers};
pub use kv::{CHUNK_PAGES, KvPage, SHARED_ROWS, chunk_state_len, narrowed, scale_of};
pub use matrix::PackedMatrix;

/// Why weights cannot be packed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// The packed tensor does not fit the address space.
    #[error("{layout} of {what} is too large to pack")]
    TooLarge {
        /// The layout.
        layout: &'static str,
        /// The sizes.
        what: String,
    },
    /// The sizes do not belong together.
    #[error("{layout}: {reason}")]
    BadShape {
        /// The layout.
        layout: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A slice is too short for the sizes given with it.
    #[error("{layout}: {what} holds {actual} elements, {needed} are needed")]
    Length {
        /// The layout.
        layout: &'static str,
        /// Which slice.
        what: &'static str,
        /// Elements that the sizes ask for.
        needed: usize,
        /// Elements that are there.
        actual: usize,
    },
}

/// `Err` unless a slice of `actual` elements holds the `needed` ones.
fn check_length(
    layout: &'static str,
    what: &'static str,
    needed: usize,
    actual: usize,
) -> Result<(), LayoutError> {
    if actual < needed {
        return Err(LayoutError::Length { layout, what, needed, actual });
    }
    Ok(())
}

/// The product of sizes, `None` where it overflows what can be allocated.
fn checked_product(sizes: &[usize]) -> Option<usize> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    (product <= isize::MAX as usize / 8).then_some(product)
}
