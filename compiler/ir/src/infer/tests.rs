//! Exporter patterns, end to end, and a table of cases a family.

mod every_op;

use lathe_ops::{Op, shape};
use lathe_tensor::DType;

use crate::{Builder, Dim, IrError, Module, ValueType};

fn f32_input(b: &mut Builder<'_>, dims: &[&str]) -> crate::ValueId {
    let dims: Vec<Dim> = dims.iter().map(|dim| dim.parse().expect("a dim")).collect();
    b.input("x", ValueType::new(DType::F32, dims))
}

#[test]
fn shape_arithmetic_of_exporters_folds() -> Result<(), IrError> {
    let mut module = Module::new();
    let mut b = Builder::main(&mut module);
    let x = f32_input(&mut b, &["batch", "seq", "384"]);
    // x.view(x.size(0), x.size(1), 12, -1)
    let shape = b.shape_of(x)?;
    let (zero, one) = (b.scalar(0i64), b.scalar(1i64));
    let mut parts = Vec::new();
    for index in [zero, one] {
        let size = b.gather(shape, index, 0)?;
        parts.push(b.unsqueeze(size, &[0])?);
    }
    parts.push(b.list(&[12])?);
    parts.push(b.list(&[-1])?);
    let target = b.concat(&parts, 0)?;
    let y = b.reshape(x, target)?;
    assert_eq!(b.ty(y).to_string(), "f32[batch, seq, 12, 32]");
    // expand(batch, -1, 384): Shape -> ConstantOfShape -> Mul(-1) -> Equal -> Where -> Expand
    let minus_one = b.scalar(-1i64);
    let sizes = b.concat(&[parts[0], parts[3], parts[2]], 0)?;
    let rank = b.shape_of(sizes)?;
    let ones = b.op(Op::ConstantOfShape(shape::ConstantOfShape { dtype: DType::I64, bits: 1 }), &[rank])?;
    let marks = b.mul(ones, minus_one)?;
    let keep = b.equal(sizes, marks)?;
    let target = b.select(keep, ones, sizes)?;
    let z = b.named("z").list(&[1])?;
    let z = b.cast(z, DType::F32)?;
    let z = b.unsqueeze(z, &[0, 1])?;
    let z = b.expand(z, target)?;
    assert_eq!(b.ty(z).to_string(), "f32[batch, 1, 12]");
    let flat = b.list(&[-1, 384])?;
    let flat = b.reshape(y, flat)?;
    assert_eq!(b.ty(flat).to_string(), "f32[batch*seq, 384]");
    Ok(())
}

/// Infers the last of `lines` with inputs `x`, `y` and `i`; its types and guards, or the error.
fn inferred(inputs: &str, lines: &str) -> String {
    let text = format!("graph \"m\" ({inputs}) {{\n{lines}\n}}\n");
    let module = match crate::parse(&text) {
        Ok(module) => module,
        Err(error) => return error.reason,
    };
    crate::verify(&module).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let function = module.function(module.main().expect("a graph"));
    let order = function.topological_order().expect("no cycle");
    let node = function.node(order[order.len() - 1]).expect("a node");
    let mut parts: Vec<_> = node.outputs.iter().map(|id| function.ty(*id).to_string()).collect();
    parts.extend(node.guards.iter().map(|guard| match &guard.condition {
        crate::GuardCondition::Equal(a, b) => format!("{a} == {b}"),
        crate::GuardCondition::AtLeast(a, b) => format!("{a} >= {b}"),
        crate::GuardCondition::Broadcastable(a, b) => format!("{a} ~ {b}"),
    }));
    parts.join("; ")
}

#[track_caller]
fn check(inputs: &str, lines: &str, expected: &str) {
    assert_eq!(inferred(inputs, lines), expected, "{inputs} {lines}");
}

#[track_caller]
fn refuses(inputs: &str, lines: &str, part: &str) {
    let found = inferred(inputs, lines);
    assert!(found.contains(part), "`{found}` does not contain `{part}`");
}

