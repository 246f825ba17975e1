//! Rotary embeddings that a caller asks for in place of the configuration's: the configuration is written anew, as a checkpoint that was
//! published with them has it, so both arrive at one model.

use lathe_ir::{Module, Operation};
use lathe_ops::Op;
use lathe_ops::position::RotaryScaling;
use serde_json::{Map, Value, json};

use super::Config;
use crate::error::{Fault, quote};

/// How rotary embeddings are stretched, by the names of transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeScaling {
    /// The kind.
    pub kind: RotaryScaling,
    /// How far: `factor`.
    pub factor: Option<f64>,
    /// Tokens that the model was trained for: `original_max_position_embeddings`. The configuration's context where absent.
    pub original: Option<usize>,
    /// What else the kind takes, such as `beta_fast` of YaRN or the lists `short_factor` and `long_factor` of LongRoPE.
    pub parameters: Vec<(String, Vec<f64>)>,
}

/// What a kind takes besides factor and original length, with defaults where transformers has none; 0 stands for the factor.
type Parameters = &'static [(&'static str, Option<f64>)];

impl RopeScaling {
    /// A kind by its name; `None` for a name that no kind has which can be asked for.
    pub fn kind_of(name: &str) -> Option<RotaryScaling> {
        Self::KINDS.iter().find(|(known, ..)| *known == name).map(|(_, kind, _)| *kind)
    }

    /// The kinds: name, kind, parameters. Those of Llama 3 are Meta's; without lists LongRoPE keeps the frequencies of short texts and divides
    /// those of long ones by the factor.
    const KINDS: &[(&str, RotaryScaling, Parameters)] = &[
        ("linear", RotaryScaling::Linear, &[]),
        ("ntk", RotaryScaling::Ntk, &[]),
        ("dynamic", RotaryScaling::Dynamic, &[]),
        (
            "yarn",
            RotaryScaling::Yarn,
            &[
                ("attention_factor", None),
                ("beta_fast", None),
                ("beta_slow", None),
                ("mscale", None),
                ("mscale_all_dim", None),
            ],
        ),
        ("llama3", RotaryScaling::Llama3, &[("low_freq_factor", Some(1.0)), ("high_freq_factor", Some(4.0))]),
        (
            "longrope",
            RotaryScaling::Longrope,
            &[("attention_factor", None), ("short_factor", Some(1.0)), ("long_factor", Some(0.0))],
        ),
    ];

    /// The configuration with these embeddings; those that it has are replaced.
    ///
    /// # Errors
    /// Where the factor is missing, or a parameter is none of the kind's.
    pub(crate) fn apply(&self, config: &Config) -> Result<Config, Fault> {
        let text = config.part("text_config")?.filter(|text| text.len() > 0);
        let Some(text) = text else { return self.apply_to(config) };
        let text = self.apply_to(&text)?;
        Ok(config.clone().with_value("text_config", Value::Object(text.into_fields())))
    }

    fn apply_to(&self, config: &Config) -> Result<Config, Fault> {
        let outer = "original_max_position_embeddings";
        let original = match self.original {
            Some(original) => Some(original),
            None => config.optional_size(&[outer])?,
        };
        let fields = self.fields(original)?;
        // LongRoPE would take its factor from this field.
        let config = config.clone().without(outer);
        let Some(parameters) = config.part("rope_parameters")? else {
            return Ok(config.with_value("rope_scaling", Value::Object(fields)));
        };
        // Layers that see everything are those that reach far.
        let full = "full_attention";
        let parameters = match parameters.part(full)? {
            Some(part) => parameters.with_value(full, Value::Object(replaced(part, fields)?)).into_fields(),
            None => replaced(parameters, fields)?,
        };
        Ok(config.with_value("rope_parameters", Value::Object(parameters)))
    }

    /// The fields of `rope_scaling`.
    fn fields(&self, original: Option<usize>) -> Result<Map<String, Value>, Fault> {
        let kind = Self::KINDS.iter().find(|(_, kind, _)| *kind == self.kind);
        let Some((name, _, known)) = kind else {
            return Err(Fault::bad(format!("{:?} cannot be asked for", self.kind)));
        };
        let Some(factor) = self.factor else {
            return Err(Fault::bad(format!("rotary scaling `{name}` needs a factor: give --rope-factor")));
        };
        let mut fields = Map::new();
        fields.insert("rope_type".to_string(), json!(name));
        fields.insert("factor".to_string(), json!(factor));
        if let Some(original) = original {
            fields.insert("original_max_position_embeddings".to_string(), json!(original));
        }
        for (parameter, default) in *known {
            let given = self.parameters.iter().find(|(given, _)| given == parameter);
            let default = default.map(|default| vec![if default == 0.0 { factor } else { default }]);
            let Some(numbers) = given.map(|(_, numbers)| numbers.clone()).or(default) else { continue };
            let list = parameter.ends_with("short_factor") || parameter.ends_with("long_factor");
            let value = match (list, &numbers[..]) {
                (true, numbers) => json!(numbers),
                (false, [number]) => json!(number),
                (false, _) => return Err(Fault::bad(format!("`{parameter}` is one number"))),
            };
            fields.insert(parameter.to_string(), value);
        }
        let unknown = self.parameters.iter().find(|(given, _)| !known.iter().any(|(name, _)| name == given));
        match unknown {
            None => Ok(fields),
            Some((given, _)) => {
                let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let known = if known.is_empty() { "nothing".to_string() } else { known.join(", ") };
                let given = quote(given);
                Err(Fault::bad(format!(
                    "rotary scaling `{name}` takes no {given}; besides factor and original length it takes {known}"
                )))
            }
        }
    }

    /// That the model has rotary embeddings of this kind now.
    pub(crate) fn check(&self, module: &Module) -> Result<(), Fault> {
        let mut nodes = module
            .functions()
            .flat_map(|(_, function)| function.node_ids().filter_map(move |id| function.node(id)));
        let scaled = nodes.any(|node| match &node.operation {
            Operation::Op(Op::RotaryEmbedding(rotary)) => rotary.scaling == Some(self.kind),
            _ => false,
        });
        match scaled {
            true => Ok(()),
            false => Err(Fault::unsupported("rotary scaling for a model without rotary embeddings")),
        }
    }
}

/// The fields of a scaling, with base and rotated part of the old ones.
fn replaced(old: Config, mut fields: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    for name in ["rope_theta", "partial_rotary_factor"] {
        if let Some(value) = old.positive(&[name])? {
            fields.insert(name.to_string(), json!(value));
        }
    }
    Ok(fields)
}
