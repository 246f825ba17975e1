//! `lathe transcribe MODEL FILE.wav`: what is said, by Whisper.

use lathe_generate::Generator;
use lathe_generate::audio::{MelSpectrogram, read_wav};
use serde_json::json;

use crate::cli::args::{Common, TranscribeArgs};
use crate::cli::error::CliError;
use crate::cli::generation::{Answer, Guesses, Open, PromptInputs, with_model};
use crate::cli::text::{self, Companions};
use crate::cli::{load, report};
use crate::generative::read_config;

/// Runs the command. Long sound is cut into pieces of the length that the model takes, each transcribed alone.
pub fn run(common: &Common, args: &TranscribeArgs) -> Result<(), CliError> {
    let companions = Companions::of(&args.model);
    let (tokenizer, config) = (companions.tokenizer()?, companions.generation());
    let file = text::folder(&args.model).join("preprocessor_config.json");
    let features = read_config(&file)
        .ok_or_else(|| CliError::file(&file, "cannot be read: it says how the model takes sound"))?;
    let maker = MelSpectrogram::from_config(&features)?;
    let sound = read_wav(&args.sound, maker.rate())?;
    let piece = |samples: &[f32]| -> Result<PromptInputs, CliError> {
        let features = maker.features(samples)?;
        Ok(PromptInputs { tokens: Vec::new(), extras: vec![("input_features".to_string(), features)] })
    };
    let pieces = sound.chunks(maker.samples()).map(piece).collect::<Result<Vec<_>, _>>()?;
    if pieces.is_empty() {
        return Err(CliError::file(&args.sound, "holds no sound"));
    }
    // Models of one language know no names of languages.
    let names = [format!("<|{}|>", args.language), "<|transcribe|>".into(), "<|notimestamps|>".into()];
    let said = read_config(&text::folder(&args.model).join("generation_config.json")).unwrap_or_default();
    let names = if said["is_multilingual"] == false { &names[2..] } else { &names[..] };
    let decoder_prompt = names.iter().filter_map(|name| tokenizer.token(name)).collect();
    let (options, team) = (load::load_options(common, None)?, load::team(common)?);
    let open =
        Open { decoder_prompt, ..Open::new(&args.model, &config, (&options, &team), args.count as usize) };
    let task = Answer {
        generator: Generator {
            sampling: config.sampling.clone(),
            stop: config.eos.clone(),
            max_tokens: open.count,
            logprobs: None,
        },
        stop: &[],
        tokenizer: Some(&tokenizer),
        ids: false,
        writer: None,
        guesses: Guesses::None,
    };
    let (generated, _) = with_model(&open, &pieces, task)?;
    let texts: Vec<&str> = generated.texts.iter().map(|text| text.trim()).collect();
    let seconds = sound.len() as f64 / f64::from(maker.rate());
    match args.json.json {
        true => report::print_json(&json!({"text": texts.join(" "), "pieces": texts, "seconds": seconds})),
        false => report::print(&format!("{}\n", texts.join(" "))),
    }
}
