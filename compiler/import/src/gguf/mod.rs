//! GGUF files: metadata, tokenizer and quantised weights in one file.
//!
//! [`GgufFile`] reads and checks a file; [`GgufTokenizer`] is its tokenizer as plain data. Its model is built
//! by the families of `model`, from metadata and tensors under the names that hubs give them.

mod facts;
mod file;
mod model;
mod names;
mod reader;
mod shards;
mod tokenizer;
mod value;

pub use facts::check as check_facts;
pub use file::{GgufFile, GgufTensor};
pub(crate) use model::import;
pub use tokenizer::GgufTokenizer;
pub use value::{GgufArray, GgufValue, Texts};
