//! Masks are proven, not guessed: facts of random masks give the same attention, and one key more or less is another mask.

use lathe_ir::{EvaluateOptions, Module, evaluate};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_tensor::Tensor;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use crate::driver::{Options, optimise};
use crate::standard;

/// Attention over `seq` queries and `past + seq` keys whose mask is `%mask`, made by `lines` from positions `%i` and `%j`.
fn graph(lines: &str, mask: &str) -> String {
    format!(
        r#"graph "main" (q: f32[b, 2, s, 4], k: f32[b, 2, t, 4], v: f32[b, 2, t, 4], seen: i64[b, t]) {{
  c0 = const i64[] 0
  c1 = const i64[] 1
  %0: i64[] = dims [s] {{scalar=true}}
  %1: i64[] = dims [t] {{scalar=true}}
  %2 = range c0, %0, c1
  %3 = range c0, %1, c1
  %4 = unsqueeze %2 {{axes=[0,1,3]}}
  %5 = unsqueeze %3 {{axes=[0,1,2]}}
{lines}
  %99 = attention q, k, v, {mask} {{causal=false,qk_output=0,scale=0.5,softcap=0.0,softmax_in_f64=false}} // "attention"
  return %99 as y
}}"#
    )
}

fn parse(text: &str) -> Module {
    lathe_ir::parse(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn proven(text: &str) -> (Module, Attention, bool) {
    let mut module = parse(text);
    let passes = standard();
    let passes: Vec<_> = passes.into_iter().filter(|pass| pass.name() == "prove_masks").collect();
    let options = Options { verify: true, ..Options::default() };
    optimise(&mut module, &passes, &options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));
    let main = module.function(module.main().expect("a function"));
    let found = main.node_ids().filter_map(|id| main.node(id)).find_map(|node| match &node.operation {
        lathe_ir::Operation::Op(Op::Attention(attention)) => {
            Some((attention.clone(), node.inputs.get(3).copied().flatten().is_some()))
        }
        _ => None,
    });
    let (attention, masked) = found.expect("an attention node");
    (module, attention, masked)
}

fn floats(shape: &[usize], seed: u64) -> Tensor {
    let count = shape.iter().product::<usize>() as u64;
    let element = |place: u64| {
        let mixed = (place + seed * 7919 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        mixed as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_slice(&(0..count).map(element).collect::<Vec<_>>(), shape).expect("a small tensor")
}

/// The answers of two modules for `s` queries and `t` keys.
fn same_answer(a: &Module, b: &Module, [s, t]: [usize; 2], seed: u64) -> Result<(), String> {
    let seen: Vec<i64> =
        (0..2 * t as u64).map(|place| i64::from(!(place * 31 + seed).is_multiple_of(3))).collect();
    let inputs = [
        floats(&[2, 2, s, 4], seed),
        floats(&[2, 2, t, 4], seed + 1),
        floats(&[2, 2, t, 4], seed + 2),
        Tensor::from_slice(&seen, &[2, t]).expect("a small tensor"),
    ];
    let answer = |module: &Module| {
        let main = module.main().expect("a function");
        let outputs = evaluate(module, main, &inputs, &EvaluateOptions::default());
        outputs.unwrap_or_else(|error| panic!("{error} in {module}"))[0]
            .to_slice::<f32>()
            .expect("floats")
            .to_vec()
    };
    let (a, b) = (answer(a), answer(b));
    let close = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5);
    if close { Ok(()) } else { Err(format!("{a:?} is not {b:?} for {s} queries and {t} keys")) }
}

fn causal(offset: i64, op: &str) -> String {
    graph(&format!("  c2 = const i64[] {offset}\n  %6 = add %4, c2\n  %7 = {op} %5, %6\n"), "%7")
}

#[test]
fn one_more_key_is_not_causal() {
    let (_, exact, masked) = proven(&causal(0, "less_or_equal"));
    assert!(exact.causal && !masked && exact.right_window.is_none());
    let (_, exact, masked) = proven(&causal(1, "less"));
    assert!(exact.causal && !masked);
    let (_, more, masked) = proven(&causal(1, "less_or_equal"));
    assert!(!more.causal && !masked && more.right_window == Some(1));
    // One key fewer is a mask that the op has no name for.
    let (_, fewer, masked) = proven(&causal(0, "less"));
    assert!(!fewer.causal && masked);
}

#[test]
fn windows_keep_their_width() {
    for window in [1usize, 2, 5, 6, 7] {
        let lines = format!(
            "  c2 = const i64[] {window}\n  %6 = sub %4, c2\n  %7 = greater %5, %6\n  %8 = less_or_equal %5, %4\n  %9 = and %7, %8\n"
        );
        let (module, attention, masked) = proven(&graph(&lines, "%9"));
        assert!(attention.causal && !masked, "window {window}");
        assert_eq!(attention.left_window, Some(window - 1));
        for keys in [1, window.max(2) - 1, window, window + 1, 9] {
            same_answer(&parse(&graph(&lines, "%9")), &module, [keys, keys], 3).expect("the same answer");
        }
    }
}

#[test]
fn queries_at_the_end_of_the_keys_are_bottom_right() {
    let lines = "  %6 = sub %1, %0\n  %7 = add %4, %6\n  %8 = less_or_equal %5, %7\n";
    let (module, attention, masked) = proven(&graph(lines, "%8"));
    assert!(attention.causal && attention.bottom_right && !masked);
    for sizes in [[1, 1], [1, 5], [3, 5], [4, 4]] {
        same_answer(&parse(&graph(lines, "%8")), &module, sizes, 5).expect("the same answer");
    }
}

/// A table of bools as text.
fn table(cells: &[bool], rows: usize, columns: usize) -> String {
    let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
    format!("  c2 = const bool[{rows}, {columns}] [{}]\n", cells.join(", "))
}

fn static_graph(lines: &str, n: usize) -> String {
    graph(lines, "c2")
        .replace("s, 4", &format!("{n}, 4"))
        .replace("t, 4", &format!("{n}, 4"))
        .replace("[b, t]", &format!("[b, {n}]"))
        .replace("[s]", &format!("[{n}]"))
        .replace("[t]", &format!("[{n}]"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn stored_tables_are_checked_element_by_element(
        n in 2usize..7,
        behind in 0usize..7,
        ahead in 0usize..3,
        flip in any::<Option<u8>>(),
    ) {
        let inside = |i: usize, j: usize| j <= i + ahead && i <= j + behind;
        let mut cells: Vec<bool> = (0..n * n).map(|place| inside(place / n, place % n)).collect();
        let changed = flip.map(|flip| usize::from(flip) % (n * n));
        if let Some(place) = changed {
            cells[place] = !cells[place];
        }
        let text = static_graph(&table(&cells, n, n), n);
        let (module, attention, masked) = proven(&text);
        let triangle = (0..n * n).all(|place| cells[place] == (place % n <= place / n));
        if attention.causal {
            assert!((0..n * n).all(|place| !cells[place] || place % n <= place / n), "{text}");
        }
        if triangle {
            assert!(attention.causal && !masked);
        }
        same_answer(&parse(&text), &module, [n, n], 11).expect("the same answer");
    }

    #[test]
    fn facts_of_random_masks_give_the_same_attention(
        terms in proptest::collection::vec(term(), 1..4),
        either in any::<bool>(),
        seed in 0u64..1000,
        additive in any::<bool>(),
    ) {
        let mut lines = String::new();
        let mut joined = String::new();
        for (place, (term, offset)) in terms.iter().enumerate() {
            let base = 10 + place * 6;
            lines.push_str(&format!("  c{} = const i64[] {offset}\n", place + 4));
            lines.push_str(&term.replace("OFFSET", &format!("c{}", place + 4)).replace("%a", &format!("%{base}")).replace("%b", &format!("%{}", base + 1)).replace("%r", &format!("%{}", base + 2)));
            let result = format!("%{}", base + 2);
            if place == 0 {
                joined = result;
            } else {
                let op = if either { "or" } else { "and" };
                lines.push_str(&format!("  %{} = {op} {joined}, {result}\n", base + 3));
                joined = format!("%{}", base + 3);
            }
        }
        if additive {
            lines.push_str(&format!("  c8 = const f32[] 0.0\n  c9 = const f32[] -inf\n  %90 = where {joined}, c8, c9\n"));
            joined = "%90".to_string();
        }
        let text = graph(&lines, &joined);
        let (module, _, _) = proven(&text);
        for sizes in [[1, 1], [1, 4], [3, 3], [2, 5], [5, 5]] {
            same_answer(&parse(&text), &module, sizes, seed).expect("the same answer");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn windows_with_one_key_more_or_fewer_are_no_windows(
        window in 1i64..6,
        [row, column] in [0i64..7, 0i64..7],
        more in any::<bool>(),
        seed in 0u64..1000,
    ) {
        let change = match more {
            true => "  %13 = or %9, %12\n",
            false => "  %14 = not %12\n  %13 = and %9, %14\n",
        };
        let lines = format!(
            "  c2 = const i64[] {window}\n  c3 = const i64[] {row}\n  c4 = const i64[] {column}\n  %6 = sub %4, c2\n  %7 = greater %5, %6\n  \
             %8 = less_or_equal %5, %4\n  %9 = and %7, %8\n  %10 = equal %4, c3\n  %11 = equal %5, c4\n  %12 = and %10, %11\n{change}"
        );
        let text = graph(&lines, "%13");
        let (module, attention, masked) = proven(&text);
        let inside = column <= row && column > row - window;
        if inside != more {
            assert!(masked, "{attention:?} in {text}");
        }
        for keys in [1, 3, 7, 8] {
            same_answer(&parse(&text), &module, [keys, keys], seed).expect("the same answer");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn small_numbers_hide_keys_where_each_query_sees_itself(
        number in prop_oneof![Just(-1e4f32), Just(-65504.0), Just(-1e9), Just(-9999.0), Just(-1e3), Just(-0.5), Just(1e4)],
        offset in -1i64..2,
        padded in any::<bool>(),
        seed in 0u64..1000,
    ) {
        let padding = "  %7 = cast seen {saturate=true,to=\"bool\"}\n  %8 = unsqueeze %7 {axes=[1,2]}\n";
        let lines = format!(
            "  c2 = const i64[] {offset}\n  c3 = const f32[] 0.0\n  c4 = const f32[] {number:?}\n  %6 = add %4, c2\n{padding}  \
             %9 = less_or_equal %5, %6\n  %10 = {} %9, %8\n  %11 = where %10, c3, c4\n",
            if padded { "and" } else { "or" },
        );
        // A key that is seen for its padding alone, or one that is not the query's own, is no causal mask.
        let plain = lines.replace("%10 = or %9, %8", "%10 = and %9, %9");
        let (lines, exact) = if padded { (lines, offset == 0) } else { (plain, offset == 0) };
        let text = graph(&lines, "%11");
        let (module, attention, masked) = proven(&text);
        let hides = number <= -1e9 || number <= -1e4 && exact;
        assert_eq!(attention.causal && !masked, hides && exact, "{attention:?} {masked} in {text}");
        if number > -1e9 && !exact {
            assert!(masked, "{attention:?} in {text}");
        }
        // Rows of padding alone differ, and nothing reads them.
        if !padded {
            for sizes in [[1, 1], [3, 3], [5, 5]] {
                same_answer(&parse(&text), &module, sizes, seed).expect("the same answer");
            }
        }
    }
}

/// A comparison of positions, or of what is said of keys, with an offset.
fn term() -> impl Strategy<Value = (String, i64)> {
    let compare = prop_oneof![
        Just("less"),
        Just("less_or_equal"),
        Just("greater"),
        Just("greater_or_equal"),
        Just("equal"),
    ];
    let form = prop_oneof![
        compare.clone().prop_map(|op| format!("  %a = add %4, OFFSET\n  %r = {op} %5, %a\n")),
        compare.clone().prop_map(|op| format!("  %a = sub %5, %4\n  %b = abs %a\n  %r = {op} %b, OFFSET\n")),
        compare.prop_map(|op| format!("  %a = sub %1, OFFSET\n  %r = {op} %5, %a\n")),
        Just("  %a = cast seen {saturate=true,to=\"bool\"}\n  %r = unsqueeze %a {axes=[1,2]}\n".to_string()),
        Just("  %a = equal seen, OFFSET\n  %r = unsqueeze %a {axes=[1,2]}\n".to_string()),
        Just("  %a = div %5, c1\n  %b = less %a, %4\n  %r = not %b\n".to_string()),
    ];
    (form, -3i64..4)
}
