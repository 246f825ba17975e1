//! What follows from a mask of ones: no row of a call is padding, so every element that `main` derives from its mask is one and
//! the same. And the regimes: what `main` decides by the total length.

use lathe_ir::{Dim, Node, ValueId};
use lathe_ops::elementwise::Compare;
use lathe_ops::{Limits, Op, shape};
use lathe_tensor::{DType, Tensor};

use super::build::Decode;
use super::mapped::{Mapped, Refusal};
use super::positions::{Special, integer};

impl Decode<'_> {
    /// An elementwise op of equal elements gives equal elements; a choice by a uniform condition is one of its operands.
    pub fn uniform_elementwise(&mut self, node: &Node, op: &Op) -> Special {
        let mapped: Vec<_> = node.inputs.iter().flatten().map(|&input| self.lookup(input)).collect();
        if !mapped.iter().any(|mapped| matches!(mapped, Mapped::Uniform(_))) {
            return Ok(None);
        }
        if let (Op::Where(_), [Some(condition), a, b]) = (op, &node.inputs[..])
            && let Some(condition) = self.uniform(*condition)
        {
            let chosen = if condition.bytes().first() == Some(&0) { *b } else { *a };
            return Ok(chosen.and_then(|chosen| self.broadcast_to(node, chosen)));
        }
        let elements: Option<Vec<_>> =
            node.inputs.iter().flatten().map(|&input| self.uniform(input)).collect();
        let Some(elements) = elements else { return Ok(None) };
        let operands: Vec<_> = elements.iter().map(Some).collect();
        let results = op.evaluate(&operands, 1, &Limits::default());
        let results = results.map_err(|error| Refusal::new(&node.name, error.to_string()))?;
        Ok(results.into_iter().next().map(Mapped::Uniform))
    }

    /// A value where broadcasting to the node's result does not change it.
    fn broadcast_to(&mut self, node: &Node, value: ValueId) -> Option<Mapped> {
        let mapped = match self.uniform(value) {
            Some(element) => Mapped::Uniform(element),
            None => self.lookup(value),
        };
        let sizes = |value: ValueId| -> Vec<Dim> {
            self.main.ty(value).dims.iter().map(|dim| self.normal(dim)).collect()
        };
        let same = sizes(value) == sizes(*node.outputs.first()?);
        (same || matches!(mapped, Mapped::Uniform(_))).then_some(mapped)
    }

    /// Layout and choice of equal elements.
    pub fn uniform_view(&mut self, node: &Node, op: &Op) -> Special {
        let views = matches!(
            op,
            Op::Reshape(_)
                | Op::Squeeze(_)
                | Op::Unsqueeze(_)
                | Op::Transpose(_)
                | Op::Expand(_)
                | Op::Slice(_)
                | Op::Tile(_)
                | Op::Split(_)
                | Op::Gather(_)
                | Op::GatherNd(_)
                | Op::GatherElements(_)
        );
        let Some(Some(x)) = node.inputs.first().copied() else { return Ok(None) };
        let grows = |dim: &Dim| self.normal(dim).as_constant().is_none();
        if matches!(op, Op::Expand(_)) && self.main.ty(node.outputs[0]).dims.iter().any(grows) {
            return Ok(self.uniform(x).map(Mapped::Uniform));
        }
        match self.lookup(x) {
            Mapped::Uniform(element) if views => Ok(Some(Mapped::Uniform(element))),
            _ => Ok(None),
        }
    }

    /// A tensor of one value.
    pub fn filled(&mut self, node: &Node, fill: &shape::ConstantOfShape) -> Special {
        let sizes =
            self.main.ty(node.outputs[0]).dims.iter().any(|dim| self.normal(dim).as_constant().is_none());
        if !sizes {
            return Ok(None);
        }
        let one =
            Tensor::from_slice(&[1i64], &[1]).map_err(|error| Refusal::new(&node.name, error.to_string()))?;
        let made = Op::ConstantOfShape(fill.clone()).evaluate(&[Some(&one)], 1, &Limits::default());
        let made = made.map_err(|error| Refusal::new(&node.name, error.to_string()))?;
        Ok(made.first().and_then(|tensor| tensor.reshape(&[]).ok()).map(Mapped::Uniform))
    }

    /// Equal elements as a value of the sizes that `main` has for them.
    pub fn materialise(&mut self, node: &str, value: ValueId, element: &Tensor) -> Result<ValueId, Refusal> {
        let Some(dims) = self.sizes(value) else {
            return Err(Refusal::new(node, "it needs one element for each token of the past"));
        };
        let constant = self.constant(element.clone());
        let sizes = self.dims(node, &dims, false)?;
        self.emit_one(node, Op::Expand(shape::Expand {}), &[constant, sizes])
    }

    /// A comparison of the total length with a constant: which regime the sequence is in. `length + c > k` where `length > k - c`.
    pub fn regime(&mut self, node: &Node, compare: Compare) -> Special {
        let [Some(a), Some(b)] = node.inputs[..] else { return Ok(None) };
        let (offset, other, compare) = match (self.length(a), self.length(b)) {
            (Some(offset), None) => (offset, b, compare),
            (None, Some(offset)) => (offset, a, mirrored(compare)),
            _ => return Ok(None),
        };
        let Some(limit) = self.uniform(other).and_then(|element| integer(&element)) else {
            return Err(Refusal::new(&node.name, "the total length decides, but not by a constant"));
        };
        let boundary = limit.saturating_sub(offset);
        let (boundary, above) = match compare {
            Compare::Greater => (boundary, true),
            Compare::GreaterOrEqual => (boundary.saturating_sub(1), true),
            Compare::Less => (boundary.saturating_sub(1), false),
            Compare::LessOrEqual => (boundary, false),
            Compare::Equal => {
                return Err(Refusal::new(&node.name, "one total length is special"));
            }
        };
        let Some(&(_, longer)) = self.inputs.longer.iter().find(|(known, _)| *known == boundary) else {
            self.asked.boundaries.push(boundary);
            return Err(Refusal::new(&node.name, "the total length decides"));
        };
        let dims = vec![Dim::constant(1); self.main.ty(node.outputs[0]).rank()];
        let mut value = self.reshape(&node.name, longer, &dims)?;
        if !above {
            value = self.emit_one(&node.name, Op::Unary(lathe_ops::elementwise::Unary::Not), &[value])?;
        }
        Ok(Some(Mapped::Fixed(value)))
    }

    /// The total length plus a constant, also where `main` has it as a size.
    fn length(&mut self, value: ValueId) -> Option<i64> {
        if let Mapped::Length(offset) = self.lookup(value) {
            return Some(offset);
        }
        let [element] = &self.known(value)?[..] else { return None };
        let above = element.sub(&self.past().add(&self.seq()));
        above.as_constant()
    }
}

/// The comparison with its operands exchanged.
fn mirrored(compare: Compare) -> Compare {
    match compare {
        Compare::Greater => Compare::Less,
        Compare::GreaterOrEqual => Compare::LessOrEqual,
        Compare::Less => Compare::Greater,
        Compare::LessOrEqual => Compare::GreaterOrEqual,
        Compare::Equal => Compare::Equal,
    }
}

/// Whether a mask of this one element hides nothing: true, or nothing added.
pub(super) fn hides_nothing(element: &Tensor) -> bool {
    match element.dtype() {
        DType::Bool => element.bytes().first() != Some(&0),
        // What is hidden times zero may be -0.
        DType::F32 => {
            element.to_slice::<f32>().is_ok_and(|element| element.iter().all(|&added| added == 0.0))
        }
        _ => element.bytes().iter().all(|&byte| byte == 0),
    }
}
