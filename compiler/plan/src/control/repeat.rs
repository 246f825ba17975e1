//! `Loop`: the body is planned in place, once, and run again and again.
//!
//! A carried value has one place, which the body reads and which gets the next value at the end of the iteration, after everything that still
//! reads the old one. Its sizes are those that every iteration keeps, or a stage's: the stage begins again when they change.
//! Rows of known sizes are written where the stacked result lies; others are collected by the leader.

use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::{Loop, SymbolSource};
use lathe_ir::{Dim, FunctionId, Node, ValueId};
use lathe_ops::Op;
use lathe_ops::control::Append;
use lathe_ops::elementwise::Unary;
use lathe_ops::shape::ConstantOfShape;
use lathe_tensor::DType;

use super::DEEPEST;
use crate::error::Refusal;
use crate::location::Location;
use crate::planner::{NO_STEP, Operand};
use crate::region::RegionDraft;
use crate::scope::{Context, Fits, Scope};
use crate::size::Size;

/// A place whose sizes an evaluator step writes, with the stage that it begins.
struct Placed {
    location: Location,
    stage: Option<u32>,
}

/// What stands before the body.
struct Frame {
    iteration: Location,
    trips: Option<Location>,
    condition: Location,
    carried: Vec<Placed>,
    /// By row output; none where nobody uses it.
    rows: Vec<Option<Placed>>,
    outside: Vec<(ValueId, Location)>,
}

