//! Random regions over random shapes, strides and dtypes, as plans of one step.

use lathe_artifact::builtin::TileFunction;
use lathe_artifact::plan::{
    DimExpr, DimId, Plan, Port, Slot, SlotId, SlotKind, Step, StepId, StepKind, Symbol, SymbolSource,
    TensorRef, View,
};
use lathe_artifact::region::{BinaryOp, Region, RegionOp, RegionOpKind, RegionOperand, UnaryOp};
use lathe_tensor::DType;

/// A small generator of numbers: the same seed gives the same case.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 7
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// A plan of one region with data.
pub struct Case {
    pub plan: Plan,
    /// Bytes of each input slot; input 0 of the plan is one byte whose extent 1 makes dims unknown at compile time.
    pub inputs: Vec<Vec<u8>>,
    /// The dims table as it must come out.
    pub dims: Vec<i64>,
}

impl Case {
    pub fn region(&self) -> &Region {
        match &self.plan.steps[0].kind {
            StepKind::Region(region) => region,
            _ => unreachable!(),
        }
    }

    pub fn value(&self, dim: DimId) -> i64 {
        self.dims[dim.0 as usize]
    }
}

const ALL: &[DType] = &[
    DType::Bool,
    DType::I8,
    DType::U8,
    DType::I16,
    DType::U16,
    DType::I32,
    DType::U32,
    DType::F32,
    DType::I64,
    DType::U64,
    DType::F64,
];

/// The dtypes that are computed four at a time.
const NARROW: usize = 8;

struct Writer {
    random: Random,
    dims: Vec<DimExpr>,
    values: Vec<i64>,
    body: Vec<RegionOp>,
    loads: Vec<DType>,
}

/// The case of a seed.
pub fn case(seed: u64) -> Case {
    let mut random = Random::new(seed);
    let rank = random.below(5);
    let sizes = sizes(&mut random, rank);
    let mut writer = Writer {
        random,
        dims: vec![DimExpr::Symbol(0)],
        values: vec![1],
        body: Vec::new(),
        loads: Vec::new(),
    };
    let kinds = if writer.random.one_in(3) { ALL } else { &ALL[..NARROW] };
    writer.body(kinds, rank);
    let sizes_dims: Vec<DimId> = sizes.iter().map(|&size| writer.dim(size)).collect();
    let mut slots = vec![slot(SlotKind::Input(0), DType::U8, DimId(0))];
    let mut inputs = vec![vec![0]];
    let mut operands = Vec::new();
    for dtype in writer.loads.clone() {
        let (operand, bytes) = writer.operand(dtype, &sizes, SlotId(slots.len() as u32), false);
        let total = writer.dim(bytes as i64);
        slots.push(slot(SlotKind::Input(inputs.len() as u32), dtype, total));
        inputs.push(writer.data(dtype, bytes));
        operands.push(operand);
    }
    let mut outputs = Vec::new();
    for _ in 0..1 + writer.random.below(3) {
        let value = writer.random.below(writer.body.len());
        let dtype = writer.body[value].dtype;
        let (operand, bytes) = writer.operand(dtype, &sizes, SlotId(slots.len() as u32), true);
        let total = writer.dim(bytes as i64);
        slots.push(slot(SlotKind::Output(outputs.len() as u32), dtype, total));
        outputs.push((operand, value as u32));
    }
    let region = Region { sizes: sizes_dims, inputs: operands, outputs, body: writer.body };
    Case { plan: plan(region, writer.dims, slots), inputs, dims: writer.values }
}

fn sizes(random: &mut Random, rank: usize) -> Vec<i64> {
    let mut sizes: Vec<i64> = (0..rank).map(|_| random.pick(&[1, 2, 3, 4, 5, 7, 8, 13])).collect();
    if let Some(inner) = sizes.last_mut() {
        *inner = random.pick(&[1, 2, 3, 4, 5, 8, 17, 31, 64, 130, 515, 1200]);
    }
    if random.one_in(6) && rank > 0 {
        let long = random.below(rank);
        sizes = vec![1; rank];
        sizes[long] = 9000 + random.below(5000) as i64;
    }
    if random.one_in(25) && rank > 0 {
        let empty = random.below(rank);
        sizes[empty] = 0;
    }
    sizes
}

fn slot(kind: SlotKind, dtype: DType, bytes: DimId) -> Slot {
    Slot { kind, dtype, bytes, stage: 0 }
}

