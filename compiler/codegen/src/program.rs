//! The program: `entry(worker) -> status` calls chunk functions of at most [`CHUNK`] steps.
//!
//! A chunk returns 0 to go on. It returns another status when its worker has to leave the program; it has passed its last
//! barrier then, so callers return the status and do nothing else (the rule is in [`lathe_artifact::abi`]):
//! - a barrier returned nonzero: the chunk returns that status;
//! - a step returned nonzero: the chunk calls `fail` and one barrier, and returns the status of that.
//!
//! The blocks of an `If` and of a loop are chunk functions too, called from two branches or again and again. Equal regions share one function, which receives
//! its addresses, sizes and strides in an argument struct like a builtin.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, SigRef, StackSlotData, StackSlotKind, Value};
use lathe_artifact::abi::{Service, Status};
use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::{Arg, Loop, Step, StepId, StepKind, View};

use crate::build::{Builder, DATA, Drafts, FunctionId, TABLE, field};
use crate::constants::Constants;
use crate::region::{self, Form};
use crate::target::Effort;

/// Steps that one function holds.
const CHUNK: usize = 64;

/// Writes the functions of a program.
pub(crate) struct Program<'a> {
    constants: &'a Constants,
    drafts: &'a mut Drafts,
    regions: HashMap<Form, FunctionId>,
    chunks: usize,
}

/// A step whose callees are written.
struct Prepared<'a> {
    id: StepId,
    action: Action<'a>,
}

enum Action<'a> {
    Barrier,
    Builtin {
        builtin: Builtin,
        args: &'a [Arg],
    },
    Region {
        function: FunctionId,
        args: Vec<Arg>,
    },
    /// What worker 0 does: evaluate an op, begin a stage.
    Leader {
        evaluate: bool,
        resolve: bool,
    },
    If {
        condition: View,
        then_chunks: Vec<FunctionId>,
        else_chunks: Vec<FunctionId>,
    },
    Loop {
        repeat: &'a Loop,
        chunks: Vec<FunctionId>,
    },
}

impl Action<'_> {
    fn args(&self) -> &[Arg] {
        match self {
            Action::Builtin { args, .. } => args,
            Action::Region { args, .. } => args,
            Action::Barrier | Action::Leader { .. } | Action::If { .. } | Action::Loop { .. } => &[],
        }
    }
}

/// Writes the program of `steps` and returns its entry.
pub(crate) fn entry(steps: &[Step], constants: &Constants, drafts: &mut Drafts) -> FunctionId {
    let chunks = Program { constants, drafts, regions: HashMap::new(), chunks: 0 }.block(steps);
    drafts.add("entry".to_string(), &[I64], Effort::Glue, |builder, params| {
        let signature = builder.import_signature(&[I64]);
        builder.call_all(&chunks, signature, params);
        let run = builder.field(params[0], field::RUN);
        let table = builder.field(run, field::TABLE);
        let status = builder.call_table(table, Service::Barrier.index(), signature, params);
        builder.return_status(status);
    })
}

impl<'a> Program<'a> {
    /// Writes a block of steps as chunks to be called in order.
    fn block(&mut self, steps: &'a [Step]) -> Vec<FunctionId> {
        steps.chunks(CHUNK).map(|steps| self.chunk(steps)).collect()
    }

    fn chunk(&mut self, steps: &'a [Step]) -> FunctionId {
        let steps: Vec<Prepared<'_>> = steps.iter().map(|step| self.prepare(step)).collect();
        let name = format!("chunk_{}", self.chunks);
        self.chunks += 1;
        self.drafts.add(name, &[I64], Effort::Glue, |builder, params| {
            let mut chunk = Chunk::new(builder, params[0], &steps);
            for step in &steps {
                chunk.step(step);
            }
            chunk.finish();
        })
    }

