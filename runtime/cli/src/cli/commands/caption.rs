//! `lathe caption MODEL PICTURE...`: what pictures show.

use lathe_generate::Generator;
use serde_json::{Value, json};

use crate::cli::args::{CaptionArgs, Common, PromptArgs};
use crate::cli::error::CliError;
use crate::cli::generation::{self, Answer, Guesses, Open, Prompts, with_loaded};
use crate::cli::text::Companions;
use crate::cli::{load, report};
use crate::generative::GraphFiles;

/// What a model is asked where nothing else is.
const QUESTION: &str = "Describe this picture.";

/// Runs the command: each picture alone.
pub fn run(common: &Common, args: &CaptionArgs) -> Result<(), CliError> {
    let companions = Companions::of(&args.model);
    let config = companions.generation();
    let prompts = prompts(args, &companions)?;
    let (options, team) = (load::load_options(common, None)?, load::team(common)?);
    let graphs = load::waiting("load", || GraphFiles::find(&args.model)?.load(&options))?;
    let count = args.count as usize;
    let open = Open::new(&args.model, &config, (&options, &team), count);
    let mut captions = Vec::with_capacity(prompts.len());
    for (image, prompts) in args.pictures().zip(&prompts) {
        let task = Answer {
            generator: Generator {
                sampling: args.sampling.sampling(&config, &config.eos, count),
                stop: config.eos.clone(),
                max_tokens: count,
                logprobs: None,
            },
            stop: &[],
            tokenizer: prompts.tokenizer.as_ref(),
            ids: !args.tokens.is_empty(),
            writer: None,
            guesses: Guesses::None,
        };
        let (generated, _) = with_loaded(&open, &graphs, &prompts.prompts, task)?;
        let (Some(result), text) = (generated.results.first(), generated.texts.first()) else { continue };
        captions.push(json!({
            "image": image.to_string_lossy(),
            "text": text.map(|text| text.trim()),
            "tokens": result.tokens,
            "finish": result.finish.name(),
        }));
    }
    print(args, &captions)
}

/// A prompt for each picture.
fn prompts(args: &CaptionArgs, companions: &Companions) -> Result<Vec<Prompts>, CliError> {
    let question = args.prompt.clone().unwrap_or_else(|| QUESTION.to_string());
    let with_text = args.tokens.is_empty();
    let prompt = |image: &std::path::PathBuf| {
        let prompt = PromptArgs {
            tokens: args.tokens.clone(),
            prompt: if with_text { vec![question.clone()] } else { Vec::new() },
            chat: with_text && companions.template(None).is_ok(),
            system: None,
            inputs: None,
            prefix: String::new(),
            image: vec![image.clone()],
            video: None,
            frames: 1,
        };
        generation::prompts(&args.model, companions, &prompt)
    };
    args.pictures().map(prompt).collect()
}

fn print(args: &CaptionArgs, captions: &[Value]) -> Result<(), CliError> {
    if args.json.json {
        return report::print_json(&json!({"captions": captions}));
    }
    let line = |caption: &Value| {
        let text = caption["text"].as_str().map(str::to_string);
        let image = caption["image"].as_str().unwrap_or_default();
        format!("{image}: {}\n", text.unwrap_or_else(|| caption["tokens"].to_string()))
    };
    report::print(&captions.iter().map(line).collect::<String>())
}
