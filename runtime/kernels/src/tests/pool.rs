//! Pooling against the definition of its windows.

use lathe_artifact::builtin::args;
use lathe_ops::conv::Padding;
use lathe_ops::{Op, pool};
use proptest::prelude::*;

use super::few;
use crate::harness::{address, check, numbers, run};
use crate::oracle::{agrees, evaluate, tensor};

/// The windows of one axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: i64,
    kernel: i64,
    stride: i64,
    dilation: i64,
    begin: i64,
    end: i64,
    out: i64,
    ceil: bool,
}

impl Axis {
    /// Positions of the cells of window `o`.
    fn cells(self, o: i64) -> impl Iterator<Item = i64> {
        (0..self.kernel).map(move |k| o * self.stride - self.begin + k * self.dilation)
    }

    fn inside(self, at: i64) -> bool {
        (0..self.input).contains(&at)
    }

    fn padded(self, at: i64) -> bool {
        (-self.begin..self.input + self.end).contains(&at)
    }
}

fn axes(largest: i64, ceil: bool) -> impl Strategy<Value = Axis> {
    (1..largest, 1_i64..5, 1_i64..4, 1_i64..3, 0_i64..4, 0_i64..4).prop_map(
        move |(input, kernel, stride, dilation, begin, end)| {
            let reach = (kernel - 1) * dilation + 1;
            // Padding is smaller than the window, as ONNX demands, and the input holds a window.
            let (begin, end) = (begin.min(reach - 1), end.min(reach - 1));
            let input = input.max(reach);
            let free = input + begin + end - reach;
            let mut out = if ceil { (free + stride - 1) / stride } else { free / stride } + 1;
            // A window that starts in the end padding is none.
            if (out - 1) * stride >= input + begin {
                out -= 1;
            }
            Axis { input, kernel, stride, dilation, begin, end, out, ceil }
        },
    )
}

fn reference(x: &[f32], rows: Axis, columns: Axis, kind: i64, (oy, ox): (i64, i64)) -> f64 {
    let mut cells = Vec::new();
    let mut counted = 0;
    for y in rows.cells(oy) {
        for at in columns.cells(ox) {
            counted += i64::from(rows.padded(y) && columns.padded(at));
            if rows.inside(y) && columns.inside(at) {
                cells.push(f64::from(x[(y * columns.input + at) as usize]));
            }
        }
    }
    match kind {
        0 => cells.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        1 => cells.iter().sum::<f64>() / cells.len() as f64,
        _ => cells.iter().sum::<f64>() / counted as f64,
    }
}

/// The op of a kind of pooling; the last window may reach over the end where rounding up makes it.
fn op(kind: i64, rows: Axis, columns: Axis) -> Op {
    let both = |part: fn(Axis) -> i64| vec![part(rows) as usize, part(columns) as usize];
    let kernel = both(|axis| axis.kernel);
    let (strides, dilations) = (both(|axis| axis.stride), both(|axis| axis.dilation));
    let (begins, ends) = (vec![rows.begin, columns.begin], vec![rows.end, columns.end]);
    let padding = Padding::Explicit { begins, ends };
    let ceil_mode = rows.ceil;
    match kind {
        0 => {
            Op::MaxPool(pool::MaxPool { kernel, strides, dilations, padding, ceil_mode, column_major: false })
        }
        _ => Op::AveragePool(pool::AveragePool {
            kernel,
            strides,
            dilations,
            padding,
            ceil_mode,
            count_include_pad: kind == 2,
        }),
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn windows_with_strides_padding_and_dilation(planes in 0_usize..4, (rows, columns) in any::<bool>().prop_flat_map(|ceil| (axes(12, ceil), axes(60, ceil))), kind in 0_i64..3, seed: u64) {
        let image = (rows.input * columns.input) as usize;
        let x = numbers(seed, planes * image);
        let mut want = Vec::new();
        for plane in 0..planes {
            for oy in 0..rows.out {
                want.extend((0..columns.out).map(|ox| reference(&x[plane * image..], rows, columns, kind, (oy, ox))));
            }
        }
        agrees(&want, op(kind, rows, columns), &[Some(&tensor(&x, &[1, planes, rows.input as usize, columns.input as usize]))], 1e-6);
        check(&want, 1e-6, |y| args::Pool {
            x: address(&x),
            y,
            planes: planes as i64,
            height: rows.input,
            width: columns.input,
            out_height: rows.out,
            out_width: columns.out,
            kernel_h: rows.kernel,
            kernel_w: columns.kernel,
            stride_h: rows.stride,
            stride_w: columns.stride,
            dilation_h: rows.dilation,
            dilation_w: columns.dilation,
            pad_top: rows.begin,
            pad_left: columns.begin,
            pad_bottom: rows.end,
            pad_right: columns.end,
            kind,
        });
    }

    #[test]
    fn bytes_are_pooled_as_they_are(planes in 0_usize..4, (rows, columns) in any::<bool>().prop_flat_map(|ceil| (axes(12, ceil), axes(90, ceil))), signed: bool, seed: u64) {
        let shape = [1, planes, rows.input as usize, columns.input as usize];
        let x: Vec<u8> =
            numbers(seed, shape.iter().product()).into_iter().map(|v| (v * 1e4) as i32 as u8).collect();
        let image = match signed {
            true => tensor(&x.iter().map(|&byte| byte as i8).collect::<Vec<_>>(), &shape),
            false => tensor(&x, &shape),
        };
        let want = evaluate(op(0, rows, columns), &[Some(&image)], 1).remove(0);
        let args = |y: &[*mut u8]| args::PoolBytes {
            x: address(&x),
            y: y[0],
            planes: planes as i64,
            height: rows.input,
            width: columns.input,
            out_height: rows.out,
            out_width: columns.out,
            kernel_h: rows.kernel,
            kernel_w: columns.kernel,
            stride_h: rows.stride,
            stride_w: columns.stride,
            dilation_h: rows.dilation,
            dilation_w: columns.dilation,
            pad_top: rows.begin,
            pad_left: columns.begin,
            signed: signed.into(),
        };
        for (isa, outputs) in run(&[want.bytes().len()], 1, args) {
            prop_assert!(outputs[0] == want.bytes(), "{}", isa.name());
        }
    }
}

#[test]
fn nan_is_the_largest_and_wide_lines_have_memory_of_their_own() {
    let width = 700_001;
    let mut x = numbers(5, width);
    x[width - 3] = f32::NAN;
    let want: Vec<f64> = x
        .windows(2)
        .map(|w| if w[0].is_nan() || w[1].is_nan() { f64::NAN } else { w[0].max(w[1]).into() })
        .collect();
    let args = |y| args::Pool {
        x: address(&x),
        y,
        planes: 1,
        height: 1,
        width: width as i64,
        out_height: 1,
        out_width: width as i64 - 1,
        kernel_h: 1,
        kernel_w: 2,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 0,
        pad_left: 0,
        pad_bottom: 0,
        pad_right: 0,
        kind: 0,
    };
    check(&want, 0.0, args);
}
