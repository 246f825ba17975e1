//! Models that generate: which files they are, and what their configuration says about generation.

use std::path::{Path, PathBuf};

use lathe_compiler::gguf::{GgufFile, GgufTokenizer};
use lathe_generate::Graphs;
use serde_json::Value;

use crate::load::{LoadOptions, load};
use crate::{Error, Model};

/// Largest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 64 << 20;

/// The model files of a generative model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFiles {
    /// The encoder, where it is a file of its own.
    pub encoder: Option<PathBuf>,
    /// The decoder.
    pub decoder: PathBuf,
    /// The decoder for tokens after others, whose keys and values are inputs.
    pub decoder_with_past: Option<PathBuf>,
}

impl GraphFiles {
    /// The files of a model: the path itself, also where it is a folder with `config.json` and safetensors, or the files in it under
    /// the names that optimum gives them. Where a folder holds
    /// several exports, `encoder_model.EXPORT.onnx` and so on, the first complete one in alphabetical order is taken.
    ///
    /// # Errors
    /// Where the folder holds no such files.
    pub fn find(path: &Path) -> Result<Self, Error> {
        let built = path.join("config.json").is_file() && lathe_compiler::weight_files(path).is_ok();
        if !path.is_dir() || built {
            return Ok(Self { encoder: None, decoder: path.to_path_buf(), decoder_with_past: None });
        }
        for export in exports(path) {
            let file =
                |name: &str| Some(path.join(format!("{name}{export}.onnx"))).filter(|file| file.is_file());
            if let (encoder @ Some(_), Some(decoder)) = (file("encoder_model"), file("decoder_model")) {
                return Ok(Self { encoder, decoder, decoder_with_past: file("decoder_with_past_model") });
            }
            if let Some(decoder) = file("model") {
                return Ok(Self { encoder: None, decoder, decoder_with_past: None });
            }
        }
        Err(Error::NotAModel { path: path.to_path_buf() })
    }

    /// Loads them all.
    pub fn load(&self, options: &LoadOptions) -> Result<Graphs, Error> {
        let optional = |path: &Option<PathBuf>| path.as_ref().map(|path| load(path, options)).transpose();
        let decoder: Model = load(&self.decoder, options)?;
        let (encoder, decoder_with_past) = (optional(&self.encoder)?, optional(&self.decoder_with_past)?);
        Ok(Graphs { encoder, decoder, decoder_with_past })
    }
}

/// What stands between the name and `.onnx` in a folder's files: nothing first, then in alphabetical order.
fn exports(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let exports = names.filter_map(|name| {
        let name = name.strip_suffix(".onnx")?;
        let export = name.strip_prefix("decoder_model").or_else(|| name.strip_prefix("model"))?;
        (export.is_empty() || export.starts_with('.')).then(|| export.to_string())
    });
    let mut exports: Vec<String> = exports.collect();
    exports.sort();
    exports.dedup();
    exports
}

/// What a model's configuration says about generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationConfig {
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// The first token of a decoder that follows an encoder.
    pub decoder_start: Option<u32>,
    /// Tokens that are never chosen.
    pub suppress: Vec<u32>,
    /// Whether text is written in any order by masked diffusion, as LLaDA does.
    pub diffuses: bool,
    /// Tokens that the model was made for.
    pub context: Option<u64>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`, then `config.json`, beside the model or in its folder. Files that are not there, or that
    /// do not say, leave the default.
    pub fn beside(model: &Path) -> Self {
        if model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Self::inside(model);
        }
        let folder = if model.is_dir() { Some(model) } else { model.parent() };
        let mut config = Self::default();
        let Some(folder) = folder else { return config };
        for name in ["generation_config.json", "config.json"] {
            let Some(value) = read_config(&folder.join(name)) else { continue };
            if config.eos.is_empty() {
                config.eos = tokens(&value["eos_token_id"]);
            }
            if config.suppress.is_empty() {
                config.suppress = tokens(&value["suppress_tokens"]);
            }
            config.context =
                config.context.or_else(|| context(&value).or_else(|| context(&value["text_config"])));
            config.diffuses |= value["model_type"] == "llada";
            config.decoder_start =
                config.decoder_start.or_else(|| tokens(&value["decoder_start_token_id"]).first().copied());
        }
        config
    }

    /// What the metadata of a GGUF file say.
    fn inside(model: &Path) -> Self {
        let read = |file: GgufFile| {
            let architecture = file.text("general.architecture")?.unwrap_or_default().to_string();
            let context = file.count(&format!("{architecture}.context_length"))?;
            Ok((GgufTokenizer::read(&file)?, context))
        };
        match GgufFile::open(model).and_then(read) {
            Ok((tokenizer, context)) => {
                let eos = tokenizer.into_iter().flat_map(|it| it.eos.into_iter().chain(it.eot)).collect();
                Self { eos, context, ..Self::default() }
            }
            Err(error) => {
                tracing::warn!("{error}");
                Self::default()
            }
        }
    }
}

/// Reads a configuration file of a model; `None`, with a warning where it is broken, for one that cannot be used.
pub fn read_config(path: &Path) -> Option<Value> {
    if std::fs::metadata(path).ok()?.len() > MAX_CONFIG_BYTES {
        return None;
    }
    match serde_json::from_slice(&std::fs::read(path).ok()?) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!("{}: {error}", path.display());
            None
        }
    }
}

/// Tokens that a model was made for, under the names that configurations have for it.
fn context(config: &Value) -> Option<u64> {
    let names = ["max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"];
    names.iter().find_map(|name| config[name].as_u64())
}

/// A token, or a list of them.
fn tokens(value: &Value) -> Vec<u32> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(token).collect(),
        value => token(value).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_beside_the_model_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(GenerationConfig::beside(folder.path()), GenerationConfig::default());
        write("config.json", r#"{"eos_token_id": 7, "decoder_start_token_id": 3}"#);
        write("generation_config.json", r#"{"eos_token_id": [1, 2, -1, "x"]}"#);
        let expected =
            GenerationConfig { eos: vec![1, 2], decoder_start: Some(3), ..GenerationConfig::default() };
        assert_eq!(GenerationConfig::beside(&folder.path().join("model.onnx")), expected);
        write("generation_config.json", "not JSON");
        assert_eq!(GenerationConfig::beside(folder.path()).eos, [7]);
    }

    #[test]
    fn a_folder_s_files_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(matches!(GraphFiles::find(folder.path()), Err(Error::NotAModel { .. })));
        for name in ["encoder_model.b.onnx", "decoder_model.b.onnx", "decoder_model.a.onnx", "notes.txt"] {
            std::fs::write(path(name), "").unwrap();
        }
        let found = GraphFiles::find(folder.path()).unwrap();
        let mut expected = GraphFiles {
            encoder: Some(path("encoder_model.b.onnx")),
            decoder: path("decoder_model.b.onnx"),
            decoder_with_past: None,
        };
        assert_eq!(found, expected);
        std::fs::write(path("encoder_model.onnx"), "").unwrap();
        std::fs::write(path("decoder_model.onnx"), "").unwrap();
        expected.encoder = Some(path("encoder_model.onnx"));
        expected.decoder = path("decoder_model.onnx");
        assert_eq!(GraphFiles::find(folder.path()).unwrap(), expected);
        let single = GraphFiles::find(&path("notes.txt")).unwrap();
        assert_eq!((single.decoder, single.encoder), (path("notes.txt"), None));
    }
}
