//! A session: the memory of one run at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use lathe_artifact::abi::{Run, Status, Worker};
use lathe_artifact::plan::Plan;
use lathe_tensor::{Buffer, DType, Tensor};
use rustc_hash::FxHashMap;

use crate::barrier::Barrier;
use crate::cancel::Stop;
use crate::memory::Memory;
use crate::outputs::StepTime;
use crate::ports::{bind_inputs, check_output, output_index};
use crate::program::{Address, Program};
use crate::shapes::ShapeCache;
use crate::stages::StageArena;
use crate::state::{Budget, Leader, RunState, Tables};
use crate::view::byte_count;
use crate::{CancelToken, Model, Outputs, RunStats, RuntimeError, Team, TensorView, TensorViewMut};

/// An arena more than this many times as large as any shape in memory needs is made smaller.
pub(crate) const SHRINK_FACTOR: usize = 2;
/// Arenas up to this size are never made smaller.
pub(crate) const SMALL_ARENA: usize = 1 << 20;

/// A spare buffer may be this many times as large as the output that goes into it.
const SPARE_FACTOR: usize = 2;

/// What a run may be told.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Stops the run from another thread.
    pub cancel: Option<CancelToken>,
    /// When the run must stop; looked at at every barrier and by evaluator steps.
    pub deadline: Option<Instant>,
    /// Measures the time of each step.
    pub profile: bool,
}

/// Runs a model, one run at a time. Make one for each thread.
#[derive(Debug)]
pub struct Session {
    model: Model,
    function: usize,
    team: Team,
    names: Arc<[String]>,
    cache: ShapeCache,
    arena: Memory,
    /// Output buffers of the last run: used again once the caller has dropped them.
    spare: Vec<Buffer>,
    /// Memory of [`Leader::owned`], empty between runs.
    owned: FxHashMap<usize, Buffer>,
    /// Memory of [`Leader::arenas`].
    arenas: Vec<StageArena>,
    /// The token of runs that nobody cancels.
    uncancelled: CancelToken,
    /// Sizes of all axes of the inputs of the current run.
    key: Vec<i64>,
}

/// Where the bytes of one output go.
pub(crate) enum Place<'a, 'b> {
    /// Memory made for the run, or found after it.
    Run,
    /// The caller's memory.
    Caller(&'b mut TensorViewMut<'a>),
    /// The memory of a state, which the caller lent.
    State,
}

impl Session {
    /// A session on the process-wide team.
    pub fn new(model: &Model) -> Result<Self, RuntimeError> {
        Self::with_team(model, &Team::global()?)
    }

    /// A session on a team.
    pub fn with_team(model: &Model, team: &Team) -> Result<Self, RuntimeError> {
        Self::of_function(model, 0, team)
    }

    /// Forgets the sizes of earlier runs: the next run works out places and sizes anew, in the memory that is there.
    pub fn forget_shapes(&mut self) {
        self.cache = ShapeCache::default();
    }

