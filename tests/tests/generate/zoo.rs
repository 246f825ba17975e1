//! Models and references of the zoo.

use std::path::{Path, PathBuf};

use lathe::Tensor;
use lathe::generative::GraphFiles;
use safetensors::SafeTensors;

/// Batches whose rows transformers computes together: the longest row switches the rotary factors of the others. Here a row does not
/// depend on its batch.
const BATCH_DECIDES: &[&str] = &["phi3-longrope"];

/// Files that are frozen to the data that they were traced with.
const FROZEN: &[&str] = &["switch-transformers"];

/// The zoo: `LATHE_ZOO`, or the shared data beside this repository.
pub fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The folders of the families whose names contain `LATHE_ZOO_FILTER`, in order, and whether that leaves some out.
pub fn families(folder: &Path) -> (Vec<PathBuf>, bool) {
    let filter = std::env::var("LATHE_ZOO_FILTER").unwrap_or_default();
    let entries = std::fs::read_dir(folder).expect("the zoo").flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().contains(&filter));
    let mut families: Vec<_> = named.map(|entry| entry.path()).collect();
    families.sort();
    (families, !filter.is_empty())
}

/// The references of a family.
pub struct Cases {
    bytes: Vec<u8>,
}

impl Cases {
    pub fn read(family: &Path) -> Option<Self> {
        std::fs::read(family.join("cases.safetensors")).ok().map(|bytes| Self { bytes })
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    /// The rows of a tensor of integers: along its last axis.
    pub fn rows(&self, name: &str) -> Option<Vec<Vec<u32>>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).ok()?;
        let width = *tensor.shape().last()?;
        let values = tensor
            .data()
            .chunks_exact(8)
            .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("8")) as u32);
        let values: Vec<u32> = values.collect();
        Some(values.chunks(width).map(<[u32]>::to_vec).collect())
    }

    /// The rows of `name` without the positions where `mask` is zero.
    pub fn unpadded(&self, name: &str, mask: &str) -> Option<Vec<Vec<u32>>> {
        let (rows, masks) = (self.rows(name)?, self.rows(mask)?);
        let keep = |(row, mask): (Vec<u32>, Vec<u32>)| {
            row.into_iter().zip(mask).filter(|(_, counts)| *counts != 0).map(|(token, _)| token).collect()
        };
        Some(rows.into_iter().zip(masks).map(keep).collect())
    }
}

/// Prompts with the tokens that follow them.
pub struct Expected {
    pub what: &'static str,
    pub prompts: Vec<Vec<u32>>,
    pub ids: Vec<Vec<u32>>,
    pub stop: Option<u32>,
}

pub fn expectations(family: &str, cases: &Cases) -> Vec<Expected> {
    let mut all = Vec::new();
    if let (Some(prompts), Some(ids)) = (cases.rows("gen.prompt"), cases.rows("gen.ids")) {
        all.push(Expected { what: "gen", prompts, ids, stop: None });
    }
    if let (Some(prompts), Some(ids)) = (cases.rows("gen_eos.prompt"), cases.rows("gen_eos.ids")) {
        let stop = ids[0].last().copied();
        all.push(Expected { what: "gen_eos", prompts, ids, stop });
    }
    let batch = cases.unpadded("gen_batch.prompt", "gen_batch.attention_mask");
    if let (Some(prompts), Some(ids)) = (batch, cases.rows("gen_batch.ids"))
        && !BATCH_DECIDES.contains(&family)
    {
        all.push(Expected { what: "gen_batch", prompts, ids, stop: None });
    }
    all
}

/// What the encoder takes, one entry a sequence.
pub fn sources(cases: &Cases) -> Vec<(String, Tensor)> {
    if let Some(rows) = cases.unpadded("gen.in.input_ids", "gen.in.attention_mask") {
        let tensor = |row: Vec<u32>| {
            let ids: Vec<i64> = row.into_iter().map(i64::from).collect();
            ("input_ids".to_string(), Tensor::from_slice(&ids, &[1, ids.len()]).expect("a row"))
        };
        return rows.into_iter().map(tensor).collect();
    }
    let tensors = cases.tensors();
    let features = tensors.tensor("gen.in.input_features").expect("tokens or features");
    let shape = features.shape();
    let floats =
        features.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4")));
    let floats: Vec<f32> = floats.collect();
    let one = [1, shape[1], shape[2]];
    let tensor =
        |part: &[f32]| ("input_features".to_string(), Tensor::from_slice(part, &one).expect("a part"));
    floats.chunks(shape[1] * shape[2]).map(tensor).collect()
}

fn onnx_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == "onnx")).collect();
    files.sort();
    files
}

/// Every language model of a family: files, and whether there is an encoder.
pub fn models(family: &Path) -> Vec<(GraphFiles, bool)> {
    let single = |decoder: PathBuf| GraphFiles { encoder: None, decoder, decoder_with_past: None };
    let mut found = Vec::new();
    let meta: serde_json::Value = std::fs::read(family.join("meta.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let encoder = meta["kind"] == "seq2seq" || family.ends_with("vanilla-transformer");
    let frozen = FROZEN.iter().any(|name| family.ends_with(name));
    if frozen || meta["kind"] != "decoder" && !encoder {
        return found;
    }
    for export in ["dynamo", "ts"] {
        let file = family.join("onnx").join(export).join("model.onnx");
        if file.is_file() {
            found.push((single(file), encoder));
        }
        let named = |name: &str| family.join("with_past").join(format!("{name}.{export}.onnx"));
        if named("encoder_model").is_file() {
            let decoder_with_past = Some(named("decoder_with_past_model"));
            let encoder = Some(named("encoder_model"));
            found.push((GraphFiles { encoder, decoder: named("decoder_model"), decoder_with_past }, true));
        }
    }
    let with_past = onnx_files(&family.join("with_past"));
    let with_past = with_past.into_iter().filter(|file| file.to_string_lossy().contains("model_with_past"));
    found.extend(with_past.filter(|_| !encoder).map(|file| (single(file), false)));
    found
}
