//! The states of a function: which inputs are memory that it changes in place, and what they hold.

use lathe_artifact::plan::{State, StateKind};
use lathe_ir::{Function, Node, Operation, Source, ValueId};
use lathe_ops::Op;

/// What the reader of a state says about it.
struct Reader {
    kv_heads: usize,
    qk_head_dim: usize,
    v_head_dim: usize,
    window: Option<usize>,
    block_table: ValueId,
}

/// The states of a function in the order of its inputs. `Err` where a state has no reader, or readers that disagree.
pub(crate) fn of(function: &Function) -> Result<Vec<State>, String> {
    let mut states: Vec<State> = Vec::new();
    for (index, &input) in function.inputs().iter().enumerate() {
        let last = latest(function, input);
        let found: Vec<_> =
            function.users(last).iter().filter_map(|user| reader(function.node(*user)?, last)).collect();
        if found.is_empty() && last == input {
            continue;
        }
        let name = function.value(input).name.as_deref().unwrap_or("");
        let Some(first) = found.first() else { return Err(format!("nothing reads state `{name}`")) };
        let sizes = |reader: &Reader| {
            (reader.kv_heads, reader.qk_head_dim, reader.v_head_dim, reader.window, reader.block_table)
        };
        if found.iter().any(|reader| sizes(reader) != sizes(first)) {
            return Err(format!("two readers of state `{name}` disagree about its pages"));
        }
        let Source::Input(block_table) = function.value(first.block_table).source else {
            return Err(format!("the block table of state `{name}` is no input"));
        };
        let kind = if last == input { StateKind::Cross } else { StateKind::Kv };
        let output = function.outputs().iter().position(|(_, output)| *output == last);
        states.push(State {
            input: index as u32,
            output: output.map(|output| output as u32),
            kind,
            layer: states.iter().filter(|state| state.kind == kind).count() as u32,
            block_table: block_table as u32,
            kv_heads: first.kv_heads,
            qk_head_dim: first.qk_head_dim,
            v_head_dim: first.v_head_dim,
            window: first.window,
            dtype: function.ty(input).dtype,
        });
    }
    Ok(states)
}

/// The version of a state after all appends.
fn latest(function: &Function, input: ValueId) -> ValueId {
    let mut version = input;
    while let Some(next) = function.users(version).iter().find_map(|user| {
        let node = function.node(*user)?;
        let appends = matches!(node.operation, Operation::Op(Op::KvAppend(_)));
        (appends && node.inputs.first() == Some(&Some(version))).then(|| node.outputs.first().copied())?
    }) {
        version = next;
    }
    version
}

fn reader(node: &Node, state: ValueId) -> Option<Reader> {
    let Operation::Op(Op::PagedAttention(attention)) = &node.operation else { return None };
    (node.inputs.get(1) == Some(&Some(state))).then_some(())?;
    Some(Reader {
        kv_heads: attention.kv_heads,
        qk_head_dim: attention.qk_head_dim,
        v_head_dim: attention.v_head_dim,
        window: attention.window,
        block_table: node.inputs.get(5).copied().flatten()?,
    })
}
