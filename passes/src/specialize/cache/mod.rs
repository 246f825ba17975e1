//! The cache: `main` of a decoder becomes `decode`, one function for a prompt, a step and a mixed batch.
//!
//! ```text
//! main(input_ids [batch, seq], attention_mask, ...) -> logits [batch, seq, vocab]
//! decode(tokens [1, n], position [1, n], seq_start [b + 1], context_len [b], block_table [b, pages], ..., logit_rows [m],
//!        kv.0, kv.1, ...) -> logits [m, vocab], kv.0, kv.1, ...
//! ```
//!
//! `decode` is `main` for one sequence of `n` tokens whose rows are those of any number of sequences. It is sound where no row
//! depends on another but through the state, so each value of `main` is classified by its axis of tokens ([`mapped::Mapped`]):
//! - **row-wise**: an op of the list in [`rules`] that keeps tokens apart;
//! - **causal mix**: only `attention` with `causal` proven becomes `kv_append` and `paged_attention` ([`attention`]). The rows of a
//!   sequence are appended before any of them is read, and a row reads keys up to its own position only;
//! - **prefix scan**: positions counted by `range` or by `cum_sum` over the mask are the input `position` ([`positions`]). No row
//!   is padding, so the mask is all ones and what follows from it is one constant ([`uniform`]); constant tables cut to the length are
//!   gathered by position; a bias by the distance of row and key is computed for the places of the block table ([`keyed`]);
//! - **length**: with rotary embeddings that are declared `dynamic`, arithmetic on the total length is done with a length that each row
//!   brings ([`lengths`]);
//! - **regime**: a comparison of the total length with a constant becomes the input `longer.N`: whether the sequence has more
//!   than `N` tokens. All sequences of a call must agree; one that crosses `N` is computed again from its first token;
//! - **pictures**: what is made of them alone is the function `vision`, of which rows take what they need ([`pictures`]);
//! - **experts with a capacity**, for which the tokens of a step compete: each token is a step of its own ([`rules`]);
//! - anything else refuses with the node and the reason.
//!
//! A decoder exported with `past_key_values.*` is the same function: what it concatenates before its keys and values is what the
//! state holds, so both exports arrive at one `decode`, and no past is copied. So is what it writes into a buffer behind the past
//! ([`room`]), whose places it counts from the sum of its mask: they are the rows' positions, and a mask by them says what is seen
//! ([`sees`]).
//!
//! Only the rows `logit_rows` are followed behind the last attention ([`head`]).

mod attention;
mod build;
mod cross;
mod head;
mod interface;
mod keyed;
mod latent;
mod lengths;
mod mapped;
mod outside;
mod pictures;
mod positions;
mod room;
mod rules;
mod sees;
mod uniform;
mod walk;

use std::collections::BTreeSet;

use lathe_ir::{Dim, FunctionId, Module, NodeId, Operation};
use lathe_ops::Op;
use lathe_tensor::DType;

use crate::PassError;
use crate::canonical::dead_code::DeadCode;
use crate::driver::{FunctionPass, PassReport};
use build::{Asked, Decode, Signature};
use interface::Interface;
pub use interface::is_past;
use mapped::{Mapped, Refusal};

/// Regimes that a model may have: each is one more pass over it.
const MAX_REGIMES: usize = 8;

/// The pass: keys and values become states of this dtype (f32, f16, bf16, or i8 with scales).
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// Elements of the states.
    pub dtype: DType,
    /// Keys and values that are products of one short row a token are kept as that row. Their sums then run in another order than in
    /// `main`, whose bits `decode` has otherwise.
    pub latent: bool,
}

impl FunctionPass for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        if module.main() != Some(function) || module.function_named("decode").is_some() {
            return Ok(());
        }
        match decode(module, function, *self) {
            Ok(None) => {}
            Ok(Some(made)) => {
                *module = made;
                report.applied.push("decode".to_string());
            }
            Err(refusal) => report.refused.push((refusal.node, refusal.reason)),
        }
        Ok(())
    }
}

/// The module with `decode`; `None` where `main` is no language model.
fn decode(module: &Module, main: FunctionId, cache: Cache) -> Result<Option<Module>, Refusal> {
    let body = module.function(main);
    let Some(interface) = Interface::of(body)? else { return Ok(None) };
    let cone = head::cone(body, interface.logits);
    let windows = windows(module, main, &cone);
    let mut signature = Signature { windows, about_length: Asked::default(), cache };
    let attends = |id: &NodeId| {
        body.node(*id).is_some_and(|node| matches!(node.operation, Operation::Op(Op::Attention(_))))
    };
    if !cone.iter().any(attends) {
        return Err(Refusal::new("logits", "no attention was recognised"));
    }
    // One more round may ask for the length.
    for _ in 0..=MAX_REGIMES + 1 {
        let mut decode = Decode::begin(module, body, &interface, &signature);
        for id in &cone {
            if let Some(node) = body.node(*id) {
                decode.node(node);
            }
        }
        if !decode.asked.is_empty() {
            signature.about_length.join(std::mem::take(&mut decode.asked));
            continue;
        }
        return finish(decode, &cone).map(Some);
    }
    Err(Refusal::new("logits", "the total length decides too often"))
}

/// Picks the rows of the logits, returns them and the states, and removes what nothing needs.
fn finish(mut decode: Decode<'_>, cone: &[NodeId]) -> Result<Module, Refusal> {
    if let Mapped::Refused(refusal) = decode.lookup(decode.interface.logits) {
        return Err(refusal);
    }
    decode.pick_rows(cone)?;
    let (value, vocab) = match decode.lookup(decode.interface.logits) {
        Mapped::Rows(rows) => (rows.value, decode.ty(rows.value).dims.last().cloned()),
        Mapped::Refused(refusal) => return Err(refusal),
        _ => return Err(Refusal::new("logits", "they do not depend on the tokens")),
    };
    let vocab = vocab.ok_or_else(|| Refusal::new("logits", "they have no axes"))?;
    let rows = Dim::symbol(decode.rows.clone());
    let logits = decode.reshape("logits", value, &[rows, vocab])?;
    let (function, states, dtype) = (decode.function, std::mem::take(&mut decode.states), decode.dtype);
    let (main, interface) = (decode.main, decode.interface);
    let (crosses, sources) = (std::mem::take(&mut decode.crosses), std::mem::take(&mut decode.sources));
    let mut module = decode.module;
    let body = module.function_mut(function);
    body.add_output("logits", logits);
    for (name, state) in states {
        body.add_output(name, state);
    }
    let mut ignored = PassReport::default();
    DeadCode
        .run(&mut module, function, &mut ignored)
        .map_err(|error| Refusal::new("decode", error.to_string()))?;
    if !crosses.is_empty() {
        cross::add_encode(&mut module, main, interface, &crosses, dtype)?;
    }
    if !sources.is_empty() {
        outside::add_vision(&mut module, main, interface, &sources)?;
    }
    lathe_ir::verify(&module).map_err(|error| Refusal::new("decode", error.to_string()))?;
    Ok(module)
}

/// The windows of the attentions, the one without a window first.
fn windows(module: &Module, main: FunctionId, cone: &[NodeId]) -> Vec<Option<usize>> {
    let body = module.function(main);
    let windows: BTreeSet<_> = cone
        .iter()
        .filter_map(|id| match &body.node(*id)?.operation {
            Operation::Op(Op::Attention(attention)) if attention.causal => {
                Some(attention.left_window.map(|left| left.saturating_add(1)))
            }
            _ => None,
        })
        .collect();
    windows.into_iter().collect()
}
