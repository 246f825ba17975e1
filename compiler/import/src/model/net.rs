//! A network in the making: the IR's builder with weights by name.

mod lookup;

use std::fmt::Display;

use lathe_ir::{Builder, Dim, FunctionId, Module, Operation, Symbol, ValueId, ValueType};
use lathe_ops::elementwise::{Clip, Gelu, Unary};
use lathe_ops::gather::Gather;
use lathe_ops::norm::{LayerNorm, RmsNorm, Rounding};
use lathe_ops::{Op, shape};
use lathe_tensor::{DType, Encoding};
use rustc_hash::{FxHashMap, FxHashSet};

use super::weights::Weights;
use crate::error::{Fault, quote};

/// What names of inputs begin with that stand for weights.
pub const WEIGHT: &str = "weight.";

/// A matrix of the checkpoint: its name without `.weight`, and whether a bias stands beside it.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Name without `.weight`.
    pub name: String,
    /// Whether `.bias` is added.
    pub bias: bool,
    /// Stored `[in, out]`, as GPT-2 does, instead of `[out, in]`.
    pub transposed: bool,
}

impl Linear {
    /// A matrix without bias.
    pub(crate) fn plain(name: impl Display) -> Self {
        Self { name: name.to_string(), bias: false, transposed: false }
    }

    /// A matrix with bias, or without.
    pub(crate) fn new(name: impl Display, bias: bool) -> Self {
        Self { name: name.to_string(), bias, transposed: false }
    }
}

/// A normalisation: the name of its weights and its kind.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    /// Name without `.weight`.
    pub name: String,
    /// What is computed.
    pub kind: NormKind,
}

/// The kinds of normalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * w`, or `* (1 + w)`.
    Rms {
        /// Added to the mean.
        epsilon: f32,
        /// Whether the weight is stored less 1.
        plus_one: bool,
    },
    /// `(x - mean) / sqrt(var + eps) * w + b`.
    Layer {
        /// Added to the variance.
        epsilon: f32,
        /// Whether there is a bias.
        bias: bool,
    },
}

impl NormKind {
    /// The norm of this kind whose weights have this name.
    pub(crate) fn at(self, name: impl Display) -> Norm {
        Norm { name: name.to_string(), kind: self }
    }
}

/// Activations by the names that configurations give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Relu,
    Gelu,
    GeluTanh,
    QuickGelu,
    Silu,
    Tanh,
    /// `max(x, 0)^2`.
    SquaredRelu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    const NAMES: &[(&str, Activation)] = &[
        ("relu", Activation::Relu),
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_python_tanh", Activation::GeluTanh),
        ("gelu_tanh", Activation::GeluTanh),
        ("quick_gelu", Activation::QuickGelu),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("tanh", Activation::Tanh),
        ("relu2", Activation::SquaredRelu),
        ("relu6", Activation::Relu6),
    ];

    /// The activation that a field of the configuration names.
    pub(crate) fn of(config: &super::Config, names: &[&str], default: &str) -> Result<Self, Fault> {
        let name = config.text(names)?.unwrap_or(default);
        let found = Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES.iter().map(|(known, _)| *known).collect();
            config.unknown(names.first().unwrap_or(&""), name, &known)
        })
    }
}

/// A network in the making.
pub(crate) struct Net<'a> {
    /// The builder of the function.
    pub b: Builder<'a>,
    weights: &'a dyn Weights,
    /// A prefix of names that checkpoints of the model without head leave out.
    base: &'static str,
    /// Prefixes of names, and what the file has for them.
    renames: Vec<(String, String)>,
    made: FxHashMap<String, ValueId>,
    used: FxHashSet<String>,
    missing: Vec<String>,
    /// What rotary frequencies are rounded to.
    pub frequencies: DType,
}

impl<'a> Net<'a> {
    /// A network whose `main` is empty. `base` is the prefix that checkpoints of the bare model leave out: `model.`.
    pub(crate) fn new(module: &'a mut Module, weights: &'a dyn Weights, base: &'static str) -> Self {
        Self {
            b: Builder::main(module),
            weights,
            base,
            renames: Vec::new(),
            made: FxHashMap::default(),
            used: FxHashSet::default(),
            missing: Vec::new(),
            frequencies: DType::F32,
        }
    }

    /// The function that is built.
    pub(crate) fn function(&self) -> FunctionId {
        self.b.id()
    }

    /// An input of ids or flags, `[batch, ...]` with these symbols.
    pub(crate) fn integers(&mut self, name: &str, dims: &[Dim]) -> ValueId {
        self.b.input(name, ValueType::new(DType::I64, dims.to_vec()))
    }

    /// An input of floats.
    pub(crate) fn floats(&mut self, name: &str, dims: &[Dim]) -> ValueId {
        self.b.input(name, ValueType::new(DType::F32, dims.to_vec()))
    }

