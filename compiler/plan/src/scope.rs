//! The function that is being planned: where its values lie and who still uses them.

use lathe_ir::{ConstantId, Function, NodeId, Source, ValueId};
use lathe_tensor::Encoding;
use rustc_hash::FxHashMap;

use crate::PlanError;
use crate::error::Refusal;
use crate::location::{BufferId, Location};
use crate::planner::{BufferKind, Operand, Planner};
use crate::region::RegionDraft;
use crate::size::Size;
use crate::weights::Packing;

/// Most elements of a tensor of sizes that is stored from the dims table.
const MOST_KNOWN: usize = 64;

/// One function in the planning.
pub(crate) struct Scope<'m> {
    pub function: &'m Function,
    /// Nesting: 0 for the function itself, 1 for its branches.
    pub depth: u32,
    pub places: Vec<Option<Location>>,
    /// Uses still to come, as operand and as output.
    pub remaining: Vec<usize>,
    /// Where a value must be made, asked for by a consumer.
    pub reserved: FxHashMap<ValueId, Location>,
    /// The join of a concatenation, by its output.
    pub joins: FxHashMap<ValueId, u32>,
    /// The stage in which conditions on sizes are checked at the earliest: that of the branch.
    pub gate: u32,
    /// Index of the output that a value is.
    pub outputs: FxHashMap<ValueId, usize>,
}

impl<'m> Scope<'m> {
    pub fn new(function: &'m Function, depth: u32) -> Self {
        let mut remaining: Vec<_> = (0..function.value_count()).map(|_| 0).collect();
        for id in function.node_ids() {
            for value in function.node(id).iter().flat_map(|node| node.inputs.iter().flatten()) {
                remaining[value.index()] += 1;
            }
        }
        let mut outputs = FxHashMap::default();
        for (index, (_, value)) in function.outputs().iter().enumerate() {
            remaining[value.index()] += 1;
            outputs.entry(*value).or_insert(index);
        }
        Self {
            function,
            depth,
            places: vec![None; function.value_count()],
            remaining,
            reserved: FxHashMap::default(),
            joins: FxHashMap::default(),
            gate: 0,
            outputs,
        }
    }
}

/// Planner and scope together: what the selection rules work on.
pub(crate) struct Context<'p, 'm> {
    pub planner: &'p mut Planner<'m>,
    pub scope: Scope<'m>,
}

impl Context<'_, '_> {
    /// The sizes of a value's type.
    pub fn dims(&mut self, value: ValueId) -> Result<Vec<Size>, PlanError> {
        let function = self.scope.function;
        let mut dims = Vec::with_capacity(function.ty(value).rank());
        for dim in &function.ty(value).dims {
            dims.push(self.planner.sizes.translate(dim).map_err(|symbol| {
                self.planner.bug(format!("symbol `{}` has no meaning here", symbol.name()))
            })?);
        }
        Ok(dims)
    }

    /// The elements of a tensor of sizes, where they are known as sizes.
    pub fn known(&mut self, value: ValueId) -> Option<Vec<Size>> {
        let function = self.scope.function;
        if let Some(known) = &function.value(value).known {
            return known.iter().map(|dim| self.planner.sizes.translate(dim).ok()).collect();
        }
        match function.value(value).source {
            Source::Constant(id) => {
                let tensor = &self.planner.module.constant(id).tensor;
                if tensor.len() > MOST_KNOWN {
                    return None;
                }
                let elements: Vec<i64> = match tensor.dtype() {
                    lathe_tensor::DType::I64 => tensor.to_slice::<i64>().ok()?.to_vec(),
                    lathe_tensor::DType::I32 => {
                        tensor.to_slice::<i32>().ok()?.iter().map(|&element| i64::from(element)).collect()
                    }
                    _ => return None,
                };
                Some(elements.into_iter().map(|element| self.planner.sizes.constant(element)).collect())
            }
            _ => None,
        }
    }

    /// The elements of a tensor of constant sizes.
    pub fn constants(&mut self, value: ValueId) -> Option<Vec<i64>> {
        let known = self.known(value)?;
        known.into_iter().map(|size| self.planner.sizes.as_constant(size)).collect()
    }

    /// Where a value lies, by whatever strides. Tensors of sizes are stored on their first use as data.
    pub fn location(&mut self, value: ValueId) -> Result<Location, Refusal> {
        if let Some(location) = &self.scope.places[value.index()] {
            return Ok(location.clone());
        }
        if let Source::Constant(id) = self.scope.function.value(value).source {
            let location = self.constant_location(id)?;
            self.place(value, location.clone());
            return Ok(location);
        }
        let known = match self.known(value) {
            Some(known) => known,
            None => {
                return Err(self.planner.bug(format!("value %{} was not made yet", value.index())).into());
            }
        };
        self.store_sizes(value, &known)
    }

