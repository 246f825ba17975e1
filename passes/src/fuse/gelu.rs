//! `x / 2 * (1 + erf(x / sqrt(2))) -> gelu(x)` and
//! `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ^ 3))) -> gelu {tanh=true}(x)`
//!
//! In every order that exporters write the product. Refuses where an inner value is used elsewhere, and where the result is quantised by its own
//! range: the formula's last bit decides about codes, and the model was made with the bits of its operators.
//! Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, SQRT_2};

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Gelu, Unary};

use crate::pattern::{Pattern, any, binary, first_match, scalar, unary};
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct GeluFusion;

impl Rule for GeluFusion {
    fn name(&self) -> &'static str {
        "fuse_gelu"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Binary(Binary::Mul)), [output]) = (&node.operation, &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        let forms = [(false, erf_forms()), (true, tanh_forms())];
        let matched =
            forms.iter().find_map(|(tanh, forms)| Some((*tanh, first_match(context, forms, *output)?)));
        let Some((tanh, found)) = matched else { return Proposal::NoMatch };
        if !found.is_closed(context) {
            return Proposal::because("a value inside is used elsewhere");
        }
        if is_quantised(context, *output, CHAIN) {
            return Proposal::because("its last bit decides about codes of the quantised result");
        }
        let Some(x) = found.get("x") else { return Proposal::NoMatch };
        let mut rewrite = Rewrite::new(&node.name);
        let new = rewrite.node(Op::Gelu(Gelu { tanh }), &[Rewrite::value(x)]);
        rewrite.replace(*output, new)
    }
}

/// Elementwise operators that may stand between the formula and what quantises it: a gate, a cast.
const CHAIN: usize = 3;

/// Whether a value is quantised by its own range, behind up to `chain` elementwise operators.
fn is_quantised(context: Context<'_>, value: ValueId, chain: usize) -> bool {
    let body = context.body();
    body.users(value).iter().filter_map(|&id| body.node(id)).any(|user| match &user.operation {
        Operation::Op(Op::DynamicQuantizeLinear(_)) => true,
        Operation::Op(Op::Binary(_) | Op::Cast(_)) if chain > 0 => {
            user.outputs.iter().any(|output| is_quantised(context, *output, chain - 1))
        }
        _ => false,
    })
}

fn x() -> Pattern {
    any("x")
}

/// The product `x / 2 * gate` in every order.
fn halved(gate: &dyn Fn() -> Pattern) -> Vec<Pattern> {
    vec![
        (x() * gate()) * 0.5,
        (x() * 0.5) * gate(),
        x() * (gate() * 0.5),
        (x() / 2.0) * gate(),
        (x() * gate()) / 2.0,
    ]
}

fn erf_forms() -> Vec<Pattern> {
    let divided = || unary(Unary::Erf, x() / SQRT_2) + 1.0;
    let multiplied = || unary(Unary::Erf, x() * FRAC_1_SQRT_2) + 1.0;
    [halved(&divided), halved(&multiplied)].concat()
}

/// `sqrt(2 / pi) * (x + 0.044715 * x ^ 3)` as exporters write it: the sum, or `x` times `1 + 0.044715 * x ^ 2`.
fn tanh_forms() -> Vec<Pattern> {
    const CUBIC: f64 = 0.044715;
    let scale = || FRAC_2_PI.sqrt();
    let power = |exponent: f64| binary(Binary::Pow, x(), scalar(exponent));
    let cubes = [power(3.0), (x() * x()) * x(), x() * (x() * x())].map(|cube| cube * CUBIC);
    let chained = (x() * CUBIC) * x() * x();
    let squares = [(x() * CUBIC) * x(), (x() * x()) * CUBIC, power(2.0) * CUBIC];
    let sums = cubes.into_iter().chain([chained]).map(|cube| (x() + cube) * scale());
    let products = squares.into_iter().flat_map(|square| {
        let rest = || square.clone() + 1.0;
        [(x() * scale()) * rest(), (x() * rest()) * scale(), x() * (rest() * scale())]
    });
    sums.chain(products).flat_map(|inner| halved(&|| unary(Unary::Tanh, inner.clone()) + 1.0)).collect()
}
