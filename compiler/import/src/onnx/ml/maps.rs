//! Maps: keys and their values, two tensors.

use lathe_ops::Op;
use lathe_ops::gather::Gather;
use lathe_ops::ml::Lookup;
use lathe_ops::reduce::TopK;
use lathe_ops::shape::{ShapeOf, Unsqueeze};
use lathe_tensor::value::Form;
use lathe_tensor::{DType, Tensor};

use super::scores::Labels;
use crate::error::Fault;
use crate::onnx::item::Item;
use crate::onnx::node::{Items, Node, positive};

/// The keys and values of a map operand, and the dtypes of both.
fn map(node: &Node<'_, '_>) -> Result<([lathe_ir::ValueId; 2], DType, DType), Fault> {
    let item = node.item(0)?;
    match (node.form(&item), item.parts()) {
        (Form::Map { keys, values }, &[key, value]) => Ok(([key, value], keys, values)),
        (other, _) => Err(Fault::bad(format!("its input 0 is {}, not a map", other.kind()))),
    }
}

/// ZipMap-1: the scores of a row with the labels of their classes as keys.
pub(crate) fn zip_map(node: &mut Node<'_, '_>) -> Items {
    let labels = Labels::read(node, "classlabels_strings", "classlabels_int64s")?;
    let x = node.tensor(0)?;
    let values = node.rows(x, node.dtype(x))?;
    let columns = node.dims(values)[1].as_constant();
    if columns.is_some_and(|columns| columns != labels.len() as i64) {
        return Err(Fault::bad(format!("{} labels for {} columns", labels.len(), columns.unwrap_or(0))));
    }
    // Columns that are not known now are as many as labels, or the run ends with an error.
    let rows = node.dims(values)[0].clone();
    let values = node.reshape(values, vec![rows, (labels.len() as i64).into()])?;
    let (keys, dtype) = match labels {
        Labels::Strings(list) => (Tensor::from_strings(list.clone(), &[list.len()])?, DType::String),
        Labels::Ints(list) => (Tensor::from_slice(&list, &[list.len()])?, DType::I64),
    };
    let keys = node.constant(keys);
    Ok(vec![Item::new(Form::Records { keys: dtype, values: node.dtype(values) }, vec![keys, values])])
}

/// DictVectorizer-1: the values of the keys of a vocabulary `[1, words]`, zeros for keys that the map does not have.
pub(crate) fn dict_vectorizer(node: &mut Node<'_, '_>) -> Items {
    let labels = Labels::read(node, "string_vocabulary", "int64_vocabulary")?;
    let ([keys, values], key, value) = map(node)?;
    let words = match labels {
        Labels::Strings(list) => Tensor::from_strings(list.clone(), &[list.len()])?,
        Labels::Ints(list) => Tensor::from_slice(&list, &[list.len()])?,
    };
    if words.dtype() != key {
        return Err(Fault::bad(format!("a vocabulary of {} for keys of {key}", words.dtype())));
    }
    let (words, default) = (node.constant(words), node.constant(Tensor::zeros(value, &[1])?));
    let found = node.add(Op::Lookup(Lookup {}), &[words, keys, values, default])?;
    Ok(vec![node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![0]) }), &[found])?.into()])
}

/// CastMap-1: the values `[1, n]` by ascending key, or at the places that their keys are.
pub(crate) fn cast_map(node: &mut Node<'_, '_>) -> Items {
    let to = [("TO_FLOAT", DType::F32), ("TO_STRING", DType::String), ("TO_INT64", DType::I64)];
    let to = node.attributes.choice("cast_to", &to)?;
    let sparse = node.attributes.choice("map_form", &[("DENSE", false), ("SPARSE", true)])?;
    let size = node.attributes.int("max_map")?;
    let ([keys, values], key, value) = map(node)?;
    if key != DType::I64 {
        return Err(Fault::bad(format!("its keys are {key}, not i64")));
    }
    let placed = if sparse {
        let size = positive("max_map", size.unwrap_or(1))? as i64;
        let places: Vec<i64> = (0..size.min(1 << 24)).collect();
        if places.len() as i64 != size {
            return Err(Fault::resource(format!("a map of {size} places")));
        }
        let (places, default) = (node.ints(&places)?, node.constant(Tensor::zeros(value, &[1])?));
        node.add(Op::Lookup(Lookup {}), &[places, keys, values, default])?
    } else {
        let count = node.add(Op::Shape(ShapeOf { start: 0, end: None }), &[keys])?;
        let sort = Op::TopK(TopK { axis: 0, largest: false, sorted: true });
        let order = node.add_all(sort, &[Some(keys), Some(count)], 2)?;
        let order = *order.last().ok_or_else(|| Fault::bad("keys without an order"))?;
        node.add(Op::Gather(Gather { axis: 0 }), &[values, order])?
    };
    let cast = node.cast(placed, to)?;
    Ok(vec![node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![0]) }), &[cast])?.into()])
}
