//! ONNX messages, decoded by prost from Lathe's own schema.
//!
//! `bytes` fields are [`bytes::Bytes`]: decoding from a `Bytes` over a mapped file copies no weights, every field is a
//! slice of the map. [`decode_model`] checks first that the decoded messages would fit in memory: a two-byte empty
//! node of a file becomes a few hundred bytes of message.
#![forbid(unsafe_code)]

mod size;

pub use size::decoded_size;

use bytes::Bytes;
use prost::Message;

/// The messages of `onnx.proto`.
#[allow(missing_docs, rust_2018_idioms)]
pub mod onnx {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// Why bytes are not a model.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not protobuf messages of this schema.
    Malformed(String),
    /// Messages stand in each other deeper than the decoder goes (100 messages: about 30 nested `If`).
    TooDeep,
    /// The decoded messages would take more memory than allowed.
    TooLarge {
        /// Bytes that they would take.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl std::error::Error for DecodeError {}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Malformed(reason) => write!(f, "not an ONNX model: {reason}"),
            DecodeError::TooDeep => {
                f.write_str("its messages (nested `If` bodies, types) are nested too deeply")
            }
            DecodeError::TooLarge { needed, limit } => {
                write!(f, "its messages take {needed} bytes in memory, above the limit of {limit}")
            }
        }
    }
}

/// Decodes a model whose messages take no more than `max_memory` bytes; tensor bytes stay slices of `bytes`.
pub fn decode_model(bytes: Bytes, max_memory: u64) -> Result<onnx::ModelProto, DecodeError> {
    let needed = decoded_size(&bytes).map_err(|reason| DecodeError::Malformed(reason.to_string()))?;
    if needed > max_memory {
        return Err(DecodeError::TooLarge { needed, limit: max_memory });
    }
    onnx::ModelProto::decode(bytes).map_err(classify)
}

/// Decodes a lone tensor, as the backend test data holds them.
pub fn decode_tensor(bytes: Bytes) -> Result<onnx::TensorProto, DecodeError> {
    onnx::TensorProto::decode(bytes).map_err(classify)
}

/// Decodes a lone sequence, optional or map, as the backend test data holds them.
pub fn decode_value<M: Message + Default>(bytes: Bytes) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(classify)
}

fn classify(error: prost::DecodeError) -> DecodeError {
    let reason = error.to_string();
    if reason.contains("recursion limit") {
        return DecodeError::TooDeep;
    }
    // The path of fields is worth more than the crate's own prefix.
    DecodeError::Malformed(reason.trim_start_matches("failed to decode Protobuf message: ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn model() -> onnx::ModelProto {
        let tensor = onnx::TensorProto {
            name: Some("w".into()),
            raw_data: Some(Bytes::from_static(&[1, 2, 3, 4])),
            ..Default::default()
        };
        let graph = onnx::GraphProto { initializer: vec![tensor], ..Default::default() };
        onnx::ModelProto { ir_version: Some(10), graph: Some(graph), ..Default::default() }
    }

    #[test]
    fn tensor_bytes_are_slices_of_the_file() {
        let file = Bytes::from(model().encode_to_vec());
        let range = file.as_ptr_range();
        let decoded = decode_model(file.clone(), 1 << 20).expect("valid");
        let raw = decoded.graph.expect("graph").initializer.remove(0).raw_data.expect("raw data");
        assert!(range.contains(&raw.as_ptr()), "the weights were copied");
    }

    #[test]
    fn deep_nesting_is_refused() {
        // sequence(sequence(...)), built from the inside.
        let mut ty = Vec::new();
        for _ in 0..2000 {
            let mut sequence = Vec::new();
            prost::encoding::bytes::encode(1, &ty, &mut sequence);
            ty.clear();
            prost::encoding::bytes::encode(4, &sequence, &mut ty);
        }
        let mut wrapped = Vec::new();
        for field in [2u32, 11, 7] {
            wrapped.clear();
            prost::encoding::bytes::encode(field, &ty, &mut wrapped);
            ty = wrapped.clone();
        }
        assert!(matches!(decode_model(Bytes::from(ty), 1 << 30), Err(DecodeError::TooDeep)));
    }

    #[test]
    fn empty_messages_count_with_their_size_in_memory() {
        let nodes = vec![onnx::NodeProto::default(); 100_000];
        let graph = onnx::GraphProto { node: nodes, ..Default::default() };
        let file = onnx::ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        let error = decode_model(Bytes::from(file), 1 << 20);
        assert!(matches!(error, Err(DecodeError::TooLarge { needed, .. }) if needed > 10_000_000));
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [&b"version https://git-lfs.github.com/spec/v1\n"[..], &[0xff; 64], &[0x3b; 8]] {
            assert!(decode_model(Bytes::copy_from_slice(bytes), 1 << 30).is_err());
        }
    }
}
