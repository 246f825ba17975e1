//! One axis of a resampling: where output cells lie in the input, and which input cells they weigh.

use std::ops::Range;

use super::{AxisPlan, Coordinates, Mode, Resize, Rounding};

/// What each output cell of an axis shows.
#[derive(Default)]
pub(super) struct Samples {
    weights: Vec<(usize, f64)>,
    /// Where each cell's weights stand; `None` where the cell lies outside the region.
    ranges: Vec<Option<Range<usize>>>,
}

/// One output cell.
pub(super) enum Sample<'a> {
    /// It lies outside the region.
    Outside,
    /// Input cells and their weights.
    Inside(&'a [(usize, f64)]),
}

impl Samples {
    pub fn push(&mut self, weights: Option<Vec<(usize, f64)>>) {
        let start = self.weights.len();
        self.ranges.push(weights.map(|weights| {
            self.weights.extend(weights);
            start..self.weights.len()
        }));
    }

    pub fn at(&self, output: usize) -> Sample<'_> {
        match &self.ranges[output] {
            Some(range) => Sample::Inside(&self.weights[range.clone()]),
            None => Sample::Outside,
        }
    }
}

impl Resize {
    /// The place of output cell `o` on the input axis; `None` outside the region of `tf_crop_and_resize`.
    fn place(&self, plan: &AxisPlan, o: usize) -> Option<f64> {
        let (o, size, scale) = (o as f64, plan.input as f64, plan.scale);
        // Not rounded: it is the ideal size that the ends are aligned to.
        let length = scale * size;
        Some(match self.coordinates {
            Coordinates::HalfPixel => (o + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let offset = size / 2.0 * (1.0 - plan.output as f64 / length);
                offset + (o + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel if length <= 1.0 => 0.0,
            Coordinates::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            Coordinates::AlignCorners if length == 1.0 => 0.0,
            Coordinates::AlignCorners => o * (size - 1.0) / (length - 1.0),
            Coordinates::Asymmetric => o / scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = plan.region;
                let within = match length == 1.0 {
                    true => (end - start) * (size - 1.0) / 2.0,
                    false => o * (end - start) * (size - 1.0) / (length - 1.0),
                };
                let place = start * (size - 1.0) + within;
                if !(0.0..=size - 1.0).contains(&place) {
                    return None;
                }
                place
            }
        })
    }

    /// The input cell that output cell `o` shows; `None` outside.
    pub(super) fn nearest_place(&self, plan: &AxisPlan, o: usize) -> Option<usize> {
        let place = self.place(plan, o)?;
        let cell = match self.rounding {
            Rounding::Floor => place.floor(),
            Rounding::Ceil => place.ceil(),
            Rounding::RoundPreferFloor => (place - 0.5).ceil(),
            Rounding::RoundPreferCeil => (place + 0.5).floor(),
        };
        // `as` saturates, so that any place ends in the axis.
        Some((cell as usize).min(plan.input - 1))
    }

    /// The input cells that output cell `o` weighs; `None` outside.
    pub(super) fn sample(&self, plan: &AxisPlan, o: usize) -> Option<Vec<(usize, f64)>> {
        let place = self.place(plan, o)?;
        let floor = place.floor();
        // Of the two cells around a place the left one counts as nearer.
        let (base, ratio) = if floor == place { (place - 1.0, 1.0) } else { (floor, place - floor) };
        let shrink = if self.antialias { plan.scale.min(1.0) } else { 1.0 };
        let reach = if self.mode == Mode::Cubic { 2.0 } else { 1.0 };
        let start = (-reach / shrink).floor() as i64 + 1;
        let mut weights: Vec<(i64, f64)> = (start..2 - start)
            .map(|i| ((base as i64).saturating_add(i), self.kernel(shrink * (i as f64 - ratio))))
            .collect();
        let last = plan.input as i64 - 1;
        if self.exclude_outside {
            weights.iter_mut().filter(|(cell, _)| !(0..=last).contains(cell)).for_each(|(_, w)| *w = 0.0);
        }
        if self.exclude_outside || self.antialias {
            let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            weights.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        let kept = weights.into_iter().filter(|&(_, weight)| weight != 0.0);
        Some(kept.map(|(cell, weight)| (cell.clamp(0, last) as usize, weight)).collect())
    }

    /// The weight of a cell at a distance from the place.
    fn kernel(&self, distance: f64) -> f64 {
        let x = distance.abs();
        let a = f64::from(self.cubic_coefficient);
        match self.mode {
            Mode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Mode::Cubic if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Mode::Cubic => 0.0,
            _ => (1.0 - x).max(0.0),
        }
    }
}
