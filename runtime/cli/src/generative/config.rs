//! What a model's configuration says about generation, as transformers understands it.

use std::path::Path;

use lathe_compiler::gguf::{GgufFile, GgufTokenizer};
use lathe_generate::{EarlyStopping, Rules, Sampling};
use lathe_import::ImportError;
use serde_json::Value;

/// Largest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// Tokens that transformers draws from where a configuration samples and does not say from how many.
const TOP_K: usize = 50;
/// Tokens and runs of tokens that a configuration may list.
const MAX_LISTED: usize = 1 << 16;

/// What a model's configuration says about generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// The first token of a decoder that follows an encoder.
    pub decoder_start: Option<u32>,
    /// Tokens that such a decoder takes in after its first one.
    pub decoder_prompt: Vec<u32>,
    /// How tokens are chosen: greedily unless `do_sample` says otherwise.
    pub sampling: Sampling,
    /// The last token of an answer that becomes as long as it may.
    pub forced_last: Option<u32>,
    /// Beams of beam search; 1 or none without.
    pub beams: Option<u16>,
    /// Exponent of the length that a beam's score is divided by.
    pub length_penalty: Option<f32>,
    /// When beam search stops.
    pub early_stopping: Option<EarlyStopping>,
    /// New tokens at most.
    pub max_new_tokens: Option<u32>,
    /// Tokens that the model was made for.
    pub context: Option<u64>,
    /// Whether text is written in any order by masked diffusion, as LLaDA does.
    pub diffuses: bool,
}

impl GenerationConfig {
    /// Reads `generation_config.json`, then `config.json`, beside the model or in its folder. Files that are not there, or that
    /// do not say, leave the default. A GGUF file says itself what ends a sequence.
    pub fn beside(model: &Path) -> Self {
        if model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return GgufFile::open(model).and_then(|file| Self::of_gguf(&file)).unwrap_or_else(|error| {
                tracing::warn!("{error}");
                Self::default()
            });
        }
        let folder = if model.is_dir() { Some(model) } else { model.parent() };
        let Some(folder) = folder else { return Self::default() };
        let read = |name: &str| read_config(&folder.join(name)).unwrap_or(Value::Null);
        Self::of(&read("generation_config.json"), &read("config.json"))
    }

    /// What the metadata of a GGUF file say.
    ///
    /// # Errors
    /// Metadata of a wrong type.
    pub fn of_gguf(file: &GgufFile) -> Result<Self, ImportError> {
        let architecture = file.text("general.architecture")?.unwrap_or_default();
        let context = file.count(&format!("{architecture}.context_length"))?;
        let tokenizer = GgufTokenizer::read(file)?;
        let eos = tokenizer.into_iter().flat_map(|it| it.eos.into_iter().chain(it.eot)).collect();
        Ok(Self { eos, context, ..Self::default() })
    }

    /// What `generation_config.json` and `config.json` say. The second, which old checkpoints keep these settings in, counts where there is no
    /// first; special tokens it may add to it.
    pub fn of(generation: &Value, model: &Value) -> Self {
        let sources = [generation, model, &model["text_config"]];
        let tokens = Settings { sources };
        let settings = match generation.is_null() {
            true => Settings { sources: tokens.sources },
            false => Settings { sources: [generation; 3] },
        };
        let eos = tokens.tokens("eos_token_id");
        let samples = settings.get("do_sample").and_then(Value::as_bool) == Some(true);
        Self {
            decoder_start: tokens.token("decoder_start_token_id"),
            decoder_prompt: settings.decoder_prompt(),
            sampling: settings.sampling(samples, &eos),
            forced_last: settings.token("forced_eos_token_id"),
            beams: settings
                .count("num_beams")
                .and_then(|beams| u16::try_from(beams).ok())
                .filter(|_| !samples),
            length_penalty: settings.number("length_penalty"),
            early_stopping: settings.get("early_stopping").and_then(|value| match value {
                Value::Bool(true) => Some(EarlyStopping::Always),
                Value::Bool(false) => Some(EarlyStopping::Heuristic),
                value => (value == "never").then_some(EarlyStopping::Never),
            }),
            max_new_tokens: settings.count("max_new_tokens").and_then(|count| u32::try_from(count).ok()),
            context: sources.iter().find_map(|source| context(source)),
            diffuses: model["model_type"] == "llada",
            eos,
        }
    }
}

/// Files of settings, the first of which that says something counts.
struct Settings<'a> {
    sources: [&'a Value; 3],
}

