//! Declared types: dtypes, and the sizes of graph inputs.

use lathe_ir::{Dim, Symbol, ValueType};
use lathe_proto::onnx::tensor_shape_proto::{Dimension, dimension};
use lathe_proto::onnx::{TypeProto, ValueInfoProto, tensor_proto::DataType, type_proto};
use lathe_tensor::DType;
use lathe_tensor::value::{Form, Rank};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{Fault, quote};

/// The dtype of an ONNX data type number.
pub(crate) fn dtype(number: i32) -> Result<DType, Fault> {
    use DataType::*;
    let data_type =
        DataType::try_from(number).map_err(|_| Fault::bad(format!("unknown data type {number}")))?;
    Ok(match data_type {
        Float => DType::F32,
        Uint8 => DType::U8,
        Int8 => DType::I8,
        Uint16 => DType::U16,
        Int16 => DType::I16,
        Int32 => DType::I32,
        Int64 => DType::I64,
        String => DType::String,
        Bool => DType::Bool,
        Float16 => DType::F16,
        Double => DType::F64,
        Uint32 => DType::U32,
        Uint64 => DType::U64,
        Bfloat16 => DType::BF16,
        Float8e4m3fn => DType::F8E4M3Fn,
        Float8e4m3fnuz => DType::F8E4M3FnUz,
        Float8e5m2 => DType::F8E5M2,
        Float8e5m2fnuz => DType::F8E5M2FnUz,
        Uint4 => DType::U4,
        Int4 => DType::I4,
        Float4e2m1 => DType::F4E2M1,
        Float8e8m0 => DType::F8E8M0,
        Uint2 => DType::U2,
        Int2 => DType::I2,
        Undefined => return Err(Fault::bad("its data type is undefined")),
        Complex64 | Complex128 | Float6e2m3 | Float6e3m2 => {
            return Err(Fault::unsupported(format!("data type {}", data_type.as_str_name())));
        }
    })
}

/// The tensor type of a declaration; sequences, maps, optionals and sparse tensors are refused by name.
pub(crate) fn tensor_type(ty: Option<&TypeProto>) -> Result<&type_proto::Tensor, Fault> {
    use type_proto::Value::*;
    let kind = match ty.and_then(|ty| ty.value.as_ref()) {
        Some(TensorType(tensor)) => return Ok(tensor),
        None => return Err(Fault::bad("it has no type")),
        Some(SequenceType(_)) => "a sequence",
        Some(MapType(_)) => "a map",
        Some(OptionalType(_)) => "an optional",
        Some(SparseTensorType(_)) => "a sparse tensor",
        Some(OpaqueType(_)) => "an opaque type",
    };
    Err(Fault::unsupported(format!("{kind} as a value")))
}

/// The form of a declared type; `None` for a tensor of unknown rank.
pub(crate) fn form(ty: &TypeProto) -> Result<Option<Form>, Fault> {
    use type_proto::Value::*;
    let untyped = || Fault::bad("a type without elements");
    match ty.value.as_ref() {
        Some(TensorType(tensor)) => {
            let dtype = dtype(tensor.elem_type())?;
            let rank = tensor.shape.as_ref().map(|shape| shape.dim.len() as u32);
            Ok(rank.map(|rank| Form::Tensor { dtype, rank }))
        }
        Some(SequenceType(sequence)) => {
            let element = sequence.elem_type.as_deref().ok_or_else(untyped)?;
            let tensor = match element.value.as_ref() {
                Some(TensorType(tensor)) => tensor,
                Some(MapType(_)) => return Err(Fault::unsupported("a sequence of maps that is given")),
                _ => return Err(Fault::unsupported("a sequence of anything but tensors")),
            };
            let rank = tensor.shape.as_ref().map_or(Rank::Mixed, |shape| Rank::Is(shape.dim.len() as u32));
            Ok(Some(Form::Sequence { dtype: dtype(tensor.elem_type())?, rank }))
        }
        Some(OptionalType(optional)) => {
            let element = optional.elem_type.as_deref().ok_or_else(untyped)?;
            match form(element)? {
                Some(Form::Optional(_)) => Err(Fault::bad("an optional of an optional")),
                Some(content) => Ok(Some(Form::Optional(Box::new(content)))),
                None => Err(Fault::unsupported("an optional tensor of unknown rank")),
            }
        }
        Some(MapType(map)) => {
            let value = tensor_type(map.value_type.as_deref())?;
            let (keys, values) = (dtype(map.key_type())?, dtype(value.elem_type())?);
            Ok(Some(Form::Map { keys, values }))
        }
        Some(SparseTensorType(_) | OpaqueType(_)) | None => tensor_type(Some(ty)).map(|_| None),
    }
}

