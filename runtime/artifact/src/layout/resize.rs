//! Codes of the `resize` builtin's `coordinate` and `rounding` arguments.

use crate::codes::codes;

codes! {
    /// Where output cell `i` lies in the input (ONNX `coordinate_transformation_mode`, Resize-19).
    Coordinate {
        /// `(i + 0.5) / scale - 0.5`.
        HalfPixel = 0 "half_pixel",
        /// Half pixel, centred where the output size is not `scale * input`.
        HalfPixelSymmetric = 1 "half_pixel_symmetric",
        /// Half pixel; 0 where the output has one cell.
        PytorchHalfPixel = 2 "pytorch_half_pixel",
        /// `i * (input - 1) / (output - 1)`.
        AlignCorners = 3 "align_corners",
        /// `i / scale`.
        Asymmetric = 4 "asymmetric",
        /// Inside a region of interest.
        TfCropAndResize = 5 "tf_crop_and_resize",
    }
}

codes! {
    /// How `nearest` rounds a position (ONNX `nearest_mode`).
    Rounding {
        /// To the nearest; halves down.
        RoundPreferFloor = 0 "round_prefer_floor",
        /// To the nearest; halves up.
        RoundPreferCeil = 1 "round_prefer_ceil",
        /// Down.
        Floor = 2 "floor",
        /// Up.
        Ceil = 3 "ceil",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_name_the_same_kinds() {
        for (code, &kind) in (0..).zip(Coordinate::ALL) {
            assert_eq!((kind.code(), Coordinate::from_code(code)), (code, Some(kind)));
            assert_eq!(Coordinate::from_name(kind.name()), Some(kind));
        }
        for (code, &kind) in (0..).zip(Rounding::ALL) {
            assert_eq!((kind.code(), Rounding::from_code(code)), (code, Some(kind)));
            assert_eq!(Rounding::from_name(kind.name()), Some(kind));
        }
        assert_eq!((Coordinate::from_code(6), Rounding::from_code(-1)), (None, None));
    }
}
