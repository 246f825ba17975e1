//! Pictures and videos within a text, as transformers' processors put them there: tensors for the model, and tokens that stand for them.

use lathe_tensor::{Buffer, DType, Tensor};
use serde_json::Value;

use super::patches::Patches;
use super::{ImageProcessor, Picture, PictureError};
use crate::Source;

/// Tokens that pictures may take together.
const MAX_TOKENS: usize = 1 << 20;

/// How a model takes what is seen.
#[derive(Clone, Debug)]
enum Kind {
    /// A tower over patches of pictures of one size, all or all but the first of whose rows count.
    Tower { patch: usize, first: bool },
    /// The same for the frames of videos, whose grid of rows is pooled.
    Frames { patch: usize, stride: usize },
    /// Tokens of a codebook: one for each `scale * scale` pixels.
    Codebook { scale: usize },
    /// Pictures of any size.
    Patches(Patches),
    /// Frames before the text, without tokens.
    Prefix,
}

/// Pictures and videos of a model.
#[derive(Clone, Debug)]
pub struct Visual {
    kind: Kind,
    processor: ImageProcessor,
    /// The token that stands for a picture.
    image: Option<u32>,
    /// The token that stands for a video.
    video: Option<u32>,
    /// What the processor writes around it.
    around: Option<(&'static str, &'static str)>,
    /// What it writes around it in a text that does not name it.
    introduced: (&'static str, &'static str),
}

/// What a model is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Tensors by the names of the model's inputs.
    pub inputs: Source,
    /// The token that stands for each; `None` where they stand before the text.
    pub token: Option<u32>,
    /// How many tokens each takes.
    pub counts: Vec<usize>,
    /// Names of special tokens that stand around them.
    pub around: Option<(&'static str, &'static str)>,
    /// Names of special tokens or text that stand around one that a text does not name.
    pub introduced: (&'static str, &'static str),
}

impl Visual {
    /// From a model's `config.json` and what says how it takes pictures: `preprocessor_config.json`, or `processor_config.json`.
    ///
    /// # Errors
    /// [`PictureError::Config`], also for models that take no pictures within a text.
    pub fn from_configs(config: &Value, preprocessor: &Value) -> Result<Self, PictureError> {
        let vision = &config["vision_config"];
        let size = |value: &Value, name: &str| {
            let size = value
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .filter(|size| (1..=4096).contains(size));
            size.ok_or_else(|| PictureError::Config(format!("config.json has no usable `{name}`")))
        };
        let patch = || size(&vision["patch_size"], "vision_config.patch_size");
        let (mut around, mut introduced) = (None, ("", "\n"));
        let kind = match config["model_type"].as_str().unwrap_or_default() {
            "llava" => {
                let first = config["vision_feature_select_strategy"] == "full";
                Kind::Tower { patch: patch()?, first }
            }
            "llava_next_video" => {
                let stride = size(&config["spatial_pool_stride"], "spatial_pool_stride").unwrap_or(2);
                Kind::Frames { patch: patch()?, stride }
            }
            "chameleon" => {
                around = Some(("<racm3:break>", "<eoss>"));
                introduced = ("", "");
                let levels = config["vq_config"]["channel_multiplier"].as_array().map_or(5, Vec::len);
                let scale =
                    1usize.checked_shl(levels.saturating_sub(1) as u32).filter(|scale| *scale <= 4096);
                Kind::Codebook {
                    scale: scale
                        .ok_or_else(|| PictureError::Config("`channel_multiplier` is too long".into()))?,
                }
            }
            "qwen2_vl" | "qwen2_5_vl" => {
                introduced = ("<|vision_start|>", "<|vision_end|>");
                Kind::Patches(Patches::from_config(preprocessor)?)
            }
            "video-vit-llama" => Kind::Prefix,
            other => {
                let reason = format!("models of type `{other}` take no pictures within a text");
                return Err(PictureError::Config(reason));
            }
        };
        let token = |names: &[&str]| {
            let named = names.iter().find_map(|name| config[*name].as_u64());
            named.and_then(|id| u32::try_from(id).ok())
        };
        let listed = config["vocabulary_map"]["<image>"].as_u64().and_then(|id| u32::try_from(id).ok());
        let processor = match kind {
            // Its own processor resizes.
            Kind::Patches(_) => ImageProcessor::from_config(&Value::Null)?,
            _ => ImageProcessor::from_config(preprocessor)?,
        };
        Ok(Self {
            kind,
            processor,
            image: token(&["image_token_index", "image_token_id"]).or(listed),
            video: token(&["video_token_index", "video_token_id"]),
            around,
            introduced,
        })
    }

    fn shown(&self, inputs: Source, token: Option<u32>, counts: Vec<usize>) -> Result<Shown, PictureError> {
        if counts
            .iter()
            .try_fold(0usize, |sum, count| sum.checked_add(*count))
            .is_none_or(|sum| sum > MAX_TOKENS)
        {
            return Err(PictureError::Config(format!("the pictures take more than {MAX_TOKENS} tokens")));
        }
        if token.is_none() && !matches!(self.kind, Kind::Prefix) {
            return Err(PictureError::Config("config.json names no token that stands for them".into()));
        }
        Ok(Shown { inputs, token, counts, around: self.around, introduced: self.introduced })
    }

