//! Resampling of one axis in any mode, and the sizes and scales that a resampling takes from data.

use std::ops::Range;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{ResizeMode, ResizePolicy, args};
use lathe_artifact::layout::resize::{Coordinate, Rounding};

use crate::kernel::{Kernel, size};
use crate::simd::{LANES, Simd};

/// How the axis is resampled (ONNX Resize-19).
struct Axis {
    input: usize,
    output: usize,
    /// Output cells per input cell.
    scale: f64,
    /// The part of the input that `tf_crop_and_resize` shows, in fractions.
    region: (f64, f64),
    mode: ResizeMode,
    coordinate: Coordinate,
    rounding: Rounding,
    cubic: f64,
    antialias: bool,
    exclude_outside: bool,
}

/// Output cells whose taps are computed once, before all lines; of a longer axis they are computed cell by cell.
const MOST_KEPT: usize = 1 << 16;

/// Input cells with their weights.
type Cells = Vec<(u32, f32)>;

/// The input cells of every output cell.
struct Taps {
    /// Those of one cell.
    found: Cells,
    /// Those of all cells, and where each cell's stand; `None` for a cell outside the region.
    kept: Option<(Cells, Vec<Option<Range<usize>>>)>,
}

impl Taps {
    /// `None` where there is no memory.
    fn of(axis: &Axis) -> Option<Self> {
        let mut found = Vec::new();
        if axis.output > MOST_KEPT {
            return Some(Self { found, kept: None });
        }
        let (mut cells, mut ranges) = (Vec::new(), Vec::new());
        ranges.try_reserve_exact(axis.output).ok()?;
        for o in 0..axis.output {
            let Some(place) = axis.place(o) else {
                ranges.push(None);
                continue;
            };
            axis.sample(place, &mut found);
            cells.try_reserve(found.len()).ok()?;
            cells.extend_from_slice(&found);
            ranges.push(Some(cells.len() - found.len()..cells.len()));
        }
        Some(Self { found, kept: Some((cells, ranges)) })
    }

    /// Those of output cell `o`; `None` outside the region.
    #[inline(always)]
    fn at(&mut self, axis: &Axis, o: usize) -> Option<&[(u32, f32)]> {
        match &self.kept {
            Some((cells, ranges)) => ranges[o].clone().map(|range| &cells[range]),
            None => {
                axis.sample(axis.place(o)?, &mut self.found);
                Some(&self.found)
            }
        }
    }
}

impl Axis {
    /// The place of output cell `o` on the input axis; `None` outside the region.
    fn place(&self, o: usize) -> Option<f64> {
        let (o, input, scale) = (o as f64, self.input as f64, self.scale);
        // Not rounded: it is the ideal size that the ends are aligned to.
        let length = scale * input;
        let half_pixel = (o + 0.5) / scale - 0.5;
        Some(match self.coordinate {
            Coordinate::HalfPixel => half_pixel,
            Coordinate::HalfPixelSymmetric => {
                let offset = input / 2.0 * (1.0 - self.output as f64 / length);
                offset + (o + 0.5) / scale - 0.5
            }
            Coordinate::PytorchHalfPixel if length <= 1.0 => 0.0,
            Coordinate::PytorchHalfPixel => half_pixel,
            Coordinate::AlignCorners if length == 1.0 => 0.0,
            Coordinate::AlignCorners => o * (input - 1.0) / (length - 1.0),
            Coordinate::Asymmetric => o / scale,
            Coordinate::TfCropAndResize => {
                let (start, end) = self.region;
                let within = match length == 1.0 {
                    true => (end - start) * (input - 1.0) / 2.0,
                    false => o * (end - start) * (input - 1.0) / (length - 1.0),
                };
                let place = start * (input - 1.0) + within;
                return (0.0..=input - 1.0).contains(&place).then_some(place);
            }
        })
    }

    /// The weight of a cell at a distance from the place.
    fn kernel(&self, distance: f64) -> f64 {
        let (x, a) = (distance.abs(), self.cubic);
        match self.mode {
            ResizeMode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            ResizeMode::Cubic if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            ResizeMode::Cubic => 0.0,
            _ => (1.0 - x).max(0.0),
        }
    }

    /// The nearest cell to a place.
    fn nearest(&self, place: f64) -> usize {
        let cell = match self.rounding {
            Rounding::Floor => place.floor(),
            Rounding::Ceil => place.ceil(),
            Rounding::RoundPreferFloor => (place - 0.5).ceil(),
            Rounding::RoundPreferCeil => (place + 0.5).floor(),
        };
        // `as` saturates, so that any place ends in the axis.
        (cell as usize).min(self.input - 1)
    }