fn plan(region: Region, dims: Vec<DimExpr>, slots: Vec<Slot>) -> Plan {
    let mut ports: [Vec<Port>; 2] = Default::default();
    for (index, slot) in slots.iter().enumerate() {
        let (list, name) = match slot.kind {
            SlotKind::Input(input) => (0, format!("in{input}")),
            SlotKind::Output(output) => (1, format!("out{output}")),
            _ => unreachable!(),
        };
        // Ports are byte strings: regions lay their elements out in them as they like.
        let view = View { slot: SlotId(index as u32), offset: None };
        let tensor = TensorRef { view, dtype: DType::U8, dims: vec![slot.bytes] };
        ports[list].push(Port { name, tensor, dims_text: vec!["bytes".to_string()] });
    }
    let [inputs, outputs] = ports;
    Plan {
        name: "main".to_string(),
        dim_stages: vec![0; dims.len()],
        dims,
        symbols: vec![Symbol {
            name: "one".to_string(),
            dim: DimId(0),
            source: SymbolSource::Input { input: 0, axis: 0 },
        }],
        stages: 1,
        guards: Vec::new(),
        inputs,
        outputs,
        slots: slots.into_iter().map(|slot| Slot { dtype: DType::U8, ..slot }).collect(),
        steps: vec![Step {
            id: StepId(0),
            kind: StepKind::Region(region),
            node: "fused".to_string(),
            op: "region".to_string(),
            reason: String::new(),
        }],
        phases: 1,
        views: Vec::new(),
        states: Vec::new(),
        regimes: Vec::new(),
        routings: Vec::new(),
        composites: Default::default(),
    }
}

impl Writer {
    /// An entry of the dims table, known at compile time or not.
    fn dim(&mut self, value: i64) -> DimId {
        self.dims.push(DimExpr::Const(value));
        self.values.push(value);
        if self.random.one_in(2) {
            self.dims.push(DimExpr::Mul(DimId(self.dims.len() as u32 - 1), DimId(0)));
            self.values.push(value);
        }
        DimId(self.dims.len() as u32 - 1)
    }

    /// An operand over `sizes` and the bytes that it spans.
    fn operand(&mut self, dtype: DType, sizes: &[i64], slot: SlotId, output: bool) -> (RegionOperand, usize) {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        if self.random.one_in(4) {
            for index in (1..order.len()).rev() {
                order.swap(index, self.random.below(index + 1));
            }
        }
        let mut strides = vec![0; sizes.len()];
        let mut step: i64 = if self.random.one_in(6) { 2 } else { 1 };
        for &axis in order.iter().rev() {
            if !output && self.random.one_in(3) {
                continue;
            }
            strides[axis] = step;
            step *= sizes[axis].max(1);
        }
        let skip = if self.random.one_in(3) { self.random.below(9) as i64 * 4 } else { 0 };
        let offset = (skip > 0).then(|| self.dim(skip));
        let strides = strides.into_iter().map(|stride| self.dim(stride)).collect();
        let bytes = (step + 1) as usize * dtype.element_bytes().unwrap() + skip as usize;
        (RegionOperand { view: View { slot, offset }, dtype, strides }, bytes)
    }

    /// Bytes of random elements, edge cases among them.
    fn data(&mut self, dtype: DType, bytes: usize) -> Vec<u8> {
        let width = dtype.element_bytes().unwrap();
        let mut data = Vec::with_capacity(bytes);
        while data.len() < bytes {
            let bits = self.bits(dtype);
            data.extend_from_slice(&bits.to_le_bytes()[..width]);
        }
        data.truncate(bytes);
        data
    }

    fn bits(&mut self, dtype: DType) -> u64 {
        let random = &mut self.random;
        match dtype {
            DType::Bool => random.next() & 1,
            DType::F32 if random.one_in(8) => {
                let edge = [f32::NAN, f32::INFINITY, -f32::INFINITY, 0.0, -0.0, 2.5, -0.5, 3e9, -3e9, 1e-40];
                u64::from(random.pick(&edge).to_bits())
            }
            DType::F32 => u64::from(((random.below(4001) as f32 - 2000.0) / 16.0).to_bits()),
            DType::F64 if random.one_in(8) => {
                let edge = [f64::NAN, f64::INFINITY, -f64::INFINITY, 0.0, -0.0, 1.5, 1e300, 1e19, -1e19];
                random.pick(&edge).to_bits()
            }
            DType::F64 => ((random.below(4001) as f64 - 2000.0) / 16.0).to_bits(),
            _ if random.one_in(4) => {
                random.pick(&[0, 1, u64::MAX, 0x80, 0x8000, 0x8000_0000, 1 << 63, 0x7fff_ffff])
            }
            _ => random.next() << 7,
        }
    }