    /// What the model is shown of pictures.
    ///
    /// # Errors
    /// Pictures that it cannot take.
    pub fn pictures(&self, pictures: &[Picture]) -> Result<Shown, PictureError> {
        let tokens = |height: usize, width: usize| match &self.kind {
            Kind::Tower { patch, first } => Some((height / patch) * (width / patch) + usize::from(*first)),
            Kind::Codebook { scale } => Some((height / scale) * (width / scale)),
            _ => None,
        };
        if let Kind::Patches(patches) = &self.kind {
            let grids = pictures.iter().map(|picture| patches.process(std::slice::from_ref(picture)));
            let grids = grids.collect::<Result<Vec<_>, _>>()?;
            let counts = grids.iter().map(|grid| grid.tokens).collect();
            let sizes: Vec<i64> = grids.iter().flat_map(|grid| grid.sizes).map(|size| size as i64).collect();
            let all: Vec<Tensor> = grids.into_iter().map(|grid| grid.patches).collect();
            let inputs = vec![
                ("pixel_values".to_string(), joined(&all)?),
                ("image_grid_thw".to_string(), Tensor::from_slice(&sizes, &[counts_of(&sizes), 3])?),
            ];
            return self.shown(inputs, self.image, counts);
        }
        let all =
            pictures.iter().map(|picture| self.processor.process(picture)).collect::<Result<Vec<_>, _>>()?;
        let count = |tensor: &Tensor| match *tensor.shape() {
            [_, _, height, width] => tokens(height, width),
            _ => None,
        };
        let counts: Option<Vec<usize>> = all.iter().map(count).collect();
        let counts =
            counts.ok_or_else(|| PictureError::Config("the model takes videos, no pictures".into()))?;
        self.shown(vec![("pixel_values".to_string(), joined(&all)?)], self.image, counts)
    }

    /// What the model is shown of a video.
    ///
    /// # Errors
    /// Frames that it cannot take.
    pub fn video(&self, frames: &[Picture]) -> Result<Shown, PictureError> {
        if let Kind::Patches(patches) = &self.kind {
            let grid = patches.process(frames)?;
            let sizes = grid.sizes.map(|size| size as i64);
            let inputs = vec![
                ("pixel_values_videos".to_string(), grid.patches),
                ("video_grid_thw".to_string(), Tensor::from_slice(&sizes, &[1, 3])?),
            ];
            return self.shown(inputs, self.video, vec![grid.tokens]);
        }
        let all = frames.iter().map(|frame| self.processor.process(frame)).collect::<Result<Vec<_>, _>>()?;
        let all = joined(&all)?;
        let &[count, channels, height, width] = all.shape() else {
            return Err(PictureError::Config("the frames are no pictures".into()));
        };
        let video = Tensor::new(DType::F32, vec![1, count, channels, height, width], all.buffer().clone())?;
        match self.kind {
            Kind::Frames { patch, stride } => {
                let tokens = count * (height / patch / stride) * (width / patch / stride);
                self.shown(vec![("pixel_values_videos".to_string(), video)], self.video, vec![tokens])
            }
            Kind::Prefix => self.shown(vec![("video".to_string(), video)], None, Vec::new()),
            _ => Err(PictureError::Config("the model takes pictures, no videos".into())),
        }
    }
}

/// Rows of three.
fn counts_of(sizes: &[i64]) -> usize {
    sizes.len() / 3
}

/// Tensors of one shape, one after another along their first axis.
fn joined(tensors: &[Tensor]) -> Result<Tensor, PictureError> {
    let Some(first) = tensors.first() else { return Err(PictureError::Config("there is no picture".into())) };
    if tensors.iter().any(|tensor| tensor.shape()[1..] != first.shape()[1..]) {
        return Err(PictureError::Config("the pictures have several sizes".into()));
    }
    let mut shape = first.shape().to_vec();
    shape[0] = tensors.iter().map(|tensor| tensor.shape()[0]).sum();
    let bytes: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes().iter().copied()).collect();
    Ok(Tensor::new(first.dtype(), shape, Buffer::copy_of(&bytes))?)
}

/// The tokens of a prompt with each placeholder as often as what it stands for takes tokens, between `around`. A prompt that holds them
/// all already stays as it is.
///
/// # Errors
/// Where there are others than one for each.
pub fn placed(
    tokens: &[u32],
    token: u32,
    counts: &[usize],
    around: Option<(u32, u32)>,
) -> Result<Vec<u32>, PictureError> {
    let found = tokens.iter().filter(|found| **found == token).count();
    let all: usize = counts.iter().sum();
    if found == all && found != counts.len() {
        return Ok(tokens.to_vec());
    }
    if found != counts.len() {
        return Err(PictureError::Config(format!(
            "the prompt has the token {token}, which stands for a picture or video, {found} times; expected {} or, with one for each \
             of their parts, {all}",
            counts.len()
        )));
    }
    let mut counts = counts.iter();
    let mut placed = Vec::with_capacity(tokens.len() + all);
    for found in tokens {
        if *found != token {
            placed.push(*found);
            continue;
        }
        placed.extend(around.map(|(before, _)| before));
        placed.extend(std::iter::repeat_n(token, counts.next().copied().unwrap_or(0)));
        placed.extend(around.map(|(_, after)| after));
    }
    Ok(placed)
}

