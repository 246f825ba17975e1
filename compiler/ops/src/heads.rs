//! The two layouts of tensors that hold attention heads.

use lathe_tensor::Tensor;

use crate::EvalError;
use crate::evaluate::Context;

/// A tensor seen as `[batch, heads, seq, head_dim]`, whatever its layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Size of the batch.
    pub batch: usize,
    /// Number of heads.
    pub heads: usize,
    /// Length of the sequence.
    pub seq: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The layout is `[batch, seq, heads * head_dim]`.
    pub packed: bool,
}

impl Heads {
    /// `[batch, heads, seq, head_dim]`, or `[batch, seq, heads * head_dim]` with the number of heads given.
    pub fn of(cx: &Context<'_>, name: &str, x: &Tensor, heads: Option<usize>) -> Result<Self, EvalError> {
        match *x.shape() {
            [batch, heads, seq, head_dim] => Ok(Self { batch, heads, seq, head_dim, packed: false }),
            [batch, seq, width] => match heads {
                Some(heads) if heads > 0 && width % heads == 0 => {
                    Ok(Self { batch, heads, seq, head_dim: width / heads, packed: true })
                }
                Some(heads) => {
                    Err(cx.shape(format!("{name} of width {width} does not divide into {heads} heads")))
                }
                None => Err(cx.shape(format!("{name} has 3 axes, which needs the number of heads"))),
            },
            _ => Err(cx.shape(format!("{name} has {} axes, expected 3 or 4", x.rank()))),
        }
    }

    /// First element of a head at a place of the sequence.
    pub fn offset(&self, batch: usize, head: usize, place: usize) -> usize {
        let row = match self.packed {
            true => (batch * self.seq + place) * self.heads + head,
            false => (batch * self.heads + head) * self.seq + place,
        };
        row * self.head_dim
    }

    /// Every `(batch, head, place)`.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let Self { batch, heads, seq, .. } = *self;
        (0..batch).flat_map(move |b| (0..heads).flat_map(move |h| (0..seq).map(move |s| (b, h, s))))
    }
}
