//! Mixtures of experts: the router's logits, the experts' matrices stacked, and what every token passes through beside them.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::Activation as OpActivation;
use lathe_ops::moe::{Gate, Moe};
use lathe_tensor::{Buffer, DType, Encoding, Tensor};

use super::mlp::Gated;
use crate::error::{Fault, quote};
use crate::model::Weight;
use crate::model::net::{Linear, Net, WEIGHT};

/// A mixture of experts.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    /// The router.
    pub router: Linear,
    /// Added to the scores for the selection alone: the weight's name.
    pub selection_bias: Option<String>,
    /// The experts' matrices.
    pub matrices: Matrices,
    /// The inner width of an expert.
    pub inner: usize,
    /// How experts are chosen and what they compute.
    pub op: Moe,
    /// What every token passes through too.
    pub shared: Option<Shared>,
}

/// An expert that every token passes through.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The expert.
    pub feed: Gated,
    /// A row whose product with the token, through a sigmoid, multiplies the answer.
    pub gate: Option<Linear>,
}

/// How a checkpoint stores the experts' matrices.
#[derive(Clone, Debug)]
pub(crate) enum Matrices {
    /// One matrix `[out, in]` an expert: `PREFIXN.GATE.weight`; without gate where there is no such name.
    Each {
        /// All before the expert's number, with its dot.
        prefix: String,
        /// What is activated.
        gate: Option<&'static str>,
        /// What is not; the only matrix in, where there is no gate.
        up: &'static str,
        /// The matrix out.
        down: &'static str,
    },
    /// All in one tensor `[experts, in, out]`, gates in even columns, with biases, as gpt-oss stores them.
    Stacked {
        /// Prefix of `gate_up_proj` and `down_proj`.
        prefix: String,
    },
}

impl Experts {
    /// The attributes for experts that gate: softmax over all, nothing renormalised.
    pub(crate) fn attributes(experts: usize, top_k: usize) -> Moe {
        Moe {
            experts,
            top_k,
            router: lathe_ops::moe::Router::Softmax,
            renormalise: false,
            epsilon: 0.0,
            scale: 1.0,
            groups: None,
            capacity: None,
            activation: OpActivation::Silu,
            gate: Gate::Halves,
            clamped: None,
            transposed: true,
            shared_experts: 0,
        }
    }

    /// Builds it for rows of `width`.
    pub(crate) fn build(&self, net: &mut Net<'_>, x: ValueId, width: usize) -> Result<ValueId, Fault> {
        self.op.check().map_err(Fault::bad)?;
        let count = self.op.experts;
        let logits = net.linear(x, &self.router, width, count)?;
        let mut inputs = vec![Some(x), Some(logits)];
        let bias = match &self.selection_bias {
            Some(name) => Some(net.weight(name, &[count])?),
            None => None,
        };
        match &self.matrices {
            Matrices::Each { prefix, gate, up, down } => {
                let into: Vec<&str> = gate.iter().copied().chain([*up]).collect();
                inputs.push(Some(self.stack(net, prefix, &into, [self.inner, width])?));
                inputs.push(Some(self.stack(net, prefix, &[*down], [width, self.inner])?));
                inputs.push(bias);
            }
            Matrices::Stacked { prefix } => {
                let (inner, both) = (self.inner, 2 * self.inner);
                inputs.push(Some(net.matrix(&format!("{prefix}.gate_up_proj"), &[count, width, both])?));
                inputs.push(Some(net.matrix(&format!("{prefix}.down_proj"), &[count, inner, width])?));
                inputs.push(bias);
                inputs.push(Some(net.weight(&format!("{prefix}.gate_up_proj_bias"), &[count, both])?));
                inputs.push(Some(net.weight(&format!("{prefix}.down_proj_bias"), &[count, width])?));
            }
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let y = net.b.named(&self.router.name).apply(Op::Moe(self.op.clone()), &inputs)?;
        match &self.shared {
            Some(shared) => shared.add(net, x, y, width),
            None => Ok(y),
        }
    }

    /// The matrices of these names of all experts as one tensor `[experts, parts * rows, columns]`, as they are stored where they are stored
    /// alike, else as f32.
    fn stack(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        parts: &[&str],
        [rows, columns]: [usize; 2],
    ) -> Result<ValueId, Fault> {
        let shape = [self.op.experts, parts.len() * rows, columns];
        let mut pieces = Vec::new();
        for expert in 0..self.op.experts {
            for part in parts {
                let name = format!("{prefix}{expert}.{part}.weight");
                let Some(stored) = net.stored(&name)? else { continue };
                if stored.shape != [rows, columns] {
                    let reason =
                        format!("an expert's matrix of sizes {:?}, not [{rows}, {columns}]", stored.shape);
                    return Err(Fault::bad(reason).at(|| format!("tensor {}", quote(&name))));
                }
                pieces.push(stored);
            }
        }
        // The name that the file has, with a star for the number.
        let end = format!("0.{}.weight", parts[0]);
        let first = net.spelling(&format!("{prefix}{end}"));
        let name = format!("{}*.{}", first.strip_suffix(&end).unwrap_or(prefix), parts[0]);
        if pieces.len() != self.op.experts.saturating_mul(parts.len()) {
            // Some are missing and noted: the import fails, and lists them.
            let dims =
                shape.iter().map(|&size| crate::model::net::dim(size)).collect::<Result<Vec<_>, _>>()?;
            return Ok(net.floats(&format!("{WEIGHT}{name}"), &dims));
        }
        net.matrix_constant(&name, stacked(&pieces, &shape)?)
    }
}

/// Matrices one after another, as they are stored where all are stored alike, else as f32.
fn stacked(pieces: &[Weight], shape: &[usize]) -> Result<Weight, Fault> {
    let kind = |piece: &Weight| (piece.tensor.dtype(), piece.encoding);
    let (dtype, encoding) = pieces.first().map_or((DType::F32, Encoding::Dense), kind);
    if pieces.iter().any(|piece| kind(piece) != (dtype, encoding)) {
        let wide =
            pieces.iter().map(|piece| piece.to_f32().map(Weight::dense)).collect::<Result<Vec<_>, _>>()?;
        return stacked(&wide, shape);
    }
    let sizes = pieces.iter().map(|piece| piece.tensor.bytes().len());
    let mut bytes = Buffer::zeroed(sizes.fold(0, usize::saturating_add));
    let mut rest = bytes.make_mut();
    for piece in pieces {
        let from = piece.tensor.bytes();
        let (to, behind) = std::mem::take(&mut rest).split_at_mut(from.len());
        to.copy_from_slice(from);
        // Mapped bytes are not read again.
        piece.tensor.buffer().release();
        rest = behind;
    }
    let stored = if encoding == Encoding::Dense { shape.to_vec() } else { vec![bytes.len()] };
    Ok(Weight { tensor: Tensor::new(dtype, stored, bytes)?, encoding, shape: shape.to_vec() })
}

impl Shared {
    fn add(&self, net: &mut Net<'_>, x: ValueId, y: ValueId, width: usize) -> Result<ValueId, Fault> {
        let mut answer = self.feed.build(net, x, width)?;
        if let Some(gate) = &self.gate {
            let gate = net.linear(x, gate, width, 1)?;
            let gate = net.b.sigmoid(gate)?;
            answer = net.b.mul(gate, answer)?;
        }
        Ok(net.b.add(y, answer)?)
    }
}
