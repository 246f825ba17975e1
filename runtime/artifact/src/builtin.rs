//! The builtin table: one macro makes the enum, the argument structs and the field lists, so that plan, generated
//! code and kernels cannot drift apart.
//!
//! Field kinds: `input`, `output`, `inout` are addresses of data; `dims` is the address of consecutive entries of the
//! dims table; `int` an `i64`; `float` an `f64`. An `input` may be null only where the doc says "optional".
//! Sizes and strides are in elements. Unless the doc says otherwise data is f32 and row-major.

pub use crate::codes::*;

/// What a field of an argument struct is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Address of data that is read.
    Input,
    /// Address of data that is written whole.
    Output,
    /// Address of data that is read and written, or written in part.
    Inout,
    /// Address of consecutive `i64` entries of the dims table.
    Dims,
    /// An `i64`.
    Int,
    /// An `f64`.
    Float,
}

/// An argument struct of [`args`], which names its builtin.
pub trait Arguments: Copy {
    /// The builtin that takes it.
    const BUILTIN: Builtin;
}

macro_rules! field_type {
    (input) => { *const u8 };
    (output) => { *mut u8 };
    (inout) => { *mut u8 };
    (dims) => { *const i64 };
    (int) => { i64 };
    (float) => { f64 };
}

macro_rules! field_kind {
    (input) => {
        FieldKind::Input
    };
    (output) => {
        FieldKind::Output
    };
    (inout) => {
        FieldKind::Inout
    };
    (dims) => {
        FieldKind::Dims
    };
    (int) => {
        FieldKind::Int
    };
    (float) => {
        FieldKind::Float
    };
}

macro_rules! builtins {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal { $($field:ident: $kind:ident,)* })*) => {
        /// A precompiled function that generated code calls through the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[repr(usize)]
        pub enum Builtin {
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Builtin {
            /// Every builtin in table order.
            pub const ALL: &'static [Builtin] = &[$(Builtin::$variant,)*];
            /// Number of builtins.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in printed plans.
            pub const fn name(self) -> &'static str {
                match self { $(Builtin::$variant => $name,)* }
            }

            /// The fields of its argument struct, in order.
            pub const fn fields(self) -> &'static [(&'static str, FieldKind)] {
                match self { $(Builtin::$variant => &[$((stringify!($field), field_kind!($kind)),)*],)* }
            }
        }

        $(impl Arguments for args::$variant {
            const BUILTIN: Builtin = Builtin::$variant;
        })*

        /// The argument structs, one a builtin.
        pub mod args {
            $(
                $(#[doc = $doc])*
                #[repr(C)]
                #[derive(Clone, Copy, Debug)]
                #[allow(missing_docs)]
                pub struct $variant { $(pub $field: field_type!($kind),)* }
            )*
        }
    };
}

