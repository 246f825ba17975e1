//! A plain interpreter of region bodies: one element at a time, in Rust's own arithmetic.
// One macro serves signed and unsigned integers.
#![allow(clippy::unnecessary_min_or_max)]

use lathe_artifact::builtin::TileFunction;
use lathe_artifact::region::{BinaryOp, RegionOp, RegionOpKind, UnaryOp};
use lathe_tensor::DType;

/// A value of any dtype that regions compute in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F32(f32),
    F64(f64),
}

/// Runs `$body` with `$a` bound to the Rust value, for integers, floats and bools apart.
macro_rules! by_kind {
    ($value:expr, int $a:ident $wrap:ident => $int:expr, float $b:ident $wrap_float:ident => $float:expr, bool $c:ident => $bool:expr) => {
        match $value {
            Scalar::Bool($c) => $bool,
            Scalar::I8($a) => {
                #[allow(unused)]
                let $wrap = Scalar::I8;
                $int
            }
            Scalar::U8($a) => {
                #[allow(unused)]
                let $wrap = Scalar::U8;
                $int
            }
            Scalar::I16($a) => {
                #[allow(unused)]
                let $wrap = Scalar::I16;
                $int
            }
            Scalar::U16($a) => {
                #[allow(unused)]
                let $wrap = Scalar::U16;
                $int
            }
            Scalar::I32($a) => {
                #[allow(unused)]
                let $wrap = Scalar::I32;
                $int
            }
            Scalar::U32($a) => {
                #[allow(unused)]
                let $wrap = Scalar::U32;
                $int
            }
            Scalar::I64($a) => {
                #[allow(unused)]
                let $wrap = Scalar::I64;
                $int
            }
            Scalar::U64($a) => {
                #[allow(unused)]
                let $wrap = Scalar::U64;
                $int
            }
            Scalar::F32($b) => {
                #[allow(unused)]
                let $wrap_float = Scalar::F32;
                $float
            }
            Scalar::F64($b) => {
                #[allow(unused)]
                let $wrap_float = Scalar::F64;
                $float
            }
        }
    };
}

impl Scalar {
    /// The element of `dtype` at the start of `bytes`.
    pub fn read(dtype: DType, bytes: &[u8]) -> Self {
        macro_rules! le {
            ($ty:ty) => {
                <$ty>::from_le_bytes(bytes[..size_of::<$ty>()].try_into().unwrap())
            };
        }
        match dtype {
            DType::Bool => Scalar::Bool(bytes[0] != 0),
            DType::I8 => Scalar::I8(le!(i8)),
            DType::U8 => Scalar::U8(le!(u8)),
            DType::I16 => Scalar::I16(le!(i16)),
            DType::U16 => Scalar::U16(le!(u16)),
            DType::I32 => Scalar::I32(le!(i32)),
            DType::U32 => Scalar::U32(le!(u32)),
            DType::I64 => Scalar::I64(le!(i64)),
            DType::U64 => Scalar::U64(le!(u64)),
            DType::F32 => Scalar::F32(le!(f32)),
            DType::F64 => Scalar::F64(le!(f64)),
            other => panic!("regions do not hold {other}"),
        }
    }

    /// Whether two values are the same: NaNs are equal, and so are zeros.
    pub fn same(self, other: Self) -> bool {
        match (self, other) {
            (Scalar::F32(a), Scalar::F32(b)) => a == b || a.is_nan() && b.is_nan(),
            (Scalar::F64(a), Scalar::F64(b)) => a == b || a.is_nan() && b.is_nan(),
            (a, b) => a == b,
        }
    }

    fn truth(self) -> bool {
        matches!(self, Scalar::Bool(true))
    }

    fn cast(self, to: DType) -> Self {
        macro_rules! all {
            ($a:expr) => {
                match to {
                    DType::I8 => Scalar::I8($a as i8),
                    DType::U8 => Scalar::U8($a as u8),
                    DType::I16 => Scalar::I16($a as i16),
                    DType::U16 => Scalar::U16($a as u16),
                    DType::I32 => Scalar::I32($a as i32),
                    DType::U32 => Scalar::U32($a as u32),
                    DType::I64 => Scalar::I64($a as i64),
                    DType::U64 => Scalar::U64($a as u64),
                    DType::F32 => Scalar::F32($a as f32),
                    DType::F64 => Scalar::F64($a as f64),
                    other => panic!("no cast to {other}"),
                }
            };
        }
        match to {
            DType::Bool => {
                by_kind!(self, int a _w => Scalar::Bool(a != 0), float a _w => Scalar::Bool(a != 0.0), bool a => Scalar::Bool(a))
            }
            _ => by_kind!(self, int a _w => all!(a), float a _w => all!(a), bool a => {
                let a = u8::from(a);
                all!(a)
            }),
        }
    }
}

