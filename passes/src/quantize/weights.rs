//! `matmul(x, constant)` and `gather(constant, input_ids)` `->` the same over quantised blocks of the constant
//!
//! The matrices of a language model and the tables of its tokens become blocks of 32 elements along the axis that products sum over, each
//! block with a scale of its own: 8 bits an element, or 4. Changes the answer by what rounding the weights does, and is run on request alone.
//! Of 4 bits, tables of tokens and matrices with as many rows as one (the head) keep 8, as every logit and every token depends on them.
//! A matrix `[k, n]` is stored as its transpose, so that sums run along its rows. The experts of a mixture become blocks together, all of one format.
//! Refuses sums whose length is no multiple of 32, matrices of fewer than 32 rows (routers decide by small differences), elements that
//! half precision cannot scale, and weights that are summed along both axes.

mod experts;

use lathe_ir::{
    Constant, ConstantId, Edit, EditValue, FunctionId, Module, NodeId, Operation, Source, ValueId,
};
use lathe_ops::Op;
use lathe_ops::elementwise::Cast;
use lathe_ops::shape::Transpose;
use lathe_tensor::{BlockFormat, Buffer, DType, Encoding, Tensor};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::driver::{FunctionPass, PassReport};
use crate::{Context, PassError};

/// Rows of a matrix that is quantised.
const FEWEST_ROWS: usize = 32;
/// Elements that share a scale.
const BLOCK: usize = 32;

/// Bits of a quantised weight. 16 are bf16: not blocks, but each element rounded; what has 16 bits already stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightBits {
    /// `Q8_0`.
    Eight,
    /// `Q4_1`, and `Q8_0` for the vocabulary.
    Four,
    /// bf16.
    Sixteen,
}

/// Makes weights blocks.
pub struct QuantizeWeights {
    /// How many bits they get.
    pub bits: WeightBits,
}

/// What becomes of a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The constant's name.
    pub name: String,
    /// How it is stored then, or why it stays as it is.
    pub format: Result<Encoding, String>,
    /// It is `[n, k]`: sums run along its rows.
    pub by_rows: bool,
    /// It is the matrices of all experts.
    pub experts: bool,
}

/// A node over a constant matrix.
#[derive(Clone, Copy)]
struct Site {
    node: NodeId,
    constant: ConstantId,
    /// The constant is `[n, k]`: its rows are what the products' sums run along.
    by_rows: bool,
    table: bool,
}

impl FunctionPass for QuantizeWeights {
    fn name(&self) -> &'static str {
        "quantize_weights"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        let sites = sites(Context { module, function });
        let vocabulary = vocabulary(module, &sites);
        let mut made: FxHashMap<ConstantId, Result<ConstantId, String>> = FxHashMap::default();
        for site in &sites {
            let name =
                module.function(function).node(site.node).map_or(String::new(), |node| node.name.clone());
            let blocks = match made.get(&site.constant) {
                Some(blocks) => blocks.clone(),
                None => {
                    let format = self.format(module, *site, &sites, &vocabulary);
                    let blocks = format.and_then(|format| blocks(module, *site, format));
                    made.insert(site.constant, blocks.clone());
                    blocks
                }
            };
            match blocks {
                Ok(blocks) => {
                    let Some(edit) = edit(module, function, *site, blocks) else { continue };
                    module.apply(function, edit).map_err(|source| PassError::Rejected {
                        pass: "quantize_weights",
                        node: name.clone(),
                        source,
                    })?;
                    report.applied.push(name);
                }
                Err(reason) => report.refused.push((name, reason)),
            }
        }
        experts::quantise(self, module, function, report)
    }
}

impl QuantizeWeights {
    /// What becomes of the named constants of `main`.
    pub fn choices(&self, module: &Module) -> Vec<Choice> {
        let Some(function) = module.main() else { return Vec::new() };
        let sites = sites(Context { module, function });
        let vocabulary = vocabulary(module, &sites);
        let mut seen = FxHashSet::default();
        let choice = |site: &Site| {
            let name = module.constant(site.constant).name.clone()?;
            let format = self.format(module, *site, &sites, &vocabulary);
            let choice = Choice { name, format, by_rows: site.by_rows, experts: false };
            seen.insert(site.constant).then_some(choice)
        };
        let mut choices: Vec<Choice> = sites.iter().filter_map(choice).collect();
        choices.extend(experts::choices(self, Context { module, function }));
        choices
    }

