use proptest::prelude::*;

use super::{Answer, Dim, Symbol};

fn dim(text: &str) -> Dim {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn check(text: &str, normal: &str) {
    assert_eq!(dim(text).to_string(), normal, "{text}");
}

#[test]
fn normal_form() {
    check("b*a + a*b - 3", "2*a*b - 3");
    check("(a + 1)*(a - 1)", "a*a - 1");
    check("a - a", "0");
    check("floordiv(4*a + 6, 2)", "2*a + 3");
    check("floordiv(a*b, b)", "floordiv(a*b, b)");
    check("floordiv(3*a, 2)", "a + floordiv(a, 2)");
    check("floordiv(a - 1, 2) + 1", "floordiv(a + 1, 2)");
    check("floordiv(floordiv(a + 1, 2) + 1, 2)", "floordiv(a + 3, 4)");
    check("floordiv(4*a + 2, 6)", "floordiv(2*a + 1, 3)");
    check("mod(5*a + 7, 4)", "mod(a + 3, 4)");
    check("floordiv(mod(a, 4), 4)", "0");
    check("mod(a*b, b)", "0");
    check("max(a, 0)", "a");
    check("max(max(a - 1, 0) - 1, 0)", "max(a - 2, 0)");
    check("min(a + 1, a)", "a");
    check("max(min(a, b), b)", "b");
    check("bcast(a, 1)", "a");
    check("bcast(a, 5)", "5");
    check("bcast(bcast(a, b), a)", "bcast(a, b)");
    check("floordiv(max(a, 1)*b, max(a, 1))", "b");
    check("\"a b\" + x.1", "\"a b\" + x.1");
    check("9223372036854775807 + 1", "overflow");
    check("-9223372036854775808", "-9223372036854775808");
}

#[test]
fn answers() {
    let ask = |a: &str, b: &str| dim(a).equals(&dim(b));
    assert_eq!(ask("a + b", "b + a"), Answer::Yes);
    assert_eq!(ask("a", "b"), Answer::Unknown);
    assert_eq!(ask("a", "-1"), Answer::No);
    assert_eq!(ask("2*a", "3"), Answer::No);
    assert_eq!(ask("a*b", "1"), Answer::Unknown);
    assert_eq!(dim("a - min(a, 5)").at_least(0), Answer::Yes);
    assert_eq!(dim("a - floordiv(a, 2)").at_least(0), Answer::Yes);
    assert_eq!(dim("max(a, b) - a").at_least(0), Answer::Yes);
    assert_eq!(dim("a - b").at_least(0), Answer::Unknown);
    assert_eq!(dim("mod(a, 4)").at_least(4), Answer::No);
}

#[test]
fn quotients() {
    let divide = |a: &str, b: &str| dim(a).exact_quotient(&dim(b)).map(|quotient| quotient.to_string());
    assert_eq!(divide("12*b*s", "12*b").as_deref(), Some("s"));
    assert_eq!(divide("a*b + b", "a + 1").as_deref(), Some("b"));
    assert_eq!(divide("a*b", "c"), None);
    assert_eq!(divide("3*a", "2"), None);
    assert_eq!(divide("a", "0"), None);
}

#[test]
fn expressions_stay_bounded() {
    let mut doubling = &Dim::symbol(Symbol::new("a")) + &Dim::symbol(Symbol::new("b"));
    let mut nested = Dim::symbol(Symbol::new("a"));
    for step in 0..500 {
        doubling = doubling.mul(&doubling).add(&Dim::symbol(Symbol::new(&format!("s{step}"))));
        nested = nested.mul(&nested).modulo(&Dim::symbol(Symbol::new("n"))).floor_div(&Dim::constant(3));
    }
    assert!(doubling.is_overflow() && nested.is_overflow());
}

/// Expression texts over three symbols.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-4i64..9).prop_map(|value| value.to_string()),
        prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_string),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        let function = prop::sample::select(vec!["floordiv", "mod", "min", "max", "bcast", "+", "-", "*"]);
        (function, inner.clone(), inner).prop_map(|(function, a, b)| match function {
            "+" | "-" | "*" => format!("(({a}) {function} ({b}))"),
            _ => format!("{function}({a}, {b})"),
        })
    })
}

