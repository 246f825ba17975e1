//! Constants, checked element by element.

use lathe_ir::Dim;
use lathe_tensor::{DType, Tensor};

use super::{Cell, Formula, Space};

/// Elements of a constant that are looked at.
const LARGEST: usize = 1 << 24;

/// The element that `bits` encode.
pub(super) fn scalar(dtype: DType, bits: u64) -> Option<Cell> {
    Some(match dtype {
        DType::F32 => Cell::Real(f32::from_bits(bits as u32).into()),
        DType::F64 => Cell::Real(f64::from_bits(bits)),
        DType::I64 => Cell::Int(Dim::constant(bits as i64)),
        DType::I32 => Cell::Int(Dim::constant(i64::from(bits as u32 as i32))),
        DType::Bool => Cell::Bool(Formula::Known(bits & 1 != 0)),
        _ => return None,
    })
}

/// The element of a constant: the same everywhere, counting up along one axis, or of two values of which one fills a band around a
/// diagonal of two axes. `None` for all else.
pub(super) fn cell(space: &Space, tensor: &Tensor, index: &[Dim]) -> Option<Cell> {
    if tensor.is_empty() || tensor.len() > LARGEST || tensor.rank() != index.len() {
        return None;
    }
    let numbers = numbers(tensor)?;
    let (cells, axes) = selected(tensor.shape(), index)?;
    let at = |place: usize| numbers[cells.start + place];
    let make = |number: f64| number_cell(tensor.dtype(), number);
    match axes[..] {
        [] => make(at(0)),
        _ if cells.places().all(|place| at(place) == at(0)) => make(at(0)),
        [axis] => match tensor.dtype() {
            DType::I64 | DType::I32 => {
                let step = counting(cells.sizes[0], cells.strides[0], &at)?;
                let step = step as i64;
                Some(Cell::Int(Dim::constant(at(0) as i64).add(&index[axis].scale(step))))
            }
            _ => None,
        },
        [row, column] => band(space, &cells, &at, [&index[row], &index[column]], &make),
        _ => None,
    }
}

fn number_cell(dtype: DType, number: f64) -> Option<Cell> {
    Some(match dtype {
        DType::Bool => Cell::Bool(Formula::Known(number != 0.0)),
        DType::I64 | DType::I32 => Cell::Int(Dim::constant(number as i64)),
        _ => Cell::Real(number),
    })
}

fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.to_slice::<f32>().ok()?.iter().map(|&x| f64::from(x)).collect(),
        DType::F64 => tensor.to_slice::<f64>().ok()?.to_vec(),
        DType::I32 => tensor.to_slice::<i32>().ok()?.iter().map(|&x| f64::from(x)).collect(),
        DType::I64 => {
            let whole = tensor.to_slice::<i64>().ok()?;
            // Larger ones have no f64.
            let exact = whole.iter().all(|x| x.unsigned_abs() < 1 << 52);
            exact.then(|| whole.iter().map(|&x| x as f64).collect())?
        }
        DType::Bool => tensor.to_slice::<u8>().ok()?.iter().map(|&x| f64::from(x != 0)).collect(),
        _ => return None,
    })
}

/// The elements that an index can reach: the axes along which it varies.
struct Cells {
    start: usize,
    sizes: Vec<usize>,
    strides: Vec<usize>,
}

impl Cells {
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let count = self.sizes.iter().product::<usize>();
        (0..count).map(|mut place| {
            let mut offset = 0;
            for (size, stride) in self.sizes.iter().zip(&self.strides).rev() {
                offset += place % size * stride;
                place /= size;
            }
            offset
        })
    }
}

fn selected(shape: &[usize], index: &[Dim]) -> Option<(Cells, Vec<usize>)> {
    let mut cells = Cells { start: 0, sizes: Vec::new(), strides: Vec::new() };
    let mut axes = Vec::new();
    let mut stride = shape.iter().product::<usize>();
    for (axis, (size, at)) in shape.iter().zip(index).enumerate() {
        stride /= size;
        match at.as_constant() {
            Some(at) => {
                let at = usize::try_from(at).ok().filter(|at| at < size)?;
                cells.start += at * stride;
            }
            // The same in every cell, but known only at run time: as good as one that varies.
            None if *size == 1 => {}
            None => {
                axes.push(axis);
                cells.sizes.push(*size);
                cells.strides.push(stride);
            }
        }
    }
    Some((cells, axes))
}

fn counting(size: usize, stride: usize, at: &dyn Fn(usize) -> f64) -> Option<f64> {
    let step = at(stride) - at(0);
    (1..size).all(|place| at(place * stride) - at((place - 1) * stride) == step).then_some(step)
}

/// Two values, one of which fills a band `low <= column - row <= high`.
fn band(
    space: &Space,
    cells: &Cells,
    at: &dyn Fn(usize) -> f64,
    [row, column]: [&Dim; 2],
    make: &dyn Fn(f64) -> Option<Cell>,
) -> Option<Cell> {
    let [rows, columns] = cells.sizes[..] else { return None };
    let grid = |i: usize, j: usize| at(i * cells.strides[0] + j * cells.strides[1]);
    let first = grid(0, 0);
    let other = cells.places().map(at).find(|number| *number != first)?;
    let cell = |inside: f64, outside: f64| {
        let places = || (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
        let ahead = |i: usize, j: usize| j as i64 - i as i64;
        let inner = || places().filter(|&(i, j)| grid(i, j) == inside).map(|(i, j)| ahead(i, j));
        let (low, high) = (inner().min()?, inner().max()?);
        let exact = places().all(|(i, j)| {
            let expected = if (low..=high).contains(&ahead(i, j)) { inside } else { outside };
            grid(i, j) == expected
        });
        if !exact {
            return None;
        }
        let difference = column.sub(row);
        let mut formula = Formula::Known(true);
        // A bound that no element of the table lies beyond is none.
        if low > 1 - rows as i64 {
            formula = formula.and(Formula::at_least(space, &difference.sub(&Dim::constant(low))));
        }
        if high < columns as i64 - 1 {
            formula = formula.and(Formula::at_least(space, &Dim::constant(high).sub(&difference)));
        }
        Some(Cell::select(formula, make(inside)?, make(outside)?))
    };
    cell(first, other).or_else(|| cell(other, first))
}
