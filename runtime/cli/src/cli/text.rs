//! The tokenizer and the template of a model.

use std::path::{Path, PathBuf};

use lathe_compiler::gguf::{self, GgufFile};
use lathe_generate::text::{ChatTemplate, GgufTokenizer, TokenType, Tokenizer};

use super::error::CliError;

/// Where the files beside a model lie: its folder, or the folder that it is in.
pub fn folder(model: &Path) -> PathBuf {
    match model.is_dir() {
        true => model.to_path_buf(),
        false => model.parent().map(Path::to_path_buf).unwrap_or_default(),
    }
}

/// The tokenizer of a model: the file itself, what a GGUF file holds, or `tokenizer.json` beside the model.
pub fn tokenizer(model: &Path) -> Result<Tokenizer, CliError> {
    if let Some(inside) = inside(model)? {
        return Ok(Tokenizer::from_gguf(&described(inside), model.display().to_string())?);
    }
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
    match inside(model)? {
        Some(tokenizer) => {
            let Some(source) = tokenizer.chat_template else {
                return Err(CliError::file(
                    model,
                    "has no chat template: give a text with -p and without --chat",
                ));
            };
            let named = [
                ("bos_token", tokenizer.bos),
                ("eos_token", tokenizer.eos),
                ("unk_token", tokenizer.unknown),
            ];
            let piece = |id: u32| tokenizer.tokens.get(id as usize).cloned();
            let special = named.into_iter().filter_map(|(name, id)| Some((name.to_string(), piece(id?)?)));
            Ok(ChatTemplate::new(source, special.collect(), model.display().to_string()))
        }
        None => Ok(ChatTemplate::find(model, name)?),
    }
}

/// What the metadata of a GGUF file say about its tokenizer; `None` for other files, and where they say nothing.
fn inside(model: &Path) -> Result<Option<gguf::GgufTokenizer>, CliError> {
    if !model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Ok(None);
    }
    let read = GgufFile::open(model).and_then(|file| gguf::GgufTokenizer::read(&file));
    Ok(read.map_err(lathe_compiler::CompileError::from)?)
}

fn described(tokenizer: gguf::GgufTokenizer) -> GgufTokenizer {
    GgufTokenizer {
        model: tokenizer.model,
        pre: tokenizer.pre,
        tokens: tokenizer.tokens,
        scores: tokenizer.scores.into_iter().map(|score| score as f32).collect(),
        types: tokenizer.token_types.into_iter().map(TokenType::of).collect(),
        merges: tokenizer.merges,
        bos: tokenizer.bos,
        eos: tokenizer.eos,
        unknown: tokenizer.unknown,
        add_bos: tokenizer.add_bos,
        add_eos: tokenizer.add_eos,
        add_space_prefix: tokenizer.add_space_prefix,
    }
}
