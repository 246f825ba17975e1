//! Values of the model: tensors, and sequences, optionals and maps as the tensors that they are made of.
//!
//! The IR knows tensors only. A sequence whose length is known now is the list of its tensors, and operators on it at known places leave nothing
//! behind; other sequences are three tensors, see [`Form::Sequence`]. Where two values meet (branches of an `If`, iterations of a `Loop`), both are
//! brought to the form that [`join`] finds.

use lathe_ir::{Dim, FunctionId, Operation, ValueId, ValueType};
use lathe_ops::Op;
use lathe_ops::sequence::{Require, SequenceConstruct};
use lathe_proto::onnx::{TypeProto, ValueInfoProto, type_proto};
use lathe_tensor::value::{Composite as Port, Form, Rank};
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::onnx::graph::Importer;
use crate::onnx::node::Node;
use crate::onnx::types::Symbols;

/// A value of the model.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A tensor.
    Tensor(ValueId),
    /// Anything else.
    Composite(Composite),
}

/// Tensors that together are a value.
#[derive(Clone, Debug)]
pub(crate) struct Composite {
    pub form: Form,
    pub parts: Vec<ValueId>,
}

impl From<ValueId> for Item {
    fn from(value: ValueId) -> Self {
        Item::Tensor(value)
    }
}

impl Item {
    /// The value with these parts.
    pub(crate) fn new(form: Form, parts: Vec<ValueId>) -> Self {
        match (&form, &parts[..]) {
            (Form::Tensor { .. }, [value]) => Item::Tensor(*value),
            _ => Item::Composite(Composite { form, parts }),
        }
    }

    /// The tensor, where it is one.
    pub(crate) fn tensor(&self) -> Option<ValueId> {
        match self {
            Item::Tensor(value) => Some(*value),
            Item::Composite(_) => None,
        }
    }

    pub(crate) fn parts(&self) -> &[ValueId] {
        match self {
            Item::Tensor(value) => std::slice::from_ref(value),
            Item::Composite(composite) => &composite.parts,
        }
    }

    /// What the name of each part ends in.
    pub(crate) fn suffixes(&self) -> Vec<String> {
        match self {
            Item::Tensor(_) => vec![String::new()],
            Item::Composite(composite) => {
                composite.form.parts().into_iter().map(|part| part.suffix).collect()
            }
        }
    }

    /// The same value made of other parts.
    pub(crate) fn with(&self, parts: Vec<ValueId>) -> Self {
        match self {
            Item::Tensor(value) => Item::Tensor(parts.first().copied().unwrap_or(*value)),
            Item::Composite(composite) => Item::Composite(Composite { form: composite.form.clone(), parts }),
        }
    }
}

/// The tensors; an error for other values.
pub(crate) fn tensors(items: Vec<Item>) -> Result<Vec<ValueId>, Fault> {
    let tensor = |item: Item| match item {
        Item::Tensor(value) => Ok(value),
        Item::Composite(composite) => {
            Err(Fault::bad(format!("{} where a tensor is taken", composite.form.kind())))
        }
    };
    items.into_iter().map(tensor).collect()
}

/// Values of these forms whose parts stand one after the other in `parts`.
pub(crate) fn from_parts(forms: &[Form], parts: &[ValueId]) -> Vec<Item> {
    let mut left = parts;
    let next = |form: &Form| {
        let (these, rest) = left.split_at(form.part_count().min(left.len()));
        left = rest;
        Item::new(form.clone(), these.to_vec())
    };
    forms.iter().map(next).collect()
}

/// The rank of elements of these.
pub(crate) fn rank_of(ranks: &[u32]) -> Rank {
    ranks.iter().fold(Rank::Any, |rank, &other| rank.join(Rank::Is(other)))
}

/// The form in which a sequence can have any length.
pub(crate) fn loose(form: &Form) -> Form {
    match form {
        Form::List { dtype, ranks } => Form::Sequence { dtype: *dtype, rank: rank_of(ranks) },
        Form::Optional(content) => Form::Optional(Box::new(loose(content))),
        other => other.clone(),
    }
}

