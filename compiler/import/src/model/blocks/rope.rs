//! Rotary position embeddings (Su et al., "RoFormer", 2021): what the configuration says, and the frequencies that follow.
//!
//! Scalings by the names of transformers: `linear`, `ntk` (a fixed NTK-aware base), `dynamic`, `yarn` (Peng et al., 2023), `llama3`,
//! `longrope` (Ding et al., 2024), `mrope` (Qwen2-VL).

use std::f64::consts::PI;

use lathe_ops::position::RotaryScaling;

use crate::error::Fault;
use crate::model::Config;

/// Names of the scalings.
const KINDS: &[&str] = &["default", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "mrope"];

/// Rotary embeddings of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of a head that are rotated.
    pub dims: usize,
    /// How the frequencies are stretched.
    pub scaling: Scaling,
    /// Multiplies cosines and sines.
    pub attention_factor: f64,
    /// Pairs are neighbours instead of half the dims apart.
    pub interleaved: bool,
    /// Pairs that follow each of a token's several positions (M-RoPE); empty where it has one.
    pub sections: Vec<usize>,
}

/// How the frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Frequencies of each pair, whatever the length.
    Fixed {
        /// For reports.
        kind: RotaryScaling,
        /// Radians a position.
        frequencies: Vec<f64>,
    },
    /// LongRoPE: short frequencies up to `original` tokens, long ones beyond.
    Switch {
        /// Up to `original` tokens.
        short: Vec<f64>,
        /// Beyond.
        long: Vec<f64>,
        /// Where the switch is.
        original: usize,
    },
    /// Dynamic NTK: the base grows with the length beyond `original`.
    Dynamic {
        /// How fast.
        factor: f64,
        /// Up to here the base is `theta`.
        original: usize,
    },
}

/// What the configuration says about rotary embeddings, in the spelling of transformers 5 or 4.
pub(crate) struct RopeConfig {
    fields: Config,
    context: usize,
    /// `original_max_position_embeddings` beside `rope_parameters`, as Phi-3 has it.
    outer_original: Option<usize>,
    theta: f64,
    partial: f64,
}

impl RopeConfig {
    /// The facts for layers of this type (`full_attention`), where the configuration tells them apart.
    pub(crate) fn of(config: &Config, layer_type: Option<&str>, context: usize) -> Result<Self, Fault> {
        let (parameters, flat) = match config.part("rope_parameters")? {
            Some(parameters) => (parameters, false),
            None => (
                config.part("rope_scaling")?.unwrap_or_else(|| Config::from_fields(Default::default())),
                true,
            ),
        };
        let nested = match layer_type {
            Some(layer_type) => parameters.part(layer_type)?,
            None => None,
        };
        let fields = nested.unwrap_or(parameters);
        let outer = |names: &[&str]| if flat { config.positive(names) } else { Ok(None) };
        let theta = match fields.positive(&["rope_theta"])? {
            Some(theta) => theta,
            None => outer(&["rope_theta", "rotary_emb_base"])?.unwrap_or(10_000.0),
        };
        let partial = match fields.positive(&["partial_rotary_factor"])? {
            Some(partial) => partial,
            None => config.positive(&["partial_rotary_factor", "rotary_pct"])?.unwrap_or(1.0),
        };
        if partial > 1.0 {
            return Err(Fault::bad(format!("`partial_rotary_factor` is {partial}; it must be at most 1")));
        }
        let outer_original = config.optional_size(&["original_max_position_embeddings"])?;
        Ok(Self { fields, context, outer_original, theta, partial })
    }

    /// Another base, as Gemma 3 gave its sliding layers before `rope_parameters` told them apart; without scaling.
    pub(crate) fn unscaled(config: &Config, theta: f64, context: usize) -> Result<Self, Fault> {
        let mut rope = Self::of(config, None, context)?;
        rope.fields = Config::from_fields(Default::default());
        rope.theta = theta;
        Ok(rope)
    }

    /// The base of families whose configurations may leave it out.
    pub(crate) fn default_theta(&mut self, theta: f64) {
        self.theta = theta;
    }

