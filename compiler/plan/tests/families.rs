//! Plans of small functions, one a family, as text.

use lathe_ir::parse;
use lathe_plan::{PlanOptions, PlanText, plan};

fn planned(text: &str) -> String {
    let module = parse(text).unwrap();
    let planned = plan(&module, module.main().unwrap(), &PlanOptions::default()).unwrap();
    planned.plan.check().unwrap();
    PlanText(&planned.plan).to_string()
}

macro_rules! snapshots {
    ($($name:ident: $text:literal,)*) => { $(
        #[test]
        fn $name() {
            insta::assert_snapshot!(planned($text));
        }
    )* };
}

snapshots! {
    pieces_are_made_inside_the_joined_output: r#"
graph "main" (x: f32[n, 4], y: f32[n, 2]) {
  %0 = relu x
  %1 = sigmoid y
  %2 = concat %0, %1 {axis=1}
  return %2 as joined
}
"#,
    convolution_with_symbolic_same_padding: r#"
graph "main" (x: f32[1, 2, h, w]) {
  c0 = const f32[4, 2, 3, 3] splat 0.5
  c1 = const f32[4] splat 1
  %0 = conv x, c0, c1 {activation="relu",dilations=[1,1],groups=1,padding="same_upper",strides=[2,2]}
  %1 = max_pool %0 {ceil_mode=false,column_major=false,dilations=[1,1],kernel=[2,2],padding={"explicit":{"begins":[0,0],"ends":[0,0]}},strides=[2,2]}
  return %1 as y
}
"#,
    attention_reads_and_writes_heads_where_they_lie: r#"
graph "main" (x: f32[b, s, 128], seen: bool[b, s]) {
  c0 = const i64[4] [0, 0, 2, 64]
  c1 = const i64[3] [0, 0, 128]
  %0 = relu x
  %1 = reshape %0, c0 {allow_zero=false}
  %2 = transpose %1 {perm=[0,2,1,3]}
  %3 = attention %2, %2, %2, _, _, _, _, seen {bottom_right=true,causal=true,kv_heads=null,left_window=9,q_heads=null,qk_output=0,right_window=null,scale=null,softcap=0,softmax_in_f64=false}
  %4 = transpose %3 {perm=[0,2,1,3]}
  %5 = reshape %4, c1 {allow_zero=false}
  return %5 as y
}
"#,
    attention_with_a_past_is_evaluated: r#"
graph "main" (q: f32[b, 2, s, 64], k: f32[b, 2, s, 64], past: f32[b, 2, p, 64]) {
  %0 = attention q, k, k, _, past, past {bottom_right=false,causal=true,kv_heads=null,left_window=null,q_heads=null,qk_output=0,right_window=null,scale=null,softcap=0,softmax_in_f64=false}
  return %0 as y
}
"#,
    rotary_embedding_of_packed_heads: r#"
graph "main" (x: f32[b, s, 128], cos: f32[1, s, 32], sin: f32[1, s, 32]) {
  %0 = rotary_embedding x, cos, sin {heads=2,interleaved=false,rotary_dim=null}
  return %0 as y
}
"#,
    a_state_is_appended_to_in_place: r#"
graph "main" (c: f32[pool, 16384], k: f32[1, 2, n, 64], p: i64[1, n], s: i64[m], t: i64[b, pages], l: i64[b]) {
  %0 = kv_append c, k, k, p, s, t
  %1 = paged_attention k, %0, p, s, l, t {kv_heads=2,qk_head_dim=64,scale=null,softcap=0,v_head_dim=64,window=32}
  return %1 as y
}
"#,
    sizes_that_depend_on_data_begin_a_stage: r#"
graph "main" (x: f32[n]) {
  %0 = non_zero x
  %1 = transpose %0 {perm=[1,0]}
  %2 = neg %1
  return %2 as y
}
"#,
    sizes_are_stored_only_where_they_are_data: r#"
graph "main" (x: f32[n, 3], k: i64[1]) {
  %0 = shape x {end=null,start=0}
  %1 = mul %0, k
  return %1 as y, %0 as sizes
}
"#,
    an_undecided_broadcast_has_a_stride_of_its_own: r#"
graph "main" (x: f32[n, 3], y: f32[m, 3]) {
  %0 = add x, y
  return %0 as z
}
"#,
    what_has_no_builtin_is_evaluated: r#"
graph "main" (x: f32[n, 3], y: f32[n, 3]) {
  %0 = pow x, y
  %1 = relu %0
  return %1 as z
}
"#,
    slices_are_views: r#"
graph "main" (x: f32[n, 8]) {
  c0 = const i64[1] [6]
  c1 = const i64[1] [-9223372036854775807]
  c2 = const i64[1] [1]
  c3 = const i64[1] [-2]
  %0 = slice x, c0, c1, c2, c3
  %1 = relu %0
  return %1 as y
}
"#,
    branches_write_the_outputs_of_the_if: r#"
graph "main" (p: bool[1], x: f32[n]) {
  %0 = if p, x {else="no",then="yes"}
  return %0 as y
}
graph "yes" (x: f32[n]) {
  %0 = neg x
  return %0 as y
}
graph "no" (x: f32[n]) {
  %0 = relu x
  return %0 as y
}
"#,
    integers_stay_bytes: r#"
graph "main" (x: f32[n, 2, 8, 8]) {
  c0 = const i8[2, 1, 3, 3] splat 2
  c1 = const i8[4, 2, 1, 1] splat 3
  c2 = const f32[] 0.5
  c3 = const u8[] 7
  c4 = const u8[256] splat 9
  %0 = quantize_linear x, c2, c3 {axis=1,block_size=0,precision=null,saturate=true,to="u8"}
  %1 = conv_integer %0, c0, c3, _, _, c2, c3 {strides=[1,1],dilations=[1,1],padding="same_upper",groups=2,to="u8"}
  %2 = region %0, %1 {body="sum"}
  %3 = map_bytes %2, c4
  %4 = conv_integer %3, c1, c3, _, _, c2, c3 {strides=[2,2],dilations=[1,1],padding="same_upper",groups=1,to="u8"}
  %5 = max_pool %4 {ceil_mode=false,column_major=false,dilations=[1,1],kernel=[2,2],padding={"explicit":{"begins":[0,0],"ends":[0,0]}},strides=[2,2]}
  return %5 as y
}
graph "sum" (a: u8[n, 2, 8, 8], b: u8[n, 2, 8, 8]) {
  c0 = const f32[] 0.5
  c1 = const f32[] 0.25
  c2 = const u8[] 7
  %0 = dequantize_linear a, c0, c2 {axis=1,block_size=0,to="f32"}
  %1 = dequantize_linear b, c1 {axis=1,block_size=0,to="f32"}
  %2 = add %0, %1
  %3 = relu %2
  %4 = quantize_linear %3, c0, c2 {axis=1,block_size=0,precision=null,saturate=true,to="u8"}
  return %4 as sum
}
"#,
    recurrent_layers_multiply_their_input_first: r#"
graph "main" (x: f32[s, 1, i], h: f32[2, 1, 100]) {
  c0 = const f32[2, 400, 7] splat 0.5
  c1 = const f32[2, 400, 100] splat 0.25
  %0, %1, %2 = lstm x, c0, c1, _, _, h {hidden=100, direction="bidirectional", activations=[], activation_alpha=[], activation_beta=[], clip=null, input_forget=false, batch_first=false}
  return %0 as y
}
"#,
    recurrent_layers_of_bytes_round_their_input: r#"
graph "main" (x: f32[b, s, 7]) {
  c0 = const i8[2, 64, 7] splat 5
  c1 = const u8[2, 64, 16] splat 3
  c2 = const f32[2] splat 0.5
  c3 = const f32[2, 64] splat 0.25
  c4 = const u8[2] splat 2
  %0, %1, %2 = lstm x, c0, c1, _, _, _, _, _, c2, _, c3, c4 {hidden=16, direction="bidirectional", activations=[], activation_alpha=[], activation_beta=[], clip=null, input_forget=false, batch_first=true}
  return %0 as y
}
"#,
}
