//! Masked prediction by a model's function `main`.

use lathe_artifact::plan::Port;
use lathe_runtime::{Model, RunOptions, Session, Team};
use lathe_tensor::{DType, Tensor};

use crate::{GraphError, Logits, MaskedModel, Source};

/// A model that takes a sequence at once: `input_ids`, and what follows from them.
#[derive(Debug)]
pub struct GraphMasked {
    session: Session,
    output: usize,
    values: Vec<f32>,
    /// Stops runs, sets their deadline.
    pub options: RunOptions,
}

impl GraphMasked {
    /// A masked model over `main`; the output `logits`, or the only one.
    ///
    /// # Errors
    /// Where it has no `input_ids`, no such output, or an input that does not follow from the tokens.
    pub fn new(model: &Model, team: &Team) -> Result<Self, GraphError> {
        let fail = |reason: &str| GraphError::NotGenerative { reason: reason.to_string() };
        if !model.inputs().iter().any(|port| port.name == "input_ids") {
            return Err(fail("it has no input `input_ids`"));
        }
        let named = model.outputs().iter().position(|port| port.name == "logits");
        let output = named.or(if model.outputs().len() == 1 { Some(0) } else { None });
        let output = output.ok_or_else(|| fail("it has no output `logits`"))?;
        Ok(Self {
            session: Session::with_team(model, team)?,
            output,
            values: Vec::new(),
            options: RunOptions::default(),
        })
    }
}

/// The inputs of an encoder for a batch of one: `input_ids`, and what follows from them: a mask of ones, positions, the types that
/// a tokenizer gave, or zeros, no global token; `extras` come before all of these.
///
/// # Errors
/// Inputs that do not follow from tokens.
pub fn encoder_inputs(
    ports: &[Port],
    tokens: &[u32],
    types: Option<&[u32]>,
    extras: &Source,
) -> Result<Vec<Tensor>, GraphError> {
    let shape = [1, tokens.len()];
    let input = |port: &Port| -> Result<Tensor, GraphError> {
        if let Some((_, tensor)) = extras.iter().find(|(name, _)| *name == port.name) {
            return Ok(tensor.clone());
        }
        let values: Vec<i64> = match port.name.as_str() {
            "input_ids" => tokens.iter().map(|token| i64::from(*token)).collect(),
            "attention_mask" => vec![1; tokens.len()],
            "global_attention_mask" => vec![0; tokens.len()],
            "position_ids" => (0..tokens.len() as i64).collect(),
            "token_type_ids" => match types {
                Some(types) => types.iter().map(|kind| i64::from(*kind)).collect(),
                None => vec![0; tokens.len()],
            },
            _ => {
                return Err(GraphError::MissingInput {
                    input: port.name.clone(),
                    why: "it does not follow from tokens".into(),
                });
            }
        };
        Ok(match port.tensor.dtype {
            DType::I32 => {
                Tensor::from_slice(&values.iter().map(|value| *value as i32).collect::<Vec<_>>(), &shape)?
            }
            DType::F32 => {
                Tensor::from_slice(&values.iter().map(|value| *value as f32).collect::<Vec<_>>(), &shape)?
            }
            DType::Bool => {
                let ones = values.iter().map(|value| u8::from(*value != 0)).collect::<Vec<_>>();
                Tensor::new(DType::Bool, shape.to_vec(), lathe_tensor::Buffer::copy_of(&ones))?
            }
            _ => Tensor::from_slice(&values, &shape)?,
        })
    };
    ports.iter().map(input).collect()
}

impl MaskedModel for GraphMasked {
    type Error = GraphError;

    fn predict(&mut self, tokens: &[u32]) -> Result<Logits<'_>, GraphError> {
        let model = self.session.model().clone();
        let tensors = encoder_inputs(model.inputs(), tokens, None, &Vec::new())?;
        let named: Vec<(&str, &Tensor)> =
            model.inputs().iter().map(|port| port.name.as_str()).zip(&tensors).collect();
        let outputs = self.session.run_with(&named, &self.options)?;
        let logits = &outputs.tensors()[self.output];
        let bad = || GraphError::BadLogits { shape: logits.shape().to_vec(), wanted: tokens.len() };
        let &[1, rows, vocabulary] = logits.shape() else { return Err(bad()) };
        if rows != tokens.len() {
            return Err(bad());
        }
        self.values.clear();
        self.values.extend_from_slice(&logits.to_slice::<f32>()?);
        Ok(Logits::new(&self.values, vocabulary))
    }
}
