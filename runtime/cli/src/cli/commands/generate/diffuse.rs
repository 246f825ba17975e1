//! `lathe generate` by masked diffusion.

use std::time::Instant;

use lathe_generate::{Diffusion, GraphMasked};
use serde_json::{Value, json};

use crate::cli::args::GenerateArgs;
use crate::cli::encoder;
use crate::cli::error::CliError;
use crate::cli::generation::{self, Open, Prompts};
use crate::cli::{report, text};
use crate::generative::{GraphFiles, read_config};

/// One prompt's answer.
struct Written {
    tokens: Vec<u32>,
    /// All tokens after each step.
    steps: Vec<Vec<u32>>,
    passes: usize,
}

/// Writes an answer to each prompt.
pub fn run(open: &Open<'_>, args: &GenerateArgs, prompts: &Prompts) -> Result<(), CliError> {
    let config = read_config(&text::folder(open.model).join("config.json")).unwrap_or(Value::Null);
    let flags = &args.diffusion;
    let diffusion = Diffusion {
        steps: flags.steps.unwrap_or(open.count),
        block: flags.block_length,
        remasking: flags.remasking.into(),
        temperature: args.sampling.temperature.unwrap_or(0.0),
        seed: args.sampling.seed,
        mask: encoder::mask(flags.mask_token, &config, prompts.tokenizer.as_ref())?,
    };
    let model = GraphFiles::find(open.model)?.load(open.options)?.decoder;
    let mut masked = GraphMasked::new(&model, open.team)?;
    masked.options = open.run.clone();
    let begin = Instant::now();
    let mut answers = Vec::with_capacity(prompts.prompts.len());
    for (index, prompt) in prompts.prompts.iter().enumerate() {
        let mut diffusion = diffusion.clone();
        diffusion.seed = diffusion.seed.wrapping_add(index as u64);
        let mut written = Written { tokens: Vec::new(), steps: Vec::new(), passes: 0 };
        let mut failure = None;
        let all = diffusion.write(&mut masked, &prompt.tokens, open.count, &mut |tokens| {
            written.passes += 1;
            if !flags.show_steps {
                return true;
            }
            written.steps.push(tokens.to_vec());
            let shown = match args.json.json {
                true => Ok(()),
                false => show(prompts, &tokens[prompt.tokens.len()..], diffusion.mask, written.passes),
            };
            failure = shown.err();
            failure.is_none()
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        written.tokens = all[prompt.tokens.len()..].to_vec();
        answers.push(written);
    }
    print(args, prompts, &answers, begin.elapsed().as_secs_f64())
}

/// Prints an answer as far as it is written.
fn show(prompts: &Prompts, tokens: &[u32], mask: u32, step: usize) -> Result<(), CliError> {
    let mut line = format!("{step:>4}  ");
    for run in tokens.chunk_by(|a, b| (*a == mask) == (*b == mask)) {
        match (&prompts.tokenizer, run[0] == mask) {
            (_, true) => line.push_str(&"_".repeat(run.len())),
            (Some(tokenizer), false) => line.push_str(&tokenizer.decode(run, false)?.replace('\n', " ")),
            (None, false) => line.push_str(&format!(" {} ", super::ids(run))),
        }
    }
    line.push('\n');
    Ok(generation::write(&line)?)
}

fn print(args: &GenerateArgs, prompts: &Prompts, answers: &[Written], seconds: f64) -> Result<(), CliError> {
    let texts = match &prompts.tokenizer {
        Some(tokenizer) => {
            let texts = answers.iter().map(|answer| tokenizer.decode(&answer.tokens, false));
            texts.collect::<Result<Vec<_>, _>>()?
        }
        None => Vec::new(),
    };
    if !args.json.json {
        let as_text = !args.prompt.in_ids();
        let lines =
            answers.iter().enumerate().map(|(index, answer)| match texts.get(index).filter(|_| as_text) {
                Some(text) => format!("{text}\n"),
                None => format!("{}\n", super::ids(&answer.tokens)),
            });
        return report::print(&lines.collect::<String>());
    }
    let tokens: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
    let mut document = json!({
        "tokens": answers.first().map(|answer| &answer.tokens),
        "sequences": answers.iter().map(|answer| &answer.tokens).collect::<Vec<_>>(),
        "finish": "length",
        "finishes": vec!["length"; answers.len()],
        "prompt_tokens": prompts.prompts.iter().map(|prompt| prompt.tokens.len()).sum::<usize>(),
        "decode_tps": tokens as f64 / seconds.max(1e-9),
        "cache": "none",
        "forwards": answers.iter().map(|answer| answer.passes).collect::<Vec<_>>(),
    });
    if args.diffusion.show_steps {
        document["steps"] = answers.iter().map(|answer| json!(answer.steps)).collect();
    }
    if let Some(text) = texts.first() {
        document["text"] = json!(text);
        document["texts"] = json!(texts);
    }
    report::print_json(&document)
}
