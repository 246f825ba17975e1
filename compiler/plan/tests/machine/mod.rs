//! A machine that runs f32 plans step by step on one memory, and notes which elements each step reads and writes. It
//! finds steps between two barriers that touch what another writes, accesses outside their slot or its phases, and
//! buffers that share memory too early: the results differ then.

use std::collections::{BTreeMap, BTreeSet};

use lathe_artifact::arena::{self, Buffer};
use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::{Arg, Call, DimId, Plan, SlotKind, StepKind, View};
use lathe_artifact::region::{BinaryOp, Region, RegionOpKind, RegionOperand, UnaryOp};
use lathe_ir::Module;
use lathe_plan::{Planned, pack};
use lathe_tensor::Tensor;

/// Elements between slots outside the arena.
const GAP: usize = 16;

pub struct Machine<'a> {
    plan: &'a Plan,
    dims: Vec<i64>,
    starts: Vec<usize>,
    memory: Vec<f32>,
    reads: BTreeSet<usize>,
    writes: BTreeSet<usize>,
    phase: u32,
}

impl<'a> Machine<'a> {
    pub fn new(module: &Module, planned: &'a Planned, sizes: &BTreeMap<&str, i64>) -> Self {
        let plan = &planned.plan;
        let dims = plan.known_dims(&|symbol| sizes.get(symbol.name.as_str()).copied());
        let dims: Vec<i64> = dims.into_iter().map(|dim| dim.expect("a known size")).collect();
        let bytes = |id: DimId| usize::try_from(dims[id.0 as usize]).expect("a size");
        let live: Vec<_> = plan
            .slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| match slot.kind {
                SlotKind::Arena { first, last } => {
                    Some((index, Buffer { bytes: bytes(slot.bytes) as u64, first, last }))
                }
                _ => None,
            })
            .collect();
        let layout = arena::assign(&live.iter().map(|(_, buffer)| *buffer).collect::<Vec<_>>());
        let mut starts = vec![0; plan.slots.len()];
        for ((index, _), offset) in live.iter().zip(&layout.offsets) {
            starts[*index] = *offset as usize / 4;
        }
        let mut memory = vec![f32::NAN; layout.peak as usize / 4 + GAP];
        for (index, slot) in plan.slots.iter().enumerate() {
            if !matches!(slot.kind, SlotKind::Arena { .. }) {
                starts[index] = memory.len();
                memory.resize(memory.len() + bytes(slot.bytes) / 4 + GAP, f32::NAN);
            }
            if let SlotKind::Weight(name) = &slot.kind {
                let weight = planned.weights.iter().find(|weight| weight.name == *name).expect("a weight");
                let packed = pack(module, weight).expect("packed");
                let elements = packed.to_slice::<f32>().expect("f32");
                memory[starts[index]..starts[index] + elements.len()].copy_from_slice(&elements);
            }
        }
        Self { plan, dims, starts, memory, reads: BTreeSet::new(), writes: BTreeSet::new(), phase: 0 }
    }

    /// The outputs for inputs in order.
    pub fn run(&mut self, inputs: &[Tensor]) -> Vec<Vec<f32>> {
        for (port, input) in self.plan.inputs.iter().zip(inputs) {
            let start = self.starts[port.tensor.view.slot.0 as usize];
            let elements = input.to_slice::<f32>().expect("f32");
            self.memory[start..start + elements.len()].copy_from_slice(&elements);
        }
        let mut phase: Vec<(BTreeSet<usize>, BTreeSet<usize>)> = Vec::new();
        for step in &self.plan.steps {
            self.reads.clear();
            self.writes.clear();
            match &step.kind {
                StepKind::Barrier => {
                    phase.clear();
                    self.phase += 1;
                    continue;
                }
                StepKind::Call(call) => self.call(call),
                StepKind::Region(region) => self.region(region),
                other => panic!("the machine does not run {other:?}"),
            }
            for (reads, writes) in &phase {
                let touched = self.writes.iter().any(|at| reads.contains(at) || writes.contains(at));
                let stale = self.reads.iter().any(|at| writes.contains(at));
                assert!(!touched && !stale, "step {} needs a barrier before it", step.id.0);
            }
            phase.push((std::mem::take(&mut self.reads), std::mem::take(&mut self.writes)));
        }
        self.plan
            .outputs
            .iter()
            .map(|port| {
                let count: i64 = port.tensor.dims.iter().map(|dim| self.dims[dim.0 as usize]).product();
                let start = self.at(&port.tensor.view, 0);
                self.memory[start..start + count as usize].to_vec()
            })
            .collect()
    }

    /// The place of an element of a view, which must lie in its slot while that is live.
    fn at(&self, view: &View, element: i64) -> usize {
        let index = view.slot.0 as usize;
        let slot = &self.plan.slots[index];
        let offset = view.offset.map_or(0, |offset| self.dims[offset.0 as usize]) / 4 + element;
        assert!(
            offset >= 0 && offset * 4 < self.dims[slot.bytes.0 as usize],
            "element {offset} of slot {index}"
        );
        if let SlotKind::Arena { first, last } = slot.kind {
            assert!((first..=last).contains(&self.phase), "slot {index} in phase {}", self.phase);
        }
        self.starts[index] + offset as usize
    }

    fn read(&mut self, view: &View, element: i64) -> f32 {
        let at = self.at(view, element);
        self.reads.insert(at);
        self.memory[at]
    }

    fn write(&mut self, view: &View, element: i64, value: f32) {
        let at = self.at(view, element);
        self.writes.insert(at);
        self.memory[at] = value;
    }

    fn region(&mut self, region: &Region) {
        let sizes: Vec<_> = region.sizes.iter().map(|size| self.dims[size.0 as usize]).collect();
        let mut written = BTreeMap::new();
        let mut loaded = BTreeMap::new();
        for (number, index) in indices(&sizes).into_iter().enumerate() {
            let place = |machine: &Self, operand: &RegionOperand| {
                operand
                    .strides
                    .iter()
                    .zip(&index)
                    .map(|(stride, i)| machine.dims[stride.0 as usize] * i)
                    .sum::<i64>()
            };
            let mut values: Vec<f32> = Vec::new();
            for op in &region.body {
                let of = |value: u32| values[value as usize];
                let value = match op.kind {
                    RegionOpKind::Load(input) => {
                        let operand = &region.inputs[input as usize];
                        let element = place(self, operand);
                        loaded.insert(self.at(&operand.view, element), number);
                        self.read(&operand.view, element)
                    }
                    RegionOpKind::Const(bits) => f32::from_bits(bits as u32),
                    RegionOpKind::Unary(UnaryOp::Relu, a) => of(a).max(0.0),
                    RegionOpKind::Binary(BinaryOp::Add, a, b) => of(a) + of(b),
                    RegionOpKind::Binary(BinaryOp::Mul, a, b) => of(a) * of(b),
                    ref other => panic!("the machine does not compute {other:?}"),
                };
                values.push(value);
            }
            for (operand, value) in &region.outputs {
                let element = place(self, operand);
                written.insert(self.at(&operand.view, element), number);
                self.write(&operand.view, element, values[*value as usize]);
            }
        }
        // Workers take indices in any order: an element that is written is read at its own index only.
        for (at, number) in &written {
            assert!(
                loaded.get(at).is_none_or(|other| other == number),
                "a loop overwrites what it still reads"
            );
            self.reads.remove(at);
        }
    }

    fn call(&mut self, call: &Call) {
        match call.builtin {
            Builtin::MatMulPacked => self.matmul_packed(call),
            Builtin::MatMulStrided => self.matmul_strided(call),
            Builtin::Copy => {
                let rank = self.int(call, "rank");
                let [sizes, from, to] =
                    ["sizes", "src_strides", "dst_strides"].map(|name| self.range(call, name, rank));
                for index in indices(&sizes) {
                    let element = self.read(&view(call, "src"), dot(&index, &from));
                    self.write(&view(call, "dst"), dot(&index, &to), element);
                }
            }
            Builtin::Reduce | Builtin::Softmax => self.rows(call),
            other => panic!("the machine does not call {other:?}"),
        }
    }

    fn int(&self, call: &Call, name: &str) -> i64 {
        match field(call, name) {
            Arg::Int(value) => value,
            Arg::Dim(dim) => self.dims[dim.0 as usize],
            other => panic!("{other:?} is no int"),
        }
    }

    fn range(&self, call: &Call, name: &str, count: i64) -> Vec<i64> {
        match field(call, name) {
            Arg::Dims(first) => self.dims[first.0 as usize..first.0 as usize + count as usize].to_vec(),
            other => panic!("{other:?} is no range"),
        }
    }

    fn matmul_packed(&mut self, call: &Call) {
        assert!(matches!((field(call, "bias"), field(call, "residual")), (Arg::Null, Arg::Null)));
        let [m, n, k, a_stride, c_stride] =
            ["m", "n", "k", "a_stride", "c_stride"].map(|name| self.int(call, name));
        for (i, j) in pairs(m, n) {
            let mut sum = 0.0;
            for l in 0..k {
                let packed = (j / 32 * k + l) * 32 + j % 32;
                sum += self.read(&view(call, "a"), i * a_stride + l) * self.read(&view(call, "b"), packed);
            }
            self.write(&view(call, "c"), i * c_stride + j, sum);
        }
    }

    fn matmul_strided(&mut self, call: &Call) {
        let rank = self.int(call, "batch_rank");
        let batch = self.range(call, "batch", rank);
        let strides = ["a_batch", "b_batch", "c_batch"].map(|name| self.range(call, name, rank));
        let [m, n, k] = ["m", "n", "k"].map(|name| self.int(call, name));
        let [a_row, a_col, b_row, b_col, c_row] =
            ["a_row", "a_col", "b_row", "b_col", "c_row"].map(|name| self.int(call, name));
        for index in indices(&batch) {
            let [a, b, c] = [0, 1, 2].map(|operand: usize| dot(&index, &strides[operand]));
            for (i, j) in pairs(m, n) {
                let mut sum = 0.0;
                for l in 0..k {
                    sum += self.read(&view(call, "a"), a + i * a_row + l * a_col)
                        * self.read(&view(call, "b"), b + l * b_row + j * b_col);
                }
                self.write(&view(call, "c"), c + i * c_row + j, sum);
            }
        }
    }

    /// Sums, or softmax, of the middle axis.
    fn rows(&mut self, call: &Call) {
        let [outer, n, inner] = ["outer", "n", "inner"].map(|name| self.int(call, name));
        for (o, i) in pairs(outer, inner) {
            let row: Vec<f32> =
                (0..n).map(|j| self.read(&view(call, "x"), (o * n + j) * inner + i)).collect();
            if call.builtin == Builtin::Reduce {
                self.write(&view(call, "y"), o * inner + i, row.iter().sum());
                continue;
            }
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().map(|x| (x - largest).exp()).sum();
            for (j, x) in row.iter().enumerate() {
                self.write(&view(call, "y"), (o * n + j as i64) * inner + i, (x - largest).exp() / sum);
            }
        }
    }
}

fn field(call: &Call, name: &str) -> Arg {
    let index = call.builtin.fields().iter().position(|(field, _)| *field == name).expect("a field");
    call.args[index]
}

fn view(call: &Call, name: &str) -> View {
    match field(call, name) {
        Arg::View(view) => view,
        other => panic!("{other:?} is no view"),
    }
}

fn dot(index: &[i64], strides: &[i64]) -> i64 {
    index.iter().zip(strides).map(|(i, stride)| i * stride).sum()
}

fn pairs(a: i64, b: i64) -> Vec<(i64, i64)> {
    (0..a).flat_map(|i| (0..b).map(move |j| (i, j))).collect()
}

/// Every index below `sizes`.
fn indices(sizes: &[i64]) -> Vec<Vec<i64>> {
    sizes.iter().fold(vec![Vec::new()], |done, &size| {
        done.iter().flat_map(|index| (0..size).map(move |i| [&index[..], &[i]].concat())).collect()
    })
}