    /// A weight of these sizes as an f32 value. A missing one is noted, and stands as an input until [`Net::finish`] refuses.
    pub(crate) fn weight(&mut self, name: &str, sizes: &[usize]) -> Result<ValueId, Fault> {
        if let Some(value) = self.made.get(name) {
            return Ok(*value);
        }
        let value = match self.stored(name)? {
            Some(weight) => {
                check_sizes(name, &weight.shape, sizes)?;
                self.constant(&self.spelling(name), weight)?
            }
            None => self.placeholder(name, sizes)?,
        };
        self.made.insert(name.to_string(), value);
        Ok(value)
    }

    /// A matrix of these sizes, or a stack of them, that products or look-ups of rows read: floats of 16 bits stay as they are stored.
    pub(crate) fn matrix(&mut self, name: &str, sizes: &[usize]) -> Result<ValueId, Fault> {
        let key = format!("{name}#matrix");
        if let Some(value) = self.made.get(&key) {
            return Ok(*value);
        }
        let halves = matches!(self.stored_dtype(name)?, Some(DType::F16 | DType::BF16));
        let value = match self.stored(name)?.filter(|_| halves) {
            Some(weight) => {
                check_sizes(name, &weight.shape, sizes)?;
                self.matrix_constant(&self.spelling(name), weight)?
            }
            None => self.weight(name, sizes)?,
        };
        self.made.insert(key, value);
        Ok(value)
    }

    /// A stored matrix, or a stack of them, as an f32 value; floats of 16 bits stay as they are stored.
    pub(crate) fn matrix_constant(&mut self, name: &str, weight: super::Weight) -> Result<ValueId, Fault> {
        if !matches!(weight.tensor.dtype(), DType::F16 | DType::BF16) {
            return self.constant(name, weight);
        }
        let function = self.function();
        Ok(self.b.module().widened_value(function, weight.tensor, Some(name.to_string()))?)
    }

    fn placeholder(&mut self, name: &str, sizes: &[usize]) -> Result<ValueId, Fault> {
        let dims = sizes.iter().map(|&size| dim(size)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.floats(&format!("{WEIGHT}{name}"), &dims))
    }

    /// A stored tensor as an f32 value. Quantised blocks stay as they are.
    pub(crate) fn constant(&mut self, name: &str, weight: super::Weight) -> Result<ValueId, Fault> {
        let super::Weight { tensor, encoding, shape } = weight;
        let dtype = tensor.dtype();
        if let Encoding::Blocked(format) = encoding {
            let (function, blocks) = (self.function(), tensor.buffer().clone());
            let named = Some(name.to_string());
            return Ok(self.b.module().blocked_value(function, format, blocks, &shape, named)?);
        }
        let function = self.function();
        let value = self.b.module().add_constant_value(function, tensor, Some(name.to_string()));
        match dtype {
            DType::F32 => Ok(value),
            dtype if dtype.is_float() => Ok(self.b.named(name).cast(value, DType::F32)?),
            dtype => {
                Err(Fault::bad(format!("it holds {dtype}, not floats"))
                    .at(|| format!("tensor {}", quote(name))))
            }
        }
    }

    /// `x @ w + b`, where `x` is `[..., input]`.
    pub(crate) fn linear(
        &mut self,
        x: ValueId,
        linear: &Linear,
        input: usize,
        output: usize,
    ) -> Result<ValueId, Fault> {
        let weight = format!("{}.weight", linear.name);
        // Quantised matrices are `[out, in]`, whatever the model's own are.
        let matrix = match linear.transposed && !self.is_quantised(&weight)? {
            true => self.matrix(&weight, &[input, output])?,
            false => self.transposed(&weight, output, input)?,
        };
        let product = self.b.named(&linear.name).matmul(x, matrix)?;
        if !linear.bias {
            return Ok(product);
        }
        let bias = self.weight(&format!("{}.bias", linear.name), &[output])?;
        Ok(self.b.named(&linear.name).add(product, bias)?)
    }

    /// A matrix `[rows, columns]` of the file as `[columns, rows]`.
    pub(crate) fn transposed(&mut self, name: &str, rows: usize, columns: usize) -> Result<ValueId, Fault> {
        let key = format!("{name}^T");
        if let Some(value) = self.made.get(&key) {
            return Ok(*value);
        }
        let stored = self.matrix(name, &[rows, columns])?;
        let value = self.b.named(name).transpose(stored, &[1, 0])?;
        self.made.insert(key, value);
        Ok(value)
    }

    /// A norm over the last axis, of size `width`.
    pub(crate) fn norm(&mut self, x: ValueId, norm: &Norm, width: usize) -> Result<ValueId, Fault> {
        let mut scale = self.weight(&format!("{}.weight", norm.name), &[width])?;
        self.b.named(&norm.name);
        match norm.kind {
            NormKind::Rms { epsilon, plus_one } => {
                if plus_one {
                    let one = self.b.scalar(1.0f32);
                    scale = self.b.add(scale, one)?;
                }
                self.rms_norm(x, scale, epsilon)
            }
            NormKind::Layer { epsilon, bias } => {
                let bias = match bias {
                    true => Some(self.weight(&format!("{}.bias", norm.name), &[width])?),
                    false => None,
                };
                let op = Op::LayerNorm(LayerNorm { axis: -1, epsilon, rounding: Rounding::Free });
                Ok(self.b.named(&norm.name).apply(op, &[Some(x), Some(scale), bias])?)
            }
        }
    }

