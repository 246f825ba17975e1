//! Swin (Liu et al., 2021): `main(pixel_values [batch, channels, height, width]) -> logits [batch, labels]`. Attention in windows, which
//! every other block shifts; between stages four patches become one.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::reduce::ReduceKind;
use lathe_ops::shape::{Pad, PadMode};
use lathe_tensor::Tensor;

use super::Family;
use crate::error::Fault;
use crate::model::blocks::attention::Call;
use crate::model::blocks::vision::{Encoder, Names, Patches, VIT};
use crate::model::net::{Activation, Linear, Net, NormKind, dim, symbol};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "swin",
    architectures: &["SwinForImageClassification"],
    base: "swin.",
    build: swin,
}];

const NAMES: Names =
    Names { projections: &["attention.self.query", "attention.self.key", "attention.self.value"], ..VIT };
/// Norms outside the blocks do not take the configuration's epsilon.
const NORM: NormKind = NormKind::Layer { epsilon: 1e-5, bias: true };
/// Added to the scores of tokens that are no neighbours.
const APART: f32 = -100.0;

/// One stage: blocks on a grid of rows.
struct Stage {
    batch: Dim,
    grid: [usize; 2],
    window: usize,
    encoder: Encoder,
}

fn swin(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let patches = Patches::of(config)?;
    let (depths, heads) = (config.list("depths")?, config.list("num_heads")?);
    if depths.len() != heads.len() || depths.len() > 16 || depths.iter().any(|&depth| depth > 4096) {
        return Err(Fault::bad(format!("`depths` is {depths:?} and `num_heads` is {heads:?}")));
    }
    let (batch, mut width) = (symbol("batch"), config.size(&["embed_dim"])?);
    let pixels = patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let (mut x, mut grid) = embed(net, config, &patches, pixels, width)?;
    for (index, (&depth, &heads)) in depths.iter().zip(&heads).enumerate() {
        let prefix = format!("swin.encoder.layers.{index}");
        let stage = Stage::of(config, &batch, grid, width, heads)?;
        for block in 0..depth {
            x = stage.block(net, &format!("{prefix}.blocks.{block}"), x, block % 2 == 1)?;
        }
        if index + 1 < depths.len() {
            (x, grid) = stage.merge(net, &format!("{prefix}.downsample"), x)?;
            width = width.checked_mul(2).ok_or_else(|| Fault::bad("`embed_dim` is too large"))?;
        }
    }
    let epsilon = config.epsilon(&["layer_norm_eps"], 1e-5)?;
    let norm = NormKind::Layer { epsilon, bias: true };
    let x = net.norm(x, &norm.at("swin.layernorm"), width)?;
    let pooled = net.b.named("pooler").reduce(ReduceKind::Mean, x, &[1], false)?;
    let logits = net.linear(pooled, &Linear::new("classifier", true), width, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}

/// Zeros behind rows and columns of `x`, whose axes 2 and 3 or 1 and 2 these are.
fn padded(net: &mut Net<'_>, x: ValueId, first: i64, more: [usize; 2]) -> Result<ValueId, Fault> {
    if more == [0, 0] {
        return Ok(x);
    }
    let pads = net.b.list(&[0, 0, more[0] as i64, more[1] as i64])?;
    let (zero, axes) = (net.b.scalar(0.0f32), net.b.list(&[first, first + 1])?);
    Ok(net.b.op(Op::Pad(Pad { mode: PadMode::Constant }), &[x, pads, zero, axes])?)
}

/// What is missing to the next multiple.
fn missing(sizes: [usize; 2], of: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|axis| (of[axis] - sizes[axis] % of[axis]) % of[axis])
}

/// Patches of the picture as rows, and their grid.
fn embed(
    net: &mut Net<'_>,
    config: &Config,
    patches: &Patches,
    pixels: ValueId,
    width: usize,
) -> Result<(ValueId, [usize; 2]), Fault> {
    let batch = symbol("batch");
    let more = missing(patches.picture, patches.patch);
    let picture = [0, 1].map(|axis| patches.picture[axis] + more[axis]);
    net.b.named("pixel_values");
    let pixels = padded(net, pixels, 2, more)?;
    let patches = Patches { picture, ..patches.clone() };
    let weight = Linear::new("swin.embeddings.patch_embeddings.projection", true);
    let x = patches.build(net, pixels, &batch, weight, width)?;
    let mut x = net.norm(x, &NORM.at("swin.embeddings.norm"), width)?;
    if config.flag(&["use_absolute_embeddings"], false)? {
        let table = net.weight("swin.embeddings.position_embeddings", &[1, patches.count(), width])?;
        x = net.b.named("swin.embeddings").add(x, table)?;
    }
    Ok((x, patches.grid()))
}

