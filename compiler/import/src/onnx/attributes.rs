//! Attributes of a node: resolved, typed, and all of them read.

use std::cell::Cell;

use lathe_proto::onnx::attribute_proto::AttributeType;
use lathe_proto::onnx::{AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeProto};
use rustc_hash::FxHashMap;

use crate::error::{Fault, quote};

/// The attributes that a function was called with, by the function's own names.
pub(crate) type Environment<'m> = FxHashMap<&'m str, &'m AttributeProto>;

/// The attributes of one node. Every getter marks its attribute as read: [`Attributes::finish`] refuses the others.
#[derive(Debug)]
pub(crate) struct Attributes<'m> {
    entries: Vec<Entry<'m>>,
}

#[derive(Debug)]
struct Entry<'m> {
    name: &'m str,
    value: &'m AttributeProto,
    read: Cell<bool>,
}

impl<'m> Attributes<'m> {
    /// The node's attributes, references to attributes of the enclosing function replaced by what they refer to;
    /// those that the caller left out are left out.
    pub(crate) fn resolve(node: &'m NodeProto, environment: Option<&Environment<'m>>) -> Result<Self, Fault> {
        let mut entries: Vec<Entry<'m>> = Vec::with_capacity(node.attribute.len());
        for attribute in &node.attribute {
            let name = attribute.name();
            if entries.iter().any(|entry| entry.name == name) {
                return Err(Fault::bad(format!("attribute {} is given twice", quote(name))));
            }
            let value = match attribute.ref_attr_name() {
                "" => attribute,
                reference => {
                    let environment = environment.ok_or_else(|| {
                        let (name, reference) = (quote(name), quote(reference));
                        Fault::bad(format!("attribute {name} refers to {reference} outside a function"))
                    })?;
                    match environment.get(reference) {
                        Some(value) => *value,
                        None => continue,
                    }
                }
            };
            entries.push(Entry { name, value, read: Cell::new(false) });
        }
        Ok(Self { entries })
    }

    /// Name and value of every attribute.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'m str, &'m AttributeProto)> + '_ {
        self.entries.iter().map(|entry| (entry.name, entry.value))
    }

    /// Marks attributes that change nothing here.
    pub(crate) fn ignore(&self, names: &[&str]) {
        self.entries
            .iter()
            .filter(|entry| names.contains(&entry.name))
            .for_each(|entry| entry.read.set(true));
    }

    /// Refuses attributes that nobody read.
    pub(crate) fn finish(&self) -> Result<(), Fault> {
        match self.entries.iter().find(|entry| !entry.read.get()) {
            None => Ok(()),
            Some(entry) => {
                Err(Fault::bad(format!("unknown attribute {} (in this opset)", quote(entry.name))))
            }
        }
    }

    fn get(&self, name: &str, wanted: AttributeType) -> Result<Option<&'m AttributeProto>, Fault> {
        let Some(entry) = self.entries.iter().find(|entry| entry.name == name) else { return Ok(None) };
        entry.read.set(true);
        let found = kind(entry.value)?;
        if found != wanted {
            let (found, wanted) = (found.as_str_name(), wanted.as_str_name());
            return Err(Fault::bad(format!("attribute {} is of type {found}, not {wanted}", quote(name))));
        }
        Ok(Some(entry.value))
    }

    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, Fault> {
        Ok(self.get(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    pub(crate) fn int_or(&self, name: &str, default: i64) -> Result<i64, Fault> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An int that means true or false.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Fault> {
        Ok(self.int(name)?.map_or(default, |value| value != 0))
    }

    pub(crate) fn required_int(&self, name: &str) -> Result<i64, Fault> {
        self.int(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn float(&self, name: &str) -> Result<Option<f32>, Fault> {
        Ok(self.get(name, AttributeType::Float)?.map(AttributeProto::f))
    }

    pub(crate) fn float_or(&self, name: &str, default: f32) -> Result<f32, Fault> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'m str>, Fault> {
        self.get(name, AttributeType::String)?.map(|attribute| text(name, attribute.s())).transpose()
    }

    /// One of a few words, with what each means; the first is the default.
    pub(crate) fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<T, Fault> {
        let word = match (self.string(name)?, words.first()) {
            (None, Some((_, default))) => return Ok(*default),
            (word, _) => word.unwrap_or_default(),
        };
        words.iter().find(|(candidate, _)| *candidate == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Fault::bad(format!(
                "attribute {} is {}, not one of {}",
                quote(name),
                quote(word),
                known.join(", ")
            ))
        })
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<&'m [i64]>, Fault> {
        Ok(self.get(name, AttributeType::Ints)?.map(|attribute| &attribute.ints[..]))
    }

    pub(crate) fn required_ints(&self, name: &str) -> Result<&'m [i64], Fault> {
        self.ints(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Option<&'m [f32]>, Fault> {
        Ok(self.get(name, AttributeType::Floats)?.map(|attribute| &attribute.floats[..]))
    }

    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<&'m str>>, Fault> {
        let Some(attribute) = self.get(name, AttributeType::Strings)? else { return Ok(None) };
        attribute.strings.iter().map(|string| text(name, string)).collect::<Result<_, _>>().map(Some)
    }

    /// Strings as bytes, which need not be UTF-8.
    pub(crate) fn byte_strings(&self, name: &str) -> Result<Option<Vec<Vec<u8>>>, Fault> {
        let attribute = self.get(name, AttributeType::Strings)?;
        Ok(attribute.map(|attribute| attribute.strings.iter().map(|string| string.to_vec()).collect()))
    }

    pub(crate) fn byte_string(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.get(name, AttributeType::String)?.map(|attribute| attribute.s().to_vec()))
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<Option<&'m TensorProto>, Fault> {
        let attribute = self.get(name, AttributeType::Tensor)?;
        attribute.map(|attribute| attribute.t.as_ref().ok_or_else(|| missing(name))).transpose()
    }

    pub(crate) fn sparse_tensor(&self, name: &str) -> Result<Option<&'m SparseTensorProto>, Fault> {
        let attribute = self.get(name, AttributeType::SparseTensor)?;
        attribute.map(|attribute| attribute.sparse_tensor.as_ref().ok_or_else(|| missing(name))).transpose()
    }

    pub(crate) fn type_proto(&self, name: &str) -> Result<Option<&'m TypeProto>, Fault> {
        let attribute = self.get(name, AttributeType::TypeProto)?;
        attribute.map(|attribute| attribute.tp.as_ref().ok_or_else(|| missing(name))).transpose()
    }

    pub(crate) fn graph(&self, name: &str) -> Result<Option<&'m GraphProto>, Fault> {
        let attribute = self.get(name, AttributeType::Graph)?;
        attribute.map(|attribute| attribute.g.as_ref().ok_or_else(|| missing(name))).transpose()
    }

    pub(crate) fn required_graph(&self, name: &str) -> Result<&'m GraphProto, Fault> {
        self.graph(name)?.ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> Fault {
    Fault::bad(format!("attribute {} is missing", quote(name)))
}

