//! Pictures: sampling at points, regions and boxes, columns to pictures, decoding.

mod affine_grid;
mod boxes;
mod col2im;
mod decode;
mod grid_sample;
mod jpeg;
mod roi;

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::GridSample`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridSample {
    /// How values between pixels are made.
    pub interpolation: Interpolation,
    /// What lies outside the picture.
    pub border: Border,
    /// -1 and 1 are the centres of the corner pixels instead of their outer edges.
    pub align_corners: bool,
}

/// How [`GridSample`] makes values between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Interpolation {
    Nearest,
    Linear,
    Cubic,
}

/// What lies outside the picture of [`GridSample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// Zeros.
    Zeros,
    /// The nearest pixel.
    Clamp,
    /// The picture, mirrored.
    Reflect,
}

/// Attributes of [`crate::Op::AffineGrid`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AffineGrid {
    /// -1 and 1 are the centres of the corner pixels instead of their outer edges.
    pub align_corners: bool,
}

/// Attributes of [`crate::Op::RoiAlign`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoiAlign {
    /// Rows and columns of the result.
    pub size: [usize; 2],
    /// Samples a bin along each axis; 0 for as many as the bin is large.
    pub sampling: usize,
    /// From coordinates of the boxes to pixels.
    #[serde(with = "crate::float")]
    pub spatial_scale: f32,
    /// The largest sample of a bin instead of their mean.
    pub max: bool,
    /// Pixel centres lie at one half (`half_pixel`), and boxes may be smaller than a pixel.
    pub half_pixel: bool,
}

/// Attributes of [`crate::Op::MaxRoiPool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxRoiPool {
    /// Rows and columns of the result.
    pub size: [usize; 2],
    /// From coordinates of the boxes to pixels.
    #[serde(with = "crate::float")]
    pub spatial_scale: f32,
}

/// Attributes of [`crate::Op::NonMaxSuppression`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NonMaxSuppression {
    /// Boxes are `[x centre, y centre, width, height]` instead of two corners `[y, x, y, x]`.
    pub center_point_box: bool,
}

/// Attributes of [`crate::Op::Col2Im`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Col2Im {
    /// Steps of the window, one an axis; empty for 1.
    pub strides: Vec<usize>,
    /// Distances of the window's cells; empty for 1.
    pub dilations: Vec<usize>,
    /// Cells before and then after each axis; empty for none.
    pub pads: Vec<usize>,
}

/// Attributes of [`crate::Op::ImageDecoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageDecoder {
    /// What a pixel holds.
    pub pixels: Pixels,
}

/// What a pixel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pixels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One luminance.
    Grayscale,
}