    /// The format of a site's constant.
    fn format(
        &self,
        module: &Module,
        site: Site,
        sites: &[Site],
        vocabulary: &FxHashSet<usize>,
    ) -> Result<Encoding, String> {
        if sites.iter().any(|other| other.constant == site.constant && other.by_rows != site.by_rows) {
            return Err("the weights are summed along both axes".to_string());
        }
        let [rows, columns] = site.sizes(module)?;
        self.format_of(module.constant(site.constant), [rows, columns], vocabulary.contains(&rows))
    }

    /// How a matrix of so many rows that sums run along is stored.
    fn format_of(
        &self,
        constant: &Constant,
        [rows, columns]: [usize; 2],
        vocabulary: bool,
    ) -> Result<Encoding, String> {
        if rows < FEWEST_ROWS {
            return Err(format!("{rows} rows are fewer than {FEWEST_ROWS}"));
        }
        if self.bits == WeightBits::Sixteen {
            return match constant.tensor.dtype() {
                DType::F32 => Ok(Encoding::Widened(DType::BF16)),
                dtype => Err(format!("it is {dtype} already")),
            };
        }
        if !columns.is_multiple_of(BLOCK) || columns == 0 {
            return Err(format!("sums of {columns} elements are no whole blocks of {BLOCK}"));
        }
        Ok(Encoding::Blocked(match self.bits {
            WeightBits::Four if !vocabulary => BlockFormat::Q4_1,
            _ => BlockFormat::Q8_0,
        }))
    }
}

impl Site {
    /// Rows and columns of the matrix whose rows sums run along.
    fn sizes(self, module: &Module) -> Result<[usize; 2], String> {
        match (&module.constant(self.constant).shape[..], self.by_rows) {
            (&[rows, columns], true) | (&[columns, rows], false) => Ok([rows, columns]),
            _ => Err("the weights are no matrix".to_string()),
        }
    }
}

/// Rows of the tables of tokens.
fn vocabulary(module: &Module, sites: &[Site]) -> FxHashSet<usize> {
    let tables = sites.iter().filter(|site| site.table);
    tables.filter_map(|site| module.constant(site.constant).shape.first().copied()).collect()
}

/// The constant of a site as it is to be stored, `[n, k]`.
fn blocks(module: &mut Module, site: Site, encoding: Encoding) -> Result<ConstantId, String> {
    let [rows, columns] = site.sizes(module)?;
    let constant = module.constant(site.constant);
    let tensor = stored(&constant.tensor, encoding, [rows, columns], site.by_rows)?;
    let name = constant.name.clone();
    Ok(module.add_encoded_constant(tensor, encoding, vec![rows, columns], name))
}

/// What is stored of a matrix, or of its transpose where it is not stored `by_rows`: blocks, or rounded elements `[rows, columns]`.
fn stored(
    matrix: &Tensor,
    encoding: Encoding,
    [rows, columns]: [usize; 2],
    by_rows: bool,
) -> Result<Tensor, String> {
    let text = |error: lathe_tensor::TensorError| error.to_string();
    match encoding {
        Encoding::Blocked(format) => {
            let bytes = encoded(matrix, format, [rows, columns], by_rows)?;
            Tensor::new(DType::U8, vec![bytes.len()], bytes).map_err(text)
        }
        Encoding::Widened(dtype) => {
            let matrix = if by_rows { matrix } else { &transposed(matrix, &[1, 0])? };
            let op = Op::Cast(Cast { to: dtype, saturate: true });
            let result = op.evaluate(&[Some(matrix)], 1, &lathe_ops::Limits::default());
            Ok(result.map_err(|error| error.to_string())?.remove(0))
        }
        Encoding::Dense => Ok(matrix.clone()),
    }
}

fn transposed(tensor: &Tensor, perm: &[usize]) -> Result<Tensor, String> {
    let perm = perm.to_vec();
    let result =
        Op::Transpose(Transpose { perm }).evaluate(&[Some(tensor)], 1, &lathe_ops::Limits::default());
    Ok(result.map_err(|error| error.to_string())?.remove(0))
}