    /// The embeddings of heads of `head_dim`.
    ///
    /// # Errors
    /// Where the scaling is not known, or a field that it needs is missing or wrong.
    pub(crate) fn rope(&self, head_dim: usize) -> Result<Rope, Fault> {
        let dims = (head_dim as f64 * self.partial) as usize;
        if dims < 2 || !dims.is_multiple_of(2) {
            return Err(Fault::bad(format!(
                "{dims} of a head's {head_dim} elements cannot be rotated in pairs"
            )));
        }
        let kind = self.fields.text(&["rope_type", "type"])?.unwrap_or("default");
        let plain = frequencies(self.theta, dims);
        let fixed = |kind, frequencies| Scaling::Fixed { kind, frequencies };
        let sections = self.sections(dims / 2)?;
        let mut attention_factor = 1.0;
        let scaling = match kind {
            "default" if sections.is_empty() => fixed(RotaryScaling::None, plain),
            "default" | "mrope" => fixed(RotaryScaling::Mrope, plain),
            "linear" => {
                let factor = self.factor()?;
                fixed(RotaryScaling::Linear, plain.iter().map(|frequency| frequency / factor).collect())
            }
            "ntk" => {
                let theta = stretched(self.theta, self.factor()?, dims);
                fixed(RotaryScaling::Ntk, frequencies(theta, dims))
            }
            "dynamic" => Scaling::Dynamic { factor: self.factor()?, original: self.original()? },
            "llama3" => fixed(RotaryScaling::Llama3, self.llama3(plain)?),
            "yarn" => {
                let (frequencies, factor) = self.yarn(plain)?;
                attention_factor = factor;
                fixed(RotaryScaling::Yarn, frequencies)
            }
            "longrope" | "su" => {
                let (scaling, factor) = self.longrope(&plain)?;
                attention_factor = factor;
                scaling
            }
            other => return Err(self.fields.unknown("rope_type", other, KINDS)),
        };
        if !sections.is_empty() && !matches!(scaling, Scaling::Fixed { .. }) {
            return Err(Fault::unsupported(format!("`mrope_section` with the scaling `{kind}`")));
        }
        Ok(Rope { theta: self.theta, dims, scaling, attention_factor, interleaved: false, sections })
    }

    /// `mrope_section`: pairs of each position; they make up all of them.
    fn sections(&self, pairs: usize) -> Result<Vec<usize>, Fault> {
        if !self.fields.has("mrope_section") {
            return Ok(Vec::new());
        }
        let sections = self.fields.list("mrope_section")?;
        match sections.iter().try_fold(0usize, |sum, section| sum.checked_add(*section)) {
            Some(sum) if sum == pairs => Ok(sections),
            _ => Err(Fault::bad(format!("`mrope_section` {sections:?} does not make up {pairs} pairs"))),
        }
    }

    /// `mscale` of the scores by YaRN as DeepSeek has it: 1 where there is none.
    pub(crate) fn score_factor(&self) -> Result<f64, Fault> {
        let all = self.fields.number(&["mscale_all_dim"], 0.0)?;
        match self.fields.text(&["rope_type", "type"])? {
            Some("yarn") if all != 0.0 => {
                let scale = yarn_scale(self.factor()?, all);
                Ok(scale * scale)
            }
            _ => Ok(1.0),
        }
    }

    fn factor(&self) -> Result<f64, Fault> {
        match self.fields.positive(&["factor"])? {
            Some(factor) if factor >= 1.0 => Ok(factor),
            Some(factor) => Err(Fault::bad(format!(
                "the `factor` of the rotary scaling is {factor}; it must be at least 1"
            ))),
            None => Err(Fault::bad("the `factor` of the rotary scaling is missing")),
        }
    }

    fn original(&self) -> Result<usize, Fault> {
        let inner = self.fields.optional_size(&["original_max_position_embeddings"])?;
        Ok(inner.or(self.outer_original).unwrap_or(self.context))
    }

    fn needed(&self, name: &str) -> Result<f64, Fault> {
        let missing = || Fault::bad(format!("the `{name}` of the rotary scaling is missing"));
        self.fields.positive(&[name])?.ok_or_else(missing)
    }

