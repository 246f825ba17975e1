//! The order of nodes. Three topological orders are compared by the memory that they keep live, with a size guessed for each
//! symbol: the model's own, depth first, and greedy by what a node allocates and frees. The model's own wins ties,
//! because exporters write independent work side by side, which needs fewer barriers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lathe_ir::{Function, NodeId, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;

/// The size assumed for a symbol.
const TYPICAL: i64 = 64;

/// An order in which to plan the nodes; `None` where there is a cycle.
pub fn order(function: &Function) -> Option<Vec<NodeId>> {
    let own = function.topological_order()?;
    let memory = Memory::new(function, &own);
    let mut best = own.clone();
    let mut least = memory.peak(function, &own);
    for candidate in [depth_first(function, &own), greedy(function, &own, &memory)] {
        let peak = memory.peak(function, &candidate);
        if candidate.len() == own.len() && peak < least {
            (best, least) = (candidate, peak);
        }
    }
    Some(best)
}

/// Guessed bytes of values, and which buffer each lies in.
struct Memory {
    /// The value whose buffer a value lies in.
    roots: Vec<usize>,
    /// Bytes of a root that a node allocates; 0 for views, inputs and constants.
    bytes: Vec<u64>,
    /// Uses of a root by nodes and outputs.
    uses: Vec<usize>,
}

impl Memory {
    fn new(function: &Function, order: &[NodeId]) -> Self {
        let count = function.value_count();
        let mut memory = Self { roots: (0..count).collect(), bytes: vec![0; count], uses: vec![0; count] };
        for node in order.iter().filter_map(|id| function.node(*id)) {
            let operand = node.inputs.first().copied().flatten().filter(|_| is_view(&node.operation));
            for output in &node.outputs {
                match operand {
                    Some(operand) => memory.roots[output.index()] = memory.roots[operand.index()],
                    None if function.value(*output).known.is_some() => {}
                    None => memory.bytes[output.index()] = guess(function, *output),
                }
            }
            for operand in node.inputs.iter().flatten() {
                memory.uses[memory.roots[operand.index()]] += 1;
            }
        }
        for (_, output) in function.outputs() {
            memory.uses[memory.roots[output.index()]] += 1;
        }
        memory
    }

    /// The most bytes that are live at once.
    fn peak(&self, function: &Function, order: &[NodeId]) -> u64 {
        let mut uses = self.uses.clone();
        let (mut live, mut peak) = (0u64, 0u64);
        for node in order.iter().filter_map(|id| function.node(*id)) {
            live += node.outputs.iter().map(|output| self.bytes[output.index()]).sum::<u64>();
            peak = peak.max(live);
            for operand in node.inputs.iter().flatten() {
                let root = self.roots[operand.index()];
                uses[root] -= 1;
                if uses[root] == 0 {
                    live = live.saturating_sub(self.bytes[root]);
                }
            }
            for output in &node.outputs {
                if uses[self.roots[output.index()]] == 0 {
                    live = live.saturating_sub(self.bytes[output.index()]);
                }
            }
        }
        peak
    }

    /// Bytes that a node allocates less those that it frees, given the uses still to come.
    fn growth(&self, function: &Function, node: NodeId, uses: &[usize]) -> i64 {
        let Some(node) = function.node(node) else { return 0 };
        let mut growth: i64 = node.outputs.iter().map(|output| self.bytes[output.index()] as i64).sum();
        let roots: Vec<_> = node.inputs.iter().flatten().map(|operand| self.roots[operand.index()]).collect();
        for (index, &root) in roots.iter().enumerate() {
            let own = roots.iter().filter(|other| **other == root).count();
            if uses[root] == own && !roots[..index].contains(&root) {
                growth -= self.bytes[root] as i64;
            }
        }
        growth
    }
}

fn is_view(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Op(
            Op::Reshape(_)
                | Op::Squeeze(_)
                | Op::Unsqueeze(_)
                | Op::Transpose(_)
                | Op::Slice(_)
                | Op::Split(_)
                | Op::Expand(_)
                | Op::KvAppend(_)
                | Op::Unary(Unary::Identity)
        )
    )
}

fn guess(function: &Function, value: ValueId) -> u64 {
    let ty = function.ty(value);
    let count = ty.dims.iter().fold(1u64, |count, dim| {
        let size = dim.evaluate(&|_| Some(TYPICAL)).unwrap_or(TYPICAL);
        count.saturating_mul(size.max(0) as u64)
    });
    // Sums of live bytes must stay far from overflow.
    count.saturating_mul(ty.dtype.element_bytes().unwrap_or(1) as u64).min(1 << 44)
}

/// Operands before their user, the first operand first.
fn depth_first(function: &Function, own: &[NodeId]) -> Vec<NodeId> {
    let most = own.iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let mut state = vec![false; most];
    let mut order = Vec::with_capacity(own.len());
    let roots =
        function.outputs().iter().filter_map(|(_, value)| function.producer(*value).map(|(id, _)| id));
    for root in roots.chain(own.iter().copied()) {
        let mut stack = vec![(root, 0)];
        while let Some((id, next)) = stack.pop() {
            if state[id.index()] {
                continue;
            }
            let operand = function.node(id).and_then(|node| node.inputs.get(next).copied());
            match operand {
                None => {
                    state[id.index()] = true;
                    order.push(id);
                }
                Some(operand) => {
                    stack.push((id, next + 1));
                    if let Some((producer, _)) = operand.and_then(|value| function.producer(value))
                        && !state[producer.index()]
                    {
                        stack.push((producer, 0));
                    }
                }
            }
        }
    }
    order
}

/// Of the nodes that are ready, the one that grows memory least; the model's order decides between equals. A node's growth falls
/// when others consume its operands, so it enters the queue again then.
fn greedy(function: &Function, own: &[NodeId], memory: &Memory) -> Vec<NodeId> {
    let most = own.iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let mut place = vec![0; most];
    let mut waiting = vec![0usize; most];
    for (index, id) in own.iter().enumerate() {
        place[id.index()] = index;
        let operands = function.node(*id).into_iter().flat_map(|node| node.inputs.iter().flatten());
        waiting[id.index()] =
            operands.filter(|value| matches!(function.value(**value).source, Source::Node(..))).count();
    }
    let mut uses = memory.uses.clone();
    let mut done = vec![false; most];
    let mut queue = BinaryHeap::new();
    for id in own.iter().filter(|id| waiting[id.index()] == 0) {
        queue.push(Reverse((memory.growth(function, *id, &uses), place[id.index()])));
    }
    let mut order = Vec::with_capacity(own.len());
    while let Some(Reverse((_, index))) = queue.pop() {
        let id = own[index];
        let Some(node) = function.node(id).filter(|_| !done[id.index()]) else { continue };
        done[id.index()] = true;
        order.push(id);
        for operand in node.inputs.iter().flatten() {
            let root = memory.roots[operand.index()];
            uses[root] -= 1;
            // The last user of a buffer frees it: its growth changed.
            if uses[root] == 1 {
                for user in function.users(*operand) {
                    if !done[user.index()] && waiting[user.index()] == 0 {
                        queue.push(Reverse((memory.growth(function, *user, &uses), place[user.index()])));
                    }
                }
            }
        }
        for user in node.outputs.iter().flat_map(|output| function.users(*output)) {
            waiting[user.index()] -= 1;
            if waiting[user.index()] == 0 {
                queue.push(Reverse((memory.growth(function, *user, &uses), place[user.index()])));
            }
        }
    }
    order
}
