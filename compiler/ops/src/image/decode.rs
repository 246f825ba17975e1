use std::io::Cursor;

use image::{ImageReader, Limits};
use lathe_tensor::{DType, Tensor};

use super::{ImageDecoder, Pixels};
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// Rows and columns of a picture are at most this.
const MAX_SIDE: u32 = 1 << 16;

impl Evaluate for ImageDecoder {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// `x` is the bytes of a file: BMP, GIF, JPEG, PNG, PNM, TIFF or WebP, told by its first bytes; the result is
    /// `u8[height, width, 3 or 1]` (ONNX ImageDecoder-20). Transparency is dropped.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        if x.dtype() != DType::U8 || x.rank() != 1 {
            return Err(cx.dtype("x", x.dtype(), "u8 of one axis"));
        }
        let bad = |error: &dyn std::fmt::Display| cx.bad(format!("the picture cannot be read: {error}"));
        let reader = || -> Result<_, EvalError> {
            let reader = ImageReader::new(Cursor::new(x.bytes()));
            reader.with_guessed_format().map_err(|error| bad(&error))
        };
        let (width, height) = reader()?.into_dimensions().map_err(|error| bad(&error))?;
        if width > MAX_SIDE || height > MAX_SIDE {
            return Err(cx.bad(format!("a picture of {width} x {height}")));
        }
        // Decoders hold up to 16 bits of four channels, and their own tables beside them.
        let pixels = cx.count(&[width as usize, height as usize])?;
        cx.spend(pixels.checked_mul(16).ok_or_else(|| cx.too_large(None))?)?;
        let mut reader = reader()?;
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
        limits.max_alloc = Some((pixels as u64).saturating_mul(16).saturating_add(1 << 20));
        reader.limits(limits);
        let picture = reader.decode().map_err(|error| bad(&error))?;
        let (bytes, channels) = match self.pixels {
            Pixels::Grayscale if !picture.color().has_color() => (picture.to_luma8().into_raw(), 1),
            _ => (picture.to_rgb8().into_raw(), 3),
        };
        let bytes = match self.pixels {
            Pixels::Grayscale if channels == 3 => bytes.chunks_exact(3).map(luminance).collect(),
            Pixels::Bgr => bytes.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect(),
            _ => bytes,
        };
        let channels = if self.pixels == Pixels::Grayscale { 1 } else { channels };
        Ok(vec![cx.tensor_of(&bytes, &[height as usize, width as usize, channels])?])
    }
}

/// The luminance of ITU-R 601 in 16 bits of fraction, rounded.
fn luminance(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}
