//! Pictures and videos of a prompt.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use lathe_generate::text::Tokenizer;
use lathe_generate::vision::{Picture, Shown, Visual, placed, sampled};
use serde_json::Value;

use crate::cli::args::PromptArgs;
use crate::cli::error::CliError;
use crate::cli::text;
use crate::generative::read_config;

/// Frames that a folder may hold.
const MAX_FRAMES: usize = 1 << 16;

/// How the model in a folder takes pictures: `preprocessor_config.json`, or what `processor_config.json` says of them.
pub fn preprocessor(folder: &Path, kind: &str) -> Result<Value, CliError> {
    let own = read_config(&folder.join("preprocessor_config.json"));
    let whole = || {
        let whole = read_config(&folder.join("processor_config.json"))?;
        let parts = [&whole[kind], &whole["image_processor"]];
        parts.into_iter().find(|part| part.is_object()).cloned()
    };
    own.or_else(whole).ok_or_else(|| {
        let file = folder.join("preprocessor_config.json");
        CliError::file(file, "cannot be read: it says how the model takes pictures")
    })
}

/// What the flags show the model; `None` without pictures and videos.
pub fn shown(model: &Path, args: &PromptArgs) -> Result<Option<Shown>, CliError> {
    if args.image.is_empty() && args.video.is_none() {
        return Ok(None);
    }
    let folder = text::folder(model);
    let config = read_config(&folder.join("config.json")).unwrap_or(Value::Null);
    let of_video = args.video.is_some().then(|| read_config(&folder.join("video_preprocessor_config.json")));
    let preprocessor = match of_video.flatten() {
        Some(config) => config,
        None if args.video.is_some() => preprocessor(&folder, "video_processor")?,
        None => preprocessor(&folder, "image_processor")?,
    };
    let visual = Visual::from_configs(&config, &preprocessor)?;
    let open = |path: &PathBuf| Picture::open(path);
    Ok(Some(match &args.video {
        Some(folder) => {
            let all = frames(folder)?;
            let chosen =
                sampled(all.len(), usize::from(args.frames)).into_iter().map(|index| open(&all[index]));
            visual.video(&chosen.collect::<Result<Vec<_>, _>>()?)?
        }
        None => visual.pictures(&args.image.iter().map(open).collect::<Result<Vec<_>, _>>()?)?,
    }))
}

/// The pictures in a folder by name, numbers in names by their value.
fn frames(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(folder).map_err(|error| CliError::file(folder, error))?;
    let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    let mut files: Vec<PathBuf> = files.take(MAX_FRAMES).collect();
    files.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    match files.is_empty() {
        true => Err(CliError::file(folder, "holds no frames: expected a picture for each")),
        false => Ok(files),
    }
}

/// Compares names; runs of digits are numbers.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some(x), Some(y)) = (a.first(), b.first()) {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (in_a, in_b) = (digits(a), digits(b));
        let order = match (in_a, in_b) {
            (0, _) | (_, 0) => x.cmp(y),
            _ => {
                let value = |digits: &[u8]| {
                    digits.iter().skip_while(|digit| **digit == b'0').copied().collect::<Vec<u8>>()
                };
                let (x, y) = (value(&a[..in_a]), value(&b[..in_b]));
                x.len().cmp(&y.len()).then(x.cmp(&y))
            }
        };
        if order != Ordering::Equal {
            return order;
        }
        let step = |count: usize| count.max(1);
        (a, b) = (&a[step(in_a)..], &b[step(in_b)..]);
    }
    a.len().cmp(&b.len())
}

/// What a text lacks of the placeholders for what is shown, to stand before it.
pub fn introduction(shown: &Shown, tokenizer: &Tokenizer, text: &str) -> Result<String, CliError> {
    let Some(token) = shown.token else { return Ok(String::new()) };
    let piece = tokenizer.pieces(&[token]).into_iter().next().map(|piece| piece.piece).unwrap_or_default();
    if piece.is_empty() {
        return Err(CliError::Input(format!(
            "the tokenizer has no token {token}, which stands for a picture"
        )));
    }
    let (before, after) = shown.introduced;
    let missing = if text.contains(&piece) { 0 } else { shown.counts.len() };
    Ok(format!("{before}{piece}{after}").repeat(missing))
}

/// The tokens of a prompt with as many as each picture takes.
pub fn with_pictures(
    shown: &Shown,
    tokenizer: Option<&Tokenizer>,
    tokens: &[u32],
) -> Result<Vec<u32>, CliError> {
    let Some(token) = shown.token else { return Ok(tokens.to_vec()) };
    let around = shown.around.and_then(|(before, after)| {
        let tokenizer = tokenizer?;
        Some((tokenizer.token(before)?, tokenizer.token(after)?))
    });
    Ok(placed(tokens, token, &shown.counts, around)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_by_their_value() {
        let mut names = ["f10.png", "f9.png", "f1b.png", "f01.png", "a.png", "f.png"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a.png", "f.png", "f01.png", "f1b.png", "f9.png", "f10.png"]);
    }
}