/// The form of a graph input that is no tensor.
pub(crate) fn composite(input: &ValueInfoProto) -> Result<Option<Form>, Fault> {
    match input.r#type.as_ref().filter(|ty| tensor_type(Some(ty)).is_err()) {
        Some(ty) => form(ty),
        None => Ok(None),
    }
}

/// Gives symbols to the unknown sizes of graph inputs.
///
/// A size with a real name is the symbol of that name, wherever the name stands: inputs that disagree are refused when
/// they are bound. A size without one (none, empty, `?`, `-1`, `0`) is the symbol `input.axis`.
pub(crate) struct Symbols {
    bound: FxHashMap<String, i64>,
    real: FxHashMap<String, Symbol>,
    taken: FxHashSet<String>,
}

impl Symbols {
    /// `bound` sizes are constants wherever their name stands.
    pub(crate) fn new(bound: &[(String, i64)], inputs: &[ValueInfoProto]) -> Self {
        let mut symbols = Self {
            bound: bound.iter().cloned().collect(),
            real: FxHashMap::default(),
            taken: FxHashSet::default(),
        };
        // Real names first, so that no `input.axis` takes the name of one.
        let dims = inputs.iter().filter_map(|input| tensor_type(input.r#type.as_ref()).ok());
        for name in dims.filter_map(|ty| ty.shape.as_ref()).flat_map(|shape| &shape.dim).filter_map(real_name)
        {
            if !symbols.real.contains_key(name) {
                let symbol = symbols.fresh(name);
                symbols.real.insert(name.to_string(), symbol);
            }
        }
        symbols
    }

    /// The type of graph input `input`.
    pub(crate) fn input_type(&mut self, input: &ValueInfoProto) -> Result<ValueType, Fault> {
        let declared = tensor_type(input.r#type.as_ref())?;
        let dtype = dtype(declared.elem_type())?;
        let shape = declared.shape.as_ref().ok_or_else(|| {
            Fault::bad("it declares no shape: its rank must be known (sizes may stay open)")
        })?;
        let dims: Result<Vec<Dim>, Fault> =
            shape.dim.iter().enumerate().map(|(axis, dim)| self.size(input.name(), axis, dim)).collect();
        Ok(ValueType::new(dtype, dims?))
    }

    fn size(&mut self, input: &str, axis: usize, dim: &Dimension) -> Result<Dim, Fault> {
        if let Some(name) = real_name(dim) {
            let symbol = self.real.get(name).cloned();
            let symbol = symbol.unwrap_or_else(|| Symbol::new(&identifier(name)));
            return self.bound_or(&[name, symbol.name()], symbol.clone());
        }
        match dim.value {
            Some(dimension::Value::DimValue(size)) if size > 0 => Ok(Dim::constant(size)),
            Some(dimension::Value::DimValue(size)) if size < -1 => {
                Err(Fault::bad(format!("axis {axis} declares the size {size}")))
            }
            _ => {
                let wanted = format!("{input}.{axis}");
                let symbol = self.fresh(&wanted);
                self.bound_or(&[&wanted, symbol.name()], symbol.clone())
            }
        }
    }

    /// A size that nothing is known of.
    pub(crate) fn open(&mut self, wanted: &str) -> Dim {
        Dim::symbol(self.fresh(wanted))
    }

    fn bound_or(&self, names: &[&str], symbol: Symbol) -> Result<Dim, Fault> {
        match names.iter().find_map(|name| self.bound.get(*name)) {
            None => Ok(Dim::symbol(symbol)),
            Some(&size) if size >= 0 => Ok(Dim::constant(size)),
            Some(size) => {
                Err(Fault::bad(format!("the size {size} given for {} is negative", quote(names[0]))))
            }
        }
    }

    /// A symbol whose name is `wanted` or close to it, and nobody else's.
    fn fresh(&mut self, wanted: &str) -> Symbol {
        let mut name = identifier(wanted);
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        Symbol::new(&name)
    }
}

/// The name of a size that has a real one.
fn real_name(dim: &Dimension) -> Option<&str> {
    match &dim.value {
        Some(dimension::Value::DimParam(name)) if !matches!(name.trim(), "" | "?" | "-1" | "0") => Some(name),
        _ => None,
    }
}

/// A name that the text form of the IR can print: letters, digits, `_` and `.`, no digit first.
fn identifier(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '_' };
    let mut text: String = name.trim().chars().take(200).map(keep).collect();
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        text.insert(0, '_');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_proto::onnx::TensorShapeProto;

    fn input(name: &str, dims: &[Option<dimension::Value>]) -> ValueInfoProto {
        let dim = dims.iter().map(|value| Dimension { value: value.clone(), denotation: None }).collect();
        let tensor = type_proto::Tensor {
            elem_type: Some(DataType::Float as i32),
            shape: Some(TensorShapeProto { dim }),
        };
        let value = Some(type_proto::Value::TensorType(tensor));
        ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { value, denotation: None }) }
    }

