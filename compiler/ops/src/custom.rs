//! Operators that an app brings: a model and its artifact name them, the app's own function evaluates them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// Attributes of [`crate::Op::Custom`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    /// The domain of the operator.
    pub domain: String,
    /// Its name there.
    pub operator: String,
    /// The node's attributes: numbers, strings, and lists of them.
    pub attributes: Map<String, Value>,
}

impl Custom {
    /// How messages call the operator.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.domain, self.operator)
    }
}

/// One evaluation of an app's operator.
pub struct CustomCall<'a> {
    /// Operands by position, `None` where an optional one is missing.
    pub inputs: &'a [Option<&'a Tensor>],
    /// Results that are wanted: the first so many.
    pub outputs: usize,
    /// The node's attributes.
    pub attributes: &'a Map<String, Value>,
    cancel: Option<&'a dyn Fn() -> bool>,
}

impl<'a> CustomCall<'a> {
    /// The operand at `index`.
    ///
    /// # Errors
    /// Where it is missing.
    pub fn input(&self, index: usize) -> Result<&'a Tensor, String> {
        self.inputs.get(index).copied().flatten().ok_or_else(|| format!("input {index} is missing"))
    }

    /// Whether the run is to end; long evaluations ask now and then and return any error.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(|cancel| cancel())
    }
}

impl std::fmt::Debug for CustomCall<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { inputs, outputs, attributes, cancel: _ } = self;
        let mut call = f.debug_struct("CustomCall");
        call.field("inputs", inputs).field("outputs", outputs).field("attributes", attributes).finish()
    }
}

/// What evaluates an operator: deterministic, as evaluations may be repeated or left out where nobody uses the result.
pub type CustomFunction = Arc<dyn Fn(&CustomCall<'_>) -> Result<Vec<Tensor>, String> + Send + Sync>;

/// The functions of an app's operators, by domain and name.
#[derive(Clone, Default)]
pub struct CustomFunctions {
    functions: BTreeMap<(String, String), CustomFunction>,
}

impl CustomFunctions {
    /// No operators.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operator, or replaces the one of that name.
    #[must_use]
    pub fn with(
        mut self,
        domain: &str,
        operator: &str,
        function: impl Fn(&CustomCall<'_>) -> Result<Vec<Tensor>, String> + Send + Sync + 'static,
    ) -> Self {
        self.insert(domain, operator, Arc::new(function));
        self
    }

    /// The same for a function that others share.
    pub fn insert(&mut self, domain: &str, operator: &str, function: CustomFunction) {
        self.functions.insert((domain.to_string(), operator.to_string()), function);
    }

    /// Adds the operators of another set that this one does not have.
    pub fn extend(&mut self, other: &Self) {
        for (name, function) in &other.functions {
            self.functions.entry(name.clone()).or_insert_with(|| function.clone());
        }
    }

    /// Whether an operator is among them.
    pub fn has(&self, custom: &Custom) -> bool {
        self.find(custom).is_some()
    }

    fn find(&self, custom: &Custom) -> Option<&CustomFunction> {
        self.functions.get(&(custom.domain.clone(), custom.operator.clone()))
    }
}

impl std::fmt::Debug for CustomFunctions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.functions.keys()).finish()
    }
}

impl Evaluate for Custom {
    fn arity(&self) -> Arity {
        Arity::of(0, usize::MAX).outputs(1, usize::MAX)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let Some(function) = cx.custom().and_then(|functions| functions.find(self)) else {
            let operator = self.qualified();
            let reason =
                format!("operator {operator} is not registered: give its function when loading the model");
            return Err(cx.unsupported(reason));
        };
        let call = CustomCall {
            inputs: cx.inputs(),
            outputs: cx.wanted(),
            attributes: &self.attributes,
            cancel: cx.cancel(),
        };
        let failed = |reason: String| cx.bad(format!("{}: {reason}", self.qualified()));
        let results = catch_unwind(AssertUnwindSafe(|| function(&call)))
            .unwrap_or_else(|_| Err("its function panicked".to_string()))
            .map_err(failed)?;
        for result in &results {
            cx.spend(result.bytes().len())?;
        }
        Ok(results)
    }
}
