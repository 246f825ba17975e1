//! The states of a function: which inputs are memory that it changes in place, and what they hold.

use lathe_artifact::plan::{Regime, State, StateKind};
use lathe_ir::{Function, Node, Operation, Source, ValueId};
use lathe_ops::Op;

/// What a use of a state says about it.
struct Access {
    kv_heads: usize,
    qk_head_dim: usize,
    v_head_dim: usize,
    /// The window of a reader; `None` for an append.
    window: Option<Option<usize>>,
    block_table: ValueId,
}

/// The states of a function in the order of its inputs. `Err` where its uses disagree.
pub(crate) fn of(function: &Function) -> Result<Vec<State>, String> {
    let mut states: Vec<State> = Vec::new();
    for (index, &input) in function.inputs().iter().enumerate() {
        let found: Vec<_> = versions(function, input)
            .into_iter()
            .flat_map(|version| function.users(version).iter().map(move |user| (version, *user)))
            .filter_map(|(version, user)| access(function, function.node(user)?, version))
            .collect();
        let Some(first) = found.first() else { continue };
        let name = function.value(input).name.as_deref().unwrap_or("");
        let sizes =
            |access: &Access| (access.kv_heads, access.qk_head_dim, access.v_head_dim, access.block_table);
        let window = found.iter().find_map(|access| access.window);
        let agree = |access: &Access| {
            sizes(access) == sizes(first) && (access.window.is_none() || access.window == window)
        };
        if !found.iter().all(agree) {
            return Err(format!("two uses of state `{name}` disagree about its pages"));
        }
        let Source::Input(block_table) = function.value(first.block_table).source else {
            return Err(format!("the block table of state `{name}` is no input"));
        };
        let kind = if name.starts_with("cross.") { StateKind::Cross } else { StateKind::Kv };
        let last = versions(function, input).pop();
        let output = function.outputs().iter().position(|(_, output)| Some(*output) == last);
        states.push(State {
            input: index as u32,
            output: output.map(|output| output as u32),
            kind,
            layer: states.iter().filter(|state| state.kind == kind).count() as u32,
            block_table: block_table as u32,
            kv_heads: first.kv_heads,
            qk_head_dim: first.qk_head_dim,
            v_head_dim: first.v_head_dim,
            window: window.flatten(),
            dtype: function.ty(input).dtype,
        });
    }
    Ok(states)
}

/// The lengths above which a function computes other keys and values: its inputs `longer.N`.
pub(crate) fn regimes(function: &Function) -> Vec<Regime> {
    let inputs = function.inputs().iter();
    let regimes = inputs.filter_map(|&input| {
        let boundary = function.value(input).name.as_deref()?.strip_prefix("longer.")?.parse().ok()?;
        let user = function.users(input).first().and_then(|user| function.node(*user));
        Some(Regime { node: user.map_or(String::new(), |node| node.name.clone()), boundary })
    });
    regimes.collect()
}

/// A state and what appends make of it, oldest first.
fn versions(function: &Function, input: ValueId) -> Vec<ValueId> {
    let mut versions = vec![input];
    let mut version = input;
    while let Some(next) = function.users(version).iter().find_map(|user| {
        let node = function.node(*user)?;
        let appends = matches!(node.operation, Operation::Op(Op::KvAppend(_)));
        (appends && node.inputs.first() == Some(&Some(version))).then(|| node.outputs.first().copied())?
    }) {
        versions.push(next);
        version = next;
    }
    versions
}

/// What a node that reads or extends a state says about it.
fn access(function: &Function, node: &Node, state: ValueId) -> Option<Access> {
    let block_table = node.inputs.get(5).copied().flatten()?;
    match &node.operation {
        Operation::Op(Op::PagedAttention(attention)) if node.inputs.get(1) == Some(&Some(state)) => {
            Some(Access {
                kv_heads: attention.kv_heads,
                qk_head_dim: attention.qk_head_dim,
                v_head_dim: attention.v_head_dim,
                window: Some(attention.window),
                block_table,
            })
        }
        Operation::Op(Op::KvAppend(_)) if node.inputs.first() == Some(&Some(state)) => {
            let size = |operand: usize, axis: usize| {
                let ty = function.ty(node.inputs.get(operand).copied().flatten()?);
                usize::try_from(ty.dims.get(axis)?.as_constant()?).ok()
            };
            Some(Access {
                kv_heads: size(1, 1)?,
                qk_head_dim: size(1, 3)?,
                v_head_dim: match node.inputs.get(2).copied().flatten() {
                    Some(_) => size(2, 3)?,
                    None => 0,
                },
                window: None,
                block_table,
            })
        }
        _ => None,
    }
}
