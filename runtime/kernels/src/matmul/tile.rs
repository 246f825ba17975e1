//! The microkernel: a tile of up to 16 rows and some panels of 32 columns, held in registers over all of `k`.
//!
//! Each element is one chain of multiply-adds over `k` in ascending order, whatever the size of the tile: that fixes its bits.

use crate::simd::{LANES, Simd, WithSimd, prefetch};

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Most rows of a tile in registers.
pub(crate) const ROWS: usize = 12;
/// Most rows of a tile.
pub(super) const MOST_ROWS: usize = 16;
/// Most panels of a tile.
pub(crate) const PANELS: usize = 4;
/// Elements from row to row where the left operand is copied row by row: [`DEPTH`] and a line that keeps rows out of
/// each other's cache sets.
pub(crate) const LEFT_STRIDE: usize = DEPTH + 16;
/// Most of `k` that is copied at a time.
pub(crate) const DEPTH: usize = 512;

/// How the left operand lies in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Row by row, [`LEFT_STRIDE`] apart.
    Rows,
    /// `[k][12]`.
    Columns,
    /// `[k][16]`, as [`lathe_artifact::layout::PackedConv`] has it.
    Blocks,
    /// Row by row, 64 apart.
    Scores,
}

/// The product of a tile: `c (+)= a x b`.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Length of the sums.
    pub(crate) k: usize,
    /// The left operand.
    pub(crate) a: *const f32,
    /// The layout of `a`.
    pub(crate) left: Left,
    /// The right operand: row `i` of panel `j` is at `b + j * b_panel + i * b_row`.
    pub(crate) b: *const f32,
    /// Elements from row to row of `b`.
    pub(crate) b_row: usize,
    /// Elements from panel to panel of `b`.
    pub(crate) b_panel: usize,
    /// The result: row `i` of panel `j` is at `c + j * c_panel + i * c_row`.
    pub(crate) c: *mut f32,
    /// Elements from row to row of `c`.
    pub(crate) c_row: usize,
    /// Elements from panel to panel of `c`.
    pub(crate) c_panel: usize,
    /// Go on from what `c` holds instead of 0.
    pub(crate) accumulate: bool,
}

/// How many panels a tile of `rows` rows should have, so that enough sums run side by side.
#[inline(always)]
pub(crate) fn panels_for<S: Simd>(rows: usize) -> usize {
    match (S::REGISTERS, rows) {
        (32.., 1) => 4,
        (32.., 2..=6) => 2,
        (8.., 1) => 2,
        _ => 1,
    }
}

impl Tile {
    /// Computes `rows` rows (1 to 16) of `panels` panels (1 to 4).
    ///
    /// # Safety
    /// `a` and `b` are readable and `c` writable for the tile by their strides: `c` for whole panels.
    #[inline(never)]
    pub(crate) unsafe fn multiply<S: Simd>(self, simd: S, rows: usize, panels: usize) {
        debug_assert!((1..=MOST_ROWS).contains(&rows) && (1..=PANELS).contains(&panels));
        // SAFETY: the parts below cover the tile that the caller vouches for.
        unsafe {
            match self.left {
                Left::Rows => self.split::<S, LEFT_STRIDE, 1, false>(simd, rows, panels, 0),
                Left::Columns => self.split::<S, 1, ROWS, false>(simd, rows, panels, 0),
                Left::Blocks => self.split::<S, 1, MOST_ROWS, false>(simd, rows, panels, 0),
                Left::Scores => self.split::<S, 64, 1, false>(simd, rows, panels, 0),
            }
        }
    }

    /// The same where the memory that holds `b` sets the pace, as with few rows: asks for what lies `ahead` elements behind
    /// each vector of `b` that it reads. Nothing need be there.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    #[inline(never)]
    pub(crate) unsafe fn stream<S: Simd>(self, simd: S, rows: usize, panels: usize, ahead: isize) {
        debug_assert!((1..=MOST_ROWS).contains(&rows) && (1..=PANELS).contains(&panels));
        // SAFETY: the parts below cover the tile that the caller vouches for.
        unsafe {
            match self.left {
                Left::Rows => self.split::<S, LEFT_STRIDE, 1, true>(simd, rows, panels, ahead),
                Left::Columns => self.split::<S, 1, ROWS, true>(simd, rows, panels, ahead),
                Left::Blocks => self.split::<S, 1, MOST_ROWS, false>(simd, rows, panels, 0),
                Left::Scores => self.split::<S, 64, 1, true>(simd, rows, panels, ahead),
            }
        }
    }

