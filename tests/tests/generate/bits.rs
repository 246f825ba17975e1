//! Logits do not depend on how tokens were handed to `decode`: whole, one by one, in chunks, beside other sequences, by any number
//! of workers. Each bit is compared, and with those of `main` over the whole prefix.

use lathe::generation::{Extend, GraphModel, LanguageModel, Past};
use lathe::{Model, Team};
use lathe_runtime::{DecodeStep, Decoder, DecoderOptions};

use crate::zoo::{self, Cases, models};

/// A sequence's tokens and the logits after each.
struct Sequence {
    tokens: Vec<u32>,
    logits: Vec<Vec<u32>>,
}

fn bits(values: &[f32], vocabulary: usize) -> Vec<Vec<u32>> {
    values.chunks(vocabulary.max(1)).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

pub fn decoder(model: &Model, workers: usize) -> Decoder {
    let team = Team::new(workers).expect("a team");
    let options = DecoderOptions { tokens: 256, sequences: 4, chunk: 256, source: 0 };
    Decoder::new(model, &team, &options).expect("room")
}

/// The logits of all tokens, taken in by chunks of these sizes, which repeat.
pub fn by_chunks(decoder: &mut Decoder, tokens: &[u32], sizes: &[usize]) -> Result<Vec<Vec<u32>>, String> {
    let sequence = decoder.begin();
    let (mut past, mut rows) = (0, Vec::new());
    for size in sizes.iter().cycle() {
        let end = (past + size).min(tokens.len());
        let step = DecodeStep { sequence, tokens: &tokens[past..end], logits: end - past };
        let logits = decoder.extend(&[step]).map_err(|error| error.to_string())?;
        rows.extend(bits(logits.values, logits.vocabulary));
        past = end;
        if past == tokens.len() {
            break;
        }
    }
    decoder.end(sequence);
    Ok(rows)
}

/// Sequences side by side, each taking in its own share of tokens in each call.
fn side_by_side(decoder: &mut Decoder, all: &[Sequence]) -> Result<Vec<Vec<Vec<u32>>>, String> {
    let ids: Vec<_> = all.iter().map(|_| decoder.begin()).collect();
    let (mut past, mut rows) = (vec![0; all.len()], vec![Vec::new(); all.len()]);
    for round in 0.. {
        let mut steps = Vec::new();
        for (index, sequence) in all.iter().enumerate() {
            let size = [1, 5, 13][(index + round) % 3];
            let end = (past[index] + size).min(sequence.tokens.len());
            let tokens = &sequence.tokens[past[index]..end];
            if !tokens.is_empty() {
                steps.push((index, DecodeStep { sequence: ids[index], tokens, logits: tokens.len() }));
            }
            past[index] = end;
        }
        if steps.is_empty() {
            break;
        }
        let calls: Vec<_> = steps.iter().map(|(_, step)| *step).collect();
        let logits = decoder.extend(&calls).map_err(|error| error.to_string())?;
        let mut given = bits(logits.values, logits.vocabulary).into_iter();
        for (index, step) in steps {
            rows[index].extend(given.by_ref().take(step.tokens.len()));
        }
    }
    ids.into_iter().for_each(|id| decoder.end(id));
    Ok(rows)
}

/// The logits of `main` over all tokens at once.
fn recomputed(model: &Model, tokens: &[u32]) -> Result<Vec<Vec<u32>>, String> {
    let team = Team::new(2).map_err(|error| error.to_string())?;
    let mut main =
        GraphModel::new(&model.clone().into(), Past::Recompute, &team).map_err(|error| error.to_string())?;
    let sequence = main.begin(Vec::new()).map_err(|error| error.to_string())?;
    let step = Extend { sequence, tokens, logits: tokens.len() };
    let logits = main.extend(&[step]).map_err(|error| error.to_string())?;
    Ok((0..tokens.len())
        .map(|row| logits.row(row).unwrap_or(&[]).iter().map(|v| v.to_bits()).collect())
        .collect())
}

fn same(given: &[Vec<u32>], expected: &[Vec<u32>], how: &str) -> Result<(), String> {
    match given.iter().zip(expected).position(|(a, b)| a != b) {
        Some(row) => Err(format!("{how}: row {row} differs")),
        None if given.len() != expected.len() => Err(format!("{how}: {} rows", given.len())),
        None => Ok(()),
    }
}

/// That the logits of the prompts do not depend on the calls, nor on the workers.
pub fn check(model: &Model, prompts: &[Vec<u32>]) -> Result<(), String> {
    let mut all = Vec::new();
    for tokens in prompts {
        let logits = by_chunks(&mut decoder(model, 1), tokens, &[tokens.len()])?;
        same(&logits, &recomputed(model, tokens)?, "recomputed")?;
        all.push(Sequence { tokens: tokens.clone(), logits });
    }
    for workers in [1, 2, 3] {
        let mut decoder = decoder(model, workers);
        let Some(Sequence { tokens, logits }) = all.first() else { continue };
        for sizes in [&[1][..], &[7, 1, 2], &[3, 20]] {
            let given = by_chunks(&mut decoder, tokens, sizes)?;
            same(&given, logits, &format!("{workers} workers, chunks of {sizes:?}"))?;
        }
        let beside = side_by_side(&mut decoder, &all)?;
        for (given, sequence) in beside.iter().zip(&all) {
            same(given, &sequence.logits, &format!("{workers} workers, side by side"))?;
        }
    }
    Ok(())
}

#[test]
fn logits_do_not_depend_on_calls() {
    let Some(folder) = zoo::folder() else {
        eprintln!("LEFT OUT: no zoo");
        return;
    };
    let (families, filtered) = zoo::families(&folder);
    let (mut tried, mut failures) = (0, Vec::new());
    for family in families {
        let name = family.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(cases) = Cases::read(&family) else { continue };
        for (files, encoder) in models(&family) {
            let Some(prompts) = cases.rows("gen.prompt").filter(|_| !encoder) else { continue };
            let graphs = crate::load(&files).expect("the file loads");
            if !graphs.decoder.can_decode() {
                continue;
            }
            // Prompt and continuation: as long as the references go. Regimes change on the way in some: short ones there.
            let ids = cases.rows("gen.ids").unwrap_or_default().concat();
            let whole: Vec<u32> = prompts.concat().into_iter().chain(ids).collect();
            let length = if name.contains("longrope") { 24 } else { whole.len() };
            let prompts =
                [whole[..length].to_vec(), whole[3..11].to_vec(), whole[5..length.min(20)].to_vec()];
            tried += 1;
            if let Err(reason) = check(&graphs.decoder, &prompts) {
                failures.push(format!("{}: {reason}", files.decoder.display()));
            }
        }
    }
    assert!(tried > 40 || filtered, "only {tried} models");
    assert!(failures.is_empty(), "{} of {tried}:\n{}", failures.len(), failures.join("\n"));
}
