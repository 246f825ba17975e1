//! Between text and tokens: tokenizers, streamed text, chat templates.

mod check;
mod date;
mod detokenize;
mod gguf;
mod guard;
mod python_json;
mod stop;
mod template;
mod tokenizer;

pub use detokenize::Detokenizer;
pub use gguf::{GgufTokenizer, TokenType};
pub(crate) use guard::guarded;
pub use guard::panics_are_caught;
pub use stop::StopStrings;
pub use template::{ChatTemplate, MAX_PROMPT_BYTES, Message, TemplateError};
pub use tokenizer::{Piece, Tokenizer, TokenizerError};
