//! `dequantize_linear(codes, scales, zeros) {block_size}` of constants -> a constant in blocks
//!
//! Weights of 4 or 8 bits in blocks that share a scale (MatMulNBits, DequantizeLinear-21 by blocks) stay what they are stored as, and products read
//! them so, where no row sums over a part of 32 elements. Sound because an element is `(code - zero) * scale` in both forms; where there are
//! zero points other than the middle of the codes, it is `code * scale - zero * scale`, whose last bit may differ.
//!
//! Refuses blocks that are no multiple of 32 elements along the axis that is summed, rows that are no whole blocks, and what is not f32.
//! Small matrices are folded to f32 before, which is faster.

use lathe_ir::{ConstantId, Edit, FunctionId, Module, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::quant::DequantizeLinear;
use lathe_ops::shape::Transpose;
use lathe_tensor::{BlockFormat, Buffer, DType, Encoding, Tensor};

use crate::driver::{FunctionPass, PassReport};
use crate::{Context, PassError};

/// Elements that share a scale in the formats.
const RUN: usize = 32;

/// The pass.
pub(crate) struct BlockWeights;

impl FunctionPass for BlockWeights {
    fn name(&self) -> &'static str {
        "block_weights"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        let ids: Vec<NodeId> = module.function(function).node_ids().collect();
        for id in ids {
            let Some(weights) = Weights::of(Context { module, function }, id) else { continue };
            let name = module.function(function).node(id).map_or(String::new(), |node| node.name.clone());
            match weights.and_then(|weights| Ok((weights.blocks()?, weights))) {
                Ok(((format, bytes), weights)) => {
                    let edit = weights.edit(module, format, bytes);
                    let edit = edit.map_err(|reason| (name.clone(), reason));
                    match edit {
                        Ok(edit) => {
                            module.apply(function, edit).map_err(|source| PassError::Rejected {
                                pass: "block_weights",
                                node: name.clone(),
                                source,
                            })?;
                            report.applied.push(name);
                        }
                        Err(refusal) => report.refused.push(refusal),
                    }
                }
                Err(reason) => report.refused.push((name, reason)),
            }
        }
        Ok(())
    }
}

/// A matrix in blocks.
struct Weights {
    output: ValueId,
    codes: Tensor,
    scales: Vec<f32>,
    zeros: Option<Tensor>,
    /// Rows that are summed, as they are stored: `[n, k]`.
    rows: usize,
    columns: usize,
    block: usize,
    /// Whether it is stored as `[k, n]`.
    turned: bool,
}

impl Weights {
    /// `None` where the node is none of constants in blocks.
    fn of(context: Context<'_>, id: NodeId) -> Option<Result<Self, String>> {
        let body = context.body();
        let node = body.node(id)?;
        let Operation::Op(Op::DequantizeLinear(op)) = &node.operation else { return None };
        let constant = |index: usize| {
            let value = node.inputs.get(index).copied().flatten()?;
            context.constant(value)
        };
        let (codes, scales) = (constant(0)?, constant(1)?);
        let zeros = match node.inputs.get(2).copied().flatten() {
            Some(value) => Some(context.constant(value)?.clone()),
            None => None,
        };
        if op.block_size == 0 {
            return None;
        }
        Self::read(op, *node.outputs.first()?, codes, scales, zeros)
    }

    fn read(
        op: &DequantizeLinear,
        output: ValueId,
        codes: &Tensor,
        scales: &Tensor,
        zeros: Option<Tensor>,
    ) -> Option<Result<Self, String>> {
        let &[a, b] = codes.shape() else { return None };
        let narrow = matches!(codes.dtype(), DType::U4 | DType::I4 | DType::U8 | DType::I8);
        if !narrow || op.to != DType::F32 || scales.dtype() != DType::F32 {
            return Some(Err("only codes of 4 or 8 bits with f32 scales are kept in blocks".into()));
        }
        let turned = match op.axis {
            1 | -1 => false,
            0 | -2 => true,
            _ => return None,
        };
        let (rows, columns) = if turned { (b, a) } else { (a, b) };
        if !op.block_size.is_multiple_of(RUN) || !columns.is_multiple_of(RUN) || columns == 0 {
            return Some(Err(format!(
                "blocks of {} in sums of {columns} elements are not whole runs of {RUN}",
                op.block_size
            )));
        }
        let scales = scales.to_slice::<f32>().ok()?.into_owned();
        let (codes, block) = (codes.clone(), op.block_size);
        Some(Ok(Self { output, codes, scales, zeros, rows, columns, block, turned }))
    }

