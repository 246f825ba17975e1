//! Test cases in the layout of the ONNX backend tests: `model.onnx`, `test_data_set_K/input_I.pb`, `output_I.pb`, and optionally
//! `data.json {"rtol", "atol"}` and `output_I.mask.pb` (bool: which leading positions of the output count); and checkpoints
//! ([`checkpoint`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lathe_tensor::value::{Seen, Value};
use serde::Deserialize;

use super::checkpoint;
use super::error::CliError;
use super::tensors;

/// One case: a folder with a model, or the configuration of a checkpoint with cases beside its folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// Path below the folder that was given, with `/`: `node/test_abs`.
    pub name: String,
    /// The folder, or the configuration.
    pub folder: PathBuf,
}

/// How far outputs may be off.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub struct Tolerance {
    /// Relative to the expected value.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

impl Default for Tolerance {
    /// The defaults of the ONNX backend tests.
    fn default() -> Self {
        Self { rtol: 1e-3, atol: 1e-7 }
    }
}

/// Memory that one tensor of a case may take.
const MAX_TENSOR: u64 = 4 << 30;
/// Folders may be this deep below the one that was given.
const MAX_DEPTH: usize = 16;

/// Every case below a folder, sorted; links to folders are not followed twice.
pub fn find(root: &Path) -> Result<Vec<Case>, CliError> {
    let mut cases = Vec::new();
    walk(root, root, 0, &mut cases)?;
    cases.sort();
    Ok(cases)
}

fn walk(root: &Path, folder: &Path, depth: usize, cases: &mut Vec<Case>) -> Result<(), CliError> {
    let entries = std::fs::read_dir(folder).map_err(|error| CliError::file(folder, error))?;
    if depth >= MAX_DEPTH {
        return Ok(());
    }
    let mut is_case = false;
    let mut below = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("test_data_set_") {
            is_case = true;
        } else if path.is_dir() {
            below.push(path);
        }
    }
    if is_case {
        cases.push(Case::at(root, folder));
    }
    if folder.join(checkpoint::CASES).is_file() {
        cases.extend(checkpoint::configurations(folder).iter().map(|config| Case::at(root, config)));
    }
    below.sort();
    below.iter().try_for_each(|path| walk(root, path, depth + 1, cases))
}

/// The names that a list file chooses: one a line, or a JSON list.
pub fn read_list(path: &Path) -> Result<BTreeSet<String>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(&text).map_err(|error| CliError::file(path, error));
    }
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

impl Case {
    fn at(root: &Path, path: &Path) -> Self {
        let relative = path.strip_prefix(root).unwrap_or(path);
        let name = relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        let name = if name.is_empty() { path.to_string_lossy().into_owned() } else { name };
        Self { name, folder: path.to_path_buf() }
    }

    /// The model file.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model.onnx")
    }

    /// The tolerance of the case.
    pub fn tolerance(&self) -> Result<Tolerance, CliError> {
        let path = self.folder.join("data.json");
        if !path.exists() {
            return Ok(Tolerance::default());
        }
        let text = std::fs::read_to_string(&path).map_err(|error| CliError::file(&path, error))?;
        serde_json::from_str(&text).map_err(|error| CliError::file(&path, error))
    }

    /// The folders of its data sets in order.
    pub fn data_sets(&self) -> Result<Vec<PathBuf>, CliError> {
        let mut sets: Vec<(usize, PathBuf)> = std::fs::read_dir(&self.folder)
            .map_err(|error| CliError::file(&self.folder, error))?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let index = name.to_string_lossy().strip_prefix("test_data_set_")?.parse().ok()?;
                Some((index, entry.path()))
            })
            .collect();
        sets.sort();
        Ok(sets.into_iter().map(|(_, path)| path).collect())
    }
}

/// A file of a data set.
pub struct ValueFile {
    /// The value's name, often empty.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// `input_0.pb`, `input_1.pb`, ... of a data set: what stands for the values that a model sees.
pub fn read_values(set: &Path, kind: &str, seen: &[Seen<'_>]) -> Result<Vec<ValueFile>, CliError> {
    let mut files = Vec::new();
    loop {
        let path = set.join(format!("{kind}_{}.pb", files.len()));
        if !path.exists() {
            return Ok(files);
        }
        let form = seen.get(files.len()).and_then(|seen| seen.form);
        let (name, value) = tensors::read_pb(&path, form, MAX_TENSOR)?;
        files.push(ValueFile { name, value });
    }
}

/// `output_I.mask.pb`, where there is one.
pub fn read_mask(set: &Path, index: usize) -> Result<Option<Vec<bool>>, CliError> {
    let path = set.join(format!("output_{index}.mask.pb"));
    if !path.exists() {
        return Ok(None);
    }
    let (_, mask) = lathe_compiler::read_tensor(&path, MAX_TENSOR).map_err(crate::Error::from)?;
    Ok(Some(mask.bytes().iter().map(|byte| *byte != 0).collect()))
}
