//! A model that takes a text at once, with its tokenizer.

use std::path::{Path, PathBuf};

use lathe_generate::text::Tokenizer;
use lathe_generate::vision::{ImageProcessor, Picture};
use lathe_generate::{GraphMasked, Source, encoder_inputs};
use lathe_tensor::{DType, Tensor};
use serde_json::Value;

use super::args::Common;
use super::error::CliError;
use super::generation::preprocessor;
use super::text::{self, Companions};
use super::{interrupt, load};
use crate::generative::{GraphFiles, read_config};
use crate::{Model, Outputs, RunOptions, Session, Team};

/// What the names of masks are in the vocabularies of known models, where nothing says which it is.
const MASKS: [&str; 4] = ["[MASK]", "<mask>", "<|mdm_mask|>", "<|mask|>"];

/// A model and its tokenizer.
pub struct Encoder {
    /// The model.
    pub model: Model,
    /// Its tokenizer, where it has one.
    tokenizer: Option<Tokenizer>,
    /// `config.json`; null where there is none.
    pub config: Value,
    session: Session,
    team: Team,
    run: RunOptions,
    folder: PathBuf,
}

impl Encoder {
    /// Loads it, with its tokenizer where it is to take text.
    pub fn open(common: &Common, path: &Path, takes_text: bool) -> Result<Self, CliError> {
        let tokenizer = Companions::of(path).tokenizer();
        let tokenizer = if takes_text { Some(tokenizer?) } else { tokenizer.ok() };
        let options = load::load_options(common, None)?;
        let model = GraphFiles::find(path)?.load(&options)?.decoder;
        let team = load::team(common)?;
        let session = Session::with_team(&model, &team)?;
        let run = interrupt::run_options();
        let folder = text::folder(path);
        let config = read_config(&folder.join("config.json")).unwrap_or(Value::Null);
        Ok(Self { model, tokenizer, config, session, team, run, folder })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer, CliError> {
        self.tokenizer.as_ref().ok_or_else(|| CliError::Input("the model has no tokenizer".into()))
    }

    /// A picture as the model takes it.
    pub fn picture(&self, path: &Path) -> Result<Source, CliError> {
        let config = preprocessor(&self.folder, "image_processor")?;
        let tensor = ImageProcessor::from_config(&config)?.process(&Picture::open(path)?)?;
        Ok(vec![("pixel_values".to_string(), tensor)])
    }

    /// A black picture of the size that the model takes.
    pub fn blank(&self) -> Result<Source, CliError> {
        let side = &self.config["vision_config"]["image_size"];
        let side = side.as_u64().or_else(|| self.config["image_size"].as_u64()).unwrap_or(224).clamp(1, 4096)
            as usize;
        let tensor = Tensor::zeros(DType::F32, &[1, 3, side, side]).map_err(crate::Error::from)?;
        Ok(vec![("pixel_values".to_string(), tensor)])
    }

    /// Whether the model has this input.
    pub fn takes(&self, input: &str) -> bool {
        self.model.inputs().iter().any(|port| port.name == input)
    }

    /// Runs a text alone; `types` says which of two texts each token is of, `extras` holds what the model takes beside a text.
    pub fn run(
        &mut self,
        tokens: &[u32],
        types: Option<&[u32]>,
        extras: &Source,
    ) -> Result<Outputs, CliError> {
        let tensors = encoder_inputs(self.model.inputs(), tokens, types, extras)?;
        let named: Vec<(&str, &Tensor)> =
            self.model.inputs().iter().map(|port| port.name.as_str()).zip(&tensors).collect();
        Ok(self.session.run_with(&named, &self.run)?)
    }

    /// The same for masked tokens.
    pub fn masked(&self) -> Result<GraphMasked, CliError> {
        let mut masked = GraphMasked::new(&self.model, &self.team)?;
        masked.options = self.run.clone();
        Ok(masked)
    }

    /// The token that stands for a gap.
    pub fn mask(&self, given: Option<u32>) -> Result<u32, CliError> {
        mask(given, &self.config, self.tokenizer.as_ref())
    }
}

/// The token that stands for a gap: as given, as `config.json` says, or under a name that the tokenizer knows.
pub fn mask(given: Option<u32>, config: &Value, tokenizer: Option<&Tokenizer>) -> Result<u32, CliError> {
    let configured = config["mask_token_id"].as_u64().and_then(|id| u32::try_from(id).ok());
    let named = || MASKS.iter().find_map(|name| tokenizer?.token(name));
    given.or(configured).or_else(named).ok_or_else(|| {
        CliError::Input(
            "no mask token: config.json has no mask_token_id and the tokenizer knows none of its usual names; give \
             --mask-token ID"
                .into(),
        )
    })
}

/// The values of a tensor as f32.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>, CliError> {
    Ok(tensor.to_slice::<f32>().map_err(crate::Error::from)?.to_vec())
}