fn text<'m>(name: &str, bytes: &'m [u8]) -> Result<&'m str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::bad(format!("attribute {} is not UTF-8", quote(name))))
}

/// The declared type; files before IR version 2 do not declare it, then the field that is there tells.
pub(crate) fn kind(attribute: &AttributeProto) -> Result<AttributeType, Fault> {
    use AttributeType::*;
    if let Some(number) = attribute.r#type.filter(|number| *number != 0) {
        return AttributeType::try_from(number).map_err(|_| {
            Fault::bad(format!("attribute {} has the unknown type {number}", quote(attribute.name())))
        });
    }
    let present = [
        (attribute.f.is_some(), Float),
        (attribute.i.is_some(), Int),
        (attribute.s.is_some(), String),
        (attribute.t.is_some(), Tensor),
        (attribute.g.is_some(), Graph),
        (!attribute.floats.is_empty(), Floats),
        (!attribute.ints.is_empty(), Ints),
        (!attribute.strings.is_empty(), Strings),
        (attribute.sparse_tensor.is_some(), SparseTensor),
    ];
    let untyped = || Fault::bad(format!("attribute {} has no value", quote(attribute.name())));
    present.iter().find(|(there, _)| *there).map(|(_, kind)| *kind).ok_or_else(untyped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto {
            name: Some(name.into()),
            i: Some(value),
            r#type: Some(AttributeType::Int as i32),
            ..Default::default()
        }
    }

    fn node(attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto { attribute, ..Default::default() }
    }

    #[test]
    fn values_are_typed_and_must_be_read() {
        let node = node(vec![int("axis", 2), int("other", 1)]);
        let attributes = Attributes::resolve(&node, None).expect("attributes");
        assert_eq!(attributes.int("axis").expect("an int"), Some(2));
        assert!(attributes.float("axis").is_err());
        assert!(attributes.finish().expect_err("unread").reason.contains("`other`"));
        attributes.ignore(&["other"]);
        attributes.finish().expect("all read");
    }

    #[test]
    fn unknown_types_and_duplicates_are_refused() {
        let odd = node(vec![AttributeProto { r#type: Some(77), ..int("axis", 1) }]);
        let attributes = Attributes::resolve(&odd, None).expect("attributes");
        assert!(attributes.int("axis").expect_err("type 77").reason.contains("77"));
        let twice = node(vec![int("axis", 1), int("axis", 1)]);
        assert!(Attributes::resolve(&twice, None).is_err());
    }

    #[test]
    fn references_are_resolved() {
        let reference = AttributeProto { ref_attr_name: Some("outer".into()), ..int("axis", 0) };
        let node = node(vec![reference]);
        let outer = int("outer", 7);
        let environment: Environment<'_> = [("outer", &outer)].into_iter().collect();
        let attributes = Attributes::resolve(&node, Some(&environment)).expect("attributes");
        assert_eq!(attributes.int("axis").expect("an int"), Some(7));
        let left_out = Attributes::resolve(&node, Some(&Environment::default())).expect("left out");
        assert_eq!(left_out.int("axis").expect("nothing"), None);
        assert!(Attributes::resolve(&node, None).is_err(), "outside a function");
    }

    #[test]
    fn words_are_checked() {
        let mut mode = int("mode", 0);
        (mode.i, mode.s, mode.r#type) = (None, Some(bytes::Bytes::from_static(b"garbage")), None);
        let node = node(vec![mode]);
        let attributes = Attributes::resolve(&node, None).expect("attributes");
        let error = attributes.choice("mode", &[("nearest", 0), ("linear", 1)]).expect_err("garbage");
        assert!(error.reason.contains("nearest, linear"), "{}", error.reason);
        assert_eq!(attributes.choice("absent", &[("nearest", 0), ("linear", 1)]).expect("default"), 0);
    }
}
