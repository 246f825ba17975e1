//! The tokenizer, the template and the settings of a model.

use std::path::{Path, PathBuf};

use lathe_compiler::gguf::{self, GgufFile};
use lathe_generate::text::{ChatTemplate, GgufTokenizer, TokenType, Tokenizer};

use super::error::CliError;
use crate::generative::GenerationConfig;

/// Where the files beside a model lie: its folder, or the folder that it is in.
pub fn folder(model: &Path) -> PathBuf {
    match model.is_dir() {
        true => model.to_path_buf(),
        false => model.parent().map(Path::to_path_buf).unwrap_or_default(),
    }
}

/// What a model comes with: tokenizer, chat template and settings of generation, in files beside it or in its GGUF file, which is read once.
pub struct Companions {
    model: PathBuf,
    /// What a GGUF file says; `None` for other files, and where it says nothing.
    inside: Option<Result<gguf::GgufTokenizer, String>>,
    /// What a GGUF file says about generation.
    generation: Option<GenerationConfig>,
}

impl Companions {
    /// Those of a model. What is broken is an error of the methods that need it.
    pub fn of(model: &Path) -> Self {
        let gguf = model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        let read = |file: &GgufFile| Ok((gguf::GgufTokenizer::read(file)?, GenerationConfig::of_gguf(file)?));
        let (inside, generation) = match gguf.then(|| GgufFile::open(model).and_then(|file| read(&file))) {
            None => (None, None),
            Some(Ok((tokenizer, generation))) => (tokenizer.map(Ok), Some(generation)),
            Some(Err(error)) => (Some(Err(error.to_string())), None),
        };
        Self { model: model.to_path_buf(), inside, generation }
    }

    fn inside(&self) -> Result<Option<&gguf::GgufTokenizer>, CliError> {
        match &self.inside {
            None => Ok(None),
            Some(Ok(inside)) => Ok(Some(inside)),
            Some(Err(reason)) => Err(CliError::Input(reason.clone())),
        }
    }

    /// The tokenizer: what a GGUF file holds, the model itself where it is a `tokenizer.json`, or the one beside it.
    pub fn tokenizer(&self) -> Result<Tokenizer, CliError> {
        let model = &self.model;
        if let Some(inside) = self.inside()? {
            return Ok(Tokenizer::from_gguf(&described(inside), model.display().to_string())?);
        }
        let is_config = model.file_name().is_some_and(|name| name.to_string_lossy().starts_with("config."));
        let named = !is_config && model.extension().is_some_and(|extension| extension == "json");
        let file = if named { model.clone() } else { folder(model).join("tokenizer.json") };
        if !named && !file.exists() {
            return Err(CliError::file(
                model,
                format!("has no tokenizer: expected {}; give tokens with --tokens", file.display()),
            ));
        }
        Ok(Tokenizer::from_file(&file)?)
    }

    /// The chat template, `name` where there are several.
    pub fn template(&self, name: Option<&str>) -> Result<ChatTemplate, CliError> {
        let model = &self.model;
        let Some(tokenizer) = self.inside()? else { return Ok(ChatTemplate::find(model, name)?) };
        let Some(source) = tokenizer.chat_template.clone() else {
            let reason = "has no chat template: give a text with -p and without --chat";
            return Err(CliError::file(model, reason));
        };
        let named =
            [("bos_token", tokenizer.bos), ("eos_token", tokenizer.eos), ("unk_token", tokenizer.unknown)];
        let piece = |id: u32| tokenizer.tokens.get(id as usize).map(str::to_string);
        let special = named.into_iter().filter_map(|(name, id)| Some((name.to_string(), piece(id?)?)));
        Ok(ChatTemplate::new(source, special.collect(), model.display().to_string()))
    }

    /// The settings of generation.
    pub fn generation(&self) -> GenerationConfig {
        match (&self.generation, &self.inside) {
            (Some(generation), _) => generation.clone(),
            (None, Some(Err(reason))) => {
                tracing::warn!("{reason}");
                GenerationConfig::default()
            }
            (None, _) => GenerationConfig::beside(&self.model),
        }
    }
}

fn described(tokenizer: &gguf::GgufTokenizer) -> GgufTokenizer<'_> {
    GgufTokenizer {
        model: &tokenizer.model,
        pre: tokenizer.pre.as_deref(),
        tokens: tokenizer.tokens.iter().collect(),
        scores: tokenizer.scores.iter().map(|&score| score as f32).collect(),
        types: tokenizer.token_types.iter().map(|&number| TokenType::of(number)).collect(),
        merges: tokenizer.merges.iter().collect(),
        bos: tokenizer.bos,
        eos: tokenizer.eos,
        unknown: tokenizer.unknown,
        add_bos: tokenizer.add_bos,
        add_eos: tokenizer.add_eos,
        add_space_prefix: tokenizer.add_space_prefix,
    }
}
