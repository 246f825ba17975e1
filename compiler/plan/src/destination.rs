//! Where a value should be made: in the program's output, in its piece of a concatenation, or in the order in which a
//! later transpose and reshape need it, so that these cost nothing.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;

use crate::error::Refusal;
use crate::location::Location;
use crate::planner::BufferKind;
use crate::scope::{Context, Fits};
use crate::size::Size;

/// Longest chain of views that is followed.
const LONGEST_CHAIN: usize = 8;
/// Deepest nesting of concatenations that is followed.
const DEEPEST_JOIN: usize = 4;

/// A view on the way from a value to the consumer that asks for a layout.
struct Link {
    /// The order of axes of a transpose; a reshape where there is none.
    perm: Option<Vec<usize>>,
    /// The sizes before it.
    before: Vec<Size>,
}

/// What follows a value.
struct Chain {
    links: Vec<Link>,
    /// The value at the end, and its sizes.
    last: ValueId,
    dims: Vec<Size>,
    end: End,
}

/// Where a chain of views ends.
enum End {
    Output(usize),
    Reserved(Location),
    Free,
}

impl Context<'_, '_> {
    /// A place for a new value of these sizes that fits what its step can write.
    pub fn destination(&mut self, value: ValueId, dims: &[Size], fits: Fits) -> Result<Location, Refusal> {
        self.destination_within(value, dims, fits, 0)
    }

    fn destination_within(
        &mut self,
        value: ValueId,
        dims: &[Size],
        fits: Fits,
        depth: usize,
    ) -> Result<Location, Refusal> {
        let dtype = self.scope.function.ty(value).dtype;
        if dtype.element_bytes().is_some()
            && let Some(location) = self.requested(value, dims, fits, depth)?
        {
            return Ok(location);
        }
        Ok(self.planner.temporary(dtype, dims, self.scope.depth))
    }

    pub fn requested(
        &mut self,
        value: ValueId,
        dims: &[Size],
        fits: Fits,
        depth: usize,
    ) -> Result<Option<Location>, Refusal> {
        let Chain { mut links, last, dims: mut last_dims, end } = self.follow(value, dims, depth)?;
        let dtype = self.scope.function.ty(value).dtype;
        if let End::Free = end {
            let strided = self.all_users_take_strides(last);
            while let Some(link) = links.pop_if(|link| strided && link.perm.is_some()) {
                last_dims = link.before;
            }
            if links.iter().all(|link| link.perm.is_none()) {
                return Ok(None);
            }
        }
        // A layout is proposed in a buffer that does not exist yet, and taken only if it fits.
        let mut location = match &end {
            End::Reserved(location) => location.clone(),
            End::Output(_) | End::Free => Location::dense(&mut self.planner.sizes, UNMADE, dtype, &last_dims),
        };
        for link in links.iter().rev() {
            let before = match &link.perm {
                None => location.reshaped(&mut self.planner.sizes, &link.before),
                Some(perm) => location.transposed(&inverse(perm)),
            };
            match before {
                Some(before) => location = before,
                None => return Ok(None),
            }
        }
        if location.dims != dims || !self.fits(&location, fits) {
            return Ok(None);
        }
        if location.buffer == UNMADE {
            let kind = match end {
                End::Output(index) => BufferKind::Output(index as u32),
                _ => BufferKind::Arena,
            };
            let count = self.planner.sizes.product(dims);
            if self.planner.sizes.stage(count) > 0 {
                return Ok(None);
            }
            location.buffer = self.planner.buffer(kind, dtype, dims, self.scope.depth);
        }
        Ok(Some(location))
    }

    /// Follows views from a value to the consumer that decides.
    fn follow(&mut self, value: ValueId, dims: &[Size], depth: usize) -> Result<Chain, Refusal> {
        let function = self.scope.function;
        let (mut links, mut current, mut shape) = (Vec::new(), value, dims.to_vec());
        for _ in 0..LONGEST_CHAIN {
            if let Some(location) = self.scope.reserved.get(&current) {
                let end = End::Reserved(location.clone());
                return Ok(Chain { links, last: current, dims: shape, end });
            }
            if let Some(&index) = self.scope.outputs.get(&current) {
                let end = if self.scope.depth == 0 { End::Output(index) } else { End::Free };
                return Ok(Chain { links, last: current, dims: shape, end });
            }
            let [user] = function.users(current) else { break };
            let Some(node) = function.node(*user) else { break };
            let Operation::Op(op) = &node.operation else { break };
            let next = match node.outputs[..] {
                [next] if node.inputs.first() == Some(&Some(current)) => next,
                _ => break,
            };
            match op {
                Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => {
                    if self.has_undefined(next) {
                        break;
                    }
                    links.push(Link { perm: None, before: shape });
                }
                Op::Transpose(transpose) => {
                    links.push(Link { perm: Some(transpose.perm.clone()), before: shape });
                }
                _ => break,
            }
            shape = self.dims(next)?;
            current = next;
        }
        let end = match self.piece_of_join(current, &shape, depth)? {
            Some(location) => End::Reserved(location),
            None => End::Free,
        };
        Ok(Chain { links, last: current, dims: shape, end })
    }

