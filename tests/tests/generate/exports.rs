//! Decoders as exporters write them, of sizes that the zoo does not have, against onnxruntime running the same files: every logit, however
//! the tokens come, and the greedy tokens.
//!
//! `fixtures/decoders.py` builds the files and runs them; it needs Python with `onnx` and `onnxruntime`. Without them the test says that it is
//! left out.

use std::path::Path;

use lathe::generation::{GraphModel, Graphs, Past, Prompt};
use lathe::generative::GraphFiles;
use lathe::{Model, Team, Tensor};
use lathe_runtime::DecoderOptions;
use lathe_tests::facts::written;
use serde_json::Value;

use crate::bits;
use crate::zoo::Expected;

/// Largest difference as a share of the largest logit.
const TOLERANCE: f64 = 2e-4;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn close(model: &Model, tokens: &[u32], facts: &Value) -> Result<(), String> {
    let wanted: Vec<Vec<f64>> = facts["logits"].as_array().into_iter().flatten().map(numbers).collect();
    let mut decoder = bits::decoder(model, 2);
    let given = bits::by_chunks(&mut decoder, &tokens[..wanted.len()], &[wanted.len()])?;
    let largest = wanted.iter().flatten().fold(0f64, |largest, logit| largest.max(logit.abs()));
    for (row, (given, wanted)) in given.iter().zip(&wanted).enumerate() {
        let given: Vec<f64> = given.iter().map(|&bits| f64::from(f32::from_bits(bits))).collect();
        let differs = given.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0f64, |worst, difference| {
            if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
        });
        if differs > TOLERANCE * largest {
            return Err(format!("row {row} differs by {differs} of {largest}"));
        }
        let best = given.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id as u32);
        let prompt = facts["prompt"].as_u64().unwrap_or(0) as usize;
        if row + 1 >= prompt && best != tokens.get(row + 1).copied() {
            return Err(format!("token {} is {best:?}, onnxruntime's is {:?}", row + 1, tokens.get(row + 1)));
        }
    }
    Ok(())
}

fn check(path: &Path, facts: &Value) -> Result<(), String> {
    let files = GraphFiles::find(path).map_err(|error| error.to_string())?;
    let graphs = crate::load(&files)?;
    let tokens: Vec<u32> = numbers(&facts["tokens"]).into_iter().map(|id| id as u32).collect();
    let source: Vec<i64> = numbers(&facts["source"]).into_iter().map(|id| id as i64).collect();
    if let Some(reason) = facts["refused"].as_str() {
        return match graphs.decoder.undecodable() {
            Some(given) if given.contains(reason) => {
                threaded(&graphs, source, &tokens, facts["prompt"].as_u64().unwrap_or(1) as usize)
            }
            given => Err(format!("refused with {given:?}, not `{reason}`")),
        };
    }
    if !graphs.can_page() {
        return Err(format!("no pages: {:?}", graphs.decoder.undecodable()));
    }
    let kind = if graphs.has_past() { "adopted" } else { "synthesised" };
    if facts["cache"] != kind {
        return Err(format!("the cache is {kind}, not {}", facts["cache"]));
    }
    if !source.is_empty() {
        return behind_encoder(&graphs, source, &tokens);
    }
    close(&graphs.decoder, &tokens, facts)?;
    let prompts = [tokens.clone(), tokens[2..9].to_vec(), tokens[5..].to_vec()];
    bits::check(&graphs.decoder, &prompts)
}

/// That keys and values that are handed from run to run give these tokens.
fn threaded(graphs: &Graphs, source: Vec<i64>, tokens: &[u32], prompt: usize) -> Result<(), String> {
    let team = Team::new(2).map_err(|error| error.to_string())?;
    let mut model = GraphModel::new(graphs, Past::Thread, &team).map_err(|error| error.to_string())?;
    if model.past() != Past::Thread {
        return Err("keys and values are computed again".to_string());
    }
    let shape = [1, source.len()];
    let given = match source.is_empty() {
        true => Vec::new(),
        false => {
            let source = Tensor::from_slice(&source, &shape).map_err(|error| error.to_string())?;
            vec![("input_ids".to_string(), source)]
        }
    };
    let sequence = model.begin(given).map_err(|error| error.to_string())?;
    let (start, rest) = tokens.split_at(prompt);
    let expected =
        Expected { what: "threaded", prompts: vec![start.to_vec()], ids: vec![rest.to_vec()], stop: None };
    crate::run(&mut model, &[Prompt { sequence, tokens: start }], &expected)
}

/// That the tokens behind an encoder's source are these.
fn behind_encoder(graphs: &Graphs, source: Vec<i64>, tokens: &[u32]) -> Result<(), String> {
    let team = Team::new(2).map_err(|error| error.to_string())?;
    let options = DecoderOptions { tokens: 32, sequences: 1, chunk: 64, source: source.len() };
    let shape = [1, source.len()];
    let source = Tensor::from_slice(&source, &shape).map_err(|error| error.to_string())?;
    let sources = [vec![("input_ids".to_string(), source)]];
    let (start, rest) = tokens.split_at(1);
    let expected =
        Expected { what: "merged", prompts: vec![start.to_vec()], ids: vec![rest.to_vec()], stop: None };
    crate::paged(graphs, &team, &options, &sources, &expected)
}

#[test]
fn decoders_of_exporters_are_cached() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(expected) = written("decoders.py", "onnx, numpy, onnxruntime", folder.path()) else {
        eprintln!("LEFT OUT: python3 with the packages onnx and onnxruntime is not there");
        return;
    };
    let cases = expected.as_object().expect("facts by name");
    let mut wrong = Vec::new();
    for (name, facts) in cases {
        let file = folder.path().join(format!("{name}.onnx"));
        let path = if file.is_file() { file } else { folder.path().join(name) };
        if let Err(reason) = check(&path, facts) {
            wrong.push(format!("{name}: {reason}"));
        }
    }
    assert!(cases.len() > 9, "{} cases", cases.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
