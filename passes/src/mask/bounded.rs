//! What holds up to a size: exporters cut tables of a fixed length by places counted from the end, which is right for sizes up to that
//! length only. Whether it is, is tried for each of them.

use lathe_ir::{Answer, Dim, Symbol};

/// Tables longer than this are not understood.
const LONGEST: i64 = 1 << 16;

/// The symbol `n` of a lifted size `n + 1`.
fn symbol_of(size: &Dim) -> Option<Symbol> {
    size.sub(&Dim::constant(1)).as_symbol().cloned()
}

fn with(dim: &Dim, symbol: &Symbol, by: &Dim) -> Dim {
    dim.substitute(&|name| (name == symbol).then(|| by.clone()))
}

/// The limit up to which `dim` is the lifted `size`, where above the limit it is always smaller: there it broadcasts only as an axis of one
/// place.
pub(crate) fn full_up_to(dim: &Dim, size: &Dim) -> Option<i64> {
    let symbol = symbol_of(size)?;
    let equal = |n: i64| with(dim, &symbol, &Dim::constant(n)).as_constant() == Some(n + 1);
    let limit = (0..=LONGEST).take_while(|n| equal(*n)).count() as i64;
    if limit == 0 || limit > LONGEST {
        return None;
    }
    let above = Dim::symbol(symbol.clone()).add(&Dim::constant(limit));
    let rest = with(&size.sub(dim), &symbol, &above).sub(&Dim::constant(1));
    (rest.at_least(0) == Answer::Yes).then_some(limit)
}

/// Whether `dim >= 0` for every value of the lifted `size` up to a limit.
pub(crate) fn never_negative_up_to(dim: &Dim, size: &Dim, limit: i64) -> bool {
    let Some(symbol) = symbol_of(size) else { return false };
    let holds = |n: i64| with(dim, &symbol, &Dim::constant(n)).as_constant().is_some_and(|value| value >= 0);
    (1..=LONGEST).contains(&limit) && (0..limit).all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_table() {
        let n = Dim::symbol(Symbol::new("n"));
        let size = n.add(&Dim::constant(1));
        let cut = |longest: i64| Dim::constant(longest).min(&size);
        assert_eq!(full_up_to(&cut(7), &size), Some(7));
        assert_eq!(full_up_to(&size, &size), None);
        // Beyond the table it counts from the end: 1, 2, ... places.
        let seven = Dim::constant(7);
        let wrapped = seven.sub(
            &seven
                .sub(&size)
                .add(&seven.mul(&size.sub(&seven).max(&0.into()).min(&1.into())))
                .max(&0.into())
                .min(&seven),
        );
        assert_eq!(full_up_to(&wrapped, &size), Some(7));
        // Twice as large above is never a broadcast, but not smaller either.
        let grows = size.add(&size.sub(&seven).max(&0.into()));
        assert_eq!(full_up_to(&grows, &size), None);
        assert!(never_negative_up_to(&seven.sub(&size), &size, 7));
        assert!(!never_negative_up_to(&seven.sub(&size), &size, 8));
    }
}
