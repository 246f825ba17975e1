//! `lathe embed MODEL`: a vector for each text and picture.

use std::fmt::Write;
use std::path::Path;

use lathe_tensor::Tensor;
use serde_json::json;

use crate::Outputs;
use crate::cli::args::{Common, EmbedArgs, Pooling};
use crate::cli::encoder::{Encoder, values};
use crate::cli::error::CliError;
use crate::cli::{report, text};
use crate::generative::read_config;

/// Outputs that are the vector of a text already, in the order of preference.
const TEXTS: [&str; 3] = ["sentence_embedding", "text_embeds", "embeddings"];
/// The same for pictures.
const PICTURES: [&str; 3] = ["image_embeds", "pooler_output", "embeddings"];
/// Elements of each vector that are shown.
const PREVIEW: usize = 8;

/// Runs the command.
pub fn run(common: &Common, args: &EmbedArgs) -> Result<(), CliError> {
    let pooling = args.pooling.unwrap_or_else(|| configured(&args.model));
    let mut encoder = Encoder::open(common, &args.model, !args.text.is_empty())?;
    let mut vectors = Vec::with_capacity(args.text.len() + args.image.len());
    for text in &args.text {
        let tokens = encoder.tokenizer()?.encode(text, true)?;
        if tokens.is_empty() {
            return Err(CliError::Input(format!("--text `{text:.40}` has no token")));
        }
        // A model of texts and pictures takes both; a text's vector does not depend on the picture.
        let blank = if encoder.takes("pixel_values") { encoder.blank()? } else { Vec::new() };
        vectors.push(pool(&encoder.run(&tokens, None, &blank)?, pooling, &TEXTS)?);
    }
    for image in &args.image {
        let picture = encoder.picture(image)?;
        vectors.push(pool(&encoder.run(&[0], None, &picture)?, pooling, &PICTURES)?);
    }
    if !args.raw {
        vectors.iter_mut().for_each(|vector| normalize(vector));
    }
    print(args, &vectors)
}

fn print(args: &EmbedArgs, vectors: &[Vec<f32>]) -> Result<(), CliError> {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
    let length = |a: &[f32]| dot(a, a).sqrt().max(f64::MIN_POSITIVE);
    let cosine = |a: &Vec<f32>, b: &Vec<f32>| dot(a, b) / (length(a) * length(b));
    let cosines: Vec<Vec<f64>> =
        vectors.iter().map(|a| vectors.iter().map(|b| cosine(a, b)).collect()).collect();
    if args.json.json {
        return report::print_json(&json!({"embeddings": vectors, "cosines": cosines}));
    }
    let mut out = String::new();
    let images = args.image.iter().map(|image| image.display().to_string());
    let names = args.text.iter().cloned().chain(images);
    for (index, (text, vector)) in names.zip(vectors).enumerate() {
        let shown: Vec<String> = vector.iter().take(PREVIEW).map(|value| format!("{value:.4}")).collect();
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{text:.60}: {} elements [{}, ...]", vector.len(), shown.join(", "));
        if index > 0 {
            let _ = writeln!(out, "  cosine with the first: {:.4}", cosines[0][index]);
        }
    }
    report::print(&out)
}

/// What `1_Pooling/config.json` of sentence-transformers says.
fn configured(model: &Path) -> Pooling {
    let config = read_config(&text::folder(model).join("1_Pooling/config.json")).unwrap_or_default();
    let is = |name: &str| config[name].as_bool() == Some(true);
    if is("pooling_mode_cls_token") {
        Pooling::Cls
    } else if is("pooling_mode_lasttoken") {
        Pooling::Last
    } else if is("pooling_mode_max_tokens") {
        Pooling::Max
    } else {
        Pooling::Mean
    }
}

/// The vector of a text: an output that is one, or the tokens' hidden states pooled.
fn pool(outputs: &Outputs, pooling: Pooling, vectors: &[&str]) -> Result<Vec<f32>, CliError> {
    let vector = vectors.iter().find_map(|name| outputs.get(name).filter(|tensor| tensor.shape().len() == 2));
    if let Some(vector) = vector {
        return values(vector);
    }
    let hidden = ["last_hidden_state", "token_embeddings"].iter().find_map(|name| outputs.get(name));
    let hidden = hidden.or_else(|| outputs.tensors().iter().find(|tensor| tensor.shape().len() == 3));
    let hidden = hidden.ok_or_else(|| {
        CliError::Input(
            "the model gives neither an embedding [batch, size] nor hidden states [batch, seq, size]".into(),
        )
    })?;
    pool_states(hidden, pooling)
}

fn pool_states(hidden: &Tensor, pooling: Pooling) -> Result<Vec<f32>, CliError> {
    let &[1, rows, size] = hidden.shape() else {
        return Err(CliError::Input(format!(
            "hidden states of shape {:?}, not [1, seq, size]",
            hidden.shape()
        )));
    };
    let values = values(hidden)?;
    if rows == 0 || size == 0 || values.len() != rows * size {
        return Err(CliError::Input("the hidden states are empty".into()));
    }
    let row = |index: usize| &values[index * size..(index + 1) * size];
    Ok(match pooling {
        Pooling::Cls => row(0).to_vec(),
        Pooling::Last => row(rows - 1).to_vec(),
        Pooling::Mean => (0..size)
            .map(|place| {
                ((0..rows).map(|index| f64::from(row(index)[place])).sum::<f64>() / rows as f64) as f32
            })
            .collect(),
        Pooling::Max => (0..size)
            .map(|place| (0..rows).map(|index| row(index)[place]).fold(f32::NEG_INFINITY, f32::max))
            .collect(),
    })
}

fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
}
