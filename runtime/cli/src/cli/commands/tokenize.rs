//! `lathe tokenize MODEL TEXT`: text to tokens, and back.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cli::args::TokenizeArgs;
use crate::cli::error::CliError;
use crate::cli::report;
use crate::cli::text::Companions;

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let tokenizer = Companions::of(&args.model).tokenizer()?;
    let (ids, decoded) = match &args.decode {
        Some(tokens) => (tokens.0.clone(), tokenizer.decode(&tokens.0, args.plain)?),
        None => {
            let text = args.text.as_deref().unwrap_or_default();
            (tokenizer.encode(text, !args.plain)?, text.to_string())
        }
    };
    let pieces = tokenizer.pieces(&ids);
    if args.json.json {
        let pieces: Vec<Value> =
            pieces.iter().map(|piece| json!({"id": piece.id, "piece": piece.piece})).collect();
        return report::print_json(&json!({"ids": ids, "pieces": pieces, "text": decoded}));
    }
    if args.decode.is_some() {
        return report::print(&format!("{decoded}\n"));
    }
    let mut out = String::new();
    for piece in pieces {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{:>8}  {}", piece.id, piece.piece.escape_debug());
    }
    report::print(&out)
}
