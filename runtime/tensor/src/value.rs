//! Values that are no tensor (sequences, optionals, maps), and the tensors that they are made of.
//!
//! A program computes with tensors only. A [`Form`] says which tensors stand for a value, its **parts**, and [`Form::parts_of`] and
//! [`Form::value_of`] go there and back. [`Composites`] are the inputs and outputs of a function that have parts.

mod composite;
mod ragged;
#[cfg(test)]
mod tests;

pub use composite::{Composite, Composites, Seen, seen};

use serde::{Deserialize, Serialize};

use self::ragged::{records, sequence_parts, sequence_value};
use crate::{DType, Tensor, TensorError};

/// What a model takes or gives.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// Values in order.
    Sequence(Vec<Value>),
    /// A value or nothing.
    Optional(Option<Box<Value>>),
    /// Keys, each with its value.
    Map {
        /// i64 or strings `[n]`.
        keys: Tensor,
        /// Values `[n]`.
        values: Tensor,
    },
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::Sequence(_) => "a sequence",
            Value::Optional(_) => "an optional",
            Value::Map { .. } => "a map",
        }
    }
}

/// The number of axes of a sequence's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// There has been no element.
    Any,
    /// All elements have as many.
    Is(u32),
    /// Elements may differ.
    Mixed,
}

impl Rank {
    /// The rank of elements of which some have the one and some the other.
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Rank::Any, rank) | (rank, Rank::Any) => rank,
            (a, b) if a == b => a,
            _ => Rank::Mixed,
        }
    }
}

/// Makes a tensor of a dtype and shape up.
pub type Fill<'a> = dyn FnMut(DType, &[usize]) -> Result<Tensor, TensorError> + 'a;

/// Which tensors stand for a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Itself.
    Tensor {
        /// Its dtype.
        dtype: DType,
        /// Its number of axes.
        rank: u32,
    },
    /// A sequence of tensors whose length is known when the program is made: a part an element.
    List {
        /// Dtype of the elements.
        dtype: DType,
        /// The number of axes of each.
        ranks: Vec<u32>,
    },
    /// A sequence of tensors of any length. Parts: `elements [n]` of all tensors one after the other, their `sizes i64[m]` likewise, and
    /// `layout i64[length, 2]`, the number of axes and of elements of each tensor.
    Sequence {
        /// Dtype of the elements.
        dtype: DType,
        /// What is known of their axes.
        rank: Rank,
    },
    /// Parts: `present bool[]` and those of the content, zeros or of no elements where there is none.
    Optional(Box<Form>),
    /// The content of an optional of which nothing is known but that it has none. No parts.
    Nothing,
    /// Parts: `keys [n]` and `values [n]`.
    Map {
        /// Dtype of the keys.
        keys: DType,
        /// Dtype of the values.
        values: DType,
    },
    /// A sequence of maps with equal keys. Parts: `keys [n]` and `values [length, n]`.
    Records {
        /// Dtype of the keys.
        keys: DType,
        /// Dtype of the values.
        values: DType,
    },
}

/// A part: what its name ends in, its dtype and rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Put behind the name of the value.
    pub suffix: String,
    /// Dtype.
    pub dtype: DType,
    /// Number of axes.
    pub rank: u32,
}

