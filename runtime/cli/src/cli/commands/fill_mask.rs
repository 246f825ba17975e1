//! `lathe fill-mask MODEL -p "... [MASK] ..."`: what stands in the gaps.

use std::fmt::Write;

use lathe_generate::{Diffusion, DiffusionError, GraphError, MaskedModel, Remasking, probability};
use serde_json::{Value, json};

use crate::cli::args::{Common, FillMaskArgs};
use crate::cli::encoder::Encoder;
use crate::cli::error::CliError;
use crate::cli::report;

/// A guess for a gap.
struct Guess {
    token: u32,
    text: String,
    probability: f64,
}

/// Runs the command.
pub fn run(common: &Common, args: &FillMaskArgs) -> Result<(), CliError> {
    let encoder = Encoder::open(common, &args.model, true)?;
    let mask = encoder.mask(args.mask_token)?;
    let tokens = encoder.tokenizer()?.encode(&args.prompt, true)?;
    if !tokens.contains(&mask) {
        let name = encoder.tokenizer()?.pieces(&[mask]).remove(0).piece;
        return Err(CliError::Input(format!("-p: the text has no mask `{name}` (token {mask})")));
    }
    let mut model = encoder.masked()?;
    if args.spans {
        let fill = Diffusion {
            steps: 0,
            block: 0,
            remasking: Remasking::LowConfidence,
            temperature: 0.0,
            seed: 0,
            mask,
        };
        let filled = fill.infill(&mut model, &tokens, &mut |_| true)?;
        let text = encoder.tokenizer()?.decode(&filled, false)?;
        let new = tokens.iter().zip(&filled).filter(|(before, _)| **before == mask).map(|(_, after)| *after);
        let new: Vec<u32> = new.collect();
        return match args.json.json {
            true => report::print_json(&json!({"text": text, "tokens": filled, "filled": new})),
            false => report::print(&format!("{text}\n")),
        };
    }
    let logits = model.predict(&tokens)?;
    let masks = tokens.iter().enumerate().filter(|(_, token)| **token == mask);
    let guesses = masks.map(|(place, _)| {
        let row = logits.row(place).unwrap_or_default();
        let mut best: Vec<usize> = (0..row.len()).filter(|token| !row[*token].is_nan()).collect();
        best.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let guess = |token: usize| -> Result<Guess, CliError> {
            let text = encoder.tokenizer()?.decode(&[token as u32], true)?;
            Ok(Guess { token: token as u32, text, probability: probability(row, token) })
        };
        best.into_iter().take(args.top).map(guess).collect::<Result<Vec<_>, _>>()
    });
    print(args, &guesses.collect::<Result<Vec<_>, _>>()?)
}

fn print(args: &FillMaskArgs, masks: &[Vec<Guess>]) -> Result<(), CliError> {
    if args.json.json {
        let describe = |guess: &Guess| json!({"token": guess.token, "text": guess.text, "probability": guess.probability});
        let masks: Vec<Value> = masks.iter().map(|guesses| guesses.iter().map(describe).collect()).collect();
        return report::print_json(&json!({"masks": masks}));
    }
    let mut out = String::new();
    for (index, guesses) in masks.iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "mask {}", index + 1);
        for guess in guesses {
            let _ = writeln!(out, "  {:.4}  {}", guess.probability, guess.text);
        }
    }
    report::print(&out)
}

impl From<DiffusionError<GraphError>> for CliError {
    fn from(error: DiffusionError<GraphError>) -> Self {
        match error {
            DiffusionError::Model(error) => error.into(),
            DiffusionError::Plan(reason) => CliError::Usage(reason),
            error => CliError::Lathe(crate::Error::Generate(error.to_string())),
        }
    }
}
