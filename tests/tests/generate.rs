//! Greedy generation against transformers' `generate`, for every language model of the zoo: alone, as a left-padded batch, with a
//! stop token; with the cache that the model got, and by running the whole prefix again for each token.

use std::path::{Path, PathBuf};

use lathe::generation::{Continuation, Finish, Generator, GraphModel, LanguageModel, Past, Prompt, Sampling};
use lathe::generative::GraphFiles;
use lathe::{LoadOptions, Team, Tensor};
use lathe_runtime::{Decoder, DecoderOptions};
use safetensors::SafeTensors;

/// Batches whose rows transformers computes together: the longest row switches the others' rotary factors too.
const BATCH_DECIDES: &[&str] = &["phi3-longrope", "rope-longrope"];

/// The zoo: `LATHE_ZOO`, or the shared data beside this repository.
fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The references of a family.
struct Cases {
    bytes: Vec<u8>,
}

impl Cases {
    fn read(family: &Path) -> Option<Self> {
        std::fs::read(family.join("cases.safetensors")).ok().map(|bytes| Self { bytes })
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    /// The rows of a matrix of integers.
    fn rows(&self, name: &str) -> Option<Vec<Vec<u32>>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).ok()?;
        let width = tensor.shape()[1];
        let values = tensor
            .data()
            .chunks_exact(8)
            .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("8")) as u32);
        let values: Vec<u32> = values.collect();
        Some(values.chunks(width).map(<[u32]>::to_vec).collect())
    }

    /// The rows of `name` without the positions where `mask` is zero.
    fn unpadded(&self, name: &str, mask: &str) -> Option<Vec<Vec<u32>>> {
        let (rows, masks) = (self.rows(name)?, self.rows(mask)?);
        let keep = |(row, mask): (Vec<u32>, Vec<u32>)| {
            row.into_iter().zip(mask).filter(|(_, counts)| *counts != 0).map(|(token, _)| token).collect()
        };
        Some(rows.into_iter().zip(masks).map(keep).collect())
    }
}

/// Prompts with the tokens that follow them.
struct Expected {
    what: &'static str,
    prompts: Vec<Vec<u32>>,
    ids: Vec<Vec<u32>>,
    stop: Option<u32>,
}

