//! From component planes to pixels: triangular upsampling and colours in 16 bits of fraction.

/// The samples of a component, smaller than the picture by whole factors.
pub(super) struct Plane<'a> {
    pub samples: &'a [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
    pub across: usize,
    pub down: usize,
}

impl Plane<'_> {
    fn line(&self, y: usize) -> &[u8] {
        let y = y.min(self.height - 1);
        &self.samples[y * self.stride..][..self.width]
    }

    /// Row `y` of the picture.
    pub fn row(&self, y: usize, out: &mut [u8]) {
        let own = y / self.down;
        let line = self.line(own);
        // The other row that a row between two is made of: the nearer one counts three times.
        let lower = y % 2 == 1;
        let other = self.line(if lower { own + 1 } else { own.saturating_sub(1) });
        match (self.across, self.down) {
            (2, 1) if self.width > 2 => doubled(line, out),
            (2, 2) if self.width > 2 => doubled_twice(line, other, out),
            (1, 2) => {
                let bias = if lower { 2 } else { 1 };
                for ((cell, &near), &far) in out.iter_mut().zip(line).zip(other) {
                    *cell = ((3 * u32::from(near) + u32::from(far) + bias) >> 2) as u8;
                }
            }
            (across, _) => out.iter_mut().enumerate().for_each(|(x, cell)| *cell = line[x / across]),
        }
    }
}

/// Twice the width: three parts of the nearer sample and one of the other.
fn doubled(line: &[u8], out: &mut [u8]) {
    let at = |x: usize| u32::from(line[x.min(line.len() - 1)]);
    for (x, cell) in out.iter_mut().enumerate() {
        let own = x / 2;
        *cell = match x % 2 {
            0 if own == 0 => at(0) as u8,
            0 => ((3 * at(own) + at(own - 1) + 1) >> 2) as u8,
            _ if own + 1 == line.len() => at(own) as u8,
            _ => ((3 * at(own) + at(own + 1) + 2) >> 2) as u8,
        };
    }
}

/// Twice the width of a row between two: nine parts, three, three and one.
fn doubled_twice(near: &[u8], far: &[u8], out: &mut [u8]) {
    let at = |x: usize| 3 * u32::from(near[x]) + u32::from(far[x]);
    for (x, cell) in out.iter_mut().enumerate() {
        let own = x / 2;
        *cell = match x % 2 {
            0 if own == 0 => ((4 * at(0) + 8) >> 4) as u8,
            0 => ((3 * at(own) + at(own - 1) + 8) >> 4) as u8,
            _ if own + 1 == near.len() => ((4 * at(own) + 7) >> 4) as u8,
            _ => ((3 * at(own) + at(own + 1) + 7) >> 4) as u8,
        };
    }
}

/// Red, green and blue of luminance and chroma (ITU-R BT.601, full range).
pub(super) fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const fn fixed(factor: f64) -> i32 {
        (factor * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((fixed(1.402) * cr + HALF) >> 16);
    let green = y + ((HALF - fixed(0.34414) * cb - fixed(0.71414) * cr) >> 16);
    let blue = y + ((fixed(1.772) * cb + HALF) >> 16);
    [red, green, blue].map(|channel| channel.clamp(0, 255) as u8)
}
