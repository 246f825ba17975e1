//! Typed random inputs: ids below the vocabulary, masks of 0 and 1, floats in `-1..1`.

use lathe_ir::{Function, FunctionId, Module, Operation, Source, Symbol, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Compare;
use lathe_tensor::{DType, SplitMix64, Tensor, TensorError};

/// The sizes that symbolic dims are tried with: 1 (broadcasting), 2, 3 and 7 (no multiple of a vector).
const SMALL: [i64; 4] = [1, 2, 3, 7];

/// A size for each symbol of a function's inputs; `round` varies them.
pub fn small_dims(module: &Module, function: FunctionId, round: usize) -> Vec<(Symbol, i64)> {
    let body = module.function(function);
    let mut symbols: Vec<Symbol> = body
        .inputs()
        .iter()
        .flat_map(|id| body.ty(*id).dims.iter().flat_map(|dim| dim.symbols()).cloned())
        .collect();
    symbols.sort();
    symbols.dedup();
    symbols
        .into_iter()
        .enumerate()
        .map(|(index, symbol)| (symbol, SMALL[(index + round) % SMALL.len()]))
        .collect()
}

/// Makes inputs for a function.
pub struct TypedInputs<'a> {
    module: &'a Module,
    body: &'a Function,
    random: SplitMix64,
}

impl<'a> TypedInputs<'a> {
    /// Inputs for this function; the same seed gives the same inputs.
    pub fn new(module: &'a Module, function: FunctionId, seed: u64) -> Self {
        Self { module, body: module.function(function), random: SplitMix64::new(seed) }
    }

    /// One tensor an input of the function, its symbolic dims sized by `dims`.
    ///
    /// # Errors
    /// Where a size is missing, negative or too large.
    pub fn make(&mut self, dims: &[(Symbol, i64)]) -> Result<Vec<Tensor>, TensorError> {
        let size = |symbol: &Symbol| dims.iter().find(|(name, _)| name == symbol).map(|(_, size)| *size);
        let parts = self.composite_parts()?;
        self.body
            .inputs()
            .iter()
            .enumerate()
            .map(|(index, id)| {
                if let Some((_, part)) = parts.iter().find(|(input, _)| *input == index) {
                    return Ok(part.clone());
                }
                let ty = self.body.ty(*id);
                let shape: Vec<usize> = ty
                    .dims
                    .iter()
                    .map(|dim| dim.evaluate(&size).and_then(|size| usize::try_from(size).ok()))
                    .collect::<Option<_>>()
                    .ok_or_else(|| TensorError::TooLarge(Vec::new()))?;
                if is_key_mask(self.module, self.body, *id) {
                    return self.key_mask(ty.dtype, &shape);
                }
                let bound = id_bound(self.module, self.body, *id).unwrap_or(2);
                self.tensor(ty.dtype, &shape, bound)
            })
            .collect()
    }

    /// The parts of values for those inputs that are no tensors, as `(input, tensor)`.
    fn composite_parts(&mut self) -> Result<Vec<(usize, Tensor)>, TensorError> {
        let mut parts = Vec::new();
        for composite in &self.body.composites().inputs {
            let made = composite.form.example(&mut |dtype, shape| self.tensor(dtype, shape, 2))?;
            parts.extend(made.into_iter().enumerate().map(|(part, tensor)| (composite.first + part, tensor)));
        }
        Ok(parts)
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize], bound: u64) -> Result<Tensor, TensorError> {
        let mut tensor = Tensor::zeros(dtype, shape)?;
        macro_rules! fill {
            ($ty:ty, $value:expr) => {
                for element in tensor.as_mut_slice::<$ty>()? {
                    let random = self.random.bits();
                    *element = $value(random);
                }
            };
        }
        let signed = |random: u64| (random >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match dtype {
            DType::F32 => fill!(f32, signed),
            DType::F64 => fill!(f64, |random| f64::from(signed(random))),
            DType::I64 => fill!(i64, |random| (random % bound) as i64),
            DType::I32 => fill!(i32, |random| (random % bound) as i32),
            DType::Bool | DType::U8 => fill!(u8, |random| (random % 2) as u8),
            DType::I8 => fill!(i8, |random| (random % 2) as i8),
            _ => {}
        }
        Ok(tensor)
    }

    /// Rows padded on the left and on the right by turns; in larger batches also one that is padding altogether, and one without.
    fn key_mask(&mut self, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        let mut tensor = Tensor::zeros(dtype, shape)?;
        let [batch, length] = *shape else { return Ok(tensor) };
        let start = (self.random.bits() % 2) as usize;
        let mut rows: Vec<Vec<bool>> = Vec::new();
        for row in 0..batch {
            let padded = if length > 1 { 1 + (self.random.bits() as usize) % (length - 1) } else { 0 };
            let seen = |place: usize| match (row + start) % 2 {
                _ if batch > 2 && row == 1 => false,
                _ if batch > 2 && row == 2 => true,
                0 => place >= padded,
                _ => place < length - padded,
            };
            rows.push((0..length).map(seen).collect());
        }
        let seen = rows.into_iter().flatten();
        match dtype {
            DType::I64 => {
                tensor.as_mut_slice::<i64>()?.iter_mut().zip(seen).for_each(|(to, seen)| *to = seen.into())
            }
            DType::I32 => {
                tensor.as_mut_slice::<i32>()?.iter_mut().zip(seen).for_each(|(to, seen)| *to = seen.into())
            }
            _ => tensor.as_mut_slice::<u8>()?.iter_mut().zip(seen).for_each(|(to, seen)| *to = seen.into()),
        }
        Ok(tensor)
    }
}

