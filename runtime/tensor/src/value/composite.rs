//! The inputs and outputs of a function that have parts.

use serde::{Deserialize, Serialize};

use super::Form;

/// An input or output that has parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composite {
    /// The name of the value.
    pub name: String,
    /// Inputs or outputs of the function before its first part.
    pub first: usize,
    /// What its parts mean.
    pub form: Form,
}

/// The inputs and outputs of a function that have parts, by their first part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composites {
    /// Among the inputs.
    #[serde(default)]
    pub inputs: Vec<Composite>,
    /// Among the outputs.
    #[serde(default)]
    pub outputs: Vec<Composite>,
}

/// A value that a caller sees: a tensor of its own, or parts.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Inputs or outputs of the function before its first part.
    pub first: usize,
    /// What its parts mean; a tensor without.
    pub form: Option<&'a Form>,
}

/// The values that the caller of a function sees in the place of its inputs or outputs of these names.
pub fn seen<'a>(names: &[&'a str], composites: &'a [Composite]) -> Vec<Seen<'a>> {
    let mut values = Vec::new();
    let mut composites = composites.iter().peekable();
    let mut next = 0;
    loop {
        if let Some(composite) = composites.next_if(|composite| composite.first <= next) {
            values.push(Seen { name: &composite.name, first: composite.first, form: Some(&composite.form) });
            next = composite.first.saturating_add(composite.form.part_count()).max(next);
        } else if let Some(name) = names.get(next) {
            values.push(Seen { name, first: next, form: None });
            next += 1;
        } else {
            return values;
        }
    }
}