impl Stage {
    fn of(
        config: &Config,
        batch: &Dim,
        grid: [usize; 2],
        hidden: usize,
        heads: usize,
    ) -> Result<Self, Fault> {
        let window = config.size_or(&["window_size"], 7)?;
        if grid.iter().any(|&size| size < window) || window > 64 {
            let reason = format!("windows of {window} patches on a grid of {grid:?}");
            return Err(Fault::unsupported(format!(
                "{reason}: the table of positions is one of whole windows"
            )));
        }
        if !hidden.is_multiple_of(heads) {
            return Err(Fault::bad(format!("{heads} attention heads do not divide the width {hidden}")));
        }
        let ratio = config.positive(&["mlp_ratio"])?.unwrap_or(4.0).min(64.0);
        let (head_dim, inner) = (hidden / heads, (hidden as f64 * ratio) as usize);
        let sizes =
            Sizes { hidden, layers: 1, heads, kv_heads: heads, head_dim, inner, vocab: 0, context: 0 };
        let encoder = Encoder {
            sizes,
            norm: NormKind::Layer { epsilon: config.epsilon(&["layer_norm_eps"], 1e-5)?, bias: true },
            activation: Activation::of(config, &["hidden_act"], "gelu")?,
            qkv_bias: config.flag(&["qkv_bias"], true)?,
            causal: false,
        };
        Ok(Self { batch: batch.clone(), grid, window, encoder })
    }

    /// Reshapes to `[batch, sizes...]`.
    fn reshape(&self, net: &mut Net<'_>, x: ValueId, sizes: &[usize]) -> Result<ValueId, Fault> {
        let sizes = sizes.iter().map(|&size| dim(size)).collect::<Result<Vec<_>, _>>()?;
        Ok(net.b.reshape_to(x, [std::slice::from_ref(&self.batch), &sizes[..]].concat())?)
    }

    /// One block on rows `[batch, height * width, hidden]`.
    fn block(&self, net: &mut Net<'_>, prefix: &str, x: ValueId, shifted: bool) -> Result<ValueId, Fault> {
        let (hidden, window, [height, width]) = (self.encoder.sizes.hidden, self.window, self.grid);
        // Where one window covers a side, nothing is shifted.
        let shift = if shifted && height.min(width) > window { window / 2 } else { 0 };
        let norm = |name: &str| self.encoder.norm.at(format!("{prefix}.{name}"));
        let more = missing(self.grid, [window; 2]);
        let [down, across] = [(height + more[0]) / window, (width + more[1]) / window];
        let rows = net.norm(x, &norm(NAMES.norms[0]), hidden)?;
        net.b.named(prefix);
        let rows = self.reshape(net, rows, &[height, width, hidden])?;
        let rows = padded(net, rows, 1, more)?;
        let rows = rolled(net, rows, shift as i64)?;
        let rows = self.reshape(net, rows, &[down, window, across, window, hidden])?;
        let rows = net.b.transpose(rows, &[0, 1, 3, 2, 4, 5])?;
        let (windows, area) = (down * across, window * window);
        let batch = Dim::product(&[self.batch.clone(), dim(windows)?]);
        let rows = net.b.reshape_to(rows, [batch.clone(), dim(area)?, dim(hidden)?])?;
        let bias = self.bias(net, prefix, [down, across], shift)?;
        let call = Call { bias: Some(bias), ..Call::unpadded(batch, dim(area)?) };
        let rows = self.encoder.attention(&NAMES, prefix).build(net, &call, rows, None, hidden)?;
        net.b.named(prefix);
        let rows = self.reshape(net, rows, &[down, across, window, window, hidden])?;
        let rows = net.b.transpose(rows, &[0, 1, 3, 2, 4, 5])?;
        let rows = self.reshape(net, rows, &[down * window, across * window, hidden])?;
        let mut rows = rolled(net, rows, -(shift as i64))?;
        for (axis, size) in [(1, height), (2, width)] {
            if more[axis - 1] > 0 {
                rows = net.b.slice(rows, axis as i64, 0, size as i64)?;
            }
        }
        let rows = self.reshape(net, rows, &[height * width, hidden])?;
        let x = net.b.add(x, rows)?;
        let normed = net.norm(x, &norm(NAMES.norms[1]), hidden)?;
        let fed = self.encoder.feed(NAMES.feed, prefix).build(net, normed, hidden)?;
        Ok(net.b.add(x, fed)?)
    }

