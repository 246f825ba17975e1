//! A loop over the experts that some token chose, as one over all of them.
//!
//! `for e in non_zero(sum(chosen[e]) > 0) { acc = scatter(acc, rows where chosen[e], ...) }`: the list that is walked holds, in order, the experts
//! whose ones have a sum. Another expert has no row, and a scatter of no rows changes nothing: the loop may as well walk all experts.
//!
//! Proven of the graph: that the list is the places of the ones' sums, which are not negative; that the loop takes from it the expert of an
//! iteration and nothing else; that all it carries is a sum that rows are scattered to, named by the ones of that expert.

use lathe_ir::{Function, Node, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary};
use lathe_ops::gather::Reduction;
use lathe_ops::reduce::ReduceKind;

use crate::Context;

/// Experts of one loop.
const MOST: usize = 4096;
/// Ops between two values that mean the same.
const LONGEST: usize = 24;

/// A list of experts that a loop walks.
pub(super) struct Hits {
    /// Its place among the loop's inputs.
    pub input: usize,
    /// All experts.
    pub experts: usize,
    /// The sizes of the list where it holds all of them.
    pub shape: Vec<usize>,
}

/// The op and the operand at a place of the node that makes a value of a function.
fn producer(function: &Function, value: ValueId) -> Option<(&Node, &Op)> {
    let (_, node) = function.producer(value)?;
    match &node.operation {
        Operation::Op(op) => Some((node, op)),
        _ => None,
    }
}

fn input(node: &Node, index: usize) -> Option<ValueId> {
    node.inputs.get(index).copied().flatten()
}

/// Behind changes of shape and dtype.
fn stripped(function: &Function, mut value: ValueId) -> ValueId {
    for _ in 0..LONGEST {
        let Some((node, op)) = producer(function, value) else { break };
        let moves = matches!(
            op,
            Op::Reshape(_)
                | Op::Squeeze(_)
                | Op::Unsqueeze(_)
                | Op::Transpose(_)
                | Op::Unary(Unary::Identity)
        );
        let whole = matches!(op, Op::Cast(cast) if !cast.to.is_float());
        match input(node, 0).filter(|_| moves || whole) {
            Some(x) => value = x,
            None => break,
        }
    }
    value
}

/// The list that a loop walks whose number of iterations is a size; `None` where there is none.
pub(super) fn find(
    context: Context<'_>,
    inputs: &[Option<ValueId>],
    body: &Function,
    carried: usize,
) -> Option<Hits> {
    let outer = context.body();
    let trips = inputs.first().copied().flatten()?;
    let [trips] = &outer.value(trips).known.as_ref()?[..] else { return None };
    let count = trips.as_symbol()?;
    let outside = inputs.iter().enumerate().skip(2 + carried);
    outside.filter_map(|(at, value)| Some((at, (*value)?))).find_map(|(at, list)| {
        let (non_zero, Op::NonZero(_)) = producer(outer, stripped(outer, list))? else { return None };
        let places = non_zero.outputs.first()?;
        (outer.ty(*places).dims.get(1)?.as_symbol() == Some(count)).then_some(())?;
        let (ones, experts) = counted(context, input(non_zero, 0)?)?;
        let size = |dim: &lathe_ir::Dim| match dim.as_symbol() == Some(count) {
            true => Some(experts),
            false => dim.as_constant().and_then(|size| usize::try_from(size).ok()),
        };
        let shape: Vec<usize> = outer.ty(list).dims.iter().map(size).collect::<Option<_>>()?;
        let hits = Hits { input: at, experts, shape };
        let walked = Walk { body, inputs, outer, list: *body.inputs().get(at)?, ones };
        (carried == 1 && walked.takes_one_expert() && walked.adds_its_rows()).then_some(hits)
    })
}

/// The ones whose sums along all but the first axis are above zero, and how many there are.
fn counted(context: Context<'_>, mut mask: ValueId) -> Option<(ValueId, usize)> {
    let outer = context.body();
    let [experts] = &outer.ty(mask).dims[..] else { return None };
    let experts = usize::try_from(experts.as_constant()?).ok().filter(|experts| *experts <= MOST)?;
    for _ in 0..LONGEST {
        let (node, op) = producer(outer, mask)?;
        mask = match op {
            Op::Compare(Compare::Greater) if context.scalar(input(node, 1)?)? == 0.0 => input(node, 0)?,
            Op::Cast(_) => input(node, 0)?,
            Op::Reduce(reduce) if matches!(reduce.kind, ReduceKind::Sum | ReduceKind::Max) => {
                let ones = input(node, 0)?;
                let rank = outer.ty(ones).rank() as i64;
                let axes = reduce.axes.as_ref()?;
                let mut axes: Vec<i64> =
                    axes.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
                axes.sort_unstable();
                let all = !reduce.keep_dims && axes.iter().copied().eq(1..rank);
                return (all && is_not_negative(context, ones, LONGEST)).then_some((ones, experts));
            }
            _ => return None,
        };
    }
    None
}

/// Whether no element is below zero: ones and zeros that are chosen, or numbers of bools.
fn is_not_negative(context: Context<'_>, value: ValueId, fuel: usize) -> bool {
    let Some(fuel) = fuel.checked_sub(1) else { return false };
    if let Some(number) = context.scalar(value) {
        return number >= 0.0;
    }
    let outer = context.body();
    let Some((node, op)) = producer(outer, value) else { return false };
    let of = |index: usize| input(node, index).is_some_and(|x| is_not_negative(context, x, fuel));
    match op {
        Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Transpose(_) => of(0),
        Op::Cast(_) => {
            input(node, 0).is_some_and(|x| outer.ty(x).dtype == lathe_tensor::DType::Bool) || of(0)
        }
        Op::Where(_) => of(1) && of(2),
        _ => false,
    }
}

