//! Pictures as rows of patches, as Qwen2-VL takes them: any size, near enough to the picture's own.

use lathe_tensor::Tensor;
use serde_json::Value;

use super::{ImageProcessor, MAX_SIDE, Picture, PictureError};

/// Pixels of a picture where the configuration does not say: 4 to 16384 tokens of 28 x 28 pixels, and 1280 for the most.
const DEFAULT_PIXELS: (u64, u64) = (56 * 56, 28 * 28 * 1280);
/// How many times as long one side may be as the other.
const MAX_ASPECT: u64 = 200;

/// How pictures become patches.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    processor: ImageProcessor,
    /// Side of a patch in pixels.
    patch: usize,
    /// Frames of a patch.
    frames: usize,
    /// Patches along a side of what one token stands for.
    merge: usize,
    min_pixels: u64,
    max_pixels: u64,
}

/// The patches of a picture or a video.
#[derive(Clone, Debug)]
pub struct Grid {
    /// `[time * height * width, channels * frames * side * side]`.
    pub patches: Tensor,
    /// `[time, height, width]` in patches.
    pub sizes: [usize; 3],
    /// Tokens that stand for them.
    pub tokens: usize,
}

impl Patches {
    /// From a `preprocessor_config.json` in the spelling of `Qwen2VLImageProcessor`.
    ///
    /// # Errors
    /// [`PictureError::Config`].
    pub fn from_config(config: &Value) -> Result<Self, PictureError> {
        let outer = config;
        let config = if config["image_processor"].is_object() { &config["image_processor"] } else { config };
        // Sizes are chosen here, whatever `size` means.
        let mut plain = config.clone();
        plain["do_resize"] = Value::Bool(false);
        plain["do_center_crop"] = Value::Bool(false);
        plain["size"] = Value::Null;
        let count = |name: &str, default: u64, most: u64| {
            let found = [&config[name], &outer[name]].into_iter().find_map(Value::as_u64).unwrap_or(default);
            match (1..=most).contains(&found) {
                true => Ok(found as usize),
                false => Err(PictureError::Config(format!("`{name}` is {found}: expected 1 to {most}"))),
            }
        };
        let pixels = |name: &str, edge: &str, default: u64| {
            config[name].as_u64().or_else(|| config["size"][edge].as_u64()).unwrap_or(default)
        };
        Ok(Self {
            processor: ImageProcessor::from_config(&plain)?,
            patch: count("patch_size", 14, 256)?,
            frames: count("temporal_patch_size", 2, 16)?,
            merge: count("merge_size", 2, 16)?,
            min_pixels: pixels("min_pixels", "shortest_edge", DEFAULT_PIXELS.0),
            max_pixels: pixels("max_pixels", "longest_edge", DEFAULT_PIXELS.1).max(1),
        })
    }

    /// The patches of pictures of one size, which are the frames of a video, or of a single one.
    ///
    /// # Errors
    /// No picture, pictures of several sizes, or too narrow ones.
    pub fn process(&self, frames: &[Picture]) -> Result<Grid, PictureError> {
        let Some(first) = frames.first() else {
            return Err(PictureError::Config("there is no picture".into()));
        };
        let (width, height) = self.size(first.width, first.height)?;
        let mut planes = Vec::with_capacity(frames.len());
        for frame in frames {
            if (frame.width, frame.height) != (first.width, first.height) {
                return Err(PictureError::Config("the frames have several sizes".into()));
            }
            let tensor = self.processor.process(&frame.resize(width, height, self.processor.filter))?;
            planes.push(tensor.to_slice::<f32>()?.into_owned());
        }
        // The last frame fills what is left of the last patches.
        let time = planes.len().div_ceil(self.frames);
        let sizes = [time, height / self.patch, width / self.patch];
        let rows = sizes.iter().product::<usize>();
        let row = 3 * self.frames * self.patch * self.patch;
        let mut values = Vec::with_capacity(rows * row);
        for place in 0..rows {
            self.patch(&planes, (height, width), sizes, place, &mut values);
        }
        let patches = Tensor::from_slice(&values, &[rows, row])?;
        Ok(Grid { patches, sizes, tokens: rows / (self.merge * self.merge) })
    }

    /// Adds a patch: those that one token stands for are neighbours.
    fn patch(
        &self,
        planes: &[Vec<f32>],
        (height, width): (usize, usize),
        [_, rows, columns]: [usize; 3],
        place: usize,
        values: &mut Vec<f32>,
    ) {
        let (merge, side) = (self.merge, self.patch);
        let (column, rest) = (place % merge, place / merge);
        let (row, rest) = (rest % merge, rest / merge);
        let (column, rest) = (rest % (columns / merge) * merge + column, rest / (columns / merge));
        let (row, time) = (rest % (rows / merge) * merge + row, rest / (rows / merge));
        for channel in 0..3 {
            for frame in 0..self.frames {
                let plane = &planes[(time * self.frames + frame).min(planes.len() - 1)];
                for y in 0..side {
                    let at = (channel * height + row * side + y) * width + column * side;
                    values.extend_from_slice(&plane[at..at + side]);
                }
            }
        }
    }

