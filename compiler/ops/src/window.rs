//! Windows that slide over a spatial axis, for convolution and pooling.

use std::ops::Range;

use crate::EvalError;
use crate::conv::Padding;
use crate::evaluate::Context;

/// A window on one axis: output `o` and kernel cell `k` meet input `o * stride - begin + k * dilation`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Size of the input axis.
    pub input: usize,
    /// Size of the output axis.
    pub output: usize,
    /// Cells of the kernel.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Distance of the kernel's cells.
    pub dilation: usize,
    /// Padding before the input.
    pub begin: i128,
    /// Padding after the input.
    pub end: i128,
}

/// The attributes of a window op, one number a spatial axis in each.
pub(crate) struct Windows<'a> {
    /// Sizes of the kernel.
    pub kernel: &'a [usize],
    /// Steps.
    pub strides: &'a [usize],
    /// Distances of the kernel's cells.
    pub dilations: &'a [usize],
    /// Borders.
    pub padding: &'a Padding,
}

/// Numbers that are larger make no sense, and smaller ones do not overflow below.
const LIMIT: usize = u32::MAX as usize;

impl Windows<'_> {
    /// That all lists have `rank` numbers in their range.
    pub fn check(&self, cx: &Context<'_>, rank: usize) -> Result<(), EvalError> {
        for (name, list) in
            [("kernel", self.kernel), ("strides", self.strides), ("dilations", self.dilations)]
        {
            if list.len() != rank {
                return Err(cx.shape(format!("{name} has {} numbers for {rank} spatial axes", list.len())));
            }
            if let Some(number) = list.iter().find(|&&number| number == 0 || number > LIMIT) {
                return Err(cx.bad(format!("{number} is not allowed in {name}")));
            }
        }
        if let Padding::Explicit { begins, ends } = self.padding {
            if begins.len() != rank || ends.len() != rank {
                return Err(cx.shape(format!("padding has not two numbers for each of {rank} spatial axes")));
            }
            if begins.iter().chain(ends).any(|pad| pad.unsigned_abs() > LIMIT as u64) {
                return Err(cx.bad("a padding is out of range"));
            }
        }
        Ok(())
    }

    /// The windows over the spatial sizes `input`; `ceil` rounds output sizes up.
    pub fn slide(&self, cx: &Context<'_>, input: &[usize], ceil: bool) -> Result<Vec<Window>, EvalError> {
        self.check(cx, input.len())?;
        let axes = input.iter().enumerate();
        axes.map(|(axis, &size)| {
            self.slide_axis(axis, size, ceil).ok_or_else(|| {
                cx.shape(format!("the kernel is larger than the padded input on spatial axis {axis}"))
            })
        })
        .collect()
    }

    fn slide_axis(&self, axis: usize, input: usize, ceil: bool) -> Option<Window> {
        let (kernel, stride, dilation) = (self.kernel[axis], self.strides[axis], self.dilations[axis]);
        let extent = (kernel as i128 - 1) * dilation as i128 + 1;
        let (size, step) = (input as i128, stride as i128);
        let (begin, end, output) = match self.padding {
            Padding::Explicit { begins, ends } => {
                let (begin, end) = (i128::from(begins[axis]), i128::from(ends[axis]));
                let room = size + begin + end - extent;
                if room < 0 && !(ceil && room + step > 0) {
                    return None;
                }
                let mut output = if ceil { (room + step - 1).div_euclid(step) } else { room / step } + 1;
                // The last window starts in the input or the padding before it.
                if ceil && (output - 1) * step >= size + begin {
                    output -= 1;
                }
                (begin, end, output)
            }
            same => {
                let output = (size + step - 1) / step;
                let total = ((output - 1) * step + extent - size).max(0);
                let smaller = total / 2;
                match same {
                    Padding::SameUpper => (smaller, total - smaller, output),
                    _ => (total - smaller, smaller, output),
                }
            }
        };
        let output = usize::try_from(output).ok()?;
        Some(Window { input, output, kernel, stride, dilation, begin, end })
    }
}

impl Window {
    /// The input position of kernel cell `k` at output `o`; outside the input where in the padding.
    pub fn position(&self, o: usize, k: usize) -> i128 {
        o as i128 * self.stride as i128 - self.begin + k as i128 * self.dilation as i128
    }

    /// The kernel cells whose position at output `o` lies in `low..high`.
    pub fn kernel_range(&self, o: usize, low: i128, high: i128) -> Range<usize> {
        steps(self.position(o, 0), self.dilation, self.kernel, low, high)
    }

    /// The outputs at which kernel cell `k` lies in the input.
    pub fn output_range(&self, k: usize) -> Range<usize> {
        steps(self.position(0, k), self.stride, self.output, 0, self.input as i128)
    }
}

/// The `i` below `count` with `low <= start + i * step < high`.
fn steps(start: i128, step: usize, count: usize, low: i128, high: i128) -> Range<usize> {
    let at_least = |bound: i128| {
        let missing = bound - start + step as i128 - 1;
        missing.div_euclid(step as i128).clamp(0, count as i128) as usize
    };
    let first = at_least(low);
    first..at_least(high).max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_a_search() {
        for begin in [-3i128, 0, 2, 9] {
            for (stride, dilation) in [(1, 1), (2, 3), (5, 2)] {
                let window = Window { input: 7, output: 6, kernel: 4, stride, dilation, begin, end: 0 };
                let inside = |o, k| (0..7).contains(&window.position(o, k));
                for o in 0..6 {
                    let expected: Vec<_> = (0..4).filter(|&k| inside(o, k)).collect();
                    assert_eq!(window.kernel_range(o, 0, 7).collect::<Vec<_>>(), expected);
                }
                for k in 0..4 {
                    let expected: Vec<_> = (0..6).filter(|&o| inside(o, k)).collect();
                    assert_eq!(window.output_range(k).collect::<Vec<_>>(), expected);
                }
            }
        }
    }
}
