//! One case for every op of the table: an op without an inference rule does not get past this test.

use std::fmt::Write;

use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary};

use super::inferred;

/// Inputs and text of one node an op; the last node is the op's.
const CASES: &[(&str, &str)] = &[
    (
        "x: f32[b, s, 4], logits: f32[b, s, 3], w: f32[3, 6, 4], v: f32[3, 5, 3]",
        "%0, %1, %2, %3 = moe x, logits, w, v {experts=3, top_k=2, router=\"softmax\", renormalise=true, epsilon=0.0, \
         scale=1.0, groups=null, capacity=null, activation=\"silu\", gate=\"halves\", clamped=null, transposed=true, \
         shared_experts=0}",
    ),
    ("x: f32[a, 3]", "%0 = leaky_relu x {alpha=0.1}"),
    ("x: f32[a, 3]", "%0 = hard_sigmoid x {alpha=0.2, beta=0.5}"),
    ("x: f16[a, 3]", "%0 = gelu x {tanh=true}"),
    ("x: i64[a, 3], y: i64[]", "%0 = clip x, y"),
    ("x: bool[a, 1], y: f32[a, b], z: f32[]", "%0 = where x, y, z"),
    ("x: f32[a, 3]", "%0 = cast x {to=\"i8\", saturate=true}"),
    ("x: f32[b, h, s, 8], y: f32[h, 8, t]", "%0 = matmul x, y"),
    ("x: f32[b, s, 8], y: f32[8, 6], z: f32[6]", "%0 = linear x, y, z {activation=\"relu\"}"),
    (
        "x: f32[b, 4, h, w], y: f32[8, 2, 3, 3], z: f32[8]",
        "%0 = conv x, y, z {strides=[2, 1], dilations=[1, 1], padding=\"same_upper\", groups=2, activation=\"none\"}",
    ),
    (
        "x: f32[b, 4, h, w], y: f32[4, 3, 2, 2]",
        "%0 = conv_transpose x, y {strides=[2, 2], dilations=[1, 1], padding={\"explicit\":{\"begins\":[0, 0],\
         \"ends\":[0, 0]}}, output_padding=[0, 0], output_shape=null, groups=1, activation=\"none\"}",
    ),
    (
        "x: f32[b, c, h, w]",
        "%0, %1 = max_pool x {kernel=[3, 3], strides=[2, 2], dilations=[1, 1], padding=\"same_lower\", \
         ceil_mode=false, column_major=false}",
    ),
    (
        "x: f32[b, c, l]",
        "%0 = average_pool x {kernel=[2], strides=[2], dilations=[1], \
         padding={\"explicit\":{\"begins\":[0],\"ends\":[0]}}, ceil_mode=true, count_include_pad=true}",
    ),
    (
        "x: f32[b, c, h], y: f32[c], z: f32[c], m: f32[c], v: f32[c]",
        "%0 = batch_norm x, y, z, m, v {epsilon=1e-5, momentum=0.9, training=false}",
    ),
    ("x: f32[b, s, 8], y: f32[8]", "%0, %1, %2 = layer_norm x, y {axis=-1, epsilon=1e-5}"),
    ("x: f32[b, s, 8], y: f32[8]", "%0 = rms_norm x, y {axis=2, epsilon=1e-5}"),
    ("x: f32[b, c, h], y: f32[c], z: f32[c]", "%0 = instance_norm x, y, z {epsilon=1e-5}"),
    (
        "x: f32[b, 6, h], y: f32[6], z: f32[6]",
        "%0 = group_norm x, y, z {groups=3, per_group=false, epsilon=1e-5}",
    ),
    ("x: f32[a, b]", "%0 = softmax x {axis=-1, log=true}"),
    (
        "x: f32[a, b, 3]",
        "%0 = reduce x {kind=\"mean\", axes=[1], keep_dims=false, noop_with_empty_axes=false}",
    ),
    ("x: f32[a, b]", "%0 = arg_reduce x {min=false, axis=0, keep_dims=true, select_last=false}"),
    ("x: f32[a, 9]", "c0 = const i64[1] [5]\n%0, %1 = top_k x, c0 {axis=1, largest=true, sorted=true}"),
    ("x: i32[a, b]", "c0 = const i64[] 1\n%0 = cum_sum x, c0 {exclusive=true, reverse=false}"),
    ("x: f32[a, b, 3]", "%0 = shape x {start=1, end=null}"),
    ("x: f32[a, b]", "%0 = size x"),
    ("x: f32[a, 6]", "c0 = const i64[3] [0, 2, -1]\n%0 = reshape x, c0 {allow_zero=false}"),
    ("x: f32[a, 1, b]", "%0 = squeeze x {axes=[1]}"),
    ("x: f32[a, b]", "%0 = unsqueeze x {axes=[0, -1]}"),
    ("x: f32[a, b, 3]", "%0 = transpose x {perm=[2, 0, 1]}"),
    ("x: f32[a, 2], y: f32[b, 2]", "%0 = concat x, y {axis=0}"),
    ("x: f32[a, 6]", "%0, %1, %2 = split x {axis=1, outputs=3}"),
    (
        "x: f32[a, b]",
        "c0 = const i64[1] [1]\nc1 = const i64[1] [-1]\nc2 = const i64[1] [1]\n%0 = slice x, c0, c1, c2, c2",
    ),
    ("x: f32[a, 1]", "c0 = const i64[3] [2, 1, 4]\n%0 = expand x, c0"),
    ("x: f32[a, 3]", "c0 = const i64[2] [2, 3]\n%0 = tile x, c0"),
    ("x: f32[a, 3]", "c0 = const i64[4] [1, 0, 2, -1]\n%0 = pad x, c0 {mode=\"reflect\"}"),
    ("x: i64[], y: i64[], z: i64[]", "%0 = range x, y, z"),
    ("x: f32[a, b]", "%0 = shape x {start=0, end=null}\n%1 = constant_of_shape %0 {dtype=\"f32\", bits=0}"),
    ("x: f32[a, b, c]", "%0 = trilu x {upper=true}"),
    ("x: f32[v, 8], y: i64[b, s]", "%0 = gather x, y {axis=0}"),
    ("x: f32[a, b], y: i64[c, d]", "%0 = gather_elements x, y {axis=1}"),
    ("x: f32[a, b, 4], y: i64[n, 2]", "%0 = gather_nd x, y {batch_dims=0}"),
    ("x: f32[a, b], y: i64[c, d], z: f32[c, d]", "%0 = scatter_elements x, y, z {axis=0, reduction=\"add\"}"),
    ("x: f32[a, b], y: i64[n, 1], z: f32[n, b]", "%0 = scatter_nd x, y, z {reduction=\"replace\"}"),
    ("x: bool[a, b]", "%0 = non_zero x"),
    (
        "x: f32[b, c, h, w]",
        "c0 = const f32[4] [1.0, 1.0, 2.0, 2.0]\n%0 = resize x, _, c0 {mode=\"linear\", coordinates=\"half_pixel\", \
         rounding=\"floor\", cubic_coefficient=-0.75, exclude_outside=false, extrapolation_value=0.0, \
         antialias=false, axes=null, policy=\"stretch\"}",
    ),
    (
        "x: f32[a, 4], y: f32[4], z: i8[4]",
        "%0 = quantize_linear x, y, z {axis=1, block_size=0, to=\"i8\", saturate=true, precision=null}",
    ),
    ("x: u8[a, 4], y: f32[], z: u8[]", "%0 = dequantize_linear x, y, z {axis=1, block_size=0, to=\"f32\"}"),
    ("x: f32[a, 4]", "%0, %1, %2 = dynamic_quantize_linear x"),
    ("x: u8[a, 4], y: i8[256]", "%0 = map_bytes x, y"),
    (
        "x: u8[b, s, 8], y: i8[8, 6], z: u8[], u: i8[6], b: i32[6], f: f32[6], o: u8[]",
        "%0 = matmul_integer x, y, z, u, b, f, o {to=\"u8\"}",
    ),
    (
        "x: f32[b, 4, q, 8], y: f32[b, 2, k, 8], z: f32[b, 2, k, 6], m: bool[q, k]",
        "%0 = attention x, y, z, m {q_heads=null, kv_heads=null, causal=true, scale=null, softcap=0.0, qk_output=0, \
         left_window=null, right_window=null, softmax_in_f64=false}",
    ),
    (
        "c: f32[pool, e], k: f32[1, 2, n, 8], v: f32[1, 2, n, 6], p: i64[1, n], s: i64[m], t: i64[b, pages]",
        "%0 = kv_append c, k, v, p, s, t",
    ),
    (
        "c: i8[pool, e], k: f32[1, 2, n, 8], v: f32[1, 2, n, 6], p: i64[1, n], s: i64[m], t: i64[b, pages]",
        "%0 = kv_append c, k, v, p, s, t",
    ),
    (
        "q: f32[1, 4, n, 8], c: f32[pool, 1792], p: i64[1, n], s: i64[m], l: i64[b], t: i64[b, pages]",
        "%0 = paged_attention q, c, p, s, l, t {kv_heads=2, qk_head_dim=8, v_head_dim=6, window=4, scale=null, softcap=0.0}",
    ),
    (
        "c: f32[pool, e], k: f32[1, 1, n, 8], p: i64[1, n], s: i64[m], t: i64[b, pages]",
        "%0 = kv_append c, k, _, p, s, t",
    ),
    (
        "q: f32[1, 4, n, 8], c: f32[pool, 512], p: i64[1, n], s: i64[m], l: i64[b], t: i64[b, pages]",
        "%0 = paged_attention q, c, p, s, l, t {kv_heads=1, qk_head_dim=8, v_head_dim=0, latent=6, window=null, scale=null, \
         softcap=0.0}",
    ),
    (
        "x: f32[b, s, 32], y: f32[64, 4], z: f32[64, 4], p: i64[b, s]",
        "%0 = rotary_embedding x, y, z, p {interleaved=false, heads=4, rotary_dim=null}",
    ),
    ("x: f32[n, a, 3], y: f32[a, 3]", "%0 = append x, y"),
    ("x: f32[a, 3], y: f32[]", "%0, %1, %2 = sequence_construct x, y {dtype=\"f32\"}"),
    ("x: f32[n], y: i64[m], z: i64[c, 2], i: i64[]", "%0 = sequence_at x, y, z, i {rank=2}"),
    ("x: f32[n], y: i64[m], z: i64[c, 2], v: f32[a, 3]", "%0, %1, %2 = sequence_insert x, y, z, v"),
    ("x: f32[n], y: i64[m], z: i64[c, 2], i: i64[1]", "%0, %1, %2 = sequence_erase x, y, z, i"),
    ("x: f32[a, b]", "c0 = const i64[] 2\n%0, %1, %2 = split_to_sequence x, c0 {axis=1, keep_dims=true}"),
    (
        "x: f32[n], y: i64[m], z: i64[c, 2]",
        "%0 = concat_from_sequence x, y, z {axis=1, new_axis=true, rank=2}",
    ),
    ("x: f32[a, b], c: bool[]", "%0 = require x, c {reason=\"an optional is empty\"}"),
    (
        "x: f32[a, b], f: i64[n], m: i64[n], s: f32[n], c: i64[n, 2], k: bool[n], v: f32[v], e: i64[n], r: i64[t], \
         l: i64[l], t: i64[w], w: f32[w]",
        "%0 = tree_ensemble x, f, m, s, c, k, v, e, r, l, t, w {targets=3, aggregate=\"sum\"}",
    ),
    ("x: f32[a, 6]", "%0 = couple_probabilities x {classes=4}"),
    (
        "x: f32[s, b, 5], w: f32[2, 3, 5], r: f32[2, 3, 3]",
        "%0, %1 = rnn x, w, r {hidden=3, direction=\"bidirectional\", activations=[], activation_alpha=[], \
         activation_beta=[], clip=null, batch_first=false}",
    ),
    (
        "x: f32[b, s, 5], w: f32[1, 9, 5], r: f32[1, 9, 3]",
        "%0, %1 = gru x, w, r {hidden=3, direction=\"reverse\", activations=[], activation_alpha=[], \
         activation_beta=[], clip=null, linear_before_reset=true, batch_first=true}",
    ),
    ("x: f32[a, b]", "%0 = bit_cast x {to=\"i32\"}"),
    (
        "x: f32[b, 4, h, w], y: f32[6, 2, 3, 3], o: f32[b, 18, h, w]",
        "%0 = deform_conv x, y, o {strides=[1, 1], dilations=[1, 1], padding={\"explicit\":{\"begins\":[1, 1],\
         \"ends\":[1, 1]}}, groups=2, offset_groups=1}",
    ),
    (
        "x: f32[b, c, l]",
        "%0 = lp_pool x {p=2.0, kernel=[2], strides=[2], dilations=[1], \
         padding={\"explicit\":{\"begins\":[0],\"ends\":[0]}}, ceil_mode=false}",
    ),
    (
        "x: f32[b, c, l], i: i64[b, c, l]",
        "%0 = max_unpool x, i {kernel=[2], strides=[2], padding={\"explicit\":{\"begins\":[0],\"ends\":[0]}}}",
    ),
    ("x: i32[a, b]", "c0 = const i64[] 1\n%0 = cum_prod x, c0 {exclusive=false, reverse=true}"),
    ("x: f32[a, b]", "%0, %1, %2, %3 = unique x {axis=1, sorted=true}"),
    ("x: f32[b, 3, 3]", "%0 = det x"),
    ("x: f32[b, n, 1]", "%0 = dft x {axis=1, inverse=false, onesided=true}"),
    ("x: f32[b, 64, 1], s: i64[], w: f32[16]", "c0 = const i64[] 8\n%0 = stft x, c0, w {onesided=true}"),
    (
        "r: i64[], l: f64[], h: f64[]",
        "c0 = const i64[] 4\nc1 = const i64[] 16\n%0 = mel_weight_matrix c0, c1, r, l, h {to=\"f32\"}",
    ),
    (
        "x: f32[b, c, h, w], y: f32[b, p, q, 2]",
        "%0 = grid_sample x, y {interpolation=\"linear\", border=\"zeros\", align_corners=true}",
    ),
    ("x: f32[b, 2, 3]", "c0 = const i64[4] [1, 3, 5, 6]\n%0 = affine_grid x, c0 {align_corners=false}"),
    (
        "x: f32[b, c, h, w], y: f32[r, 4], i: i64[r]",
        "%0 = roi_align x, y, i {size=[2, 3], sampling=0, spatial_scale=0.5, max=false, half_pixel=true}",
    ),
    ("x: f32[b, c, h, w], y: f32[r, 5]", "%0 = max_roi_pool x, y {size=[2, 3], spatial_scale=0.5}"),
    ("x: f32[b, n, 4], y: f32[b, c, n]", "%0 = non_max_suppression x, y {center_point_box=false}"),
    (
        "x: f32[b, 12, 6]",
        "c0 = const i64[2] [3, 4]\nc1 = const i64[2] [2, 2]\n%0 = col2im x, c0, c1 {strides=[], dilations=[], pads=[]}",
    ),
    ("x: string[n]", "%0 = string_normalizer x {case=\"lower\", case_sensitive=false, stopwords=[]}"),
    ("x: string[n]", "%0, %1 = string_split x {delimiter=\",\", limit=null}"),
    ("x: string[n, 1], y: string[m]", "%0 = string_concat x, y"),
    ("x: string[n]", "%0 = regex_full_match x {pattern=\"a*\"}"),
    (
        "x: i64[b, n]",
        "%0 = tf_idf x {mode=\"count\", min_length=1, max_length=1, max_skip=0, starts=[0], columns=[0, 1], \
         weights=[], strings=[], integers=[3, 4]}",
    ),
    ("x: string[n], k: string[m], v: i64[m], d: i64[1]", "%0 = lookup x, k, v, d"),
    ("x: u8[n]", "%0 = image_decoder x {pixels=\"rgb\"}"),
    ("x: f32[n]", "%0 = custom x {domain=\"com.example\", operator=\"Doubled\", attributes={}}"),
    (
        "x: u8[b, 4, n], y: i8[6, 2, 3]",
        "%0 = conv_integer x, y {strides=[1], dilations=[1], padding=\"same_upper\", groups=2, to=\"i32\"}",
    ),
    (
        "q: f32[b, s, 32], k: f32[b, s, 16], v: f32[b, s, 8]",
        "%0, %1 = linear_attention q, k, v {q_heads=4, kv_heads=2, rule=\"linear\", scale=null}",
    ),
    (
        "x: f32[s, b, 5], w: f32[2, 12, 5], r: f32[2, 12, 3]",
        "%0, %1, %2 = lstm x, w, r {hidden=3, direction=\"bidirectional\", activations=[], activation_alpha=[], \
         activation_beta=[], clip=null, input_forget=false, batch_first=false}",
    ),
    (
        "x: f32[s, b, 5], w: i8[1, 12, 5], r: u8[1, 12, 3], p: f32[1], q: f32[1, 12], z: u8[1, 12]",
        "%0, %1, %2 = lstm x, w, r, _, _, _, _, _, p, _, q, z {hidden=3, direction=\"forward\", activations=[], \
         activation_alpha=[], activation_beta=[], clip=null, input_forget=false, batch_first=false}",
    ),
];

