//! How much memory a model's messages take once decoded, found by walking the wire format before decoding it.

use std::mem::size_of;

use crate::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TypeProto, ValueInfoProto,
};

/// Message kinds that can repeat; everything else is of the order of the bytes it is read from.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Tensor,
    Sparse,
    Other,
}

/// What a length-delimited field of a message becomes: the size of one entry, and the kind to walk into.
fn field(kind: Kind, number: u64) -> (usize, Option<Kind>) {
    use Kind::*;
    let string = size_of::<String>();
    match (kind, number) {
        (Model, 7) => (size_of::<GraphProto>(), Some(Graph)),
        (Model, 8) | (Function, 9) => (size_of::<OperatorSetIdProto>(), Some(Other)),
        (Model, 25) => (size_of::<FunctionProto>(), Some(Function)),
        (Graph, 1) | (Function, 7) => (size_of::<NodeProto>(), Some(Node)),
        (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => (size_of::<TensorProto>(), Some(Tensor)),
        (Graph, 11..=13) | (Function, 12) => {
            (size_of::<ValueInfoProto>() + size_of::<TypeProto>(), Some(Other))
        }
        (Graph, 15) | (Attribute, 22 | 23) => (size_of::<SparseTensorProto>(), Some(Sparse)),
        (Node, 5) | (Function, 11) => (size_of::<AttributeProto>(), Some(Attribute)),
        (Attribute, 6 | 11) => (size_of::<GraphProto>(), Some(Graph)),
        (Attribute, 14 | 15) => (size_of::<TypeProto>(), Some(Other)),
        (Tensor, 13) => (size_of::<StringStringEntryProto>(), Some(Other)),
        // Packed numbers: a one-byte varint becomes eight bytes.
        (Tensor, 1 | 5 | 7 | 11) | (Attribute, 8) | (Sparse, 3) => (8, None),
        _ => (string, None),
    }
}

/// A reader of the wire format.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in 0..10 {
            let (&byte, rest) = self.rest.split_first().ok_or("the file ends inside a number")?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than ten bytes")
    }

    /// Skips the fields of a group whose start was just read, groups inside it included.
    fn skip_group(&mut self) -> Result<(), &'static str> {
        let mut depth = 1u32;
        while depth > 0 {
            match self.varint()? & 7 {
                0 => self.varint().map(|_| ())?,
                1 => self.take(8).map(|_| ())?,
                2 => {
                    let len = self.varint()?;
                    self.take(len)?;
                }
                3 => depth = depth.checked_add(1).ok_or("groups nested too deeply")?,
                4 => depth -= 1,
                5 => self.take(4).map(|_| ())?,
                _ => return Err("a field of an unknown wire type"),
            }
        }
        Ok(())
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.rest.len());
        let (taken, rest) = self.rest.split_at(len.ok_or("a field is longer than what is left of the file")?);
        self.rest = rest;
        Ok(taken)
    }
}

/// An upper bound, up to allocator slack, of the bytes that the decoded messages of a model take, without the
/// tensor bytes that stay in the file.
///
/// # Errors
/// Where the bytes are not in the wire format.
pub fn decoded_size(bytes: &[u8]) -> Result<u64, &'static str> {
    let mut total = size_of::<ModelProto>() as u64;
    let mut open = vec![(Kind::Model, Reader { rest: bytes })];
    while let Some((kind, reader)) = open.last_mut() {
        let kind = *kind;
        if reader.rest.is_empty() {
            open.pop();
            continue;
        }
        let tag = reader.varint()?;
        match tag & 7 {
            // Numbers of repeated fields are pushed one by one; vectors grow by doubling.
            0 => {
                reader.varint()?;
                total += 16;
            }
            1 => {
                reader.take(8)?;
                total += 16;
            }
            5 => {
                reader.take(4)?;
                total += 8;
            }
            2 => {
                let len = reader.varint()?;
                let contents = reader.take(len)?;
                let (size, inner) = field(kind, tag >> 3);
                match inner {
                    // Vectors of messages grow by doubling: twice the entries.
                    Some(inner) => {
                        total += 2 * size as u64;
                        open.push((inner, Reader { rest: contents }));
                    }
                    None if size == 8 => total += 16 * contents.len() as u64,
                    None => total += 2 * size as u64 + if is_shared(kind, tag >> 3) { 0 } else { len },
                }
            }
            3 => reader.skip_group()?,
            4 => return Err("the end of a group that did not start"),
            _ => return Err("a field of an unknown wire type"),
        }
    }
    Ok(total)
}

/// Whether a field's bytes stay slices of the file.
fn is_shared(kind: Kind, number: u64) -> bool {
    matches!((kind, number), (Kind::Tensor, 6 | 9) | (Kind::Attribute, 4 | 9))
}