    fn prepare(&mut self, step: &'a Step) -> Prepared<'a> {
        let action = match &step.kind {
            StepKind::Barrier => Action::Barrier,
            StepKind::Call(call) => Action::Builtin { builtin: call.builtin, args: &call.args },
            StepKind::Evaluate(evaluate) => {
                Action::Leader { evaluate: true, resolve: evaluate.begins_stage.is_some() }
            }
            StepKind::Sizes(_) => Action::Leader { evaluate: false, resolve: true },
            StepKind::Region(region) => {
                let (form, args) = region::form(region, self.constants);
                let function = match self.regions.get(&form) {
                    Some(&function) => function,
                    None => {
                        let name = format!("region_{}", self.regions.len());
                        let function = region::write(&form, name, self.drafts);
                        self.regions.insert(form, function);
                        function
                    }
                };
                Action::Region { function, args }
            }
            StepKind::If { condition, then_steps, else_steps } => Action::If {
                condition: *condition,
                then_chunks: self.block(then_steps),
                else_chunks: self.block(else_steps),
            },
            StepKind::Loop(repeat) => Action::Loop { repeat, chunks: self.block(&repeat.steps) },
        };
        Prepared { id: step.id, action }
    }
}

/// A chunk function that is being written.
struct Chunk<'b, 'f> {
    builder: &'b mut Builder<'f>,
    worker: Value,
    run: Value,
    table: Value,
    slots: Value,
    dims: Value,
    /// Memory of the argument structs.
    args: Option<Value>,
    /// `(worker) -> status`.
    of_worker: SigRef,
    /// `(worker, args or step) -> status`.
    of_two: SigRef,
    /// Leaves the program with the status that it is given.
    leave: Block,
    /// Reports a step and a status, then leaves through a barrier.
    fail: Block,
}

impl<'b, 'f> Chunk<'b, 'f> {
    fn new(builder: &'b mut Builder<'f>, worker: Value, steps: &[Prepared<'_>]) -> Self {
        let run = builder.field(worker, field::RUN);
        let table = builder.field(run, field::TABLE);
        let slots = builder.field(run, field::SLOTS);
        let dims = builder.field(run, field::DIMS);
        let bytes = steps.iter().map(|step| step.action.args().len() * 8).max().unwrap_or(0) as u32;
        let args = (bytes > 0).then(|| {
            let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3);
            let slot = builder.inner.create_sized_stack_slot(slot);
            builder.inner.ins().stack_addr(I64, slot, 0)
        });
        let of_worker = builder.import_signature(&[I64]);
        let of_two = builder.import_signature(&[I64, I64]);
        let leave = builder.inner.create_block();
        builder.inner.append_block_param(leave, I32);
        let fail = builder.inner.create_block();
        builder.inner.append_block_param(fail, I64);
        builder.inner.append_block_param(fail, I32);
        Self { builder, worker, run, table, slots, dims, args, of_worker, of_two, leave, fail }
    }

    fn service(&mut self, service: Service, step: StepId) -> Value {
        let step = self.builder.i64(i64::from(step.0));
        self.builder.call_table(self.table, service.index(), self.of_two, &[self.worker, step])
    }

    fn barrier(&mut self) -> Value {
        self.builder.call_table(self.table, Service::Barrier.index(), self.of_worker, &[self.worker])
    }

    fn fail_if(&mut self, status: Value, step: StepId) {
        let step = self.builder.i64(i64::from(step.0));
        self.builder.leave_if(status, self.fail, &[step, status]);
    }

    /// Announces a step while profiling.
    fn trace(&mut self, step: StepId) {
        let (announce, next) = (self.builder.inner.create_block(), self.builder.inner.create_block());
        let trace = self.builder.field(self.run, field::TRACE);
        self.builder.branch(trace, (announce, &[]), (next, &[]));
        self.builder.inner.set_cold_block(announce);
        self.builder.inner.switch_to_block(announce);
        self.service(Service::Trace, step);
        self.builder.jump(next, &[]);
        self.builder.inner.switch_to_block(next);
    }

    fn step(&mut self, step: &Prepared<'_>) {
        self.trace(step.id);
        let args = self.args(step.action.args());
        match &step.action {
            Action::Barrier => {
                let status = self.barrier();
                self.builder.leave_if(status, self.leave, &[status]);
            }
            Action::Builtin { builtin, .. } => {
                let status =
                    self.builder.call_table(self.table, *builtin as usize, self.of_two, &[self.worker, args]);
                self.fail_if(status, step.id);
            }
            Action::Region { function, .. } => {
                let callee = self.builder.import_function(*function, self.of_two);
                let status = self.builder.call(callee, &[self.worker, args]);
                self.fail_if(status, step.id);
            }
            Action::Leader { evaluate, resolve } => {
                let (leader, next) = (self.builder.inner.create_block(), self.builder.inner.create_block());
                let index = self.builder.field(self.worker, field::INDEX);
                self.builder.branch(index, (next, &[]), (leader, &[]));
                self.builder.inner.switch_to_block(leader);
                let services = [(*evaluate, Service::Evaluate), (*resolve, Service::Resolve)];
                for service in services.into_iter().filter_map(|(wanted, service)| wanted.then_some(service))
                {
                    let status = self.service(service, step.id);
                    self.fail_if(status, step.id);
                }
                self.builder.jump(next, &[]);
                self.builder.inner.switch_to_block(next);
            }
            Action::If { condition, then_chunks, else_chunks } => {
                self.branches(condition, then_chunks, else_chunks)
            }
            Action::Loop { repeat, chunks } => self.repeat(step.id, repeat, chunks),
        }
    }

