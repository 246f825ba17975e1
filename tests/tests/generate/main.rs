//! Greedy generation against transformers' `generate`, for every language model of the zoo: alone, as a left-padded batch, with a
//! stop token; with the cache that the model got, and by running the whole prefix again for each token.

mod bits;
mod exports;
mod zoo;

use std::path::Path;

use lathe::generation::{
    Continuation, Finish, Generator, GraphModel, Graphs, LanguageModel, PagedModel, Past, Prompt, Sampling,
    Source,
};
use lathe::generative::GraphFiles;
use lathe::{LoadOptions, Team};
use lathe_runtime::DecoderOptions;
use zoo::{Cases, Expected, expectations, models, sources};

fn run<M: LanguageModel>(
    model: &mut M,
    prompts: &[Prompt<'_, M::Sequence>],
    expected: &Expected,
) -> Result<(), String> {
    let stop = expected.stop.into_iter().collect();
    let most = expected.ids.iter().map(Vec::len).max().unwrap_or(0);
    let max_tokens = if expected.stop.is_some() { 24 } else { most };
    let generator = Generator { sampling: Sampling::default(), stop, max_tokens, logprobs: None };
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

fn load(files: &GraphFiles) -> Result<Graphs, String> {
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
        let none = vec![Vec::new(); expected.prompts.len()];
        paged(&graphs, &team, &options, &none, &expected)?;
    }
    Ok(())
}

/// The same in pages: all sequences side by side.
fn paged(
    graphs: &Graphs,
    team: &Team,
    options: &DecoderOptions,
    sources: &[Source],
    expected: &Expected,
) -> Result<(), String> {
    let mut model = PagedModel::new(graphs, team, options).map_err(|error| error.to_string())?;
    let begun = sources.iter().map(|source| model.begin(source.clone()).map_err(|error| error.to_string()));
    let begun = begun.collect::<Result<Vec<_>, _>>()?;
    let prompts = begun.iter().zip(&expected.prompts);
    let prompts: Vec<_> = prompts.map(|(&sequence, tokens)| Prompt { sequence, tokens }).collect();
    run(&mut model, &prompts, expected).map_err(|error| format!("decode: {error}"))
}

/// An encoder-decoder, in one file or several.
fn encoder_decoder(files: &GraphFiles, cases: &Cases, decodes: &mut usize) -> Result<(), String> {
    let graphs = load(files)?;
    let team = Team::new(2).map_err(|error| error.to_string())?;
    let ids = cases.rows("gen.ids").ok_or("no gen.ids")?;
    let sources: Vec<Source> = sources(cases).into_iter().map(|source| vec![source]).collect();
    let starts: Vec<_> = ids.iter().map(|row| row[..1].to_vec()).collect();
    let continued = ids.iter().map(|row| row[1..].to_vec()).collect();
    let expected = Expected { what: "gen", prompts: starts, ids: continued, stop: None };
    for past in [Past::Recompute, Past::Thread] {
        let mut model = GraphModel::new(&graphs, past, &team).map_err(|error| error.to_string())?;
        let begin = |source: &Source| model.begin(source.clone()).map_err(|error| error.to_string());
        let begun = sources.iter().map(begin).collect::<Result<Vec<_>, _>>()?;
        let prompts = begun.iter().zip(&expected.prompts);
        let prompts: Vec<_> = prompts.map(|(&sequence, tokens)| Prompt { sequence, tokens }).collect();
        run(&mut model, &prompts, &expected).map_err(|error| format!("{past:?}: {error}"))?;
        if graphs.decoder_with_past.is_some() && past == Past::Thread && model.past() != past {
            return Err("the keys and values of the decoder are not used again".into());
        }
    }
    if !graphs.can_page() {
        return Err(format!("no pages: {:?}", graphs.decoder.undecodable()));
    }
    *decodes += 1;
    // Features are at least as many as the places that come of them.
    let places =
        |source: &Source| source.iter().filter_map(|(_, tensor)| tensor.shape().last().copied()).max();
    let source = sources.iter().filter_map(places).max().unwrap_or(0);
    let options = DecoderOptions { tokens: 32, sequences: sources.len(), chunk: 512, source };
    paged(&graphs, &team, &options, &sources, &expected)
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let Some(folder) = zoo::folder() else {
        eprintln!("LEFT OUT: no zoo");
        return;
    };
    let (families, filtered) = zoo::families(&folder);
    let (mut tried, mut decodes, mut failures) = (0, 0, Vec::new());
    for family in families {
        let name = family.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(cases) = Cases::read(&family) else { continue };
        for (files, encoder) in models(&family) {
            tried += 1;
            let result = match encoder {
                true => encoder_decoder(&files, &cases, &mut decodes),
                false => decoder(&name, &files.decoder, &cases, &mut decodes),
            };
            if let Err(reason) = result {
                failures.push(format!("{}: {reason}", files.decoder.display()));
            }
        }
    }
    eprintln!("{tried} models, {decodes} generations by decode");
    assert!(tried > 60 || filtered, "only {tried} models");
    assert!(failures.is_empty(), "{} of {tried}:\n{}", failures.len(), failures.join("\n"));
}
