//! The tokenizer and the template of a model.

use std::path::{Path, PathBuf};

use lathe_generate::text::{ChatTemplate, Tokenizer};

use super::error::CliError;

/// Where the files beside a model lie: its folder, or the folder that it is in.
pub fn folder(model: &Path) -> PathBuf {
    match model.is_dir() {
        true => model.to_path_buf(),
        false => model.parent().map(Path::to_path_buf).unwrap_or_default(),
    }
}

/// The tokenizer of a model: the file itself, or `tokenizer.json` beside the model.
pub fn tokenizer(model: &Path) -> Result<Tokenizer, CliError> {
    let named = model.extension().is_some_and(|extension| extension == "json");
    let file = if named { model.to_path_buf() } else { folder(model).join("tokenizer.json") };
    if !named && !file.exists() {
        return Err(CliError::file(
            model,
            format!("has no tokenizer: expected {}; give tokens with --tokens", file.display()),
        ));
    }
    Ok(Tokenizer::from_file(&file)?)
}

/// The chat template of a model, `name` where it has several.
pub fn template(model: &Path, name: Option<&str>) -> Result<ChatTemplate, CliError> {
    Ok(ChatTemplate::find(model, name)?)
}
