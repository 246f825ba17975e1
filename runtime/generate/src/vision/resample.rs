//! Resizing pictures as Pillow does: what models were trained on.
//!
//! Two passes, rows first, each rounded to bytes. Where a picture shrinks the filter widens with it, so that every pixel counts.
//! Weights are fixed-point numbers of 22 bits.

/// An RGB picture, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue, a byte each.
    pub pixels: Vec<u8>,
}

/// How pixels between pixels are found: the numbers that Pillow gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// 0: the nearest pixel.
    Nearest,
    /// 1: Lanczos, three lobes.
    Lanczos,
    /// 2: a triangle.
    Bilinear,
    /// 3: the cubic with a = -0.5.
    Bicubic,
    /// 4: the average.
    Box,
}

impl Filter {
    /// The filter of a number in `preprocessor_config.json`.
    pub fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            _ => return None,
        })
    }

    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        let sinc = |x: f64| {
            if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
        };
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0,
            Self::Bicubic => 0.0,
            Self::Lanczos if distance < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// Which pixels a new pixel is made of, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i64>,
}

const BITS: u32 = 22;

fn taps(filter: Filter, old: usize, new: usize) -> Vec<Taps> {
    let scale = old as f64 / new as f64;
    let widen = scale.max(1.0);
    let support = filter.support() * widen;
    let tap = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5).max(0.0) as usize).min(old);
        let weights = (first..end).map(|pixel| filter.weight((pixel as f64 - center + 0.5) / widen));
        let weights: Vec<f64> = weights.collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / total * f64::from(1u32 << BITS)).round() as i64;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..new).map(tap).collect()
}

fn mix(taps: &Taps, pixel: impl Fn(usize) -> u8) -> u8 {
    let half = 1i64 << (BITS - 1);
    let weighted = taps.weights.iter().enumerate();
    let sum = weighted.fold(half, |sum, (index, weight)| sum + i64::from(pixel(taps.first + index)) * weight);
    (sum >> BITS).clamp(0, 255) as u8
}

impl Picture {
    /// The picture at another size.
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Self {
        if filter == Filter::Nearest {
            return self.nearest(width, height);
        }
        let wide = if width == self.width { self.clone() } else { self.resize_rows(width, filter) };
        if height == wide.height {
            return wide;
        }
        let taps = taps(filter, wide.height, height);
        let mut pixels = Vec::with_capacity(width * height * 3);
        for tap in &taps {
            pixels.extend((0..width * 3).map(|place| mix(tap, |row| wide.pixels[row * width * 3 + place])));
        }
        Self { width, height, pixels }
    }

    fn resize_rows(&self, width: usize, filter: Filter) -> Self {
        let taps = taps(filter, self.width, width);
        let mut pixels = Vec::with_capacity(width * self.height * 3);
        for row in self.pixels.chunks_exact(self.width * 3) {
            for tap in &taps {
                pixels.extend((0..3).map(|channel| mix(tap, |pixel| row[pixel * 3 + channel])));
            }
        }
        Self { width, height: self.height, pixels }
    }

    fn nearest(&self, width: usize, height: usize) -> Self {
        let place = |index: usize, old: usize, new: usize| {
            (((index as f64 + 0.5) * old as f64 / new as f64) as usize).min(old - 1)
        };
        let mut pixels = Vec::with_capacity(width * height * 3);
        for row in 0..height {
            let row = place(row, self.height, height) * self.width;
            for column in 0..width {
                let start = (row + place(column, self.width, width)) * 3;
                pixels.extend_from_slice(&self.pixels[start..start + 3]);
            }
        }
        Self { width, height, pixels }
    }

    /// The middle of the picture; black where it is smaller.
    pub fn crop(&self, width: usize, height: usize) -> Self {
        let mut pixels = vec![0; width * height * 3];
        let (top, left) = (
            (self.height as i64 - height as i64).div_euclid(2),
            (self.width as i64 - width as i64).div_euclid(2),
        );
        for row in 0..height as i64 {
            for column in 0..width as i64 {
                let (y, x) = (row + top, column + left);
                if (0..self.height as i64).contains(&y) && (0..self.width as i64).contains(&x) {
                    let from = (y as usize * self.width + x as usize) * 3;
                    let to = (row as usize * width + column as usize) * 3;
                    pixels[to..to + 3].copy_from_slice(&self.pixels[from..from + 3]);
                }
            }
        }
        Self { width, height, pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: usize, rows: &[&[u8]]) -> Picture {
        let pixels = rows.concat().iter().flat_map(|value| [*value; 3]).collect();
        Picture { width, height: rows.len(), pixels }
    }

    fn row(picture: &Picture) -> Vec<u8> {
        picture.pixels.iter().step_by(3).copied().collect()
    }

    #[test]
    fn shrinking_counts_every_pixel() {
        let picture = gray(4, &[&[0, 100, 200, 100]]);
        // Weights of the triangle of half-width 2 at the centre 1: 0.75, 0.75, 0.25 of 1.75; at 3 the mirror image.
        assert_eq!(row(&picture.resize(2, 1, Filter::Bilinear)), [71, 143]);
        assert_eq!(row(&picture.resize(2, 1, Filter::Box)), [50, 150]);
        assert_eq!(row(&picture.resize(2, 1, Filter::Nearest)), [100, 100]);
    }

    #[test]
    fn growing_keeps_flat_pictures_and_interpolates_steps() {
        let flat = Picture { width: 5, height: 3, pixels: vec![77; 45] };
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos, Filter::Box, Filter::Nearest] {
            assert!(flat.resize(11, 2, filter).pixels.iter().all(|value| *value == 77), "{filter:?}");
        }
        let step = gray(2, &[&[0, 100]]);
        assert_eq!(row(&step.resize(4, 1, Filter::Bilinear)), [0, 25, 75, 100]);
        // The cubic at distances 0.75 and 0.25 beyond the edge pixel, of what lies inside.
        let cubic = row(&step.resize(4, 1, Filter::Bicubic));
        assert!(cubic[0] == 0 && cubic[3] == 109 && cubic[1] < 25 && cubic[2] > 75, "{cubic:?}");
        let tall = gray(1, &[&[0], &[100]]);
        assert_eq!(row(&tall.resize(1, 4, Filter::Bilinear)), [0, 25, 75, 100]);
    }

    #[test]
    fn the_middle_is_cut_out() {
        let picture = gray(4, &[&[1, 2, 3, 4], &[5, 6, 7, 8], &[9, 10, 11, 12]]);
        assert_eq!(row(&picture.crop(2, 1)), [6, 7]);
        assert_eq!(row(&picture.crop(6, 1)), [0, 5, 6, 7, 8, 0]);
    }
}
