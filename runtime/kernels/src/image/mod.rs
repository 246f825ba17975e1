//! Pictures: boxes that overlap no better one, samples at points, regions.

mod grid_sample;
mod roi_align;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, is_cancelled, size};
use crate::simd::Simd;

/// Comparisons of boxes between two looks at the cancel flag.
const BETWEEN_LOOKS: usize = 1 << 20;

/// Two corners, the lower one first.
#[derive(Clone, Copy)]
struct Corners {
    y: [f64; 2],
    x: [f64; 2],
}

impl Corners {
    /// Of a box: its centre and size, or any two opposite corners as `[y, x, y, x]`.
    fn of(numbers: [f64; 4], centre: bool) -> Self {
        let around = |centre: f64, size: f64| [centre - size / 2.0, centre + size / 2.0];
        let ordered = |a: f64, b: f64| if a <= b { [a, b] } else { [b, a] };
        match centre {
            true => Self { x: around(numbers[0], numbers[2]), y: around(numbers[1], numbers[3]) },
            false => Self { y: ordered(numbers[0], numbers[2]), x: ordered(numbers[1], numbers[3]) },
        }
    }

    fn area(&self) -> f64 {
        (self.y[1] - self.y[0]) * (self.x[1] - self.x[0])
    }

    /// Intersection over union; 0 where a box is empty.
    fn overlap(&self, other: &Self) -> f64 {
        let along = |a: [f64; 2], b: [f64; 2]| (a[1].min(b[1]) - a[0].max(b[0])).max(0.0);
        let common = along(self.y, other.y) * along(self.x, other.x);
        let (a, b) = (self.area(), other.area());
        if common > 0.0 && a > 0.0 && b > 0.0 { common / (a + b - common) } else { 0.0 }
    }
}

/// Where the selected boxes of one class are collected.
struct Selection {
    order: Vec<u32>,
    kept: Vec<Corners>,
}

/// Selects the boxes of one class, best first, and gives their indices to `take`.
///
/// # Safety
/// `boxes` and `scores` hold what the sizes say.
unsafe fn select(
    args: &args::NonMaxSuppression,
    worker: &Worker,
    class: usize,
    limit: usize,
    selection: &mut Selection,
    mut take: impl FnMut(usize),
) -> Status {
    let count = size(args.boxes_count);
    // SAFETY: the caller's promise; indices are below `count`.
    unsafe {
        let scores = args.scores.cast::<f32>().add(class * count);
        let boxes = args.boxes.cast::<f32>().add(class / size(args.classes).max(1) * count * 4);
        let least = match args.score_threshold.is_null() {
            true => f32::NEG_INFINITY,
            false => *args.score_threshold.cast::<f32>(),
        };
        let overlap = match args.iou_threshold.is_null() {
            true => 0.0,
            false => f64::from(*args.iou_threshold.cast::<f32>()),
        };
        let Selection { order, kept } = selection;
        order.clear();
        kept.clear();
        if order.try_reserve(count).is_err() || kept.try_reserve(limit.min(count)).is_err() {
            return Status::OutOfMemory;
        }
        let passes = |index: &usize| least == f32::NEG_INFINITY || *scores.add(*index) > least;
        order.extend((0..count).filter(passes).map(|index| index as u32));
        let score = |index: u32| *scores.add(index as usize);
        order.sort_unstable_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        let mut compared = 0;
        for &index in order.iter() {
            if kept.len() >= limit {
                break;
            }
            compared += kept.len();
            if compared > BETWEEN_LOOKS {
                compared = 0;
                if is_cancelled(worker) {
                    return Status::Cancelled;
                }
            }
            let numbers = boxes.add(index as usize * 4).cast::<[f32; 4]>().read_unaligned();
            let corners = Corners::of(numbers.map(f64::from), args.center_point_box != 0);
            if kept.iter().all(|better| better.overlap(&corners) <= overlap) {
                kept.push(corners);
                take(index as usize);
            }
        }
    }
    Status::Ok
}

impl Kernel for args::NonMaxSuppression {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        if worker.index != 0 {
            return Status::Ok;
        }
        let (classes, count) = (size(self.classes), size(self.boxes_count));
        // SAFETY: the contract of the builtin's row: no class gives more than `count` boxes.
        unsafe {
            let limit = match self.max_boxes.is_null() {
                true => 0,
                false => *self.max_boxes.cast::<i64>(),
            };
            let limit = size(limit).min(count);
            let (selected, mut found) = (self.selected.cast::<i64>(), 0);
            let mut selection = Selection { order: Vec::new(), kept: Vec::new() };
            for class in 0..size(self.batch) * classes {
                let take = |index: usize| {
                    let row = [class / classes, class % classes, index].map(|number| number as i64);
                    selected.add(3 * found).cast::<[i64; 3]>().write_unaligned(row);
                    found += 1;
                };
                let status = select(self, worker, class, limit, &mut selection, take);
                if status != Status::Ok {
                    return status;
                }
            }
            *self.found.cast::<i64>() = found as i64;
        }
        Status::Ok
    }
}
