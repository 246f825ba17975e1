//! Concrete shapes: sizes, strides and broadcasting.

use crate::TensorError;

/// The sizes of a tensor's axes, outermost first.
pub type Shape = Vec<usize>;

/// The number of elements of a shape; `None` where the product of the sizes that are not zero exceeds `isize::MAX`.
///
/// Where this is `Some`, no product of some of the sizes overflows, even when another size is zero.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim.max(1)))?;
    let fits = isize::try_from(product).is_ok();
    fits.then_some(if shape.contains(&0) { 0 } else { product })
}

/// Strides, in elements, of a row-major tensor of this shape.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// The shape that `a` and `b` broadcast to (ONNX multidirectional broadcasting, as in NumPy).
pub fn broadcast_shapes(a: &[usize], b: &[usize]) -> Result<Shape, TensorError> {
    let rank = a.len().max(b.len());
    let dim =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(TensorError::NotBroadcastable(a.to_vec(), b.to_vec())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        type Case = (&'static [usize], &'static [usize], Option<&'static [usize]>);
        let cases: &[Case] = &[
            (&[2, 1], &[3], Some(&[2, 3])),
            (&[], &[4], Some(&[4])),
            (&[0], &[1], Some(&[0])),
            (&[2], &[3], None),
            (&[0], &[2], None),
        ];
        for &(a, b, expected) in cases {
            assert_eq!(broadcast_shapes(a, b).ok().as_deref(), expected, "{a:?} {b:?}");
            assert_eq!(broadcast_shapes(b, a).ok().as_deref(), expected, "{b:?} {a:?}");
        }
    }

    #[test]
    fn counts_do_not_overflow() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[2, 0, 3]), Some(0));
        assert_eq!(element_count(&[usize::MAX]), None);
        assert_eq!(element_count(&[1 << 40, 1 << 40]), None);
        assert_eq!(element_count(&[0, 1 << 40, 1 << 40]), None);
    }

    proptest! {
        #[test]
        fn strides_number_the_elements(shape in prop::collection::vec(1usize..5, 0..4)) {
            let strides = row_major_strides(&shape);
            let last: usize = shape.iter().zip(&strides).map(|(dim, stride)| (dim - 1) * stride).sum();
            prop_assert_eq!(Some(last + 1), element_count(&shape));
        }
    }
}