/// A form that values of both forms can be brought to.
pub(crate) fn join(a: &Form, b: &Form) -> Result<Form, Fault> {
    let differ = |what: &str, a: DType, b: DType| {
        Err(Fault::bad(format!("sequences with {what} of {a} and of {b} meet")))
    };
    match (a, b) {
        (a, b) if a == b => Ok(a.clone()),
        (Form::Optional(a), Form::Optional(b)) => Ok(Form::Optional(Box::new(join(a, b)?))),
        (Form::Optional(a), b) | (b, Form::Optional(a)) => Ok(Form::Optional(Box::new(join(a, b)?))),
        (Form::Nothing, other) | (other, Form::Nothing) => Ok(other.clone()),
        // Ranks that differ are told by inference, which knows the node.
        (Form::Tensor { .. }, Form::Tensor { .. }) => Ok(a.clone()),
        (Form::List { .. } | Form::Sequence { .. }, Form::List { .. } | Form::Sequence { .. }) => {
            match (loose(a), loose(b)) {
                (Form::Sequence { dtype: x, .. }, Form::Sequence { dtype: y, .. }) if x != y => {
                    differ("elements", x, y)
                }
                (Form::Sequence { dtype, rank }, Form::Sequence { rank: other, .. }) => {
                    Ok(Form::Sequence { dtype, rank: rank.join(other) })
                }
                (other, _) => Ok(other),
            }
        }
        _ => Err(Fault::bad(format!("{} and {} meet where one kind of value is needed", a.kind(), b.kind()))),
    }
}

