//! Fused loops in the making.

use lathe_artifact::builtin::TileFunction;
use lathe_artifact::plan::{DimId, StepKind};
use lathe_artifact::region::{BinaryOp, Region, RegionOp, RegionOpKind, RegionOperand, UnaryOp, ValueIndex};
use lathe_tensor::{DType, Tensor};

use crate::location::{Location, merge_axes};
use crate::planner::{Access, Planner};
use crate::size::Size;

/// A region before its axes are merged. Operands have one stride a loop axis.
#[derive(Clone, Debug)]
pub(crate) struct RegionDraft {
    dims: Vec<Size>,
    inputs: Vec<Location>,
    outputs: Vec<(Location, ValueIndex)>,
    body: Vec<RegionOp>,
    uses_index: bool,
}

impl RegionDraft {
    pub fn new(dims: Vec<Size>) -> Self {
        Self { dims, inputs: Vec::new(), outputs: Vec::new(), body: Vec::new(), uses_index: false }
    }

    pub fn dims(&self) -> &[Size] {
        &self.dims
    }

    pub fn dtype(&self, value: ValueIndex) -> DType {
        self.body.get(value as usize).map_or(DType::Bool, |op| op.dtype)
    }

    /// The bits of a value that is a constant.
    pub fn as_constant(&self, value: ValueIndex) -> Option<(DType, u64)> {
        self.body.get(value as usize).and_then(|op| match op.kind {
            RegionOpKind::Const(bits) => Some((op.dtype, bits)),
            _ => None,
        })
    }

    pub fn push(&mut self, dtype: DType, kind: RegionOpKind) -> ValueIndex {
        self.body.push(RegionOp { dtype, kind });
        self.body.len() as u32 - 1
    }

    /// The elements of a location that is broadcast to the loop.
    pub fn read(&mut self, location: Location) -> ValueIndex {
        let dtype = location.dtype;
        let index = match self.inputs.iter().position(|input| *input == location) {
            Some(index) => index,
            None => {
                self.inputs.push(location);
                self.inputs.len() - 1
            }
        };
        let kind = RegionOpKind::Load(index as u32);
        match self.body.iter().position(|op| op.kind == kind) {
            Some(loaded) => loaded as u32,
            None => self.push(dtype, kind),
        }
    }

    pub fn write(&mut self, location: Location, value: ValueIndex) {
        self.outputs.push((location, value));
    }

    /// A size as data: `dtype` is i64 or another integer.
    pub fn dim(&mut self, entry: DimId, dtype: DType) -> ValueIndex {
        let value = self.push(DType::I64, RegionOpKind::Dim(entry));
        self.cast(value, dtype)
    }

    /// The index along a loop axis, as i64.
    pub fn index(&mut self, axis: usize) -> ValueIndex {
        self.uses_index = true;
        self.push(DType::I64, RegionOpKind::Index(axis as u32))
    }

    pub fn bits(&mut self, dtype: DType, bits: u64) -> ValueIndex {
        let kind = RegionOpKind::Const(bits);
        match self.body.iter().position(|op| op.kind == kind && op.dtype == dtype) {
            Some(index) => index as u32,
            None => self.push(dtype, kind),
        }
    }

    /// A number as a constant of a dtype that regions compute with.
    pub fn number(&mut self, dtype: DType, value: f64) -> ValueIndex {
        let bits = match dtype {
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F64 => value.to_bits(),
            _ => value as i64 as u64 & mask(dtype),
        };
        self.bits(dtype, bits)
    }

    pub fn unary(&mut self, op: UnaryOp, a: ValueIndex) -> ValueIndex {
        let dtype = match op {
            UnaryOp::IsNan | UnaryOp::Not => DType::Bool,
            _ => self.dtype(a),
        };
        self.push(dtype, RegionOpKind::Unary(op, a))
    }

    pub fn tile(&mut self, function: TileFunction, a: ValueIndex) -> ValueIndex {
        self.push(DType::F32, RegionOpKind::Tile(function, a))
    }

    pub fn binary(&mut self, op: BinaryOp, a: ValueIndex, b: ValueIndex) -> ValueIndex {
        let dtype = match op {
            BinaryOp::Equal | BinaryOp::Less | BinaryOp::LessOrEqual => DType::Bool,
            _ => self.dtype(a),
        };
        self.push(dtype, RegionOpKind::Binary(op, a, b))
    }

    pub fn select(&mut self, condition: ValueIndex, a: ValueIndex, b: ValueIndex) -> ValueIndex {
        self.push(self.dtype(a), RegionOpKind::Select(condition, a, b))
    }

    pub fn cast(&mut self, value: ValueIndex, dtype: DType) -> ValueIndex {
        if self.dtype(value) == dtype { value } else { self.push(dtype, RegionOpKind::Cast(value)) }
    }

    /// Whether every input in the buffer of `target` is walked exactly like it, so that the loop may write over it.
    pub fn may_overwrite(&self, target: &Location) -> bool {
        self.inputs.iter().filter(|input| input.buffer == target.buffer).all(|input| {
            input.offset == target.offset && input.strides == target.strides && input.dtype == target.dtype
        })
    }

    pub fn inputs(&self) -> &[Location] {
        &self.inputs
    }

    /// Appends the loop as a step.
    pub fn emit(self, planner: &mut Planner<'_>, reason: impl Into<String>) {
        let mut dims = self.dims;
        let mut strides: Vec<_> = self
            .inputs
            .iter()
            .chain(self.outputs.iter().map(|(location, _)| location))
            .map(|location| location.strides.clone())
            .collect();
        if !self.uses_index {
            merge_axes(&mut planner.sizes, &mut dims, &mut strides);
        }
        let mut accesses = Vec::new();
        let mut operands = Vec::new();
        let locations = self.inputs.iter().chain(self.outputs.iter().map(|(location, _)| location));
        for (index, (location, strides)) in locations.zip(&strides).enumerate() {
            let access = Access::read(location);
            accesses.push(Access { writes: index >= self.inputs.len(), ..access });
            operands.push(RegionOperand {
                view: planner.view(location),
                dtype: location.dtype,
                strides: strides.iter().map(|&stride| planner.table.entry(&planner.sizes, stride)).collect(),
            });
        }
        let written = operands.split_off(self.inputs.len());
        let region = Region {
            sizes: dims.iter().map(|&size| planner.table.entry(&planner.sizes, size)).collect(),
            inputs: operands,
            outputs: written.into_iter().zip(self.outputs.iter().map(|(_, value)| *value)).collect(),
            body: self.body,
        };
        planner.emit(StepKind::Region(region), &accesses, reason.into());
    }
}

/// Whether regions compute with the dtype.
pub(crate) fn supports(dtype: DType) -> bool {
    matches!(dtype, DType::Bool | DType::F32 | DType::F64)
        || dtype.is_integer() && dtype.element_bytes().is_some()
}

fn mask(dtype: DType) -> u64 {
    match dtype.element_bytes() {
        Some(bytes @ 1..8) => (1 << (8 * bytes)) - 1,
        _ => u64::MAX,
    }
}

/// The bits of a tensor of one element.
pub(crate) fn scalar_bits(tensor: &Tensor) -> Option<u64> {
    if tensor.len() != 1 || !supports(tensor.dtype()) {
        return None;
    }
    let mut bits = [0; 8];
    let bytes = tensor.bytes();
    bits.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(bits))
}