/// The blocks of a matrix, or of its transpose where it is not stored `by_rows`; the rows are shared between threads.
///
/// # Errors
/// Elements that half precision cannot scale.
pub fn encoded(
    matrix: &Tensor,
    format: BlockFormat,
    [rows, columns]: [usize; 2],
    by_rows: bool,
) -> Result<Buffer, String> {
    let matrix = if by_rows { matrix } else { &transposed(matrix, &[1, 0])? };
    let row_bytes = columns / format.block() * format.block_bytes();
    let mut bytes = Buffer::zeroed(rows.checked_mul(row_bytes).ok_or("the matrix is too large")?);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let part = rows.div_ceil(workers).max(1);
    let encode = |first: usize, to: &mut [u8]| -> Result<(), String> {
        let mut values = vec![0.0f32; columns];
        for (row, to) in to.chunks_exact_mut(row_bytes).enumerate() {
            matrix.widened((first + row) * columns, &mut values).map_err(|error| error.to_string())?;
            if !BlockFormat::holds(&values) {
                return Err("elements that half precision cannot scale".to_string());
            }
            format.encode(&values, to).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let parts = bytes.make_mut().chunks_mut(part * row_bytes).enumerate();
        let running: Vec<_> =
            parts.map(|(index, to)| scope.spawn(move || encode(index * part, to))).collect();
        let ended =
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread failed".into())));
        ended.collect::<Result<(), String>>()
    })?;
    Ok(bytes)
}

/// Every product with a constant matrix, and every look-up of tokens in one.
fn sites(context: Context<'_>) -> Vec<Site> {
    let body = context.body();
    let site = |id: NodeId| {
        let node = body.node(id)?;
        let Operation::Op(op) = &node.operation else { return None };
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let (value, by_rows, table) = match op {
            Op::MatMul(_) | Op::Linear(_) => match context.producer(operand(1)?) {
                Some((_, inner, Op::Transpose(transpose))) if transpose.perm == [1, 0] => {
                    (inner.inputs.first().copied().flatten()?, true, false)
                }
                _ => (operand(1)?, false, false),
            },
            Op::Gather(gather) if gather.axis == 0 && is_tokens(context, operand(1)?) => {
                (operand(0)?, true, true)
            }
            _ => return None,
        };
        let constant = floats(context, value).filter(|id| context.module.constant(*id).shape.len() == 2)?;
        Some(Site { node: id, constant, by_rows, table })
    };
    body.topological_order().unwrap_or_default().into_iter().filter_map(site).collect()
}

/// The constant of floats of up to 32 bits that a value is, as it is stored, or is cast from.
fn floats(context: Context<'_>, value: ValueId) -> Option<ConstantId> {
    let value = match context.producer(value) {
        Some((_, inner, Op::Cast(cast))) if cast.to == DType::F32 => {
            inner.inputs.first().copied().flatten()?
        }
        _ => value,
    };
    let Source::Constant(constant) = context.body().value(value).source else { return None };
    let stored = context.module.constant(constant);
    let narrow = matches!(stored.tensor.dtype(), DType::F16 | DType::BF16 | DType::F32);
    (narrow && !matches!(stored.encoding, Encoding::Blocked(_))).then_some(constant)
}

/// Whether a value is an input of tokens, of any dtype.
fn is_tokens(context: Context<'_>, value: ValueId) -> bool {
    let value = match context.producer(value) {
        Some((_, inner, Op::Cast(_))) => inner.inputs.first().copied().flatten().unwrap_or(value),
        _ => value,
    };
    let value = context.body().value(value);
    let named = value.name.as_deref().is_some_and(|name| name.ends_with("input_ids"));
    named && matches!(value.source, Source::Input(_))
}

/// The node again over blocks.
fn edit(module: &Module, function: FunctionId, site: Site, blocks: ConstantId) -> Option<Edit> {
    let node = module.function(function).node(site.node)?;
    let (&[output], Operation::Op(op)) = (&node.outputs[..], &node.operation) else { return None };
    let mut edit = Edit::new();
    let mut inputs: Vec<Option<EditValue>> =
        node.inputs.iter().map(|input| input.map(EditValue::Existing)).collect();
    let constant = edit.shared_constant(blocks);
    match site.table {
        true => inputs[0] = Some(constant),
        false => {
            let perm = Op::Transpose(Transpose { perm: vec![1, 0] });
            inputs[1] = Some(edit.op(perm, &[constant], &node.name));
        }
    }
    let new = edit.node(op.clone(), &inputs, 1, &node.name).first().copied()?;
    edit.replace(output, new);
    Some(edit)
}