    /// What is added to the scores: learned by distance, `[1, heads, area, area]`, and in shifted windows less for tokens that come from
    /// other sides of the picture, `[batch * windows, heads, area, area]`.
    fn bias(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        [down, across]: [usize; 2],
        shift: usize,
    ) -> Result<ValueId, Fault> {
        let (window, heads) = (self.window, self.encoder.sizes.heads);
        let (side, area) = (2 * window - 1, window * window);
        let name = format!("{prefix}.attention.self.relative_position_bias_table");
        let table = net.weight(&name, &[side * side, heads])?;
        let distance = |a: usize, b: usize| a + window - 1 - b;
        let place = |query: usize, key: usize| {
            distance(query / window, key / window) * side + distance(query % window, key % window)
        };
        let pairs = (0..area).flat_map(|query| (0..area).map(move |key| (query, key)));
        let index: Vec<i64> = pairs.map(|(query, key)| place(query, key) as i64).collect();
        let index = net.b.constant(Tensor::from_slice(&index, &[area, area])?);
        net.b.named(&name);
        let bias = net.rows(table, index)?;
        let bias = net.b.transpose(bias, &[2, 0, 1])?;
        let bias = net.b.unsqueeze(bias, &[0])?;
        if shift == 0 {
            return Ok(bias);
        }
        let mask = regions(window, [down, across], shift)?;
        let mask = net.b.constant(mask);
        let both = net.b.add(bias, mask)?;
        let both = net.b.unsqueeze(both, &[0])?;
        let windows = down * across;
        let sizes = [windows, heads, area, area].map(dim);
        let [windows, heads, rows, columns] = sizes;
        let (windows, heads, rows, columns) = (windows?, heads?, rows?, columns?);
        let dims = [self.batch.clone(), windows.clone(), heads.clone(), rows.clone(), columns.clone()];
        let all = net.expanded(both, dims)?;
        let batch = Dim::product(&[self.batch.clone(), windows]);
        Ok(net.b.reshape_to(all, [batch, heads, rows, columns])?)
    }

    /// Four neighbours as one row of twice the width, and the new grid.
    fn merge(&self, net: &mut Net<'_>, prefix: &str, x: ValueId) -> Result<(ValueId, [usize; 2]), Fault> {
        let (hidden, [height, width]) = (self.encoder.sizes.hidden, self.grid);
        net.b.named(prefix);
        let x = self.reshape(net, x, &[height, width, hidden])?;
        let x = padded(net, x, 1, missing(self.grid, [2; 2]))?;
        let grid = [height.div_ceil(2), width.div_ceil(2)];
        let x = self.reshape(net, x, &[grid[0], 2, grid[1], 2, hidden])?;
        let x = net.b.transpose(x, &[0, 1, 3, 4, 2, 5])?;
        let x = self.reshape(net, x, &[grid[0] * grid[1], 4 * hidden])?;
        let x = net.norm(x, &NORM.at(format!("{prefix}.norm")), 4 * hidden)?;
        let x = net.linear(x, &Linear::plain(format!("{prefix}.reduction")), 4 * hidden, 2 * hidden)?;
        Ok((x, grid))
    }
}

/// The first `shift` rows and columns of `[batch, height, width, hidden]` moved to the end; the last ones to the front where negative.
fn rolled(net: &mut Net<'_>, mut x: ValueId, shift: i64) -> Result<ValueId, Fault> {
    if shift == 0 {
        return Ok(x);
    }
    for axis in [1, 2] {
        let first = net.b.slice(x, axis, 0, shift)?;
        let second = net.b.slice(x, axis, shift, i64::MAX)?;
        x = net.b.concat(&[second, first], axis)?;
    }
    Ok(x)
}

/// [`APART`] where two tokens of a shifted window are of different regions, `[windows, 1, area, area]`.
fn regions(window: usize, [down, across]: [usize; 2], shift: usize) -> Result<Tensor, Fault> {
    let part = |place: usize, size: usize| match place {
        place if place + window < size => 0,
        place if place + shift < size => 1,
        _ => 2,
    };
    let area = window * window;
    let elements = (down * across).checked_mul(area * area).filter(|elements| *elements <= 1 << 28);
    if elements.is_none() {
        return Err(Fault::resource(format!("masks of {down} by {across} windows of {area} patches")));
    }
    let mut mask = Vec::new();
    for index in 0..down * across {
        let region = |token: usize| {
            let (row, column) =
                (index / across * window + token / window, index % across * window + token % window);
            3 * part(row, down * window) + part(column, across * window)
        };
        for query in 0..area {
            mask.extend((0..area).map(|key| if region(query) == region(key) { 0.0 } else { APART }));
        }
    }
    Ok(Tensor::from_slice(&mask, &[down * across, 1, area, area])?)
}
