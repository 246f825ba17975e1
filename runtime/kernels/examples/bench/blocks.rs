//! Products of 8-bit activations with quantised blocks: one row over a matrix that no cache holds, and many rows over one.

use std::ptr::null;

use lathe_artifact::builtin::args;
use lathe_artifact::layout::{BlockKind, PackedBlocks};
use lathe_kernels::isa::Isa;
use lathe_tensor::BlockFormat;

use super::{best, numbers};

/// Seconds of a product of `m` rows.
fn product(isa: Isa, format: BlockFormat, [m, k, n]: [usize; 3]) -> f64 {
    let layout = PackedBlocks { k, n, kind: BlockKind::of(format) };
    let source = vec![1u8; format.storage_bytes(&[n, k]).expect("whole blocks")];
    let mut b = vec![0u8; layout.packed_bytes().expect("whole blocks")];
    layout.pack(format, &source, &mut b).expect("sizes that fit");
    let (a, mut c) = (numbers(m * k), vec![0.0f32; m * n]);
    let args = args::MatMulEncoded {
        a: a.as_ptr().cast(),
        b: b.as_ptr(),
        bias: null(),
        residual: null(),
        c: c.as_mut_ptr().cast(),
        m: m as i64,
        n: n as i64,
        k: k as i64,
        a_stride: k as i64,
        residual_stride: 0,
        c_stride: n as i64,
        activation: 0,
        alpha: 0.0,
        beta: 0.0,
        form: layout.kind.code(),
        int8: 1,
    };
    // SAFETY: the buffers have the sizes given.
    unsafe { best(isa, &args) }
}

/// Prints GB/s of the packed matrix with one row, and Gop/s (two a multiply-add) with few and many rows.
pub fn run(isa: Isa) {
    for &format in BlockFormat::ALL {
        let (k, n) = (1024, 48 << 10);
        let bytes = PackedBlocks { k, n, kind: BlockKind::of(format) }.packed_bytes().expect("whole blocks");
        let row = bytes as f64 / product(isa, format, [1, k, n]) / 1e9;
        let speed = |m: usize| {
            let (k, n) = (1024, 1024);
            (2 * m * k * n) as f64 / product(isa, format, [m, k, n]) / 1e9
        };
        let name = format.name();
        println!("{name}: {row:5.1} GB/s, 4 rows {:6.1}, 96 rows {:6.1} Gop/s", speed(4), speed(96));
    }
}