    /// The place of element `column` of a row among those that are stored, where a row has so many.
    fn place(&self, row: usize, column: usize, columns: usize) -> usize {
        if self.turned { column * self.rows + row } else { row * columns + column }
    }

    /// The format, and its bytes.
    fn blocks(&self) -> Result<(BlockFormat, Buffer), String> {
        let wide = matches!(self.codes.dtype(), DType::U8 | DType::I8);
        // Signed codes are stored behind half of their range.
        let shift = match self.codes.dtype() {
            DType::I8 => 128,
            DType::I4 => 8,
            _ => 0,
        };
        let middle = if wide { 128 } else { 8 };
        let blocks = self.columns.div_ceil(self.block);
        if self.scales.len() != self.rows * blocks {
            return Err("there is not one scale a block".into());
        }
        let zero = |place: usize| match &self.zeros {
            Some(zeros) => code(zeros, place).map(|zero| zero + shift),
            None => Some(shift),
        };
        let zeros: Vec<i32> =
            (0..self.rows * blocks).map(zero).collect::<Option<_>>().ok_or("zero points of another kind")?;
        let plain = zeros.iter().all(|zero| *zero == middle);
        let format = match (wide, plain) {
            (false, true) => BlockFormat::N4_0,
            (false, false) => BlockFormat::N4_1,
            (true, true) => BlockFormat::N8_0,
            (true, false) => BlockFormat::N8_1,
        };
        let length = format.storage_bytes(&[self.rows, self.columns]).ok_or("the matrix is too large")?;
        let mut bytes = Buffer::zeroed(length);
        let runs = self.columns / RUN;
        for (at, to) in bytes.make_mut().chunks_exact_mut(format.block_bytes()).enumerate() {
            let (row, first) = (at / runs, at % runs * RUN);
            let block = self.place(row, first / self.block, blocks);
            let scale = self.scales[block];
            to[..4].copy_from_slice(&scale.to_le_bytes());
            let head = if plain { 4 } else { 8 };
            if !plain {
                to[4..8].copy_from_slice(&(-(zeros[block] as f32 * scale)).to_le_bytes());
            }
            for element in 0..RUN {
                let place = self.place(row, first + element, self.columns);
                let code = code(&self.codes, place).ok_or("codes of another kind")? + shift;
                match wide {
                    true => to[head + element] = code as u8,
                    false => to[head + element / 2] |= (code as u8 & 15) << (element % 2 * 4),
                }
            }
        }
        Ok((format, bytes))
    }

    /// The edit that puts the constant in place of the matrix.
    fn edit(&self, module: &mut Module, format: BlockFormat, bytes: Buffer) -> Result<Edit, String> {
        let shape = vec![self.rows, self.columns];
        let tensor = Tensor::new(DType::U8, vec![bytes.len()], bytes).map_err(|error| error.to_string())?;
        let constant: ConstantId =
            module.add_encoded_constant(tensor, Encoding::Blocked(format), shape, None);
        let mut edit = Edit::new();
        let mut new = edit.shared_constant(constant);
        if self.turned {
            let transpose = Op::Transpose(Transpose { perm: vec![1, 0] });
            new = edit.node(transpose, &[Some(new)], 1, "").first().copied().ok_or("no result")?;
        }
        edit.replace(self.output, new);
        Ok(edit)
    }
}

/// An element of a tensor of codes.
fn code(tensor: &Tensor, place: usize) -> Option<i32> {
    let bytes = tensor.bytes();
    let nibble = || bytes.get(place / 2).map(|byte| byte >> (place % 2 * 4) & 15);
    Some(match tensor.dtype() {
        DType::U8 => i32::from(*bytes.get(place)?),
        DType::I8 => i32::from(*bytes.get(place)? as i8),
        DType::U4 => i32::from(nibble()?),
        DType::I4 => i32::from((nibble()? << 4) as i8 >> 4),
        _ => return None,
    })
}