/// Whether an input says of each key of a batch whether it may be seen: `[batch, keys]`, cast to bool and no ids.
pub(crate) fn is_key_mask(module: &Module, body: &Function, input: ValueId) -> bool {
    let ty = body.ty(input);
    let flags = matches!(ty.dtype, DType::I64 | DType::I32 | DType::Bool);
    let is_cast = becomes_bool(body, input);
    let is_mask = ty.dtype == DType::Bool || is_cast;
    flags && ty.rank() == 2 && is_mask && id_bound(module, body, input).is_none()
}

/// Whether a value is cast to bool or compared with one number, as it is, in another shape or dtype, or behind arithmetic.
fn becomes_bool(body: &Function, input: ValueId) -> bool {
    let mut waiting = vec![input];
    for _ in 0..16 {
        let Some(value) = waiting.pop() else { break };
        for node in body.users(value).iter().filter_map(|user| body.node(*user)) {
            match &node.operation {
                Operation::Op(Op::Cast(cast)) if cast.to == DType::Bool => return true,
                Operation::Op(Op::Compare(_))
                    if node.inputs.iter().flatten().any(|id| is_number(body, *id)) =>
                {
                    return true;
                }
                Operation::Op(
                    Op::Reshape(_)
                    | Op::Unsqueeze(_)
                    | Op::Slice(_)
                    | Op::Cast(_)
                    | Op::Expand(_)
                    | Op::Binary(_),
                ) => waiting.extend(&node.outputs),
                _ => {}
            }
        }
    }
    false
}

/// Whether a value is one constant number.
fn is_number(body: &Function, value: ValueId) -> bool {
    let constant = matches!(body.value(value).source, Source::Constant(_));
    constant && body.ty(value).dims.iter().all(|dim| dim.as_constant() == Some(1))
}

/// Integers below this are valid for an input: the size of the axis that it indexes; `None` for masks, flags and types.
fn id_bound(module: &Module, body: &Function, input: ValueId) -> Option<u64> {
    let mut waiting = vec![input];
    let mut bound = None;
    let mut steps = 0;
    while let (Some(value), true) = (waiting.pop(), steps < 64) {
        steps += 1;
        for user in body.users(value) {
            let Some(node) = body.node(*user) else { continue };
            match &node.operation {
                Operation::Op(Op::Gather(gather)) if node.inputs.get(1) == Some(&Some(value)) => {
                    let table = node.inputs.first().copied().flatten();
                    let Some(table) =
                        table.filter(|table| matches!(body.value(*table).source, Source::Constant(_)))
                    else {
                        continue;
                    };
                    let dims = &body.ty(table).dims;
                    let axis = if gather.axis < 0 { gather.axis + dims.len() as i64 } else { gather.axis };
                    let size = usize::try_from(axis).ok().and_then(|axis| dims.get(axis)?.as_constant());
                    bound = bound.into_iter().chain(size).min();
                }
                Operation::Op(
                    Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Cast(_) | Op::Slice(_),
                ) => {
                    waiting.extend(&node.outputs);
                }
                // One-hot: the input is compared with every id.
                Operation::Op(Op::Compare(Compare::Equal)) => {
                    let ids =
                        node.inputs.iter().flatten().filter_map(|other| largest_id(module, body, *other));
                    bound = bound.into_iter().chain(ids.map(|largest| largest.saturating_add(1))).min();
                }
                Operation::Op(Op::Expand(_)) => waiting.extend(&node.outputs),
                _ => {}
            }
        }
    }
    bound.and_then(|bound| u64::try_from(bound).ok()).map(|bound| bound.max(1))
}

/// The largest element of a constant list of integers.
fn largest_id(module: &Module, body: &Function, value: ValueId) -> Option<i64> {
    let Source::Constant(constant) = body.value(value).source else { return None };
    let tensor = &module.constant(constant).tensor;
    if tensor.len() < 2 {
        return None;
    }
    match tensor.dtype() {
        DType::I64 => tensor.to_slice::<i64>().ok()?.iter().copied().max(),
        DType::I32 => tensor.to_slice::<i32>().ok()?.iter().copied().max().map(i64::from),
        _ => None,
    }
}