impl<'a> Settings<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.sources.iter().map(|source| &source[name]).find(|value| !value.is_null())
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.get(name).map(tokens).unwrap_or_default()
    }

    fn token(&self, name: &str) -> Option<u32> {
        self.tokens(name).first().copied()
    }

    fn count(&self, name: &str) -> Option<usize> {
        self.get(name)?.as_u64().and_then(|count| usize::try_from(count).ok())
    }

    fn number(&self, name: &str) -> Option<f32> {
        self.get(name)?.as_f64().map(|number| number as f32).filter(|number| number.is_finite())
    }

    fn sampling(&self, samples: bool, eos: &[u32]) -> Sampling {
        let share =
            |name: &str, none: f32| self.number(name).filter(|p| (0.0..=1.0).contains(p)).unwrap_or(none);
        let temperature = self.number("temperature").filter(|temperature| *temperature >= 0.0);
        Sampling {
            temperature: if samples { temperature.unwrap_or(1.0) } else { 0.0 },
            top_k: self.count("top_k").unwrap_or(if samples { TOP_K } else { 0 }),
            top_p: share("top_p", 1.0),
            min_p: share("min_p", 0.0),
            typical_p: share("typical_p", 1.0),
            repetition_penalty: self.number("repetition_penalty").filter(|p| *p > 0.0).unwrap_or(1.0),
            rules: Rules {
                no_repeat_ngram: self.count("no_repeat_ngram_size").unwrap_or(0),
                bad_words: self.runs("bad_words_ids"),
                min_length: self.count("min_length").unwrap_or(0),
                min_new_tokens: self.count("min_new_tokens").unwrap_or(0),
                endings: eos.to_vec(),
                forced_first: self.token("forced_bos_token_id"),
                forced_last: None,
                suppressed: self.tokens("suppress_tokens"),
                suppressed_first: self.tokens("begin_suppress_tokens"),
            },
            ..Sampling::default()
        }
    }

    /// Lists of tokens.
    fn runs(&self, name: &str) -> Vec<Vec<u32>> {
        let lists = self.get(name).and_then(Value::as_array);
        lists.into_iter().flatten().take(MAX_LISTED).map(tokens).filter(|run| !run.is_empty()).collect()
    }

    /// `forced_decoder_ids` of old Whisper checkpoints: `[[1, id], [2, id], ...]`, without what a user is to choose (null).
    fn decoder_prompt(&self) -> Vec<u32> {
        let pairs = self.get("forced_decoder_ids").and_then(Value::as_array);
        let mut pairs: Vec<(u64, u32)> = pairs
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair[0].as_u64()?, tokens(&pair[1]).first().copied()?)))
            .take(MAX_LISTED)
            .collect();
        pairs.sort_unstable();
        pairs.into_iter().map(|(_, token)| token).collect()
    }
}

/// Reads a configuration file of a model; `None`, with a warning where it is broken, for one that cannot be used.
pub fn read_config(path: &Path) -> Option<Value> {
    if std::fs::metadata(path).ok()?.len() > MAX_CONFIG_BYTES {
        return None;
    }
    match serde_json::from_slice(&std::fs::read(path).ok()?) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!("{}: {error}", path.display());
            None
        }
    }
}

/// Tokens that a model was made for, under the names that configurations have for it.
fn context(config: &Value) -> Option<u64> {
    let names = ["max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"];
    names.iter().find_map(|name| config[*name].as_u64())
}

/// A token, or a list of them.
fn tokens(value: &Value) -> Vec<u32> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().take(MAX_LISTED).filter_map(token).collect(),
        value => token(value).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn configuration_beside_the_model_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(GenerationConfig::beside(folder.path()), GenerationConfig::default());
        write("config.json", r#"{"eos_token_id": 7, "decoder_start_token_id": 3}"#);
        write("generation_config.json", r#"{"eos_token_id": [1, 2, -1, "x"]}"#);
        let found = GenerationConfig::beside(&folder.path().join("model.onnx"));
        assert_eq!((&found.eos[..], found.decoder_start), (&[1, 2][..], Some(3)));
        write("generation_config.json", "not JSON");
        assert_eq!(GenerationConfig::beside(folder.path()).eos, [7]);
    }

    #[test]
    fn settings_mean_what_they_mean_in_transformers() {
        let greedy = GenerationConfig::of(&json!({"temperature": 0.5, "top_p": 0.9}), &Value::Null);
        assert_eq!((greedy.sampling.temperature, greedy.sampling.top_k), (0.0, 0));
        let sampled =
            GenerationConfig::of(&json!({"do_sample": true, "top_p": 0.9, "num_beams": 2}), &Value::Null);
        assert_eq!(
            (sampled.sampling.temperature, sampled.sampling.top_k, sampled.sampling.top_p),
            (1.0, 50, 0.9)
        );
        assert_eq!(sampled.beams, None);
        let marian = json!({"num_beams": 4, "early_stopping": true, "bad_words_ids": [[58100], []],
            "forced_eos_token_id": 0, "forced_bos_token_id": 9, "min_new_tokens": 2, "no_repeat_ngram_size": 3,
            "begin_suppress_tokens": [220, 50257], "suppress_tokens": [1, 2], "forced_decoder_ids": [[2, 50359], [1, null], [3, 50363]],
            "repetition_penalty": 1.2, "eos_token_id": 0, "max_new_tokens": 40});
        let found = GenerationConfig::of(&marian, &Value::Null);
        assert_eq!((found.beams, found.early_stopping), (Some(4), Some(EarlyStopping::Always)));
        assert_eq!((found.forced_last, found.max_new_tokens), (Some(0), Some(40)));
        assert_eq!(found.decoder_prompt, [50359, 50363]);
        let rules = Rules {
            no_repeat_ngram: 3,
            bad_words: vec![vec![58100]],
            min_new_tokens: 2,
            endings: vec![0],
            forced_first: Some(9),
            suppressed: vec![1, 2],
            suppressed_first: vec![220, 50257],
            ..Rules::default()
        };
        assert_eq!((found.sampling.rules, found.sampling.repetition_penalty), (rules, 1.2));
        let nested = GenerationConfig::of(&Value::Null, &json!({"text_config": {"eos_token_id": 5}}));
        assert_eq!(nested.eos, [5]);
    }

    #[test]
    fn nonsense_is_left_out() {
        let wild = json!({"do_sample": true, "temperature": -1.0, "top_p": 7, "repetition_penalty": 0, "top_k": -3,
            "forced_decoder_ids": 7, "bad_words_ids": "x", "num_beams": 70000});
        let found = GenerationConfig::of(&wild, &Value::Null);
        let plain = GenerationConfig::of(&json!({"do_sample": true}), &Value::Null);
        assert_eq!(found, plain);
    }
}