#[test]
fn elementwise() {
    check("x: f32[a, 3], y: f32[3]", "%0 = add x, y", "f32[a, 3]");
    check("x: f32[a], y: f32[b]", "%0 = add x, y", "f32[bcast(a, b)]; a ~ b");
    check("x: f32[a], y: f32[5]", "%0 = mul x, y", "f32[5]; a ~ 5");
    check("x: f32[a]", "%0 = is_nan x", "bool[a]");
    check("x: i64[a], y: i64[1]", "%0 = less x, y", "bool[a]");
    refuses("x: f32[2], y: f32[3]", "%0 = add x, y", "sizes 2 and 3 do not broadcast");
    refuses("x: f32[2], y: i64[2]", "%0 = add x, y", "one dtype");
    refuses("x: f32[2]", "%0 = add x", "operand 1 is missing");
    refuses("x: i64[2]", "%0 = exp x", "must be a float");
}

#[test]
fn products() {
    check("x: f32[b, s, 8], y: f32[8, n]", "%0 = matmul x, y", "f32[b, s, n]");
    check("x: f32[8], y: f32[b, 8, n]", "%0 = matmul x, y", "f32[b, n]");
    check("x: f32[b, k], y: f32[j]", "%0 = matmul x, y", "f32[b]; k == j");
    refuses("x: f32[2, 3], y: f32[4, 5]", "%0 = matmul x, y", "inner sizes of the product: 3 is not 4");
    refuses("x: f32[], y: f32[4]", "%0 = matmul x, y", "scalar");
}

#[test]
fn windows() {
    let conv = |padding: &str, stride: i64| {
        format!(
            "%0 = conv x, y {{strides=[{stride}], dilations=[1], padding={padding}, groups=1, activation=\"none\"}}"
        )
    };
    let ones = r#"{"explicit":{"begins":[1],"ends":[1]}}"#;
    check("x: f32[b, 3, l], y: f32[8, 3, 3]", &conv(ones, 1), "f32[b, 8, l]; l + 2 >= 3");
    check("x: f32[b, 3, l], y: f32[8, 3, 3]", &conv(ones, 2), "f32[b, 8, floordiv(l + 1, 2)]; l + 2 >= 3");
    check("x: f32[b, 3, l], y: f32[8, 3, 3]", &conv("\"same_upper\"", 2), "f32[b, 8, floordiv(l + 1, 2)]");
    refuses("x: f32[b, 3, l], y: f32[8, 4, 3]", &conv(ones, 1), "input channels");
    refuses("x: f32[b, 3, l], y: f32[8, 3, 3]", &conv(ones, 0), "at least 1");
    refuses("x: f32[b, 3, 0], y: f32[8, 3, 3]", &conv(ones, 1), "holds the kernel");
}

#[test]
fn reductions() {
    let sum = |axes: &str, keep: bool| {
        format!("%0 = reduce x {{kind=\"sum\", axes={axes}, keep_dims={keep}, noop_with_empty_axes=false}}")
    };
    check("x: f32[a, b, 3]", &sum("[1]", true), "f32[a, 1, 3]");
    check("x: f32[a, b, 3]", &sum("[-1, 0]", false), "f32[b]");
    check("x: f32[a, b, 3]", &sum("[]", false), "f32[]");
    refuses("x: f32[a]", &sum("[-9223372036854775808]", false), "outside of rank 1");
    refuses("x: f32[a, 2]", &sum("[1, -1]", false), "twice");
    let top = "c0 = const i64[1] [5]\n%0, %1 = top_k x, c0 {axis=-1, largest=true, sorted=true}";
    check("x: f32[a, n]", top, "f32[a, 5]; i64[a, 5]; n >= 5");
    refuses("x: f32[a, 4]", top, "k is at most the size of the axis");
}