    /// Whether the type of a value names symbols that only a run of its node defines.
    pub fn has_undefined(&self, value: ValueId) -> bool {
        self.scope.function.ty(value).dims.iter().any(|dim| !self.planner.sizes.undefined(dim).is_empty())
    }

    /// The piece of a concatenation that a value becomes, where it is its only use.
    fn piece_of_join(
        &mut self,
        value: ValueId,
        dims: &[Size],
        depth: usize,
    ) -> Result<Option<Location>, Refusal> {
        let function = self.scope.function;
        let [user] = function.users(value) else { return Ok(None) };
        let Some(node) = function.node(*user) else { return Ok(None) };
        let (Operation::Op(Op::Concat(concat)), &[output]) = (&node.operation, &node.outputs[..]) else {
            return Ok(None);
        };
        if depth >= DEEPEST_JOIN || self.has_undefined(output) || function.value(output).known.is_some() {
            return Ok(None);
        }
        let Some(axis) = crate::select::axis_of(concat.axis, dims.len()) else { return Ok(None) };
        let whole = self.join_location(*user, output, depth + 1)?;
        let mut start = Size::ZERO;
        for (index, operand) in node.inputs.iter().enumerate() {
            let Some(operand) = *operand else { return Ok(None) };
            if operand == value {
                return Ok(Some(self.piece(output, &whole, axis, start, dims[axis], index)));
            }
            if self.has_undefined(operand) {
                return Ok(None);
            }
            let size = self.dims(operand)?.get(axis).copied().unwrap_or(Size::ZERO);
            start = self.planner.sizes.add(start, size);
        }
        Ok(None)
    }

    /// The box of piece `index` in a concatenation.
    pub fn piece(
        &mut self,
        output: ValueId,
        whole: &Location,
        axis: usize,
        start: Size,
        size: Size,
        index: usize,
    ) -> Location {
        let mut piece = whole.sliced(&mut self.planner.sizes, axis, start, size, 1);
        if let Some(&join) = self.scope.joins.get(&output) {
            piece.parts.push((join, index as u32));
        }
        piece
    }

    /// Where a concatenation is made; decided once, by its first piece or by itself.
    pub fn join_location(
        &mut self,
        node: NodeId,
        output: ValueId,
        depth: usize,
    ) -> Result<Location, Refusal> {
        debug_assert!(self.scope.function.node(node).is_some());
        if let Some(location) = self.scope.reserved.get(&output)
            && self.scope.joins.contains_key(&output)
        {
            return Ok(location.clone());
        }
        let dims = self.dims(output)?;
        let location = self.destination_within(output, &dims, Fits::Any, depth)?;
        let join = self.planner.new_join();
        self.scope.joins.insert(output, join);
        self.scope.reserved.insert(output, location.clone());
        Ok(location)
    }

    /// Whether a step that writes only `fits` can write the location.
    pub fn fits(&mut self, location: &Location, fits: Fits) -> bool {
        let sizes = &mut self.planner.sizes;
        let rank = location.rank();
        let columns =
            rank == 0 || location.dims[rank - 1] == Size::ONE || location.strides[rank - 1] == Size::ONE;
        match fits {
            Fits::Any => true,
            Fits::Columns => columns,
            Fits::Rows => columns && (rank == 0 || location.merged_stride(sizes, 0..rank - 1).is_some()),
            Fits::Dense => location.is_dense(sizes),
        }
    }

    fn all_users_take_strides(&self, value: ValueId) -> bool {
        let function = self.scope.function;
        function.users(value).iter().all(|user| {
            function.node(*user).is_some_and(|node| match &node.operation {
                Operation::Region { .. } => true,
                Operation::Op(op) => matches!(
                    op,
                    Op::Unary(_)
                        | Op::Binary(_)
                        | Op::Compare(_)
                        | Op::Where(_)
                        | Op::Cast(_)
                        | Op::Clip(_)
                        | Op::Gelu(_)
                        | Op::LeakyRelu(_)
                        | Op::HardSigmoid(_)
                        | Op::MatMul(_)
                        | Op::Attention(_)
                        | Op::RotaryEmbedding(_)
                        | Op::Transpose(_)
                        | Op::Slice(_)
                        | Op::Split(_)
                        | Op::Concat(_)
                        | Op::Expand(_)
                ),
                _ => false,
            })
        })
    }
}

/// Stands for a buffer that is made once the layout is accepted.
const UNMADE: crate::location::BufferId = crate::location::BufferId(u32::MAX);

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (index, &axis) in perm.iter().enumerate() {
        if let Some(place) = inverse.get_mut(axis) {
            *place = index;
        }
    }
    inverse
}
