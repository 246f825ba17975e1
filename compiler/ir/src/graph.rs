//! The node graph: the only file that knows petgraph.

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};

use crate::NodeId;
use crate::function::Node;

/// Nodes and who feeds whom. Order of operands is in the nodes; edges serve order and reachability only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    nodes: StableDiGraph<Node, ()>,
}

impl Graph {
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        NodeId(self.nodes.add_node(node).index() as u32)
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<Node> {
        self.nodes.remove_node(NodeIndex::new(id.index()))
    }

    pub(crate) fn connect(&mut self, from: NodeId, to: NodeId) {
        self.nodes.add_edge(NodeIndex::new(from.index()), NodeIndex::new(to.index()), ());
    }

    /// Removes one edge `from -> to`.
    pub(crate) fn disconnect(&mut self, from: NodeId, to: NodeId) {
        if let Some(edge) = self.nodes.find_edge(NodeIndex::new(from.index()), NodeIndex::new(to.index())) {
            self.nodes.remove_edge(edge);
        }
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.node_weight(NodeIndex::new(id.index()))
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.node_weight_mut(NodeIndex::new(id.index()))
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.node_count()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.node_indices().map(|index| NodeId(index.index() as u32))
    }

    pub(crate) fn successors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes
            .neighbors_directed(NodeIndex::new(id.index()), Direction::Outgoing)
            .map(|index| NodeId(index.index() as u32))
    }

    /// Nodes in topological order, ties by id; `None` if there is a cycle.
    pub(crate) fn topological_order(&self) -> Option<Vec<NodeId>> {
        let mut waiting = vec![0usize; self.nodes.node_indices().map(|i| i.index() + 1).max().unwrap_or(0)];
        for edge in self.nodes.edge_references() {
            waiting[edge.target().index()] += 1;
        }
        let mut ready: std::collections::BinaryHeap<_> = self
            .nodes
            .node_indices()
            .filter(|index| waiting[index.index()] == 0)
            .map(|index| std::cmp::Reverse(index.index()))
            .collect();
        let mut order = Vec::with_capacity(self.len());
        while let Some(std::cmp::Reverse(index)) = ready.pop() {
            let id = NodeId(index as u32);
            order.push(id);
            for next in self.successors(id) {
                waiting[next.index()] -= 1;
                if waiting[next.index()] == 0 {
                    ready.push(std::cmp::Reverse(next.index()));
                }
            }
        }
        (order.len() == self.len()).then_some(order)
    }
}