    fn push(&mut self, dtype: DType, kind: RegionOpKind) {
        self.body.push(RegionOp { dtype, kind });
    }

    fn of(&mut self, dtype: DType) -> u32 {
        let found: Vec<u32> =
            (0..self.body.len() as u32).filter(|&value| self.body[value as usize].dtype == dtype).collect();
        if found.is_empty() || self.random.one_in(12) {
            let bits = self.bits(dtype);
            self.push(dtype, RegionOpKind::Const(bits));
            return self.body.len() as u32 - 1;
        }
        self.random.pick(&found)
    }

    fn body(&mut self, kinds: &[DType], rank: usize) {
        let loads = self.random.below(4);
        for input in 0..loads {
            let dtype = if self.random.one_in(2) { DType::F32 } else { self.random.pick(kinds) };
            self.loads.push(dtype);
            self.push(dtype, RegionOpKind::Load(input as u32));
        }
        let tiles = self.random.one_in(2);
        for _ in 0..1 + self.random.below(10) {
            let dtype = if self.random.one_in(2) { DType::F32 } else { self.random.pick(kinds) };
            self.instruction(dtype, kinds, rank, tiles);
        }
    }

    fn instruction(&mut self, dtype: DType, kinds: &[DType], rank: usize, tiles: bool) {
        use BinaryOp::*;
        match self.random.below(9) {
            0 if rank > 0 && kinds.len() > NARROW => {
                let axis = self.random.below(rank) as u32;
                self.push(DType::I64, RegionOpKind::Index(axis));
            }
            1 => {
                let value = self.random.below(100) as i64;
                let dim = self.dim(value);
                self.push(DType::I64, RegionOpKind::Dim(dim));
                if kinds.len() == NARROW {
                    let value = self.body.len() as u32 - 1;
                    self.push(dtype, RegionOpKind::Cast(value));
                }
            }
            2 if tiles => {
                let function = self.random.pick(&[TileFunction::Exp, TileFunction::Tanh, TileFunction::Erf]);
                let a = self.of(DType::F32);
                self.push(DType::F32, RegionOpKind::Tile(function, a));
            }
            0..=2 => {
                let from = self.random.pick(kinds);
                let a = self.of(from);
                self.push(dtype, RegionOpKind::Cast(a));
            }
            3 | 4 => self.unary(dtype),
            5 => {
                let (condition, a, b) = (self.of(DType::Bool), self.of(dtype), self.of(dtype));
                self.push(dtype, RegionOpKind::Select(condition, a, b));
            }
            6 => {
                let (a, b) = (self.of(dtype), self.of(dtype));
                let kind = self.random.pick(&[Equal, Less, LessOrEqual]);
                self.push(DType::Bool, RegionOpKind::Binary(kind, a, b));
            }
            _ => {
                let (a, b) = (self.of(dtype), self.of(dtype));
                let kind = match dtype {
                    DType::Bool => self.random.pick(&[And, Or, Xor]),
                    DType::F32 | DType::F64 => self.random.pick(&[Add, Sub, Mul, Div, Min, Max]),
                    _ if self.random.one_in(4) => Div,
                    _ => self.random.pick(&[Add, Sub, Mul, Min, Max]),
                };
                self.push(dtype, RegionOpKind::Binary(kind, a, b));
            }
        }
    }

    fn unary(&mut self, dtype: DType) {
        use UnaryOp::*;
        let a = self.of(dtype);
        let float: &[UnaryOp] = &[Neg, Abs, Sqrt, Reciprocal, Floor, Ceil, Round, Sign, Relu, IsNan];
        let kind = match dtype {
            DType::Bool => Not,
            DType::F32 | DType::F64 => self.random.pick(float),
            _ => self.random.pick(&[Neg, Abs, Sign, Relu]),
        };
        let result = if kind == IsNan { DType::Bool } else { dtype };
        self.push(result, RegionOpKind::Unary(kind, a));
    }
}
