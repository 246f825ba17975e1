//! Pictures to what a vision model takes, as its `preprocessor_config.json` says.

mod patches;
mod resample;
mod visual;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use lathe_tensor::{Tensor, TensorError};
use serde_json::Value;

pub use patches::{Grid, Patches};
pub use resample::{Filter, Picture};
pub use visual::{Shown, Visual, placed, sampled};

/// Pixels of a picture at most, as it comes and as it is resized.
const MAX_PIXELS: u64 = 1 << 28;
/// Bytes that decoding may take.
const MAX_BYTES: u64 = 1 << 30;
/// Largest side that a configuration may ask for.
const MAX_SIDE: u64 = 1 << 14;

/// What can go wrong with a picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// A picture or a configuration that cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A configuration that asks for something unknown.
    #[error("preprocessor_config.json: {0}")]
    Config(String),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Picture {
    /// Reads a picture file; transparency is left out.
    ///
    /// # Errors
    /// A file that is no picture, or a too large one.
    pub fn open(path: &Path) -> Result<Self, PictureError> {
        let fail = |reason: String| PictureError::File { path: path.to_path_buf(), reason };
        let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(fail("not a regular file of a sensible size".into()));
        }
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format();
        let mut reader = reader.map_err(|error| fail(error.to_string()))?;
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(MAX_BYTES);
        limits.max_image_width = Some(MAX_PIXELS as u32);
        limits.max_image_height = Some(MAX_PIXELS as u32);
        reader.limits(limits);
        let picture = crate::text::guarded(|| reader.decode()).map_err(fail)?;
        let picture = picture.map_err(|error| fail(error.to_string()))?.into_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        if width == 0 || height == 0 || (width * height) as u64 > MAX_PIXELS {
            return Err(fail(format!("{width} x {height} pixels")));
        }
        Ok(Self { width, height, pixels: picture.into_raw() })
    }
}

/// The size that a picture gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Exact {
        width: usize,
        height: usize,
    },
    /// Of the shorter side; the other follows.
    ShortestEdge(usize),
}

/// What is done to a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    resize: Option<Size>,
    filter: Filter,
    crop: Option<(usize, usize)>,
    scale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl ImageProcessor {
    /// From a `preprocessor_config.json`, in the spelling of transformers' image processors.
    ///
    /// # Errors
    /// [`PictureError::Config`].
    pub fn from_config(config: &Value) -> Result<Self, PictureError> {
        // Processors of several kinds keep one for pictures.
        let config = if config["image_processor"].is_object() { &config["image_processor"] } else { config };
        let on = |name: &str| config[name].as_bool() != Some(false);
        let number = config["resample"].as_u64().unwrap_or(2);
        let filter = Filter::of(number)
            .ok_or_else(|| PictureError::Config(format!("`resample` is {number}: expected 0 to 4")))?;
        let mut resize = if on("do_resize") { size(&config["size"])? } else { None };
        let mut crop = match (config["do_center_crop"].as_bool() == Some(true), size(&config["crop_size"])?) {
            (true, Some(Size::Exact { width, height })) => Some((width, height)),
            (true, Some(Size::ShortestEdge(side))) => Some((side, side)),
            _ => None,
        };
        // ConvNeXt: small pictures are resized a little larger and cut.
        if let (Some(share), Some(Size::ShortestEdge(side))) = (config["crop_pct"].as_f64(), resize)
            && share > 0.0
        {
            if side < 384 {
                resize = Some(Size::ShortestEdge(checked_side((side as f64 / share) as u64)?));
                crop = Some((side, side));
            } else {
                resize = Some(Size::Exact { width: side, height: side });
            }
        }
        let scale = match on("do_rescale") {
            true => config["rescale_factor"].as_f64().unwrap_or(1.0 / 255.0) as f32,
            false => 1.0,
        };
        let (mean, std) = match on("do_normalize") {
            true => (channels(&config["image_mean"], 0.5)?, channels(&config["image_std"], 0.5)?),
            false => ([0.0; 3], [1.0; 3]),
        };
        if std.contains(&0.0) {
            return Err(PictureError::Config("`image_std` holds 0".into()));
        }
        Ok(Self { resize, filter, crop, scale, mean, std })
    }

    /// The tensor of a picture: `[1, 3, height, width]`.
    ///
    /// # Errors
    /// A picture that would become too large.
    pub fn process(&self, picture: &Picture) -> Result<Tensor, PictureError> {
        let picture = self.shape(picture)?;
        let Picture { width, height, pixels } = &picture;
        let mut values = vec![0.0f32; pixels.len()];
        for (channel, plane) in values.chunks_exact_mut(width * height).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(3)) {
                *value = (f32::from(pixel[channel]) * self.scale - self.mean[channel]) / self.std[channel];
            }
        }
        Ok(Tensor::from_slice(&values, &[1, 3, *height, *width])?)
    }

    fn shape(&self, picture: &Picture) -> Result<Picture, PictureError> {
        let (width, height) = match self.resize {
            None => (picture.width, picture.height),
            Some(Size::Exact { width, height }) => (width, height),
            Some(Size::ShortestEdge(side)) => {
                let (short, long) = (picture.width.min(picture.height), picture.width.max(picture.height));
                let long = (side as u64).saturating_mul(long as u64) / short.max(1) as u64;
                let long = usize::try_from(long).unwrap_or(usize::MAX);
                if picture.width <= picture.height { (side, long) } else { (long, side) }
            }
        };
        if width == 0 || height == 0 || (width as u64).saturating_mul(height as u64) > MAX_PIXELS {
            return Err(PictureError::Config(format!("the picture would become {width} x {height} pixels")));
        }
        let picture = picture.resize(width, height, self.filter);
        Ok(match self.crop {
            Some((width, height)) => picture.crop(width, height),
            None => picture,
        })
    }
}

