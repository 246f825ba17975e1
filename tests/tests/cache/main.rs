//! `decode` against `main` and against PyTorch's `generate`, on the evaluator over pages, for every decoder of the zoo: whole,
//! token by token, in random chunks, in a mixed batch.

mod encoder;
mod paged;
mod zoo;

use std::path::Path;

use paged::{Paged, Part};

/// Largest difference as a share of the largest logit: both sum in another order.
const TOLERANCE: f32 = 2e-4;

struct Model {
    name: String,
    paged: Paged,
    tokens: Vec<i64>,
    expected: Vec<Vec<f32>>,
    prompt: usize,
}

impl Model {
    fn close(&self, rows: &[Vec<f32>], first: usize, how: &str) -> Result<(), String> {
        let largest = self.expected.iter().flatten().fold(0f32, |largest, value| largest.max(value.abs()));
        for (place, row) in rows.iter().enumerate() {
            let expected = self.expected.get(first + place).ok_or("more rows than tokens")?;
            let worst =
                row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, |worst, difference| {
                    if difference.is_nan() { f32::INFINITY } else { worst.max(difference) }
                });
            if worst > TOLERANCE * largest {
                return Err(format!("{}, {how}: row {} differs by {worst}", self.name, first + place));
            }
        }
        Ok(())
    }

    /// Every row of the sequence in calls of these sizes.
    fn chunks(&mut self, sizes: &[usize], sequence: usize, how: &str) -> Result<Vec<Vec<f32>>, String> {
        let (mut past, mut all) = (0, Vec::new());
        for &size in sizes {
            let tokens = self.tokens[past..past + size].to_vec();
            let rows = self.paged.call(&[Part { sequence, past, tokens: &tokens }]);
            let rows = rows.map_err(|error| format!("{}, {how}: {error}", self.name))?;
            self.close(&rows, past, how)?;
            all.extend(rows);
            past += size;
        }
        Ok(all)
    }

    /// Two sequences side by side: one steps while the other is still at its prompt.
    fn mixed(&mut self) -> Result<(), String> {
        let tokens = self.tokens.clone();
        let count = tokens.len();
        let (a, b) = (count / 2, count / 3);
        self.paged.call(&[Part { sequence: 3, past: 0, tokens: &tokens[..a] }])?;
        let mut past = b;
        for step in a..count {
            let more = (past + 2).min(count);
            let second = if step == a { &tokens[..b] } else { &tokens[past..more] };
            let second_past = if step == a { 0 } else { past };
            let parts = [
                Part { sequence: 3, past: step, tokens: &tokens[step..step + 1] },
                Part { sequence: 1, past: second_past, tokens: second },
            ];
            let rows = self.paged.call(&parts).map_err(|error| format!("{}, mixed: {error}", self.name))?;
            self.close(&rows[..1], step, "mixed, stepping")?;
            self.close(&rows[1..], second_past, "mixed, prompt")?;
            past = if step == a { b } else { more };
        }
        Ok(())
    }

    /// The greedy tokens are those of the reference.
    fn greedy(&self, ids: &[i64]) -> Result<(), String> {
        for (step, &id) in ids.iter().enumerate() {
            let row = &self.expected[self.prompt - 1 + step];
            let best =
                row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index as i64);
            if best != Some(id) {
                return Err(format!("{}: token {step} is {best:?}, PyTorch's is {id}", self.name));
            }
        }
        Ok(())
    }
}

/// Sizes that add up to `count`, from a fixed sequence of numbers.
fn split(count: usize, seed: u64) -> Vec<usize> {
    let (mut state, mut sizes, mut left) = (seed, Vec::new(), count);
    while left > 0 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = (1 + (state >> 33) as usize % 7).min(left);
        sizes.push(size);
        left -= size;
    }
    sizes
}

fn try_file(family: &Path, path: &Path) -> Option<Result<(), String>> {
    let generation = zoo::generation(family)?;
    let name = format!("{}", path.strip_prefix(family.parent()?).ok()?.display());
    let compiled = match zoo::compile(path) {
        Ok(compiled) => compiled,
        Err(error) => return Some(Err(format!("{name}: {error}"))),
    };
    let Some(paged) = Paged::new(&compiled.module) else {
        let reasons: Vec<_> =
            compiled.refused.iter().map(|(node, reason)| format!("`{node}`: {reason}")).collect();
        let reasons =
            if reasons.is_empty() { "no decoder was found".to_string() } else { reasons.join("; ") };
        return Some(Err(format!("{name} has no `decode`: {reasons}")));
    };
    // The last token's logits are not in the reference.
    let mut tokens = generation.prompt.clone();
    tokens.extend(&generation.ids[..generation.ids.len() - 1]);
    let mut model = Model { name, paged, tokens, expected: Vec::new(), prompt: generation.prompt.len() };
    Some(check(&compiled, &mut model, &generation.ids))
}

fn check(compiled: &zoo::Compiled, model: &mut Model, ids: &[i64]) -> Result<(), String> {
    let count = model.tokens.len();
    model.expected = match zoo::main_logits(&compiled.module, &model.tokens) {
        Some(rows) => rows?,
        None => {
            let tokens = model.tokens.clone();
            model.paged.call(&[Part { sequence: 4, past: 0, tokens: &tokens }])?
        }
    };
    let regimes = model.paged.inputs().iter().any(|name| name.starts_with("longer."));
    let whole = model.chunks(&[count], 2, "whole")?;
    if regimes {
        return Ok(());
    }
    model.greedy(ids)?;
    let steps = model.chunks(&vec![1; count], 0, "token by token")?;
    if steps != whole {
        return Err(format!("{}: token by token has other bits than whole", model.name));
    }
    for seed in 0..2 {
        let rows = model.chunks(&split(count, seed), 1, "in chunks")?;
        if rows != whole {
            return Err(format!("{}: chunks have other bits than whole", model.name));
        }
    }
    model.mixed()
}

#[test]
fn every_decoder_of_the_zoo_decodes() {
    let Some(zoo) = zoo::folder() else {
        println!("left out: no zoo here");
        return;
    };
    let filter = std::env::var("LATHE_ZOO_FILTER").unwrap_or_default();
    let mut families: Vec<_> =
        std::fs::read_dir(zoo).expect("the zoo").filter_map(|entry| Some(entry.ok()?.path())).collect();
    families.sort();
    let (mut failures, mut passed) = (Vec::new(), 0);
    for family in families.iter().filter(|family| family.is_dir()) {
        let files = [
            "onnx/dynamo/model.onnx",
            "onnx/ts/model.onnx",
            "with_past/model_with_past.dynamo.onnx",
            "with_past/model_with_past.ts.onnx",
        ];
        let files = files.map(|file| family.join(file));
        for path in files.iter().filter(|path| path.is_file() && path.display().to_string().contains(&filter))
        {
            match try_file(family, path) {
                None => {}
                Some(Ok(())) => passed += 1,
                Some(Err(failure)) => failures.push(failure),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{passed} files are right, {} are not:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(passed > 0 || !filter.is_empty(), "no decoder was tried");
}
