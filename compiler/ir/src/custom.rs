//! Operators that an app brings: what inference and the evaluator need of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lathe_ops::custom::{Custom, CustomCall, CustomFunction, CustomFunctions};
use lathe_tensor::{DType, Tensor};
use serde_json::{Map, Value};

use crate::{Dim, ValueType};

/// A node of an app's operator, as its shape function sees it.
#[derive(Debug)]
pub struct CustomNode<'a> {
    /// Types of the operands by position, `None` where an optional one is missing.
    pub inputs: Vec<Option<&'a ValueType>>,
    /// Results that are wanted.
    pub outputs: usize,
    /// The node's attributes.
    pub attributes: &'a Map<String, Value>,
}

impl<'a> CustomNode<'a> {
    /// The type of the operand at `index`.
    ///
    /// # Errors
    /// Where it is missing.
    pub fn input(&self, index: usize) -> Result<&'a ValueType, String> {
        self.inputs.get(index).copied().flatten().ok_or_else(|| format!("input {index} is missing"))
    }
}

/// The type of a result of an app's operator.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomOutput {
    /// Its dtype.
    pub dtype: DType,
    /// Its sizes; `None` for one that only the evaluation knows.
    pub dims: Vec<Option<Dim>>,
}

impl CustomOutput {
    /// A result whose sizes follow from those of the operands.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = Dim>) -> Self {
        Self { dtype, dims: dims.into_iter().map(Some).collect() }
    }
}

impl From<&ValueType> for CustomOutput {
    fn from(ty: &ValueType) -> Self {
        Self::new(ty.dtype, ty.dims.iter().cloned())
    }
}

/// What gives the types of a node's results, at least as many as are wanted.
type ShapeFunction = Arc<dyn Fn(&CustomNode<'_>) -> Result<Vec<CustomOutput>, String> + Send + Sync>;

/// An operator that an app brings.
#[derive(Clone)]
pub struct CustomOp {
    domain: String,
    operator: String,
    since: i64,
    shape: ShapeFunction,
    function: CustomFunction,
}

impl CustomOp {
    /// An operator of a domain from opset `since` of that domain on. `shape` gives the types of its results, `function` the
    /// results; both must depend on nothing but what they are given.
    pub fn new(
        domain: &str,
        operator: &str,
        since: i64,
        shape: impl Fn(&CustomNode<'_>) -> Result<Vec<CustomOutput>, String> + Send + Sync + 'static,
        function: impl Fn(&CustomCall<'_>) -> Result<Vec<Tensor>, String> + Send + Sync + 'static,
    ) -> Self {
        let (domain, operator) = (domain.to_string(), operator.to_string());
        Self { domain, operator, since, shape: Arc::new(shape), function: Arc::new(function) }
    }
}

/// The operators that an app brings, by domain and name.
#[derive(Clone, Default)]
pub struct CustomOps {
    operators: BTreeMap<(String, String), CustomOp>,
    functions: CustomFunctions,
}

impl CustomOps {
    /// No operators.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operator, or replaces the one of that name. Operators that Lathe knows keep their meaning.
    #[must_use]
    pub fn with(mut self, operator: CustomOp) -> Self {
        self.functions.insert(&operator.domain, &operator.operator, operator.function.clone());
        self.operators.insert((operator.domain.clone(), operator.operator.clone()), operator);
        self
    }

    /// Whether an operator exists in an opset of its domain.
    pub fn has(&self, domain: &str, operator: &str, opset: i64) -> bool {
        self.find(domain, operator).is_some_and(|operator| operator.since <= opset)
    }

    /// The functions that evaluate the operators: what running a compiled model needs.
    pub fn functions(&self) -> &CustomFunctions {
        &self.functions
    }

    /// Domain, name and first opset of each.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str, i64)> {
        let operators = self.operators.values();
        operators.map(|operator| (operator.domain.as_str(), operator.operator.as_str(), operator.since))
    }

    /// The types of a node's results; `None` where the operator is not among them.
    pub(crate) fn shape(
        &self,
        custom: &Custom,
        node: &CustomNode<'_>,
    ) -> Option<Result<Vec<CustomOutput>, String>> {
        self.find(&custom.domain, &custom.operator).map(|operator| (operator.shape)(node))
    }

    fn find(&self, domain: &str, operator: &str) -> Option<&CustomOp> {
        self.operators.get(&(domain.to_string(), operator.to_string()))
    }
}

impl std::fmt::Debug for CustomOps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
