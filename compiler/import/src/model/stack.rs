//! Stacks of layers as data: a family says what its layers are, this builds them.

use lathe_ir::ValueId;

use super::blocks::attention::{Attend, Call, Source};
use super::blocks::mlp::Feed;
use super::net::{Net, Norm};
use crate::error::Fault;

/// One layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Attention to the tokens themselves.
    pub attention: Attend,
    /// Attention to another sequence, with its norm.
    pub cross: Option<(Attend, Norm)>,
    /// The feed-forward.
    pub feed: Feed,
    /// Where norms and residuals stand.
    pub order: Order,
    /// Multiplies what attention and feed-forward add.
    pub residual_scale: f64,
}

/// Where norms and residuals stand.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// `x + attend(norm(x))`, `x + feed(norm(x))`. Without the first norm the rows are normalised already.
    Pre {
        /// Before the attention.
        attention: Option<Norm>,
        /// Before the feed-forward.
        feed: Norm,
        /// The residual is what the norm gives, not what it takes.
        from_norm: bool,
    },
    /// `norm(x + attend(x))`, `norm(x + feed(x))`.
    Post {
        /// Behind the attention.
        attention: Norm,
        /// Behind the feed-forward.
        feed: Norm,
    },
    /// `x + norm(attend(norm(x)))`, `x + norm(feed(norm(x)))`.
    Sandwich {
        /// Before and behind the attention.
        attention: [Norm; 2],
        /// Before and behind the feed-forward.
        feed: [Norm; 2],
    },
    /// `x + attend(norm(x)) + feed(norm(x))`, with one norm or two.
    Parallel {
        /// Before the attention.
        attention: Norm,
        /// Before the feed-forward, where it has one of its own.
        feed: Option<Norm>,
    },
}

impl Layer {
    /// A layer of decoders with norms before.
    pub(crate) fn new(attention: Attend, feed: Feed, order: Order) -> Self {
        Self { attention, cross: None, feed, order, residual_scale: 1.0 }
    }

    /// Builds it for rows `[batch, seq, width]`.
    pub(crate) fn build(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        source: Option<Source<'_>>,
        width: usize,
    ) -> Result<ValueId, Fault> {
        let attend = |net: &mut Net<'_>, x: ValueId| self.attention.build(net, call, x, None, width);
        match &self.order {
            Order::Pre { attention, feed, from_norm } => {
                let normed = match attention {
                    Some(norm) => net.norm(x, norm, width)?,
                    None => x,
                };
                let made = attend(net, normed)?;
                let x = self.add(net, if *from_norm { normed } else { x }, made)?;
                let x = match (&self.cross, source) {
                    (Some((cross, norm)), Some(source)) => {
                        let normed = net.norm(x, norm, width)?;
                        let made = cross.build(net, call, normed, Some(source), width)?;
                        self.add(net, x, made)?
                    }
                    _ => x,
                };
                let normed = net.norm(x, feed, width)?;
                let made = self.feed.build(net, normed, width)?;
                self.add(net, if *from_norm { normed } else { x }, made)
            }
            Order::Post { attention, feed } => {
                let made = attend(net, x)?;
                let x = self.add(net, x, made)?;
                let mut x = net.norm(x, attention, width)?;
                if let (Some((cross, norm)), Some(source)) = (&self.cross, source) {
                    let made = cross.build(net, call, x, Some(source), width)?;
                    let sum = self.add(net, x, made)?;
                    x = net.norm(sum, norm, width)?;
                }
                let made = self.feed.build(net, x, width)?;
                let x = self.add(net, x, made)?;
                net.norm(x, feed, width)
            }
            Order::Sandwich { attention, feed } => {
                let normed = net.norm(x, &attention[0], width)?;
                let made = attend(net, normed)?;
                let made = net.norm(made, &attention[1], width)?;
                let x = self.add(net, x, made)?;
                let normed = net.norm(x, &feed[0], width)?;
                let made = self.feed.build(net, normed, width)?;
                let made = net.norm(made, &feed[1], width)?;
                self.add(net, x, made)
            }
            Order::Parallel { attention, feed } => {
                let normed = net.norm(x, attention, width)?;
                let made = attend(net, normed)?;
                let normed = match feed {
                    Some(norm) => net.norm(x, norm, width)?,
                    None => normed,
                };
                let fed = self.feed.build(net, normed, width)?;
                let both = net.b.add(made, fed)?;
                self.add(net, x, both)
            }
        }
    }

    fn add(&self, net: &mut Net<'_>, x: ValueId, made: ValueId) -> Result<ValueId, Fault> {
        let made = net.scaled(made, self.residual_scale)?;
        Ok(net.b.add(x, made)?)
    }
}

/// Builds layers one after the other.
pub(crate) fn layers(
    net: &mut Net<'_>,
    layers: &[Layer],
    call: &Call,
    mut x: ValueId,
    source: Option<Source<'_>>,
    width: usize,
) -> Result<ValueId, Fault> {
    for layer in layers {
        x = layer.build(net, call, x, source, width)?;
    }
    Ok(x)
}