    /// [`stream`](Self::stream) where it is known what is read next.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    #[inline(always)]
    pub(crate) unsafe fn paced<S: Simd>(self, simd: S, rows: usize, panels: usize, ahead: Option<isize>) {
        // SAFETY: as the caller promises.
        unsafe {
            match ahead {
                Some(ahead) => self.stream(simd, rows, panels, ahead),
                None => self.multiply(simd, rows, panels),
            }
        }
    }

    /// Cuts the tile to what the registers hold.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    #[inline(always)]
    unsafe fn split<S: Simd, const A_ROW: usize, const A_STEP: usize, const AHEAD: bool>(
        self,
        simd: S,
        rows: usize,
        panels: usize,
        ahead: isize,
    ) {
        let one_row_of_two = S::REGISTERS >= 32 && (rows, panels) == (1, 2);
        if panels > 1 && (panels == panels_for::<S>(rows) || one_row_of_two) {
            // SAFETY: as the caller promises.
            unsafe { self.wide::<S, A_ROW, A_STEP, AHEAD>(simd, (rows, panels), ahead) };
            return;
        }
        for panel in 0..panels {
            // SAFETY: the panel lies in the tile.
            let tile = unsafe { self.part(0, A_ROW, panel, 0) };
            if const { S::REGISTERS >= 32 } {
                let parts = rows.div_ceil(ROWS);
                for part in 0..parts {
                    let (first, end) = (rows * part / parts, rows * (part + 1) / parts);
                    // SAFETY: rows of the tile.
                    unsafe {
                        let tile = tile.part(first, A_ROW, 0, 0);
                        tile.rows_of_32::<S, A_ROW, A_STEP, AHEAD>(simd, end - first, ahead);
                    }
                }
                continue;
            }
            let most = if const { S::REGISTERS >= 8 } { 6 } else { 2 };
            let parts = rows.div_ceil(most);
            for half in 0..2 {
                for part in 0..parts {
                    let (first, end) = (rows * part / parts, rows * (part + 1) / parts);
                    // SAFETY: rows and half a panel of the tile.
                    unsafe {
                        tile.part(first, A_ROW, 0, half * LANES).rows_of_16::<S, A_ROW, A_STEP, AHEAD>(
                            simd,
                            end - first,
                            ahead,
                        )
                    };
                }
            }
        }
    }

    /// The tile from `row`, `panel` and `column` on.
    ///
    /// # Safety
    /// They lie in the tile.
    #[inline(always)]
    unsafe fn part(self, row: usize, a_row: usize, panel: usize, column: usize) -> Tile {
        // SAFETY: the caller vouches for it.
        unsafe {
            Tile {
                a: self.a.add(row * a_row),
                b: self.b.add(panel * self.b_panel + column),
                c: self.c.add(panel * self.c_panel + row * self.c_row + column),
                ..self
            }
        }
    }

    /// Few rows over several panels.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply), with the panels of [`panels_for`], or one row of two panels.
    #[inline(always)]
    unsafe fn wide<S: Simd, const A_ROW: usize, const A_STEP: usize, const AHEAD: bool>(
        self,
        simd: S,
        (rows, panels): (usize, usize),
        ahead: isize,
    ) {
        if const { S::REGISTERS >= 32 } {
            match rows {
                1 if panels == 2 => simd.vectorize(Part::<1, 4, A_ROW, A_STEP, AHEAD>(self, ahead)),
                1 => simd.vectorize(Part::<1, 8, A_ROW, A_STEP, AHEAD>(self, ahead)),
                2 => simd.vectorize(Part::<2, 4, A_ROW, A_STEP, AHEAD>(self, ahead)),
                3 => simd.vectorize(Part::<3, 4, A_ROW, A_STEP, AHEAD>(self, ahead)),
                4 => simd.vectorize(Part::<4, 4, A_ROW, A_STEP, AHEAD>(self, ahead)),
                5 => simd.vectorize(Part::<5, 4, A_ROW, A_STEP, AHEAD>(self, ahead)),
                _ => simd.vectorize(Part::<6, 4, A_ROW, A_STEP, AHEAD>(self, ahead)),
            }
        } else if const { S::REGISTERS >= 8 } {
            simd.vectorize(Part::<1, 4, A_ROW, A_STEP, AHEAD>(self, ahead));
        }
    }