    /// Cells and weights around a place; what was in `found` is dropped.
    fn sample(&self, place: f64, found: &mut Cells) {
        found.clear();
        if self.mode == ResizeMode::Nearest {
            found.push((self.nearest(place) as u32, 1.0));
            return;
        }
        let floor = place.floor();
        // Of the two cells around a place the left one counts as nearer.
        let (base, ratio) = if floor == place { (place - 1.0, 1.0) } else { (floor, place - floor) };
        let shrink = if self.antialias { self.scale.min(1.0) } else { 1.0 };
        let reach = if self.mode == ResizeMode::Cubic { 2.0 } else { 1.0 };
        let start = (-reach / shrink).floor() as i64 + 1;
        let last = self.input as i64 - 1;
        let mut sum = 0.0;
        for i in start..2 - start {
            let cell = (base as i64).saturating_add(i);
            let mut weight = self.kernel(shrink * (i as f64 - ratio));
            if self.exclude_outside && !(0..=last).contains(&cell) {
                weight = 0.0;
            }
            sum += weight;
            if weight != 0.0 {
                found.push((cell.clamp(0, last) as u32, weight as f32));
            }
        }
        if (self.exclude_outside || self.antialias) && sum != 0.0 {
            found.iter_mut().for_each(|(_, weight)| *weight = (f64::from(*weight) / sum) as f32);
        }
    }
}

/// One output cell of all columns: `y[i] = sum of weights * x[cell, i]`.
///
/// # Safety
/// `x` holds an axis of rows of `inner` elements, `y` one row.
#[inline(always)]
unsafe fn blend<S: Simd>(simd: S, x: *const f32, y: *mut f32, inner: usize, taps: &[(u32, f32)]) {
    let mut at = 0;
    while at < inner {
        let count = (inner - at).min(LANES);
        let mut sum = simd.splat(0.0);
        for &(cell, weight) in taps {
            // SAFETY: cells are inside the axis, `at + count` is at most `inner`.
            let v = unsafe { simd.load_some(x.add(cell as usize * inner + at), count) };
            sum = simd.fma(v, simd.splat(weight), sum);
        }
        // SAFETY: as above.
        unsafe { simd.store_some(y.add(at), count, sum) };
        at += LANES;
    }
}

/// Linear resampling of the last of three axes as onnxruntime computes it: a cube of eight cells in f32, of which axes that stay as they are
/// give a cell and nothing of the next, or, behind their last place, half of the cell twice.
struct Cube {
    scale: f32,
    input: usize,
    coordinate: Coordinate,
    /// Places of the first and of the second axis.
    places: [usize; 2],
}

impl Cube {
    /// The two cells of output cell `o`, and their weights.
    fn cells(&self, o: usize) -> ([usize; 2], [f32; 2]) {
        let (o, input, scale) = (o as f32, self.input as f32, self.scale);
        let length = scale * input;
        let place = match self.coordinate {
            _ if scale == 1.0 => o,
            Coordinate::PytorchHalfPixel if length <= 1.0 => 0.0,
            Coordinate::AlignCorners if length == 1.0 => 0.0,
            Coordinate::AlignCorners => o * (input - 1.0) / (length - 1.0),
            Coordinate::Asymmetric => o / scale,
            _ => (o + 0.5) / scale - 0.5,
        };
        let place = place.clamp(0.0, input - 1.0);
        let first = (place as usize).min(self.input - 1);
        let next = (first + 1).min(self.input - 1);
        let weights = match first == next {
            true => [0.5; 2],
            false => [(place - next as f32).abs(), (place - first as f32).abs()],
        };
        ([first, next], weights)
    }

    /// Resamples row `row`.
    ///
    /// # Safety
    /// `x` holds the row, `y` its result.
    unsafe fn row(&self, row: usize, cell: usize, x: *const f32, y: *mut f32) {
        let [depth, height] = self.places;
        let halved = usize::from(row / height + 1 == depth) + usize::from(row % height + 1 == height);
        let part = [1.0, 0.5, 0.25][halved];
        let ([first, next], [near, far]) = self.cells(cell);
        // SAFETY: the cells lie in the row.
        unsafe {
            let (near, far) = (near * part * *x.add(first), far * part * *x.add(next));
            let mut sum = near + far;
            for _ in 1..1 << halved {
                sum = sum + near + far;
            }
            *y = sum;
        }
    }
}

/// # Safety
/// `scales` and `region` are null or hold the elements that the places name.
unsafe fn axis(args: &args::ResizeAxis) -> Option<Axis> {
    // SAFETY: the caller's promise.
    let (scale, region) = unsafe {
        let scale = match args.scales.is_null() {
            true => args.scale,
            false => *args.scales.cast::<f64>().add(size(args.scale_place)),
        };
        let bound = |place: i64| f64::from(*args.region.cast::<f32>().add(size(place)));
        let region = match args.region.is_null() {
            true => (0.0, 1.0),
            false => (bound(args.region_start), bound(args.region_end)),
        };
        (scale, region)
    };
    Some(Axis {
        input: size(args.n),
        output: size(args.out),
        scale: if scale == 0.0 { args.out as f64 / args.n as f64 } else { scale },
        region,
        mode: ResizeMode::from_code(args.mode)?,
        coordinate: Coordinate::from_code(args.coordinate)?,
        rounding: Rounding::from_code(args.rounding)?,
        cubic: args.cubic,
        antialias: args.antialias != 0,
        exclude_outside: args.exclude_outside != 0,
    })
}