    /// Width and height: multiples of what a token stands for, with as many pixels as allowed and the same aspect as nearly as can be.
    fn size(&self, width: usize, height: usize) -> Result<(usize, usize), PictureError> {
        let factor = (self.patch * self.merge) as f64;
        let (short, long) = (width.min(height) as u64, width.max(height) as u64);
        if short == 0 || long > short.saturating_mul(MAX_ASPECT) {
            let reason = format!("a picture of {width} x {height} pixels is too narrow");
            return Err(PictureError::Config(reason));
        }
        let (w, h) = (width as f64, height as f64);
        let near = |side: f64| ((side / factor).round_ties_even() * factor).max(factor);
        let (mut to_w, mut to_h) = (near(w), near(h));
        if to_w * to_h > self.max_pixels as f64 {
            let shrink = (w * h / self.max_pixels as f64).sqrt();
            let down = |side: f64| ((side / shrink / factor).floor() * factor).max(factor);
            (to_w, to_h) = (down(w), down(h));
        } else if to_w * to_h < self.min_pixels as f64 {
            let grow = (self.min_pixels as f64 / (w * h)).sqrt();
            let up = |side: f64| (side * grow / factor).ceil() * factor;
            (to_w, to_h) = (up(w), up(h));
        }
        if to_w > MAX_SIDE as f64 || to_h > MAX_SIDE as f64 {
            return Err(PictureError::Config(format!("the picture would become {to_w} x {to_h} pixels")));
        }
        Ok((to_w as usize, to_h as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patches(more: Value) -> Patches {
        let mut config = json!({"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 16, "max_pixels": 4096,
            "do_rescale": false, "do_normalize": false});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        Patches::from_config(&config).unwrap()
    }

    #[test]
    fn sizes_are_multiples_within_bounds() {
        // Worked out by the formula of transformers' `smart_resize` with a factor of 28.
        let qwen = Patches::from_config(&json!({})).unwrap();
        assert_eq!(qwen.size(640, 480).unwrap(), (644, 476));
        assert_eq!(qwen.size(4000, 3000).unwrap(), (1148, 840));
        assert_eq!(qwen.size(20, 30).unwrap(), (56, 84));
        assert!(qwen.size(10, 3000).is_err());
        assert_eq!(patches(json!({})).size(10, 6).unwrap(), (8, 8), "halves go to even numbers");
    }

    #[test]
    fn patches_of_a_token_are_neighbours() {
        // Four by eight pixels whose red says where they are.
        let pixels = (0..32u8).flat_map(|place| [place, 100, 200]).collect();
        let picture = Picture { width: 8, height: 4, pixels };
        let grid = patches(json!({})).process(std::slice::from_ref(&picture)).unwrap();
        assert_eq!((grid.sizes, grid.tokens, grid.patches.shape()), ([1, 2, 4], 2, &[8, 24][..]));
        let values = grid.patches.to_slice::<f32>().unwrap();
        let red = |patch: usize| values[patch * 24..patch * 24 + 4].to_vec();
        assert_eq!(red(0), [0.0, 1.0, 8.0, 9.0]);
        assert_eq!(red(1), [2.0, 3.0, 10.0, 11.0]);
        assert_eq!(red(2), [16.0, 17.0, 24.0, 25.0]);
        assert_eq!(red(4), [4.0, 5.0, 12.0, 13.0]);
        assert_eq!(values[4..8], values[..4], "the picture stands still");
        assert!(values[8..16].iter().all(|value| *value == 100.0));
        let mut later = picture.clone();
        later.pixels.iter_mut().for_each(|pixel| *pixel += 1);
        let video = patches(json!({})).process(&[picture.clone(), later, picture]).unwrap();
        assert_eq!((video.sizes, video.tokens), ([2, 2, 4], 4));
        let values = video.patches.to_slice::<f32>().unwrap();
        assert_eq!((values[4], values[8 * 24], values[8 * 24 + 4]), (1.0, 0.0, 0.0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Patches::from_config(&json!({"patch_size": 0})).is_err());
        assert!(patches(json!({})).process(&[]).is_err());
        let picture = |width: usize| Picture { width, height: 4, pixels: vec![0; width * 12] };
        assert!(patches(json!({})).process(&[picture(4), picture(8)]).is_err());
    }
}