fn unary(op: UnaryOp, a: Scalar) -> Scalar {
    match op {
        UnaryOp::Neg => {
            by_kind!(a, int a wrap => wrap(a.wrapping_neg()), float a wrap => wrap(-a), bool _a => unreachable!())
        }
        UnaryOp::Abs => match a {
            Scalar::I8(a) => Scalar::I8(a.wrapping_abs()),
            Scalar::I16(a) => Scalar::I16(a.wrapping_abs()),
            Scalar::I32(a) => Scalar::I32(a.wrapping_abs()),
            Scalar::I64(a) => Scalar::I64(a.wrapping_abs()),
            Scalar::F32(a) => Scalar::F32(a.abs()),
            Scalar::F64(a) => Scalar::F64(a.abs()),
            unsigned => unsigned,
        },
        UnaryOp::Sqrt => {
            by_kind!(a, int _a _w => unreachable!(), float a wrap => wrap(a.sqrt()), bool _a => unreachable!())
        }
        UnaryOp::Reciprocal => {
            by_kind!(a, int _a _w => unreachable!(), float a wrap => wrap(1.0 / a), bool _a => unreachable!())
        }
        UnaryOp::Floor => {
            by_kind!(a, int _a _w => unreachable!(), float a wrap => wrap(a.floor()), bool _a => unreachable!())
        }
        UnaryOp::Ceil => {
            by_kind!(a, int _a _w => unreachable!(), float a wrap => wrap(a.ceil()), bool _a => unreachable!())
        }
        UnaryOp::Round => {
            by_kind!(a, int _a _w => unreachable!(), float a wrap => wrap(a.round_ties_even()), bool _a => unreachable!())
        }
        UnaryOp::Sign => match a {
            Scalar::F32(a) => Scalar::F32(if a == 0.0 {
                0.0
            } else if a.is_nan() {
                a
            } else {
                a.signum()
            }),
            Scalar::F64(a) => Scalar::F64(if a == 0.0 {
                0.0
            } else if a.is_nan() {
                a
            } else {
                a.signum()
            }),
            Scalar::I8(a) => Scalar::I8(a.signum()),
            Scalar::I16(a) => Scalar::I16(a.signum()),
            Scalar::I32(a) => Scalar::I32(a.signum()),
            Scalar::I64(a) => Scalar::I64(a.signum()),
            Scalar::U8(a) => Scalar::U8(a.min(1)),
            Scalar::U16(a) => Scalar::U16(a.min(1)),
            Scalar::U32(a) => Scalar::U32(a.min(1)),
            Scalar::U64(a) => Scalar::U64(a.min(1)),
            Scalar::Bool(_) => unreachable!(),
        },
        UnaryOp::Not => Scalar::Bool(!a.truth()),
        UnaryOp::Relu => {
            by_kind!(a, int a wrap => wrap(a.max(0)), float a wrap => wrap(if a < 0.0 { 0.0 } else { a }), bool _a => unreachable!())
        }
        UnaryOp::IsNan => Scalar::Bool(match a {
            Scalar::F32(a) => a.is_nan(),
            Scalar::F64(a) => a.is_nan(),
            _ => unreachable!(),
        }),
    }
}

