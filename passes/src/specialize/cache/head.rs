//! Where the rows whose logits are wanted are picked: as early as only one row-wise value is left to follow.

use lathe_ir::{Function, NodeId, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::gather::Gather;

use super::build::Decode;
use super::mapped::{Mapped, Refusal, Rows};

/// The nodes that the logits need, in topological order.
pub(super) fn cone(function: &Function, logits: ValueId) -> Vec<NodeId> {
    let order = function.topological_order().unwrap_or_default();
    let mut needed = vec![false; function.value_count()];
    needed[logits.index()] = true;
    let mut cone = Vec::new();
    for &id in order.iter().rev() {
        let Some(node) = function.node(id) else { continue };
        if node.outputs.iter().any(|output| needed[output.index()]) {
            node.inputs.iter().flatten().for_each(|input| needed[input.index()] = true);
            cone.push(id);
        }
    }
    cone.reverse();
    cone
}

impl Decode<'_> {
    /// Picks the rows `logit_rows` behind the last attention, where one value holds all that is left, and maps the nodes behind it
    /// again for these rows alone.
    pub fn pick_rows(&mut self, cone: &[NodeId]) -> Result<(), Refusal> {
        let (place, value) = self.cut(cone);
        let Mapped::Rows(rows) = self.lookup(value) else {
            return Err(Refusal::new("logits", "they do not depend on the tokens"));
        };
        let gather = Op::Gather(Gather { axis: rows.axis as i64 });
        let picked = self.emit_one("logit_rows", gather, &[rows.value, self.inputs.logit_rows])?;
        self.mapped[value.index()] = Some(Mapped::Rows(Rows { value: picked, ..rows }));
        self.rows = lathe_ir::Symbol::new("m");
        for id in &cone[place..] {
            if let Some(node) = self.main.node(*id) {
                self.node(node);
            }
        }
        Ok(())
    }

    /// The first place in the order, behind the last attention, where a single row-wise value is still used; and that value.
    fn cut(&self, cone: &[NodeId]) -> (usize, ValueId) {
        let main = self.main;
        let attends = |id: &NodeId| {
            main.node(*id).is_some_and(|node| matches!(node.operation, Operation::Op(Op::Attention(_))))
        };
        let first = cone.iter().rposition(attends).map_or(0, |last| last + 1);
        let mut last_use = vec![None; main.value_count()];
        for (place, node) in cone.iter().enumerate().filter_map(|(place, id)| Some((place, main.node(*id)?)))
        {
            node.inputs.iter().flatten().for_each(|input| last_use[input.index()] = Some(place));
        }
        last_use[self.interface.logits.index()] = Some(cone.len());
        let mut made = vec![0; main.value_count()];
        for (place, id) in cone.iter().enumerate() {
            if let Some((id, node)) = main.node(*id).map(|node| (id, node)) {
                let own = |output: &&ValueId| matches!(main.value(**output).source, Source::Node(node, _) if node == *id);
                node.outputs.iter().filter(own).for_each(|output| made[output.index()] = place + 1);
            }
        }
        let of_rows: Vec<usize> = (0..main.value_count())
            .filter(|&index| match &self.mapped[index] {
                Some(
                    Mapped::Rows(_)
                    | Mapped::Keyed(_)
                    | Mapped::Places(_)
                    | Mapped::Lengths(_)
                    | Mapped::Joined(..)
                    | Mapped::Count(_),
                ) => last_use[index].is_some(),
                _ => false,
            })
            .collect();
        let ids: Vec<ValueId> = values(main, cone);
        for place in first..cone.len() {
            let mut live = of_rows
                .iter()
                .filter(|&&index| made[index] <= place && last_use[index].is_some_and(|last| last >= place));
            if let (Some(&only), None) = (live.next(), live.next())
                && let Some(&value) = ids.iter().find(|value| value.index() == only)
                && matches!(self.mapped[only], Some(Mapped::Rows(_)))
            {
                return (place, value);
            }
        }
        (cone.len(), self.interface.logits)
    }
}

/// The inputs and the results of these nodes.
fn values(function: &Function, cone: &[NodeId]) -> Vec<ValueId> {
    let outputs =
        cone.iter().filter_map(|id| function.node(*id)).flat_map(|node| node.outputs.iter().copied());
    function.inputs().iter().copied().chain(outputs).collect()
}
