//! `lathe classify MODEL`: how likely a text or picture is of each class.

use std::fmt::Write;

use lathe_generate::Source;
use serde_json::{Value, json};

use crate::Outputs;
use crate::cli::args::{ClassifyArgs, Common};
use crate::cli::encoder::{Encoder, values};
use crate::cli::error::CliError;
use crate::cli::report;

/// A class with its score: a probability, or the logit of a model with a single one.
struct Class {
    label: String,
    score: f64,
    logit: f32,
}

/// Runs the command.
pub fn run(common: &Common, args: &ClassifyArgs) -> Result<(), CliError> {
    let takes_text = args.image.is_empty() || !args.labels.is_empty();
    let mut encoder = Encoder::open(common, &args.model, takes_text)?;
    let mut results = Vec::with_capacity(args.text.len() + args.image.len());
    for text in &args.text {
        let (tokens, types) = match &args.pair {
            Some(pair) => encoder.tokenizer()?.encode_pair(text, pair)?,
            None => {
                let tokens = encoder.tokenizer()?.encode(text, true)?;
                let types = vec![0; tokens.len()];
                (tokens, types)
            }
        };
        let outputs = encoder.run(&tokens, Some(&types), &Vec::new())?;
        results.push((text.clone(), classes(&encoder.config, &logits(&outputs)?)));
    }
    for image in &args.image {
        let picture = encoder.picture(image)?;
        let classes = match args.labels.is_empty() {
            true => {
                let outputs = encoder.run(&[0], None, &picture)?;
                classes(&encoder.config, &logits(&outputs)?)
            }
            false => compared(&mut encoder, args, &picture)?,
        };
        results.push((image.display().to_string(), classes));
    }
    results.iter_mut().for_each(|(_, classes)| classes.truncate(args.top));
    print(args, &results)
}

fn print(args: &ClassifyArgs, results: &[(String, Vec<Class>)]) -> Result<(), CliError> {
    if args.json.json {
        let describe =
            |class: &Class| json!({"label": class.label, "score": class.score, "logit": class.logit});
        let what = if args.image.is_empty() { "text" } else { "image" };
        let result = |(name, classes): &(String, Vec<Class>)| json!({what: name, "classes": classes.iter().map(describe).collect::<Vec<_>>()});
        return report::print_json(&json!({"results": results.iter().map(result).collect::<Vec<Value>>()}));
    }
    let mut out = String::new();
    for (name, classes) in results {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{name:.60}");
        for class in classes {
            let _ = writeln!(out, "  {:.4}  {}", class.score, class.label);
        }
    }
    report::print(&out)
}

/// The logits of the classes.
fn logits(outputs: &Outputs) -> Result<Vec<f32>, CliError> {
    let logits = outputs.get("logits").or_else(|| outputs.tensors().first());
    let logits = logits.filter(|tensor| tensor.shape().len() == 2 && tensor.shape()[0] == 1);
    values(logits.ok_or_else(|| CliError::Input("the model gives no logits [batch, classes]".into()))?)
}

/// Labels in words, compared with a picture: softmax over them, or each for itself in models trained so.
fn compared(encoder: &mut Encoder, args: &ClassifyArgs, picture: &Source) -> Result<Vec<Class>, CliError> {
    let sigmoid = encoder.config["model_type"].as_str().is_some_and(|kind| kind.starts_with("siglip"));
    let mut all = Vec::with_capacity(args.labels.len());
    for label in &args.labels {
        let mut tokens = encoder.tokenizer()?.encode(&args.template.replace("{}", label), true)?;
        if sigmoid {
            // These models saw texts padded to their full length.
            let text = &encoder.config["text_config"];
            let length = text["max_position_embeddings"].as_u64().unwrap_or(64).min(4096) as usize;
            tokens.resize(length, text["pad_token_id"].as_u64().unwrap_or(1) as u32);
        }
        let outputs = encoder.run(&tokens, None, picture)?;
        let logit = outputs.get("logits_per_image").map(values).transpose()?;
        let logit = logit.as_deref().and_then(<[f32]>::first).copied();
        all.push(
            logit.ok_or_else(|| CliError::Input("--labels: the model gives no `logits_per_image`".into()))?,
        );
    }
    Ok(scored(&all, sigmoid, |index| args.labels.get(index).cloned().unwrap_or_default()))
}

/// Classes, likeliest first, each for itself where the model has one or says that there may be many.
fn classes(config: &Value, logits: &[f32]) -> Vec<Class> {
    let alone = logits.len() == 1 || config["problem_type"] == "multi_label_classification";
    let label = |index: usize| match config["id2label"][index.to_string()].as_str() {
        Some(label) => label.to_string(),
        None => format!("LABEL_{index}"),
    };
    scored(logits, alone, label)
}

/// Classes with a softmax over them, or each `alone`; likeliest first.
fn scored(logits: &[f32], alone: bool, label: impl Fn(usize) -> String) -> Vec<Class> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let score = |logit: f32| match alone {
        true => 1.0 / (1.0 + (-f64::from(logit)).exp()),
        false => f64::from(logit - max).exp() / total,
    };
    let classes = logits.iter().enumerate();
    let classes = classes.map(|(index, &logit)| Class { label: label(index), score: score(logit), logit });
    let mut classes: Vec<Class> = classes.collect();
    classes.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    classes
}