    /// One panel, for 32 registers.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    #[inline(always)]
    unsafe fn rows_of_32<S: Simd, const A_ROW: usize, const A_STEP: usize, const AHEAD: bool>(
        self,
        simd: S,
        rows: usize,
        ahead: isize,
    ) {
        match rows {
            1 => simd.vectorize(Part::<1, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            2 => simd.vectorize(Part::<2, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            3 => simd.vectorize(Part::<3, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            4 => simd.vectorize(Part::<4, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            5 => simd.vectorize(Part::<5, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            6 => simd.vectorize(Part::<6, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            7 => simd.vectorize(Part::<7, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            8 => simd.vectorize(Part::<8, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            9 => simd.vectorize(Part::<9, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            10 => simd.vectorize(Part::<10, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            11 => simd.vectorize(Part::<11, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
            _ => simd.vectorize(Part::<12, 2, A_ROW, A_STEP, AHEAD>(self, ahead)),
        }
    }

    /// Half a panel, for fewer registers.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply), of half a panel and at most 6 rows.
    #[inline(always)]
    unsafe fn rows_of_16<S: Simd, const A_ROW: usize, const A_STEP: usize, const AHEAD: bool>(
        self,
        simd: S,
        rows: usize,
        ahead: isize,
    ) {
        match rows {
            1 => return simd.vectorize(Part::<1, 1, A_ROW, A_STEP, AHEAD>(self, ahead)),
            2 => return simd.vectorize(Part::<2, 1, A_ROW, A_STEP, AHEAD>(self, ahead)),
            _ => {}
        }
        if const { S::REGISTERS < 8 } {
            return;
        }
        match rows {
            3 => simd.vectorize(Part::<3, 1, A_ROW, A_STEP, AHEAD>(self, ahead)),
            4 => simd.vectorize(Part::<4, 1, A_ROW, A_STEP, AHEAD>(self, ahead)),
            5 => simd.vectorize(Part::<5, 1, A_ROW, A_STEP, AHEAD>(self, ahead)),
            _ => simd.vectorize(Part::<6, 1, A_ROW, A_STEP, AHEAD>(self, ahead)),
        }
    }
}

/// A tile of exactly `R` rows and `V` vectors, two vectors a panel, and how far ahead it asks for `b` where `AHEAD`. Made only
/// by [`Tile`]'s unsafe methods.
struct Part<const R: usize, const V: usize, const A_ROW: usize, const A_STEP: usize, const AHEAD: bool>(
    Tile,
    isize,
);

impl<const R: usize, const V: usize, const A_ROW: usize, const A_STEP: usize, const AHEAD: bool> WithSimd
    for Part<R, V, A_ROW, A_STEP, AHEAD>
{
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let Tile { c, c_row, c_panel, .. } = self.0;
        // SAFETY: whoever made the part vouches for the tile: R rows of `c`, V vectors wide, and what is multiplied.
        unsafe {
            let sums = self.0.sums::<S, R, V, A_ROW, A_STEP, AHEAD>(simd, self.1);
            for (r, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    simd.store(c.add(v / 2 * c_panel + r * c_row + v % 2 * LANES), *sum);
                }
            }
        }
    }
}

impl Tile {
    /// The sums of exactly `R` rows and `V` vectors, in registers. Asks for what lies `ahead` elements behind each vector of `b` where `AHEAD`,
    /// and behind the elements of `a` where these are blocks.
    ///
    /// # Safety
    /// R rows of `a` by A_ROW and A_STEP and k rows of `b`, V vectors wide, are readable, and `c` where sums go on.
    #[inline(always)]
    pub(super) unsafe fn sums<
        S: Simd,
        const R: usize,
        const V: usize,
        const A_ROW: usize,
        const A_STEP: usize,
        const AHEAD: bool,
    >(
        self,
        simd: S,
        ahead: isize,
    ) -> [[S::F; V]; R] {
        let Tile { k, mut a, mut b, b_row, b_panel, c, c_row, c_panel, accumulate, .. } = self;
        let mut sums = [[simd.splat(0.0); V]; R];
        // SAFETY: the caller's promise.
        unsafe {
            if accumulate {
                for (r, row) in sums.iter_mut().enumerate() {
                    for (v, sum) in row.iter_mut().enumerate() {
                        *sum = simd.load(c.add(v / 2 * c_panel + r * c_row + v % 2 * LANES));
                    }
                }
            }
            for _ in 0..k {
                let mut right = [simd.splat(0.0); V];
                for (v, right) in right.iter_mut().enumerate() {
                    let at = b.add(v / 2 * b_panel + v % 2 * LANES);
                    *right = simd.load(at);
                    if AHEAD {
                        prefetch(at.wrapping_offset(ahead));
                    }
                }
                for (r, row) in sums.iter_mut().enumerate() {
                    let left = simd.splat(*a.add(r * A_ROW));
                    for (sum, right) in row.iter_mut().zip(right) {
                        *sum = simd.fma(left, right, *sum);
                    }
                }
                if A_STEP == MOST_ROWS {
                    prefetch(a.wrapping_offset(ahead));
                }
                a = a.wrapping_add(A_STEP);
                b = b.wrapping_add(b_row);
            }
        }
        sums
    }
}
