//! Which elements of a result the masks among the inputs leave undefined.
//!
//! A query that sees no key has the mean of all values in a graph that adds large negative numbers, and zeros in the attention op: both are
//! padding that nobody reads. Positions that a mask calls padding are therefore not compared; nor are rows that are padding as a whole; nor
//! what is made of a row as a whole (a pooled output), where the row begins with padding and may have been read there.

use lathe_tensor::Tensor;

use super::difference::as_f64;

/// The masks `[batch, positions]` among the inputs of one round.
#[derive(Clone, Debug, Default)]
pub struct Padding {
    masks: Vec<Vec<Vec<bool>>>,
}

impl Padding {
    /// Adds a mask; what has other than two axes is none.
    pub(crate) fn add(&mut self, mask: &Tensor) {
        let [batch, positions] = *mask.shape() else { return };
        let Some(elements) = as_f64(mask) else { return };
        if batch > 0 && positions > 0 {
            let rows =
                elements.chunks(positions).map(|row| row.iter().map(|element| *element != 0.0).collect());
            self.masks.push(rows.collect());
        }
    }

    /// Whether element `element` of a result of this shape is undefined.
    pub(crate) fn covers(&self, shape: &[usize], element: usize) -> bool {
        self.masks.iter().any(|rows| covers(rows, shape, element))
    }
}

fn covers(rows: &[Vec<bool>], shape: &[usize], element: usize) -> bool {
    let Some(length) = rows.first().map(Vec::len) else { return false };
    let mut index = vec![0; shape.len()];
    let mut rest = element;
    for (place, size) in index.iter_mut().zip(shape).rev() {
        *place = rest % size.max(&1);
        rest /= size.max(&1);
    }
    // New positions are the last of all.
    let position = |axis: usize, size: usize| match (axis, size) {
        (0, _) => None,
        (_, size) if size == length => Some(index[axis]),
        (1, size) if size < length => Some(length - size + index[axis]),
        _ => None,
    };
    let positions: Vec<usize> =
        shape.iter().enumerate().filter_map(|(axis, size)| position(axis, *size)).collect();
    let batches = shape.iter().enumerate().filter(|(_, size)| **size == rows.len());
    batches.map(|(axis, _)| &rows[index[axis]]).any(|row| {
        let seen = |place: &usize| row.get(*place).copied().unwrap_or(true);
        // Two axes tell a pooled row from a number each position only by their sizes, which may be equal.
        let pooled = (positions.is_empty() || shape.len() == 2) && row.first() == Some(&false);
        !row.contains(&true) || pooled || positions.iter().any(|place| !seen(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padding() -> Padding {
        let mut padding = Padding::default();
        let rows = [[0i64, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]].concat();
        padding.add(&Tensor::from_slice(&rows, &[4, 3]).expect("a small tensor"));
        padding
    }

    #[test]
    fn positions_of_padding_are_undefined() {
        let padding = padding();
        let covered: Vec<usize> = (0..12).filter(|element| padding.covers(&[4, 3, 1], *element)).collect();
        assert_eq!(covered, [0, 5, 6, 7, 8]);
    }

    #[test]
    fn pooled_rows_count_unless_they_begin_with_padding() {
        let padding = padding();
        let covered: Vec<usize> = (0..8).filter(|element| padding.covers(&[4, 2, 7], element * 7)).collect();
        assert_eq!(covered.iter().map(|row| row / 2).collect::<Vec<_>>(), [1, 2, 2]);
        let covered: Vec<usize> = (0..4).filter(|row| padding.covers(&[4, 50], row * 50)).collect();
        assert_eq!(covered, [0, 2]);
    }

    #[test]
    fn without_a_mask_everything_counts() {
        assert!(!Padding::default().covers(&[4, 3], 0));
    }
}