#[test]
fn shapes() {
    let reshape = |sizes: &str, count: usize| {
        format!("c0 = const i64[{count}] {sizes}\n%0 = reshape x, c0 {{allow_zero=false}}")
    };
    check("x: f32[b, s, 12]", &reshape("[0, 0, 3, -1]", 4), "f32[b, s, 3, 4]");
    check("x: f32[b, s]", &reshape("[-1, 4]", 2), "f32[floordiv(b*s, 4), 4]; b*s == 4*floordiv(b*s, 4)");
    check("x: f32[b, s]", &reshape("[2, 3]", 2), "f32[2, 3]; b*s == 6");
    refuses("x: f32[2, 3]", &reshape("[5]", 1), "number of elements: 6 is not 5");
    refuses("x: f32[2, 3]", &reshape("[-1, -1]", 2), "more than one -1");
    refuses("x: f32[2, 3]", &reshape("[-2]", 1), "less than 0");
    check("x: f32[b, 4], i: i64[3]", "%0 = reshape x, i {allow_zero=false}", "f32[u0, u1, u2]");
    refuses(
        "x: f32[b, 4], i: i64[n]",
        "%0 = reshape x, i {allow_zero=false}",
        "rank of the result depends on data",
    );
    check("x: f32[b, 4], i: i64[3]", "%0 = expand x, i", "f32[u0, u1, 4]");
    check("x: f32[2, 4], i: i64[2]", "%0 = expand x, i", "f32[u0, u1]");
    check("x: f32[a, b], y: f32[a, c]", "%0 = concat x, y {axis=-1}", "f32[a, b + c]");
    check("x: f32[b, 1]", "%0 = squeeze x {axes=[0]}", "f32[1]; b == 1");
    refuses("x: f32[b, 1]", "%0 = squeeze x {}", "whether axis 0 of size b is 1");
    refuses("x: f32[2]", "%0 = transpose x {perm=[1]}", "does not permute");
    check(
        "x: f32[n]",
        "%0, %1 = split x {axis=0, outputs=2}",
        "f32[floordiv(n + 1, 2)]; f32[n - floordiv(n + 1, 2)]",
    );
}

#[test]
fn slices() {
    let slice = |start: i64, end: i64, step: i64| {
        let list = |name: &str, value: i64| format!("{name} = const i64[1] [{value}]\n");
        let lists = [list("c0", start), list("c1", end), list("c2", 0), list("c3", step)].concat();
        format!("{lists}%0 = slice x, c0, c1, c2, c3")
    };
    check("x: f32[n]", &slice(0, i64::MAX, 1), "f32[n]");
    check("x: f32[n]", &slice(1, i64::MAX, 1), "f32[max(n - 1, 0)]");
    check("x: f32[n]", &slice(0, -1, 1), "f32[max(n - 1, 0)]");
    check("x: f32[n]", &slice(-1, i64::MAX, 1), "f32[min(n, 1)]");
    check("x: f32[n]", &slice(0, i64::from(i32::MAX), 2), "f32[floordiv(n + 1, 2)]; 2147483647 >= n");
    check("x: f32[n]", &slice(-1, i64::MIN, -1), "f32[n]");
    check("x: f32[10]", &slice(-3, i64::MAX, 2), "f32[2]");
    check("x: f32[10]", &slice(i64::MAX, i64::MIN, -3), "f32[4]");
    refuses("x: f32[n]", &slice(0, 1, 0), "step is 0");
    refuses("x: f32[n], i: i64[1]", "c0 = const i64[1] [0]\n%0 = slice x, i, i, c0, c0", "a step is 0");
}

#[test]
fn indices() {
    check("x: f32[v, 8], i: i64[b, s]", "%0 = gather x, i {axis=0}", "f32[b, s, 8]");
    refuses("x: f32[2], i: f32[2]", "%0 = gather x, i {axis=0}", "i64 or i32");
    check("x: f32[a, b, 4], i: i64[n, 2]", "%0 = gather_nd x, i {batch_dims=0}", "f32[n, 4]");
    refuses("x: f32[a], i: i64[n, 2]", "%0 = gather_nd x, i {batch_dims=0}", "do not fit rank 1");
    refuses("x: f32[a], i: i64[n, m]", "%0 = gather_nd x, i {batch_dims=18446744073709551615}", "batch axes");
    check("x: f32[a, b]", "%0 = non_zero x", "i64[2, u0]");
}

const ATTENTION: &str = r#"{q_heads=null, kv_heads=null, causal=true, scale=null, softcap=0.0, qk_output=0, left_window=null, right_window=null, softmax_in_f64=false, bottom_right=true}"#;

#[test]
fn attention() {
    let qkv = "q: f32[b, 8, s, 64], k: f32[b, 2, t, 64], v: f32[b, 2, t, 32]";
    check(qkv, &format!("%0 = attention q, k, v {ATTENTION}"), "f32[b, 8, s, 32]");
    let extras = format!("{qkv}, p: bool[b, t], a: f32[8], i: i64[b, n], z: f32[8]");
    let line = |extras: &str| format!("%0 = attention q, k, v, _, _, _, _, {extras} {ATTENTION}");
    check(&extras, &line("p, a, i, z"), "f32[b, 8, s, 32]; n == t");
    refuses(&extras, &line("a"), "operand 7 must be bool");
    refuses(&extras, &line("_, _, i"), "alibi_positions without alibi_slopes");
    let few = format!("{qkv}, z: f32[7]");
    refuses(&few, &line("_, _, _, z"), "one number a query head: 7 is not 8");
}