impl Form {
    /// What it stands for, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Form::Tensor { .. } => "a tensor",
            Form::List { .. } | Form::Sequence { .. } | Form::Records { .. } => "a sequence",
            Form::Optional(_) | Form::Nothing => "an optional",
            Form::Map { .. } => "a map",
        }
    }

    /// The parts in order.
    pub fn parts(&self) -> Vec<Part> {
        let part = |suffix: &str, dtype, rank| Part { suffix: suffix.to_string(), dtype, rank };
        match self {
            Form::Tensor { dtype, rank } => vec![part("", *dtype, *rank)],
            Form::List { dtype, ranks } => ranks
                .iter()
                .enumerate()
                .map(|(index, &rank)| part(&format!("[{index}]"), *dtype, rank))
                .collect(),
            Form::Sequence { dtype, .. } => {
                vec![
                    part(".elements", *dtype, 1),
                    part(".sizes", DType::I64, 1),
                    part(".layout", DType::I64, 2),
                ]
            }
            Form::Optional(content) => [vec![part(".present", DType::Bool, 0)], content.parts()].concat(),
            Form::Nothing => Vec::new(),
            Form::Map { keys, values } => vec![part(".keys", *keys, 1), part(".values", *values, 1)],
            Form::Records { keys, values } => vec![part(".keys", *keys, 1), part(".values", *values, 2)],
        }
    }

    /// Number of parts.
    pub fn part_count(&self) -> usize {
        match self {
            Form::Tensor { .. } => 1,
            Form::List { ranks, .. } => ranks.len(),
            Form::Sequence { .. } => 3,
            Form::Optional(content) => 1 + content.part_count(),
            Form::Nothing => 0,
            Form::Map { .. } | Form::Records { .. } => 2,
        }
    }

    /// The parts of a value that is not there: no elements, zeros where there are no axes.
    ///
    /// # Errors
    /// Never for forms that a program has: no size is larger than 2.
    pub fn absent(&self) -> Result<Vec<Tensor>, TensorError> {
        if let Form::Sequence { dtype, .. } = self {
            return sequence_parts(*dtype, &[]);
        }
        let zeros = |part: Part| Tensor::zeros(part.dtype, &vec![0; part.rank as usize]);
        self.parts().into_iter().map(zeros).collect()
    }

    /// The parts of a made-up value: a sequence has three tensors, an optional is there, sizes are 2; `tensor` fills them.
    ///
    /// # Errors
    /// Those of `tensor`.
    pub fn example(&self, tensor: &mut Fill<'_>) -> Result<Vec<Tensor>, TensorError> {
        match self {
            Form::Sequence { dtype, rank } => {
                let rank = if let Rank::Is(rank) = rank { *rank } else { 1 };
                let shape = vec![2; rank.min(8) as usize];
                let tensors = (0..3).map(|_| tensor(*dtype, &shape)).collect::<Result<Vec<_>, _>>()?;
                sequence_parts(*dtype, &tensors.iter().collect::<Vec<_>>())
            }
            Form::Optional(content) => {
                Ok([vec![Tensor::from_bools(&[true], &[])?], content.example(tensor)?].concat())
            }
            Form::Map { keys, values } if *keys == DType::I64 => {
                Ok(vec![Tensor::from_slice(&[0i64, 1], &[2])?, tensor(*values, &[2])?])
            }
            Form::Map { values, .. } => {
                let keys = vec![b"0".to_vec(), b"1".to_vec()];
                Ok(vec![Tensor::from_strings(keys, &[2])?, tensor(*values, &[2])?])
            }
            _ => self.parts().iter().map(|part| tensor(part.dtype, &vec![2; part.rank as usize])).collect(),
        }
    }

    /// The tensors that stand for a value.
    ///
    /// # Errors
    /// [`TensorError::Form`] where the value is of another kind, dtype, rank or length.
    pub fn parts_of(&self, value: &Value) -> Result<Vec<Tensor>, TensorError> {
        let wrong = || TensorError::Form(format!("{} where {} is taken", value.kind(), self.kind()));
        match (self, value) {
            (Form::Optional(content), Value::Optional(inner)) => {
                let parts = match inner {
                    Some(inner) => content.parts_of(inner)?,
                    None => content.absent()?,
                };
                let present = Tensor::from_bools(&[inner.is_some()], &[])?;
                Ok([vec![present], parts].concat())
            }
            // A value that is there stands for an optional that has it.
            (Form::Optional(content), value) => {
                Ok([vec![Tensor::from_bools(&[true], &[])?], content.parts_of(value)?].concat())
            }
            (form, Value::Optional(Some(inner))) => form.parts_of(inner),
            (Form::Tensor { dtype, rank }, Value::Tensor(tensor)) => {
                check(tensor, *dtype, Rank::Is(*rank))?;
                Ok(vec![tensor.clone()])
            }
            (Form::List { dtype, ranks }, Value::Sequence(values)) if values.len() == ranks.len() => {
                let tensors = tensors(values)?;
                for (tensor, rank) in tensors.iter().zip(ranks) {
                    check(tensor, *dtype, Rank::Is(*rank))?;
                }
                Ok(tensors.into_iter().cloned().collect())
            }
            (Form::Sequence { dtype, rank }, Value::Sequence(values)) => {
                let tensors = tensors(values)?;
                tensors.iter().try_for_each(|tensor| check(tensor, *dtype, *rank))?;
                sequence_parts(*dtype, &tensors)
            }
            (Form::Map { keys: key, values: element }, Value::Map { keys, values }) => {
                check(keys, *key, Rank::Is(1))?;
                check(values, *element, Rank::Is(1))?;
                if keys.len() != values.len() {
                    return Err(TensorError::Form(format!(
                        "{} keys for {} values",
                        keys.len(),
                        values.len()
                    )));
                }
                Ok(vec![keys.clone(), values.clone()])
            }
            _ => Err(wrong()),
        }
    }

    /// The value that these parts stand for.
    ///
    /// # Errors
    /// [`TensorError::Form`] where they do not fit one another.
    pub fn value_of(&self, parts: &[Tensor]) -> Result<Value, TensorError> {
        if parts.len() != self.part_count() {
            let reason =
                format!("{} tensors for the {} parts of {}", parts.len(), self.part_count(), self.kind());
            return Err(TensorError::Form(reason));
        }
        Ok(match self {
            Form::Tensor { .. } => Value::Tensor(parts[0].clone()),
            Form::List { .. } => Value::Sequence(parts.iter().cloned().map(Value::Tensor).collect()),
            Form::Sequence { .. } => sequence_value(&parts[0], &parts[1], &parts[2])?,
            Form::Optional(content) => match parts[0].bytes().first() {
                Some(0) => Value::Optional(None),
                Some(_) => Value::Optional(Some(Box::new(content.value_of(&parts[1..])?))),
                None => return Err(TensorError::Form("a flag has no element".into())),
            },
            Form::Nothing => Value::Optional(None),
            Form::Map { .. } => Value::Map { keys: parts[0].clone(), values: parts[1].clone() },
            Form::Records { .. } => records(&parts[0], &parts[1])?,
        })
    }
}

fn tensors(values: &[Value]) -> Result<Vec<&Tensor>, TensorError> {
    let tensors = values.iter().map(|value| match value {
        Value::Tensor(tensor) => Ok(tensor),
        other => Err(TensorError::Form(format!("{} in a sequence of tensors", other.kind()))),
    });
    tensors.collect()
}

fn check(tensor: &Tensor, dtype: DType, rank: Rank) -> Result<(), TensorError> {
    let fits = match rank {
        Rank::Is(rank) => tensor.rank() == rank as usize,
        Rank::Any | Rank::Mixed => true,
    };
    if tensor.dtype() == dtype && fits {
        return Ok(());
    }
    let axes = match rank {
        Rank::Is(rank) => format!(" of {rank} axes"),
        Rank::Any | Rank::Mixed => String::new(),
    };
    Err(TensorError::Form(format!("{}{:?} where {dtype}{axes} is taken", tensor.dtype(), tensor.shape())))
}