/// `None` for a division by zero.
fn binary(op: BinaryOp, a: Scalar, b: Scalar) -> Option<Scalar> {
    macro_rules! int {
        ($wrap:path, $a:expr, $b:expr) => {{
            let (a, b) = ($a, $b);
            match op {
                BinaryOp::Add => $wrap(a.wrapping_add(b)),
                BinaryOp::Sub => $wrap(a.wrapping_sub(b)),
                BinaryOp::Mul => $wrap(a.wrapping_mul(b)),
                BinaryOp::Div if b == 0 => return None,
                BinaryOp::Div => $wrap(a.wrapping_div(b)),
                BinaryOp::Min => $wrap(a.min(b)),
                BinaryOp::Max => $wrap(a.max(b)),
                BinaryOp::Equal => Scalar::Bool(a == b),
                BinaryOp::Less => Scalar::Bool(a < b),
                BinaryOp::LessOrEqual => Scalar::Bool(a <= b),
                _ => unreachable!(),
            }
        }};
    }
    macro_rules! float {
        ($wrap:path, $a:expr, $b:expr) => {{
            let (a, b) = ($a, $b);
            match op {
                BinaryOp::Add => $wrap(a + b),
                BinaryOp::Sub => $wrap(a - b),
                BinaryOp::Mul => $wrap(a * b),
                BinaryOp::Div => $wrap(a / b),
                BinaryOp::Min | BinaryOp::Max if a.is_nan() || b.is_nan() => $wrap(a + b),
                BinaryOp::Min => $wrap(if b < a { b } else { a }),
                BinaryOp::Max => $wrap(if a < b { b } else { a }),
                BinaryOp::Equal => Scalar::Bool(a == b),
                BinaryOp::Less => Scalar::Bool(a < b),
                BinaryOp::LessOrEqual => Scalar::Bool(a <= b),
                _ => unreachable!(),
            }
        }};
    }
    Some(match (a, b) {
        (Scalar::Bool(a), Scalar::Bool(b)) => Scalar::Bool(match op {
            BinaryOp::And => a & b,
            BinaryOp::Or => a | b,
            BinaryOp::Xor => a ^ b,
            BinaryOp::Equal => a == b,
            BinaryOp::Less => !a & b,
            BinaryOp::LessOrEqual => a <= b,
            _ => unreachable!(),
        }),
        (Scalar::I8(a), Scalar::I8(b)) => int!(Scalar::I8, a, b),
        (Scalar::U8(a), Scalar::U8(b)) => int!(Scalar::U8, a, b),
        (Scalar::I16(a), Scalar::I16(b)) => int!(Scalar::I16, a, b),
        (Scalar::U16(a), Scalar::U16(b)) => int!(Scalar::U16, a, b),
        (Scalar::I32(a), Scalar::I32(b)) => int!(Scalar::I32, a, b),
        (Scalar::U32(a), Scalar::U32(b)) => int!(Scalar::U32, a, b),
        (Scalar::I64(a), Scalar::I64(b)) => int!(Scalar::I64, a, b),
        (Scalar::U64(a), Scalar::U64(b)) => int!(Scalar::U64, a, b),
        (Scalar::F32(a), Scalar::F32(b)) => float!(Scalar::F32, a, b),
        (Scalar::F64(a), Scalar::F64(b)) => float!(Scalar::F64, a, b),
        _ => unreachable!(),
    })
}

/// Where a body runs.
pub struct Domain<'a> {
    /// All indices, in any order.
    pub indices: &'a [Vec<i64>],
    /// The dims table.
    pub dims: &'a [i64],
    /// The element of an input at an index.
    pub load: &'a dyn Fn(u32, &[i64]) -> Scalar,
    /// A tile function on many elements.
    pub tile: &'a dyn Fn(TileFunction, &[f32]) -> Vec<f32>,
}

/// The values of each instruction at all indices; `None` for what a division by zero leaves undefined.
pub fn run(body: &[RegionOp], domain: &Domain<'_>) -> Vec<Vec<Option<Scalar>>> {
    let mut values: Vec<Vec<Option<Scalar>>> = Vec::with_capacity(body.len());
    for op in body {
        if let RegionOpKind::Tile(function, a) = op.kind {
            let known = |value: &Option<Scalar>| match value {
                Some(Scalar::F32(value)) => *value,
                _ => 0.0,
            };
            let a = &values[a as usize];
            let results = (domain.tile)(function, &a.iter().map(known).collect::<Vec<f32>>());
            let keep = |(result, a): (f32, &Option<Scalar>)| a.map(|_| Scalar::F32(result));
            values.push(results.into_iter().zip(a).map(keep).collect());
            continue;
        }
        let at = |(place, index): (usize, &Vec<i64>)| {
            element(op, index, domain, &|value| values[value as usize][place])
        };
        let column = domain.indices.iter().enumerate().map(at).collect();
        values.push(column);
    }
    values
}

fn element(
    op: &RegionOp,
    index: &[i64],
    domain: &Domain<'_>,
    get: &dyn Fn(u32) -> Option<Scalar>,
) -> Option<Scalar> {
    Some(match op.kind {
        RegionOpKind::Load(input) => (domain.load)(input, index),
        RegionOpKind::Const(bits) => Scalar::read(op.dtype, &bits.to_le_bytes()),
        RegionOpKind::Index(axis) => Scalar::I64(index[axis as usize]),
        RegionOpKind::Dim(of) => Scalar::I64(domain.dims[of.0 as usize]),
        RegionOpKind::Unary(kind, a) => unary(kind, get(a)?),
        RegionOpKind::Tile(..) => unreachable!(),
        RegionOpKind::Binary(kind, a, b) => binary(kind, get(a)?, get(b)?)?,
        RegionOpKind::Select(condition, a, b) => {
            let (condition, a, b) = (get(condition)?, get(a)?, get(b)?);
            if condition.truth() { a } else { b }
        }
        RegionOpKind::Cast(a) => get(a)?.cast(op.dtype),
    })
}