    /// A session of another function than `main`.
    pub(crate) fn of_function(model: &Model, function: usize, team: &Team) -> Result<Self, RuntimeError> {
        let program = model.program(function)?;
        let names = program.plan.outputs.iter().map(|port| port.name.clone()).collect();
        let arena = Memory::zeroed(0).ok_or_else(|| RuntimeError::Bug("no empty arena".into()))?;
        let (model, team) = (model.clone(), team.clone());
        Ok(Self {
            model,
            function,
            team,
            names,
            cache: ShapeCache::default(),
            arena,
            spare: Vec::new(),
            owned: FxHashMap::default(),
            arenas: Vec::new(),
            uncancelled: CancelToken::new(),
            key: Vec::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Runs the model on named inputs, which are read where they are.
    ///
    /// # Errors
    /// [`RuntimeError::BadInput`] where names, dtypes or sizes do not fit; [`RuntimeError::StepFailed`] where a step fails on
    /// the data; [`RuntimeError::Resource`] over the memory limit. The session can be used again after any error.
    pub fn run<'a, V: Copy + Into<TensorView<'a>>>(
        &mut self,
        inputs: &[(&str, V)],
    ) -> Result<Outputs, RuntimeError> {
        self.run_with(inputs, &RunOptions::default())
    }

    /// The same, with a token, a deadline or a profile.
    pub fn run_with<'a, V: Copy + Into<TensorView<'a>>>(
        &mut self,
        inputs: &[(&str, V)],
        options: &RunOptions,
    ) -> Result<Outputs, RuntimeError> {
        let mut places: Vec<_> = self.names.iter().map(|_| Place::Run).collect();
        let (tensors, stats) = self.execute(inputs, &mut places, options)?;
        let tensors = tensors.into_iter().flatten().collect();
        Ok(Outputs { names: self.names.clone(), tensors, stats })
    }

    /// The same into the caller's memory: only the outputs that are named are given.
    pub fn run_into<'a, 'b, V: Copy + Into<TensorView<'a>>>(
        &mut self,
        inputs: &[(&str, V)],
        outputs: &mut [(&str, TensorViewMut<'b>)],
        options: &RunOptions,
    ) -> Result<RunStats, RuntimeError> {
        let model = self.model.clone();
        let plan = &model.program(self.function)?.plan;
        let mut places: Vec<_> = self.names.iter().map(|_| Place::Run).collect();
        for (name, view) in outputs {
            places[output_index(plan, name)?] = Place::Caller(view);
        }
        Ok(self.execute(inputs, &mut places, options)?.1)
    }

    fn execute<'a, V: Copy + Into<TensorView<'a>>>(
        &mut self,
        inputs: &[(&str, V)],
        places: &mut [Place<'_, '_>],
        options: &RunOptions,
    ) -> Result<(Vec<Option<Tensor>>, RunStats), RuntimeError> {
        let model = self.model.clone();
        let program = model.program(self.function)?;
        if !program.states.is_empty() {
            let name = &program.plan.name;
            return Err(RuntimeError::Unsupported(format!(
                "function `{name}` keeps states: a decoder runs it"
            )));
        }
        let views = bind_inputs(&program.plan, inputs, &mut self.key)?;
        self.execute_bound(&views, &Lent::default(), places, options)
    }

    /// Runs the function on inputs in the order of the plan, whose sizes are in `key` and whose types are checked. Those of states
    /// hold no bytes: their memory is in `lent`.
    fn execute_bound(
        &mut self,
        views: &[TensorView<'_>],
        lent: &Lent<'_>,
        places: &mut [Place<'_, '_>],
        options: &RunOptions,
    ) -> Result<(Vec<Option<Tensor>>, RunStats), RuntimeError> {
        let start = Instant::now();
        let model = self.model.clone();
        let program = model.program(self.function)?;
        let used = program.weight_bytes.saturating_add(lent.bytes);
        let budget = Budget { limit: model.max_memory(), used };
        let shape_cached = self.reserve(program, &budget)?;
        let mut budget = budget;
        budget.take(self.arena.len() as u64, "the arena")?;
        let prepared = self.cache.recent()?;
        prepared.place(program, self.arena.address());
        let staged = point_at_inputs(program, views, &mut prepared.slots);
        point_at_states(program, lent, &mut prepared.slots)?;
        let mut owned = std::mem::take(&mut self.owned);
        owned.clear();
        let mut outputs = OutputMemory { owned: &mut owned, spare: &mut self.spare, budget: &mut budget };
        point_at_outputs(program, &prepared.dims, &mut prepared.slots, places, &mut outputs)?;
        let tables = Tables::new(&mut prepared.dims, &mut prepared.slots);
        let used = budget.used;
        let texts = texts(program, views);
        let mut arenas = std::mem::take(&mut self.arenas);
        arenas.iter_mut().for_each(StageArena::forget_charge);
        let mut leader =
            Leader { tables, owned, arenas, texts, budget, error: None, evaluated: 0, iterations: 0 };
        leader.begin_stage(program, 0, false, None)?;
        let token = options.cancel.as_ref().unwrap_or(&self.uncancelled);
        let stop = Stop { token, deadline: options.deadline };
        let barrier = Barrier::new(self.team.workers(), self.team.has_cores());
        let state = RunState::new(program, barrier, stop, &model, leader);
        let mut stats = RunStats {
            prepare: start.elapsed(),
            shape_cached,
            workers: self.team.workers(),
            steps: program.steps.len(),
            arena_bytes: prepared.peak,
            arena_capacity: self.arena.len(),
            ..RunStats::default()
        };
        stats.wait = run_program(&model, &state, &self.team, tables, options.profile)?;
        let leader = &mut *state.leader();
        stats.routers = leader.routers(program)?;
        let tensors = collect(program, leader, places)?;
        // An output may be an input as it is: staged copies live until the outputs are taken.
        drop(staged);
        self.spare.clear();
        self.spare.extend(leader.owned.drain().map(|(_, buffer)| buffer));
        self.owned = std::mem::take(&mut leader.owned);
        self.arenas = std::mem::take(&mut leader.arenas);
        stats.barriers = state.barrier.count();
        stats.evaluator_steps = leader.evaluated;
        stats.other_bytes = leader.budget.used.saturating_sub(used) + output_bytes(&tensors);
        stats.profile = profile(program, &state);
        stats.time = start.elapsed();
        Ok((tensors, stats))
    }

    /// Runs a function with states: `views` in the order of the plan's inputs, those of states without bytes; `states` in the order of
    /// the plan's states. Gives the outputs that are no states.
    ///
    /// # Safety
    /// Each state has the bytes of its view's shape, belongs to the caller, and nobody else reads or writes it during the call.
    pub(crate) unsafe fn run_with_states(
        &mut self,
        views: &[TensorView<'_>],
        lent: &Lent<'_>,
        options: &RunOptions,
    ) -> Result<Vec<Option<Tensor>>, RuntimeError> {
        let model = self.model.clone();
        let plan = &model.program(self.function)?.plan;
        self.key.clear();
        self.key.extend(views.iter().flat_map(|view| view.shape().iter().map(|&size| size as i64)));
        let is_state = |output: usize| plan.states.iter().any(|state| state.output == Some(output as u32));
        let places =
            (0..plan.outputs.len()).map(|output| if is_state(output) { Place::State } else { Place::Run });
        let mut places: Vec<_> = places.collect();
        self.execute_bound(views, lent, &mut places, options).map(|(tensors, _)| tensors)
    }

    /// Makes the arena fit the sizes in `key`; returns whether they were prepared before.
    fn reserve(&mut self, program: &Program, budget: &Budget) -> Result<bool, RuntimeError> {
        let seen = self.cache.prepare(program, &self.key, budget.left())?;
        let needed = self.cache.recent()?.peak;
        let fits = needed <= self.arena.len();
        if seen && fits {
            return Ok(true);
        }
        let largest = self.cache.largest();
        let oversized = self.arena.len() > SMALL_ARENA && self.arena.len() / SHRINK_FACTOR > largest;
        if fits && !oversized {
            return Ok(seen);
        }
        // The old arena goes first: the two need never exist together.
        let wanted = if largest as u64 <= budget.left() { largest } else { needed };
        self.arena = Memory::zeroed(0).ok_or_else(|| RuntimeError::Bug("no empty arena".into()))?;
        self.arena = Memory::zeroed(wanted).ok_or_else(|| {
            RuntimeError::Resource(format!("the system refused {wanted} bytes for intermediate values"))
        })?;
        Ok(seen)
    }
}

/// Runs the program on all workers; returns how long it waited for its turn.
fn run_program(
    model: &Model,
    state: &RunState<'_>,
    team: &Team,
    tables: Tables,
    profile: bool,
) -> Result<Duration, RuntimeError> {
    let begin = Instant::now();
    let turn = team.turn(|| state.stop.reason().is_some());
    let Some(turn) = turn.filter(|_| state.stop.reason().is_none()) else {
        return Err(RuntimeError::Cancelled(state.stop.reason().unwrap_or("it was cancelled")));
    };
    let wait = begin.elapsed();
    let status = AtomicI32::new(Status::Internal as i32);
    let run = Run {
        table: model.table().as_ptr(),
        slots: tables.slots(),
        dims: tables.dims(),
        cancel: state.stop.flag(),
        engine: std::ptr::from_ref(state).cast_mut().cast(),
        trace: u64::from(profile),
    };
    let run = Shared(&run);
    let count = team.workers() as u64;
    turn.run(|index, scratch| {
        let worker = Worker { run: run.get(), index: index as u64, count, scratch };
        // SAFETY: the entry was made for this table of builtins and services; slots and dims are filled for these inputs; all
        // workers of the team run it, each with scratch of its own, and everything outlives `turn.run`.
        let result = unsafe { (state.program.functions.entry)(&worker) };
        if index == 0 {
            status.store(result, Ordering::SeqCst);
        }
    });
    drop(turn);
    state.outcome(status.into_inner()).map(|()| wait)
}

/// The run's description, which workers on other threads read.
struct Shared<'a>(&'a Run);

// SAFETY: workers only read the description; what its pointers lead to is shared by the rules of `abi`.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    fn get(&self) -> *const Run {
        self.0
    }
}

/// Points slots at the caller's inputs; those that are not aligned for their dtype are copied first.
fn point_at_inputs(program: &Program, views: &[TensorView<'_>], slots: &mut [Address]) -> Vec<Buffer> {
    let mut staged = Vec::new();
    for &(slot, input) in &program.inputs {
        let view = &views[input];
        let align = view.dtype().element_bytes().unwrap_or(1);
        let mut address = view.bytes().as_ptr();
        if !(address as usize).is_multiple_of(align) {
            let copy = Buffer::copy_of(view.bytes());
            address = copy.as_ptr();
            staged.push(copy);
        }
        slots[slot] = Address(address.cast_mut());
    }
    staged
}

/// The inputs whose elements are strings, by slot.
fn texts(program: &Program, views: &[TensorView<'_>]) -> FxHashMap<usize, Tensor> {
    let whole = |&(slot, input): &(usize, usize)| Some((slot, views[input].whole()?.clone()));
    program.inputs.iter().filter_map(whole).collect()
}

/// Memory that a run borrows for its states.
#[derive(Debug, Default)]
pub(crate) struct Lent<'a> {
    /// The memory of each state.
    pub(crate) states: &'a [Address],
    /// Bytes of it that are in use.
    pub(crate) bytes: u64,
}

fn point_at_states(program: &Program, lent: &Lent<'_>, slots: &mut [Address]) -> Result<(), RuntimeError> {
    for &(slot, state) in &program.states {
        let address = lent.states.get(state);
        slots[slot] = *address.ok_or_else(|| RuntimeError::Bug(format!("nobody lends state {state}")))?;
    }
    Ok(())
}

/// Where the memory of outputs comes from.
struct OutputMemory<'a> {
    owned: &'a mut FxHashMap<usize, Buffer>,
    spare: &'a mut Vec<Buffer>,
    budget: &'a mut Budget,
}

impl OutputMemory<'_> {
    /// A buffer of the last run that nobody holds any more, or a new one: new ones cost zeroing, and large ones a system call
    /// and page faults.
    fn buffer(&mut self, bytes: usize) -> Buffer {
        let fits = |len: usize| bytes <= len && len / SPARE_FACTOR <= bytes;
        match self.spare.iter_mut().position(|spare| fits(spare.len()) && spare.is_unique()) {
            Some(index) => self.spare.swap_remove(index),
            None => Buffer::zeroed(bytes),
        }
    }
}

/// Points slots at the memory of outputs: the caller's where it fits as it is, else memory of the run.
fn point_at_outputs(
    program: &Program,
    dims: &[i64],
    slots: &mut [Address],
    places: &mut [Place<'_, '_>],
    memory: &mut OutputMemory<'_>,
) -> Result<(), RuntimeError> {
    for &(slot, output) in &program.outputs {
        let bytes = program.slot_bytes(slot, dims)?;
        let port = &program.plan.outputs[output];
        let direct = port.tensor.view.slot.0 as usize == slot && port.tensor.view.offset.is_none();
        if let (Place::Caller(view), true) = (&mut places[output], direct) {
            let shape = shape_of(&program.plan, output, dims)?;
            check_output(port, &shape, view.dtype(), view.shape())?;
            let align = view.dtype().element_bytes().unwrap_or(1);
            let memory = view.bytes_mut();
            if memory.len() == bytes && (memory.as_ptr() as usize).is_multiple_of(align) {
                slots[slot] = Address(memory.as_mut_ptr());
                continue;
            }
        }
        memory.budget.take(bytes as u64, format_args!("output `{}`", port.name))?;
        let mut buffer = memory.buffer(bytes);
        slots[slot] = Address(buffer.make_mut().as_mut_ptr());
        memory.owned.insert(slot, buffer);
    }
    Ok(())
}

fn shape_of(plan: &Plan, output: usize, dims: &[i64]) -> Result<Vec<usize>, RuntimeError> {
    let sizes = plan.outputs[output].tensor.dims.iter().map(|dim| usize::try_from(dims[dim.0 as usize]));
    sizes.collect::<Result<_, _>>().map_err(|error| RuntimeError::Bug(error.to_string()))
}

/// The outputs after a run; `None` where the caller's memory has them.
fn collect(
    program: &Program,
    leader: &mut Leader,
    places: &mut [Place<'_, '_>],
) -> Result<Vec<Option<Tensor>>, RuntimeError> {
    let mut tensors = Vec::with_capacity(places.len());
    for (port, place) in program.plan.outputs.iter().zip(places) {
        let slot = port.tensor.view.slot.0 as usize;
        let bug = |error: String| RuntimeError::Bug(format!("output `{}`: {error}", port.name));
        let (address, bytes, shape) = leader.locate(program, &port.tensor).map_err(bug)?;
        match place {
            Place::Caller(_) if port.tensor.dtype == DType::String => {
                let name = &port.name;
                return Err(RuntimeError::Unsupported(format!(
                    "output `{name}` holds strings: take it from `run`"
                )));
            }
            Place::Caller(view) => {
                check_output(port, &shape, view.dtype(), view.shape())?;
                let memory = view.bytes_mut();
                if bytes > 0 && memory.as_ptr() != address.cast_const() {
                    // SAFETY: `locate` found the range in memory of the run, which has ended, or of its inputs or weights; the
                    // caller's memory is borrowed mutably, so it is none of these.
                    memory.copy_from_slice(unsafe { std::slice::from_raw_parts(address, bytes) });
                }
                tensors.push(None);
            }
            Place::State => tensors.push(None),
            Place::Run => {
                let fits = port.tensor.view.offset.is_none() && port.tensor.dtype != DType::String;
                let whole = leader.owned.get(&slot).filter(|_| fits);
                let tensor = match whole.and_then(|buffer| buffer.slice(0, bytes)) {
                    Some(buffer) => Tensor::new(port.tensor.dtype, shape, buffer)
                        .map_err(|error| bug(error.to_string()))?,
                    None => leader.gather(program, &port.tensor).map_err(bug)?,
                };
                debug_assert_eq!(byte_count(tensor.dtype(), tensor.shape()), Some(bytes));
                tensors.push(Some(tensor));
            }
        }
    }
    Ok(tensors)
}

fn output_bytes(tensors: &[Option<Tensor>]) -> u64 {
    tensors.iter().flatten().map(|tensor| tensor.bytes().len() as u64).sum()
}

/// The time from the beginning of each step to that of the next.
fn profile(program: &Program, state: &RunState<'_>) -> Vec<StepTime> {
    let end = Instant::now();
    let trace = state.take_trace();
    let ends = trace.iter().skip(1).map(|&(_, begin)| begin).chain([end]);
    let times = trace.iter().zip(ends).filter_map(|(&(step, begin), end)| {
        let entry = program.steps.get(step as usize)?;
        let (node, op) = (entry.node.clone(), entry.op.clone());
        Some(StepTime { step, node, op, exec: entry.exec, time: end.saturating_duration_since(begin) })
    });
    times.collect()
}

#[cfg(test)]
#[path = "dynamic_tests.rs"]
mod dynamic_tests;
#[cfg(test)]
#[path = "failure_tests.rs"]
mod failure_tests;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
