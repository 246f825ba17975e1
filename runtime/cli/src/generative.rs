//! Models that generate: which files they are, and what their configuration says about generation.

mod config;

pub use config::{GenerationConfig, read_config};

use std::path::{Path, PathBuf};

use lathe_generate::Graphs;

use crate::load::{LoadOptions, load};
use crate::{Error, Model};

/// What optimum calls a decoder that takes a past where `use_cache_branch` says so.
const MERGED: &str = "decoder_model_merged";

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
            let decoder = file("decoder_model").or_else(|| file(MERGED));
            if let (encoder @ Some(_), Some(decoder)) = (file("encoder_model"), decoder) {
                return Ok(Self { encoder, decoder, decoder_with_past: file("decoder_with_past_model") });
            }
            if let Some(decoder) = file("model") {
                return Ok(Self { encoder: None, decoder, decoder_with_past: None });
            }
        }
        Err(Error::NotAModel { path: path.to_path_buf() })
    }

    /// A decoder of both kinds in one file, as its branch without a past: where that gets a cache of its own.
    fn branch(&self, options: &LoadOptions) -> Result<Option<Model>, Error> {
        let name = self.decoder.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.starts_with(MERGED)) {
            return Ok(None);
        }
        let mut known = options.clone();
        known.compile.known.push(("use_cache_branch".to_string(), false));
        // Otherwise its past is handed on: that needs the other branch too.
        Ok(Some(load(&self.decoder, &known)?).filter(Model::can_decode))
    }

    /// Loads them all.
    pub fn load(&self, options: &LoadOptions) -> Result<Graphs, Error> {
        let optional = |path: &Option<PathBuf>| path.as_ref().map(|path| load(path, options)).transpose();
        let decoder = self.branch(options)?.map_or_else(|| load(&self.decoder, options), Ok)?;
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
        let export = name
            .strip_prefix(MERGED)
            .or_else(|| name.strip_prefix("decoder_model"))
            .or_else(|| name.strip_prefix("model"))?;
        (export.is_empty() || export.starts_with('.')).then(|| export.to_string())
    });
    let mut exports: Vec<String> = exports.collect();
    exports.sort();
    exports.dedup();
    exports
}

#[cfg(test)]
mod tests {
    use super::*;

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