/// Which of `total` frames are shown when `count` are asked for: evenly spaced from the first on, as transformers samples them.
pub fn sampled(total: usize, count: usize) -> Vec<usize> {
    let count = count.min(total);
    (0..count).map(|index| index * total / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn picture(width: usize, height: usize) -> Picture {
        Picture { width, height, pixels: vec![7; width * height * 3] }
    }

    #[test]
    fn models_count_tokens_as_their_towers_do() {
        let plain = json!({"do_resize": false});
        let visual = |config: Value| Visual::from_configs(&config, &plain).unwrap();
        let llava =
            json!({"model_type": "llava", "image_token_index": 9, "vision_config": {"patch_size": 8}});
        let shown = visual(llava.clone()).pictures(&[picture(32, 16), picture(32, 16)]).unwrap();
        assert_eq!((shown.token, shown.counts), (Some(9), vec![8, 8]));
        assert_eq!(
            (shown.inputs[0].0.as_str(), shown.inputs[0].1.shape()),
            ("pixel_values", &[2, 3, 16, 32][..])
        );
        let mut full = llava.clone();
        full["vision_feature_select_strategy"] = json!("full");
        assert_eq!(visual(full).pictures(&[picture(32, 16)]).unwrap().counts, [9]);
        assert!(visual(llava.clone()).video(&[picture(32, 16)]).is_err());
        assert!(visual(llava).pictures(&[picture(32, 16), picture(16, 16)]).is_err());
        let video = json!({"model_type": "llava_next_video", "video_token_index": 4, "spatial_pool_stride": 2,
            "vision_config": {"patch_size": 8}});
        let shown = visual(video).video(&[picture(32, 32), picture(32, 32), picture(32, 32)]).unwrap();
        assert_eq!((shown.token, shown.counts), (Some(4), vec![12]));
        assert_eq!(shown.inputs[0].1.shape(), [1, 3, 3, 32, 32]);
        let chameleon = json!({"model_type": "chameleon", "vocabulary_map": {"<image>": 4},
            "vq_config": {"channel_multiplier": [1, 1, 2]}});
        let shown = visual(chameleon).pictures(&[picture(16, 16)]).unwrap();
        assert_eq!((shown.token, shown.counts, shown.around.is_some()), (Some(4), vec![16], true));
        let frames = visual(json!({"model_type": "video-vit-llama"})).video(&[picture(8, 8)]).unwrap();
        assert_eq!((frames.token, frames.inputs[0].1.shape()), (None, &[1, 1, 3, 8, 8][..]));
        assert!(Visual::from_configs(&json!({"model_type": "bert"}), &plain).is_err());
    }

    #[test]
    fn grids_come_with_their_sizes() {
        let config = json!({"model_type": "qwen2_vl", "image_token_id": 5, "video_token_id": 6});
        let preprocessor = json!({"patch_size": 2, "min_pixels": 16, "max_pixels": 4096});
        let visual = Visual::from_configs(&config, &preprocessor).unwrap();
        let shown = visual.pictures(&[picture(8, 4), picture(4, 4)]).unwrap();
        assert_eq!((shown.token, shown.counts), (Some(5), vec![2, 1]));
        assert_eq!(shown.inputs[0].1.shape(), [12, 24]);
        assert_eq!(shown.inputs[1].1.to_slice::<i64>().unwrap().to_vec(), [1, 2, 4, 1, 2, 2]);
        let shown = visual.video(&[picture(8, 4), picture(8, 4), picture(8, 4)]).unwrap();
        assert_eq!(
            (shown.token, shown.counts, shown.inputs[1].0.as_str()),
            (Some(6), vec![4], "video_grid_thw")
        );
    }

    #[test]
    fn placeholders_become_as_many_tokens_as_they_stand_for() {
        assert_eq!(placed(&[1, 9, 2, 9], 9, &[2, 3], None).unwrap(), [1, 9, 9, 2, 9, 9, 9]);
        assert_eq!(placed(&[1, 9], 9, &[2], Some((7, 8))).unwrap(), [1, 7, 9, 9, 8]);
        assert_eq!(placed(&[1, 9, 9, 2], 9, &[2], Some((7, 8))).unwrap(), [1, 9, 9, 2], "written out");
        assert!(placed(&[1, 2], 9, &[2], None).is_err() && placed(&[9, 9, 9], 9, &[2], None).is_err());
    }

    #[test]
    fn frames_are_evenly_spaced() {
        assert_eq!(sampled(10, 4), [0, 2, 5, 7]);
        assert_eq!(sampled(3, 8), [0, 1, 2]);
        assert!(sampled(0, 8).is_empty() && sampled(5, 0).is_empty());
    }
}
