//! Pictures against their ops.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{GridBorder, GridInterpolation, args};
use lathe_ops::image::{Border, GridSample, Interpolation, NonMaxSuppression, RoiAlign};
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_alone, check, integers, isas, numbers, run};
use crate::oracle::{evaluate, tensor};

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect()
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn points_of_pictures(
        space in prop::collection::vec(1_usize..6, 1..4), batch in 1_usize..3, channels in 1_usize..4, side in 1_usize..5,
        mode in 0_usize..3, edge in 0_usize..3, align_corners: bool, seed: u64,
    ) {
        let axes = space.len();
        let points = side.pow(axes as u32);
        let x = numbers(seed, batch * channels * space.iter().product::<usize>());
        let grid: Vec<f32> = numbers(seed ^ 1, batch * points * axes).iter().map(|v| v / 3.0).collect();
        let interpolation = [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic][mode];
        let op = GridSample { interpolation, border: [Border::Zeros, Border::Clamp, Border::Reflect][edge], align_corners };
        let given = tensor(&x, &[&[batch, channels], &space[..]].concat());
        let places = tensor(&grid, &[&[batch][..], &vec![side; axes], &[axes]].concat());
        let want = evaluate(lathe_ops::Op::GridSample(op), &[Some(&given), Some(&places)], 1);
        let size = |from_end: usize| axes.checked_sub(from_end).map_or(1, |at| space[at] as i64);
        check(&wide(&want[0]), 2e-4, |y| args::GridSample {
            x: address(&x),
            grid: address(&grid),
            y,
            batch: batch as i64,
            channels: channels as i64,
            depth: size(3),
            height: size(2),
            width: size(1),
            axes: axes as i64,
            points: points as i64,
            interpolation: GridInterpolation::ALL[mode].code(),
            border: GridBorder::ALL[edge].code(),
            align_corners: align_corners.into(),
        });
    }

    #[test]
    fn regions_of_pictures(
        sizes in (1_usize..3, 1_usize..3, 1_usize..9, 1_usize..9), regions in 0_usize..4, bins in (1_usize..4, 1_usize..4),
        sampling in 0_usize..3, max: bool, half_pixel: bool, wide_index: bool, seed: u64,
    ) {
        let ((batch, channels, height, width), (rows, columns)) = (sizes, bins);
        let x = numbers(seed, batch * channels * height * width);
        let corners = numbers(seed ^ 1, 4 * regions);
        // Corners in order, a little outside.
        let boxes: Vec<f32> = corners
            .chunks_exact(4)
            .flat_map(|c| [c[0].min(c[2]), c[1].min(c[3]), c[0].max(c[2]), c[1].max(c[3])])
            .map(|v| v + 3.0)
            .collect();
        let indices: Vec<i64> = (0..regions).map(|region| (region % batch) as i64).collect();
        let narrow: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
        let op = RoiAlign { size: [rows, columns], sampling, spatial_scale: 0.75, max, half_pixel };
        let operands = [tensor(&x, &[batch, channels, height, width]), tensor(&boxes, &[regions, 4]), tensor(&indices, &[regions])];
        let want = evaluate(lathe_ops::Op::RoiAlign(op), &operands.each_ref().map(Some), 1);
        check(&wide(&want[0]), 2e-5, |y| args::RoiAlign {
            x: address(&x),
            boxes: address(&boxes),
            indices: if wide_index { address(&indices) } else { address(&narrow) },
            y,
            batch: batch as i64,
            channels: channels as i64,
            height: height as i64,
            width: width as i64,
            regions: regions as i64,
            rows: rows as i64,
            columns: columns as i64,
            sampling: sampling as i64,
            spatial_scale: 0.75,
            max: max.into(),
            half_pixel: half_pixel.into(),
            index_bytes: if wide_index { 8 } else { 4 },
        });
    }

    #[test]
    fn boxes_that_overlap_no_better_one(
        batch in 1_usize..3, classes in 1_usize..3, count in 0_usize..12, limit in prop::option::of(-1_i64..6),
        iou in prop::option::of(0.0_f32..1.0), least in prop::option::of(-1.0_f32..1.0), centre: bool, seed: u64,
    ) {
        let boxes = numbers(seed, batch * count * 4);
        // Few levels, so that scores tie.
        let scores: Vec<f32> = numbers(seed ^ 1, batch * classes * count).iter().map(|v| v.round() / 4.0).collect();
        let (limits, ious, leasts) = (limit.map(|v| [v]), iou.map(|v| [v]), least.map(|v| [v]));
        let operands = [
            Some(tensor(&boxes, &[batch, count, 4])),
            Some(tensor(&scores, &[batch, classes, count])),
            limits.map(|v| tensor(&v, &[1])),
            ious.map(|v| tensor(&v, &[1])),
            leasts.map(|v| tensor(&v, &[1])),
        ];
        let op = NonMaxSuppression { center_point_box: centre };
        let want = evaluate(lathe_ops::Op::NonMaxSuppression(op), &operands.each_ref().map(Option::as_ref), 1);
        let want = want[0].to_slice::<i64>().expect("i64").to_vec();
        let most = batch * classes * count;
        let args = |to: &[*mut u8]| args::NonMaxSuppression {
            boxes: address(&boxes),
            scores: address(&scores),
            max_boxes: limits.as_ref().map_or(std::ptr::null(), |v| address(v)),
            iou_threshold: ious.as_ref().map_or(std::ptr::null(), |v| address(v)),
            score_threshold: leasts.as_ref().map_or(std::ptr::null(), |v| address(v)),
            selected: to[0],
            found: to[1],
            batch: batch as i64,
            classes: classes as i64,
            boxes_count: count as i64,
            center_point_box: centre.into(),
        };
        for (isa, outputs) in run(&[3 * most * 8, 8], 8, args) {
            let found = integers(&outputs[1])[0] as usize;
            assert_eq!(integers(&outputs[0])[..3 * found], want[..], "{}", isa.name());
        }
    }
}

#[test]
fn regions_name_a_picture() {
    let (x, boxes, mut y) = ([0.0_f32], [0.0_f32; 4], [0.0_f32]);
    for index in [-1_i64, 1] {
        let args = args::RoiAlign {
            x: address(&x),
            boxes: address(&boxes),
            indices: address(&[index]),
            y: y.as_mut_ptr().cast(),
            batch: 1,
            channels: 1,
            height: 1,
            width: 1,
            regions: 1,
            rows: 1,
            columns: 1,
            sampling: 1,
            spatial_scale: 1.0,
            max: 0,
            half_pixel: 0,
            index_bytes: 8,
        };
        for isa in isas() {
            // SAFETY: all operands have one region or pixel.
            assert_eq!(unsafe { call_alone(isa, &args) }, Status::IndexOutOfRange);
        }
    }
}
