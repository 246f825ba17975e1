//! What can go wrong while a model is imported, by who must act.

use std::fmt;
use std::path::{Path, PathBuf};

use lathe_tensor::TensorError;

/// An error of this crate. Every message names the file, and the node or tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(#[from] TensorError),
    /// The model is broken: its maker must act.
    #[error("`{}`: {}{reason}", file.display(), prefix(place))]
    BadModel {
        /// The model file.
        file: PathBuf,
        /// Node, tensor or value.
        place: Option<String>,
        /// What is wrong, and what is right where that helps.
        reason: String,
    },
    /// The model uses operators that this version does not know. All of them are listed.
    #[error("`{}`: unsupported operators: {}", file.display(), list(operators))]
    UnsupportedOperators {
        /// The model file.
        file: PathBuf,
        /// Every use, in file order.
        operators: Vec<UnsupportedOperator>,
    },
    /// The model uses something else that this version does not know.
    #[error("`{}`: {}not supported: {reason}", file.display(), prefix(place))]
    Unsupported {
        /// The model file.
        file: PathBuf,
        /// Node, tensor or value.
        place: Option<String>,
        /// What is not supported.
        reason: String,
    },
    /// A limit of [`crate::ImportOptions`] is reached.
    #[error("`{}`: {}{reason}", file.display(), prefix(place))]
    Resource {
        /// The model file.
        file: PathBuf,
        /// Node, tensor or value.
        place: Option<String>,
        /// Which limit, and how to raise it.
        reason: String,
    },
}

/// A use of an operator that is not in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOperator {
    /// Its domain; empty for ai.onnx.
    pub domain: String,
    /// Its name.
    pub operator: String,
    /// The opset that the model imports for the domain.
    pub opset: i64,
    /// The node that uses it.
    pub node: String,
}

impl fmt::Display for UnsupportedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.domain.is_empty() { "" } else { "." };
        let (domain, operator) = (self.domain.escape_debug(), self.operator.escape_debug());
        write!(f, "{domain}{dot}{operator}-{} ({})", self.opset, self.node)
    }
}

fn prefix(place: &Option<String>) -> String {
    place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default()
}

/// How many uses a message lists; the error value has all of them.
const LISTED: usize = 40;

fn list(operators: &[UnsupportedOperator]) -> String {
    let mut text: Vec<String> = operators.iter().take(LISTED).map(ToString::to_string).collect();
    if operators.len() > LISTED {
        text.push(format!("and {} more", operators.len() - LISTED));
    }
    text.join(", ")
}

/// A name from a model file, quoted for a message: control characters escaped, long names cut.
pub(crate) fn quote(name: &str) -> String {
    const LONGEST: usize = 100;
    let mut short: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    Model,
    Unsupported,
    Resource,
}

/// An error inside the importer: becomes an [`ImportError`] when the file is added.
#[derive(Debug)]
pub(crate) struct Fault {
    pub blame: Blame,
    pub place: Option<String>,
    pub reason: String,
}

impl Fault {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self { blame: Blame::Model, place: None, reason: reason.into() }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self { blame: Blame::Unsupported, place: None, reason: reason.into() }
    }

    pub(crate) fn resource(reason: impl Into<String>) -> Self {
        Self { blame: Blame::Resource, place: None, reason: reason.into() }
    }

    /// The same at a place, unless a more precise one is known already.
    pub(crate) fn at(mut self, place: impl FnOnce() -> String) -> Self {
        self.place.get_or_insert_with(place);
        self
    }

    pub(crate) fn in_file(self, file: &Path) -> ImportError {
        let Fault { blame, place, reason } = self;
        let file = file.to_path_buf();
        match blame {
            Blame::Model => ImportError::BadModel { file, place, reason },
            Blame::Unsupported => ImportError::Unsupported { file, place, reason },
            Blame::Resource => ImportError::Resource { file, place, reason },
        }
    }
}

impl From<TensorError> for Fault {
    fn from(error: TensorError) -> Self {
        Fault::bad(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(quote("a\u{0}\n\u{1b}[31m"), "`a\\0\\n\\u{1b}[31m`");
        assert!(quote(&"x".repeat(5000)).len() < 120);
    }

    #[test]
    fn the_inner_place_wins() {
        let fault = Fault::bad("r").at(|| "tensor `w`".into()).at(|| "node `n`".into());
        assert_eq!(fault.in_file(Path::new("m.onnx")).to_string(), "`m.onnx`: tensor `w`: r");
    }

    #[test]
    fn long_lists_are_cut_in_the_message_only() {
        let one =
            UnsupportedOperator { domain: "x".into(), operator: "Y".into(), opset: 1, node: "n".into() };
        let error = ImportError::UnsupportedOperators { file: "m".into(), operators: vec![one; 100] };
        let text = error.to_string();
        assert!(text.contains("x.Y-1 (n)") && text.ends_with("and 60 more"), "{text}");
    }
}
