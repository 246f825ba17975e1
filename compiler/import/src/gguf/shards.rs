//! Models that are split into several files: `NAME-00001-of-00003.gguf` and its neighbours.

use std::path::{Path, PathBuf};

use super::GgufFile;
use crate::ImportError;
use crate::error::Fault;

/// The most files that one model is read from.
const MAX_SHARDS: u64 = 1024;

/// `NAME`, number and count of `NAME-00001-of-00003.gguf`.
fn parts(path: &Path) -> Option<(&str, u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(number) && digits(count)).then_some(())?;
    Some((name, number.parse().ok()?, count.parse().ok()?))
}

/// The path of a file of the same model, counted from 1.
fn sibling(path: &Path, number: u64, count: u64) -> Option<PathBuf> {
    let (name, ..) = parts(path)?;
    Some(path.with_file_name(format!("{name}-{number:05}-of-{count:05}.gguf")))
}

/// A file with the tensors of all that belong to it, whichever of them was named.
///
/// # Errors
/// Where one is missing, is broken, belongs to another split, or holds a tensor that another holds too.
pub(super) fn open(path: &Path) -> Result<GgufFile, ImportError> {
    let given = GgufFile::open_one(path)?;
    let Some(count) = given.count("split.count")?.filter(|&count| count > 1) else { return Ok(given) };
    let bad = |reason: String| Fault::bad(reason).in_file(path);
    if count > MAX_SHARDS {
        return Err(bad(format!("the model is split into {count} files; at most {MAX_SHARDS} are read")));
    }
    if parts(path).is_none_or(|(_, _, named)| named != count) {
        let reason = format!(
            "the file is one of {count} of a model; give them names like NAME-00001-of-{count:05}.gguf side by side"
        );
        return Err(bad(reason));
    }
    drop(given);
    let mut whole: Option<GgufFile> = None;
    for index in 0..count {
        let path = sibling(path, index + 1, count).ok_or_else(|| bad("its name is no text".to_string()))?;
        let file = GgufFile::open_one(&path)?;
        let place = (file.count("split.no")?.unwrap_or(0), file.count("split.count")?);
        if place != (index, Some(count)) {
            let reason = format!("it is no file {index} of {count}: its metadata say {place:?}");
            return Err(Fault::bad(reason).in_file(file.path()));
        }
        match &mut whole {
            None => whole = Some(file),
            Some(whole) => whole.join(file)?,
        }
    }
    let whole = whole.ok_or_else(|| bad("it is one of no files".to_string()))?;
    match whole.count("split.tensors.count")? {
        Some(wanted) if wanted != whole.tensors().len() as u64 => {
            let found = whole.tensors().len();
            Err(bad(format!("the files of the model hold {found} tensors, {wanted} are right")))
        }
        _ => Ok(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_neighbours() {
        let path = Path::new("/models/a-b-00002-of-00003.gguf");
        assert_eq!(parts(path), Some(("a-b", 2, 3)));
        assert_eq!(sibling(path, 1, 3), Some(PathBuf::from("/models/a-b-00001-of-00003.gguf")));
        for other in ["a.gguf", "a-1-of-3.gguf", "a-00001-of-00003.bin", "a-00001-of-0000x.gguf"] {
            assert_eq!(parts(Path::new(other)), None, "{other}");
        }
    }
}