    fn named(name: &str) -> Option<dimension::Value> {
        Some(dimension::Value::DimParam(name.into()))
    }

    fn sized(size: i64) -> Option<dimension::Value> {
        Some(dimension::Value::DimValue(size))
    }

    fn names(bound: &[(String, i64)], inputs: &[ValueInfoProto]) -> Vec<String> {
        let mut symbols = Symbols::new(bound, inputs);
        let types = inputs.iter().map(|input| symbols.input_type(input).expect("a type"));
        let dims: Vec<Dim> = types.flat_map(|ty| ty.dims).collect();
        let text = |dim: &Dim| match (dim.as_constant(), dim.as_symbol()) {
            (Some(size), _) => size.to_string(),
            (_, symbol) => symbol.expect("a symbol").name().to_string(),
        };
        dims.iter().map(text).collect()
    }

    #[test]
    fn sizes_without_a_real_name_are_their_own_symbols() {
        let x = input("x", &[None, named("?"), named(""), sized(-1), sized(0), sized(3), named("batch")]);
        let y = input("y", &[named("batch"), named("x.0")]);
        let expected = ["x.0_", "x.1", "x.2", "x.3", "x.4", "3", "batch", "batch", "x.0"];
        assert_eq!(names(&[], &[x, y]), expected);
    }

    #[test]
    fn bound_sizes_are_constants() {
        let x = input("x", &[named("past + 1"), None]);
        let bound = [("past + 1".to_string(), 5), ("x.1".to_string(), 7)];
        assert_eq!(names(&bound, std::slice::from_ref(&x)), ["5", "7"]);
        assert_eq!(names(&[], &[x]), ["past___1", "x.1"]);
    }

    #[test]
    fn broken_declarations_are_refused() {
        let broken = [
            input("x", &[sized(-7)]),
            ValueInfoProto { name: Some("x".into()), r#type: None },
            ValueInfoProto { name: Some("x".into()), r#type: Some(TypeProto::default()) },
        ];
        for x in broken {
            assert!(Symbols::new(&[], &[]).input_type(&x).is_err());
        }
    }
}