    /// Long wavelengths are divided by the factor, short ones kept, those between interpolated.
    fn llama3(&self, plain: Vec<f64>) -> Result<Vec<f64>, Fault> {
        let (factor, original) = (self.factor()?, self.original()? as f64);
        let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
        if low >= high {
            return Err(Fault::bad(format!(
                "`low_freq_factor` {low} is not below `high_freq_factor` {high}"
            )));
        }
        let stretch = |frequency: f64| {
            let wavelength = 2.0 * PI / frequency;
            if wavelength > original / low {
                frequency / factor
            } else if wavelength < original / high {
                frequency
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        Ok(plain.into_iter().map(stretch).collect())
    }

    /// Frequencies that turn often are kept, those that turn seldom divided, with a ramp between; and the attention factor.
    fn yarn(&self, plain: Vec<f64>) -> Result<(Vec<f64>, f64), Fault> {
        let factor = self.factor()?;
        let original = self.original()? as f64;
        let fast = self.fields.positive(&["beta_fast"])?.unwrap_or(32.0);
        let slow = self.fields.positive(&["beta_slow"])?.unwrap_or(1.0);
        let width = (2 * plain.len()) as f64;
        let place = |turns: f64| width * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut first, mut last) = (place(fast), place(slow));
        if self.fields.flag(&["truncate"], true)? {
            (first, last) = (first.floor(), last.ceil());
        }
        let (first, mut last) = (first.max(0.0), last.min(width - 1.0));
        if first == last {
            last += 0.001;
        }
        let stretch = |(index, frequency): (usize, f64)| {
            let ramp = ((index as f64 - first) / (last - first)).clamp(0.0, 1.0);
            frequency / factor * ramp + frequency * (1.0 - ramp)
        };
        let frequencies = plain.into_iter().enumerate().map(stretch).collect();
        let scale = self.fields.optional_number(&["mscale"])?.filter(|scale| *scale != 0.0);
        let all = self.fields.optional_number(&["mscale_all_dim"])?.filter(|scale| *scale != 0.0);
        let given = self.fields.positive(&["attention_factor"])?;
        let attention = given.unwrap_or(match (scale, all) {
            (Some(scale), Some(all)) => yarn_scale(factor, scale) / yarn_scale(factor, all),
            _ => yarn_scale(factor, 1.0),
        });
        Ok((frequencies, attention))
    }

    /// One factor a pair, of two lists by the length; and the attention factor.
    fn longrope(&self, plain: &[f64]) -> Result<(Scaling, f64), Fault> {
        let original = self.original()?;
        let list = |name: &str| -> Result<Vec<f64>, Fault> {
            let factors = self.fields.numbers(name)?;
            let factors = factors
                .ok_or_else(|| Fault::bad(format!("the `{name}` of the rotary scaling is missing")))?;
            // One number counts for all pairs.
            let one_for_all = factors.len() == 1;
            let fits = one_for_all || factors.len() == plain.len();
            if !fits || factors.iter().any(|factor| *factor <= 0.0) {
                let reason = format!("`{name}` must hold {} numbers above 0, one a pair", plain.len());
                return Err(Fault::bad(reason));
            }
            let factors = factors.iter().cycle().take(plain.len());
            Ok(plain.iter().zip(factors).map(|(frequency, factor)| frequency / factor).collect())
        };
        let factor = match self.outer_original {
            Some(outer) => self.context as f64 / outer as f64,
            None => self.fields.positive(&["factor"])?.unwrap_or(self.context as f64 / original as f64),
        };
        let given = self.fields.positive(&["attention_factor"])?;
        let attention = given.unwrap_or(match factor <= 1.0 || original <= 1 {
            true => 1.0,
            false => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        });
        let (short, long) = (list("short_factor")?, list("long_factor")?);
        if short == long {
            return Ok((Scaling::Fixed { kind: RotaryScaling::Longrope, frequencies: short }, attention));
        }
        Ok((Scaling::Switch { short, long, original }, attention))
    }
}

/// `theta^(-2i / dims)`, one a pair.
pub(crate) fn frequencies(theta: f64, dims: usize) -> Vec<f64> {
    (0..dims / 2).map(|pair| theta.powf(-((2 * pair) as f64) / dims as f64)).collect()
}

/// The NTK-aware base `theta * factor^(d / (d - 2))`.
fn stretched(theta: f64, factor: f64, dims: usize) -> f64 {
    let dims = dims as f64;
    theta * factor.powf(dims / (dims - 2.0).max(1.0))
}

fn yarn_scale(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}
