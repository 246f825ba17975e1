#![allow(missing_docs)]
//! ONNX messages, decoded by prost from Lathe's own schema.