    fn branches(&mut self, condition: &View, then_chunks: &[FunctionId], else_chunks: &[FunctionId]) {
        let [then, other, next] = [(); 3].map(|()| self.builder.inner.create_block());
        let address = self.view(condition);
        let bool = self.builder.inner.ins().load(I8, DATA, address, 0);
        self.builder.branch(bool, (then, &[]), (other, &[]));
        for (block, chunks) in [(then, then_chunks), (other, else_chunks)] {
            self.builder.inner.switch_to_block(block);
            self.builder.call_all(chunks, self.of_worker, &[self.worker]);
            self.builder.jump(next, &[]);
        }
        self.builder.inner.switch_to_block(next);
    }

    /// Waits, looks whether there is another iteration, runs it, waits again, and lets the leader count. Everything that the
    /// decision reads is written between the second barrier and the first.
    fn repeat(&mut self, id: StepId, repeat: &Loop, chunks: &[FunctionId]) {
        let [header, body, leader, next, exit] = [(); 5].map(|()| self.builder.inner.create_block());
        self.builder.jump(header, &[]);
        self.builder.inner.switch_to_block(header);
        let status = self.barrier();
        self.builder.leave_if(status, self.leave, &[status]);
        let address = self.view(&repeat.condition);
        let more = self.builder.inner.ins().load(I8, DATA, address, 0);
        self.builder.leave_unless(more, exit);
        if let Some(trips) = &repeat.trips {
            let [trips, iteration] = [trips, &repeat.iteration].map(|view| {
                let address = self.view(view);
                self.builder.inner.ins().load(I64, DATA, address, 0)
            });
            let more = self.builder.inner.ins().icmp(IntCC::SignedLessThan, iteration, trips);
            self.builder.leave_unless(more, exit);
        }
        self.builder.jump(body, &[]);

        self.builder.inner.switch_to_block(body);
        self.builder.call_all(chunks, self.of_worker, &[self.worker]);
        let status = self.barrier();
        self.builder.leave_if(status, self.leave, &[status]);
        let index = self.builder.field(self.worker, field::INDEX);
        self.builder.branch(index, (next, &[]), (leader, &[]));

        self.builder.inner.switch_to_block(leader);
        if !repeat.sized {
            let status = self.service(Service::Iterate, id);
            self.fail_if(status, id);
        }
        let address = self.view(&repeat.iteration);
        let iteration = self.builder.inner.ins().load(I64, DATA, address, 0);
        let iteration = self.builder.plus(iteration, 1);
        self.builder.inner.ins().store(DATA, iteration, address, 0);
        if repeat.next != repeat.condition {
            let (from, to) = (self.view(&repeat.next), self.view(&repeat.condition));
            let more = self.builder.inner.ins().load(I8, DATA, from, 0);
            self.builder.inner.ins().store(DATA, more, to, 0);
        }
        self.builder.jump(next, &[]);
        self.builder.inner.switch_to_block(next);
        self.builder.jump(header, &[]);
        self.builder.inner.switch_to_block(exit);
    }

    /// Fills the argument struct and returns its address; null without arguments.
    fn args(&mut self, args: &[Arg]) -> Value {
        let Some(base) = self.args.filter(|_| !args.is_empty()) else { return self.builder.i64(0) };
        for (offset, arg) in (0..).step_by(8).zip(args) {
            let value = match arg {
                Arg::View(view) => self.view(view),
                Arg::Null => self.builder.i64(0),
                Arg::Dims(dim) => self.builder.plus(self.dims, i64::from(dim.0) * 8),
                Arg::Dim(dim) => self.builder.field(self.dims, (dim.0 * 8) as i32),
                Arg::Int(value) => self.builder.i64(*value),
                Arg::Float(value) => self.builder.i64(value.to_bits() as i64),
            };
            self.builder.inner.ins().store(TABLE, value, base, offset);
        }
        base
    }

    fn view(&mut self, view: &View) -> Value {
        let slot = self.builder.field(self.slots, (view.slot.0 * 8) as i32);
        match view.offset {
            Some(offset) => {
                let offset = self.builder.field(self.dims, (offset.0 * 8) as i32);
                self.builder.inner.ins().iadd(slot, offset)
            }
            None => slot,
        }
    }

    fn finish(mut self) {
        let ok = self.builder.int(I32, Status::Ok as i64);
        self.builder.return_status(ok);

        self.builder.inner.switch_to_block(self.fail);
        let params = self.builder.inner.block_params(self.fail).to_vec();
        let of_three = self.builder.import_signature(&[I64, I64, I32]);
        let fail_args = [self.worker, params[0], params[1]];
        self.builder.call_table(self.table, Service::Fail.index(), of_three, &fail_args);
        let status = self.barrier();
        // A barrier after a failure is never 0; were it, going on would still be wrong.
        let internal = self.builder.int(I32, Status::Internal as i64);
        let status = self.builder.inner.ins().select(status, status, internal);
        self.builder.jump(self.leave, &[status]);

        self.builder.inner.switch_to_block(self.leave);
        let status = self.builder.inner.block_params(self.leave)[0];
        self.builder.return_status(status);
    }
}
