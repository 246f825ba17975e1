//! Ways of decoding against transformers and LLaDA, over the models of the zoo: beam search, guessed tokens, masked diffusion.

#[allow(dead_code)]
#[path = "../generate/zoo.rs"]
mod zoo;

use std::path::Path;

use lathe::generation::{
    BeamSearch, Diffusion, EarlyStopping, Generator, GraphMasked, GraphModel, Graphs, ModelDraft, PagedModel,
    Past, Prompt, PromptLookup, Remasking, Sampling, Source,
};
use lathe::generative::GraphFiles;
use lathe::{LoadOptions, Team, Tensor};
use lathe_runtime::{Decoder, DecoderOptions};
use zoo::{Cases, models, sources};

fn load(files: &GraphFiles) -> Graphs {
    let options = LoadOptions { cache: None, ..LoadOptions::default() };
    files.load(&options).expect("a model of the zoo")
}

/// The zoo, or a word that it is not there.
fn folder() -> Option<std::path::PathBuf> {
    let folder = zoo::folder();
    if folder.is_none() {
        eprintln!("LEFT OUT: no zoo");
    }
    folder
}

fn meta(family: &Path) -> serde_json::Value {
    let bytes = std::fs::read(family.join("meta.json")).expect("meta.json");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// A case of beam search: how, and the tokens of each prompt after the start token.
fn beam_case(family: &Path, cases: &Cases, name: &str) -> Option<(BeamSearch, u32, Vec<Vec<u32>>)> {
    let rows = cases.rows(&format!("{name}.ids"))?;
    let settings = &meta(family)["generation"][name];
    let stop: Vec<u32> = settings["eos_token_id"].as_u64().map(|id| id as u32).into_iter().collect();
    let search = BeamSearch {
        beams: settings["num_beams"].as_u64()? as usize,
        length_penalty: settings["length_penalty"].as_f64()? as f32,
        early_stopping: match settings["early_stopping"].as_bool() {
            Some(true) => EarlyStopping::Always,
            Some(false) => EarlyStopping::Heuristic,
            None => EarlyStopping::Never,
        },
        stop: stop.clone(),
        max_tokens: settings["max_new_tokens"].as_u64()? as usize,
        sampling: Sampling::default(),
    };
    // After the end stands padding.
    let cut = |row: &Vec<u32>| {
        let new = &row[1..];
        let end = new.iter().position(|token| stop.contains(token)).map_or(new.len(), |place| place + 1);
        new[..end].to_vec()
    };
    Some((search, rows[0][0], rows.iter().map(cut).collect()))
}

/// What an encoder takes: tokens with a mask of ones, or features.
fn inputs((name, tensor): &(String, Tensor)) -> Source {
    let mut all = vec![(name.clone(), tensor.clone())];
    if name == "input_ids" {
        let ones = vec![1i64; tensor.shape()[1]];
        all.push(("attention_mask".to_string(), Tensor::from_slice(&ones, tensor.shape()).expect("a mask")));
    }
    all
}

#[test]
fn beams_are_those_of_transformers() {
    let Some(folder) = folder() else { return };
    let (families, filtered) = zoo::families(&folder);
    let team = Team::new(2).expect("threads");
    let mut tried = 0;
    for family in families {
        let Some(cases) = Cases::read(&family) else { continue };
        for name in ["gen_beam4", "gen_beam4_eos"] {
            let Some((search, start, expected)) = beam_case(&family, &cases, name) else { continue };
            for (files, _) in models(&family) {
                tried += 1;
                let what = format!("{} {name} {files:?}", family.display());
                let graphs = load(&files);
                let mut model = GraphModel::new(&graphs, Past::Thread, &team).expect("a language model");
                let begin = |source: &(String, Tensor)| model.begin(inputs(source)).expect("a sequence");
                let begun: Vec<_> = sources(&cases).iter().map(begin).collect();
                let tokens = [start];
                let prompts: Vec<_> =
                    begun.iter().map(|&sequence| Prompt { sequence, tokens: &tokens }).collect();
                let (found, _) = search.generate(&mut model, &prompts).expect("beams");
                let tokens: Vec<_> = found.iter().map(|beams| beams[0].tokens.clone()).collect();
                assert_eq!(tokens, expected, "{what}");
                if graphs.can_page() {
                    assert_eq!(paged(&graphs, &team, &search, &cases, start), expected, "{what}, in pages");
                }
            }
        }
    }
    assert!(filtered || tried >= 10, "{tried} models");
}

/// The same where keys and values stay in pages that beams share.
fn paged(graphs: &Graphs, team: &Team, search: &BeamSearch, cases: &Cases, start: u32) -> Vec<Vec<u32>> {
    let sources = sources(cases);
    let places = |(_, tensor): &(String, Tensor)| tensor.shape().iter().copied().max().unwrap_or(0);
    let longest = sources.iter().map(places).max().unwrap_or(0);
    let options = DecoderOptions {
        tokens: 1 + search.max_tokens,
        source: longest,
        sequences: sources.len() * search.beams,
        chunk: 8,
    };
    let mut decoder = PagedModel::new(graphs, team, &options).expect("a decoder");
    let begin = |source: &(String, Tensor)| decoder.begin(inputs(source)).expect("a sequence");
    let begun: Vec<_> = sources.iter().map(begin).collect();
    let tokens = [start];
    let prompts: Vec<_> = begun.iter().map(|&sequence| Prompt { sequence, tokens: &tokens }).collect();
    let (found, _) = search.generate(&mut decoder, &prompts).expect("beams");
    found.into_iter().map(|mut beams| beams.remove(0).tokens).collect()
}

/// Greedy or sampled tokens, with guesses by `draft`.
fn guessed(graphs: &Graphs, team: &Team, prompt: &[u32], temperature: f32, draft: Option<bool>) -> Vec<u32> {
    let count = 40;
    let options = DecoderOptions { tokens: prompt.len() + count + 8, source: 0, sequences: 1, chunk: 64 };
    let decoder = || Decoder::new(&graphs.decoder, team, &options).expect("a decoder");
    let (mut model, mut guesser) = (decoder(), decoder());
    let sampling = Sampling { temperature, seed: 11, ..Sampling::default() };
    let generator = Generator { sampling, max_tokens: count, ..Generator::default() };
    let prompts = [Prompt { sequence: model.begin(), tokens: prompt }];
    let mut stream = generator.stream(&mut model, &prompts);
    match draft {
        Some(true) => {
            let sequences = vec![guesser.begin()];
            stream.speculate(ModelDraft::new(guesser, sequences), 3);
        }
        Some(false) => stream.speculate(PromptLookup { longest: 2 }, 5),
        None => {}
    }
    stream.map(|token| token.expect("a token").id).collect()
}

#[test]
fn guesses_change_no_token_of_any_model() {
    let Some(folder) = folder() else { return };
    let (families, filtered) = zoo::families(&folder);
    let team = Team::new(2).expect("threads");
    let mut tried = 0;
    for family in families {
        let Some(prompts) = Cases::read(&family).and_then(|cases| cases.rows("gen.prompt")) else { continue };
        let Some((files, _)) = models(&family).into_iter().find(|(_, encoder)| !encoder) else { continue };
        let graphs = load(&files);
        if !graphs.decoder.can_decode() {
            continue;
        }
        tried += 1;
        for temperature in [0.0, 0.9] {
            let plain = guessed(&graphs, &team, &prompts[0], temperature, None);
            for draft in [false, true] {
                let tokens = guessed(&graphs, &team, &prompts[0], temperature, Some(draft));
                assert_eq!(tokens, plain, "{} {temperature} {draft}", family.display());
            }
        }
    }
    assert!(filtered || tried >= 15, "{tried} models");
}

#[test]
fn masked_diffusion_writes_what_llada_writes_step_by_step() {
    let Some(folder) = folder() else { return };
    let family = folder.join("llada");
    let Some(cases) = Cases::read(&family) else { return };
    let team = Team::new(2).expect("threads");
    for export in ["dynamo", "ts"] {
        let file = family.join("onnx").join(export).join("model.onnx");
        let graphs = load(&GraphFiles::find(&file).expect("a file"));
        let mut model = GraphMasked::new(&graphs.decoder, &team).expect("a masked model");
        for name in ["diff", "diff1"] {
            let settings = &meta(&family)["generation"][name];
            let number = |key: &str| settings[key].as_u64().expect("a number") as usize;
            let diffusion = Diffusion {
                steps: number("steps"),
                block: number("block_length"),
                remasking: Remasking::LowConfidence,
                temperature: 0.0,
                seed: 0,
                mask: number("mask_id") as u32,
            };
            let prompts = cases.rows(&format!("{name}.prompt")).expect("prompts");
            let steps = cases.rows(&format!("{name}.steps")).expect("steps");
            for (prompt, expected) in prompts.iter().zip(steps.chunks(diffusion.steps)) {
                let mut found = Vec::new();
                let seen = &mut |tokens: &[u32]| {
                    found.push(tokens.to_vec());
                    true
                };
                diffusion.write(&mut model, prompt, number("gen_length"), seen).expect("an answer");
                assert_eq!(found, expected, "{export} {name}");
            }
        }
    }
}