/// The body of a loop over a list.
struct Walk<'a> {
    body: &'a Function,
    inputs: &'a [Option<ValueId>],
    outer: &'a Function,
    /// The list, as the body's input.
    list: ValueId,
    /// The ones of all experts, outside.
    ones: ValueId,
}

impl Walk<'_> {
    /// Whether a value is the number of the iteration.
    fn is_number(&self, value: ValueId) -> bool {
        self.body.inputs().first() == Some(&stripped(self.body, value))
    }

    /// Whether a value is the expert of the iteration.
    fn is_expert(&self, value: ValueId) -> bool {
        match producer(self.body, stripped(self.body, value)) {
            Some((node, Op::Gather(_))) => {
                input(node, 0) == Some(self.list) && input(node, 1).is_some_and(|at| self.is_number(at))
            }
            _ => false,
        }
    }

    /// Whether the list is read at the number of the iteration alone, and nothing else depends on that number.
    fn takes_one_expert(&self) -> bool {
        let takes = |id: &lathe_ir::NodeId| {
            let node = self.body.node(*id);
            node.is_some_and(|node| node.outputs.first().is_some_and(|output| self.is_expert(*output)))
        };
        let users = self.body.users(self.list);
        let number = self.body.inputs().first();
        !users.is_empty()
            && users.iter().all(takes)
            && !self.body.is_output(self.list)
            && number.is_some_and(|number| self.only_leads_to_the_list(*number, LONGEST))
    }

    fn only_leads_to_the_list(&self, value: ValueId, fuel: usize) -> bool {
        let Some(fuel) = fuel.checked_sub(1) else { return false };
        !self.body.is_output(value)
            && self.body.users(value).iter().all(|id| {
                let Some(node) = self.body.node(*id) else { return false };
                let Some(output) = node.outputs.first() else { return false };
                self.is_expert(*output)
                    || self.is_number(*output) && self.only_leads_to_the_list(*output, fuel)
            })
    }

    /// Whether the carried sum is as before where the expert has no ones.
    fn adds_its_rows(&self) -> bool {
        let (Some(sum), Some((_, next))) = (self.body.inputs().get(2), self.body.outputs().get(1)) else {
            return false;
        };
        let scatters = |value: ValueId| {
            let (node, op) = producer(self.body, value)?;
            let adds = match op {
                Op::ScatterElements(scatter) if scatter.axis == 0 => scatter.reduction,
                Op::ScatterNd(scatter) => scatter.reduction,
                _ => return None,
            };
            let rows = input(node, 1).is_some_and(|rows| self.has_no_rows(rows, LONGEST));
            (rows && matches!(adds, Reduction::Add | Reduction::Replace)).then_some(input(node, 0)?)
        };
        if scatters(*next) == Some(*sum) {
            return true;
        }
        let Some((node, Op::Binary(Binary::Add))) = producer(self.body, *next) else { return false };
        let zeros = |value: ValueId| {
            let zeros = scatters(value).map(|zeros| stripped(self.body, zeros));
            zeros
                .and_then(|zeros| producer(self.body, zeros))
                .is_some_and(|(_, op)| matches!(op, Op::ConstantOfShape(fill) if fill.bits == 0))
        };
        match (input(node, 0), input(node, 1)) {
            (Some(a), Some(b)) => a == *sum && zeros(b) || b == *sum && zeros(a),
            _ => false,
        }
    }

    /// Whether an index is empty where the expert has no ones: made of their places by movement of data alone.
    fn has_no_rows(&self, value: ValueId, fuel: usize) -> bool {
        let Some(fuel) = fuel.checked_sub(1) else { return false };
        let Some((node, op)) = producer(self.body, value) else { return false };
        let of = |index: usize| input(node, index).is_some_and(|x| self.has_no_rows(x, fuel));
        match op {
            Op::NonZero(_) => input(node, 0).is_some_and(|mask| self.is_of_the_expert(mask)),
            Op::Reshape(_)
            | Op::Squeeze(_)
            | Op::Unsqueeze(_)
            | Op::Transpose(_)
            | Op::Cast(_)
            | Op::Slice(_)
            | Op::Split(_)
            | Op::Gather(_)
            | Op::Expand(_) => of(0),
            Op::Concat(_) => (0..node.inputs.len()).all(of),
            // Places are not negative: what counts from the end is never taken.
            Op::Where(_) => of(1) && of(2),
            Op::Binary(Binary::Add) => of(0),
            _ => false,
        }
    }

    /// Whether a mask is the ones of the expert of the iteration.
    fn is_of_the_expert(&self, mask: ValueId) -> bool {
        let Some((node, Op::Gather(gather))) = producer(self.body, stripped(self.body, mask)) else {
            return false;
        };
        let ones = input(node, 0).and_then(|ones| match self.body.value(stripped(self.body, ones)).source {
            Source::Input(index) => self.inputs.get(index).copied().flatten(),
            _ => None,
        });
        let same = ones.is_some_and(|ones| self.same_rows(ones));
        gather.axis == 0 && same && input(node, 1).is_some_and(|at| self.is_expert(at))
    }

    /// Whether a value outside has the ones of an expert in the same place of its first axis.
    fn same_rows(&self, mut value: ValueId) -> bool {
        for _ in 0..LONGEST {
            if value == self.ones {
                return true;
            }
            match producer(self.outer, value) {
                Some((node, Op::Cast(_))) => match input(node, 0) {
                    Some(x) => value = x,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }
}