    /// RMS norm over the last axis.
    pub(crate) fn rms_norm(&mut self, x: ValueId, scale: ValueId, epsilon: f32) -> Result<ValueId, Fault> {
        Ok(self.b.op(Op::RmsNorm(RmsNorm { axis: -1, epsilon, rounding: Rounding::Free }), &[x, scale])?)
    }

    /// Rows of a table by index.
    pub(crate) fn rows(&mut self, table: ValueId, index: ValueId) -> Result<ValueId, Fault> {
        Ok(self.b.op(Op::Gather(Gather { axis: 0 }), &[table, index])?)
    }

    /// An activation.
    pub(crate) fn activate(&mut self, x: ValueId, activation: Activation) -> Result<ValueId, Fault> {
        Ok(match activation {
            Activation::Relu => self.b.relu(x)?,
            Activation::Gelu => self.b.op(Op::Gelu(Gelu { tanh: false }), &[x])?,
            Activation::GeluTanh => self.b.op(Op::Gelu(Gelu { tanh: true }), &[x])?,
            Activation::Silu => self.b.op(Op::Unary(Unary::Silu), &[x])?,
            Activation::Tanh => self.b.tanh(x)?,
            Activation::QuickGelu => {
                let slope = self.b.scalar(1.702f32);
                let scaled = self.b.mul(x, slope)?;
                let gate = self.b.sigmoid(scaled)?;
                self.b.mul(x, gate)?
            }
            Activation::SquaredRelu => {
                let positive = self.b.relu(x)?;
                self.b.mul(positive, positive)?
            }
            Activation::Relu6 => {
                let (low, high) = (self.b.scalar(0.0f32), self.b.scalar(6.0f32));
                self.b.op(Op::Clip(Clip {}), &[x, low, high])?
            }
        })
    }

    /// Counts from 0, `[1, length]`.
    pub(crate) fn counts(&mut self, length: &Dim) -> Result<ValueId, Fault> {
        let (zero, one) = (self.b.scalar(0i64), self.b.scalar(1i64));
        let length = self.b.apply(Operation::Dims { elements: vec![length.clone()], scalar: true }, &[])?;
        let counts = self.b.op(Op::Range(shape::Range {}), &[zero, length, one])?;
        Ok(self.b.unsqueeze(counts, &[0])?)
    }

    /// Parts of these sizes along the last axis.
    pub(crate) fn split(&mut self, x: ValueId, sizes: &[usize]) -> Result<Vec<ValueId>, Fault> {
        let axis = self.b.ty(x).rank() as i64 - 1;
        let list: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        let list = self.b.list(&list)?;
        let op = Op::Split(shape::Split { axis, outputs: sizes.len() });
        Ok(self.b.apply_many(op, &[Some(x), Some(list)], sizes.len())?)
    }

    /// Repeated to these sizes.
    pub(crate) fn expanded(&mut self, x: ValueId, dims: impl Into<Vec<Dim>>) -> Result<ValueId, Fault> {
        let dims = self.b.dims(dims)?;
        Ok(self.b.expand(x, dims)?)
    }

    /// `softcap * tanh(x / softcap)`.
    pub(crate) fn softcap(&mut self, x: ValueId, softcap: f64) -> Result<ValueId, Fault> {
        let cap = self.b.scalar(softcap as f32);
        let x = self.b.div(x, cap)?;
        let x = self.b.tanh(x)?;
        Ok(self.b.mul(x, cap)?)
    }

    /// `x * factor`; `x` where the factor is 1.
    pub(crate) fn scaled(&mut self, x: ValueId, factor: f64) -> Result<ValueId, Fault> {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.b.scalar(factor as f32);
        Ok(self.b.mul(x, factor)?)
    }
}

fn check_sizes(name: &str, found: &[usize], wanted: &[usize]) -> Result<(), Fault> {
    if found == wanted {
        return Ok(());
    }
    let reason = format!("it has the sizes {found:?}; by the configuration they are {wanted:?}");
    Err(Fault::bad(reason).at(|| format!("tensor {}", quote(name))))
}

/// A size as a dim.
pub(crate) fn dim(size: usize) -> Result<Dim, Fault> {
    i64::try_from(size).map(Dim::constant).map_err(|_| Fault::bad(format!("the size {size} is too large")))
}

/// A symbol as a dim.
pub(crate) fn symbol(name: &str) -> Dim {
    Dim::symbol(Symbol::new(name))
}
