//! Matrix products.

use serde::{Deserialize, Serialize};

use crate::elementwise::Activation;

/// [`crate::Op::MatMul`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatMul {}

/// Attributes of [`crate::Op::Linear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Applied to the sum.
    pub activation: Activation,
}