    /// Where a constant lies in row-major order; quantised blocks and 16-bit floats are decoded for it.
    pub fn constant_location(&mut self, id: ConstantId) -> Result<Location, Refusal> {
        let constant = self.planner.module.constant(id);
        let (dtype, shape) = (constant.dtype(), &constant.shape);
        let bytes = match constant.encoding {
            Encoding::Dense => constant.tensor.bytes().len(),
            Encoding::Blocked(_) | Encoding::Widened(_) => shape.iter().product::<usize>().saturating_mul(4),
        };
        let dims: Vec<_> = shape.iter().map(|&size| self.planner.sizes.constant(size as i64)).collect();
        let buffer = self.planner.constant_buffer(id, Packing::Dense, dtype, bytes as i64);
        Ok(Location::dense(&mut self.planner.sizes, buffer, dtype, &dims))
    }

    /// Stores a tensor of sizes from the dims table.
    pub fn store_sizes(&mut self, value: ValueId, known: &[Size]) -> Result<Location, Refusal> {
        let dtype = self.scope.function.ty(value).dtype;
        let dims = self.dims(value)?;
        let location = self.destination(value, &dims, Fits::Dense)?;
        let mut draft = RegionDraft::new(vec![Size::ONE]);
        for (index, &size) in known.iter().enumerate() {
            let entry = self.planner.table.entry(&self.planner.sizes, size);
            let result = draft.dim(entry, dtype);
            let mut element = location.clone();
            element.offset = self.planner.sizes.add_constant(location.offset, index as i64);
            element.dims = vec![Size::ONE];
            element.strides = vec![Size::ONE];
            draft.write(element, result);
        }
        if !known.is_empty() {
            draft.emit(self.planner, "sizes stored as data");
        }
        self.place(value, location.clone());
        Ok(location)
    }

    /// Where a value lies in row-major order; copied there once if it does not.
    pub fn dense(&mut self, value: ValueId) -> Result<Location, Refusal> {
        let location = self.location(value)?;
        if location.is_dense(&mut self.planner.sizes) {
            return Ok(location);
        }
        let target = self.planner.temporary(location.dtype, &location.dims, self.scope.depth);
        self.copy(&location, &target, "made contiguous for the next step")?;
        self.place(value, target.clone());
        Ok(target)
    }

    /// Copies a box of elements of any strides.
    pub fn copy(&mut self, from: &Location, to: &Location, reason: &str) -> Result<(), Refusal> {
        let Some(bytes) = from.dtype.element_bytes() else {
            return crate::error::refuse(format!("{} elements do not take whole bytes", from.dtype));
        };
        let mut dims = to.dims.clone();
        let mut strides = [from.strides.clone(), to.strides.clone()];
        crate::location::merge_axes(&mut self.planner.sizes, &mut dims, &mut strides);
        let operands = [
            Operand::Read(from),
            Operand::Update(to),
            Operand::Int(bytes as i64),
            Operand::Int(dims.len() as i64),
            Operand::Dims(&dims),
            Operand::Dims(&strides[0]),
            Operand::Dims(&strides[1]),
        ];
        self.planner.call(lathe_artifact::builtin::Builtin::Copy, &operands, reason);
        Ok(())
    }

    /// Records where a value lies; uses still to come keep the buffer.
    pub fn place(&mut self, value: ValueId, location: Location) {
        let uses = self.scope.remaining[value.index()];
        if let Some(old) = self.scope.places[value.index()].take() {
            let pending = &mut self.planner.buffers[old.buffer.0 as usize].pending;
            *pending = pending.saturating_sub(uses);
        }
        self.planner.buffers[location.buffer.0 as usize].pending += uses;
        self.scope.places[value.index()] = Some(location);
    }

    /// Counts the uses of a node's operands as done.
    pub fn consume(&mut self, node: NodeId) {
        let function = self.scope.function;
        for value in function.node(node).iter().flat_map(|node| node.inputs.iter().flatten()) {
            let remaining = &mut self.scope.remaining[value.index()];
            *remaining = remaining.saturating_sub(1);
            if let Some(location) = &self.scope.places[value.index()] {
                let pending = &mut self.planner.buffers[location.buffer.0 as usize].pending;
                *pending = pending.saturating_sub(1);
            }
        }
    }

    /// Whether nothing but `uses` operands of the current node needs the buffer any more.
    pub fn dies(&self, buffer: BufferId, uses: usize) -> bool {
        let data = &self.planner.buffers[buffer.0 as usize];
        data.kind == BufferKind::Arena && data.depth == self.scope.depth && data.pending <= uses
    }
}

/// What layouts a step can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fits {
    /// Row-major without gaps.
    Dense,
    /// The last axis contiguous, the others merged into rows of one stride.
    Rows,
    /// The last axis contiguous.
    Columns,
    /// Any strides.
    Any,
}
