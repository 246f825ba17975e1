use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext, Image};
use image::{ImageReader, Limits};
use lathe_tensor::{DType, Tensor};

use super::jpeg::{self, Stop};
use super::{ImageDecoder, Pixels};
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// Rows and columns of a picture are at most this.
const MAX_SIDE: u32 = 1 << 16;

/// The first bytes of JPEG 2000 files, boxed and bare.
const JPEG_2000: [&[u8]; 2] = [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"];

/// Pixels of one channel, or of red, green and blue.
pub(super) struct Raster {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    pub pixels: Vec<u8>,
}

impl Evaluate for ImageDecoder {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// `x` is the bytes of a file: BMP, GIF, JPEG, JPEG 2000, PNG, PNM, TIFF or WebP, told by its first bytes; the result is
    /// `u8[height, width, 3 or 1]` (ONNX ImageDecoder-20). Transparency is dropped.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        if x.dtype() != DType::U8 || x.rank() != 1 {
            return Err(cx.dtype("x", x.dtype(), "u8 of one axis"));
        }
        let raster = raster(cx, x.bytes())?;
        let (gray, bytes) = (raster.channels == 1, raster.pixels);
        let bytes = match self.pixels {
            Pixels::Grayscale if !gray => bytes.chunks_exact(3).map(luminance).collect(),
            Pixels::Grayscale => bytes,
            _ if gray => bytes.iter().flat_map(|&cell| [cell; 3]).collect(),
            Pixels::Bgr => bytes.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect(),
            Pixels::Rgb => bytes,
        };
        let channels = if self.pixels == Pixels::Grayscale { 1 } else { 3 };
        Ok(vec![cx.tensor_of(&bytes, &[raster.height, raster.width, channels])?])
    }
}

fn bad(cx: &Context<'_>, error: impl std::fmt::Display) -> EvalError {
    cx.bad(format!("the picture cannot be read: {error}"))
}

/// Accounts for a picture before it is decoded.
fn admit(cx: &Context<'_>, width: u32, height: u32, bytes_per_pixel: usize) -> Result<usize, EvalError> {
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(cx.bad(format!("a picture of {width} x {height}")));
    }
    let pixels = cx.count(&[width as usize, height as usize])?;
    cx.spend(pixels.checked_mul(bytes_per_pixel).ok_or_else(|| cx.too_large(None))?)?;
    Ok(pixels)
}

fn raster(cx: &Context<'_>, bytes: &[u8]) -> Result<Raster, EvalError> {
    if JPEG_2000.iter().any(|start| bytes.starts_with(start)) {
        return jpeg_2000(cx, bytes);
    }
    if bytes.starts_with(b"\xff\xd8\xff") {
        match jpeg::decode(cx, bytes) {
            Ok(raster) => return Ok(raster),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Bad(reason)) => return Err(bad(cx, reason)),
            Err(Stop::OtherKind) => {}
        }
    }
    let reader = || -> Result<_, EvalError> {
        let reader = ImageReader::new(Cursor::new(bytes));
        reader.with_guessed_format().map_err(|error| bad(cx, error))
    };
    let (width, height) = reader()?.into_dimensions().map_err(|error| bad(cx, error))?;
    // Decoders hold up to 16 bits of four channels, and their own tables beside them.
    let pixels = admit(cx, width, height, 16)?;
    let mut reader = reader()?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some((pixels as u64).saturating_mul(16).saturating_add(1 << 20));
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| bad(cx, error))?;
    let (pixels, channels) = match picture.color().has_color() {
        false => (picture.to_luma8().into_raw(), 1),
        true => (picture.to_rgb8().into_raw(), 3),
    };
    Ok(Raster { width: width as usize, height: height as usize, channels, pixels })
}

fn jpeg_2000(cx: &Context<'_>, bytes: &[u8]) -> Result<Raster, EvalError> {
    // The decoder has no unsafe code, but it may give up on a broken file.
    let guarded = |what: &mut dyn FnMut() -> Result<Raster, EvalError>| {
        catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|_| Err(bad(cx, "its decoder gave up")))
    };
    guarded(&mut || {
        let image = Image::new(bytes, &DecodeSettings::default()).map_err(|error| bad(cx, error))?;
        let color = match image.color_space() {
            ColorSpace::Gray => 1,
            ColorSpace::RGB => 3,
            space => match space.num_channels() {
                channels @ (1 | 3) => usize::from(channels),
                channels => return Err(bad(cx, format!("{channels} channels, not 1 or 3"))),
            },
        };
        let (width, height) = (image.width(), image.height());
        let channels = color + usize::from(image.has_alpha());
        // Coefficients, samples and what is known of each in the coding of bits.
        let pixels = admit(cx, width, height, 32 * channels)?;
        cx.work(pixels.saturating_mul(64 * channels))?;
        let mut context = DecoderContext::default();
        let samples = image.decode(&mut context).map_err(|error| bad(cx, error))?.data_u8();
        if samples.len() != pixels * channels {
            return Err(bad(cx, "its channels differ in size"));
        }
        let shown = samples.chunks_exact(channels).flat_map(|pixel| pixel[..color].iter().copied());
        Ok(Raster {
            width: width as usize,
            height: height as usize,
            channels: color,
            pixels: shown.collect(),
        })
    })
}

/// The luminance of ITU-R 601 in 16 bits of fraction, rounded.
fn luminance(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}