#[test]
fn paged_attention() {
    let rows = "p: i64[1, n], s: i64[m], t: i64[b, pages]";
    let append = format!("c: bf16[pool, e], k: f32[1, 2, n, 64], v: f32[1, 2, n, 32], {rows}");
    let line = "%0 = kv_append c, k, v, p, s, t";
    check(&append, line, "bf16[pool, e]; e == 12288; m == b + 1");
    // Two scales of 4 bytes a place and head.
    check(&append.replace("bf16", "i8"), line, "i8[pool, e]; e == 13312; m == b + 1");
    refuses(&append.replace("bf16", "u8"), line, "f32, f16, bf16 or i8");
    refuses(&append.replace("[pool, e]", "[pool, 5]"), line, "elements of a page: 5 is not 12288");
    let attend = format!("q: f32[1, 8, n, 64], c: f16[pool, 12288], {rows}, l: i64[b]");
    let line = "%0 = paged_attention q, c, p, s, l, t {kv_heads=2, qk_head_dim=64, v_head_dim=32, window=4, scale=null, softcap=0.0}";
    check(&attend, line, "f32[1, 8, n, 32]; m == b + 1");
    refuses(&attend.replace("[1, 8, n", "[1, 7, n"), line, "multiple of the key heads");
    refuses(&attend.replace("[1, 8, n", "[2, 8, n"), line, "rows are packed: 2 is not 1");
}

#[test]
fn chains_of_constants_are_evaluated() {
    let lines = r#"  c0 = const i64[] 1
  c1 = const i64[3] [0, 1, 2]
  c2 = const bool[1, 3] [false, true, false]
  c3 = const i64[] 2
  c4 = const i64[1] [-1]
  %0 = where c2, c3, c0
  %1 = reshape %0, c4 {allow_zero=false}
  %2 = tile x, %1
  return %2 as z"#;
    let found = inferred("x: f32[rows, 1, 64]", lines);
    assert!(found.starts_with("f32[rows, 2, 64]"), "{found}");
}

#[test]
fn slices_from_a_bound_of_unknown_sign_have_static_sizes() {
    let lines = r#"  c0 = const i64[1] [9223372036854775807]
  c1 = const i64[1] [0]
  c2 = const i64[1] [1]
  %0 = dims [-n + 8]
  %1 = slice x, %0, c0, c1, c2
  return %1 as z"#;
    let text = format!("graph \"m\" (x: f32[8], y: f32[n]) {{\n{lines}\n}}\n");
    let module = crate::parse(&text).expect("parses");
    let main = module.main().expect("a graph");
    for n in 0..20usize {
        let inputs = [8, n]
            .map(|size| lathe_tensor::Tensor::from_slice(&vec![0f32; size], &[size]).expect("a tensor"));
        let options = crate::EvaluateOptions { check: true, ..Default::default() };
        let outputs = crate::evaluate(&module, main, &inputs, &options).expect("sizes agree");
        let size = module
            .function(main)
            .outputs()
            .first()
            .map(|(_, value)| module.function(main).ty(*value).to_string());
        assert!(!size.expect("an output").contains("u0"), "n {n}: {:?}", outputs[0].shape());
    }
}

#[test]
fn dims_of_sizes_that_only_the_run_knows_name_their_source() {
    let with = r#"graph "m" (x: bool[n]) {
  %0: i64[1, u0] = non_zero x
  %1: i64[1] = dims %0 [2*u0]
  return %1 as y
}"#;
    let module = crate::parse(with).expect("parses");
    crate::verify(&module).expect("the operand has the size");
    assert_eq!(crate::parse(&module.to_string()).expect("prints and parses").to_string(), module.to_string());
    let without = crate::parse(&with.replace("dims %0", "dims")).expect("parses");
    let error = crate::verify(&without).expect_err("nothing binds the symbol").to_string();
    assert!(error.contains("has the size `u0`"), "{error}");
}
