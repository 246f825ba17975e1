//! Nodes whose results nobody uses are removed.

use lathe_ir::{FunctionId, Module};

use crate::PassError;
use crate::driver::{FunctionPass, PassReport};

pub(crate) struct DeadCode;

impl FunctionPass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        let order = module.function(function).topological_order().unwrap_or_default();
        let body = module.function_mut(function);
        for id in order.into_iter().rev() {
            let name = body.node(id).map(|node| node.name.clone());
            if body.remove_node(id) {
                report.applied.extend(name);
            }
        }
        Ok(())
    }
}