/// Kinds without attributes take the first of these dtypes that they know.
fn plain(name: &str, operands: &[&str]) -> (String, String) {
    let case = |dtype: &str| {
        let inputs = ["x", "y"].iter().zip(operands).map(|(name, dims)| format!("{name}: {dtype}{dims}"));
        let names = ["x", "y"][..operands.len()].join(", ");
        let inputs = inputs.collect::<Vec<_>>().join(", ");
        let types = inferred(&inputs, &format!("%0 = {name} {names}"));
        (inputs, types)
    };
    let known = ["f32", "i64", "bool"].into_iter().map(case);
    let is_type = |types: &str| ["f32[", "i64[", "bool["].iter().any(|start| types.starts_with(start));
    let known = known.into_iter().find(|(_, types)| is_type(types));
    known.unwrap_or_else(|| panic!("`{name}` infers for no dtype"))
}

#[test]
fn every_op_infers() {
    let mut table = String::new();
    let mut row = |name: &str, inputs: &str, types: &str| {
        writeln!(table, "{name} ({inputs}) -> {types}").expect("a string takes what is written");
    };
    let unary = Unary::ALL.iter().map(|kind| (kind.name(), &["[a, 3]"][..]));
    let binary = Binary::ALL.iter().map(|kind| (kind.name(), &["[a, 3]", "[b, 1]"][..]));
    let compare = Compare::ALL.iter().map(|kind| (kind.name(), &["[a, 3]", "[b, 1]"][..]));
    let kinds: Vec<_> = unary.chain(binary).chain(compare).collect();
    for name in Op::names() {
        if let Some((_, operands)) = kinds.iter().find(|(kind, _)| *kind == name) {
            let (inputs, types) = plain(name, operands);
            row(name, &inputs, &types);
            continue;
        }
        let is_of = |lines: &str| {
            let node = lines.lines().last().and_then(|node| node.split_once(" = "));
            node.is_some_and(|(_, node)| node.split(' ').next() == Some(name))
        };
        let case = CASES.iter().find(|(_, lines)| is_of(lines));
        let (inputs, lines) = case.unwrap_or_else(|| panic!("`{name}` has no inference case: add one here"));
        row(name, inputs, &inferred(inputs, lines));
    }
    insta::assert_snapshot!(table);
}