impl Kernel for args::ResizeAxis {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        // SAFETY: the contract of the builtin's row.
        let Some(axis) = (unsafe { axis(self) }) else { return Status::Internal };
        let (outer, inner, bytes) = (size(self.outer), size(self.inner), size(self.element_bytes));
        if outer * inner * axis.output == 0 {
            return Status::Ok;
        }
        if axis.input == 0 || axis.input > u32::MAX as usize || !axis.scale.is_finite() || axis.scale <= 0.0 {
            return Status::BadShape;
        }
        let copies = axis.mode == ResizeMode::Nearest;
        if !matches!(bytes, 1 | 2 | 4 | 8) || (!copies && bytes != 4) {
            return Status::Internal;
        }
        let rows = size(self.rows);
        if rows > 0 && axis.mode == ResizeMode::Linear && inner == 1 && bytes == 4 && outer % rows == 0 {
            let cube = Cube {
                scale: axis.scale as f32,
                input: axis.input,
                coordinate: axis.coordinate,
                places: [outer / rows, rows],
            };
            for unit in worker.share(outer * axis.output, 8) {
                let row = unit / axis.output;
                // SAFETY: `x` holds `outer` rows of the input, `y` of the output.
                unsafe {
                    let x = self.x.cast::<f32>().add(row * axis.input);
                    cube.row(row, unit % axis.output, x, self.y.cast::<f32>().add(unit));
                }
            }
            return Status::Ok;
        }
        let Some(mut taps) = Taps::of(&axis) else { return Status::OutOfMemory };
        for unit in worker.share(outer * axis.output, 8) {
            let (o, cell) = (unit / axis.output, unit % axis.output);
            // SAFETY: `x` holds `outer * n * inner` elements, `y` `outer * out * inner`.
            unsafe {
                let (x, y) = (self.x.add(o * axis.input * inner * bytes), self.y.add(unit * inner * bytes));
                match taps.at(&axis, cell) {
                    None if bytes == 4 => {
                        let y = y.cast::<f32>();
                        (0..inner).for_each(|i| *y.add(i) = self.extrapolation as f32);
                    }
                    None => return Status::Internal,
                    Some(taps) if copies => {
                        let from = x.add(taps[0].0 as usize * inner * bytes);
                        from.copy_to_nonoverlapping(y, inner * bytes);
                    }
                    Some(taps) => blend(simd, x.cast(), y.cast(), inner, taps),
                }
            }
        }
        Status::Ok
    }
}

/// The list of one number an axis, as f64.
///
/// # Safety
/// It holds `count` elements.
unsafe fn given(args: &args::ResizeSizes, index: usize) -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        match (args.scaled != 0, args.element_bytes) {
            (true, _) => f64::from(*args.given.cast::<f32>().add(index)),
            (false, 4) => f64::from(*args.given.cast::<i32>().add(index)),
            (false, _) => *args.given.cast::<i64>().add(index) as f64,
        }
    }
}

impl Kernel for args::ResizeSizes {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let Some(policy) = ResizePolicy::from_code(self.policy) else { return Status::Internal };
        if worker.index != 0 {
            return Status::Ok;
        }
        let (rank, sizes, scales) = (size(self.rank), self.sizes.cast::<i64>(), self.scales.cast::<f64>());
        let kept = |scales: &mut dyn Iterator<Item = f64>| match policy {
            ResizePolicy::Stretch => None,
            ResizePolicy::NotLarger => Some(scales.fold(f64::INFINITY, f64::min)),
            ResizePolicy::NotSmaller => Some(scales.fold(0.0, f64::max)),
        };
        // SAFETY: there are `rank` places, sizes and results, and as many numbers as the places name.
        unsafe {
            let place = |axis: usize| usize::try_from(*self.places.add(axis)).ok();
            let input = |axis: usize| *self.in_sizes.add(axis) as f64;
            let asked = |axis: usize| place(axis).map(|place| given(self, place));
            let mut ratios = (0..rank).filter_map(|axis| Some(asked(axis)? / input(axis)));
            let common = if self.scaled == 0 { kept(&mut ratios) } else { None };
            for axis in 0..rank {
                let (scale, size) = match (asked(axis), common) {
                    (None, _) => (1.0, input(axis)),
                    (Some(scale), _) if self.scaled != 0 => (scale, (scale * input(axis)).floor()),
                    (Some(_), Some(scale)) => (scale, (scale * input(axis) + 0.5).floor()),
                    (Some(size), None) if size == input(axis) => (1.0, size),
                    (Some(size), None) => (size / input(axis), size),
                };
                // Sizes that no memory holds are refused where they are allocated.
                let fits = size >= 0.0 && size < (1u64 << 53) as f64;
                if !fits || (size > 0.0 && input(axis) == 0.0) || (scale.is_nan() && size > 0.0) {
                    return Status::BadShape;
                }
                (*sizes.add(axis), *scales.add(axis)) = (size as i64, scale);
            }
        }
        Status::Ok
    }
}