fn expectations(family: &str, cases: &Cases) -> Vec<Expected> {
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

fn run<M: LanguageModel>(
    model: &mut M,
    prompts: &[Prompt<'_, M::Sequence>],
    expected: &Expected,
) -> Result<(), String> {
    let stop = expected.stop.into_iter().collect();
    let generator = Generator { sampling: Sampling::default(), stop, max_tokens: 24 };
    let (results, _) = generator
        .generate(model, prompts, &mut |_| true)
        .map_err(|error| format!("{}: {error}", expected.what))?;
    let finish = if expected.stop.is_some() { Finish::Stop } else { Finish::Length };
    let wanted: Vec<_> =
        expected.ids.iter().map(|ids| Continuation { tokens: ids.clone(), finish }).collect();
    prompts.iter().for_each(|prompt| model.end(prompt.sequence));
    if results == wanted {
        Ok(())
    } else {
        Err(format!("{}: {results:?}, expected {wanted:?}", expected.what))
    }
}

fn load(files: &GraphFiles) -> Result<lathe::generation::Graphs, String> {
    let options = LoadOptions { cache: None, ..LoadOptions::default() };
    files.load(&options).map_err(|error| error.to_string())
}

/// A decoder's file, with both caches.
fn decoder(family: &str, file: &Path, cases: &Cases, decodes: &mut usize) -> Result<(), String> {
    let graphs = load(&GraphFiles::find(file).map_err(|error| error.to_string())?)?;
    let team = Team::new(2).map_err(|error| error.to_string())?;
    for expected in expectations(family, cases) {
        for past in [Past::Recompute, Past::Thread] {
            let mut model = GraphModel::new(&graphs, past, &team).map_err(|error| error.to_string())?;
            let prompt =
                |tokens: &'_ Vec<u32>| model.begin(Vec::new()).map(|sequence| (sequence, tokens.clone()));
            let begun: Vec<_> =
                expected.prompts.iter().map(prompt).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
            let prompts: Vec<_> =
                begun.iter().map(|(sequence, tokens)| Prompt { sequence: *sequence, tokens }).collect();
            run(&mut model, &prompts, &expected).map_err(|error| format!("{past:?}: {error}"))?;
            if model.past() == Past::Recompute {
                break;
            }
        }
        if !graphs.decoder.can_decode() {
            continue;
        }
        *decodes += 1;
        let tokens = expected.prompts.iter().map(Vec::len).max().unwrap_or(0) + 24;
        let options = DecoderOptions { tokens, sequences: expected.prompts.len(), chunk: 512, source: 0 };
        let mut model = Decoder::new(&graphs.decoder, &team, &options).map_err(|error| error.to_string())?;
        let begun: Vec<_> = expected.prompts.iter().map(|tokens| (model.begin(), tokens)).collect();
        let prompts: Vec<_> =
            begun.iter().map(|(sequence, tokens)| Prompt { sequence: *sequence, tokens }).collect();
        run(&mut model, &prompts, &expected).map_err(|error| format!("decode: {error}"))?;
    }
    Ok(())
}

/// An encoder-decoder, in one file or several.
fn encoder_decoder(files: &GraphFiles, cases: &Cases) -> Result<(), String> {
    let graphs = load(files)?;
    let team = Team::new(2).map_err(|error| error.to_string())?;
    let ids = cases.rows("gen.ids").ok_or("no gen.ids")?;
    let sources = sources(cases);
    for past in [Past::Recompute, Past::Thread] {
        let mut model = GraphModel::new(&graphs, past, &team).map_err(|error| error.to_string())?;
        let begin =
            |source: &(String, Tensor)| model.begin(vec![source.clone()]).map_err(|error| error.to_string());
        let begun = sources.iter().map(begin).collect::<Result<Vec<_>, _>>()?;
        let starts: Vec<_> = ids.iter().map(|row| row[..1].to_vec()).collect();
        let prompts = begun.iter().zip(&starts).map(|(&sequence, tokens)| Prompt { sequence, tokens });
        let prompts: Vec<_> = prompts.collect();
        let expected = Expected {
            what: "gen",
            prompts: starts.clone(),
            ids: ids.iter().map(|row| row[1..].to_vec()).collect(),
            stop: None,
        };
        run(&mut model, &prompts, &expected).map_err(|error| format!("{past:?}: {error}"))?;
        if graphs.decoder_with_past.is_some() && past == Past::Thread && model.past() != past {
            return Err("the keys and values of the decoder are not used again".into());
        }
    }
    Ok(())
}

/// What the encoder takes, one entry a sequence.
fn sources(cases: &Cases) -> Vec<(String, Tensor)> {
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
fn models(family: &Path) -> Vec<(GraphFiles, bool)> {
    let single = |decoder: PathBuf| GraphFiles { encoder: None, decoder, decoder_with_past: None };
    let mut found = Vec::new();
    let meta: serde_json::Value = std::fs::read(family.join("meta.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let encoder = meta["kind"] == "seq2seq" || family.ends_with("vanilla-transformer");
    if meta["kind"] != "decoder" && !encoder {
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

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let Some(zoo) = zoo() else {
        eprintln!("LEFT OUT: no zoo");
        return;
    };
    let filter = std::env::var("LATHE_ZOO_FILTER").unwrap_or_default();
    let mut families: Vec<_> =
        std::fs::read_dir(zoo).expect("the zoo").flatten().map(|entry| entry.path()).collect();
    families.sort();
    let (mut tried, mut decodes, mut failures) = (0, 0, Vec::new());
    for family in families {
        let name = family.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(cases) = Cases::read(&family).filter(|_| name.contains(&filter)) else { continue };
        for (files, encoder) in models(&family) {
            tried += 1;
            let result = match encoder {
                true => encoder_decoder(&files, &cases),
                false => decoder(&name, &files.decoder, &cases, &mut decodes),
            };
            if let Err(reason) = result {
                failures.push(format!("{}: {reason}", files.decoder.display()));
            }
        }
    }
    eprintln!("{tried} models, {decodes} generations by decode");
    assert!(tried > 60 || !filter.is_empty(), "only {tried} models");
    assert!(failures.is_empty(), "{} of {tried}:\n{}", failures.len(), failures.join("\n"));
}