fn checked_side(side: u64) -> Result<usize, PictureError> {
    match side {
        1..=MAX_SIDE => Ok(side as usize),
        _ => Err(PictureError::Config(format!("a side of {side} pixels: expected 1 to {MAX_SIDE}"))),
    }
}

/// `224`, `{"height": 224, "width": 224}` or `{"shortest_edge": 224}`.
fn size(value: &Value) -> Result<Option<Size>, PictureError> {
    let side = |value: &Value| value.as_u64().map(checked_side).transpose();
    if let Some(side) = side(value)? {
        return Ok(Some(Size::Exact { width: side, height: side }));
    }
    if let (Some(height), Some(width)) = (side(&value["height"])?, side(&value["width"])?) {
        return Ok(Some(Size::Exact { width, height }));
    }
    match (side(&value["shortest_edge"])?, value.is_object()) {
        (Some(side), _) => Ok(Some(Size::ShortestEdge(side))),
        (None, false) => Ok(None),
        (None, true) => Err(PictureError::Config(format!(
            "a size of {value}: expected a number, height and width, or shortest_edge"
        ))),
    }
}

fn channels(value: &Value, default: f32) -> Result<[f32; 3], PictureError> {
    let number =
        |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    match value {
        Value::Null => Ok([default; 3]),
        Value::Array(values) if values.len() == 3 => {
            let numbers: Option<Vec<f32>> = values.iter().map(number).collect();
            let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
            numbers.ok_or_else(|| PictureError::Config(format!("{value} are not three numbers")))
        }
        value => match number(value) {
            Some(number) => Ok([number; 3]),
            None => Err(PictureError::Config(format!("{value} is no number for each of three channels"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn picture(width: usize, height: usize) -> Picture {
        let pixels = (0..width * height * 3).map(|index| (index * 37 % 256) as u8).collect();
        Picture { width, height, pixels }
    }

    #[test]
    fn pictures_are_resized_cut_and_normalised() {
        let clip = json!({"do_resize": true, "size": {"shortest_edge": 8}, "resample": 3, "do_center_crop": true,
            "crop_size": {"height": 8, "width": 8}, "do_normalize": true, "image_mean": [0.0, 0.5, 1.0],
            "image_std": [1.0, 0.5, 0.25]});
        let processor = ImageProcessor::from_config(&clip).unwrap();
        let flat = Picture { width: 20, height: 11, pixels: vec![255; 660] };
        let tensor = processor.process(&flat).unwrap();
        assert_eq!(tensor.shape(), [1, 3, 8, 8]);
        let values = tensor.to_slice::<f32>().unwrap().to_vec();
        for (channel, value) in [(0, 1.0), (1, 1.0), (2, 0.0)] {
            assert!(values[channel * 64..(channel + 1) * 64].iter().all(|v| (v - value).abs() < 1e-6));
        }
        let shaped = processor.shape(&picture(20, 11)).unwrap();
        assert_eq!(shaped, picture(20, 11).resize(14, 8, Filter::Bicubic).crop(8, 8));
    }

    #[test]
    fn sizes_come_in_three_spellings() {
        let shape = |config: Value, width, height| {
            let processor = ImageProcessor::from_config(&config).unwrap();
            let shaped = processor.shape(&picture(width, height)).unwrap();
            (shaped.width, shaped.height)
        };
        assert_eq!(shape(json!({"size": 6}), 10, 20), (6, 6));
        assert_eq!(shape(json!({"size": {"height": 4, "width": 6}}), 10, 20), (6, 4));
        assert_eq!(shape(json!({"size": {"shortest_edge": 5}}), 10, 20), (5, 10));
        assert_eq!(shape(json!({"do_resize": false, "size": 6}), 10, 20), (10, 20));
        assert_eq!(shape(json!({"size": {"shortest_edge": 8}, "crop_pct": 0.5}), 32, 64), (8, 8));
    }

    #[test]
    fn what_is_not_known_is_said() {
        for config in [
            json!({"resample": 9}),
            json!({"size": {"longest": 4}}),
            json!({"size": 0}),
            json!({"size": 1_000_000}),
            json!({"image_std": [1, 0, 1]}),
            json!({"image_mean": "x"}),
        ] {
            assert!(ImageProcessor::from_config(&config).is_err(), "{config}");
        }
        let error = Picture::open(Path::new("Cargo.toml")).unwrap_err().to_string();
        assert!(error.starts_with("Cargo.toml: "), "{error}");
        let long = ImageProcessor::from_config(&json!({"size": {"shortest_edge": 16000}})).unwrap();
        assert!(long.process(&picture(1, 3000)).is_err());
    }
}
