//! Entries of the dims table that are known at compile time.

use lathe_artifact::plan::{DimExpr, DimId, Plan};

/// The value of each entry of the dims table where it follows from constants alone.
pub(crate) struct Constants(Vec<Option<i64>>);

impl Constants {
    /// Folds the dims of a checked plan. What overflows is left to the shape function, which reports it.
    pub fn of(plan: &Plan) -> Self {
        let mut values: Vec<Option<i64>> = Vec::with_capacity(plan.dims.len());
        for expr in &plan.dims {
            let get = |dim: DimId| values.get(dim.0 as usize).copied().flatten();
            let value = match *expr {
                DimExpr::Const(value) => Some(value),
                DimExpr::Symbol(_) => None,
                DimExpr::Copy(a) => get(a),
                DimExpr::Add(a, b) => both(get(a), get(b)).and_then(|(a, b)| a.checked_add(b)),
                DimExpr::Mul(a, b) => both(get(a), get(b)).and_then(|(a, b)| a.checked_mul(b)),
                DimExpr::FloorDiv(a, b) => both(get(a), get(b)).and_then(|(a, b)| floor_div(a, b)),
                DimExpr::Mod(a, b) => both(get(a), get(b))
                    .and_then(|(a, b)| floor_div(a, b).map(|q| (a, b, q)))
                    .map(|(a, b, q)| if b == 0 { 0 } else { a.wrapping_sub(b.wrapping_mul(q)) }),
                DimExpr::Min(a, b) => both(get(a), get(b)).map(|(a, b)| a.min(b)),
                DimExpr::Max(a, b) => both(get(a), get(b)).map(|(a, b)| a.max(b)),
                DimExpr::Broadcast(a, b) => match get(a) {
                    Some(1) => get(b),
                    known => known,
                },
                DimExpr::BroadcastStride { size, stride } => match (get(size), get(stride)) {
                    (Some(1), _) | (_, Some(0)) => Some(0),
                    (Some(_), stride) => stride,
                    (None, _) => None,
                },
            };
            values.push(value);
        }
        Self(values)
    }

    /// The value of an entry, where it is known.
    pub fn get(&self, dim: DimId) -> Option<i64> {
        self.0.get(dim.0 as usize).copied().flatten()
    }
}

fn both(a: Option<i64>, b: Option<i64>) -> Option<(i64, i64)> {
    a.zip(b)
}

/// `floor(a / b)`, 0 where `b` is 0; `None` on overflow.
pub(crate) fn floor_div(a: i64, b: i64) -> Option<i64> {
    if b == 0 {
        return Some(0);
    }
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_down() {
        assert_eq!([7, -7, 7, -7, 6].map(|a| floor_div(a, 2)), [3, -4, 3, -4, 3].map(Some));
        assert_eq!([floor_div(7, -2), floor_div(-7, -2), floor_div(5, 0)], [Some(-4), Some(3), Some(0)]);
        assert_eq!(floor_div(i64::MIN, -1), None);
    }
}
