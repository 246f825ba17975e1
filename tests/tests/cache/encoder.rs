//! Models with an encoder: `encode` once a request, then `decode` over both kinds of pages.

use crate::TOLERANCE;
use crate::paged::{Paged, Part};
use crate::zoo::{self, Request};

/// Families with an encoder and a decoder in one file.
const FAMILIES: [&str; 4] = ["bart", "marian", "t5", "whisper"];

fn best(row: &[f32]) -> Option<i64> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index as i64)
}

fn close(a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<(), String> {
    let largest = b.iter().flatten().fold(0f32, |largest, value| largest.max(value.abs()));
    let worst = a.iter().flatten().zip(b.iter().flatten()).fold(0f32, |worst, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { worst.max(difference) }
    });
    if a.len() == b.len() && worst <= TOLERANCE * largest {
        Ok(())
    } else {
        Err(format!("differs by {worst}"))
    }
}

fn check(paged: &mut Paged, compiled: &zoo::Compiled, requests: &[Request]) -> Result<(), String> {
    let inputs: Vec<Vec<i64>> =
        requests.iter().map(|request| request.ids[..request.ids.len() - 1].to_vec()).collect();
    let mut wholes = Vec::new();
    for (sequence, (request, tokens)) in requests.iter().zip(&inputs).enumerate() {
        let expected = zoo::request_logits(&compiled.module, request, tokens)?;
        paged.encode(sequence, request.length, &request.source)?;
        let whole = paged.call(&[Part { sequence, past: 0, tokens }])?;
        close(&whole, &expected).map_err(|error| format!("request {sequence} {error}"))?;
        let greedy: Vec<_> = whole.iter().map(|row| best(row)).collect();
        let reference: Vec<_> = request.ids[1..].iter().copied().map(Some).collect();
        if greedy != reference {
            return Err(format!("request {sequence}: tokens {greedy:?}, PyTorch has {reference:?}"));
        }
        wholes.push(whole);
    }
    // All requests side by side, token by token.
    for place in 0..inputs[0].len() {
        let parts: Vec<_> = inputs
            .iter()
            .enumerate()
            .map(|(sequence, tokens)| Part { sequence, past: place, tokens: &tokens[place..place + 1] })
            .collect();
        let rows = paged.call(&parts)?;
        if rows.iter().zip(&wholes).any(|(row, whole)| *row != whole[place]) {
            return Err(format!("step {place} of the batch has other bits than the whole"));
        }
    }
    Ok(())
}

#[test]
fn encoders_run_once() {
    let Some(zoo) = zoo::folder() else {
        println!("left out: no zoo here");
        return;
    };
    let mut failures = Vec::new();
    for family in FAMILIES {
        let folder = zoo.join(family);
        let Some(requests) = zoo::requests(&folder) else {
            failures.push(format!("{family}: no references"));
            continue;
        };
        let files = ["dynamo", "ts"].map(|exporter| folder.join("onnx").join(exporter).join("model.onnx"));
        for path in files.iter().filter(|path| path.is_file()) {
            let result = zoo::compile(path).and_then(|compiled| match Paged::new(&compiled.module) {
                Some(mut paged) => check(&mut paged, &compiled, &requests),
                None => Err(format!("no `decode`: {:?}", compiled.refused)),
            });
            failures.extend(result.err().map(|error| format!("{}: {error}", path.display())));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