builtins! {
    /// `c[m, n] = act(a[m, k] x b + bias[n] + residual[m, n])` with `b` in [`crate::layout::PackedMatrix`] panels.
    /// `bias` and `residual` are optional; rows of `a`, `residual` and `c` are `*_stride` apart.
    /// `activation` is an [`crate::builtin::Activation`] code with its parameters `alpha`, `beta`.
    MatMulPacked "matmul_packed" {
        a: input, b: input, bias: input, residual: input, c: output,
        m: int, n: int, k: int, a_stride: int, residual_stride: int, c_stride: int,
        activation: int, alpha: float, beta: float,
    }
    /// The same with `b` in the [`crate::layout::MatrixForm`] with code `form`. With `int8` 0 elements are decoded and the product is the f32 one;
    /// otherwise (blocks only) each 32 elements of a row of `a` become 8-bit integers with a scale of their own.
    MatMulEncoded "matmul_encoded" {
        a: input, b: input, bias: input, residual: input, c: output,
        m: int, n: int, k: int, a_stride: int, residual_stride: int, c_stride: int,
        activation: int, alpha: float, beta: float, form: int, int8: int,
    }
    /// Batched `c = scale * (a x b)`: `batch_rank` outer dims at `batch` with strides `a_batch`, `b_batch`, `c_batch`; `a` is
    /// `[m, k]` with strides `a_row`, `a_col`, `b` `[k, n]` with `b_row`, `b_col`, `c` has `c_row` and contiguous columns.
    MatMulStrided "matmul_strided" {
        a: input, b: input, c: output, batch_rank: int, batch: dims, a_batch: dims, b_batch: dims, c_batch: dims,
        m: int, n: int, k: int, a_row: int, a_col: int, b_row: int, b_col: int, c_row: int, scale: float,
    }
    /// The same without a scale, for [`crate::builtin::Number`]s `number`: sums in ascending order; integers wrap.
    MatMulNumber "matmul_number" {
        a: input, b: input, c: output, batch_rank: int, batch: dims, a_batch: dims, b_batch: dims, c_batch: dims, m: int, n: int, k: int,
        a_row: int, a_col: int, b_row: int, b_col: int, c_row: int, number: int,
    }
    /// `c[batch, m, n] = (a[batch, m, k] - a_zero) x (b - b_zero) + bias[n]` in i32, which wraps: `a` u8 or (`a_signed`) i8, `b` in
    /// [`crate::layout::PackedIntegers`], of u8 where `b_unsigned`, one for all or (`b_batch`) one a matrix of the batch. Zero points have the
    /// dtypes of their operands: `a_zeros` (none, one, or `m`) of `a`, `b_zeros` (none, one, or `n`) of `b`. `bias` is optional. As the
    /// [`crate::builtin::IntegerResult`] `to` says the sums stay, or become f32 times `scale[scales]` (one or `n`), and then rounded to
    /// the nearest (ties to even) around `y_zero` (optional), which has the result's dtype.
    MatMulInteger "matmul_integer" {
        a: input, b: input, a_zero: input, b_zero: input, bias: input, scale: input, y_zero: input, c: output,
        batch: int, m: int, n: int, k: int, b_batch: int, a_signed: int, b_unsigned: int, a_zeros: int, b_zeros: int, scales: int, to: int,
    }
    /// Packs `count` row-major matrices of bytes, u8 where `unsigned`: `[k, n]` as [`crate::layout::PackedIntegers`], or, where `groups` is not 0,
    /// `[n, k / (kernel_h * kernel_w), kernel_h, kernel_w]` as [`crate::layout::PackedIntegerConv`].
    PackIntegers "pack_integers" {
        x: input, y: inout, count: int, k: int, n: int, groups: int, kernel_h: int, kernel_w: int, unsigned: int,
    }
    /// 2-d convolution (1-d with height 1) of `x[batch, channels, height, width]` of u8 or (`x_signed`) i8 less `x_zero` (optional, one), by
    /// weights in [`crate::layout::PackedIntegerConv`], of u8 where `w_unsigned`, less `w_zero` (`w_zeros`: none, one, or one a channel), padded with zero
    /// points. `bias`, `scale`, `y_zero` and `to` as in `matmul_integer`, one an output channel. Where groups have more than one channel, `planes` holds
    /// `batch * groups * ceil(channels / groups / 4) * min(kernel_h, stride_h) * min(kernel_w, stride_w)` planes of
    /// `out_height + (kernel_h - 1) * dilation_h / stride_h` rows of `out_width + (kernel_w - 1) * dilation_w / stride_w` words of four channels and
    /// 32 words more, and it is called twice: `phase` 0 fills them, then, when all workers have done that, 1 multiplies. Otherwise `planes` is null
    /// and `phase` 1.
    ConvInteger "conv_integer" {
        x: input, w: input, x_zero: input, w_zero: input, bias: input, scale: input, y_zero: input, planes: inout, y: output,
        batch: int, channels: int, height: int, width: int, out_channels: int, out_height: int, out_width: int, groups: int,
        kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int, pad_top: int, pad_left: int,
        x_signed: int, w_unsigned: int, w_zeros: int, scales: int, to: int, phase: int,
    }
    /// `y[i] = table[x[i]]` for `count` bytes, by a table of 256.
    MapBytes "map_bytes" { x: input, table: input, y: output, count: int, }
    /// `y = clamp(round(x / scale) + zero)` of `count` f32, NaN as 0, to u8 or (`signed`) i8. `scale` has one element, `zero` (optional) one of the
    /// result's dtype.
    QuantizeBytes "quantize_bytes" { x: input, scale: input, zero: input, y: output, count: int, signed: int, }
    /// `y = clamp(round(((a - a_zero) * a_scale + (b - b_zero) * b_scale) / y_scale) + y_zero)` of `count` u8 or (`*_signed`) i8 in f32, NaN as 0, at least
    /// `low`.
    SumBytes "sum_bytes" {
        a: input, b: input, y: output, count: int, a_signed: int, b_signed: int, y_signed: int, a_zero: int, b_zero: int, y_zero: int, low: int,
        a_scale: float, b_scale: float, y_scale: float,
    }
    /// `count` elements of `x` as u8 `y` with the `scale` and the u8 `zero_point` that take their range and 0 to 0..=255. Called twice: `phase` 0
    /// writes `partial[128]`, then, when all workers have done that, 1 the rest.
    DynamicQuantize "dynamic_quantize" {
        x: input, partial: inout, y: output, scale: output, zero_point: output, count: int, phase: int,
    }
    /// 2-d convolution (1-d with height 1) of `x[batch, channels, height, width]`, weights in
    /// [`crate::layout::PackedConv`], into `y[batch, out_channels, out_height, out_width]`.
    /// `bias` and `residual` (the shape of `y`) are optional.
    Conv "conv" {
        x: input, weight: input, bias: input, residual: input, y: output,
        batch: int, channels: int, height: int, width: int, out_channels: int, out_height: int, out_width: int,
        groups: int, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int,
        pad_top: int, pad_left: int, activation: int, alpha: float, beta: float,
    }
    /// 3-d convolution of `x[batch, channels, depth, height, width]`, weights in [`crate::layout::PackedConv`] of `channels * kernel_d`
    /// channels, which may not be [depthwise](crate::layout::PackedConv::is_depthwise); the rest as `conv`.
    ConvVolume "conv_volume" {
        x: input, weight: input, bias: input, residual: input, y: output,
        batch: int, channels: int, depth: int, height: int, width: int,
        out_channels: int, out_depth: int, out_height: int, out_width: int,
        groups: int, kernel_d: int, kernel_h: int, kernel_w: int, stride_d: int, stride_h: int, stride_w: int,
        dilation_d: int, dilation_h: int, dilation_w: int,
        pad_front: int, pad_top: int, pad_left: int, activation: int, alpha: float, beta: float,
    }
    /// Transposed 2-d convolution: the same fields, weights in [`crate::layout::PackedConv`] of the transposed kernel.
    ConvTranspose "conv_transpose" {
        x: input, weight: input, bias: input, residual: input, y: output,
        batch: int, channels: int, height: int, width: int, out_channels: int, out_height: int, out_width: int,
        groups: int, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int,
        pad_top: int, pad_left: int, activation: int, alpha: float, beta: float,
    }
    /// The same over three axes with weights `weight[channels, out_channels / groups, kernel_d, kernel_h, kernel_w]` as they are; `pad_*` is what is cropped before
    /// each axis. `activation` as in `mat_mul_packed`. `exact` nonzero adds up runs of 128 channels, and then cell by cell of the kernel.
    ConvTransposeCells "conv_transpose_cells" {
        x: input, weight: input, bias: input, y: output, batch: int, channels: int, depth: int, height: int, width: int,
        out_channels: int, out_depth: int, out_height: int, out_width: int, groups: int, kernel_d: int, kernel_h: int, kernel_w: int,
        stride_d: int, stride_h: int, stride_w: int, dilation_d: int, dilation_h: int, dilation_w: int, pad_d: int, pad_h: int, pad_w: int,
        activation: int, alpha: float, beta: float, exact: int,
    }
    /// 2-d pooling of `planes` images: `kind` 0 is max, 1 average over the window without padding,
    /// 2 average with padding counted (`pad_*` and the end pads bound the padded extent).
    Pool "pool" {
        x: input, y: output, planes: int, height: int, width: int, out_height: int, out_width: int,
        kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int,
        pad_top: int, pad_left: int, pad_bottom: int, pad_right: int, kind: int,
    }
    /// 2-d max pooling of `planes` images of u8 or (`signed`) i8; a window of nothing but padding gives the least number.
    PoolBytes "pool_bytes" {
        x: input, y: output, planes: int, height: int, width: int, out_height: int, out_width: int,
        kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, dilation_h: int, dilation_w: int, pad_top: int, pad_left: int, signed: int,
    }
    /// Rows of `cols`: `y = (v - mean) / sqrt(var + epsilon) * scale + bias` of `v = x + residual`; `rms` nonzero leaves the mean
    /// out; `rounding` is a [`crate::builtin::NormRounding`]. `residual`, `scale`, `bias` are optional; `sum` (optional) receives `v`.
    LayerNorm "layer_norm" {
        x: input, residual: input, scale: input, bias: input, y: output, sum: output,
        rows: int, cols: int, epsilon: float, rms: int, rounding: int,
    }
    /// Normalises `groups` rows of `cols` (channels of one group) to zero mean and unit variance, then scales by channel:
    /// row `r` holds `channels_per_group` channels of `cols / channels_per_group`; channel index is
    /// `(r % groups_per_batch) * channels_per_group + c`. Instance norm has one channel a group.
    GroupNorm "group_norm" {
        x: input, scale: input, bias: input, y: output,
        rows: int, cols: int, groups_per_batch: int, channels_per_group: int, epsilon: float,
    }
    /// Softmax over the middle axis of `x[outer, n, inner]`; `log` nonzero gives its logarithm. `x` is scaled by `scale` first;
    /// `mask` (optional) is added, its rows at `(outer / mask_inner_rows % mask_rows) * n` (only with `inner` 1).
    Softmax "softmax" {
        x: input, mask: input, y: output, outer: int, n: int, inner: int, log: int, scale: float,
        mask_rows: int, mask_inner_rows: int,
    }
    /// Reduces the middle axis of `x[outer, n, inner]` to `y[outer, inner]`; `kind` is a [`crate::builtin::Reduction`] code,
    /// `number` a [`crate::builtin::Number`]. Integers have no `l2`; the mean of no integers is `BadShape`.
    Reduce "reduce" { x: input, y: output, outer: int, n: int, inner: int, kind: int, number: int, }
    /// Index (i64) of the largest (`min` nonzero: smallest) element of the middle axis; `last` nonzero takes the last of equals.
    ArgReduce "arg_reduce" { x: input, y: output, outer: int, n: int, inner: int, min: int, last: int, number: int, }
    /// Running sum along the middle axis of `x[outer, n, inner]`.
    CumSum "cum_sum" { x: input, y: output, outer: int, n: int, inner: int, exclusive: int, reverse: int, number: int, }
    /// The `k` largest (`largest` 0: smallest) of the middle axis in order, with their i64 `indices`; ties by lower index.
    TopK "top_k" {
        x: input, values: output, indices: output, outer: int, n: int, inner: int, k: int, largest: int,
        number: int,
    }
    /// Copies a strided box of elements of `element_bytes` (1, 2, 4, 8): `dst[i . dst_strides] = src[i . src_strides]` for every
    /// index `i` below `sizes`. Strides may be 0 or negative in `src`. Transpose, slice, expand, concat and pad are made of it.
    Copy "copy" {
        src: input, dst: inout, element_bytes: int, rank: int, sizes: dims, src_strides: dims, dst_strides: dims,
    }
    /// Fills `count` elements of `element_bytes` with the low bytes of `bits`.
    Fill "fill" { dst: output, element_bytes: int, count: int, bits: int, }
    /// Pads `x` (`rank` axes of `in_sizes`, row-major) into `y` of `out_sizes`: `mode` 1 edge, 2 reflect, 3 wrap; axis `d` starts
    /// `begins[d]` before `x` (negative crops).
    Pad "pad" {
        x: input, y: output, element_bytes: int, rank: int, in_sizes: dims, out_sizes: dims, begins: dims, mode: int,
    }
    /// `y[o, j, i] = x[o, index[j], i]` for `outer` blocks of `axis` slices of `inner_bytes`; `index_bytes` is 4 or 8; negative indices
    /// count from the end; others outside give `IndexOutOfRange`.
    Gather "gather" {
        x: input, indices: input, y: output, outer: int, axis: int, inner_bytes: int, count: int, index_bytes: int,
    }
    /// `y[j] = x[index[j]]` for `count` rows of `k` elements of a matrix `[rows, k]` whose transpose is in the [`crate::layout::MatrixForm`] with code
    /// `form`; indices as in `gather`.
    GatherEncoded "gather_encoded" {
        x: input, indices: input, y: output, rows: int, k: int, count: int, index_bytes: int, form: int,
    }
    /// Slices of `inner_bytes` by tuples: `y[t] = x[t / per_batch, indices[t, 0], ..., indices[t, depth - 1]]` for `count` tuples of i64 in axes of
    /// `sizes`; negative indices count from the end; others outside give `IndexOutOfRange`.
    GatherNd "gather_nd" {
        x: input, indices: input, y: output, count: int, per_batch: int, depth: int, sizes: dims, inner_bytes: int,
    }
    /// The other way, without batches: slices of `updates` meet those of `y` in the order of the tuples by the [`crate::builtin::Scatter`] `reduction`
    /// of [`crate::builtin::Number`]s `number` (of any elements for `replace`).
    ScatterNd "scatter_nd" {
        updates: input, indices: input, y: inout, count: int, depth: int, sizes: dims, inner_bytes: int,
        reduction: int, number: int,
    }
    /// `y[i] = x[j]` for every index `i` below `sizes`, where `j` is `i` but on `axis`, where it is `indices[i]` below `axis_size`. `x` and `indices` have
    /// strides, `y` is row-major; elements take `element_bytes`; indices as in `gather`.
    GatherElements "gather_elements" {
        x: input, indices: input, y: output, rank: int, sizes: dims, x_strides: dims, index_strides: dims,
        axis: int, axis_size: int, element_bytes: int, index_bytes: int,
    }
    /// The other way: `updates[i]` meets `y[j]`, in row-major order of `i`, as in `scatter_nd`. All three have strides.
    ScatterElements "scatter_elements" {
        updates: input, indices: input, y: inout, rank: int, sizes: dims, update_strides: dims, index_strides: dims,
        y_strides: dims, axis: int, axis_size: int, element_bytes: int, index_bytes: int, reduction: int, number: int,
    }
    /// Number of elements of `x` that are not zero, as the i64 `found`; in `float` elements the sign of a zero does not count.
    /// Does not share work: one worker does it.
    NonZeroCount "non_zero_count" { x: input, found: output, count: int, element_bytes: int, float: int, }
    /// The indices of these `found` elements in row-major order, as i64 `y[rank, found]`; `x` has `sizes`. Does not share work.
    NonZero "non_zero" {
        x: input, y: output, rank: int, sizes: dims, found: int, element_bytes: int, float: int,
    }
    /// The sizes, i64 `y[rank]`, that `sizes` and the i64 `shape[length]`, which counts from the last axis, broadcast to; `BadShape` where they do
    /// not. Does not share work.
    BroadcastSizes "broadcast_sizes" { shape: input, y: output, rank: int, sizes: dims, length: int, }
    /// Resizes the last two axes of `planes` images. `mode` is a [`crate::builtin::ResizeMode`], `coordinate` and `rounding` are codes of
    /// [`crate::layout::resize`] (not `tf_crop_and_resize`); source position from `scale_*` (output over input; 0 for the quotient of the sizes). `cubic` is the cubic coefficient.
    Resize "resize" {
        x: input, y: output, planes: int, height: int, width: int, out_height: int, out_width: int,
        scale_h: float, scale_w: float, mode: int, coordinate: int, rounding: int, cubic: float,
    }
    /// Resizes the middle axis of `x[outer, n, inner]` to `y[outer, out, inner]`, elements of `element_bytes` (4 but for `nearest`). The scale is
    /// element `scale_place` of `scales` (f64, optional), else `scale` (0 for the quotient of the sizes); `region` (f32, optional) gives start and
    /// end of what `tf_crop_and_resize` shows, beyond which cells are `extrapolation`. `antialias` and `exclude_outside` as in ONNX Resize-19, the others as in `resize`.
    /// `rows` nonzero (linear, `inner` 1, `outer` a multiple of it) rounds in f32 as onnxruntime's resampling of three axes, of which the second has so many places.
    ResizeAxis "resize_axis" {
        x: input, scales: input, region: input, y: output, outer: int, n: int, out: int, inner: int, element_bytes: int,
        scale_place: int, region_start: int, region_end: int, scale: float, mode: int, coordinate: int, rounding: int,
        cubic: float, extrapolation: float, antialias: int, exclude_outside: int, rows: int,
    }
    /// The i64 `sizes[rank]` and f64 `scales[rank]` of a resampling of a tensor of `in_sizes`. Element `places[axis]` of `given` (-1: none) is an axis' scale
    /// (f32, `scaled`) or its size (integers of `element_bytes`), whose proportions the [`crate::builtin::ResizePolicy`] `policy` keeps. `BadShape` for
    /// sizes that cannot be. Does not share work.
    ResizeSizes "resize_sizes" {
        given: input, sizes: output, scales: output, rank: int, in_sizes: dims, places: dims, scaled: int, element_bytes: int, policy: int,
    }
    /// Boxes `boxes[batch, boxes_count, 4]` that overlap no better one of their class by more than `iou_threshold` (optional, 0), at most `max_boxes` (i64;
    /// optional, 0) of each class, whose `scores[batch, classes, boxes_count]` are above `score_threshold` (optional): the first `found` (i64) rows of
    /// `selected` (i64, as many rows as there may be) are batch, class and box. Boxes are two corners `[y, x, y, x]`, or with `center_point_box`
    /// `[x, y, width, height]` around a centre. Does not share work.
    NonMaxSuppression "non_max_suppression" {
        boxes: input, scores: input, max_boxes: input, iou_threshold: input, score_threshold: input, selected: inout, found: output,
        batch: int, classes: int, boxes_count: int, center_point_box: int,
    }
    /// `y[batch, channels, points]` of `x[batch, channels, depth, height, width]` at `grid[batch, points, axes]`, coordinates in -1..1, the last axis first; with fewer
    /// than 3 `axes` the first sizes are 1. Codes are [`crate::builtin::GridInterpolation`] and [`crate::builtin::GridBorder`].
    GridSample "grid_sample" {
        x: input, grid: input, y: output, batch: int, channels: int, depth: int, height: int, width: int, axes: int, points: int,
        interpolation: int, border: int, align_corners: int,
    }
    /// `y[regions, channels, rows, columns]` of `x[batch, channels, height, width]` in `boxes[regions, 4]` (x, y, x, y) of the pictures `indices` (integers of
    /// `index_bytes`; others than 0 to `batch - 1` give `IndexOutOfRange`): means of `sampling` (0: as many as the bin is large) samples a bin and axis, or with
    /// `max` their largest.
    RoiAlign "roi_align" {
        x: input, boxes: input, indices: input, y: output, batch: int, channels: int, height: int, width: int, regions: int, rows: int, columns: int,
        sampling: int, spatial_scale: float, max: int, half_pixel: int, index_bytes: int,
    }
    /// Rotates pairs of elements of `x[batch, heads, seq, head_dim]` into `y`, both by the strides of their first three axes: pairs
    /// `(i, i + rotary_dim / 2)`, with `interleaved` nonzero `(2i, 2i + 1)`; elements from `rotary_dim` on are copied. Tables have rows of
    /// `rotary_dim / 2`. `positions` (optional, i64 `[batch, seq]`) names the row of each of `table_rows`; negative ones count from the end, others
    /// outside give `IndexOutOfRange`. Without it row `s` of a batch's `seq` rows is taken, `table_batch` elements after the last batch's.
    RotaryEmbedding "rotary_embedding" {
        x: input, cos: input, sin: input, positions: input, y: output,
        batch: int, heads: int, seq: int, head_dim: int, rotary_dim: int, interleaved: int,
        x_batch: int, x_head: int, x_seq: int, y_batch: int, y_head: int, y_seq: int, table_batch: int, table_rows: int,
    }
    /// One direction of an RNN, GRU or LSTM by the [`crate::builtin::RecurrentCell`] `cell`, whose gates are in ONNX's order (as many as it has):
    /// `gates` are the products of the input with its weights, `gates_step` elements between steps and `gates_row` between rows of the batch, each
    /// `[gates * hidden]`; `r` are the recurrent weights by the [`crate::builtin::RecurrentWeights`] `form`: bytes have `r_scales` scales (1, or
    /// `gates * hidden`) and `r_zeros` zero points of their dtype (0 as well), and each row's state is rounded to u8 by its range in each step. Optional: `bias[2 * gates * hidden]`, `initial_h`, `initial_c` (rows `state_row` apart), `peephole[3 * hidden]` of
    /// i, o and f, `lengths[batch]` (i32; others than 0 to `seq` give `BadShape`), `y` (`y_step`, `y_row`; zeros behind a row's end), `y_h`, `y_c`.
    /// `reverse` walks from a row's end. Workers take whole layers or rows of the batch, worker `turn` the first of one of `walks` layers that run side by side; with
    /// few rows and with `shared[3 * batch * hidden]` (optional) all workers take units and meet after each step. `clip` bounds what the functions `f`, `g` and
    /// `h` are given, [`crate::builtin::RecurrentFunction`] codes with their parameters.
    Recurrent "recurrent" {
        gates: input, r: input, r_scale: input, r_zero: input, bias: input, initial_h: input, initial_c: input, peephole: input, lengths: input,
        y: inout, y_h: inout, y_c: inout, shared: inout,
        seq: int, batch: int, hidden: int, gates_step: int, gates_row: int, y_step: int, y_row: int, state_row: int,
        cell: int, form: int, r_scales: int, r_zeros: int, turn: int, walks: int, reverse: int, input_forget: int, linear_before_reset: int, clip: float,
        f: int, f_alpha: float, f_beta: float, g: int, g_alpha: float, g_beta: float, h: int, h_alpha: float, h_beta: float,
    }
    /// Chooses `top_k` of `experts` for each token by `logits[tokens, experts]`: `indices[tokens, top_k]` (i64) in descending order of score plus
    /// `bias[experts]` (optional), and their `weights`. `sigmoid` 0 is a softmax; `renormalise` divides by the sum plus `epsilon`; then times
    /// `scale`. With `groups`, only experts of the `group_top` groups with the largest sum of two may be chosen.
    /// `scores[tokens, experts]`, all of them before the choice, is optional.
    MoeRoute "moe_route" {
        logits: input, bias: input, indices: output, weights: output, scores: output, tokens: int, experts: int, top_k: int,
        sigmoid: int, renormalise: int, epsilon: float, scale: float, groups: int, group_top: int,
    }
    /// Sorts the assignments of `indices[tokens, top_k]` by expert, stably: `rows` (i64, one a place) is the token of a place, `places[tokens, top_k]`
    /// (i64) the place of an assignment or -1, `offsets[experts + 1]` (i64) the first place of each expert; places from the last offset on have
    /// token 0. An expert takes the first `capacity` (0: all) of each `row_tokens` tokens. Does not share work: one worker does it.
    MoeGroup "moe_group" {
        indices: input, rows: output, places: output, offsets: output, tokens: int, experts: int, top_k: int,
        capacity: int, row_tokens: int,
    }
    /// Counts the assignments of `indices[tokens, top_k]` of the tokens whose `mask_bytes` bytes of `mask` (optional) are not all 0: `counts` (i64) is the
    /// assignments that each expert computes, those with the ones that `places[tokens, top_k]` drops (below 0), how many are dropped, and how
    /// many tokens there are; `sums[experts]` (f64) adds their `scores[tokens, experts]`. Optional are `load[experts]` (i64) and `dropped` (i64), the
    /// first and third of the counts, and `balance` (f32): `experts` times the sum over experts of assignments over tokens times mean score.
    /// Does not share work: one worker does it.
    MoeCount "moe_count" {
        indices: input, places: input, scores: input, mask: input, counts: output, sums: output, load: output, dropped: output,
        balance: output, tokens: int, experts: int, top_k: int, mask_bytes: int,
    }
    /// `c[p, n] = act(a[p, k] x b[e] + bias[e, n])` for every place `p` of expert `e` by `offsets[experts + 1]` (i64), with `b` one
    /// matrix an expert in the [`crate::layout::MatrixForm`] with code `form`, `int8` as in `matmul_encoded`, and `bias` optional. Places from the last
    /// offset on are left alone; `m` bounds them. `top_k` places belong to a token: by it the work is estimated.
    MoeMatMul "moe_matmul" {
        a: input, offsets: input, b: input, bias: input, c: inout, m: int, n: int, k: int, experts: int, top_k: int,
        activation: int, alpha: float, beta: float, form: int, int8: int,
    }
    /// `y[p, inner] = act(gate) * up` of `x[p, 2 * inner]` for the places below `offsets[experts]`: gates are the first half of the columns, or the
    /// even ones where `interleaved`. With `clamped`: `g * sigmoid(alpha * g) * (u + 1)`, `g = min(gate, beta)`, `u = clamp(up, -beta, beta)`.
    MoeGate "moe_gate" {
        x: input, offsets: input, y: inout, m: int, inner: int, experts: int, interleaved: int, clamped: int,
        activation: int, alpha: float, beta: float,
    }
    /// `y[t] = sum over j ascending of weights[t, j] * x[places[t, j]]`, without the places below 0.
    MoeCombine "moe_combine" {
        x: input, places: input, weights: input, y: output, m: int, tokens: int, top_k: int, n: int,
    }
    /// `y[i] = f(x[i])` over `count` elements in one piece, called by generated regions on tiles; `function` is a [`crate::builtin::TileFunction`] code.
    /// Does not share work: the calling worker computes all of it.
    Tile "tile" { x: input, y: output, count: int, function: int, }
    /// Transforms of length `count`, divided by it if `inverse`, of `frames` frames `step` apart in each signal of `x[outer, length, inner, parts]` (1 real, 2
    /// complex), zeros behind its end, times the optional `window[count]`: the first `kept` frequencies `y[outer, frames, kept, inner, 2]`. Where there
    /// is more than one frame, all lie inside. Lengths, of powers of two, others at least doubled to one, are at most
    /// [`crate::layout::FOURIER_POINTS`].
    Fourier "fourier" {
        x: input, window: input, y: output, outer: int, length: int, inner: int, parts: int, frames: int, step: int, count: int, kept: int, inverse: int,
    }
    /// Attention of `q[batch, heads, seq, qk_dim]` over `k[batch, kv_heads, total, qk_dim]` and `v[batch, kv_heads, total, v_dim]`: the
    /// last axes are contiguous, the others have strides `*_batch`, `*_head`, `*_row`; head dims are at most 576. Query `i` stands at
    /// position `origin + i` (with `lengths`, i64 `[batch]`: at `length - seq + i`, and keys from `length` on are hidden) and sees keys
    /// from `left` before to `right` after it; -1 leaves a side open. Optional: `mask`, f32 or (`mask_bool`) bytes that hide where 0, with
    /// strides `mask_*` for `mask_width` keys, the others being hidden; `key_padding` bytes `[batch, total]`, 0 hides;
    /// `alibi_slopes[heads]` with `alibi_positions[batch, total]` (f32, or i64 where `positions_i64`); `sinks[heads]`. `exact` (without sinks)
    /// rounds as product, scale, mask, softmax and product one after the other: 1 multiplies with `scale`, 2 divides by it.
    Attention "attention" {
        q: input, k: input, v: input, mask: input, lengths: input, key_padding: input, alibi_slopes: input, alibi_positions: input,
        sinks: input, y: output,
        batch: int, heads: int, kv_heads: int, seq: int, total: int, qk_dim: int, v_dim: int,
        q_batch: int, q_head: int, q_row: int, k_batch: int, k_head: int, k_row: int, v_batch: int, v_head: int, v_row: int,
        y_batch: int, y_head: int, y_row: int, mask_batch: int, mask_head: int, mask_row: int,
        mask_width: int, mask_bool: int, positions_i64: int, origin: int, left: int, right: int, scale: float, softcap: float, exact: int,
    }
    /// Writes `k[kv_heads, rows, qk_dim]` and `v[kv_heads, rows, v_dim]` (absent where `v_dim` is 0; strides `*_head`, `*_row`, last axes contiguous) into the pages of
    /// `state[pool]` in [`crate::layout::KvPage`], whose elements are of the [`crate::builtin::StateElement`] `element`. Rows `seq_start[s]..seq_start[s + 1]` are sequence `s`; place `p = position[row]` of it is
    /// place `p % 64` of page `block_table[s, p / 64]`. Places of one call differ; those without a page give `IndexOutOfRange`.
    KvAppend "kv_append" {
        k: input, v: input, position: input, seq_start: input, block_table: input, state: inout,
        kv_heads: int, rows: int, qk_dim: int, v_dim: int, k_head: int, k_row: int, v_head: int, v_row: int,
        sequences: int, pages: int, pool: int, element: int,
    }
    /// Attention of `q[heads, rows, qk_dim]` over such a state, row `r` of a sequence seeing its keys up to `position[r]`, which lies below
    /// `context_len[s]`, and, with `window` not -1, only those after `position[r] - window`. Optional: `bias` with strides `bias_*`
    /// for `bias_width` keys (`v_dim` is that of the answers: with `latent` not 0 the state keeps no values, which are the keys' first `v_dim`
    /// elements), `alibi_slopes[heads]` (of minus the distance, or of `key + alibi_origin` where `alibi_by_key`), `sinks[heads]`. With `partial`, which holds `32 + v_dim` (up to a multiple of 32)
    /// elements for each of `min(rows, 8) * heads * ceil(pages / 8)` chunks, it is called twice: `phase` 0, then, when all workers have
    /// done that, 1.
    PagedAttention "paged_attention" {
        q: input, state: input, position: input, seq_start: input, context_len: input, block_table: input, bias: input,
        alibi_slopes: input, sinks: input, partial: inout, y: output,
        heads: int, kv_heads: int, rows: int, qk_dim: int, v_dim: int, q_head: int, q_row: int, y_head: int, y_row: int,
        sequences: int, pages: int, pool: int, bias_head: int, bias_row: int, bias_width: int,
        window: int, element: int, phase: int, alibi_by_key: int, alibi_origin: int, latent: int, scale: float, softcap: float,
    }
}