impl<'m> Context<'_, 'm> {
    /// Plans a loop.
    pub fn repeat(&mut self, node: &Node, body: FunctionId, carried: usize) -> Result<(), Refusal> {
        if self.scope.depth >= DEEPEST {
            return Err(self.planner.unsupported(format!("loops are nested deeper than {DEEPEST}")).into());
        }
        let frame = self.before(node, body, carried)?;
        self.planner.barrier();
        for location in frame.locations() {
            self.planner.touch(location.buffer);
        }
        let iteration = self.planner.view(&frame.iteration);
        let trips = frame.trips.as_ref().map(|trips| self.planner.view(trips));
        let condition = self.planner.view(&frame.condition);
        let sized = node
            .inputs
            .first()
            .copied()
            .flatten()
            .is_some_and(|trips| self.scope.function.value(trips).known.is_some());
        let name = self.planner.node.clone();
        let id = self.planner.number_block();
        let outer = std::mem::take(&mut self.planner.steps);
        let next = self.iteration(node, body, &frame)?;
        let next = self.planner.view(&next);
        let steps = std::mem::replace(&mut self.planner.steps, outer);
        self.planner.node = name;
        for location in frame.locations() {
            self.planner.touch(location.buffer);
        }
        self.planner.close_loop(id, Loop { iteration, trips, condition, next, sized, steps });
        // A worker may still be reading whether there is another iteration.
        self.planner.barrier();
        let results: Vec<_> = frame.carried.into_iter().map(Some).chain(frame.rows).collect();
        self.settle(node, &results)?;
        for (&output, placed) in node.outputs.iter().zip(results) {
            if let Some(placed) = placed {
                let Location { buffer, dtype, .. } = placed.location;
                self.planner.touch(buffer);
                let location = match placed.stage {
                    Some(_) => {
                        let dims = self.dims(output)?;
                        Location::dense(&mut self.planner.sizes, buffer, dtype, &dims)
                    }
                    None => placed.location,
                };
                self.place(output, location);
            }
        }
        Ok(())
    }

    /// The first values in their places.
    fn before(&mut self, node: &Node, body: FunctionId, carried: usize) -> Result<Frame, Refusal> {
        let depth = self.scope.depth;
        let trips = match self.operand(node, 0) {
            Some(trips) => Some(self.dense(trips)?),
            None => None,
        };
        let iteration = self.planner.temporary(DType::I64, &[], depth);
        let zero = [Operand::Write(&iteration), Operand::Int(8), Operand::Int(1), Operand::Int(0)];
        self.planner.call(Builtin::Fill, &zero, "iterations count from 0");
        let condition = self.planner.temporary(DType::Bool, &[], depth);
        match self.operand(node, 1) {
            Some(given) => {
                let given = self.dense(given)?;
                let given =
                    Location::dense(&mut self.planner.sizes, given.buffer, given.dtype, &[]).at(given.offset);
                self.copy(&given, &condition, "the condition of the first iteration")?;
            }
            None => {
                let one = [Operand::Write(&condition), Operand::Int(1), Operand::Int(1), Operand::Int(1)];
                self.planner.call(Builtin::Fill, &one, "there is no condition");
            }
        }
        let function = self.planner.module.function(body);
        let open: Vec<bool> = node.outputs.iter().map(|output| self.has_undefined(*output)).collect();
        let mut places = Vec::new();
        for (index, &output) in node.outputs.iter().enumerate().take(carried) {
            let first = self.required(node, 2 + index)?;
            let taken = function.inputs().get(2 + index).map(|input| function.ty(*input).dims.as_slice());
            let taken = taken.ok_or_else(|| self.planner.bug("its body takes too little"))?;
            places.push(self.first_value(output, first, taken)?);
        }
        let mut rows = Vec::new();
        for (&output, open) in node.outputs.iter().zip(open).skip(carried) {
            rows.push(match (self.scope.remaining[output.index()] > 0, open) {
                (false, _) => None,
                (true, false) => {
                    let dims = self.dims(output)?;
                    let location = self.destination(output, &dims, Fits::Dense)?;
                    Some(Placed { location, stage: None })
                }
                (true, true) => Some(self.first_rows(output)?),
            });
        }
        let mut outside = Vec::new();
        for (&input, operand) in function.inputs().iter().zip(&node.inputs).skip(2 + carried) {
            let Some(operand) = *operand else {
                return Err(self.planner.bug("an operand is missing").into());
            };
            outside.push((input, self.location(operand)?));
        }
        Ok(Frame { iteration, trips, condition, carried: places, rows, outside })
    }

    /// The place of a carried value, with its first value.
    fn first_value(&mut self, output: ValueId, first: ValueId, taken: &[Dim]) -> Result<Placed, Refusal> {
        let stage = self.new_stage(taken);
        let dims = self.translated(taken)?;
        let function = self.scope.function;
        // The result's own symbols are other names of sizes that every iteration keeps.
        for (dim, &size) in function.ty(output).dims.iter().zip(&dims) {
            if let Some(symbol) = dim.as_symbol()
                && stage.is_none_or(|stage| self.planner.sizes.stage(size) < stage)
                && !self.planner.sizes.is_defined(symbol)
            {
                self.planner.sizes.alias(symbol, size);
            }
        }
        let dtype = function.ty(output).dtype;
        let reason = "the first carried value";
        if stage.is_some() || dtype.element_bytes().is_none() {
            let location = self.planner.temporary(dtype, &dims, self.scope.depth);
            let first = self.dense(first)?;
            self.identity(first, &location, stage, reason);
            return Ok(Placed { location, stage });
        }
        let location = self.destination(output, &dims, Fits::Dense)?;
        let first = self.location(first)?;
        self.copy_broadcast(&first, &location, reason)?;
        Ok(Placed { location, stage })
    }

    /// The place of stacked rows whose sizes are the run's: they begin without a row, and their number changes.
    fn first_rows(&mut self, output: ValueId) -> Result<Placed, Refusal> {
        let function = self.scope.function;
        let ty = function.ty(output);
        let mut own = ty.dims.clone();
        if own.is_empty() {
            return Err(self.planner.bug("stacked rows without an axis").into());
        }
        // The result's symbols mean what the last iteration leaves behind.
        for (axis, dim) in own.iter_mut().enumerate() {
            if axis == 0 || dim.as_symbol().is_some_and(|symbol| !self.planner.sizes.is_defined(symbol)) {
                *dim = Dim::symbol(self.planner.own_symbol());
            }
        }
        let Some(stage) = self.new_stage(&own) else {
            return Err(self.planner.bug("a symbol of its own has a meaning").into());
        };
        let dims = self.translated(&own)?;
        let location = self.planner.temporary(ty.dtype, &dims, self.scope.depth);
        let none: Vec<Size> = dims
            .iter()
            .enumerate()
            .map(|(axis, &size)| {
                let known = axis > 0 && self.planner.sizes.stage(size) < stage;
                if known { size } else { Size::ZERO }
            })
            .collect();
        let shape = self.sizes_as_data(&none, "sizes of no rows");
        let op = Op::ConstantOfShape(ConstantOfShape { dtype: ty.dtype, bits: 0 });
        let reason = "rows are collected: how many there are depends on data";
        self.planner.evaluate(op, &[Some(shape)], std::slice::from_ref(&location), Some(stage), reason);
        Ok(Placed { location, stage: Some(stage) })
    }

    /// Gives the results' own symbols the sizes that the loop ends with. What is asked of sizes behind the loop is asked of these: those of
    /// the places change while it runs.
    fn settle(&mut self, node: &Node, results: &[Option<Placed>]) -> Result<(), Refusal> {
        let function = self.scope.function;
        let stage = self.planner.stages;
        let (mut last, mut entries) = (Vec::new(), Vec::new());
        for (index, (&output, placed)) in node.outputs.iter().zip(results).enumerate() {
            let Some(placed) = placed else { continue };
            for (axis, (dim, &size)) in function.ty(output).dims.iter().zip(&placed.location.dims).enumerate()
            {
                let Some(symbol) = dim.as_symbol().filter(|symbol| !self.planner.sizes.is_defined(symbol))
                else {
                    continue;
                };
                let source = SymbolSource::Step { step: NO_STEP, output: index as u32, axis: axis as u32 };
                self.define(symbol, stage, source);
                let own = self.translated(std::slice::from_ref(dim))?[0];
                last.push(size);
                entries.push(Some(self.planner.table.entry(&self.planner.sizes, own)));
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.planner.stages += 1;
        let values = self.sizes_as_data(&last, "sizes that the loop ends with");
        self.planner.read_sizes(&values, entries, stage, "they no longer change");
        Ok(())
    }

    /// Stores sizes as the elements of a vector.
    fn sizes_as_data(&mut self, values: &[Size], reason: &str) -> Location {
        let count = self.planner.sizes.constant(values.len() as i64);
        let vector = self.planner.temporary(DType::I64, &[count], self.scope.depth);
        let mut draft = RegionDraft::new(vec![Size::ONE]);
        for (axis, &size) in values.iter().enumerate() {
            let entry = self.planner.table.entry(&self.planner.sizes, size);
            let value = draft.dim(entry, DType::I64);
            let mut element = vector.clone();
            element.offset = self.planner.sizes.constant(axis as i64);
            (element.dims, element.strides) = (vec![Size::ONE], vec![Size::ONE]);
            draft.write(element, value);
        }
        draft.emit(self.planner, reason);
        vector
    }

    /// A stage for the symbols of these sizes that have no meaning yet, where there are any.
    fn new_stage(&mut self, dims: &[Dim]) -> Option<u32> {
        let mut stage = None;
        for (axis, dim) in dims.iter().enumerate() {
            if let Some(symbol) = dim.as_symbol()
                && !self.planner.sizes.is_defined(symbol)
            {
                let begun = *stage.get_or_insert_with(|| {
                    self.planner.stages += 1;
                    self.planner.stages - 1
                });
                let source = SymbolSource::Step { step: NO_STEP, output: 0, axis: axis as u32 };
                self.define(symbol, begun, source);
            }
        }
        stage
    }

    fn translated(&mut self, dims: &[Dim]) -> Result<Vec<Size>, Refusal> {
        let mut sizes = Vec::with_capacity(dims.len());
        for dim in dims {
            let size = self.planner.sizes.translate(dim);
            sizes.push(size.map_err(|symbol| {
                self.planner.bug(format!("symbol `{}` has no meaning here", symbol.name()))
            })?);
        }
        Ok(sizes)
    }

    fn identity(&mut self, from: Location, to: &Location, stage: Option<u32>, reason: &str) {
        let op = Op::Unary(Unary::Identity);
        self.planner.evaluate(op, &[Some(from)], std::slice::from_ref(to), stage, reason);
    }

    /// Copies to sizes that are equal, if perhaps in other words.
    fn copy_broadcast(&mut self, from: &Location, to: &Location, reason: &str) -> Result<(), Refusal> {
        match from.broadcast(&mut self.planner.sizes, &to.dims) {
            Some(from) => self.copy(&from, to, reason),
            None => Err(self.planner.bug("the value has another rank").into()),
        }
    }

    /// The steps of one iteration; where the next condition lies.
    fn iteration(&mut self, node: &Node, body: FunctionId, frame: &Frame) -> Result<Location, Refusal> {
        let function: &'m lathe_ir::Function = self.planner.module.function(body);
        let gate = self.gate(body, &frame.condition);
        let scope = Scope { gate, ..Scope::new(function, self.scope.depth + 1) };
        let mut inner = Context { planner: &mut *self.planner, scope };
        let own = [&frame.iteration, &frame.condition].into_iter();
        let places = own.chain(frame.carried.iter().map(|placed| &placed.location));
        for (&input, location) in function.inputs().iter().zip(places) {
            inner.place(input, location.clone());
        }
        for (input, location) in &frame.outside {
            for (dim, &size) in function.ty(*input).dims.iter().zip(&location.dims) {
                if let Some(symbol) = dim.as_symbol()
                    && !inner.planner.sizes.is_defined(symbol)
                {
                    inner.planner.sizes.alias(symbol, size);
                }
            }
            inner.place(*input, location.clone());
        }
        inner.function_guards()?;
        inner.body()?;
        inner.planner.node = (node.name.clone(), node.operation.name().to_string());
        inner.results(frame)
    }

    /// Puts the results of an iteration where the next one and the stacked rows have them.
    fn results(&mut self, frame: &Frame) -> Result<Location, Refusal> {
        let function = self.scope.function;
        let outputs: Vec<ValueId> = function.outputs().iter().map(|(_, value)| *value).collect();
        let Some((&condition, outputs)) = outputs.split_first() else {
            return Err(self.planner.bug("the body gives no condition").into());
        };
        let (carried, rows) = outputs.split_at(frame.carried.len().min(outputs.len()));
        for (row, placed) in rows.iter().zip(&frame.rows) {
            if let Some(placed) = placed {
                self.add_row(*row, placed, &frame.iteration)?;
            }
        }
        let condition = self.next_condition(condition, frame)?;
        let mut waiting = Vec::new();
        for (&value, placed) in carried.iter().zip(&frame.carried) {
            waiting.push(self.next_value(value, placed, frame)?);
        }
        // Sizes that are the same in every iteration first: moving the others changes what sizes mean.
        let both = || frame.carried.iter().zip(&waiting);
        for (placed, next) in both().filter(|(placed, _)| placed.stage.is_none()) {
            let Some(next) = next else { continue };
            match placed.location.dtype.element_bytes() {
                Some(_) => self.copy_broadcast(next, &placed.location, "carried to the next iteration")?,
                None => self.identity(next.clone(), &placed.location, None, "carried to the next iteration"),
            }
        }
        if both().any(|(placed, next)| placed.stage.is_some() && next.is_some()) {
            // Nobody still reads the old sizes.
            self.planner.barrier();
        }
        for (placed, next) in both().filter(|(placed, _)| placed.stage.is_some()) {
            if let Some(next) = next {
                let reason = "carried to the next iteration with its sizes";
                self.identity(next.clone(), &placed.location, placed.stage, reason);
            }
        }
        Ok(condition)
    }

    /// Where the next condition lies until the iteration ends.
    fn next_condition(&mut self, value: ValueId, frame: &Frame) -> Result<Location, Refusal> {
        let made = self.dense(value)?;
        if made == frame.condition {
            return Ok(made);
        }
        let made = Location::dense(&mut self.planner.sizes, made.buffer, made.dtype, &[]).at(made.offset);
        let next = self.planner.temporary(DType::Bool, &[], self.scope.depth);
        self.copy(&made, &next, "whether there is another iteration")?;
        Ok(next)
    }

    /// The next carried value, out of the way of the places that are about to change; none where it stays what it is.
    fn next_value(
        &mut self,
        value: ValueId,
        placed: &Placed,
        frame: &Frame,
    ) -> Result<Option<Location>, Refusal> {
        let made = self.location(value)?;
        if made == placed.location {
            return Ok(None);
        }
        let in_place = frame.carried.iter().any(|placed| placed.location.buffer == made.buffer)
            || made.buffer == frame.iteration.buffer
            || made.buffer == frame.condition.buffer;
        if placed.stage.is_none() && !in_place {
            let dense = made.dtype.element_bytes().is_some();
            return Ok(Some(if dense { made } else { self.dense(value)? }));
        }
        let dense = self.dense(value)?;
        let dims: Vec<Dim> = self.scope.function.ty(value).dims.clone();
        if placed.stage.is_none() {
            let copy = self.planner.temporary(dense.dtype, &dense.dims, self.scope.depth);
            self.identity_or_copy(&dense, &copy)?;
            return Ok(Some(copy));
        }
        // Sizes of its own: those that it has now are about to change their meaning.
        let own: Vec<Dim> = dims.iter().map(|_| Dim::symbol(self.planner.own_symbol())).collect();
        let stage = self.new_stage(&own);
        let sizes = self.translated(&own)?;
        let copy = self.planner.temporary(dense.dtype, &sizes, self.scope.depth);
        self.identity(dense, &copy, stage, "the next carried value with its sizes");
        Ok(Some(copy))
    }

    fn identity_or_copy(&mut self, from: &Location, to: &Location) -> Result<(), Refusal> {
        let reason = "read before its place changes";
        match from.dtype.element_bytes() {
            Some(_) => self.copy(from, to, reason),
            None => {
                self.identity(from.clone(), to, None, reason);
                Ok(())
            }
        }
    }

    /// Puts a row behind the others.
    fn add_row(&mut self, row: ValueId, placed: &Placed, iteration: &Location) -> Result<(), Refusal> {
        let row = self.dense(row)?;
        let rows = &placed.location;
        if let Some(stage) = placed.stage {
            self.planner.barrier();
            let operands = [Some(rows.clone()), Some(row)];
            let target = std::slice::from_ref(rows);
            self.planner.evaluate(
                Op::Append(Append {}),
                &operands,
                target,
                Some(stage),
                "a row is collected",
            );
            return Ok(());
        }
        let Some(bytes) = rows.dtype.element_bytes() else {
            return Err(self.planner.unsupported(format!("stacked rows of {}", rows.dtype)).into());
        };
        let elements = self.planner.sizes.product(&rows.dims[1..]);
        let inner = self.planner.sizes.mul_constant(elements, bytes as i64);
        let operands = [
            Operand::Read(&row),
            Operand::Read(iteration),
            Operand::Update(rows),
            Operand::Int(1),
            Operand::Int(1),
            Operand::Dims(&rows.dims[..1]),
            Operand::Size(inner),
            // The row replaces what is there.
            Operand::Int(0),
            Operand::Int(0),
        ];
        self.planner.call(Builtin::ScatterNd, &operands, "a row is put in its place");
        Ok(())
    }
}

impl Frame {
    /// Everything that must stay from the first iteration to the last.
    fn locations(&self) -> impl Iterator<Item = &Location> {
        let placed = self.carried.iter().chain(self.rows.iter().flatten()).map(|placed| &placed.location);
        let own = [&self.iteration, &self.condition].into_iter().chain(&self.trips);
        own.chain(placed).chain(self.outside.iter().map(|(_, location)| location))
    }
}