impl Importer<'_> {
    /// The form of a value.
    pub(crate) fn form(&self, function: FunctionId, item: &Item) -> Form {
        match item {
            Item::Tensor(value) => {
                let ty = self.module.function(function).ty(*value);
                Form::Tensor { dtype: ty.dtype, rank: ty.rank() as u32 }
            }
            Item::Composite(composite) => composite.form.clone(),
        }
    }

    fn add(
        &mut self,
        function: FunctionId,
        op: Op,
        inputs: &[ValueId],
        outputs: usize,
        name: &str,
    ) -> Result<Vec<ValueId>, Fault> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.module.add_node(function, Operation::Op(op), &inputs, outputs, name)?)
    }

    /// The value brought to a form that [`join`] made of its own.
    pub(crate) fn convert(
        &mut self,
        function: FunctionId,
        item: &Item,
        to: &Form,
        name: &str,
    ) -> Result<Item, Fault> {
        let form = self.form(function, item);
        let parts = match (&form, to) {
            (Form::Tensor { .. }, Form::Tensor { .. }) => return Ok(item.clone()),
            (from, to) if from == to => return Ok(item.clone()),
            (Form::Sequence { .. }, Form::Sequence { .. }) => item.parts().to_vec(),
            (Form::List { dtype, .. }, Form::Sequence { .. }) => {
                let construct = Op::SequenceConstruct(SequenceConstruct { dtype: *dtype });
                self.add(function, construct, item.parts(), 3, name)?
            }
            (Form::Nothing, to) => self.absent(function, to)?,
            (Form::Optional(from), Form::Optional(to)) => {
                let (present, content) = item.parts().split_at(1);
                let content = Item::new((**from).clone(), content.to_vec());
                let content = self.convert(function, &content, to, name)?;
                [present, content.parts()].concat()
            }
            (_, Form::Optional(to)) => {
                let content = self.convert(function, item, to, name)?;
                let present = self.constant(function, Tensor::from_bools(&[true], &[])?, None);
                [&[present], content.parts()].concat()
            }
            (from, to) => {
                return Err(Fault::bad(format!("{} where {} is needed", from.kind(), to.kind())));
            }
        };
        Ok(Item::new(to.clone(), parts))
    }

    fn absent(&mut self, function: FunctionId, form: &Form) -> Result<Vec<ValueId>, Fault> {
        let tensors = form.absent()?;
        Ok(tensors.into_iter().map(|tensor| self.constant(function, tensor, None)).collect())
    }

    /// What an optional holds; where it may hold nothing, the run checks it.
    pub(crate) fn content(&mut self, function: FunctionId, item: &Item, name: &str) -> Result<Item, Fault> {
        let Item::Composite(Composite { form: Form::Optional(form), parts }) = item else {
            return Ok(item.clone());
        };
        let (Some(&present), mut content) = (parts.first(), parts.get(1..).unwrap_or_default().to_vec())
        else {
            return Err(Fault::bad("an optional without a flag"));
        };
        let known = self.known_flag(function, present);
        if known == Some(false) || **form == Form::Nothing {
            return Err(Fault::bad("the optional is empty: it has no element to get"));
        }
        if let (None, Some(first)) = (known, content.first_mut()) {
            let reason = "the optional is empty: it has no element to get".to_string();
            let checked = self.add(function, Op::Require(Require { reason }), &[*first, present], 1, name)?;
            *first = checked.first().copied().unwrap_or(*first);
        }
        Ok(Item::new((**form).clone(), content))
    }

    /// A bool that is a constant.
    fn known_flag(&self, function: FunctionId, value: ValueId) -> Option<bool> {
        match self.module.function(function).value(value).source {
            lathe_ir::Source::Constant(constant) => {
                self.module.constant(constant).tensor.bytes().first().map(|byte| *byte != 0)
            }
            _ => None,
        }
    }

    /// A graph input that is no tensor: its parts as inputs.
    pub(crate) fn composite_input(
        &mut self,
        function: FunctionId,
        name: &str,
        form: Form,
        symbols: &mut Symbols,
    ) -> Item {
        let target = self.module.function_mut(function);
        let first = target.inputs().len();
        let mut parts = Vec::new();
        for part in form.parts() {
            let name = format!("{name}{}", part.suffix);
            let mut dims: Vec<Dim> =
                (0..part.rank).map(|axis| symbols.open(&format!("{name}.{axis}"))).collect();
            match (&form, &mut dims[..]) {
                // Rows of the layout are pairs.
                (_, [_, columns]) if part.suffix.ends_with(".layout") => *columns = Dim::constant(2),
                _ => {}
            }
            parts.push(target.add_input(name, ValueType::new(part.dtype, dims)));
        }
        target.composites_mut().inputs.push(Port { name: name.to_string(), first, form: form.clone() });
        Item::new(form, parts)
    }

    /// A result of `main` under its declared type.
    pub(crate) fn result(
        &mut self,
        function: FunctionId,
        output: &ValueInfoProto,
        item: Item,
    ) -> Result<(), Fault> {
        let name = output.name();
        let optional = is_optional(output.r#type.as_ref());
        let item = match self.form(function, &item) {
            Form::Optional(_) if optional == Some(false) => self.content(function, &item, name)?,
            Form::Optional(_) => item,
            form if optional == Some(true) => {
                self.convert(function, &item, &Form::Optional(Box::new(form)), name)?
            }
            _ => item,
        };
        let target = self.module.function_mut(function);
        let first = target.outputs().len();
        for (suffix, value) in item.suffixes().iter().zip(item.parts()) {
            target.add_output(format!("{name}{suffix}"), *value);
        }
        if let Item::Composite(Composite { form, .. }) = item {
            target.composites_mut().outputs.push(Port { name: name.to_string(), first, form });
        }
        Ok(())
    }
}

/// Whether a declared type is an optional; `None` where there is none.
fn is_optional(ty: Option<&TypeProto>) -> Option<bool> {
    let value = ty?.value.as_ref()?;
    Some(matches!(value, type_proto::Value::OptionalType(_)))
}

impl Node<'_, '_> {
    /// A required operand of any kind.
    pub(crate) fn item(&self, index: usize) -> Result<Item, Fault> {
        let item = self.items.get(index).cloned().flatten();
        item.ok_or_else(|| Fault::bad(format!("its input {index} is missing")))
    }

    /// The form of a value.
    pub(crate) fn form(&self, item: &Item) -> Form {
        self.importer.form(self.frame.function, item)
    }

    /// The value brought to a form.
    pub(crate) fn convert(&mut self, item: &Item, to: &Form) -> Result<Item, Fault> {
        let name = self.name.clone();
        self.importer.convert(self.frame.function, item, to, &name)
    }
}