/// The value by the plain meaning of the text; `None` where it has none.
fn plain(text: &str, values: [i64; 3]) -> Option<i64> {
    fn split(text: &str) -> Option<(&str, &str, &str)> {
        // `((a) op (b))` or `function(a, b)`, both fully bracketed.
        let mut depth = 0;
        let infix = text.starts_with('(');
        let open = text.find('(')?;
        let body = &text[open + 1..text.len() - 1];
        for (index, c) in body.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                ',' if depth == 0 && !infix => {
                    return Some((&text[..open], &body[..index], &body[index + 2..]));
                }
                _ => {}
            }
            if infix && depth == 0 && c == ')' {
                let operator = &body[index + 2..index + 3];
                return Some((operator, &body[1..index], &body[index + 5..body.len() - 1]));
            }
        }
        None
    }
    match text {
        "a" => return Some(values[0]),
        "b" => return Some(values[1]),
        "c" => return Some(values[2]),
        _ => {}
    }
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let (function, a, b) = split(text)?;
    let (a, b) = (plain(a, values)?, plain(b, values)?);
    let floor = |a: i64, b: i64| if b == 0 { 0 } else { (a as f64 / b as f64).floor() as i64 };
    match function {
        "+" => Some(a + b),
        "-" => Some(a - b),
        "*" => Some(a * b),
        "floordiv" => Some(floor(a, b)),
        "mod" => Some(if b == 0 { 0 } else { a - b * floor(a, b) }),
        "min" => Some(a.min(b)),
        "max" => Some(a.max(b)),
        _ if a == b || b == 1 => Some(a),
        _ => (a == 1).then_some(b),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn values_and_answers_agree_with_the_plain_meaning(a in expression(), b in expression()) {
        let (x, y) = (dim(&a), dim(&b));
        let (equal, at_least) = (x.equals(&y), x.at_least(2));
        let (low, high) = (x.lower_bound(), x.upper_bound());
        for values in (0..125).map(|n| [n / 25, n / 5 % 5, n % 5].map(|i| [0, 1, 2, 3, 7][i as usize])) {
            let bind = |symbol: &Symbol| values.get((symbol.name().as_bytes()[0] - b'a') as usize).copied();
            let (Some(p), Some(q)) = (plain(&a, values), plain(&b, values)) else { continue };
            prop_assert_eq!(x.evaluate(&bind), Some(p), "{} = {} at {:?}", a, x, values);
            prop_assert!(low.is_none_or(|low| low <= p) && high.is_none_or(|high| p <= high), "{} {:?} {:?} {}", x, low, high, p);
            prop_assert!(equal != if p == q { Answer::No } else { Answer::Yes }, "{} == {} at {:?}", x, y, values);
            prop_assert!(at_least != if p >= 2 { Answer::No } else { Answer::Yes }, "{} >= 2 at {:?}", x, values);
            if let Some(quotient) = x.exact_quotient(&y) && q != 0 {
                prop_assert_eq!(quotient.evaluate(&bind), Some(p / q));
            }
        }
    }

    #[test]
    fn text_round_trip(a in expression()) {
        let x = dim(&a);
        prop_assert_eq!(dim(&x.to_string()), x);
    }

    #[test]
    fn substitution_is_evaluation(a in expression(), n in 0usize..125) {
        let values = [n / 25, n / 5 % 5, n % 5].map(|i| [0, 1, 2, 3, 7][i]);
        let x = dim(&a);
        let bind = |symbol: &Symbol| Some(values[(symbol.name().as_bytes()[0] - b'a') as usize]);
        if let Some(value) = x.evaluate(&bind) {
            let replaced = x.substitute(&|symbol| bind(symbol).map(Dim::constant));
            prop_assert_eq!(replaced.as_constant(), Some(value));
        }
    }

    #[test]
    fn garbage_is_an_error(text in "[-+*(), a-c0-9\"\\\\é]{0,40}") {
        let _ = text.parse::<Dim>();
    }
}
